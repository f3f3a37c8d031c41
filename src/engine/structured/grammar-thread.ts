/** The threads of structured output: one compiles grammars, another hosts the matchers of those that are compiled. */
import type { Network } from './byte-grammar.ts'
import type { GrammarAnswer, GrammarCall, GrammarVocabulary } from './grammar-protocol.ts'
import { builtEntry } from '../threads/built-entry.ts'
import { KillableThread } from '../threads/killable-thread.ts'
import { Unenforceable } from './unenforceable.ts'

type GrammarThread = KillableThread<GrammarCall, GrammarAnswer>

/** null: it only compiles. Calls reject with Unenforceable for what cannot be had. */
export function startGrammarThread(vocabulary: GrammarVocabulary | null): GrammarThread {
  return new KillableThread({
    name: 'the grammar thread',
    entry: builtEntry('structured/grammar-worker'),
    workerData: vocabulary,
    toError: (refusal) => new Unenforceable(String(refusal)),
  })
}

/** Loads compiled grammars into a thread of its own and creates matchers there. */
export class MatcherHost {
  readonly #thread: GrammarThread
  #nextMatcher = 0

  constructor(vocabulary: GrammarVocabulary) {
    this.#thread = startGrammarThread(vocabulary)
  }

  /** Its grammars are gone. */
  get isEnded(): boolean {
    return this.#thread.isEnded
  }

  async load(key: string, network: Network): Promise<void> {
    await this.#thread.call({ kind: 'load', key, network })
  }

  drop(key: string): void {
    this.#thread.notify({ kind: 'drop', key })
  }

  /** A matcher of a grammar that was loaded here. */
  async createMatcher(key: string): Promise<ThreadMatcher> {
    const matcher = this.#nextMatcher++
    await this.#thread.call({ kind: 'create', key, matcher })
    return new ThreadMatcher(
      async (tokens) => (await this.#thread.call({ kind: 'mask', matcher, tokens })).mask ?? new Uint32Array(0),
      () => this.#thread.notify({ kind: 'close', matcher }),
    )
  }

  /** Idempotent. */
  close(): Promise<void> {
    return this.#thread.close()
  }
}

/** Follows one sequence through its grammar. */
class ThreadMatcher {
  readonly #ask: (tokens: readonly number[]) => Promise<Uint32Array>
  readonly #release: () => void
  #tokens: number[] = []
  #isClosed = false

  constructor(ask: (tokens: readonly number[]) => Promise<Uint32Array>, release: () => void) {
    this.#ask = ask
    this.#release = release
  }

  accept(token: number): void {
    this.#tokens.push(token)
  }

  mask(): Promise<Uint32Array> {
    const tokens = this.#tokens
    this.#tokens = []
    return this.#ask(tokens)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#release()
  }
}
