// Reads [{ id, text }] as JSON on stdin and compiles each WGSL text with Dawn, which prints the SPIR-V it hands to the driver (dump_shaders).
// A process of its own, because Dawn prints to the process's stdout. compile.mjs reads it.
import { readFileSync } from 'node:fs'
import { create, globals } from 'webgpu'

const { toggles, kernels } = JSON.parse(readFileSync(0, 'utf8'))
Object.assign(globalThis, globals)
const gpu = create([`enable-dawn-features=${[...toggles, 'dump_shaders'].join(',')}`])
const adapter = await gpu.requestAdapter()
if (adapter === null) throw new Error('no WebGPU adapter: compiling needs any one, software Vulkan included')
const device = await adapter.requestDevice({
  requiredLimits: {
    maxComputeWorkgroupStorageSize: adapter.limits.maxComputeWorkgroupStorageSize,
    maxComputeInvocationsPerWorkgroup: adapter.limits.maxComputeInvocationsPerWorkgroup,
    maxStorageBuffersPerShaderStage: adapter.limits.maxStorageBuffersPerShaderStage,
  },
})
/** @type {string | null} */
let failure = null
device.addEventListener('uncapturederror', (event) => {
  event.preventDefault()
  failure ??= event.error.message
})
for (const { id, text } of kernels) {
  const module = device.createShaderModule({ code: `// kernel ${id}\n${text}` })
  await device.createComputePipelineAsync({ layout: 'auto', compute: { module } }).catch((error) => {
    failure ??= `kernel ${id}: ${error.message}`
  })
  if (failure !== null) break
}
if (failure !== null) {
  process.stderr.write(`${failure}\n`)
  process.exitCode = 1
}
device.destroy()
