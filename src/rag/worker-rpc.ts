/** Calls into a worker thread and back: typed by a table of methods, cancellable, ordered by priority, restarted after a crash. */
import { extname } from 'node:path'
import { Worker, parentPort, type TransferListItem } from 'node:worker_threads'
import { messageOf, RagError, type RagErrorCode } from './errors.ts'

/** What a worker offers: parameters and result of each method, all structured-cloneable. */
export type WorkerMethods<Api> = { readonly [M in keyof Api]: { readonly params: unknown; readonly result: unknown } }

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
      readonly code: RagErrorCode | null
      readonly param: string | null
    }

interface PendingCall {
  readonly message: CallMessage
  readonly priority: number
  readonly transfer: readonly TransferListItem[]
  readonly settle: (error: Error | null, result?: unknown) => void
}

export interface CallOptions {
  /** Rejects the call with the signal's reason; the worker stops where it next looks. */
  readonly signal?: AbortSignal
  /** Lower goes first among the calls that wait. */
  readonly priority?: number
  readonly transfer?: readonly TransferListItem[]
}

export interface WorkerClientOptions {
  /** For messages: "the embedding worker". */
  readonly name: string
  /** Calls in the worker at a time; the others wait here, where a more urgent one can pass them. */
  readonly concurrency: number
  /** Calls that wait, at most. */
  readonly maxWaiting: number
  /** Code of the errors of a worker that cannot start or died. */
  readonly failureCode: RagErrorCode
  /** Whether close() lets running calls finish: those that write must, or they leave their locks behind. */
  readonly drainOnClose: boolean
  /** Called in this thread before each start of the worker. */
  readonly beforeStart?: () => void
  readonly workerData?: unknown
}

/** Characters of what a worker wrote to stderr that are kept as the cause of its death. Clients never see them: they hold paths. */
const STDERR_TAIL = 500

/** A sibling module as the entry of a worker, with the extension this code runs with (.ts in the tests, .js when built). */
export const workerUrl = (name: string, importMetaUrl: string): URL =>
  new URL(`${name}${extname(new URL(importMetaUrl).pathname)}`, importMetaUrl)

export class WorkerClient<Api extends WorkerMethods<Api>> {
  readonly #url: URL
  readonly #options: WorkerClientOptions
  #worker: Worker | null = null
  #isClosed = false
  #nextId = 1
  #waiting: PendingCall[] = []
  readonly #running = new Map<number, PendingCall>()
  #whenIdle: (() => void) | null = null

  constructor(url: URL, options: WorkerClientOptions) {
    this.#url = url
    this.#options = options
  }

