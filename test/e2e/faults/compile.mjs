/** Says on stderr when the runner's thread begins to compile its first GPU kernel: loaded by NODE_OPTIONS=--import. */
import { isMainThread } from 'node:worker_threads'

if (!isMainThread && process.argv[1]?.includes('runner')) {
  const { globals } = await import('webgpu')
  const { createComputePipelineAsync } = globals.GPUDevice.prototype
  globals.GPUDevice.prototype.createComputePipelineAsync = function (...args) {
    process.stderr.write('compiling\n')
    globals.GPUDevice.prototype.createComputePipelineAsync = createComputePipelineAsync
    return createComputePipelineAsync.apply(this, args)
  }
}
