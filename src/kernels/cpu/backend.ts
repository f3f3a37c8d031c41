/**
 * The cpu backend: SIMD WebAssembly on a pool of threads over one shared memory. Ops are recorded as commands; a step, or the part of it up to its
 * sampling, then runs as one program on all threads (assembly/index.ts), so that an op costs a barrier, not a call.
 */
import { cpus } from 'node:os'
import type { InspectableBackend } from '../inspect.ts'
import type {
  BackendInfo,
  BackendOptions,
  ExpertsUse,
  MemoryUse,
  MatrixUse,
  OpSequence,
  RepeatedOps,
  StoredMatrix,
} from '../backend.ts'
import type {
  ActivateOptions,
  Activation,
  AttentionOptions,
  Columns,
  ConvolutionOptions,
  ExpertMatrix,
  ExpertsOptions,
  ExpertWeights,
  GatedDeltaOptions,
  KvLayout,
  LayerNorm,
  LinearOptions,
  LogitsOptions,
  LowRank,
  LowRankPart,
  Matrix,
  MatrixData,
  MatrixRows,
  Norm,
  Pooling,
  QkvOptions,
  RopeTable,
  RouteOptions,
  Routing,
  RoutingShape,
  SelectiveScanOptions,
  StateLayout,
  StepInput,
  StepOutput,
  StreamOptions,
  Vector,
} from '../ops.ts'
import type { SampleRow, ScoreRow } from '../sample-spec.ts'
import { Arena } from './arena.ts'
import { defaultThreads } from './cores.ts'
import { Executor } from './executor.ts'
import { LowRankOps } from './low-rank-ops.ts'
import { MatrixPacker, PACKED_LAYOUT } from './matrices.ts'
import { Output } from './output.ts'
import { Pool } from './pool.ts'
import { Program } from './program.ts'
import { Recorder } from './recorder.ts'
import { Resources } from './resources.ts'
import { RowOps } from './row-ops.ts'
import { StateOps, stateSlotBytes } from './state-ops.ts'
import { StepInputs } from './step-inputs.ts'
import { WorkingMemory } from './working-memory.ts'

interface CpuBackendOptions extends BackendOptions {
  /** Threads that compute, the calling one included; null: physical cores, at most 8. */
  readonly threads: number | null
  /** Use relaxed SIMD where the runtime has it. Default true. */
  readonly relaxedSimd?: boolean
}

class CpuBackend implements InspectableBackend {
  readonly #arena: Arena
  readonly #pool: Pool
  readonly #executor: Executor
  readonly #resources: Resources
  readonly #memory: WorkingMemory
  readonly #step: StepInputs
  readonly #recorder: Recorder
  readonly #rows: RowOps
  readonly #states: StateOps
  readonly #lowRank: LowRankOps
  readonly #output: Output

  constructor(options: CpuBackendOptions, arena: Arena, pool: Pool) {
    const { limits, traceKernels, kvFormat = 'f16' } = options
    const { numThreads } = pool
    const program = new Program(arena)
    const executor = new Executor(program, pool, traceKernels)
    const packer = new MatrixPacker(arena, program, () => executor.run())
    this.#arena = arena
    this.#pool = pool
    this.#executor = executor
    this.#resources = new Resources(arena, packer, limits.maxRows, kvFormat)
    this.#memory = new WorkingMemory(limits, arena, program, this.#resources, numThreads)
    this.#step = new StepInputs(limits, arena)
    this.#recorder = new Recorder(program, executor, this.#resources, this.#step, this.#memory, numThreads)
    this.#rows = new RowOps(program, this.#resources, this.#step)
    this.#states = new StateOps(arena, program, executor, this.#resources, this.#step)
    this.#lowRank = new LowRankOps(arena, program, executor, this.#resources, this.#step, limits.maxRows)
    this.#output = new Output(limits, arena, this.#recorder, executor)
  }

