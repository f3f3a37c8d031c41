/** Memory that the operating system can give this process without taking it from others. */
import { execFileSync } from 'node:child_process'
import { freemem, totalmem } from 'node:os'

/** Bytes that can still be allocated: the machine's, or the container's where that is less. */
export function availableHostMemory(): number {
  if (process.platform !== 'darwin') return process.availableMemory()
  try {
    return reclaimableOnDarwin(execFileSync('/usr/bin/vm_stat', { encoding: 'utf8', timeout: 2000 }))
  } catch {
    return freemem()
  }
}

/** Total bytes of the machine, or the container's limit where that is less. */
export function totalHostMemory(): number {
  const constrained = process.constrainedMemory()
  return constrained > 0 ? Math.min(totalmem(), constrained) : totalmem()
}

/**
 * Bytes that macOS can hand out without swapping, from the output of `vm_stat`: free, speculative, inactive and purgeable pages. Node counts
 * free pages only, which can be a tenth of a gigabyte on a machine with eight available.
 */
export function reclaimableOnDarwin(vmStat: string): number {
  const pageBytes = Number(/page size of (\d+) bytes/.exec(vmStat)?.[1] ?? 4096)
  const pages = ['free', 'speculative', 'inactive', 'purgeable'].map((kind) =>
    Number(new RegExp(`^Pages ${kind}:\\s+(\\d+)`, 'm').exec(vmStat)?.[1] ?? 0),
  )
  return pages.reduce((sum, count) => sum + count, 0) * pageBytes
}
