/** What the operating system can give a process without taking it from others. */
import { execFileSync } from 'node:child_process'
import { freemem, totalmem } from 'node:os'

/** Bytes that may be allocated: of the machine, or of the container where that has less. */
export function availableHostMemory(): number {
  if (process.platform !== 'darwin') return process.availableMemory()
  try {
    return reclaimableOnDarwin(execFileSync('/usr/bin/vm_stat', { encoding: 'utf8', timeout: 2000 }))
  } catch {
    return freemem()
  }
}

/** Bytes of the machine, or of the container where that may use less. */
export function totalHostMemory(): number {
  const constrained = process.constrainedMemory()
  return constrained > 0 ? Math.min(totalmem(), constrained) : totalmem()
}

/**
 * Bytes that macOS has or gets back without swapping, of `vm_stat`'s output: free, speculative, inactive and purgeable pages. Node reports the free ones
 * alone, a tenth of a gigabyte on a machine that has eight to give.
 */
export function reclaimableOnDarwin(vmStat: string): number {
  const pageBytes = Number(/page size of (\d+) bytes/.exec(vmStat)?.[1] ?? 4096)
  const pages = ['free', 'speculative', 'inactive', 'purgeable'].map((kind) =>
    Number(new RegExp(`^Pages ${kind}:\\s+(\\d+)`, 'm').exec(vmStat)?.[1] ?? 0),
  )
  return pages.reduce((sum, count) => sum + count, 0) * pageBytes
}
