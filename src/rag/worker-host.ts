/** Where a worker runs, a thread of this process or a process of its own, and how messages get there and back. */
import { fork } from 'node:child_process'
import { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { parentPort, Worker, type TransferListItem } from 'node:worker_threads'
import { messageOf } from './errors.ts'

/** A running worker, seen from the one who started it. */
export interface WorkerHost {
  /** Sends a structured-cloneable message. Buffers of `transfer` are moved to a thread; a process gets copies. */
  post(message: unknown, transfer: readonly TransferListItem[]): void
  /** Whether the worker keeps this process alive. It does when it starts. */
  setRef(isRef: boolean): void
  /** Ends it at once, even during a call; resolves when it has ended. Idempotent. */
  terminate(): Promise<void>
}

export interface WorkerEvents {
  readonly onMessage: (message: unknown) => void
  /** The worker has ended, or cannot be spoken with any more. `cause` is what it threw and last wrote: for logs, it holds paths. */
  readonly onDeath: (reason: string, cause?: Error) => void
}

export type StartWorker = (events: WorkerEvents) => WorkerHost

/** A worker thread: large buffers get there and back without a copy. */
export const threadWorker =
  (url: URL, workerData?: unknown): StartWorker =>
  ({ onMessage, onDeath }) => {
    const worker = new Worker(url, { workerData, stdout: true, stderr: true })
    // Libraries print there as they like; this process's stdout is for JSON log lines only.
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
 * A process of its own, for native code that this process must outlive. It runs with this process's environment and Node options, ends
 * with it, and is ended by SIGKILL: nothing of what it loaded is torn down. Costs a copy of each message and some 40 MB.
 */
export const processWorker =
  (url: URL): StartWorker =>
  ({ onMessage, onDeath }) => {
    const child = fork(url, [], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      // A debugger's port is this process's.
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
    // After exit, when its last words have been read.
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

/** Characters of what a worker wrote to stderr that are kept as the cause of its death. */
const STDERR_TAIL = 500

/** Reads a stream to its end, keeping its last characters. */
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

/** The way back, seen from the worker. */
interface WorkerPort {
  post(message: unknown, transfer: readonly TransferListItem[]): void
  onMessage(listener: (message: unknown) => void): void
}

/** The port of this thread, or of this process when a thread it is not. */
export function workerPort(): WorkerPort {
  const thread = parentPort
  if (thread) {
    return {
      post: (message, transfer) => thread.postMessage(message, transfer),
      onMessage: (listener) => void thread.on('message', listener),
    }
  }
  if (!process.send) throw new Error('neither a worker thread nor a process with a channel to its parent')
  // Ctrl-C and service managers signal the whole group. The parent may need this process for what it still answers.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {})
  // However the parent ended, the channel is closed then. An orderly exit would run the teardown of native code.
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))
  return {
    // A failure means that the parent is gone.
    post: (message) => void process.send?.(message, undefined, undefined, () => {}),
    onMessage: (listener) => void process.on('message', listener),
  }
}
