/** What the launchers share: the device, pipelines, the step's buffers, prepared launches, and the list of dispatches that a step is. */
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
  /** Floats per row: cols padded to whole blocks of 32, the padding zero. */
  readonly stride: number
  /** Rows there is room for. */
  readonly maxRows: number
}

interface Dispatch {
  kernel: string
  pipeline: GPUComputePipeline
  group: GPUBindGroup
  x: number
  y: number
  /** Floating-point operations, where there are enough of them to matter for how long the dispatch takes; else 0. */
  operations: number
}

/** Everything of a backend that its launchers need. */
export interface GpuContext {
  readonly device: GPUDevice
  readonly capabilities: Capabilities
  /** Floating-point operations that one submission may have, see step-queue.ts. */
  readonly submissionOperations: number
  readonly pipelines: Pipelines
  readonly step: StepWriter
  /** Storage buffer that holds the step's words, as large as the longest step. */
  readonly stepBuffer: () => GPUBuffer
  /** Rows of the ops that are being prepared: bindings say which. */
  stepRows: StepRows
  /** The step's dispatches so far. */
  readonly dispatches: DispatchList
  /** Stands in for bindings a variant does not read. */
  readonly nothing: GPUBuffer
  vector(vector: Vector): GpuVector
  activation(activation: Activation): GpuActivation
}

/** An op of the forward pass with all that is the same in every step: shapes checked, pipelines chosen, bind groups made. */
export interface PreparedOp {
  /** Every kernel the op may launch, whatever the number of rows. */
  readonly sources: readonly KernelSource[]
  /**
   * Makes the op write its rows quantised too, beside the f32 ones. To be called before `sources` or `launch` is used. False: it cannot do that, or
   * does it for others.
   */
  readonly quantize?: (results: QuantizedResults) => boolean
  /** Adds the op's dispatches for a step of `numRows` rows. */
  launch(numRows: number): void
}

/** How the products that follow an op take the rows that it computes (wgsl/quantize.wgsl). */
export interface QuantizedResults {
  readonly buffer: GPUBuffer
  /** Of the norm before those products; null: there is none. */
  readonly weight: GPUBuffer | null
  readonly defines: { readonly NIBBLES: number; readonly GROUP16: number; readonly NORM: number }
}

/** A step's dispatches. The entries are kept for the steps that follow: the steady state allocates nothing. */
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

/** The bind group of a kernel call: the step buffer, a uniform block of `params`, and `buffers`, bindings from 2 on. */
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

/** A uniform buffer with the given words. */
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

/** A kernel with its bindings: what a dispatch needs but the size of its grid. */
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
 * A kernel whose dispatch may outlast a driver's watchdog: cut along one side of its grid into dispatches of at most `submissionOperations`, whose
 * bind groups say how many workgroups of that side stand before them.
 */
export class LongLaunch {
  readonly source: KernelSource
  readonly #context: GpuContext
  readonly #side: 'x' | 'y'
  readonly #groupAt: (first: number) => GPUBindGroup
  readonly #pieces = new Map<number, Launch>()

  /** @param groupAt the bind group of the dispatch that begins at workgroup `first` of the side */
  constructor(context: GpuContext, source: KernelSource, side: 'x' | 'y', groupAt: (first: number) => GPUBindGroup) {
    this.source = source
    this.#context = context
    this.#side = side
    this.#groupAt = groupAt
    this.#piece(0)
  }

  /** Adds the dispatches of a grid of x by y workgroups, which take so many operations together. */
  add(x: number, y: number, operations: number): void {
    const length = this.#side === 'x' ? x : y
    const most = this.#context.submissionOperations
    const fits = Math.max(1, Math.floor(length / Math.max(1, Math.ceil(operations / most))))
    // Powers of two: steps of other lengths are cut at the same places, and find the bind groups there.
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

/** The buffer of a norm's weight; an empty buffer without a norm. */
export function normWeight(context: GpuContext, norm: Norm | undefined): GPUBuffer {
  return norm === undefined ? context.nothing : context.vector(norm.weight).buffer
}

/** Creates a storage buffer. All of them can be copied from and to: reads for tests and blocks, uploads. */
export function createStorage(device: GPUDevice, label: string, size: number): GPUBuffer {
  return device.createBuffer({
    label,
    size: Math.max(16, Math.ceil(size / 16) * 16),
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
  })
}

/**
 * Creates a storage buffer for the rows of a step.
 * @throws Error where the adapter cannot bind that many
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

/** Size of buffers together; those that are not there yet count nothing. */
export const bufferBytes = (buffers: readonly (GPUBuffer | null)[]): number =>
  buffers.reduce((sum, buffer) => sum + (buffer?.size ?? 0), 0)
