/** The WebGPU backend against the conformance suite, on whatever adapter there is (lavapipe in CI). */
import { createWebGpuBackend, hasAdapter } from '../../src/kernels/webgpu/backend.ts'
import { describeBackend } from './conformance.ts'

const skipReason = (await hasAdapter()) ? null : 'there is no WebGPU adapter (software Vulkan: mesa-vulkan-drivers)'

describeBackend('webgpu', (options) => createWebGpuBackend({ ...options, cacheDir: null, retune: false }), {
  skipReason,
})
