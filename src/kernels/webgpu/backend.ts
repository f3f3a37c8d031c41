/**
 * The WebGPU backend: the ops of kernels/ops.ts in WGSL, through Dawn, on any adapter. Ops are only recorded; endStep writes the step buffer,
 * submits one compute pass and reads one small buffer back.
 */
import { Handles } from '../handles.ts'
import type { InspectableBackend } from '../inspect.ts'
import type {
  Activation,
  AttentionOptions,
  Backend,
  BackendInfo,
  BackendOptions,
  KvLayout,
  LinearOptions,
  LogitsOptions,
  Matrix,
  MatrixData,
  MemoryUse,
  MatrixUse,
  Norm,
  QkvOptions,
  RopeTable,
  SampleRow,
  ScoreRow,
  StepInput,
  StepOutput,
  StoredMatrix,
  Vector,
} from '../ops.ts'
import { AttentionKernels } from './attention.ts'
import { BlockTransfer } from './block-transfer.ts'
import { Bindings, bufferBytes, createStorage, type GpuActivation, type GpuContext, type GpuVector } from './context.ts'
import { openDevice, type Capabilities, type GpuDevice } from './device.ts'
import { embed, normAdd } from './elementwise.ts'
import { LinearKernels, shapeKey, type LinearVariant } from './linear.ts'
import { importMatrix, loadMatrix, packedLayout, type GpuMatrix, type MatrixLoader } from './matrix.ts'
import { Pipelines } from './pipelines.ts'
import { uploadRope, type GpuRope } from './rope.ts'
import { SampleKernels } from './sample.ts'
import { StepQueue } from './step-queue.ts'
import { chooseTiles } from './tune-measure.ts'
import { maxStepBytes, StepWriter } from './step-layout.ts'

export { hasAdapter, hasRealGpu } from './device.ts'

export interface WebGpuBackendOptions extends BackendOptions {
  /** Folder for tuning results; null: none are kept. */
  readonly cacheDir: string | null
  /** Measure kernel variants before `ready` resolves, whatever is remembered. */
  readonly retune: boolean
  /** Largest storage binding in bytes to use, below the adapter's own: makes sharding testable with small weights. */
  readonly maxBindingBytes?: number
  /** Use the kernels of adapters without subgroups of a known size, whatever the adapter is: makes them testable on any. */
  readonly avoidSubgroups?: boolean
}

export class WebGpuBackend implements InspectableBackend {
  readonly info: BackendInfo
  /** The device itself. Destroying it is what a lost device looks like. */
  readonly device: GPUDevice
  readonly #options: WebGpuBackendOptions
  readonly #gpu: GpuDevice
  readonly #context: GpuContext
  readonly #bindings: Bindings
  readonly #linear: LinearKernels
  readonly #attention: AttentionKernels
  readonly #sample: SampleKernels
  readonly #queue: StepQueue
  readonly #blocks: BlockTransfer
  readonly #matrices = new Handles<Matrix, GpuMatrix>('matrix')
  readonly #vectors = new Handles<Vector, GpuVector>('vector')
  readonly #activations = new Handles<Activation, GpuActivation>('activation')
  readonly #ropes = new Handles<RopeTable, GpuRope>('rope table')
  #nextId = 1
  #input: StepInput | null = null
  #closed = false

