/** Compiles shaders to compute pipelines: one for each (kernel, defines), with an explicit bind group layout per list of bindings. */
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { preprocess, type Defines } from './preprocessor.ts'

/** How a kernel's bindings are used, in order from @binding(0). */
export type BindingKind = 'read' | 'write' | 'uniform'

export interface KernelSource {
  /** Name of the file under wgsl/, without its extension. */
  readonly name: string
  readonly bindings: readonly BindingKind[]
  readonly defines: Defines
}

const sources = new Map<string, string>()

/** Reads the text of a shader file, from the disk once. */
function readShader(name: string): string {
  let text = sources.get(name)
  if (text === undefined) {
    text = readFileSync(new URL(`./wgsl/${name}`, import.meta.url), 'utf8')
    sources.set(name, text)
  }
  return text
}

/** The preprocessed text that a pipeline is compiled from. */
export function shaderText({ name, defines }: Pick<KernelSource, 'name' | 'defines'>): string {
  return preprocess(`${name}.wgsl`, defines, readShader)
}

function kernelKey({ name, defines }: KernelSource): string {
  let key = name
  for (const [define, value] of Object.entries(defines)) key += ` ${define}=${value}`
  return key
}

/** Most pipelines that are compiled at a time: enough to use all threads of the driver. */
const MAX_COMPILING = Math.min(8, availableParallelism())

const BUFFER_TYPES = { read: 'read-only-storage', write: 'storage', uniform: 'uniform' } as const

/** Compiles and caches compute pipelines by kernel and defines. */
export class Pipelines {
  readonly #device: GPUDevice
  readonly #pipelines = new Map<string, GPUComputePipeline>()
  readonly #layouts = new Map<string, GPUBindGroupLayout>()

  constructor(device: GPUDevice) {
    this.#device = device
  }

  layout(bindings: readonly BindingKind[]): GPUBindGroupLayout {
    const key = bindings.join(',')
    let layout = this.#layouts.get(key)
    if (layout === undefined) {
      layout = this.#device.createBindGroupLayout({
        entries: bindings.map((kind, binding) => ({
          binding,
          visibility: GPUShaderStage.COMPUTE,
          buffer: { type: BUFFER_TYPES[kind] },
        })),
      })
      this.#layouts.set(key, layout)
    }
    return layout
  }

  #descriptor(source: KernelSource): GPUComputePipelineDescriptor {
    const label = kernelKey(source)
    return {
      label,
      layout: this.#device.createPipelineLayout({ bindGroupLayouts: [this.layout(source.bindings)] }),
      compute: { module: this.#device.createShaderModule({ label, code: shaderText(source) }) },
    }
  }

  /**
   * Compiles all kernels that have no pipeline yet, several at a time. Rejects with the first error of the adapter, or when the signal is aborted. In
   * both cases it first waits for the compilations in progress: a driver aborts a process that ends during one.
   */
  async compile(sources: Iterable<KernelSource>, signal?: AbortSignal): Promise<void> {
    const missing = new Map<string, KernelSource>()
    for (const source of sources) {
      const key = kernelKey(source)
      if (!this.#pipelines.has(key)) missing.set(key, source)
    }
    const queue = missing.entries()
    const failures: unknown[] = []
    const work = async () => {
      for (const [key, source] of queue) {
        if (failures.length > 0 || signal?.aborted === true) return
        try {
          this.#pipelines.set(key, await this.#device.createComputePipelineAsync(this.#descriptor(source)))
        } catch (error) {
          failures.push(error)
        }
      }
    }
    await Promise.all(Array.from({ length: MAX_COMPILING }, work))
    signal?.throwIfAborted()
    if (failures.length > 0) throw failures[0]
  }

  /** The pipeline of a kernel. It is compiled here, synchronously, where `compile` has not done so. */
  get(source: KernelSource): GPUComputePipeline {
    const key = kernelKey(source)
    let pipeline = this.#pipelines.get(key)
    if (pipeline === undefined) {
      pipeline = this.#device.createComputePipeline(this.#descriptor(source))
      this.#pipelines.set(key, pipeline)
    }
    return pipeline
  }

  bind(bindings: readonly BindingKind[], buffers: readonly GPUBuffer[]): GPUBindGroup {
    return this.#device.createBindGroup({
      layout: this.layout(bindings),
      entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
    })
  }
}
