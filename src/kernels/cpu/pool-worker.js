/* oxlint-disable unicorn/require-post-message-target-origin -- a worker thread's port, not a window */
// One thread of the cpu backend's pool (pool.ts). It lives inside `serve`, which sleeps while there is nothing to do, until the pool is stopped.
import { parentPort, workerData } from 'node:worker_threads'
import { instantiate } from './host.js'

const { module, memory, control, faultAddress, generationAddress, thread, numThreads } = workerData
const exports = await instantiate(module, memory)
exports.start(control, thread, numThreads)
parentPort?.postMessage('ready')
try {
  exports.serve(0)
} catch (error) {
  // The others may be waiting for this thread's share: they look at the fault word when they wake.
  const words = new Int32Array(memory.buffer)
  Atomics.store(words, faultAddress >> 2, 1)
  Atomics.add(words, generationAddress >> 2, 1)
  Atomics.notify(words, generationAddress >> 2)
  throw error
}
