// A thread of measure.mjs: reads its share of the memory whenever the counter moves on.
import { workerData } from 'node:worker_threads'

const { module, memory, start, bytes, control } = workerData
const read = /** @type {(start: number, bytes: number) => void} */ (
  (await WebAssembly.instantiate(module, { env: { memory } })).exports.read
)
const words = new Int32Array(control)
Atomics.add(words, 1, 1)
Atomics.notify(words, 1)
for (let pass = 0; ; pass++) {
  Atomics.wait(words, 0, pass)
  if (Atomics.load(words, 0) < 0) break
  read(start, bytes)
  Atomics.add(words, 1, 1)
  Atomics.notify(words, 1)
}
