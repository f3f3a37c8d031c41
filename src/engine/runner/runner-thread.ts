/**
 * Threads for runners. One can be started before it is needed: it then imports its modules while the process imports the server, which takes as long.
 */
import { Worker } from 'node:worker_threads'
import { builtEntry } from '../threads/built-entry.ts'

/** A thread that has started and has no runner yet. */
let spare: Worker | null = null

const dropSpare = (): void => {
  spare = null
}

/** No execArgv: a thread does not inherit flags of the main process, such as an inspector port or a test runner's loader. */
const start = (device: string | null): Worker =>
  new Worker(builtEntry('runner/worker'), { execArgv: [], workerData: { device } })

/**
 * Starts the thread that the next runner will use. It does not keep the process alive, and one that fails is forgotten: the runner then starts its own.
 * @param device the device that will be asked for, which the thread gets ready for
 */
export function startAhead(device: string): void {
  if (spare !== null) return
  spare = start(device)
  spare.unref()
  spare.once('error', dropSpare)
  spare.once('exit', dropSpare)
}

/** A thread for one runner. */
export function takeThread(): Worker {
  const worker = spare
  if (worker === null) return start(null)
  worker.off('error', dropSpare)
  worker.off('exit', dropSpare)
  worker.ref()
  dropSpare()
  return worker
}
