/** How many threads a computation bound by arithmetic and memory should use here. */
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'

const MAX_DEFAULT_THREADS = 8

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return null
  }
}

/** Distinct physical cores that Linux reports, or null elsewhere. */
function physicalCores(): number | null {
  const siblings = new Set<string>()
  for (let cpu = 0; ; cpu++) {
    const list = read(`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`)
    if (list === null) break
    siblings.add(list)
  }
  return siblings.size > 0 ? siblings.size : null
}

/** CPUs the control group allows (cgroup v2), or null when it sets no limit. */
function quotaCores(): number | null {
  const [quota, period] = (read('/sys/fs/cgroup/cpu.max') ?? 'max').split(' ')
  return quota === undefined || quota === 'max' || period === undefined
    ? null
    : Math.max(1, Math.floor(Number(quota) / Number(period)))
}

/**
 * Physical cores, at most 8: a second thread on a core adds nothing to kernels that keep its units busy, and memory bandwidth ends the gain of
 * many cores. Where cores cannot be told from threads (not Linux), what the runtime reports.
 */
export function defaultThreads(): number {
  const usable = availableParallelism()
  return Math.max(1, Math.min(MAX_DEFAULT_THREADS, usable, physicalCores() ?? usable, quotaCores() ?? usable))
}
