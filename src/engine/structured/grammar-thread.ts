/** The threads of structured output: one compiles grammars, the other hosts their matchers. */
import type { Network } from './byte-grammar.ts'
import type { GrammarAnswer, GrammarCall, GrammarMatcher, GrammarVocabulary } from './grammar-protocol.ts'
import { builtEntry } from '../threads/built-entry.ts'
import { KillableThread } from '../threads/killable-thread.ts'
import { Unenforceable } from './unenforceable.ts'

type GrammarThread = KillableThread<GrammarCall, GrammarAnswer>

/** Starts a thread. Without a vocabulary it only compiles. Calls reject with Unenforceable for constraints that cannot be enforced. */
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

  /** Whether the thread has ended and lost its grammars. */
  get isEnded(): boolean {
    return this.#thread.isEnded
  }

  async load(key: string, network: Network): Promise<void> {
    await this.#thread.call({ kind: 'load', key, network })
  }

  drop(key: string): void {
    this.#thread.notify({ kind: 'drop', key })
  }

  /** Creates a matcher of a loaded grammar, for one sequence. */
  async createMatcher(key: string): Promise<GrammarMatcher> {
    const matcher = this.#nextMatcher++
    await this.#thread.call({ kind: 'create', key, matcher })
    let tokens: number[] = []
    let isClosed = false
    return {
      accept: (token) => void tokens.push(token),
      mask: async () => {
        const call = { kind: 'mask', matcher, tokens } as const
        tokens = []
        return (await this.#thread.call(call)).mask ?? new Uint32Array(0)
      },
      close: () => {
        if (!isClosed) this.#thread.notify({ kind: 'close', matcher })
        isClosed = true
      },
    }
  }

  /** Idempotent. */
  close(): Promise<void> {
    return this.#thread.close()
  }
}
