/** Calls into a worker: typed by a table of methods, cancellable and ordered by priority. A worker that crashes is replaced. */
import { extname } from 'node:path'
import type { TransferListItem } from 'node:worker_threads'
import { messageOf, RagError, UnreadableError, type RagErrorCode } from './errors.ts'
import { workerPort, type StartWorker, type WorkerEvents, type WorkerHost } from './worker-host.ts'

/** The methods of a worker: parameters and result of each, all structured-cloneable. */
type WorkerMethods<Api> = { readonly [M in keyof Api]: { readonly params: unknown; readonly result: unknown } }

interface CallMessage {
  readonly type: 'call'
  readonly id: number
  readonly method: string
  readonly params: unknown
}

type ToWorker = CallMessage | { readonly type: 'cancel'; readonly id: number }

type FromWorker =
  | { readonly type: 'result'; readonly id: number; readonly result: unknown }
  | {
      readonly type: 'error'
      readonly id: number
      readonly message: string
      /** null: neither a RagError nor an UnreadableError. */
      readonly code: RagErrorCode | 'unreadable' | null
      readonly param: string | null
    }

interface PendingCall {
  readonly message: CallMessage
  readonly priority: number
  readonly transfer: readonly TransferListItem[]
  readonly settle: (error: Error | null, result?: unknown) => void
  /** Ends the worker; set when the call is sent to it. */
  deadline?: NodeJS.Timeout
}

export interface CallOptions {
  /** Rejects the call with the signal's reason. The worker stops at its next check. */
  readonly signal?: AbortSignal
  /** Among waiting calls, the lowest goes first. */
  readonly priority?: number
  readonly transfer?: readonly TransferListItem[]
}

export interface WorkerClientOptions {
  /** The worker's name in messages, such as "the embedding thread". */
  readonly name: string
  /** Calls in the worker at a time. The others wait here, where more urgent calls can overtake them. */
  readonly concurrency: number
  /** Calls that may wait. */
  readonly maxWaiting: number
  /** How long a call may run; absent: without limit. A longer call ends the worker, and waiting calls go to the next one. */
  readonly maxCallMs?: number
  /** The error code if the worker cannot start or dies. */
  readonly failureCode: RagErrorCode
  /** Whether close() waits for running calls. Calls that write must finish, or they would leave their locks behind. */
  readonly drainOnClose: boolean
  /** Called when the worker ends by itself, with or without calls. */
  readonly onDeath?: WorkerDeathListener
}

/** A call ran for longer than `maxCallMs`. */
export class CallTimeoutError extends RagError {}

/** Called with the worker's name and why it ended. `cause` is for logs, as in WorkerEvents. */
export type WorkerDeathListener = (death: {
  readonly worker: string
  readonly reason: string
  readonly cause: Error | undefined
}) => void

/** The URL of a sibling module as the entry of a worker, with the extension of the running code (.ts in tests, .js when built). */
export const workerUrl = (name: string, importMetaUrl: string): URL =>
  new URL(`${name}${extname(new URL(importMetaUrl).pathname)}`, importMetaUrl)

/** Calls the methods of a worker. Waiting calls are limited in number and ordered by priority. */
export class WorkerClient<Api extends WorkerMethods<Api>> {
  readonly #startWorker: StartWorker
  readonly #options: WorkerClientOptions
  #worker: WorkerHost | null = null
  /** Whether the worker has answered a call. One that dies before may be unable to start. */
  #hasAnswered = false
  #isClosed = false
  #nextId = 1
  #waiting: PendingCall[] = []
  readonly #running = new Map<number, PendingCall>()
  #whenIdle: (() => void) | null = null

  constructor(startWorker: StartWorker, options: WorkerClientOptions) {
    this.#startWorker = startWorker
    this.#options = options
  }

  /** Whether a worker has been started and has not died. */
  get isRunning(): boolean {
    return this.#worker !== null
  }

