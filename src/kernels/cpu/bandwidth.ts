/** What this machine's memory gives to threads that only read: the roof over decoding. For benchmarks. */
import { Arena } from './arena.ts'
import { defaultThreads } from './cores.ts'
import { Pool } from './pool.ts'
import { Program } from './program.ts'

/** Beyond any cache. */
const BYTES = 256 * 2 ** 20
const PASSES = 8

export interface ReadBandwidth {
  readonly threads: number
  /** 10^9 bytes a second, the best of several passes over 256 MiB. */
  readonly gigabytesPerSecond: number
}

/** `threads` null: as many as the backend would use. */
export async function measureReadBandwidth(threads: number | null): Promise<ReadBandwidth> {
  const arena = new Arena()
  const pool = await Pool.start(arena, threads ?? defaultThreads(), true)
  try {
    const program = new Program(arena)
    const address = arena.allocate(BYTES, 'bandwidth probe')
    // Untouched pages may all be one page of zeros.
    arena.bytes(address, BYTES).fill(1)
    let best = Infinity
    for (let pass = 0; pass < PASSES; pass++) {
      program.clear()
      program.add('read', { address, bytes: BYTES })
      const started = performance.now()
      pool.run(program.address, program.length)
      best = Math.min(best, performance.now() - started)
    }
    return { threads: pool.numThreads, gigabytesPerSecond: BYTES / best / 1e6 }
  } finally {
    await pool.close()
  }
}
