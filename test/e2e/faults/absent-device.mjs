/**
 * A GPU that computes nothing, in the runner's thread, and that goes away as in device.mjs: no kernel is compiled, which is all of the time that
 * software Vulkan takes. Whatever is read from it is zero, so that each token is the vocabulary's first.
 */
import { isMainThread } from 'node:worker_threads'
import './device.mjs'

if (!isMainThread) {
  const { create, globals } = await import('webgpu')
  const absent = create(['backend=null'])
  const { requestAdapter } = globals.GPU.prototype
  globals.GPU.prototype.requestAdapter = (...args) => requestAdapter.apply(absent, args)
  const { getMappedRange } = globals.GPUBuffer.prototype
  globals.GPUBuffer.prototype.getMappedRange = function (...args) {
    const range = getMappedRange.apply(this, args)
    new Uint8Array(range).fill(0)
    return range
  }
}