  /** @throws the method's error (a RagError or UnreadableError as such), the signal's reason, or RagError overloaded or of `failureCode` */
  call<M extends keyof Api & string>(
    method: M,
    params: Api[M]['params'],
    { signal, priority = 0, transfer = [] }: CallOptions = {},
  ): Promise<Api[M]['result']> {
    return new Promise<Api[M]['result']>((resolve, reject) => {
      if (this.#isClosed) return reject(this.#failure('is closed'))
      if (signal?.aborted) return reject(toError(signal.reason))
      if (this.#waiting.length >= this.#options.maxWaiting) {
        const message = `${this.#options.name} has ${this.#waiting.length} calls waiting; try again later`
        return reject(new RagError('overloaded', message))
      }
      const id = this.#nextId++
      const onAbort = (): void => {
        this.#waiting = this.#waiting.filter((other) => other !== call)
        if (this.#running.has(id)) this.#worker?.post({ type: 'cancel', id } satisfies ToWorker, [])
        // A running call keeps its slot until the worker has answered, because the worker is still busy.
        call.settle(toError(signal?.reason))
      }
      const call: PendingCall = {
        message: { type: 'call', id, method, params },
        priority,
        transfer,
        settle: (error, result) => {
          signal?.removeEventListener('abort', onAbort)
          if (error) reject(error)
          else resolve(result as Api[M]['result'])
        },
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      const before = this.#waiting.findIndex((other) => other.priority > priority)
      this.#waiting.splice(before < 0 ? this.#waiting.length : before, 0, call)
      this.#dispatch()
    })
  }

  /** Ends the worker. Rejects waiting calls, and running calls unless they are drained. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true
    const waiting = this.#waiting
    this.#waiting = []
    for (const call of waiting) call.settle(this.#failure('was closed'))
    if (this.#options.drainOnClose && this.#running.size > 0) {
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve
      })
    }
    const worker = this.#worker
    this.#fail(this.#failure('was closed'))
    await worker?.terminate()
  }

  #dispatch(): void {
    while (this.#running.size < this.#options.concurrency) {
      const call = this.#waiting.shift()
      if (!call) break
      this.#running.set(call.message.id, call)
      try {
        this.#worker ??= this.#start()
        this.#worker.post(call.message satisfies ToWorker, call.transfer)
        const { maxCallMs } = this.#options
        if (maxCallMs !== undefined) call.deadline = setTimeout(() => this.#stop(maxCallMs), maxCallMs)
      } catch (error) {
        this.#running.delete(call.message.id)
        call.settle(toError(error))
      }
    }
    // An idle worker does not keep the process alive.
    this.#worker?.setRef(this.#running.size > 0)
    if (this.#running.size === 0) this.#whenIdle?.()
  }

  #start(): WorkerHost {
    const events: WorkerEvents = {
      onMessage: (message) => {
        if (this.#worker === worker) this.#receive(message as FromWorker)
      },
      onDeath: (reason, cause) => {
        if (this.#worker !== worker) return
        this.#options.onDeath?.({ worker: this.#options.name, reason, cause })
        this.#bury(this.#failure(reason, cause))
        // A worker that cannot be reached may still be running.
        void worker.terminate()
      },
    }
    let worker: WorkerHost
    try {
      worker = this.#startWorker(events)
    } catch (error) {
      throw this.#failure('cannot be started', toError(error))
    }
    return worker
  }

  /** Ends a worker whose call has run for too long: nothing else can interrupt it. */
  #stop(ms: number): void {
    const worker = this.#worker
    const reason = `took longer than ${ms} ms`
    this.#options.onDeath?.({ worker: this.#options.name, reason, cause: undefined })
    this.#hasAnswered = true
    this.#bury(new CallTimeoutError(this.#options.failureCode, `${this.#options.name} ${reason}`))
    void worker?.terminate()
  }

  #receive(message: FromWorker): void {
    this.#hasAnswered = true
    const call = this.#running.get(message.id)
    clearTimeout(call?.deadline)
    this.#running.delete(message.id)
    if (message.type === 'result') call?.settle(null, message.result)
    else call?.settle(errorOf(message))
    this.#dispatch()
  }

  /** Rejects the calls of a dead worker. Waiting calls were not sent to it, so they go to the next one. */
  #bury(error: Error): void {
    if (!this.#hasAnswered) return this.#fail(error)
    const waiting = this.#waiting
    this.#waiting = []
    this.#fail(error)
    this.#waiting = waiting
    this.#dispatch()
  }

  /** Rejects all calls. The next call starts a new worker. */
  #fail(error: Error): void {
    this.#worker = null
    this.#hasAnswered = false
    const calls = [...this.#running.values(), ...this.#waiting]
    this.#running.clear()
    this.#waiting = []
    for (const call of calls) {
      clearTimeout(call.deadline)
      call.settle(error)
    }
    this.#whenIdle?.()
  }

  #failure(what: string, cause?: Error): RagError {
    return new RagError(this.#options.failureCode, `${this.#options.name} ${what}`, null, { cause })
  }
}

function errorOf({ code, message, param }: Extract<FromWorker, { readonly type: 'error' }>): Error {
  if (code === null) return new Error(message)
  return code === 'unreadable' ? new UnreadableError(message) : new RagError(code, message, param)
}

const toError = (reason: unknown): Error => (reason instanceof Error ? reason : new Error(String(reason)))

/** The result of a method, and the buffers in it that are moved instead of copied. */
export class Transferred<T> {
  readonly result: T
  readonly transfer: readonly TransferListItem[]
  constructor(result: T, transfer: readonly TransferListItem[]) {
    this.result = result
    this.transfer = transfer
  }
}

export type CallHandlers<Api extends WorkerMethods<Api>> = {
  readonly [M in keyof Api]: (
    params: Api[M]['params'],
    signal: AbortSignal,
  ) => Promise<Api[M]['result'] | Transferred<Api[M]['result']>>
}

/** Answers calls in the worker until its thread or process ends. */
export function serveCalls<Api extends WorkerMethods<Api>>(handlers: CallHandlers<Api>): void {
  const port = workerPort()
  const running = new Map<number, AbortController>()
  const isMethod = (method: string): method is keyof Api & string => Object.hasOwn(handlers, method)
  const answer = async ({ id, method, params }: CallMessage): Promise<void> => {
    const controller = new AbortController()
    running.set(id, controller)
    try {
      if (!isMethod(method)) throw new Error(`no method ${method}`)
      const value = await handlers[method](params as Api[keyof Api & string]['params'], controller.signal)
      const { result, transfer } = value instanceof Transferred ? value : { result: value, transfer: [] }
      port.post({ type: 'result', id, result } satisfies FromWorker, transfer)
    } catch (error) {
      const code = error instanceof RagError ? error.code : error instanceof UnreadableError ? 'unreadable' : null
      const param = error instanceof RagError ? error.param : null
      port.post({ type: 'error', id, message: messageOf(error), code, param } satisfies FromWorker, [])
    } finally {
      running.delete(id)
    }
  }
  port.onMessage((received) => {
    const message = received as ToWorker
    if (message.type === 'cancel') running.get(message.id)?.abort()
    else void answer(message)
  })
}
