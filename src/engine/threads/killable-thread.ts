/** A worker thread that answers calls and can be terminated in the middle of one. */
import { Worker } from 'node:worker_threads'
import type { MessagePort, TransferListItem } from 'node:worker_threads'

interface ThreadRequest<Call> {
  readonly id: number
  readonly call: Call
}

/** `refusal`: the data of an error that is meant for the caller. `error`: the message of any other error. */
type ThreadResponse<Answer> = { readonly id: number } & (
  { readonly answer: Answer } | { readonly refusal: unknown } | { readonly error: string }
)

interface ThreadOptions {
  /** For messages: "the grammar thread". */
  readonly name: string
  readonly entry: URL
  readonly workerData: unknown
  /** Rebuilds an error from the data that `refusalOf` in `answerCalls` returned. */
  readonly toError: (refusal: unknown) => Error
}

interface PendingCall<Answer> {
  resolve(answer: Answer): void
  reject(error: Error): void
}

/** Sends calls to a worker thread. `end` terminates it and rejects the calls that are pending. */
export class KillableThread<Call, Answer> {
  readonly #options: ThreadOptions
  readonly #worker: Worker
  readonly #pending = new Map<number, PendingCall<Answer>>()
  #nextId = 0
  /** Why the thread takes no more calls. */
  #ended: Error | null = null

  constructor(options: ThreadOptions) {
    const { name, entry, workerData } = options
    this.#options = options
    this.#worker = new Worker(entry, { execArgv: [], workerData })
    // The thread has nothing to finish, so it must not keep the process alive.
    this.#worker.unref()
    this.#worker.on('message', (response: ThreadResponse<Answer>) => this.#receive(response))
    this.#worker.on('messageerror', (error) => this.#end(new Error(`${name} cannot be read: ${error.message}`)))
    this.#worker.on('error', (error) => this.#end(new Error(`${name} failed: ${error.message}`)))
    this.#worker.on('exit', () => this.#end(new Error(`${name} ended`)))
  }

  /** Whether the thread has ended and answers no more calls. */
  get isEnded(): boolean {
    return this.#ended !== null
  }

  call(call: Call): Promise<Answer> {
    if (this.#ended !== null) return Promise.reject(this.#ended)
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject })
      this.#worker.postMessage({ id, call } satisfies ThreadRequest<Call>, [])
    })
  }

  /** Sends a call without waiting for its end. On a thread that has ended it does nothing. */
  notify(call: Call): void {
    this.call(call).catch(() => {})
  }

  /** Terminates the thread, even in the middle of a call. Pending calls reject with the reason. Idempotent. */
  async close(reason = new Error(`${this.#options.name} was closed`)): Promise<void> {
    this.#end(reason)
    await this.#worker.terminate()
  }

  #receive(response: ThreadResponse<Answer>): void {
    const pending = this.#pending.get(response.id)
    this.#pending.delete(response.id)
    if ('answer' in response) pending?.resolve(response.answer)
    else pending?.reject('refusal' in response ? this.#options.toError(response.refusal) : new Error(response.error))
  }

  #end(error: Error): void {
    this.#ended ??= error
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    for (const call of pending) call.reject(this.#ended)
  }
}

/** An answer, and the buffers to transfer with it. */
export interface ThreadAnswer<Answer> {
  readonly answer: Answer
  readonly transfer?: TransferListItem[]
}

/** Answers calls inside the thread. @param refusalOf the data of an error that is meant for the caller; undefined for other errors */
export function answerCalls<Call, Answer>(
  port: MessagePort,
  answer: (call: Call) => ThreadAnswer<Answer> | Promise<ThreadAnswer<Answer>>,
  refusalOf: (error: unknown) => unknown,
): void {
  const post = (response: ThreadResponse<Answer>, transfer: TransferListItem[] = []): void =>
    port.postMessage(response, transfer)
  const serve = async ({ id, call }: ThreadRequest<Call>): Promise<void> => {
    try {
      const answered = await answer(call)
      post({ id, answer: answered.answer }, answered.transfer)
    } catch (error) {
      const refusal = refusalOf(error)
      if (refusal === undefined) post({ id, error: error instanceof Error ? error.message : String(error) })
      else post({ id, refusal })
    }
  }
  port.on('message', (request: ThreadRequest<Call>) => void serve(request))
}
