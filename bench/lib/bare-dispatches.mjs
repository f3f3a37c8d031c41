// What Dawn's Node binding takes for a step's calls alone: as many dispatches of trivial kernels as the step has, each with another pipeline and bind
// group than the one before it, timed and submitted like a step. No code of the engine runs.
import { openDevice } from '#dist/kernels/webgpu/device.js'

/** Bindings of a dispatch: those of most kernels of a step. */
const BINDINGS = 7
const PIPELINES = 7

/**
 * @param {number} numDispatches
 * @param {(run: () => void, settle: () => Promise<unknown>) => Promise<number[]>} measure calls `run`, which submits such a step, and `settle`, which
 * waits for the device
 */
export async function bareDispatches(numDispatches, measure) {
  const { device, capabilities } = await openDevice()
  try {
    const create = (usage) => device.createBuffer({ size: 1024, usage })
    const kinds = ['read-only-storage', 'uniform', ...Array(BINDINGS - 3).fill('read-only-storage'), 'storage']
    const layout = device.createBindGroupLayout({
      entries: kinds.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } })),
    })
    const pipelines = Array.from({ length: PIPELINES }, (_, i) => {
      const code = `@group(0) @binding(${BINDINGS - 1}) var<storage, read_write> out: array<u32>;
        @compute @workgroup_size(1) fn main() { out[0] = ${i}u; }`
      const compute = { module: device.createShaderModule({ code }) }
      return device.createComputePipeline({
        layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute,
      })
    })
    const usages = {
      uniform: GPUBufferUsage.UNIFORM,
      storage: GPUBufferUsage.STORAGE,
      'read-only-storage': GPUBufferUsage.STORAGE,
    }
    const groups = Array.from({ length: numDispatches }, () =>
      device.createBindGroup({
        layout,
        entries: kinds.map((type, binding) => ({ binding, resource: { buffer: create(usages[type]) } })),
      }),
    )
    const querySet = capabilities.hasTimestamps ? device.createQuerySet({ type: 'timestamp', count: 2 }) : null
    const results = create(GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC)
    const readback = create(GPUBufferUsage.COPY_DST)
    const step = create(GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST)
    const words = new Int32Array(128)
    const run = () => {
      device.queue.writeBuffer(step, 0, words)
      const encoder = device.createCommandEncoder()
      const pass = encoder.beginComputePass(
        querySet === null
          ? {}
          : { timestampWrites: { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 } },
      )
      for (let i = 0; i < numDispatches; i++) {
        pass.setPipeline(pipelines[i % PIPELINES])
        pass.setBindGroup(0, groups[i])
        pass.dispatchWorkgroups(1)
      }
      pass.end()
      if (querySet !== null) encoder.resolveQuerySet(querySet, 0, 2, results, 0)
      encoder.copyBufferToBuffer(results, 0, readback, 0, 512)
      device.queue.submit([encoder.finish()])
    }
    return await measure(run, () => device.queue.onSubmittedWorkDone())
  } finally {
    device.destroy()
  }
}