  /** @throws what the method threw (RagError keeps code and param), the signal's reason, or RagError of `failureCode`. */
  call<M extends keyof Api & string>(
    method: M,
    params: Api[M]['params'],
    { signal, priority = 0, transfer = [] }: CallOptions = {},
  ): Promise<Api[M]['result']> {
    return new Promise<Api[M]['result']>((resolve, reject) => {
      if (this.#isClosed) return reject(this.#failure('is closed'))
      if (signal?.aborted) return reject(toError(signal.reason))
      if (this.#waiting.length >= this.#options.maxWaiting) {
        return reject(this.#failure(`has ${this.#waiting.length} calls waiting; try again later`))
      }
      const id = this.#nextId++
      const onAbort = (): void => {
        this.#waiting = this.#waiting.filter((other) => other !== call)
        if (this.#running.has(id)) this.#worker?.postMessage({ type: 'cancel', id } satisfies ToWorker)
        // A running call keeps its slot until the worker has answered: the next would only wait there instead of here.
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

  /** Ends the worker; calls that wait are rejected, running ones too unless they are drained. Idempotent. */
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
        this.#worker.postMessage(call.message satisfies ToWorker, call.transfer)
      } catch (error) {
        this.#running.delete(call.message.id)
        call.settle(toError(error))
      }
    }
    if (this.#running.size > 0) this.#worker?.ref()
    else {
      // An idle worker does not keep the process alive.
      this.#worker?.unref()
      this.#whenIdle?.()
    }
  }

  #start(): Worker {
    this.#options.beforeStart?.()
    const worker = new Worker(this.#url, { workerData: this.#options.workerData, stdout: true, stderr: true })
    let tail = ''
    // Libraries print there as they like; this process's stdout is for JSON log lines only.
    worker.stdout.resume()
    worker.stderr.setEncoding('utf8').on('data', (text: string) => {
      tail = (tail + text).slice(-STDERR_TAIL)
    })
    const died = (reason: string, error?: unknown): void => {
      if (this.#worker === worker) this.#fail(this.#failure(reason, deathCause(error, tail.trim())))
    }
    worker.on('message', (message: FromWorker) => this.#receive(message))
    worker.on('error', (error) => died('failed', error))
    worker.on('messageerror', (error) => died('sent what cannot be read', error))
    worker.on('exit', (code) => died(`ended with code ${code}`))
    return worker
  }

  #receive(message: FromWorker): void {
    const call = this.#running.get(message.id)
    this.#running.delete(message.id)
    if (message.type === 'result') call?.settle(null, message.result)
    else
      call?.settle(
        message.code ? new RagError(message.code, message.message, message.param) : new Error(message.message),
      )
    this.#dispatch()
  }

  /** Rejects everything under way; the next call starts a new worker. */
  #fail(error: Error): void {
    this.#worker = null
    const calls = [...this.#running.values(), ...this.#waiting]
    this.#running.clear()
    this.#waiting = []
    for (const call of calls) call.settle(error)
    this.#whenIdle?.()
  }

  #failure(what: string, cause?: Error): RagError {
    return new RagError(this.#options.failureCode, `${this.#options.name} ${what}`, null, { cause })
  }
}

/** What a worker threw and what it last wrote, for logs. */
function deathCause(error: unknown, stderr: string): Error | undefined {
  if (error === undefined && stderr === '') return undefined
  const what = error === undefined ? [] : [messageOf(error)]
  return new Error([...what, ...(stderr === '' ? [] : [`stderr: ${stderr}`])].join('; '), { cause: error })
}

const toError = (reason: unknown): Error => (reason instanceof Error ? reason : new Error(String(reason)))

/** A method's result with the buffers to move instead of copying. */
export class Transferred<T> {
  readonly result: T
  readonly transfer: readonly TransferListItem[]
  constructor(result: T, transfer: readonly TransferListItem[]) {
    this.result = result
    this.transfer = transfer
  }
}

type Handlers<Api extends WorkerMethods<Api>> = {
  readonly [M in keyof Api]: (
    params: Api[M]['params'],
    signal: AbortSignal,
  ) => Promise<Api[M]['result'] | Transferred<Api[M]['result']>>
}

/** The worker's side: answers calls until the thread ends. */
export function serveCalls<Api extends WorkerMethods<Api>>(handlers: Handlers<Api>): void {
  const port = parentPort
  if (!port) throw new Error('not a worker thread')
  const running = new Map<number, AbortController>()
  const isMethod = (method: string): method is keyof Api & string => Object.hasOwn(handlers, method)
  const answer = async ({ id, method, params }: CallMessage): Promise<void> => {
    const controller = new AbortController()
    running.set(id, controller)
    try {
      if (!isMethod(method)) throw new Error(`no method ${method}`)
      const value = await handlers[method](params as Api[keyof Api & string]['params'], controller.signal)
      const { result, transfer } = value instanceof Transferred ? value : { result: value, transfer: [] }
      port.postMessage({ type: 'result', id, result } satisfies FromWorker, transfer)
    } catch (error) {
      const { code, param } = error instanceof RagError ? error : { code: null, param: null }
      port.postMessage({ type: 'error', id, message: messageOf(error), code, param } satisfies FromWorker)
    } finally {
      running.delete(id)
    }
  }
  port.on('message', (message: ToWorker) => {
    if (message.type === 'cancel') running.get(message.id)?.abort()
    else void answer(message)
  })
}
