/** Device memory of the WebGPU backend: packed weights, activations, pools. */
import { Handles } from '../handles.ts'
import type { BackendInfo, BackendOptions, ExpertsUse, MemoryUse, MatrixUse, StoredMatrix } from '../backend.ts'
import type {
  Activation,
  ExpertMatrix,
  KvLayout,
  LowRank,
  LowRankPart,
  Matrix,
  MatrixData,
  MatrixRows,
  RopeTable,
  Routing,
  RoutingShape,
  StateLayout,
  Vector,
} from '../ops.ts'
import { AttentionKernels } from './attention.ts'
import {
  bufferBytes,
  createRows,
  createStorage,
  DispatchList,
  type GpuActivation,
  type GpuContext,
  type GpuVector,
} from './context.ts'
import { type GpuDevice } from './device.ts'
import { importExperts, uploadExperts, type GpuExpertMatrix } from './expert-matrix.ts'
import { ExpertKernels, type GpuRouting } from './experts.ts'
import { LinearKernels } from './linear.ts'
import { LowRankKernels } from './low-rank.ts'
import { wholeMatrix } from '../dequantize.ts'
import { importMatrix, loadMatrix, packedLayout, type GpuMatrix, type MatrixLoader } from './matrix.ts'
import { tryAllocate } from './memory-probe.ts'
import { Pipelines } from './pipelines.ts'
import { PreparedRows } from './prepared-rows.ts'
import { type GpuRope } from './rope.ts'
import { SampleKernels } from './sample.ts'
import { maxStateSlots, StateKernels, stateSlotBytes } from './states.ts'
import { SUBMISSION_OPERATIONS } from './step-queue.ts'
import { maxStepBytes, StepWriter } from './step-layout.ts'

export interface WebGpuBackendOptions extends BackendOptions {
  /** Largest storage binding to use, in bytes, if below the adapter's limit. For tests: shards small weights. */
  readonly maxBindingBytes?: number
  /** Most floating-point operations of a submission, see step-queue.ts. For tests: splits small steps. */
  readonly submissionOperations?: number
  /** Most candidates that are listed for a threshold of top-k or top-p, see sample.ts. */
  readonly listCapacity?: number
  /** Do not use dot4I8Packed even where the adapter has it. For tests: runs its replacement on any adapter. */
  readonly avoidPackedDot?: boolean
}

/** A device and what a model has on it: weights, activations, pools, and the kernels that own further buffers. */
export class GpuMemory {
  readonly info: BackendInfo
  /** The device. Tests destroy it to simulate a lost device. */
  readonly device: GPUDevice
  protected readonly options: WebGpuBackendOptions
  protected readonly gpu: GpuDevice
  protected readonly context: GpuContext
  protected readonly preparedRows: PreparedRows
  protected readonly linearKernels: LinearKernels
  protected readonly expertKernels: ExpertKernels
  protected readonly attentionKernels: AttentionKernels
  protected readonly stateKernels: StateKernels
  protected readonly lowRankKernels: LowRankKernels
  protected readonly sampleKernels: SampleKernels
  protected readonly matrices = new Handles<Matrix, GpuMatrix>('matrix')
  protected readonly expertMatrices = new Handles<ExpertMatrix, GpuExpertMatrix>('experts')
  protected readonly routings = new Handles<Routing, GpuRouting>('routing')
  protected readonly vectors = new Handles<Vector, GpuVector>('vector')
  protected readonly activations = new Handles<Activation, GpuActivation>('activation')
  protected readonly ropes = new Handles<RopeTable, GpuRope>('rope table')
  protected stepBuffer: GPUBuffer | null = null
  #nextId = 1
  /** f32 [maxSequences, cols]: the results of `pool`. */
  protected pooled: GPUBuffer | null = null
  protected isClosed = false

  constructor(options: WebGpuBackendOptions, gpu: GpuDevice) {
    const { device } = gpu
    this.options = options
    this.gpu = gpu
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
    this.context = {
      device,
      capabilities,
      submissionOperations: options.submissionOperations ?? SUBMISSION_OPERATIONS,
      pipelines: new Pipelines(device),
      step: new StepWriter(),
      stepBuffer: () => {
        if (this.stepBuffer === null) throw new Error('createKvCache has not been called')
        return this.stepBuffer
      },
      stepRows: 'all',
      dispatches: new DispatchList(),
      nothing: createStorage(device, 'nothing', 16),
      vector: (vector) => this.vectors.get(vector),
      activation: (activation) => this.activations.get(activation),
    }
    const { limits } = options
    this.preparedRows = new PreparedRows(this.context, Math.max(limits.maxRows, limits.maxSampleRows))
    this.linearKernels = new LinearKernels(this.context, this.preparedRows)
    this.expertKernels = new ExpertKernels(this.context, this.preparedRows)
    this.attentionKernels = new AttentionKernels(this.context, limits, options.kvFormat === 'q8')
    this.stateKernels = new StateKernels(this.context, limits)
    this.lowRankKernels = new LowRankKernels(this.context, limits.maxRows)
    this.sampleKernels = new SampleKernels(
      this.context,
      this.linearKernels,
      this.preparedRows,
      limits,
      options.listCapacity,
    )
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
    this.checkAlive()
    return this.#keep(await loadMatrix(this.#matrixLoader(), label, rows, cols, await wholeMatrix(data, rows), use))
  }

