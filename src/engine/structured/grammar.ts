/**
 * Structured output: a grammar compiled once a schema, a matcher a sequence, and the mask of the tokens that may come next. All of it runs
 * in threads: a large schema takes seconds, and compiled grammars cannot leave the instance of the library that made them. Each grammar is
 * first compiled in a spare thread that nothing else depends on. One that was quick is compiled again in the thread that all quick ones
 * share; a slow one keeps the thread it is in, and the next gets another spare. So no sequence ever waits for another's grammar.
 */
import { grammarParam, grammarSource } from './grammar-source.ts'
import type { GrammarSource, OutputConstraint } from './grammar-source.ts'
import { GrammarThread } from './grammar-thread.ts'
import type { GrammarVocabulary } from './grammar-protocol.ts'
import { EngineError } from '../request.ts'
import type { Tokenizer } from '../tokenizer.ts'

/** Follows one sequence. */
export interface GrammarMatcher {
  /** Takes a token. One that the grammar does not allow here, which a mask would have prevented, makes the next mask() reject. */
  accept(token: number): void
  /** Bit t of word t >> 5 set: token t may come next. u32[ceil(vocab / 32)] */
  mask(): Promise<Uint32Array>
  /** Idempotent. */
  close(): void
}

export interface GrammarCompiler {
  /**
   * Throws EngineError invalid_request for what cannot be enforced or compiled, queue_full when too many are waiting. Rejects with the
   * signal's reason when that is aborted; a compilation that nobody waits for any more is broken off.
   */
  createMatcher(constraint: OutputConstraint, signal?: AbortSignal): Promise<GrammarMatcher>
  /** Ends the threads; idempotent. */
  close(): Promise<void>
}

export interface GrammarOptions {
  readonly tokenizer: Tokenizer
  /** Rows of the logits: may be more than the tokenizer has. */
  readonly vocabSize: number
  readonly eosTokenIds: readonly number[]
  /** Compiled grammars kept. */
  readonly maxCached?: number
  /** A compilation that takes longer is refused. */
  readonly compileTimeoutMs?: number
  /** A grammar that took longer than this gets a thread of its own. */
  readonly slowMs?: number
}

/** Grammars that may wait to be compiled, each for any number of requests. */
const MAX_WAITING = 64
/** Slow grammars kept, each with a thread and an instance of the library. */
const MAX_SLOW = 4
/** Tokens of the vocabulary prepared between two turns of the event loop. */
const VOCABULARY_SLICE = 4096

export function createGrammarCompiler(options: GrammarOptions): GrammarCompiler {
  return new CachingCompiler(options)
}

/** A grammar that is compiled, being compiled, or known not to compile. */
interface Entry {
  readonly key: string
  readonly source: GrammarSource
  readonly param: string
  /** The thread that has it. Rejects with EngineError. */
  readonly home: Promise<GrammarThread>
  readonly resolve: (home: GrammarThread) => void
  readonly reject: (error: Error) => void
  numWaiting: number
  /** Its thread has no other grammar. */
  isSlow: boolean
  isSettled: boolean
}

class CachingCompiler implements GrammarCompiler {
  readonly #options: GrammarOptions
  readonly #maxCached: number
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry>()
  readonly #queue: Entry[] = []
  #compiling: Entry | null = null
  #vocabulary: Promise<GrammarVocabulary> | null = null
  #spare: GrammarThread | null = null
  #shared: GrammarThread | null = null
  readonly #threads = new Set<GrammarThread>()
  #isClosed = false

  constructor(options: GrammarOptions) {
    this.#options = options
    this.#maxCached = options.maxCached ?? 64
  }

