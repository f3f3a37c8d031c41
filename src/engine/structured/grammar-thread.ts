/** A thread with an instance of the grammar library: compiles, and hosts the matchers of what it compiled. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { GrammarCall, GrammarRequest, GrammarResponse, GrammarVocabulary } from './grammar-protocol.ts'
import type { GrammarSource } from './grammar-source.ts'

/** As for the runner's worker: the built entry when this module runs from src/ (tests). */
function workerEntry(): URL {
  if (!import.meta.url.endsWith('.ts')) return new URL('./grammar-worker.js', import.meta.url)
  const entry = new URL('../../../dist/engine/structured/grammar-worker.js', import.meta.url)
  if (!existsSync(fileURLToPath(entry))) throw new Error(`${fileURLToPath(entry)} not found: run npm run build first`)
  return entry
}

interface PendingCall {
  resolve(mask: Uint32Array | null): void
  reject(error: Error): void
}

export class GrammarThread {
  readonly #worker: Worker
  readonly #pending = new Map<number, PendingCall>()
  #nextId = 0
  #nextMatcher = 0
  #numMatchers = 0
  /** Why it takes no more calls. */
  #ended: Error | null = null
  #isRetired = false

  constructor(vocabulary: GrammarVocabulary) {
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

  /** Compiles and keeps a grammar. Rejects for what the library refuses, after which its state is unknown: close the thread. */
  async compile(key: string, source: GrammarSource): Promise<void> {
    await this.#call({ kind: 'compile', key, source })
  }

  drop(key: string): void {
    this.#notify({ kind: 'drop', key })
  }

  /** A matcher of a grammar that was compiled here. */
  async createMatcher(key: string): Promise<ThreadMatcher> {
    const matcher = this.#nextMatcher++
    this.#numMatchers++
    try {
      await this.#call({ kind: 'create', key, matcher })
    } catch (error) {
      this.#release()
      throw error
    }
    return new ThreadMatcher(
      async (tokens) => (await this.#call({ kind: 'mask', matcher, tokens })) ?? new Uint32Array(0),
      () => {
        this.#notify({ kind: 'close', matcher })
        this.#release()
      },
    )
  }

  /** Ends the thread, in the middle of a compilation too; what is in flight rejects with the reason. Idempotent. */
  async close(reason = new Error('the grammar thread was closed')): Promise<void> {
    this.#end(reason)
    await this.#worker.terminate()
  }

  /** Ends the thread as soon as it has no matchers. */
  retire(): void {
    this.#isRetired = true
    if (this.#numMatchers === 0) void this.close()
  }

  #release(): void {
    this.#numMatchers--
    if (this.#isRetired && this.#numMatchers === 0) void this.close()
  }

  #call(call: GrammarCall): Promise<Uint32Array | null> {
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
    if ('error' in response) pending?.reject(new Error(response.error))
    else pending?.resolve(response.mask)
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
