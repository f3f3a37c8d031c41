/**
 * The WebGPU backend: the ops of kernels/ops.ts in WGSL, through Dawn, on any adapter. What does not depend on the step (shapes, pipelines,
 * bind groups) is settled by `ready`; a step launches prepared ops, and endStep writes the step buffer, submits and reads one small buffer back.
 */
import { Handles } from '../handles.ts'
import type { InspectableBackend } from '../inspect.ts'
import type {
  ActivateOptions,
  Activation,
  AttentionOptions,
  Backend,
  BackendInfo,
  BackendOptions,
  ConvolutionOptions,
  ExpertMatrix,
  ExpertsOptions,
  ExpertsUse,
  ExpertWeights,
  GatedDeltaOptions,
  HeadCall,
  KvLayout,
  LayerNorm,
  LinearOptions,
  LogitsOptions,
  LowRank,
  LowRankPart,
  Matrix,
  MatrixData,
  MatrixRows,
  MemoryUse,
  MatrixUse,
  Norm,
  OpSequence,
  Pooling,
  QkvOptions,
  RopeTable,
  RouteOptions,
  Routing,
  RoutingShape,
  SampleRow,
  ScoreRow,
  SelectiveScanOptions,
  StateLayout,
  StepInput,
  StepOutput,
  StoredMatrix,
  Vector,
} from '../ops.ts'
import { AttentionKernels } from './attention.ts'
import { BlockTransfer } from './block-transfer.ts'
import {
  bufferBytes,
  createRows,
  createStorage,
  DispatchList,
  type GpuActivation,
  type GpuContext,
  type GpuVector,
  type PreparedOp,
} from './context.ts'
import { openDevice, type GpuDevice } from './device.ts'
import { embed, layerNorm, normAdd, pool } from './elementwise.ts'
import { importExperts, uploadExperts, type GpuExpertMatrix } from './expert-matrix.ts'
import { ExpertKernels, type GpuRouting } from './experts.ts'
import { LinearKernels } from './linear.ts'
import { LowRankKernels } from './low-rank.ts'
import { wholeMatrix } from '../dequantize.ts'
import { importMatrix, loadMatrix, packedLayout, type GpuMatrix, type MatrixLoader } from './matrix.ts'
import { tryAllocate } from './memory-probe.ts'
import { Pipelines, type KernelSource } from './pipelines.ts'
import { uploadRope, type GpuRope } from './rope.ts'
import { SampleKernels } from './sample.ts'
import { maxStateSlots, StateKernels, stateSlotBytes } from './states.ts'
import { StepQueue, SUBMISSION_OPERATIONS } from './step-queue.ts'
import { maxStepBytes, StepWriter } from './step-layout.ts'

export interface WebGpuBackendOptions extends BackendOptions {
  /** Largest storage binding in bytes to use, below the adapter's own: makes sharding testable with small weights. */
  readonly maxBindingBytes?: number
  /** Floating-point operations that a submission may have; see step-queue.ts. Makes small steps splittable. */
  readonly submissionOperations?: number
  /** Candidates for a threshold of top-k or top-p that are listed, see sample.ts. */
  readonly listCapacity?: number
  /** Do without dot4I8Packed, whatever the adapter has: makes its replacement testable on any. */
  readonly avoidPackedDot?: boolean
}

/** A recorded sequence and, from `ready` on, its ops. */
interface PreparedSequence extends OpSequence {
  readonly ops: () => void
  readonly head: HeadCall | null
  prepared: readonly PreparedOp[] | null
}

/** The WebGPU backend: one device, one recorded step program. */
export class WebGpuBackend implements InspectableBackend {
  readonly info: BackendInfo
  /** The device itself. Destroying it is what a lost device looks like. */
  readonly device: GPUDevice
  readonly #options: WebGpuBackendOptions
  readonly #gpu: GpuDevice
  readonly #context: GpuContext
  readonly #linear: LinearKernels
  readonly #expertKernels: ExpertKernels
  readonly #attention: AttentionKernels
  readonly #states: StateKernels
  readonly #lowRank: LowRankKernels
  readonly #sample: SampleKernels
  readonly #queue: StepQueue
  readonly #blocks: BlockTransfer
  readonly #matrices = new Handles<Matrix, GpuMatrix>('matrix')
  readonly #experts = new Handles<ExpertMatrix, GpuExpertMatrix>('experts')
  readonly #routings = new Handles<Routing, GpuRouting>('routing')
  readonly #vectors = new Handles<Vector, GpuVector>('vector')
  readonly #activations = new Handles<Activation, GpuActivation>('activation')
  readonly #ropes = new Handles<RopeTable, GpuRope>('rope table')
  readonly #sequences: PreparedSequence[] = []
  #stepBuffer: GPUBuffer | null = null
  #nextId = 1
  #input: StepInput | null = null
  /** The first dispatches of the step are submitted. */
  #isContinued = false
  /** Where `pool` puts its rows, [maxSequences, cols], and how many bytes of them the step has. */
  #pooled: GPUBuffer | null = null
  #pooledBytes = 0
  /** While a sequence is prepared, its ops so far. */
  #recording: PreparedOp[] | null = null
  #closed = false

