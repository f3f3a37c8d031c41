/** The consumer's side of a request: its events in order, as an async iterator that may be left at any time. */
import type { GenerationEvent } from './request.ts'

interface Reader {
  resolve(result: IteratorResult<GenerationEvent, undefined>): void
  reject(error: unknown): void
}

/**
 * Events are pushed by the step loop and pulled by one consumer. Bounded by what a request may produce (its tokens), so pushing
 * never waits: a slow client must not hold the step loop up.
 */
export class RequestStream implements AsyncIterableIterator<GenerationEvent, undefined> {
  readonly #start: () => void
  readonly #cancel: () => void
  readonly #events: GenerationEvent[] = []
  readonly #readers: Reader[] = []
  #isStarted = false
  #isEnded = false
  #error: unknown = null

  /** `start` runs at the first next(); `cancel` when the consumer leaves early. */
  constructor(start: () => void, cancel: () => void) {
    this.#start = start
    this.#cancel = cancel
  }

  push(event: GenerationEvent): void {
    if (this.#isEnded) return
    const reader = this.#readers.shift()
    if (reader === undefined) this.#events.push(event)
    else reader.resolve({ done: false, value: event })
  }

  /** After the events so far the iteration ends; with an error it throws it. */
  end(error: unknown = null): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#error = error
    for (const reader of this.#readers.splice(0)) this.#settle(reader)
  }

  next(): Promise<IteratorResult<GenerationEvent, undefined>> {
    if (!this.#isStarted) {
      this.#isStarted = true
      if (!this.#isEnded) this.#start()
    }
    const event = this.#events.shift()
    if (event !== undefined) return Promise.resolve({ done: false, value: event })
    return new Promise((resolve, reject) => {
      const reader = { resolve, reject }
      if (this.#isEnded) this.#settle(reader)
      else this.#readers.push(reader)
    })
  }

  return(): Promise<IteratorResult<GenerationEvent, undefined>> {
    const wasRunning = this.#isStarted && !this.#isEnded
    this.#isStarted = true
    this.end()
    this.#events.length = 0
    this.#error = null
    if (wasRunning) this.#cancel()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  #settle(reader: Reader): void {
    const error = this.#error
    this.#error = null
    if (error === null) reader.resolve({ done: true, value: undefined })
    else reader.reject(error)
  }
}
