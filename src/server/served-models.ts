/**
 * The models served, by name, each with its own engine. They are loaded at the start or by the first request that names them,
 * unloaded when they have been idle for a while or when another needs their memory.
 */
import { createHash } from 'node:crypto'
import type { EngineSubscriber } from '../engine/events.ts'
import type { Engine, EngineStats } from '../engine/request.ts'
import type { SamplingDefaults } from '../engine/sampling-defaults.ts'
import { untilAborted } from '../rag/shared-work.ts'
import type { PromptTemplate } from '../rag/prompt.ts'
import { ApiError, modelNotFound } from './errors.ts'

/** An engine and the files beside its model's weights. */
export interface ReadyModel {
  readonly engine: Engine
  readonly samplingDefaults: SamplingDefaults
  readonly promptTemplate: PromptTemplate | null
}

/** An adapter of a model, by the name that requests choose it by. */
interface ServedAdapter {
  readonly name: string
}

/** A model that can be loaded, more than once. */
export interface ModelOffer {
  readonly name: string
  /** Adapters that it is loaded with. */
  readonly adapters?: readonly ServedAdapter[]
  /** Bytes of its weights on disk; null: not known before it is loaded. */
  weightBytes(): Promise<number | null>
  /** @throws what is wrong with the model or the device; the signal's reason. */
  load(signal: AbortSignal): Promise<ReadyModel>
  /** Whether a load that failed so may succeed once other models have left the device: a broken file takes none of them with it. */
  wantsRoom(error: unknown): boolean
}

/** What a model can be found as. */
export const MODEL_STATES = ['on_demand', 'loading', 'ready', 'unloading'] as const
type ModelState = (typeof MODEL_STATES)[number]

/** What is reported about a model. */
interface ModelDescription {
  readonly name: string
  readonly state: ModelState
  readonly adapters: readonly ServedAdapter[]
  /** null: it has not been loaded yet. */
  readonly maxModelLen: number | null
  readonly stats: EngineStats | null
}

/** A model while a request uses it: it stays loaded until it is released. */
export interface ModelUse extends ReadyModel {
  /** Of the model, or of its adapter. */
  readonly name: string
  /** The adapter's model; null: the model itself was chosen. */
  readonly parent: string | null
  /** Of what answers: changes with the model, how it is computed, and the version of this program. */
  readonly fingerprint: string
  /** Idempotent. */
  release(): void
}

export interface ServedModelsOptions {
  /** Milliseconds without a request after which a model is unloaded; null: never. */
  readonly idleMs: number | null
  readonly version: string
  /** Who hears the events of a model's engine from the first on. */
  subscribersOf(model: string): readonly EngineSubscriber[]
  /** Bytes of host memory that a model could still take. */
  availableBytes(): number
  onLoaded?(model: string, ms: number): void
  onUnloaded?(model: string, reason: 'idle' | 'memory'): void
  onLoadFailed?(model: string, error: unknown): void
}

/** What a model takes of memory, as a multiple of its weights on disk: buffers and a cache beside them. */
const MEMORY_FACTOR = 1.3

const NO_STATS = {
  numRunning: 0,
  numWaiting: 0,
  numWaitingTokens: 0,
  numBlocks: 0,
  numFreeBlocks: 0,
  prefixCacheQueries: 0,
  prefixCacheHits: 0,
  numPreemptions: 0,
  promptTokens: 0,
  generationTokens: 0,
  numDraftTokens: 0,
  numAcceptedTokens: 0,
}
/** The counts of EngineStats, which can be added up. */
const COUNTS = Object.keys(NO_STATS) as (keyof typeof NO_STATS)[]

interface Entry {
  readonly name: string
  /** null: it was given loaded, and stays so. */
  readonly offer: ModelOffer | null
  loaded: ReadyModel | null
  fingerprint: string
  /** Under way: what brings it into memory, or out of it. */
  loading: Promise<ReadyModel> | null
  unloading: Promise<void> | null
  maxModelLen: number | null
  numUses: number
  lastUsedMs: number
  idle: NodeJS.Timeout | null
}

/** The models by name: loads them on demand, counts their users, unloads idle ones when memory is needed. */
export class ServedModels {
  readonly #options: ServedModelsOptions
  readonly #entries = new Map<string, Entry>()
  readonly #closing = new AbortController()
  /** Loads one after the other: each decides what has to go by what is free. */
  #lastLoad: Promise<unknown> = Promise.resolve()

  constructor(options: ServedModelsOptions) {
    this.#options = options
  }

  /** Adds a model. The first one added answers requests that name no model. */
  offer(offer: ModelOffer): void {
    this.#add(offer.name, offer)
  }