  async createMatcher(constraint: OutputConstraint, signal?: AbortSignal): Promise<GrammarMatcher> {
    const param = grammarParam(constraint)
    if (this.#options.eosTokenIds.length === 0) {
      const message = `${param}: this model names no end-of-sequence token (eos_token_id in config.json), without which structured output cannot end`
      throw new EngineError('invalid_request', message, param)
    }
    const entry = this.#entry(grammarSource(constraint), param)
    entry.numWaiting++
    try {
      const home = await unlessAborted(entry.home, signal)
      // A thread that failed takes its grammars with it: the next request compiles them again.
      if (home.isEnded) this.#entries.delete(entry.key)
      return await home.createMatcher(entry.key)
    } finally {
      entry.numWaiting--
      this.#cancelIfUnwanted(entry)
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    const closed = new EngineError('shutdown', 'the server is shutting down')
    for (const entry of this.#entries.values()) this.#settle(entry, closed)
    this.#entries.clear()
    this.#queue.length = 0
    await Promise.all([...this.#threads].map((thread) => this.#closeThread(thread)))
  }

  /** The entry of a source, made and queued when it is new or its thread is gone. */
  #entry(source: GrammarSource, param: string): Entry {
    const key = `${source.kind} ${source.text}`
    const known = this.#entries.get(key)
    if (known !== undefined) {
      this.#entries.delete(key)
      this.#entries.set(key, known)
      return known
    }
    if (this.#queue.length >= MAX_WAITING) {
      throw new EngineError('queue_full', `${MAX_WAITING} grammars wait to be compiled already; try again later`)
    }
    const { promise: home, resolve, reject } = deferred<GrammarThread>()
    // Refused with nobody waiting: not unhandled.
    home.catch(() => {})
    const entry = { key, source, param, home, resolve, reject, numWaiting: 0, isSlow: false, isSettled: false }
    this.#entries.set(key, entry)
    this.#evict()
    this.#queue.push(entry)
    this.#compileNext()
    return entry
  }

  /** Compiles what is queued, one after the other. */
  #compileNext(): void {
    if (this.#compiling !== null || this.#isClosed) return
    const entry = this.#queue.shift()
    if (entry === undefined) return
    this.#compiling = entry
    this.#compile(entry)
      .then(
        (home) => this.#settle(entry, home),
        (error: unknown) => this.#settle(entry, this.#refusal(entry, error)),
      )
      .finally(() => {
        this.#compiling = null
        this.#compileNext()
      })
  }

  async #compile(entry: Entry): Promise<GrammarThread> {
    const { compileTimeoutMs = 30_000, slowMs = 50 } = this.#options
    const vocabulary = await (this.#vocabulary ??= this.#buildVocabulary())
    const spare = this.#spare ?? (await this.#openSpare(vocabulary))
    if (entry.isSettled) return spare
    const tooSlow = `takes longer than ${compileTimeoutMs / 1000} s to compile`
    const timer = setTimeout(() => void this.#closeThread(spare, new Refusal(tooSlow)), compileTimeoutMs)
    try {
      const startedMs = performance.now()
      await spare.compile(entry.key, entry.source)
      entry.isSlow = performance.now() - startedMs > slowMs
    } catch (error) {
      // The library aborts on what it cannot parse, which leaves the instance in an unknown state.
      await this.#closeThread(spare)
      throw error
    } finally {
      clearTimeout(timer)
    }
    if (entry.isSlow) {
      this.#spare = null
      return spare
    }
    spare.drop(entry.key)
    if (this.#shared === null || this.#shared.isEnded) this.#shared = this.#openThread(vocabulary)
    const shared = this.#shared
    await shared.compile(entry.key, entry.source)
    if (entry.isSettled) shared.drop(entry.key)
    return shared
  }

  #openThread(vocabulary: GrammarVocabulary): GrammarThread {
    const thread = new GrammarThread(vocabulary)
    this.#threads.add(thread)
    return thread
  }

  /** A thread that has compiled something: starting it is not taken for compiling. */
  async #openSpare(vocabulary: GrammarVocabulary): Promise<GrammarThread> {
    const spare = this.#openThread(vocabulary)
    this.#spare = spare
    try {
      await spare.compile('', { kind: 'ebnf', text: 'root ::= "a"' })
      return spare
    } catch (cause) {
      await this.#closeThread(spare)
      throw new EngineError('engine_error', 'structured output cannot be prepared', null, { cause })
    }
  }

  async #closeThread(thread: GrammarThread, reason?: Error): Promise<void> {
    if (this.#spare === thread) this.#spare = null
    if (this.#shared === thread) this.#shared = null
    this.#threads.delete(thread)
    await thread.close(reason)
  }

  #refusal(entry: Entry, cause: unknown): EngineError {
    if (cause instanceof EngineError) return cause
    const why = cause instanceof Refusal ? cause.message : 'cannot be compiled into a grammar'
    return new EngineError('invalid_request', `${entry.param}: it ${why}`, entry.param, { cause })
  }

  #settle(entry: Entry, outcome: GrammarThread | EngineError): void {
    if (entry.isSettled) return
    entry.isSettled = true
    if (outcome instanceof GrammarThread) entry.resolve(outcome)
    else entry.reject(outcome)
    this.#evict()
  }

  /** Nobody waits for a grammar that is not compiled yet: it leaves the queue, or its thread is ended. */
  #cancelIfUnwanted(entry: Entry): void {
    if (entry.numWaiting > 0 || entry.isSettled) return
    this.#entries.delete(entry.key)
    const at = this.#queue.indexOf(entry)
    if (at >= 0) this.#queue.splice(at, 1)
    else if (this.#spare !== null) void this.#closeThread(this.#spare)
    this.#settle(entry, new EngineError('invalid_request', `${entry.param}: nobody waits for it any more`, entry.param))
  }

  /** The least recently used go; refusals stay cached as well. A thread of its own goes with its grammar, once no sequence uses it. */
  #evict(): void {
    const settled = [...this.#entries.values()].filter(({ isSettled }) => isSettled)
    const slow = settled.filter(({ isSlow }) => isSlow)
    const unwanted = settled.slice(0, Math.max(0, this.#entries.size - this.#maxCached))
    for (const entry of new Set([...unwanted, ...slow.slice(0, Math.max(0, slow.length - MAX_SLOW))])) {
      this.#entries.delete(entry.key)
      entry.home.then(
        (home) => {
          if (!entry.isSlow) home.drop(entry.key)
          else {
            this.#threads.delete(home)
            home.retire()
          }
        },
        () => {},
      )
    }
  }

  async #buildVocabulary(): Promise<GrammarVocabulary> {
    const { tokenizer, vocabSize, eosTokenIds } = this.#options
    const tokens: string[] = []
    for (let id = 0; id < vocabSize; id++) {
      // Special tokens carry no text, and some bytes occur in no text: as empty strings they are never allowed but where the grammar may end.
      const isText = !tokenizer.isSpecial(id) && !tokenizer.tokenBytes(id).some(isNeverUtf8)
      tokens.push(isText ? (tokenizer.tokenText(id) ?? '') : '')
      if (id % VOCABULARY_SLICE === VOCABULARY_SLICE - 1) await new Promise<void>((resolve) => setImmediate(resolve))
    }
    const spellings = { byte_level: 'byte_level', sentencepiece: 'byte_fallback', plain: 'raw' } as const
    return { tokens, spelling: spellings[tokenizer.spelling], eosTokenIds }
  }
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  let resolve: (value: T) => void = () => {}
  let reject: (error: Error) => void = () => {}
  const promise = new Promise<T>((onValue, onError) => {
    resolve = onValue
    reject = onError
  })
  return { promise, resolve, reject }
}

/** The promise's outcome, unless the signal is aborted before: then its reason. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  signal.throwIfAborted()
  const { promise: aborted, reject } = deferred<never>()
  const onAbort = () => reject(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/** Why a grammar is refused, in words that follow its field. */
class Refusal extends Error {
  override readonly name = 'Refusal'
}

/** C0, C1 and F5 to FF begin no character of Unicode and continue none. */
function isNeverUtf8(byte: number): boolean {
  return byte === 0xc0 || byte === 0xc1 || byte >= 0xf5
}
