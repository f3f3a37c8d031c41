/** Metrics of the engine. */
import type { KvOperationCount } from '../engine/events.ts'
import type { Instruments, LabelledValue } from './instruments.ts'

/** Bytes that a backend has allocated on its device. */
export interface DeviceMemory {
  /** webgpu, cpu or reference. */
  readonly kind: string
  readonly weightBytes: number
  readonly kvCacheBytes: number
  readonly scratchBytes: number
}

/** Values of the engine, read whenever the metrics are. */
interface EngineGauges {
  readonly numRunning: number
  readonly numWaiting: number
  readonly numBlocks: number
  readonly numFreeBlocks: number
  /** Slots with the state of a running sequence; absent if the layers have no state. */
  readonly numHeldStateSlots?: number
  /** Adapters that sequences run with or wait for; absent if the model has none. */
  readonly adapters?: {
    readonly numServed: number
    readonly running: readonly string[]
    readonly waiting: readonly string[]
  }
  /** Engines elsewhere, with their addresses; absent for an engine of this process. */
  readonly upstreams?: readonly { readonly base: string; readonly isTaking: boolean; readonly numRunning: number }[]
  /** Finished operations on KV tiers; absent if there are no tiers. */
  readonly kvOperations?: readonly KvOperationCount[]
  /** null: the engine has no device in this process. */
  readonly device: DeviceMemory | null
  /** null: the engine has no KV cache in this process. */
  readonly cache: CacheConfig | null
}

/** Configuration of the KV cache. */
export interface CacheConfig {
  /** Tokens of a block. */
  readonly blockSize: number
  readonly prefixCaching: boolean
}

/** A model that is served, loaded or not. */
interface ModelGauges {
  readonly name: string
  /** ready, loading, unloading or on_demand. */
  readonly state: string
  /** null: the model is not loaded. */
  readonly stats: Pick<
    EngineGauges,
    'numRunning' | 'numWaiting' | 'numBlocks' | 'numFreeBlocks' | 'numHeldStateSlots' | 'adapters' | 'upstreams'
  > | null
}

/** The source of the engines' metrics. */
export interface ObservedEngine {
  /** Values of all engines together. */
  gauges(): EngineGauges
  /** Values per model. */
  models(): readonly ModelGauges[]
  /** Name of the first model. */
  modelName(): string
}

