/** Whether a server answers /health while it works on something else. */
import { existsSync, readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import type { ServerProcess } from './server-process.ts'

/** How long /health may take. */
export const MAX_HEALTH_MS = 100

/** Between two questions, so that asking does not take the processor from the work. What blocks longer is seen all the same. */
const PAUSE_MS = 5

/**
 * Asks for /health again and again until `work` is over. Gives the longest that it took: in processor time of the thread that serves, where
 * the system reports it (Linux), because a machine that has other things to do is not the server's fault.
 */
export async function worstHealthMs(server: ServerProcess, work: Promise<unknown>): Promise<number> {
  const over = new AbortController()
  const end = () => over.abort()
  work.then(end, end)
  let worst = 0
  do {
    const before = threadMs(server.pid)
    const response = await server.get('/health')
    await response.text()
    if (response.status !== 200) throw new Error(`/health: ${response.status}`)
    worst = Math.max(worst, threadMs(server.pid) - before)
    await setTimeout(PAUSE_MS)
  } while (!over.signal.aborted)
  await work
  return worst
}

/** Processor time that a process's first thread has used; the time of day where the system does not report it. */
function threadMs(pid: number): number {
  const path = `/proc/${pid}/task/${pid}/schedstat`
  return existsSync(path) ? Number(readFileSync(path, 'utf8').split(' ')[0]) / 1e6 : performance.now()
}
