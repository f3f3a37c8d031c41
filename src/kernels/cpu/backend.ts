/**
 * The cpu backend: SIMD WebAssembly on a pool of threads over shared memory. Ops are recorded as commands. A step, or its part up to sampling,
 * then runs as one program on all threads (assembly/index.ts), so that each op costs a barrier, not a call from JavaScript. A model larger than
 * the 4 GiB of one memory uses several (shards.ts); then a new program begins wherever a step moves from one memory to another.
 */
import { cpus } from 'node:os'
import { checkExperts } from '../experts.ts'
import type { InspectableBackend } from '../inspect.ts'
import type { BackendInfo, BackendOptions, OpSequence, RepeatedOps } from '../backend.ts'
import type { AttentionOptions, HeadProductsOptions, QkvOptions } from '../attention-options.ts'
import type {
  ActivateOptions,
  Activation,
  Columns,
  ConvolutionOptions,
  ExpertsOptions,
  ExpertWeights,
  GatedDeltaOptions,
  LayerNorm,
  LinearOptions,
  LogitsOptions,
  LowRank,
  Matrix,
  Norm,
  Pooling,
  RouteOptions,
  Routing,
  SelectiveScanOptions,
  StepInput,
  StepOutput,
  StreamOptions,
  Vector,
} from '../ops.ts'
import type { SampleRow, ScoreRow } from '../sample-spec.ts'
import { Arena } from './arena.ts'
import { defaultThreads } from './cores.ts'
import type { KvCache } from './kv-cache.ts'
import { outputStep } from '../output-rows.ts'
import { BUILD_NAMES, fastestBuild, type KernelBuild } from './kernel-build.ts'
import { ModelMemory } from './model-memory.ts'
import { emptyResults, type StepResults } from './output.ts'
import { Pool } from './pool.ts'
import { Shards } from './shards.ts'
import type { Resources } from './resources.ts'
import { rehearsedStep } from './step-inputs.ts'

interface CpuBackendOptions extends BackendOptions {
  /** Number of computing threads, including the calling one; null: as many as physical cores, at most 8. */
  readonly threads: number | null
  /** The build of the kernels, for tests and benchmarks: else the fastest on this processor. */
  readonly kernels?: KernelBuild
  /** For tests: the most bytes of weights, KV and states in one memory. Absent: as many as fit. */
  readonly memoryBytes?: number
}

class CpuBackend extends ModelMemory implements InspectableBackend {
  readonly #pool: Pool
  readonly #sequences: RepeatedOps[] = []
  #results: StepResults = emptyResults()
  /** The tokens that the previous step drew. */
  #previous: Int32Array = new Int32Array(0)

  constructor(options: CpuBackendOptions, arena: Arena, pool: Pool) {
    super(options, new Shards(options, arena, pool, options.memoryBytes ?? Infinity))
    this.#pool = pool
  }

  get info(): BackendInfo {
    const { numThreads, build } = this.#pool
    return {
      kind: 'cpu',
      adapter: `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${numThreads} ${numThreads === 1 ? 'thread' : 'threads'}`,
      driver: `node ${process.version}, WebAssembly ${BUILD_NAMES[build]}`,
      isSoftware: false,
      kvFormat: this.kvFormat,
      hasTimestamps: false,
      memoryBudgetBytes: this.budget(),
    }
  }

  record(label: string, ops: () => void): RepeatedOps {
    const sequence = { label, ops }
    this.#sequences.push(sequence)
    return sequence
  }

  /** Records the ops once on a made-up token, without running them: so all memory is allocated and all shapes are checked before the first step. */
  ready(): Promise<void> {
    const { all, common, executor } = this.shards
    for (const shard of all) shard.ready()
    for (const { ops } of this.#sequences) {
      this.beginStep(rehearsedStep())
      executor.rehearse(ops)
      this.shards.endStep()
    }
    this.#results = emptyResults()
    if (common.kv !== null) this.shards.placeLayers(common.kv)
    if (common.states !== null) this.shards.placeLayers(common.states)
    for (const { memory } of all) memory.reserve()
    return Promise.resolve()
  }

  copyBlock(source: number, destination: number, numTokens: number): void {
    this.#kv.copy(source, destination, numTokens)
  }

