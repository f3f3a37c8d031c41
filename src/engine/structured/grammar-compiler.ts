/**
 * Structured output: a grammar is compiled once per constraint, each sequence has a matcher, and the matcher computes masks of the tokens that may
 * come next. One thread reads schemas and compiles; it is ended if that takes too long or the result is no longer needed, and tenants take turns.
 * Another thread hosts the matchers. Tenants share no compiled grammars, because timings would reveal what another tenant has asked for.
 */
import { SPECIAL_BYTE, specialBytes } from './byte-grammar.ts'
import { grammarParam, grammarSource } from './grammar-source.ts'
import type { GrammarSource, OutputConstraint } from './grammar-source.ts'
import { MatcherHost, startGrammarThread } from './grammar-thread.ts'
import type { GrammarAnswer, GrammarCall, GrammarMatcher, GrammarVocabulary } from './grammar-protocol.ts'
import { untilAborted } from '../../promises.ts'
import { EngineError, invalidField, shutdownError } from '../request.ts'
import { ThreadQueue } from '../threads/thread-queue.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { Unenforceable } from './unenforceable.ts'

/** A compiled grammar. */
interface Grammar {
  /** Constraints that are not enforced, as sentences for the caller. */
  readonly warnings: readonly string[]
  /** Whether it was compiled for an earlier request. */
  readonly isCached: boolean
  createMatcher(): Promise<GrammarMatcher>
}

export interface GrammarCompiler {
  /**
   * Rejects with the signal's reason if it is aborted. A compilation that no request needs any more is cancelled.
   * @throws EngineError invalid_request for a constraint that cannot be enforced or compiled, and queue_full if too many are waiting
   */
  compile(constraint: OutputConstraint, tenant?: string, signal?: AbortSignal): Promise<Grammar>
  /** Ends the threads; idempotent. */
  close(): Promise<void>
}

interface GrammarOptions {
  readonly tokenizer: Tokenizer
  /** Width of the logits, which may exceed the number of tokens. */
  readonly vocabSize: number
  readonly eosTokenIds: readonly number[]
  /** Special tokens that grammars may use. Other special tokens are never allowed. */
  readonly specialTokens?: ReadonlyMap<number, string>
  /** Limit on cached grammars. */
  readonly maxCached?: number
  /** Time limit of a compilation. */
  readonly compileTimeoutMs?: number
}

/** Limits on grammars that wait to be compiled, of all tenants and of one. Any number of requests may wait for each. */
const MAX_WAITING = 128
const MAX_WAITING_PER_TENANT = 32
/** Tokens of the vocabulary prepared between two turns of the event loop. */
const VOCABULARY_SLICE = 4096

/** Creates a compiler with a cache. */
export function createGrammarCompiler(options: GrammarOptions): GrammarCompiler {
  return new CachingCompiler(options)
}

/** A grammar that is compiled, is being compiled, or failed to compile. */
interface Entry {
  readonly key: string
  readonly tenant: string
  readonly source: GrammarSource
  /** Rejects with EngineError. */
  readonly compiled: Promise<Compiled>
  readonly resolve: (compiled: Compiled) => void
  readonly reject: (error: Error) => void
  /** Aborted when all requests for the grammar have been cancelled. */
  readonly unwanted: AbortController
  numWaiting: number
  isSettled: boolean
}

interface Compiled {
  readonly warnings: readonly string[]
  /** Hosts its matchers. */
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
      throw invalidField(
        param,
        'this model has no end-of-sequence token (eos_token_id in config.json), so structured output cannot end',
      )
    }
    const entry = this.#entry(grammarSource(constraint), tenant)
    const isCached = entry.isSettled
    entry.numWaiting++
    try {
      const { host, warnings } = await untilAborted(entry.compiled, signal)
      // A failed thread has lost its grammars. The next request compiles them again.
      if (host.isEnded) this.#entries.delete(entry.key)
      return { warnings, isCached, createMatcher: () => createMatcher(entry, host) }
    } finally {
      entry.numWaiting--
      this.#cancelIfUnwanted(entry)
    }
  }

  async close(): Promise<void> {
    const closed = shutdownError()
    for (const entry of this.#entries.values()) this.#settle(entry, closed)
    this.#entries.clear()
    const host = await this.#host?.catch(() => null)
    await Promise.all([this.#compiler.close(closed), host?.close()])
  }

  /** The entry of a source. A new one is created and queued. */
  #entry({ key: own, ...source }: GrammarSource & { readonly key: string }, tenant: string): Entry {
    const key = `${tenant} ${own}`
    const known = this.#entries.get(key)
    if (known !== undefined) {
      this.#entries.delete(key)
      this.#entries.set(key, known)
      return known
    }
    let [resolve, reject]: [Entry['resolve'], Entry['reject']] = [() => {}, () => {}]
    const compiled = new Promise<Compiled>((onValue, onError) => ([resolve, reject] = [onValue, onError]))
    // A refusal for which nobody waits is not an unhandled rejection.
    compiled.catch(() => {})
    const unwanted = new AbortController()
    const entry = { key, tenant, source, compiled, resolve, reject, unwanted, numWaiting: 0, isSettled: false }
    this.#entries.set(key, entry)
    this.#evict()
    this.#compile(entry).then(
      (outcome) => this.#settle(entry, outcome),
      (error: unknown) => {
        // The error is not about the constraint, so the next request may succeed.
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
      // The entry was cancelled, so nobody will use the grammar.
      if (!(outcome instanceof EngineError)) outcome.host.drop(entry.key)
      return
    }
    entry.isSettled = true
    if (outcome instanceof EngineError) entry.reject(outcome)
    else entry.resolve(outcome)
    this.#evict()
  }

  /** Cancels a compilation that no request needs: it leaves the queue, or its thread is ended. */
  #cancelIfUnwanted(entry: Entry): void {
    if (entry.numWaiting > 0 || entry.isSettled) return
    this.#entries.delete(entry.key)
    const { param } = entry.source
    this.#settle(entry, invalidField(param, 'all requests for it were cancelled'))
    entry.unwanted.abort()
  }

  /** Evicts the least recently used grammar of the tenant with the most. Refusals are cached as well. */
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

/** The bytes of a token as text. Empty for special tokens, and for tokens with the byte that identifies special tokens in a grammar. */
function textBytes(tokenizer: Tokenizer, id: number): Uint8Array {
  const bytes = tokenizer.isSpecial(id) ? NO_BYTES : tokenizer.tokenBytes(id)
  return bytes.includes(SPECIAL_BYTE) ? NO_BYTES : bytes
}

const NO_BYTES = new Uint8Array(0)

async function createMatcher(entry: Entry, host: MatcherHost): Promise<GrammarMatcher> {
  try {
    return await host.createMatcher(entry.key)
  } catch (error) {
    throw error instanceof Unenforceable ? invalidField(entry.source.param, error.message, error) : error
  }
}

function refusal({ source: { param } }: Entry, cause: unknown): EngineError {
  if (cause instanceof EngineError) return cause
  if (!(cause instanceof Unenforceable)) return invalidField(param, 'it cannot be compiled into a grammar', cause)
  // The message begins with the field, which may be one of several.
  const [field = param] = /^[\w.]+(?=:)/.exec(cause.message) ?? []
  return new EngineError('invalid_request', cause.message, field, { cause })
}