  /** Adds a model that is loaded and stays so. */
  add(loaded: ReadyModel): void {
    this.#place(this.#add(loaded.engine.modelName, null), loaded)
  }

  /** The engines that are loaded, in the order of the models. */
  get engines(): readonly Engine[] {
    return [...this.#entries.values()].flatMap(({ loaded }) => (loaded === null ? [] : [loaded.engine]))
  }

  describe(): readonly ModelDescription[] {
    return [...this.#entries.values()].map((entry) => ({
      name: entry.name,
      state: stateOf(entry),
      adapters: entry.offer?.adapters ?? [],
      maxModelLen: entry.maxModelLen,
      stats: entry.loaded?.engine.stats() ?? null,
    }))
  }

  /** Of all engines together. */
  stats(): EngineStats {
    const all = this.engines.map((engine) => engine.stats())
    const [only] = all
    if (only !== undefined && all.length === 1) return only
    const sum = { ...NO_STATS }
    for (const stats of all) for (const key of COUNTS) sum[key] += stats[key]
    return sum
  }

  /** Loads a model, if it is not. @throws what is wrong with it */
  async load(name: string): Promise<void> {
    const entry = this.#entries.get(name)
    if (entry === undefined) throw new Error(`no model ${name}`)
    await this.#loaded(entry)
  }

  /**
   * The model of this name (none: the first), loaded.
   * @param elsewhere the route of a model that is none of these, by its name
   * @throws ApiError 404 for a name that is not served, 503 where the model cannot be loaded; the signal's reason
   */
  async use(
    name: string | undefined,
    signal: AbortSignal,
    elsewhere: (name: string) => string | undefined,
  ): Promise<ModelUse> {
    const entry = name === undefined ? this.#entries.values().next().value : this.#entryOf(name)
    if (entry === undefined) {
      if (name === undefined) throw new ApiError('loading', 'the model is loading')
      const route = elsewhere(name)
      const known = this.describe().flatMap((model) => [model.name, ...model.adapters.map((adapter) => adapter.name)])
      const names = known.map((each) => `"${each}"`).join(', ')
      const hint = route === undefined ? `GET /v1/models lists ${names}` : `it is a model of POST ${route}`
      throw modelNotFound(hint)
    }
    // Counted before it is awaited: a model that somebody waits for is not unloaded.
    this.#begin(entry)
    try {
      const loaded = await untilAborted(this.#loaded(entry), signal)
      const adapter = name === undefined || name === entry.name ? null : name
      return {
        ...loaded,
        name: adapter ?? entry.name,
        parent: adapter === null ? null : entry.name,
        fingerprint:
          adapter === null ? entry.fingerprint : fingerprintOf([entry.fingerprint, digestOf(loaded, adapter)]),
        release: once(() => this.#end(entry)),
      }
    } catch (error) {
      this.#end(entry)
      if (signal.aborted || error instanceof ApiError) throw error
      const message = `model: "${entry.name}" could not be loaded; see the server's log for the reason`
      throw new ApiError('model_load_failed', message, { param: 'model', cause: error })
    }
  }

  /** The model of this name, or that has an adapter of this name. */
  #entryOf(name: string): Entry | undefined {
    const isNamed = ({ offer }: Entry): boolean => offer?.adapters?.some((adapter) => adapter.name === name) ?? false
    return this.#entries.get(name) ?? [...this.#entries.values()].find(isNamed)
  }

  /** Refuses new requests and waits for the running ones, at most so long. */
  async drain(timeoutMs: number): Promise<void> {
    await Promise.all(this.engines.map((engine) => engine.drain(timeoutMs)))
  }

  /** Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort(new ApiError('shutdown', 'the server is shutting down'))
    const entries = [...this.#entries.values()]
    for (const { idle } of entries) if (idle !== null) clearTimeout(idle)
    await Promise.allSettled(entries.map(({ loading, unloading }) => loading ?? unloading))
    await Promise.all(entries.map(({ loaded }) => loaded?.engine.close()))
  }

  #add(name: string, offer: ModelOffer | null): Entry {
    const entry: Entry = {
      name,
      offer,
      loaded: null,
      fingerprint: '',
      loading: null,
      unloading: null,
      maxModelLen: null,
      numUses: 0,
      lastUsedMs: 0,
      idle: null,
    }
    this.#entries.set(name, entry)
    return entry
  }

  #place(entry: Entry, loaded: ReadyModel): void {
    const { engine } = loaded
    const { device, quantization } = engine.modelInfo ?? {}
    const what = [this.#options.version, engine.modelName, device?.kind, device?.adapter, quantization]
    entry.fingerprint = fingerprintOf(what)
    entry.loaded = loaded
    entry.maxModelLen = engine.maxModelLen
    for (const subscriber of this.#options.subscribersOf(entry.name)) engine.subscribe(subscriber)
  }

  #loaded(entry: Entry): Promise<ReadyModel> {
    if (entry.loaded !== null && entry.unloading === null) return Promise.resolve(entry.loaded)
    entry.loading ??= this.#bring(entry)
    return entry.loading
  }

  #bring(entry: Entry): Promise<ReadyModel> {
    const { offer } = entry
    if (offer === null) throw new Error(`${entry.name} was given loaded`)
    const loading = this.#lastLoad
      .catch(() => {})
      .then(async () => {
        await entry.unloading
        this.#closing.signal.throwIfAborted()
        const started = performance.now()
        const loaded = await this.#loadWithRoom(entry, offer)
        this.#place(entry, loaded)
        this.#options.onLoaded?.(entry.name, performance.now() - started)
        return loaded
      })
    this.#lastLoad = loading
    const settle = (): void => {
      entry.loading = null
      this.#watchIdle(entry)
    }
    loading.then(settle, (error: unknown) => {
      settle()
      if (!this.#closing.signal.aborted) this.#options.onLoadFailed?.(entry.name, error)
    })
    return loading
  }

  /** Host memory is known beforehand; whether a device has enough memory is known only after an attempt. */
  async #loadWithRoom(entry: Entry, offer: ModelOffer): Promise<ReadyModel> {
    const bytes = (await offer.weightBytes()) ?? 0
    while (this.#options.availableBytes() < bytes * MEMORY_FACTOR) {
      const victim = this.#leastRecentlyUsed(() => true)
      if (victim === null) break
      await this.#unload(victim, 'memory')
    }
    for (;;) {
      try {
        return await offer.load(this.#closing.signal)
      } catch (error) {
        if (!offer.wantsRoom(error)) throw error
        const victim = this.#leastRecentlyUsed(({ loaded }) => loaded?.engine.modelInfo?.device.kind === 'webgpu')
        if (victim === null || this.#closing.signal.aborted) throw error
        await this.#unload(victim, 'memory')
      }
    }
  }

  #leastRecentlyUsed(isCandidate: (entry: Entry) => boolean): Entry | null {
    const idle = [...this.#entries.values()].filter(
      (entry) => entry.offer !== null && stateOf(entry) === 'ready' && entry.numUses === 0 && isCandidate(entry),
    )
    return idle.sort((a, b) => a.lastUsedMs - b.lastUsedMs)[0] ?? null
  }

  #unload(entry: Entry, reason: 'idle' | 'memory'): Promise<void> {
    const { loaded } = entry
    if (loaded === null) return Promise.resolve()
    // An engine whose end fails has gone all the same, and who waits for its room is not to fail by it: what failed is in its own log lines.
    const closing = loaded.engine.close().catch(() => {})
    entry.unloading ??= closing.finally(() => {
      entry.loaded = null
      entry.unloading = null
      this.#options.onUnloaded?.(entry.name, reason)
    })
    return entry.unloading
  }

  #begin(entry: Entry): void {
    entry.numUses += 1
    if (entry.idle !== null) clearTimeout(entry.idle)
    entry.idle = null
  }

  #end(entry: Entry): void {
    entry.numUses -= 1
    entry.lastUsedMs = performance.now()
    this.#watchIdle(entry)
  }

  #watchIdle(entry: Entry): void {
    const { idleMs } = this.#options
    if (idleMs === null || entry.offer === null || entry.numUses > 0 || entry.loaded === null) return
    if (entry.idle !== null) clearTimeout(entry.idle)
    entry.idle = setTimeout(() => {
      entry.idle = null
      if (entry.numUses === 0) void this.#unload(entry, 'idle')
    }, idleMs).unref()
  }
}

function fingerprintOf(what: readonly unknown[]): string {
  return `fp_${createHash('sha256').update(JSON.stringify(what)).digest('hex').slice(0, 10)}`
}

function digestOf({ engine }: ReadyModel, adapter: string): string | undefined {
  return engine.modelInfo?.adapters.find(({ name }) => name === adapter)?.digest
}

function stateOf({ loaded, loading, unloading }: Entry): ModelState {
  if (unloading !== null) return 'unloading'
  if (loading !== null) return 'loading'
  return loaded === null ? 'on_demand' : 'ready'
}

function once(run: () => void): () => void {
  let hasRun = false
  return () => {
    if (!hasRun) run()
    hasRun = true
  }
}