  async importMatrix(
    label: string,
    rows: number,
    cols: number,
    stored: StoredMatrix,
    use: MatrixUse = {},
  ): Promise<Matrix> {
    this.checkAlive()
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
    this.checkAlive()
    const loaded = await uploadExperts(this.#matrixLoader(), label, { numExperts, rows, cols }, load, use)
    this.checkAlive()
    return this.expertMatrices.add(loaded)
  }

  async importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
    use: ExpertsUse = {},
  ): Promise<ExpertMatrix> {
    this.checkAlive()
    const loaded = await importExperts(this.#matrixLoader(), label, { numExperts, rows, cols }, stored, use)
    this.checkAlive()
    return this.expertMatrices.add(loaded)
  }

  #keep(matrix: GpuMatrix): Matrix {
    this.checkAlive()
    return this.matrices.add(matrix)
  }

  loadVector(label: string, values: Float32Array): Vector {
    this.checkAlive()
    // Padded like activations, because kernels read whole blocks of 32.
    const buffer = createStorage(this.device, label, Math.ceil(values.length / 32) * 128)
    this.device.queue.writeBuffer(buffer, 0, values.slice())
    return this.vectors.add({ label, length: values.length, id: this.#nextId++, buffer })
  }

  loadLowRank(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank {
    this.checkAlive()
    return this.lowRankKernels.load(label, rows, cols, adapters)
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    return this.ropes.add({
      label,
      rotaryDim: inverseFrequencies.length * 2,
      inverseFrequencies,
      attentionFactor,
      buffer: null,
    })
  }

  createActivation(label: string, cols: number): Activation {
    this.checkAlive()
    const stride = Math.ceil(cols / 32) * 32
    const { maxRows } = this.options.limits
    const buffer = createRows(this.context, label, maxRows, stride * 4)
    return this.activations.add({ label, cols, stride, maxRows, id: this.#nextId++, buffer })
  }

  createRouting(label: string, shape: RoutingShape): Routing {
    this.checkAlive()
    const { maxRows } = this.options.limits
    return this.routings.add(this.expertKernels.createRouting(label, shape, maxRows, () => this.#nextId++))
  }

  memoryUse(): MemoryUse {
    const shards = [...this.matrices.values(), ...this.expertMatrices.values()].flatMap((matrix) => [...matrix.shards])
    return {
      weightBytes:
        bufferBytes([
          ...shards.flatMap(({ codes, scales }) => [codes, scales]),
          ...this.vectors.values().map(({ buffer }) => buffer),
        ]) + this.lowRankKernels.weightBytes,
      kvCacheBytes: bufferBytes(this.attentionKernels.pools.map(({ buffer }) => buffer)) + this.stateKernels.poolBytes,
      scratchBytes:
        bufferBytes([
          this.stepBuffer,
          this.pooled,
          this.context.nothing,
          ...[...this.activations.values(), ...this.ropes.values()].map(({ buffer }) => buffer),
        ]) +
        this.preparedRows.scratchBytes +
        this.expertKernels.scratchBytes +
        this.attentionKernels.scratchBytes +
        this.stateKernels.scratchBytes +
        this.lowRankKernels.scratchBytes +
        this.sampleKernels.scratchBytes,
    }
  }

  createKvCache(layout: KvLayout): void {
    this.checkAlive()
    this.attentionKernels.createPool(layout)
    const { limits } = this.options
    const bytes = maxStepBytes(limits, AttentionKernels.numPartials(layout, limits))
    this.stepBuffer = createStorage(this.device, 'step', bytes)
  }

  createStatePool(layout: StateLayout): void {
    this.checkAlive()
    this.stateKernels.createPool(layout)
  }

  stateSlotBytes(layout: StateLayout): number {
    return stateSlotBytes(layout)
  }

  maxStateSlots(layout: StateLayout): number {
    return maxStateSlots(layout, this.context.capabilities.maxBindingBytes)
  }

  maxKvBlocks(layout: KvLayout): number {
    return this.attentionKernels.maxBlocks(layout)
  }

  /** Bytes that the device can allocate, at most `atMostBytes`. A software adapter is not probed: it uses the host's memory. */
  async tryAllocate(atMostBytes: number): Promise<number> {
    return this.info.isSoftware ? atMostBytes : tryAllocate(this.device, atMostBytes)
  }

  #matrixLoader(): MatrixLoader {
    return {
      device: this.device,
      maxBindingBytes: this.context.capabilities.maxBindingBytes,
    }
  }

  protected checkAlive(): void {
    if (this.isClosed) throw new Error('the backend is closed')
    if (this.gpu.lost.error !== null) throw this.gpu.lost.error
  }

  /** Forgets all handles; destroying the device frees the buffers. */
  protected clear(): void {
    for (const handles of [this.matrices, this.vectors, this.activations, this.ropes]) handles.clear()
    for (const handles of [this.expertMatrices, this.routings]) handles.clear()
    this.lowRankKernels.clear()
  }
}
