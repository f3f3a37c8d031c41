// A GPU that is not there: takes what the WebGPU backend asks of a device, holds it to limits, and keeps what it was asked for. Nothing is
// computed and buffers have no memory, so that models of any size load in a second: for their kernels, dispatches and sizes.
import { globals } from 'webgpu'

/** What every WebGPU adapter has at least (WebGPU, "Limits"); phones and old integrated GPUs have no more. */
export const LEAST_LIMITS = {
  maxBufferSize: 268435456,
  maxStorageBufferBindingSize: 134217728,
  maxUniformBufferBindingSize: 65536,
  maxStorageBuffersPerShaderStage: 8,
  maxUniformBuffersPerShaderStage: 12,
  maxComputeWorkgroupsPerDimension: 65535,
}

/** A card's: one binding may be 4 GiB. */
export const CARD_LIMITS = {
  ...LEAST_LIMITS,
  maxBufferSize: 2 ** 40,
  maxStorageBufferBindingSize: 2 ** 32 - 4,
  maxStorageBuffersPerShaderStage: 16,
}

/** Buffers up to here that are mapped at creation have memory: uniforms are written and looked at, weights are not. */
const MOST_MAPPED_BYTES = 4096

function expect(isMet, text) {
  if (!isMet) throw new Error(`the absent GPU: ${text}`)
}

export class AbsentGpu {
  /** @param limits those of the adapter, see LEAST_LIMITS */
  constructor(limits = CARD_LIMITS) {
    for (const [name, value] of Object.entries(globals)) {
      if (!(name in globalThis)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true })
    }
    this.limits = limits
    /** WGSL by the pipeline's label, which is the kernel's name and defines. */
    this.kernels = new Map()
    /** What was submitted: of each command buffer its dispatches, { label, x, y }. */
    this.submissions = []
    this.capabilities = {
      isSoftware: false,
      hasPackedDot: true,
      hasTimestamps: false,
      maxBindingBytes: limits.maxStorageBufferBindingSize,
    }
    this.adapterName = 'absent'
    this.driver = 'absent'
    this.lost = { error: null }
    this.device = this.#device()
  }

  takeError() {
    return null
  }

  #buffer({ label = '', size, usage, mappedAtCreation = false }) {
    expect(size <= this.limits.maxBufferSize, `buffer "${label}" of ${size} bytes exceeds maxBufferSize`)
    expect(size % 4 === 0, `buffer "${label}" of ${size} bytes is not of whole words`)
    const memory = new ArrayBuffer(mappedAtCreation && size > MOST_MAPPED_BYTES ? 0 : mappedAtCreation ? size : 0)
    return {
      label,
      size,
      usage,
      getMappedRange: () => (mappedAtCreation ? memory : new ArrayBuffer(size)),
      unmap() {},
      destroy() {},
      mapAsync: () => Promise.resolve(),
    }
  }

  #bindGroup({ layout, entries }) {
    const { limits } = this
    expect(layout.entries.length === entries.length, `${entries.length} bindings for ${layout.entries.length}`)
    const counts = { storage: 0, uniform: 0 }
    for (const [i, { resource }] of entries.entries()) {
      const { buffer, offset = 0, size = buffer.size - offset } = resource
      const isUniform = layout.entries[i].buffer.type === 'uniform'
      counts[isUniform ? 'uniform' : 'storage']++
      const most = isUniform ? limits.maxUniformBufferBindingSize : limits.maxStorageBufferBindingSize
      expect(size <= most, `binding ${i}, "${buffer.label}", of ${size} bytes exceeds ${most}`)
      expect(offset % 256 === 0, `binding ${i}, "${buffer.label}", begins at ${offset}, no multiple of 256`)
      const usage = isUniform ? GPUBufferUsage.UNIFORM : GPUBufferUsage.STORAGE
      expect((buffer.usage & usage) !== 0, `binding ${i}, "${buffer.label}", is no ${layout.entries[i].buffer.type}`)
    }
    expect(counts.storage <= limits.maxStorageBuffersPerShaderStage, `${counts.storage} storage buffers in a kernel`)
    expect(counts.uniform <= limits.maxUniformBuffersPerShaderStage, `${counts.uniform} uniform buffers in a kernel`)
    return { entries }
  }

  #pipeline({ label, compute }) {
    this.kernels.set(label, compute.module.code)
    return { label }
  }

  #encoder() {
    const dispatches = []
    const most = this.limits.maxComputeWorkgroupsPerDimension
    return {
      beginComputePass() {
        let label = ''
        return {
          setPipeline: (pipeline) => (label = pipeline.label),
          setBindGroup() {},
          dispatchWorkgroups(x, y = 1) {
            expect(x > 0 && y > 0 && x <= most && y <= most, `${label}: a grid of ${x} x ${y}, of 1 to ${most} each`)
            dispatches.push({ label, x, y })
          },
          end() {},
        }
      },
      copyBufferToBuffer(source, from, target, to, size) {
        expect(from + size <= source.size && to + size <= target.size, `copy of ${size} bytes out of "${source.label}"`)
      },
      finish: () => dispatches,
    }
  }

  #device() {
    return {
      limits: this.limits,
      createBuffer: (descriptor) => this.#buffer(descriptor),
      createBindGroupLayout: (descriptor) => descriptor,
      createPipelineLayout: (descriptor) => descriptor,
      createShaderModule: (descriptor) => descriptor,
      createComputePipeline: (descriptor) => this.#pipeline(descriptor),
      createComputePipelineAsync: (descriptor) => Promise.resolve(this.#pipeline(descriptor)),
      createBindGroup: (descriptor) => this.#bindGroup(descriptor),
      createCommandEncoder: () => this.#encoder(),
      pushErrorScope() {},
      popErrorScope: () => Promise.resolve(null),
      queue: {
        writeBuffer(buffer, offset, values, first = 0, length = values.length - first) {
          const bytes = length * values.BYTES_PER_ELEMENT
          expect(offset + bytes <= buffer.size, `${bytes} bytes written to "${buffer.label}" of ${buffer.size}`)
        },
        submit: (buffers) => void this.submissions.push(...buffers),
        onSubmittedWorkDone: () => Promise.resolve(),
      },
      destroy() {},
    }
  }
}
