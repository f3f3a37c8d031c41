/**
 * Structured output: a grammar compiled once for each form that is asked for, a matcher a sequence, and the mask of the tokens that may come
 * next. One thread compiles, schemas read included, and is ended when that takes too long or nobody waits any more; tenants take
 * turns. Another hosts the matchers. Nothing compiled is shared between tenants, whose timings would tell what the other asked.
 */
import { SPECIAL_BYTE, specialBytes } from './byte-grammar.ts'
import { grammarParam, grammarSource } from './grammar-source.ts'
import type { GrammarSource, OutputConstraint } from './grammar-source.ts'
import { MatcherHost, startGrammarThread } from './grammar-thread.ts'
import type { GrammarAnswer, GrammarCall, GrammarVocabulary } from './grammar-protocol.ts'
import { EngineError } from '../request.ts'
import { ThreadQueue } from '../threads/thread-queue.ts'
import type { Tokenizer } from '../tokenizer.ts'
import { Unenforceable } from './unenforceable.ts'

/** Follows one sequence. */
export interface GrammarMatcher {
  /** Takes a token. One that the grammar does not allow here, which a mask would have prevented, makes the next mask() reject. */
  accept(token: number): void
  /** Bit t of word t >> 5 set: token t may come next. u32[ceil(vocab / 32)] */
  mask(): Promise<Uint32Array>
  /** Idempotent. */
  close(): void
}

/** A compiled grammar. */
interface Grammar {
  /** What of it is not enforced, in sentences for the caller. */
  readonly warnings: readonly string[]
  /** It was there already. */
  readonly isCached: boolean
  createMatcher(): Promise<GrammarMatcher>
}

export interface GrammarCompiler {
  /**
   * Throws EngineError invalid_request for what cannot be enforced or compiled, queue_full when too many are waiting. Rejects with the
   * signal's reason when that is aborted; a compilation that nobody waits for any more is broken off. `tenant`: whose it is.
   */
  compile(constraint: OutputConstraint, tenant?: string, signal?: AbortSignal): Promise<Grammar>
  /** Ends the threads; idempotent. */
  close(): Promise<void>
}

interface GrammarOptions {
  readonly tokenizer: Tokenizer
  /** Rows of the logits: may be more than the tokenizer has. */
  readonly vocabSize: number
  readonly eosTokenIds: readonly number[]
  /** Special tokens that grammars of calls are made of; others can never be drawn. */
  readonly specialTokens?: ReadonlyMap<number, string>
  /** Compiled grammars kept. */
  readonly maxCached?: number
  /** A compilation that takes longer is refused. */
  readonly compileTimeoutMs?: number
}

/** Grammars that may wait to be compiled, of all tenants and of one, each for any number of requests. */
const MAX_WAITING = 128
const MAX_WAITING_PER_TENANT = 32
/** Tokens of the vocabulary prepared between two turns of the event loop. */
const VOCABULARY_SLICE = 4096

/** Creates a compiler with a cache, in a thread of its own. */
export function createGrammarCompiler(options: GrammarOptions): GrammarCompiler {
  return new CachingCompiler(options)
}

/** A grammar that is compiled, being compiled, or known not to compile. */
interface Entry {
  readonly key: string
  readonly tenant: string
  readonly source: GrammarSource
  /** What it is not, in warnings. Rejects with EngineError. */
  readonly compiled: Promise<Compiled>
  readonly resolve: (compiled: Compiled) => void
  readonly reject: (error: Error) => void
  /** Aborted when all requests for it were cancelled. */
  readonly unwanted: AbortController
  numWaiting: number
  isSettled: boolean
}

interface Compiled {
  readonly warnings: readonly string[]
  /** Of its matchers. */
  readonly host: MatcherHost
}

class CachingCompiler implements GrammarCompiler {
  readonly #options: GrammarOptions
  readonly #maxCached: number
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry>()
  readonly #compiler: ThreadQueue<GrammarCall, GrammarAnswer>
  #host: Promise<MatcherHost> | null = null