  constructor(options: WebGpuBackendOptions, gpu: GpuDevice) {
    const { device } = gpu
    this.#options = options
    this.#gpu = gpu
    this.device = device
    const capabilities = {
      ...gpu.capabilities,
      hasPackedDot: gpu.capabilities.hasPackedDot && options.avoidPackedDot !== true,
      maxBindingBytes: Math.min(options.maxBindingBytes ?? Infinity, gpu.capabilities.maxBindingBytes),
    }
    this.info = {
      kind: 'webgpu',
      adapter: gpu.adapterName,
      driver: gpu.driver,
      isSoftware: capabilities.isSoftware,
      kvFormat: options.kvFormat === 'q8' ? 'q8' : 'f16',
      hasTimestamps: capabilities.hasTimestamps,
      memoryBudgetBytes: null,
    }
    this.#context = {
      device,
      capabilities,
      submissionOperations: options.submissionOperations ?? SUBMISSION_OPERATIONS,
      pipelines: new Pipelines(device),
      step: new StepWriter(),
      stepBuffer: () => {
        if (this.#stepBuffer === null) throw new Error('createKvCache has not been called')
        return this.#stepBuffer
      },
      dispatches: new DispatchList(),
      nothing: createStorage(device, 'nothing', 16),
      vector: (vector) => this.#vectors.get(vector),
      activation: (activation) => this.#activations.get(activation),
    }
    const { limits } = options
    this.#linear = new LinearKernels(this.#context, Math.max(limits.maxRows, limits.maxSampleRows))
    this.#expertKernels = new ExpertKernels(this.#context, this.#linear)
    this.#attention = new AttentionKernels(this.#context, limits, options.kvFormat === 'q8')
    this.#states = new StateKernels(this.#context, limits)
    this.#lowRank = new LowRankKernels(this.#context, limits.maxRows)
    this.#sample = new SampleKernels(this.#context, this.#linear, limits, options.listCapacity)
    this.#queue = new StepQueue(this.#context, gpu, options)
    this.#blocks = new BlockTransfer(this.#context, this.#attention, this.#queue)
  }

  get packedLayout(): string {
    return packedLayout(this.#matrixLoader())
  }

  async loadMatrix(
    label: string,
    rows: number,
    cols: number,
    data: MatrixData | MatrixRows,
    use: MatrixUse = {},
  ): Promise<Matrix> {
    this.#checkAlive()
    return this.#keep(await loadMatrix(this.#matrixLoader(), label, rows, cols, await wholeMatrix(data, rows), use))
  }

  async importMatrix(
    label: string,
    rows: number,
    cols: number,
    stored: StoredMatrix,
    use: MatrixUse = {},
  ): Promise<Matrix> {
    this.#checkAlive()
    return this.#keep(await importMatrix(this.#matrixLoader(), label, rows, cols, stored, use))
  }

  async loadExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    load: (expert: number) => Promise<MatrixData>,
    use: ExpertsUse = {},
  ): Promise<ExpertMatrix> {
    this.#checkAlive()
    const loaded = await uploadExperts(this.#matrixLoader(), label, { numExperts, rows, cols }, load, use)
    this.#checkAlive()
    return this.#experts.add(loaded)
  }

  async importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
    use: ExpertsUse = {},
  ): Promise<ExpertMatrix> {
    this.#checkAlive()
    const loaded = await importExperts(this.#matrixLoader(), label, { numExperts, rows, cols }, stored, use)
    this.#checkAlive()
    return this.#experts.add(loaded)
  }

  #keep(matrix: GpuMatrix): Matrix {
    this.#checkAlive()
    return this.#matrices.add(matrix)
  }

