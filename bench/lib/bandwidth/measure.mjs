// What this machine's memory gives to threads that only read: the roof over decoding on the cpu backend.
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { defaultThreads } from '#dist/kernels/cpu/cores.js'

const here = dirname(fileURLToPath(import.meta.url))
/** Beyond any cache; whole vectors for any number of threads. */
const BYTES = 256 * 2 ** 20
const PASSES = 8
const PAGE = 65536

function compile() {
  const folder = mkdtempSync(join(tmpdir(), 'miniserve-bandwidth-'))
  try {
    const target = join(folder, 'read.wasm')
    const asc = join(here, '..', '..', '..', 'node_modules', 'assemblyscript', 'bin', 'asc.js')
    const memory = ['--importMemory', '--sharedMemory', '--maximumMemory', '65536', '--initialMemory', '1']
    const flags = ['-O3', '--noAssert', '--runtime', 'stub', '--enable', 'simd', '--enable', 'threads', ...memory]
    const { status, stderr } = spawnSync(process.execPath, [asc, join(here, 'read.ts'), '--outFile', target, ...flags])
    if (status !== 0) throw new Error(`asc: ${stderr}`)
    return new WebAssembly.Module(readFileSync(target))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** `threads` null: as many as the backend would use. The best of several passes, in 10^9 bytes a second. */
export async function measureReadBandwidth(threads) {
  const numThreads = threads ?? defaultThreads()
  const module = compile()
  const memory = new WebAssembly.Memory({ initial: BYTES / PAGE + 1, maximum: 65536, shared: true })
  // Untouched pages may all be one page of zeros.
  new Uint8Array(memory.buffer).fill(1)
  const control = new SharedArrayBuffer(8)
  const words = new Int32Array(control)
  const bytes = Math.floor(BYTES / numThreads / 64) * 64
  const workers = Array.from({ length: numThreads }, (_, i) => {
    const workerData = { module, memory, start: PAGE + i * bytes, bytes, control }
    return new Worker(new URL('./reader.mjs', import.meta.url), { workerData })
  })
  const awaitAll = () => {
    for (let done = Atomics.load(words, 1); done < numThreads; done = Atomics.load(words, 1))
      Atomics.wait(words, 1, done)
  }
  await Promise.all(workers.map((worker) => once(worker, 'online')))
  awaitAll()
  let best = Infinity
  for (let pass = 0; pass < PASSES; pass++) {
    Atomics.store(words, 1, 0)
    const started = performance.now()
    Atomics.add(words, 0, 1)
    Atomics.notify(words, 0)
    awaitAll()
    best = Math.min(best, performance.now() - started)
  }
  Atomics.store(words, 0, -1)
  Atomics.notify(words, 0)
  await Promise.all(workers.map((worker) => once(worker, 'exit')))
  return { threads: numThreads, gigabytesPerSecond: (bytes * numThreads) / best / 1e6 }
}