  get info(): BackendInfo {
    const { numThreads, relaxed } = this.#pool
    return {
      kind: 'cpu',
      adapter: `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${numThreads} ${numThreads === 1 ? 'thread' : 'threads'}`,
      driver: `node ${process.version}, WebAssembly ${relaxed ? 'relaxed SIMD' : 'SIMD'}`,
      isSoftware: false,
      kvFormat: this.#resources.kvFormat,
      hasTimestamps: false,
      memoryBudgetBytes: this.#memory.budget(),
    }
  }

  readonly packedLayout = PACKED_LAYOUT

  async loadMatrix(
    label: string,
    rows: number,
    cols: number,
    data: MatrixData | MatrixRows,
    use: MatrixUse = {},
  ): Promise<Matrix> {
    return this.#resources.loadMatrix(label, rows, cols, data, use)
  }

  async importMatrix(
    label: string,
    rows: number,
    cols: number,
    stored: StoredMatrix,
    use: MatrixUse = {},
  ): Promise<Matrix> {
    return this.#resources.importMatrix(label, rows, cols, stored, use)
  }

  async loadExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    load: (expert: number) => Promise<MatrixData>,
    use: ExpertsUse = {},
  ): Promise<ExpertMatrix> {
    return this.#resources.loadExperts(label, numExperts, rows, cols, load, use)
  }

  async importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
    use: ExpertsUse = {},
  ): Promise<ExpertMatrix> {
    return this.#resources.importExperts(label, numExperts, rows, cols, stored, use)
  }

  loadVector(label: string, values: Float32Array): Vector {
    return this.#resources.loadVector(label, values)
  }

  loadLowRank(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank {
    return this.#lowRank.load(label, rows, cols, adapters)
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    return this.#resources.loadRope(label, inverseFrequencies, attentionFactor)
  }

  createActivation(label: string, cols: number): Activation {
    return this.#resources.createActivation(label, cols)
  }

  createRouting(label: string, shape: RoutingShape): Routing {
    return this.#resources.createRouting(label, shape)
  }

  createKvCache(layout: KvLayout): void {
    this.#resources.createKvCache(layout)
  }

  kvBlockBytes(layout: KvLayout): number {
    return this.#resources.kvBlockBytes(layout)
  }

  maxKvBlocks(): number {
    return Infinity
  }

  createStatePool(layout: StateLayout): void {
    this.#states.createPool(layout)
  }

  stateSlotBytes(layout: StateLayout): number {
    return stateSlotBytes(layout)
  }

  maxStateSlots(): number {
    return Infinity
  }

  memoryUse(): MemoryUse {
    const weightBytes = this.#resources.weightBytes + this.#lowRank.bytes
    const kvCacheBytes = this.#resources.kvCacheBytes + this.#states.bytes
    return { weightBytes, kvCacheBytes, scratchBytes: this.#arena.usedBytes - weightBytes - kvCacheBytes }
  }

  record(label: string, ops: () => void): RepeatedOps {
    return { label, ops }
  }

  ready(): Promise<void> {
    this.#memory.reuse(this.#resources.takeStaging())
    this.#memory.reserve()
    this.#lowRank.ready()
    return Promise.resolve()
  }

  copyBlock(source: number, destination: number, numTokens: number): void {
    this.#resources.kvCache().copy(source, destination, numTokens)
  }

  run(sequence: OpSequence): void {
    ;(sequence as RepeatedOps).ops()
  }

  beginStep(input: StepInput): void {
    this.#step.check(input)
    this.#memory.reserve()
    this.#executor.beginStep()
    this.#output.begin()
    this.#step.begin(input, this.#output.previous, this.#resources.kvLayout?.blockSize ?? 1)
  }

  embed(out: Activation, table: Matrix, scale: number, adds = false): void {
    this.#rows.embed(out, table, scale, adds)
  }

  embedAdd(out: Activation, table: Matrix): void {
    this.#rows.embedAdd(out, table)
  }

  linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void {
    this.#recorder.linear(out, x, w, options)
  }

  addLowRank(out: Activation, x: Activation, update: LowRank, norm?: Norm): void {
    this.#lowRank.add(out, x, update, norm)
  }

  activate(out: Activation, x: Activation, options: ActivateOptions): void {
    this.#lowRank.activate(out, x, options)
  }

  normAdd(residual: Activation, x: Activation, norm: Norm, scale = 1): void {
    this.#rows.normAdd(residual, x, norm, scale)
  }

  rmsNorm(out: Activation, x: Activation, norm: Norm): void {
    this.#rows.rmsNorm(out, x, norm)
  }

  add(residual: Activation, x: Activation, scale: number): void {
    this.#rows.add(residual, x, scale)
  }

  multiply(x: Activation, y: Columns): void {
    this.#rows.multiply(x, y)
  }

  sparseGelu(x: Activation, deviations: number): void {
    this.#rows.sparseGelu(x, deviations)
  }

  matchLength(x: Activation, reference: Activation): void {
    this.#rows.matchLength(x, reference)
  }

  predictStreams(out: Activation, options: StreamOptions): void {
    this.#rows.predictStreams(out, options)
  }

  correctStreams(x: Activation, scale: Vector, options: StreamOptions): void {
    this.#rows.correctStreams(x, scale, options)
  }

  layerNorm(out: Activation, x: Activation, norm: LayerNorm): void {
    this.#rows.layerNorm(out, x, norm)
  }

  route(routing: Routing, logits: Activation, options: RouteOptions): void {
    this.#recorder.route(routing, logits, options)
  }

  experts(out: Activation, x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void {
    this.#recorder.experts(out, x, weights, routing, options)
  }

  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void {
    this.#recorder.qkvRopeStore(q, qkv, options)
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    this.#recorder.attention(out, q, options)
  }

  pool(x: Activation, pooling: Pooling): void {
    this.#output.pool(this.#resources.activation(x), pooling, this.#step.input)
  }

  sigmoidGate(x: Activation, gate: Activation): void {
    this.#states.sigmoidGate(x, gate)
  }

  convolution(out: Activation, x: Activation, options: ConvolutionOptions): void {
    this.#states.convolution(out, x, options)
  }

  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): void {
    this.#states.gatedDelta(out, x, options)
  }

  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): void {
    this.#states.selectiveScan(out, x, options)
  }

  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void {
    this.#output.sample(x, head, options, rows, this.#step.input.positions)
  }

  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    this.#output.score(x, head, options, rows)
  }

  flush(): void {
    this.#executor.run()
  }

  endStep(options?: { readonly logits?: boolean }): Promise<StepOutput> {
    this.#step.end()
    const kernels = this.#executor.endStep()
    const { sampled, sampledLogprobs, scores, pooled } = this.#output.results
    return Promise.resolve({
      sampled,
      sampledLogprobs,
      scores,
      pooled,
      gpuMicros: null,
      logits: options?.logits === true ? this.#output.copyLogits() : null,
      kernels,
    })
  }

  readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    return Promise.resolve(this.#resources.kvCache().read(blocks))
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    this.#resources.kvCache().write(blocks, bytes)
    return Promise.resolve()
  }

  debugWrite(activation: Activation, values: Float32Array): void {
    this.#resources.writeRows(activation, values)
  }

  debugRead(activation: Activation): Promise<Float32Array> {
    return Promise.resolve(this.#resources.readRows(activation))
  }

  close(): Promise<void> {
    return this.#pool.close()
  }
}

/**
 * Starts the pool and returns a backend whose calls run on the calling thread and the pool's. Throws when the kernels have not been built.
 */
export async function createCpuBackend(options: CpuBackendOptions): Promise<InspectableBackend> {
  const arena = new Arena()
  const pool = await Pool.start(arena, options.threads ?? defaultThreads(), options.relaxedSimd ?? true)
  return new CpuBackend(options, arena, pool)
}