  constructor(options: GrammarOptions) {
    this.#options = options
    this.#maxCached = options.maxCached ?? 64
    this.#compiler = new ThreadQueue({
      start: async () => startGrammarThread(null),
      maxWaiting: MAX_WAITING,
      maxWaitingPerTenant: MAX_WAITING_PER_TENANT,
      full: () => new EngineError('queue_full', 'too many grammars are waiting to be compiled; try again later'),
      graceMs: 0,
    })
  }

  async compile(constraint: OutputConstraint, tenant = '', signal?: AbortSignal): Promise<Grammar> {
    const param = grammarParam(constraint)
    if (this.#options.eosTokenIds.length === 0) {
      const message = `${param}: this model has no end-of-sequence token (eos_token_id in config.json), so structured output cannot end`
      throw new EngineError('invalid_request', message, param)
    }
    const entry = this.#entry(grammarSource(constraint), tenant)
    const isCached = entry.isSettled
    entry.numWaiting++
    try {
      const { host, warnings } = await unlessAborted(entry.compiled, signal)
      // A thread that failed takes its grammars with it: the next request compiles them again.
      if (host.isEnded) this.#entries.delete(entry.key)
      return { warnings, isCached, createMatcher: () => createMatcher(entry, host) }
    } finally {
      entry.numWaiting--
      this.#cancelIfUnwanted(entry)
    }
  }

  async close(): Promise<void> {
    const closed = new EngineError('shutdown', 'the server is shutting down')
    for (const entry of this.#entries.values()) this.#settle(entry, closed)
    this.#entries.clear()
    const host = await this.#host?.catch(() => null)
    await Promise.all([this.#compiler.close(closed), host?.close()])
  }

  /** The entry of a source, made and queued when it is new. */
  #entry({ key: own, ...source }: GrammarSource & { readonly key: string }, tenant: string): Entry {
    const key = `${tenant} ${own}`
    const known = this.#entries.get(key)
    if (known !== undefined) {
      this.#entries.delete(key)
      this.#entries.set(key, known)
      return known
    }
    const { promise: compiled, resolve, reject } = deferred<Compiled>()
    // Refused with nobody waiting: not unhandled.
    compiled.catch(() => {})
    const unwanted = new AbortController()
    const entry = { key, tenant, source, compiled, resolve, reject, unwanted, numWaiting: 0, isSettled: false }
    this.#entries.set(key, entry)
    this.#evict()
    this.#compile(entry).then(
      (outcome) => this.#settle(entry, outcome),
      (error: unknown) => {
        // Not for what it asks: the next time it may have its turn.
        if (error instanceof EngineError) this.#entries.delete(entry.key)
        this.#settle(entry, refusal(entry, error))
      },
    )
    return entry
  }

  async #compile({ key, tenant, source, unwanted }: Entry): Promise<Compiled> {
    const { compileTimeoutMs = 5000 } = this.#options
    const tooSlow = () =>
      new Unenforceable(`${source.param}: it takes longer than ${compileTimeoutMs / 1000} s to compile`)
    const { compiled } = await this.#compiler.run(
      { kind: 'compile', source },
      { tenant, timeoutMs: compileTimeoutMs, tooSlow, signal: unwanted.signal },
    )
    if (compiled === undefined) throw new Error('the grammar thread compiled nothing')
    const host = await this.#openHost()
    await host.load(key, compiled.network)
    return { warnings: compiled.warnings, host }
  }

  async #openHost(): Promise<MatcherHost> {
    const known = await this.#host?.catch(() => null)
    if (known !== null && known !== undefined && !known.isEnded) return known
    this.#host = this.#buildVocabulary().then((vocabulary) => new MatcherHost(vocabulary))
    return this.#host
  }

  #settle(entry: Entry, outcome: Compiled | EngineError): void {
    if (entry.isSettled) {
      // Nobody waited to the end, and nobody will find it.
      if (!(outcome instanceof EngineError)) outcome.host.drop(entry.key)
      return
    }
    entry.isSettled = true
    if (outcome instanceof EngineError) entry.reject(outcome)
    else entry.resolve(outcome)
    this.#evict()
  }

  /** Nobody waits for a grammar that is not compiled yet: it leaves the queue, or the thread that compiles it is ended. */
  #cancelIfUnwanted(entry: Entry): void {
    if (entry.numWaiting > 0 || entry.isSettled) return
    this.#entries.delete(entry.key)
    const { param } = entry.source
    this.#settle(entry, new EngineError('invalid_request', `${param}: all requests for it were cancelled`, param))
    entry.unwanted.abort()
  }

  /** Grammars of whoever has most go first, the least recently used of them; refusals are kept as well. */
  #evict(): void {
    while (this.#entries.size > this.#maxCached) {
      const settled = [...this.#entries.values()].filter(({ isSettled }) => isSettled)
      const numOf = new Map<string, number>()
      for (const { tenant } of settled) numOf.set(tenant, (numOf.get(tenant) ?? 0) + 1)
      const most = Math.max(0, ...numOf.values())
      const entry = settled.find(({ tenant }) => numOf.get(tenant) === most)
      if (entry === undefined) return
      this.#entries.delete(entry.key)
      entry.compiled.then(
        ({ host }) => host.drop(entry.key),
        () => {},
      )
    }
  }

  async #buildVocabulary(): Promise<GrammarVocabulary> {
    const { tokenizer, vocabSize, eosTokenIds, specialTokens } = this.#options
    const offsets = new Int32Array(new SharedArrayBuffer((vocabSize + 1) * 4))
    const pieces: Uint8Array[] = []
    for (let id = 0; id < vocabSize; id++) {
      const special = specialTokens?.get(id)
      const piece = special !== undefined ? specialBytes(special) : textBytes(tokenizer, id)
      pieces.push(piece)
      offsets[id + 1] = (offsets[id] ?? 0) + piece.length
      if (id % VOCABULARY_SLICE === VOCABULARY_SLICE - 1) await new Promise<void>((resolve) => setImmediate(resolve))
    }
    const bytes = new Uint8Array(new SharedArrayBuffer(Math.max(1, offsets[vocabSize] ?? 0)))
    for (const [id, piece] of pieces.entries()) bytes.set(piece, offsets[id])
    return { bytes, offsets, vocabSize, eosTokenIds }
  }
}

/** None of special tokens, which carry no text, and of bytes that no text has: special tokens are told by such a byte. */
function textBytes(tokenizer: Tokenizer, id: number): Uint8Array {
  const bytes = tokenizer.isSpecial(id) ? NO_BYTES : tokenizer.tokenBytes(id)
  return bytes.includes(SPECIAL_BYTE) ? NO_BYTES : bytes
}

const NO_BYTES = new Uint8Array(0)

async function createMatcher(entry: Entry, host: MatcherHost): Promise<GrammarMatcher> {
  try {
    return await host.createMatcher(entry.key)
  } catch (error) {
    throw error instanceof Unenforceable ? new EngineError('invalid_request', `${entry.source.param}: ${error.message}`, entry.source.param, { cause: error }) : error // prettier-ignore
  }
}

function refusal({ source: { param } }: Entry, cause: unknown): EngineError {
  if (cause instanceof EngineError) return cause
  if (!(cause instanceof Unenforceable))
    return new EngineError('invalid_request', `${param}: it cannot be compiled into a grammar`, param, { cause })
  // The message begins with the field, which may be one of several.
  const [field = param] = /^[\w.]+(?=:)/.exec(cause.message) ?? []
  return new EngineError('invalid_request', cause.message, field, { cause })
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
