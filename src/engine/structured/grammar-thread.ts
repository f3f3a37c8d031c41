/** A thread that compiles grammars, or hosts their matchers. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import type {
  GrammarAnswer,
  GrammarCall,
  GrammarRequest,
  GrammarResponse,
  GrammarVocabulary,
} from './grammar-protocol.ts'
import type { Network } from './byte-grammar.ts'
import type { GrammarSource } from './grammar-source.ts'
import { Unenforceable } from './unenforceable.ts'

/** As for the runner's worker: the built entry when this module runs from src/ (tests). */
function workerEntry(): URL {
  if (!import.meta.url.endsWith('.ts')) return new URL('./grammar-worker.js', import.meta.url)
  const entry = new URL('../../../dist/engine/structured/grammar-worker.js', import.meta.url)
  if (!existsSync(fileURLToPath(entry))) throw new Error(`${fileURLToPath(entry)} not found: run npm run build first`)
  return entry
}

interface PendingCall {
  resolve(answer: GrammarAnswer): void
  reject(error: Error): void
}

export class GrammarThread {
  readonly #worker: Worker
  readonly #pending = new Map<number, PendingCall>()
  #nextId = 0
  #nextMatcher = 0
  /** Why it takes no more calls. */
  #ended: Error | null = null

  /** null: it only compiles. */
  constructor(vocabulary: GrammarVocabulary | null) {
    this.#worker = new Worker(workerEntry(), { execArgv: [], workerData: vocabulary })
    // It has nothing to finish: what waits for it keeps the process alive, or nothing does.
    this.#worker.unref()
    this.#worker.on('message', (response: GrammarResponse) => this.#receive(response))
    this.#worker.on('error', (error) => this.#end(new Error(`the grammar thread failed: ${error.message}`)))
    this.#worker.on('exit', () => this.#end(new Error('the grammar thread ended')))
  }

  /** No call is answered any more. */
  get isEnded(): boolean {
    return this.#ended !== null
  }

  /** Rejects with Unenforceable for what cannot be had. */
  async compile(source: GrammarSource): Promise<{ readonly network: Network; readonly warnings: readonly string[] }> {
    const { compiled } = await this.#call({ kind: 'compile', source })
    if (compiled === undefined) throw new Error('the grammar thread compiled nothing')
    return compiled
  }

  async load(key: string, network: Network): Promise<void> {
    await this.#call({ kind: 'load', key, network })
  }

  drop(key: string): void {
    this.#notify({ kind: 'drop', key })
  }

  /** A matcher of a grammar that was loaded here. */
  async createMatcher(key: string): Promise<ThreadMatcher> {
    const matcher = this.#nextMatcher++
    await this.#call({ kind: 'create', key, matcher })
    return new ThreadMatcher(
      async (tokens) => (await this.#call({ kind: 'mask', matcher, tokens })).mask ?? new Uint32Array(0),
      () => this.#notify({ kind: 'close', matcher }),
    )
  }

  /** Ends the thread, in the middle of a compilation too; what is in flight rejects with the reason. Idempotent. */
  async close(reason = new Error('the grammar thread was closed')): Promise<void> {
    this.#end(reason)
    await this.#worker.terminate()
  }

  #call(call: GrammarCall): Promise<GrammarAnswer> {
    if (this.#ended !== null) return Promise.reject(this.#ended)
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject })
      this.#worker.postMessage({ id, call } satisfies GrammarRequest, [])
    })
  }

  /** A call whose end nobody waits for; on a thread that ended there is nothing left to do. */
  #notify(call: GrammarCall): void {
    this.#call(call).catch(() => {})
  }

  #receive(response: GrammarResponse): void {
    const pending = this.#pending.get(response.id)
    this.#pending.delete(response.id)
    if ('answer' in response) pending?.resolve(response.answer)
    else pending?.reject('refusal' in response ? new Unenforceable(response.refusal) : new Error(response.error))
  }

  #end(error: Error): void {
    this.#ended ??= error
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    for (const call of pending) call.reject(this.#ended)
  }
}

/** Follows one sequence through its grammar. */
export class ThreadMatcher {
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