  constructor(options: WebGpuBackendOptions, gpu: GpuDevice) {
    const { device } = gpu
    this.#options = options
    this.#gpu = gpu
    this.device = device
    const capabilities = {
      ...gpu.capabilities,
      subgroupSize: options.avoidSubgroups === true ? 0 : gpu.capabilities.subgroupSize,
      maxBindingBytes: Math.min(options.maxBindingBytes ?? Infinity, gpu.capabilities.maxBindingBytes),
    }
    this.info = {
      kind: 'webgpu',
      adapter: gpu.adapterName,
      driver: gpu.driver,
      isSoftware: capabilities.isSoftware,
      kvFormat: 'f16',
      hasTimestamps: capabilities.hasTimestamps,
      memoryBudgetBytes: null,
    }
    this.#context = {
      device,
      capabilities,
      pipelines: new Pipelines(device),
      step: new StepWriter(),
      stepBuffer: createStorage(device, 'step', maxStepBytes(options.limits)),
      dispatches: [],
      nothing: createStorage(device, 'nothing', 16),
      vector: (vector) => this.#vectors.get(vector),
      activation: (activation) => this.#activations.get(activation),
    }
    this.#bindings = new Bindings(this.#context)
    this.#linear = new LinearKernels(this.#context, this.#bindings)
    this.#attention = new AttentionKernels(this.#context, this.#bindings, this.#linear.broadcastLanes)
    this.#sample = new SampleKernels(this.#context, this.#bindings, this.#linear, options.limits)
    this.#queue = new StepQueue(this.#context, gpu, options.traceKernels)
    this.#blocks = new BlockTransfer(device, this.#attention, this.#queue)
  }

  get packedLayout(): string {
    return packedLayout(this.#matrixLoader())
  }

  async loadMatrix(label: string, rows: number, cols: number, data: MatrixData, use: MatrixUse = {}): Promise<Matrix> {
    this.#checkAlive()
    return this.#keep(await loadMatrix(this.#matrixLoader(), label, rows, cols, data, use))
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

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    return this.#ropes.add({
      id: this.#nextId++,
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
    const buffer = createStorage(this.device, label, this.#options.limits.maxRows * stride * 4)
    return this.#activations.add({ label, cols, stride, id: this.#nextId++, buffer })
  }

  memoryUse(): MemoryUse {
    const shards = this.#matrices.values().flatMap((matrix) => matrix.shards)
    const { stepBuffer, nothing } = this.#context
    return {
      weightBytes: bufferBytes([
        ...shards.flatMap(({ codes, scales }) => [codes, scales]),
        ...this.#vectors.values().map(({ buffer }) => buffer),
      ]),
      kvCacheBytes: bufferBytes(this.#attention.pools),
      scratchBytes:
        bufferBytes([
          stepBuffer,
          nothing,
          ...[...this.#activations.values(), ...this.#ropes.values()].map(({ buffer }) => buffer),
        ]) +
        this.#attention.scratchBytes +
        this.#sample.scratchBytes,
    }
  }

  createKvCache(layout: KvLayout): void {
    this.#checkAlive()
    this.#attention.createPool(layout)
  }

  kvBlockBytes(layout: KvLayout): number {
    return BlockTransfer.blockBytes(layout)
  }

  maxKvBlocks(layout: KvLayout): number {
    return Math.floor(this.#context.capabilities.maxBindingBytes / (2 * AttentionKernels.halfBlockBytes(layout)))
  }

  async ready(): Promise<void> {
    this.#checkAlive()
    const numPositions = this.#options.limits.maxBlocksPerSequence * this.#attention.layout.blockSize
    for (const table of this.#ropes.values()) table.buffer ??= uploadRope(this.device, table, numPositions)
    await chooseTiles({
      backend: this,
      linear: this.#linear,
      bindings: this.#bindings,
      matrices: this.#matrices,
      activations: this.#activations,
      loader: this.#matrixLoader(),
      ...this.#options,
    })
    await this.device.queue.onSubmittedWorkDone()
    const refused = this.#gpu.takeError()
    if (refused !== null) throw refused
  }

  copyBlock(source: number, destination: number, numTokens: number): void {
    this.#blocks.copy(source, destination, numTokens)
  }

  beginStep(input: StepInput): void {
    if (this.#closed) throw new Error('the backend is closed')
    const { maxBlocksPerSequence, maxRows, maxSequences } = this.#options.limits
    if (
      input.numRows > maxRows ||
      input.numSequences > maxSequences ||
      input.maxBlocksPerSequence > maxBlocksPerSequence
    ) {
      throw new Error(
        `step of ${input.numRows} rows, ${input.numSequences} sequences, ${input.maxBlocksPerSequence} blocks a sequence exceeds the limits ${maxRows}, ${maxSequences}, ${maxBlocksPerSequence}`,
      )
    }
    this.#input = input
    this.#context.dispatches.length = 0
    this.#context.step.begin(input)
    this.#attention.beginStep()
    this.#sample.beginStep()
  }

  embed(out: Activation, table: Matrix, scale: number): void {
    const { numRows } = this.#step()
    embed(this.#context, this.#bindings, out, this.#matrices.get(table), scale, this.#sample.sampled, numRows)
  }

  linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void {
    this.#linear.linear(out, x, this.#matrices.get(w), options, this.#step().numRows)
  }

  normAdd(residual: Activation, x: Activation, norm: Norm): void {
    normAdd(this.#context, this.#bindings, residual, x, norm, this.#step().numRows)
  }

  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void {
    const rope = options.rope === null ? null : this.#ropes.get(options.rope)
    this.#attention.qkvRopeStore(q, qkv, options, rope, this.#step().numRows)
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    this.#attention.attention(out, q, options, this.#step())
  }

  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void {
    this.#sample.sample(x, this.#matrices.get(head), options, rows, this.#step().positions)
  }

  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    this.#step()
    this.#sample.score(x, this.#matrices.get(head), options, rows)
  }

  async endStep(options?: { readonly logits?: boolean }): Promise<StepOutput> {
    const { numRows } = this.#step()
    this.#input = null
    // Checked here, not in the ops: the caller's contract is that endStep rejects.
    if (this.#gpu.lost.error !== null) throw this.#gpu.lost.error
    const { dispatches, step, stepBuffer } = this.#context
    this.device.queue.writeBuffer(stepBuffer, 0, step.words())
    this.#blocks.submitCopies()
    return this.#queue.submit({
      dispatches,
      layout: this.#sample.layout,
      results: this.#sample.results,
      numRows,
      logitsBytes: options?.logits === true ? this.#sample.logitsBytes : 0,
      copyLogits: (encoder, target) => this.#sample.copyLogits(encoder, target),
    })
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

  /** What the kernels were chosen by. */
  get capabilities(): Capabilities {
    return this.#context.capabilities
  }

  /** The tiles that may be used for a matrix and a number of rows, the default first. */
  tiles(matrix: Matrix, numRows: number): readonly LinearVariant[] {
    return this.#linear.candidates(this.#matrices.get(matrix), this.#linear.bucket(numRows))
  }

  /** Puts a tile in force for all matrices of the same shape and as many rows, as tuning does. */
  useTile(matrix: Matrix, numRows: number, tile: LinearVariant): void {
    this.#linear.tuned.set(shapeKey(this.#matrices.get(matrix), this.#linear.bucket(numRows)), tile)
  }

  close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true
      this.device.destroy()
      this.#matrices.clear()
      this.#vectors.clear()
      this.#activations.clear()
      this.#ropes.clear()
      this.#bindings.clear()
    }
    return Promise.resolve()
  }

  #matrixLoader(): MatrixLoader {
    return {
      device: this.device,
      maxBindingBytes: this.#context.capabilities.maxBindingBytes,
      gluRun: this.#linear.gluRun,
    }
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
 * @throws Error that says what to install when there is none, or that the kernel set `fast` is not to be had
 */
export async function createWebGpuBackend(options: WebGpuBackendOptions): Promise<Backend & WebGpuBackend> {
  if (options.kernelSet === 'fast') {
    throw new Error(
      'the kernel set "fast" (subgroup sums, subgroup matrices) is not proven on any adapter yet; use --kernel-set invariant',
    )
  }
  return new WebGpuBackend(options, await openDevice())
}
