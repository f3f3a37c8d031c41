/**
 * The served models by name, each with its own engine. A model is loaded at the start or by the first request that names it. It is unloaded
 * when it has been idle for a while, or when another model needs its memory.
 */
import { createHash } from 'node:crypto'
import type { EngineSubscriber } from '../engine/events.ts'
import { type Engine, type EngineStats, newEngineCounts } from '../engine/request.ts'
import type { SamplingDefaults } from '../engine/sampling-defaults.ts'
import { untilAborted } from '../promises.ts'
import type { PromptTemplate } from '../rag/prompt.ts'
import { ApiError, modelNotFound } from './errors.ts'

/** An engine, and what the files beside its model's weights say. */
export interface ReadyModel {
  readonly engine: Engine
  readonly samplingDefaults: SamplingDefaults
  readonly promptTemplate: PromptTemplate | null
}

/** An adapter of a model. Requests choose it by its name. */
interface ServedAdapter {
  readonly name: string
}

/** A model that can be loaded and unloaded. */
export interface ModelOffer {
  readonly name: string
  /** Adapters that it is loaded with. */
  readonly adapters?: readonly ServedAdapter[]
  /** Bytes of its weights on disk; null if they are not known before it is loaded. */
  weightBytes(): Promise<number | null>
  /** @throws an error of the model or the device, or the signal's reason. */
  load(signal: AbortSignal): Promise<ReadyModel>
  /** Whether the load may succeed after other models are unloaded. A broken file must not unload any. */
  wantsRoom(error: unknown): boolean
}

/** The states of a model. */
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

/** A model in use by a request. It stays loaded until it is released. */
export interface ModelUse extends ReadyModel {
  /** Name of the model or of its adapter. */
  readonly name: string
  /** The adapter's model; null if the request chose the model itself. */
  readonly parent: string | null
  /** Changes with the model, the device, the quantisation and the version of this program. */
  readonly fingerprint: string
  /** Idempotent. */
  release(): void
}

export interface ServedModelsOptions {
  /** Milliseconds without a request after which a model is unloaded; null: never. */
  readonly idleMs: number | null
  readonly version: string
  /** Subscribers of a model's engine, from its first event on. */
  subscribersOf(model: string): readonly EngineSubscriber[]
  /** Bytes of host memory that are available for models. */
  availableBytes(): number
  onLoaded?(model: string, ms: number): void
  onUnloaded?(model: string, reason: 'idle' | 'memory'): void
  onLoadFailed?(model: string, error: unknown): void
}

/** Memory of a loaded model as a multiple of its weights on disk: it also has buffers and a cache. */
const MEMORY_FACTOR = 1.3

const NO_STATS = {
  numRunning: 0,
  numWaiting: 0,
  numWaitingTokens: 0,
  numBlocks: 0,
  numFreeBlocks: 0,
  ...newEngineCounts(),
}
/** The counts of EngineStats, which can be added up. */
const COUNTS = Object.keys(NO_STATS) as (keyof typeof NO_STATS)[]

interface Entry {
  readonly name: string
  /** null: the model is always loaded. */
  readonly offer: ModelOffer | null
  loaded: ReadyModel | null
  fingerprint: string
  /** The current load or unload. */
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
  /** Models load one after the other, because each load decides by the free memory what to unload. */
  #lastLoad: Promise<unknown> = Promise.resolve()

  constructor(options: ServedModelsOptions) {
    this.#options = options
  }

  /** Adds a model. The first one added answers requests that name no model. */
  offer(offer: ModelOffer): void {
    this.#add(offer.name, offer)
  }

  /** Adds a loaded model, which stays loaded. */
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

  /** The sums over all engines. */
  stats(): EngineStats {
    const all = this.engines.map((engine) => engine.stats())
    const [only] = all
    if (only !== undefined && all.length === 1) return only
    const sum = { ...NO_STATS }
    for (const stats of all) for (const key of COUNTS) sum[key] += stats[key]
    return sum
  }

  /** Loads a model unless it is loaded. @throws the error of the load */
  async load(name: string): Promise<void> {
    const entry = this.#entries.get(name)
    if (entry === undefined) throw new Error(`no model ${name}`)
    await this.#loaded(entry)
  }

  /**
   * The model of this name (none: the first), loaded.
   * @param elsewhere the route that serves a model of this name, if there is one
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
    // Counted before the load, so that a model is not unloaded while a request waits for it.
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

  /** The model that has this name, or an adapter of this name. */
  #entryOf(name: string): Entry | undefined {
    const isNamed = ({ offer }: Entry): boolean => offer?.adapters?.some((adapter) => adapter.name === name) ?? false
    return this.#entries.get(name) ?? [...this.#entries.values()].find(isNamed)
  }

  /** Refuses new requests, and waits for the running ones within the time limit. */
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
    // An engine that fails to close is gone as well. The request that waits for its memory must not fail; the engine logs its own error.
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