/** Adds the metrics of the engines. @param observed their source; null: there is no engine yet */
export function addEngineMetrics(instruments: Instruments, observed: () => ObservedEngine | null): void {
  const engine = () => observed()?.gauges() ?? NO_ENGINE
  instruments.gauge(
    'miniserve_num_requests_running',
    'Sequences in the running batch; of engines elsewhere, requests that have had a first token',
    () => engine().numRunning,
  )
  instruments.gauge(
    'miniserve_num_requests_waiting',
    'Sequences waiting to start or resume; of engines elsewhere, requests without a first token',
    () => engine().numWaiting,
  )
  instruments.gauge('miniserve_kv_cache_usage_perc', 'Share of the KV blocks in use, 0 to 1', () => {
    const { numBlocks, numFreeBlocks } = engine()
    return numBlocks === 0 ? 0 : (numBlocks - numFreeBlocks) / numBlocks
  })
  instruments.gauges(
    'miniserve_cache_config_info',
    'Configuration of the KV cache, as labels; always 1',
    ['model_name', 'block_size', 'num_gpu_blocks', 'enable_prefix_caching'],
    () => cacheInfoOf(engine(), observed()?.modelName() ?? 'none'),
  )
  const models = () => observed()?.models() ?? []
  instruments.gauges(
    'miniserve_model_state',
    'State of each model (ready, loading, unloading or on_demand), as a label; always 1',
    ['model_name', 'state'],
    () => models().map(({ name, state }) => ({ labels: { model_name: name, state }, value: 1 })),
  )
  const ofEach = (value: (stats: NonNullable<ModelGauges['stats']>) => number) =>
    models().flatMap(({ name, stats }) =>
      stats === null ? [] : [{ labels: { model_name: name }, value: value(stats) }],
    )
  instruments.gauges(
    'miniserve_model_requests_running',
    "Sequences in the running batch of each model's engine",
    ['model_name'],
    () => ofEach(({ numRunning }) => numRunning),
  )
  instruments.gauges(
    'miniserve_model_requests_waiting',
    "Sequences waiting in each model's engine",
    ['model_name'],
    () => ofEach(({ numWaiting }) => numWaiting),
  )
  instruments.gauges(
    'miniserve_model_kv_cache_usage_perc',
    "Share of each model's KV blocks in use, 0 to 1",
    ['model_name'],
    () => ofEach(({ numBlocks, numFreeBlocks }) => (numBlocks === 0 ? 0 : (numBlocks - numFreeBlocks) / numBlocks)),
  )
  instruments.gauges(
    'miniserve_model_state_slots_held',
    'Slots with the state of a running sequence, by model; models without stateful layers have none',
    ['model_name'],
    () =>
      models().flatMap(({ name, stats }) =>
        stats?.numHeldStateSlots === undefined
          ? []
          : [{ labels: { model_name: name }, value: stats.numHeldStateSlots }],
      ),
  )
  const upstreams = () => models().flatMap(({ stats }) => stats?.upstreams ?? [])
  instruments.gauges(
    'miniserve_upstream_up',
    'Whether an engine elsewhere gets requests (1): its last check was good and it did not fail several times in a row',
    ['upstream'],
    () => upstreams().map(({ base, isTaking }) => ({ labels: { upstream: base }, value: isTaking ? 1 : 0 })),
  )
  instruments.gauges('miniserve_upstream_requests_running', 'Calls to an engine elsewhere that run', ['upstream'], () =>
    upstreams().map(({ base, numRunning }) => ({ labels: { upstream: base }, value: numRunning })),
  )
  // vLLM's labels, which endpoint pickers read.
  instruments.gauges(
    'miniserve_lora_requests_info',
    'Adapters that sequences run with and wait for, as labels; the value is the time in seconds',
    ['max_lora', 'running_lora_adapters', 'waiting_lora_adapters'],
    () => loraInfoOf(models(), Date.now() / 1000),
  )
  instruments.gauges(
    'miniserve_device_memory_bytes',
    'Memory of the device by use: weights, kv_cache (the pool, used or not), scratch (activations, logits)',
    ['device', 'use'],
    () => memoryOf(engine().device),
  )
  const kvOperations = () => engine().kvOperations ?? []
  instruments.mirrors(
    'miniserve_kv_tier_operations_total',
    'Operations on KV tiers that ended',
    ['operation', 'outcome'],
    () => kvOperations().map(({ operation, outcome, count }) => ({ labels: { operation, outcome }, value: count })),
  )
  instruments.mirrors(
    'miniserve_kv_tier_bytes_total',
    'Bytes of KV read from or kept in the tiers',
    ['operation', 'outcome'],
    () => kvOperations().map(({ operation, outcome, bytes }) => ({ labels: { operation, outcome }, value: bytes })),
  )
}

/** With vLLM's labels and spelling. */
function cacheInfoOf({ cache, numBlocks }: EngineGauges, modelName: string): readonly LabelledValue[] {
  if (cache === null) return []
  const labels = {
    model_name: modelName,
    block_size: String(cache.blockSize),
    num_gpu_blocks: String(numBlocks),
    enable_prefix_caching: cache.prefixCaching ? 'True' : 'False',
  }
  return [{ labels, value: 1 }]
}

function loraInfoOf(models: readonly ModelGauges[], seconds: number): readonly LabelledValue[] {
  const served = models.flatMap(({ stats }) => stats?.adapters ?? [])
  if (served.length === 0) return []
  const labels = {
    max_lora: String(served.reduce((sum, { numServed }) => sum + numServed, 0)),
    running_lora_adapters: served.flatMap(({ running }) => running).join(','),
    waiting_lora_adapters: served.flatMap(({ waiting }) => waiting).join(','),
  }
  return [{ labels, value: seconds }]
}

function memoryOf(device: DeviceMemory | null): readonly LabelledValue[] {
  if (device === null) return []
  const { kind, weightBytes, kvCacheBytes, scratchBytes } = device
  const uses = { weights: weightBytes, kv_cache: kvCacheBytes, scratch: scratchBytes }
  return Object.entries(uses).map(([use, value]) => ({ labels: { device: kind, use }, value }))
}

const NO_ENGINE: EngineGauges = {
  numRunning: 0,
  numWaiting: 0,
  numBlocks: 0,
  numFreeBlocks: 0,
  device: null,
  cache: null,
}
