/** What the launchers share: the device, pipelines, the step's buffers, prepared launches, and the list of a step's dispatches. */
import type { Activation, Norm, Vector } from '../ops.ts'
import type { Capabilities } from './device.ts'
import type { BindingKind, KernelSource, Pipelines } from './pipelines.ts'
import type { StepRows, StepWriter } from './step-layout.ts'

export interface GpuVector extends Vector {
  readonly id: number
  readonly buffer: GPUBuffer
}

export interface GpuActivation extends Activation {
  readonly id: number
  readonly buffer: GPUBuffer
  /** Floats per row: `cols`, padded with zeros to whole blocks of 32. */
  readonly stride: number
  /** Rows that the buffer has room for. */
  readonly maxRows: number
}

interface Dispatch {
  kernel: string
  pipeline: GPUComputePipeline
  group: GPUBindGroup
  x: number
  y: number
  /** Floating-point operations; 0 for dispatches with too few to matter for the time of a submission. */
  operations: number
}

/** The parts of a backend that its launchers need. */
export interface GpuContext {
  readonly device: GPUDevice
  readonly capabilities: Capabilities
  /** Most floating-point operations of one submission, see step-queue.ts. */
  readonly submissionOperations: number
  readonly pipelines: Pipelines
  readonly step: StepWriter
  /** The storage buffer for the step's words, as large as the longest step. */
  readonly stepBuffer: () => GPUBuffer
  /** The rows that the ops being prepared work on. It is written to their uniforms. */
  stepRows: StepRows
  /** The step's dispatches so far. */
  readonly dispatches: DispatchList
  /** A small buffer for the bindings that a kernel variant does not read. */
  readonly nothing: GPUBuffer
  vector(vector: Vector): GpuVector
  activation(activation: Activation): GpuActivation
}

/** An op of the forward pass, prepared once for all steps: its shapes are checked, its pipelines chosen and its bind groups made. */
export interface PreparedOp {
  /** Every kernel that the op may launch, for any number of rows. */
  readonly sources: readonly KernelSource[]
  /**
   * Makes the op write its rows quantised as well as in f32. Call it before `sources` or `launch` is used. Returns false where the op cannot do so or
   * already does so for another product.
   */
  readonly quantize?: (results: QuantizedResults) => boolean
  /** Adds the op's dispatches for a step of `numRows` rows. */
  launch(numRows: number): void
}

/** The form in which an op writes its rows for the products that follow it (wgsl/quantize.wgsl). */
export interface QuantizedResults {
  readonly buffer: GPUBuffer
  /** Weight of the norm between the op and those products; null: there is no norm. */
  readonly weight: GPUBuffer | null
  readonly defines: { readonly NIBBLES: number; readonly GROUP16: number; readonly NORM: number }
}

/** A step's dispatches. Later steps reuse the entries, so that a steady state allocates nothing. */
export class DispatchList {
  readonly #entries: Dispatch[] = []
  length = 0

  clear(): void {
    this.length = 0
  }

  add(kernel: string, pipeline: GPUComputePipeline, group: GPUBindGroup, x: number, y: number, operations: number) {
    const entry = this.#entries[this.length++]
    if (entry === undefined) this.#entries.push({ kernel, pipeline, group, x, y, operations })
    else {
      entry.kernel = kernel
      entry.pipeline = pipeline
      entry.group = group
      entry.x = x
      entry.y = y
      entry.operations = operations
    }
  }

  at(index: number): Dispatch {
    return this.#entries[index]!
  }
}

export type Uniform = number | { readonly f32: number }

/** The bind group of a kernel call: the step buffer (binding 0), a uniform block with `params` (1), and `buffers` (from 2 on). */
export function bind(
  context: GpuContext,
  label: string,
  bindings: readonly BindingKind[],
  params: readonly Uniform[],
  buffers: readonly GPUBuffer[],
): GPUBindGroup {
  const uniform = createUniform(context.device, label, params)
  return context.pipelines.bind(bindings, [context.stepBuffer(), uniform, ...buffers])
}

/** Creates a uniform buffer with the given words: u32, or f32 where so marked. */
export function createUniform(device: GPUDevice, label: string, params: readonly Uniform[]): GPUBuffer {
  const buffer = device.createBuffer({
    label,
    size: Math.ceil(params.length / 4) * 16,
    usage: GPUBufferUsage.UNIFORM,
    mappedAtCreation: true,
  })
  const view = new DataView(buffer.getMappedRange())
  for (const [i, value] of params.entries()) {
    if (typeof value === 'number') view.setUint32(4 * i, value, true)
    else view.setFloat32(4 * i, value.f32, true)
  }
  buffer.unmap()
  return buffer
}