  get #kv(): KvCache {
    const kv = this.shards.current.resources.kvCache()
    this.shards.placeLayers(kv)
    return kv
  }

  run(sequence: OpSequence): void {
    ;(sequence as RepeatedOps).ops()
  }

  beginStep(input: StepInput): void {
    this.shards.current.step.check(input)
    this.shards.executor.beginStep()
    this.#previous = this.#results.sampled
    this.#results = emptyResults()
    this.#beginRows(input)
  }

  /** Sets the rows that the following ops work on. */
  #beginRows(input: StepInput): void {
    const { common } = this.shards
    common.numRows = input.numRows
    this.shards.beginStep(({ memory, output, step }) => {
      memory.reserve()
      output.begin(this.#results, this.#previous)
      step.begin(input, this.#previous, common.kv?.layout.blockSize ?? 1)
    })
  }

  /** Runs what is recorded so far, then moves the rows on this thread, since they are few. */
  keepOutputs(activations: readonly Activation[]): void {
    const { input } = this.shards.current.step
    const kept = outputStep(input)
    if (kept === input) return
    this.shards.executor.run()
    for (const activation of activations) this.#holder(activation).moveRows(activation, input.outputRows!)
    this.#beginRows(kept)
  }

  embed(out: Activation, table: Matrix, scale: number, adds = false): void {
    this.shards.withTable(table).rows.embed(out, table, scale, adds)
  }

  embedAdd(out: Activation, table: Matrix): void {
    this.shards.withTable(table).rows.embedAdd(out, table)
  }

  linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void {
    this.shards.withMatrix(w).recorder.linear(out, x, w, options)
  }

  addLowRank(out: Activation, x: Activation, update: LowRank, norm?: Norm): void {
    this.shards.withUpdate(update).lowRank.add(out, x, update, norm)
  }

  activate(out: Activation, x: Activation, options: ActivateOptions): void {
    this.shards.current.lowRank.activate(out, x, options)
  }

  normAdd(residual: Activation, x: Activation, norm: Norm, scale = 1): void {
    this.shards.current.rows.normAdd(residual, x, norm, scale)
  }

  rmsNorm(out: Activation, x: Activation, norm: Norm): void {
    this.shards.current.rows.rmsNorm(out, x, norm)
  }

  add(residual: Activation, x: Activation, scale: number): void {
    this.shards.current.rows.add(residual, x, scale)
  }

  multiply(x: Activation, y: Columns): void {
    this.shards.current.rows.multiply(x, y)
  }

  sparseGelu(x: Activation, deviations: number): void {
    this.shards.current.rows.sparseGelu(x, deviations)
  }

  matchLength(x: Activation, reference: Activation): void {
    this.shards.current.rows.matchLength(x, reference)
  }

  predictStreams(out: Activation, options: StreamOptions): void {
    this.shards.current.rows.predictStreams(out, options)
  }

  correctStreams(x: Activation, scale: Vector, options: StreamOptions): void {
    this.shards.current.rows.correctStreams(x, scale, options)
  }

  layerNorm(out: Activation, x: Activation, norm: LayerNorm): void {
    this.shards.current.rows.layerNorm(out, x, norm)
  }

  route(routing: Routing, logits: Activation, options: RouteOptions): void {
    this.shards.current.recorder.route(routing, logits, options)
  }

  experts(out: Activation, x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void {
    checkExperts(out, x, weights.gateUp, weights.down, routing, options.glu !== undefined)
    this.shards.withExperts(weights.gateUp).recorder.expertsInner(x, weights, routing, options)
    this.shards.withExperts(weights.down).recorder.expertsOuter(out, weights, routing, options)
  }

  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void {
    this.shards.withKv(options.layer).recorder.qkvRopeStore(q, qkv, options)
  }

  headProducts(out: Columns, options: HeadProductsOptions): void {
    this.shards.current.recorder.headProducts(out, options)
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    this.shards.withKv(options.layer).recorder.attention(out, q, options)
  }

  pool(x: Activation, pooling: Pooling): void {
    this.shards.current.output.pool(this.shards.current.resources.source(x), pooling, this.shards.current.step.input)
  }

  sigmoidGate(x: Activation, gate: Activation): void {
    this.shards.current.states.sigmoidGate(x, gate)
  }

  convolution(out: Activation, x: Activation, options: ConvolutionOptions): void {
    this.shards.withStates(options.layer).states.convolution(out, x, options)
  }

  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): void {
    this.shards.withStates(options.layer).states.gatedDelta(out, x, options)
  }

  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): void {
    this.shards.withStates(options.layer).states.selectiveScan(out, x, options)
  }

  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void {
    const { output, step } = this.shards.withMatrix(head)
    output.sample(x, head, options, rows, step.input.positions)
  }

  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    this.shards.withMatrix(head).output.score(x, head, options, rows)
  }

  flush(): void {
    this.shards.executor.run()
  }

  endStep(options?: { readonly logits?: boolean }): Promise<StepOutput> {
    const kernels = this.shards.executor.endStep()
    this.shards.endStep()
    const { sampled, sampledLogprobs, scores, pooled, copyLogits } = this.#results
    return Promise.resolve({
      sampled,
      sampledLogprobs,
      scores,
      pooled,
      gpuMicros: null,
      logits: options?.logits === true ? copyLogits() : null,
      kernels,
    })
  }

  readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    return Promise.resolve(this.#kv.read(blocks))
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    this.#kv.write(blocks, bytes)
    return Promise.resolve()
  }

  debugWrite(activation: Activation, values: Float32Array): void {
    this.#holder(activation).writeRows(activation, values)
  }

  debugRead(activation: Activation): Promise<Float32Array> {
    return Promise.resolve(this.#holder(activation).readRows(activation))
  }

  /** The resources of a memory that holds the activation's values. */
  #holder(activation: Activation): Resources {
    const { common } = this.shards
    return common.resources[common.residence.holder(activation)]!
  }

  close(): Promise<void> {
    return this.#pool.close()
  }
}

/**
 * Starts the thread pool and creates a backend that computes on the calling thread and the pool.
 * @throws when the kernels have not been built
 */
export async function createCpuBackend(options: CpuBackendOptions): Promise<InspectableBackend> {
  const arena = new Arena()
  const pool = await Pool.start(arena, options.threads ?? defaultThreads(), options.kernels ?? (await fastestBuild()))
  return new CpuBackend(options, arena, pool)
}
