/** What the launchers share: the device, pipelines, the step's buffers, and the list of dispatches that a step records. */
import type { Activation, Norm, Vector } from '../ops.ts'
import type { Capabilities } from './device.ts'
import type { BindingKind, KernelSource, Pipelines } from './pipelines.ts'
import type { StepWriter } from './step-layout.ts'

export interface GpuVector extends Vector {
  readonly id: number
  readonly buffer: GPUBuffer
}

export interface GpuActivation extends Activation {
  readonly id: number
  readonly buffer: GPUBuffer
  /** Floats a row: cols padded to whole blocks of 32, the padding zero. */
  readonly stride: number
}

export interface Dispatch {
  readonly kernel: string
  readonly pipeline: GPUComputePipeline
  readonly group: GPUBindGroup
  readonly x: number
  readonly y: number
}

/** A bind group and the uniform block it holds, made once for each distinct call of an op. */
interface Bound {
  readonly group: GPUBindGroup
}

/** Everything of a backend that its launchers need. */
export interface GpuContext {
  readonly device: GPUDevice
  readonly capabilities: Capabilities
  readonly pipelines: Pipelines
  readonly step: StepWriter
  /** Storage buffer that holds the step's words, as large as the longest step. */
  readonly stepBuffer: GPUBuffer
  /** The step's dispatches so far. */
  readonly dispatches: Dispatch[]
  /** Stands in for bindings a variant does not read. */
  readonly nothing: GPUBuffer
  vector(vector: Vector): GpuVector
  activation(activation: Activation): GpuActivation
}

/** Bind groups by call site: the decoder makes the same calls every step. */
export class Bindings {
  readonly #context: GpuContext
  readonly #bound = new Map<string, Bound>()

  constructor(context: GpuContext) {
    this.#context = context
  }

  /**
   * The bind group for `key`, built on first use.
   * @param params the kernel's uniform block; floats are given as { f32 }
   * @param buffers bindings from 2 on
   */
  get(
    key: string,
    bindings: readonly BindingKind[],
    build: () => { params: readonly Uniform[]; buffers: readonly GPUBuffer[] },
  ): GPUBindGroup {
    let bound = this.#bound.get(key)
    if (bound === undefined) {
      const { params, buffers } = build()
      const { device, pipelines, stepBuffer } = this.#context
      const uniform = createUniform(device, key, params)
      bound = { group: pipelines.bind(bindings, [stepBuffer, uniform, ...buffers]) }
      this.#bound.set(key, bound)
    }
    return bound.group
  }

  /** Forgets all bind groups, and with them the buffers they hold. */
  clear(): void {
    this.#bound.clear()
  }
}

export type Uniform = number | { readonly f32: number }

/** A uniform buffer with the given words. */
function createUniform(device: GPUDevice, label: string, params: readonly Uniform[]): GPUBuffer {
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

/** Records one dispatch of the step. */
export function record(context: GpuContext, source: KernelSource, group: GPUBindGroup, x: number, y = 1): void {
  context.dispatches.push({ kernel: source.name, pipeline: context.pipelines.get(source), group, x, y })
}

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

/** Size of buffers together; those that are not there yet count nothing. */
export const bufferBytes = (buffers: readonly (GPUBuffer | null)[]): number =>
  buffers.reduce((sum, buffer) => sum + (buffer?.size ?? 0), 0)
