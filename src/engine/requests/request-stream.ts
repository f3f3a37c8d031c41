/** The consumer's side of a request: its events in order, as an async iterator that may be abandoned at any time. */
import { EngineError } from '../request.ts'
import type { ChoiceLogprob, GenerationEvent, GenerationStream, TokenEvent, ToolCallDelta } from '../request.ts'

interface Reader {
  resolve(result: IteratorResult<GenerationEvent, undefined>): void
  reject(error: unknown): void
}

/** Events that are buffered one by one for a slow consumer. Later tokens are merged into the newest event of their choice. */
const MAX_BUFFERED_EVENTS = 256
/** Limit on buffered log-probability entries of generated tokens (one per token and per top token). */
export const MAX_BUFFERED_LOGPROBS = 65_536
/** Limit on buffered characters of generated text. A remote engine may send any number of them in one token. */
export const MAX_BUFFERED_CHARACTERS = 2 ** 24

/** A buffered token event into which later ones of its choice are merged. */
interface MergedTokenEvent extends TokenEvent {
  text: string
  readonly toolCalls: ToolCallDelta[]
  readonly tokenIds: number[]
  readonly logprobs: ChoiceLogprob[] | null
}

/**
 * The step loop pushes events, and one consumer pulls them. Pushing never waits: a slow client must not delay the step loop, nor keep the blocks
 * of its sequences. Beyond MAX_BUFFERED_EVENTS unread events are merged, so that they cost no more than their text and token ids. Merging does
 * not reduce text and log-probabilities; `overflow` limits them.
 */
export class RequestStream implements GenerationStream {
  readonly #start: () => void
  readonly #cancel: () => void
  readonly #events: GenerationEvent[] = []
  /** By choice: the buffered event into which its next tokens are merged. */
  readonly #merged = new Map<number, MergedTokenEvent>()
  #numLogprobs = 0
  #numCharacters = 0
  readonly #readers: Reader[] = []
  #listener: () => void = () => {}
  #isStarted = false
  #isEnded = false
  #error: unknown = null

  /** @param start called at the first next() @param cancel called when the consumer leaves early */
  constructor(start: () => void, cancel: () => void) {
    this.#start = start
    this.#cancel = cancel
  }

  push(event: GenerationEvent): void {
    if (this.#isEnded) return
    const reader = this.#readers.shift()
    if (reader !== undefined) {
      reader.resolve({ done: false, value: event })
      return
    }
    this.#buffer(event)
    this.#listener()
  }

  /** The error of a consumer that is too slow; null while it keeps up. */
  get overflow(): EngineError | null {
    const hasManyLogprobs = this.#numLogprobs > MAX_BUFFERED_LOGPROBS
    if (!hasManyLogprobs && this.#numCharacters <= MAX_BUFFERED_CHARACTERS) return null
    const what = hasManyLogprobs
      ? `${MAX_BUFFERED_LOGPROBS} log-probabilities`
      : `${MAX_BUFFERED_CHARACTERS} characters of text`
    const message = `the client reads too slowly: more than ${what} are buffered; ask for fewer or read faster`
    return new EngineError('deadline', message, hasManyLogprobs ? 'logprobs' : null)
  }

  /** Ends the iteration after the events so far. An error drops the unread events and is thrown next. */
  end(error: unknown = null): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#error = error
    if (error !== null) this.#clear()
    for (const reader of this.#readers.splice(0)) this.#settle(reader)
    this.#listener()
  }

  next(): Promise<IteratorResult<GenerationEvent, undefined>> {
    if (!this.#isStarted) {
      this.#isStarted = true
      if (!this.#isEnded) this.#start()
    }
    const event = this.#take()
    if (event !== undefined) return Promise.resolve({ done: false, value: event })
    return new Promise((resolve, reject) => {
      const reader = { resolve, reject }
      if (this.#isEnded) this.#settle(reader)
      else this.#readers.push(reader)
    })
  }

  poll(): IteratorResult<GenerationEvent, undefined> | null {
    const event = this.#take()
    if (event !== undefined) return { done: false, value: event }
    if (!this.#isEnded) return null
    const error = this.#error
    this.#error = null
    if (error !== null) throw error
    return { done: true, value: undefined }
  }

  onReadable(listener: () => void): void {
    this.#listener = listener
  }

  return(): Promise<IteratorResult<GenerationEvent, undefined>> {
    const wasRunning = this.#isStarted && !this.#isEnded
    this.#isStarted = true
    this.#listener = () => {}
    this.end()
    this.#clear()
    this.#error = null
    if (wasRunning) this.#cancel()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  #buffer(event: GenerationEvent): void {
    if (event.type === 'token') {
      this.#numLogprobs += countLogprobs(event)
      this.#numCharacters += countCharacters(event)
      // Even if the buffer has shrunk since then: a separate event would come after tokens that are merged later.
      const merged = this.#merged.get(event.choice)
      if (merged !== undefined) {
        merged.text += event.text
        merged.toolCalls.push(...(event.toolCalls ?? []))
        merged.tokenIds.push(...event.tokenIds)
        merged.logprobs?.push(...(event.logprobs ?? []))
        return
      }
      if (this.#events.length >= MAX_BUFFERED_EVENTS) {
        const first = {
          ...event,
          toolCalls: [...(event.toolCalls ?? [])],
          tokenIds: [...event.tokenIds],
          logprobs: event.logprobs && [...event.logprobs],
        }
        this.#merged.set(event.choice, first)
        this.#events.push(first)
        return
      }
    }
    this.#events.push(event)
  }

  #take(): GenerationEvent | undefined {
    const event = this.#events.shift()
    if (event?.type !== 'token') return event
    this.#numLogprobs -= countLogprobs(event)
    this.#numCharacters -= countCharacters(event)
    if (this.#merged.get(event.choice) === event) this.#merged.delete(event.choice)
    return event
  }

  #clear(): void {
    this.#events.length = 0
    this.#merged.clear()
    this.#numLogprobs = 0
    this.#numCharacters = 0
  }

  #settle(reader: Reader): void {
    const error = this.#error
    this.#error = null
    if (error === null) reader.resolve({ done: true, value: undefined })
    else reader.reject(error)
  }
}

function countCharacters({ text, toolCalls = [] }: TokenEvent): number {
  const inCalls = toolCalls.flatMap(({ id, name, arguments: args }) => [id ?? '', name ?? '', args])
  return inCalls.reduce((sum, part) => sum + part.length, text.length)
}

function countLogprobs({ logprobs }: TokenEvent): number {
  return logprobs?.reduce((sum, { top }) => sum + 1 + top.length, 0) ?? 0
}
