/** The number of threads to use for computations that are bound by arithmetic or memory bandwidth. */
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

/** The number of physical cores that Linux reports; null elsewhere. */
function physicalCores(): number | null {
  const siblings = new Set<string>()
  for (let cpu = 0; ; cpu++) {
    const list = read(`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`)
    if (list === null) break
    siblings.add(list)
  }
  return siblings.size > 0 ? siblings.size : null
}

/** The CPU quota of the control group (cgroup v2); null when it sets no limit. */
function quotaCores(): number | null {
  const [quota, period] = (read('/sys/fs/cgroup/cpu.max') ?? 'max').split(' ')
  return quota === undefined || quota === 'max' || period === undefined
    ? null
    : Math.max(1, Math.floor(Number(quota) / Number(period)))
}

/**
 * The number of physical cores, at most 8. A second thread per core adds nothing for kernels that keep the core's units busy, and with many
 * cores memory bandwidth becomes the limit. Outside Linux, cores cannot be told from threads: then the runtime's number counts.
 */
export function defaultThreads(): number {
  const usable = availableParallelism()
  return Math.max(1, Math.min(MAX_DEFAULT_THREADS, usable, physicalCores() ?? usable, quotaCores() ?? usable))
}
