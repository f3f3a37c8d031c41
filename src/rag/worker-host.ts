/** Runs a worker in a thread or in a process of its own, and passes messages in both directions. */
import { fork } from 'node:child_process'
import { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { parentPort, Worker, type TransferListItem } from 'node:worker_threads'
import { messageOf } from './errors.ts'

/** A running worker, as its parent sees it. */
export interface WorkerHost {
  /** Sends a structured-cloneable message. The buffers in `transfer` are moved to a thread; a process gets copies. */
  post(message: unknown, transfer: readonly TransferListItem[]): void
  /** Sets whether the worker keeps this process alive. At first it does. */
  setRef(isRef: boolean): void
  /** Ends the worker at once, even during a call. Resolves when it has ended. Idempotent. */
  terminate(): Promise<void>
}

export interface WorkerEvents {
  readonly onMessage: (message: unknown) => void
  /** The worker has ended or cannot be reached. `cause` is what it threw and last wrote. It may contain paths, so it is only for logs. */
  readonly onDeath: (reason: string, cause?: Error) => void
}

export type StartWorker = (events: WorkerEvents) => WorkerHost

/** Starts a worker in a thread, to which large buffers move without a copy. */
export const threadWorker =
  (url: URL, workerData?: unknown): StartWorker =>
  ({ onMessage, onDeath }) => {
    const worker = new Worker(url, { workerData, stdout: true, stderr: true })
    // Discards what libraries print: the stdout of this process is for JSON log lines only.
    worker.stdout.resume()
    const tail = tailOf(worker.stderr)
    worker.on('message', onMessage)
    worker.on('error', (error) => onDeath('failed', deathCause(error, tail())))
    worker.on('messageerror', (error) => onDeath('sent an unreadable message', deathCause(error, tail())))
    worker.on('exit', (code) => onDeath(`ended with code ${code}`, deathCause(undefined, tail())))
    return {
      post: (message, transfer) => worker.postMessage(message, transfer),
      setRef: (isRef) => (isRef ? worker.ref() : worker.unref()),
      async terminate() {
        await worker.terminate()
      },
    }
  }

/**
 * Starts a worker in a process of its own, for native code that may crash. The process inherits the environment and the options of Node.js, ends with
 * this process, and is ended by SIGKILL, which skips the teardown of native code. It costs a copy of each message and about 40 MB.
 */
export const processWorker =
  (url: URL): StartWorker =>
  ({ onMessage, onDeath }) => {
    const child = fork(url, [], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      // The port of a debugger is in use by this process.
      execArgv: process.execArgv.filter((option) => !option.startsWith('--inspect')),
    })
    const tail = tailOf(child.stderr)
    let hasEnded = false
    const died = (reason: string, error?: unknown): void => onDeath(reason, deathCause(error, tail()))
    child.on('message', onMessage)
    child.on('error', (error) => {
      // A process that could not be started never exits.
      hasEnded ||= child.pid === undefined
      died('failed', error)
    })
    child.on('exit', () => {
      hasEnded = true
    })
    // After exit, when stderr has been read to its end.
    child.on('close', (code, signal) => died(signal ? `ended by ${signal}` : `ended with code ${code ?? 0}`))
    return {
      post: (message) =>
        void child.send(message as object, (error) => {
          if (error) died('cannot be reached', error)
        }),
      setRef(isRef) {
        for (const handle of [child, child.channel, child.stderr instanceof Socket ? child.stderr : null]) {
          if (isRef) handle?.ref()
          else handle?.unref()
        }
      },
      async terminate() {
        if (hasEnded) return
        child.ref()
        await new Promise<void>((resolve) => {
          child.once('exit', () => resolve())
          child.kill('SIGKILL')
        })
      },
    }
  }

/** Characters of a worker's stderr that are kept to explain its death. */
const STDERR_TAIL = 500

/** Reads a stream to its end and keeps its last characters. */
function tailOf(stream: Readable | null): () => string {
  let tail = ''
  stream?.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text).slice(-STDERR_TAIL)
  })
  return () => tail.trim()
}

function deathCause(error: unknown, stderr: string): Error | undefined {
  if (error === undefined && stderr === '') return undefined
  const what = error === undefined ? [] : [messageOf(error)]
  return new Error([...what, ...(stderr === '' ? [] : [`stderr: ${stderr}`])].join('; '), { cause: error })
}

/** The channel to the parent, as the worker sees it. */
interface WorkerPort {
  post(message: unknown, transfer: readonly TransferListItem[]): void
  onMessage(listener: (message: unknown) => void): void
}

/** The channel of this worker thread, or of this process if it is not a thread. */
export function workerPort(): WorkerPort {
  const thread = parentPort
  if (thread) {
    return {
      post: (message, transfer) => thread.postMessage(message, transfer),
      onMessage: (listener) => void thread.on('message', listener),
    }
  }
  if (!process.send) throw new Error('expected a worker thread or a process with a channel to its parent')
  // Ctrl-C and service managers signal the whole process group, but the parent may still need this process to answer requests.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {})
  // The channel closes however the parent ends. An orderly exit would run the teardown of native code.
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))
  return {
    // Fails only if the parent is gone.
    post: (message) => void process.send?.(message, undefined, undefined, () => {}),
    onMessage: (listener) => void process.on('message', listener),
  }
}