/** A kernel with its bindings: everything that a dispatch needs except the size of its grid. */
export class Launch {
  readonly source: KernelSource
  readonly #context: GpuContext
  readonly #group: GPUBindGroup
  #pipeline: GPUComputePipeline | null = null

  constructor(context: GpuContext, source: KernelSource, group: GPUBindGroup) {
    this.#context = context
    this.source = source
    this.#group = group
  }

  /** Adds one dispatch to the step. */
  add(x: number, y = 1, operations = 0): void {
    this.#pipeline ??= this.#context.pipelines.get(this.source)
    this.#context.dispatches.add(this.source.name, this.#pipeline, this.#group, x, y, operations)
  }
}

/**
 * A kernel whose dispatch could outlast a driver's watchdog. Its grid is cut along one side into dispatches of at most `submissionOperations`. Each
 * has its own bind group, with the number of workgroups before it on that side.
 */
export class LongLaunch {
  readonly source: KernelSource
  readonly #context: GpuContext
  readonly #side: 'x' | 'y'
  readonly #groupAt: (first: number) => GPUBindGroup
  readonly #pieces = new Map<number, Launch>()

  /** @param groupAt makes the bind group of the dispatch that begins at workgroup `first` of the side */
  constructor(context: GpuContext, source: KernelSource, side: 'x' | 'y', groupAt: (first: number) => GPUBindGroup) {
    this.source = source
    this.#context = context
    this.#side = side
    this.#groupAt = groupAt
    this.#piece(0)
  }

  /** Adds the dispatches of a grid of x by y workgroups. @param operations floating-point operations of the whole grid */
  add(x: number, y: number, operations: number): void {
    const length = this.#side === 'x' ? x : y
    const most = this.#context.submissionOperations
    const fits = Math.max(1, Math.floor(length / Math.max(1, Math.ceil(operations / most))))
    // Powers of two: steps of other lengths are then cut at the same places and reuse the bind groups.
    const size = fits === length ? length : 2 ** Math.floor(Math.log2(fits))
    for (let first = 0; first < length; first += size) {
      const count = Math.min(size, length - first)
      const share = (operations * count) / length
      if (this.#side === 'x') this.#piece(first).add(count, y, share)
      else this.#piece(first).add(x, count, share)
    }
  }

  #piece(first: number): Launch {
    let piece = this.#pieces.get(first)
    if (piece === undefined) {
      piece = new Launch(this.#context, this.source, this.#groupAt(first))
      this.#pieces.set(first, piece)
    }
    return piece
  }
}

/** The buffer of a norm's weight; without a norm, the buffer for unused bindings. */
export function normWeight(context: GpuContext, norm: Norm | undefined): GPUBuffer {
  return norm === undefined ? context.nothing : context.vector(norm.weight).buffer
}

/** Creates a storage buffer of `size` bytes that can be copied from (reads of tests and of KV blocks) and to (uploads). */
export function createStorage(device: GPUDevice, label: string, size: number): GPUBuffer {
  return device.createBuffer({
    label,
    size: Math.max(16, Math.ceil(size / 16) * 16),
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
  })
}

/**
 * Creates a storage buffer for the rows of a step.
 * @throws Error where they exceed the adapter's largest binding
 */
export function createRows(
  { device, capabilities }: Pick<GpuContext, 'device' | 'capabilities'>,
  label: string,
  numRows: number,
  rowBytes: number,
): GPUBuffer {
  const { maxBindingBytes } = capabilities
  if (numRows * rowBytes > maxBindingBytes) {
    throw new Error(
      `${label}: ${numRows} rows of ${rowBytes} bytes exceed the ${maxBindingBytes} bytes that this adapter binds; ` +
        `steps of ${Math.floor(maxBindingBytes / rowBytes)} rows fit (--max-num-batched-tokens)`,
    )
  }
  return createStorage(device, label, numRows * rowBytes)
}

/** Total size of buffers in bytes; null stands for a buffer that has not been created yet. */
export const bufferBytes = (buffers: readonly (GPUBuffer | null)[]): number =>
  buffers.reduce((sum, buffer) => sum + (buffer?.size ?? 0), 0)
