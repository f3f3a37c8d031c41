/* oxlint-disable unicorn/require-post-message-target-origin -- a worker thread's port, not a window */
// One thread of the cpu backend's pool (pool.ts). It lives inside `serve`, which sleeps while there is nothing to do, until the pool is stopped.
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { instantiate } from './host.js'

const { module, first, faultOffset, generationOffset, thread, numThreads } = workerData
/** The memories that this thread knows, by index. */
const known = []

function join({ memory, control }) {
  // Known before anything can throw: threads may wait in it by then, and have to be told.
  const own = { memory, control, exports: null }
  known.push(own)
  own.exports = instantiate(module, memory, executeIn)
  own.exports.start(control, thread, numThreads)
}

function executeIn(index) {
  // Inside `serve` no event arrives. A memory was posted before there was a program in it.
  while (known.length <= index) {
    const received = receiveMessageOnPort(parentPort)
    if (received === undefined) throw new Error(`memory ${index} was not posted to thread ${thread}`)
    join(received.message)
  }
  known[index].exports.execute()
}

join(first)
parentPort.postMessage('ready')
try {
  known[0].exports.serve(0)
} catch (error) {
  // The others may be waiting for this thread's share: they look at the fault word when they wake.
  for (const { memory, control } of known) {
    const words = new Int32Array(memory.buffer)
    Atomics.store(words, (control + faultOffset) >>> 2, 1)
    Atomics.add(words, (control + generationOffset) >>> 2, 1)
    Atomics.notify(words, (control + generationOffset) >>> 2)
  }
  throw error
}