  loadVector(label: string, values: Float32Array): Vector {
    this.#checkAlive()
    // Padded like activations: kernels read whole blocks.
    const buffer = createStorage(this.device, label, Math.ceil(values.length / 32) * 128)
    this.device.queue.writeBuffer(buffer, 0, values.slice())
    return this.#vectors.add({ label, length: values.length, id: this.#nextId++, buffer })
  }

  loadLowRank(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank {
    this.#checkAlive()
    return this.#lowRank.load(label, rows, cols, adapters)
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    return this.#ropes.add({
      label,
      rotaryDim: inverseFrequencies.length * 2,
      inverseFrequencies,
      attentionFactor,
      buffer: null,
    })
  }

  createActivation(label: string, cols: number): Activation {
    this.#checkAlive()
    const stride = Math.ceil(cols / 32) * 32
    const { maxRows } = this.#options.limits
    const buffer = createRows(this.#context, label, maxRows, stride * 4)
    return this.#activations.add({ label, cols, stride, maxRows, id: this.#nextId++, buffer })
  }

  createRouting(label: string, shape: RoutingShape): Routing {
    this.#checkAlive()
    const { maxRows } = this.#options.limits
    return this.#routings.add(this.#expertKernels.createRouting(label, shape, maxRows, () => this.#nextId++))
  }

  memoryUse(): MemoryUse {
    const shards = [...this.#matrices.values(), ...this.#experts.values()].flatMap((matrix) => [...matrix.shards])
    return {
      weightBytes:
        bufferBytes([
          ...shards.flatMap(({ codes, scales }) => [codes, scales]),
          ...this.#vectors.values().map(({ buffer }) => buffer),
        ]) + this.#lowRank.weightBytes,
      kvCacheBytes: bufferBytes(this.#attention.pools.map(({ buffer }) => buffer)) + this.#states.poolBytes,
      scratchBytes:
        bufferBytes([
          this.#stepBuffer,
          this.#pooled,
          this.#context.nothing,
          ...[...this.#activations.values(), ...this.#ropes.values()].map(({ buffer }) => buffer),
        ]) +
        this.#linear.scratchBytes +
        this.#expertKernels.scratchBytes +
        this.#attention.scratchBytes +
        this.#states.scratchBytes +
        this.#lowRank.scratchBytes +
        this.#sample.scratchBytes,
    }
  }

  createKvCache(layout: KvLayout): void {
    this.#checkAlive()
    this.#attention.createPool(layout)
    const { limits } = this.#options
    const bytes = maxStepBytes(limits, AttentionKernels.numPartials(layout, limits))
    this.#stepBuffer = createStorage(this.device, 'step', bytes)
  }

  createStatePool(layout: StateLayout): void {
    this.#checkAlive()
    this.#states.createPool(layout)
  }

  stateSlotBytes(layout: StateLayout): number {
    return stateSlotBytes(layout)
  }

  maxStateSlots(layout: StateLayout): number {
    return maxStateSlots(layout, this.#context.capabilities.maxBindingBytes)
  }

  record(label: string, ops: () => void, head: HeadCall | null): OpSequence {
    const sequence: PreparedSequence = { label, ops, head, prepared: null }
    this.#sequences.push(sequence)
    return sequence
  }

  kvBlockBytes(layout: KvLayout): number {
    return this.#blocks.blockBytes(layout)
  }

  maxKvBlocks(layout: KvLayout): number {
    return this.#attention.maxBlocks(layout)
  }

  /** Not of a software adapter, whose memory is the host's. */
  async tryAllocate(atMostBytes: number): Promise<number> {
    return this.info.isSoftware ? atMostBytes : tryAllocate(this.device, atMostBytes)
  }

  async ready(signal?: AbortSignal): Promise<void> {
    this.#checkAlive()
    const numPositions = this.#options.limits.maxBlocksPerSequence * this.#attention.layout.blockSize
    for (const table of this.#ropes.values()) table.buffer ??= uploadRope(this.device, table, numPositions)
    const sources: KernelSource[] = []
    for (const sequence of this.#sequences) {
      sequence.prepared = this.#prepare(sequence.ops)
      sources.push(...sequence.prepared.flatMap((op) => op.sources))
      const { head } = sequence
      if (head !== null) sources.push(...this.#sample.sources(this.#matrices.get(head.head), head.options))
    }
    await this.#context.pipelines.compile(sources, signal)
    await this.device.queue.onSubmittedWorkDone()
    const refused = this.#gpu.takeError()
    if (refused !== null) throw refused
  }

  #prepare(ops: () => void): readonly PreparedOp[] {
    const prepared: PreparedOp[] = []
    this.#recording = prepared
    try {
      ops()
    } finally {
      this.#recording = null
    }
    return prepared
  }

  copyBlock(source: number, destination: number, numTokens: number): void {
    this.#abandonStep()
    this.#blocks.copy(source, destination, numTokens)
  }

  beginStep(input: StepInput): void {
    if (this.#closed) throw new Error('the backend is closed')
    this.#abandonStep()
    const { maxBlocksPerSequence, maxRows, maxSequences } = this.#options.limits
    if (
      input.numRows > maxRows ||
      input.numSequences > maxSequences ||
      input.maxBlocksPerSequence > maxBlocksPerSequence
    ) {
      this.#blocks.abandonCopies()
      throw new Error(
        `step of ${input.numRows} rows, ${input.numSequences} sequences, ${input.maxBlocksPerSequence} blocks per sequence exceeds the limits ${maxRows}, ${maxSequences}, ${maxBlocksPerSequence}`,
      )
    }
    this.#input = input
    this.#pooledBytes = 0
    this.#isContinued = false
    this.#context.dispatches.clear()
    this.#context.step.begin(input, this.#attention.layout.blockSize)
    this.#attention.beginStep(input)
    this.#states.beginStep(input)
    this.#sample.beginStep()
  }

  run(sequence: OpSequence): void {
    const { numRows } = this.#step()
    const { prepared } = sequence as PreparedSequence
    if (prepared === null) throw new Error(`${sequence.label} was recorded after ready`)
    for (const op of prepared) op.launch(numRows)
  }

  /** Part of the sequence that is being prepared, or else of the step. */
  #add(op: PreparedOp): void {
    if (this.#recording !== null) this.#recording.push(op)
    else op.launch(this.#step().numRows)
  }

  embed(out: Activation, table: Matrix, scale: number): void {
    this.#add(embed(this.#context, out, this.#matrices.get(table), scale, this.#sample.sampled))
  }

  embedAdd(out: Activation, table: Matrix): void {
    this.#add(embed(this.#context, out, this.#matrices.get(table), 1, this.#sample.sampled, true))
  }

  linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void {
    this.#add(this.#linear.linear(out, x, this.#matrices.get(w), options))
  }

  addLowRank(out: Activation, x: Activation, update: LowRank, norm?: Norm): void {
    this.#add(this.#lowRank.add(out, x, update, norm))
  }

  activate(out: Activation, x: Activation, options: ActivateOptions): void {
    this.#add(this.#lowRank.activate(out, x, options))
  }

  normAdd(residual: Activation, x: Activation, norm: Norm): void {
    this.#add(normAdd(this.#context, residual, x, norm))
  }

  layerNorm(out: Activation, x: Activation, norm: LayerNorm): void {
    this.#add(layerNorm(this.#context, out, x, norm))
  }

  route(routing: Routing, logits: Activation, options: RouteOptions): void {
    this.#add(this.#expertKernels.route(this.#routings.get(routing), logits, options))
  }

  experts(out: Activation, x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void {
    const [gateUp, down] = [this.#experts.get(weights.gateUp), this.#experts.get(weights.down)]
    this.#add(this.#expertKernels.experts(out, x, gateUp, down, weights, this.#routings.get(routing), options))
  }

  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void {
    const rope = options.rope === null ? null : this.#ropes.get(options.rope)
    this.#add(this.#attention.qkvRopeStore(q, qkv, options, rope))
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    this.#add(this.#attention.attention(out, q, options))
  }

  pool(x: Activation, pooling: Pooling): void {
    const { limits } = this.#options
    this.#pooled ??= createRows(this.#context, 'pooled', limits.maxSequences, x.cols * 4)
    this.#add(
      pool(this.#context, x, pooling, this.#pooled, () => {
        const { numSequences } = this.#step()
        this.#pooledBytes = numSequences * x.cols * 4
        return numSequences
      }),
    )
  }

  sigmoidGate(x: Activation, gate: Activation): void {
    this.#add(this.#states.sigmoidGate(x, gate))
  }

  convolution(out: Activation, x: Activation, options: ConvolutionOptions): void {
    this.#add(this.#states.convolution(out, x, options))
  }

  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): void {
    this.#add(this.#states.gatedDelta(out, x, options))
  }

  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): void {
    this.#add(this.#states.selectiveScan(out, x, options))
  }

  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void {
    this.#sample.sample(x, this.#matrices.get(head), options, rows, this.#step().positions)
  }

  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    this.#step()
    this.#sample.score(x, this.#matrices.get(head), options, rows)
  }

  flush(): void {
    this.#step()
    const { dispatches, step } = this.#context
    this.device.queue.writeBuffer(this.#context.stepBuffer(), 0, step.words())
    this.#blocks.submitCopies()
    if (!this.#queue.submitFirst(dispatches)) return
    dispatches.clear()
    this.#isContinued = true
  }

  async endStep(options?: { readonly logits?: boolean }): Promise<StepOutput> {
    const { numRows } = this.#step()
    this.#input = null
    // Checked here, not in the ops: the caller's contract is that endStep rejects.
    if (this.#gpu.lost.error !== null) throw this.#gpu.lost.error
    const { dispatches, step } = this.#context
    this.device.queue.writeBuffer(this.#context.stepBuffer(), 0, step.words())
    this.#blocks.submitCopies()
    const pooledBytes = this.#pooledBytes
    const logitsBytes = options?.logits === true ? this.#sample.logitsBytes : 0
    if (pooledBytes > 0 && logitsBytes > 0) throw new Error('a step gives pooled rows or logits, not both')
    const { values, ...results } = await this.#queue.submit({
      dispatches,
      isContinued: this.#isContinued,
      layout: this.#sample.layout,
      results: this.#sample.results,
      numRows,
      valueBytes: pooledBytes + logitsBytes,
      copyValues: (encoder, target) =>
        pooledBytes > 0
          ? encoder.copyBufferToBuffer(this.#pooled!, 0, target, 0, pooledBytes)
          : this.#sample.copyLogits(encoder, target),
    })
    return { ...results, logits: pooledBytes > 0 ? null : values, pooled: pooledBytes > 0 ? values : null }
  }

  async readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    this.#checkAlive()
    return this.#blocks.read(blocks)
  }

  async writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    this.#checkAlive()
    this.#blocks.write(blocks, bytes)
    return Promise.resolve()
  }

  debugWrite(activation: Activation, values: Float32Array): void {
    const { buffer, cols, stride } = this.#context.activation(activation)
    const rows = values.length / cols
    if (!Number.isInteger(rows) || rows > this.#options.limits.maxRows) {
      throw new Error(
        `debugWrite ${activation.label}: ${values.length} values are no ${this.#options.limits.maxRows} rows or fewer of ${cols}`,
      )
    }
    const padded = new Float32Array(rows * stride)
    for (let row = 0; row < rows; row++) padded.set(values.subarray(row * cols, (row + 1) * cols), row * stride)
    this.device.queue.writeBuffer(buffer, 0, padded)
  }

  async debugRead(activation: Activation): Promise<Float32Array> {
    const { buffer, cols, stride } = this.#context.activation(activation)
    const bytes = await this.#queue.readBuffer(buffer.size, (encoder, target) =>
      encoder.copyBufferToBuffer(buffer, 0, target, 0, buffer.size),
    )
    const padded = new Float32Array(bytes)
    const rows = this.#options.limits.maxRows
    const values = new Float32Array(rows * cols)
    for (let row = 0; row < rows; row++) values.set(padded.subarray(row * stride, row * stride + cols), row * cols)
    return values
  }

  close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true
      this.device.destroy()
      this.#matrices.clear()
      this.#experts.clear()
      this.#routings.clear()
      this.#vectors.clear()
      this.#lowRank.clear()
      this.#activations.clear()
      this.#ropes.clear()
    }
    return Promise.resolve()
  }

  #matrixLoader(): MatrixLoader {
    return {
      device: this.device,
      maxBindingBytes: this.#context.capabilities.maxBindingBytes,
    }
  }

  /** What a step that began and never ended has left: its copies are not the next step's. */
  #abandonStep(): void {
    if (this.#input === null) return
    this.#input = null
    this.#blocks.abandonCopies()
  }

  #step(): StepInput {
    if (this.#input === null) throw new Error('an op was called outside beginStep .. endStep')
    return this.#input
  }

  #checkAlive(): void {
    if (this.#closed) throw new Error('the backend is closed')
    if (this.#gpu.lost.error !== null) throw this.#gpu.lost.error
  }
}

/**
 * Opens the best adapter (software ones included; `hasRealGpu` tells).
 * @throws Error that says what to install when there is none
 */
export async function createWebGpuBackend(options: WebGpuBackendOptions): Promise<Backend & WebGpuBackend> {
  return new WebGpuBackend(options, await openDevice())
}
