/**
 * Writes lines to a file or a pipe without blocking the event loop, from a bounded queue. A full disk or a reader that is gone costs lines,
 * never a request, and never delays the exit.
 *
 * pino's own writer, sonic-boom 4.2.1, cannot end on a full disk. Its `flushSync` repeats every failed write until it succeeds; the option
 * `retryEAGAIN` can stop this for EAGAIN and EBUSY only, not for ENOSPC. After a failed write, its `end` leaves the descriptor open and
 * emits neither `finish` nor `close`. Its `destroy` closes, but drops the queue without a count.
 */
import { write, writeSync } from 'node:fs'

/** Lines beyond this wait for nothing: they are dropped. */
const MAX_QUEUED_BYTES = 8 * 1024 * 1024
/** A pipe that is full is tried again after this long. */
const RETRY_MS = 100
/** How long the last lines wait for a full pipe. */
const CLOSE_MS = 1_000
const NOTHING = Buffer.alloc(0)

interface LineWriterOptions {
  /** The descriptor for the next write; called while no write is in flight. What it throws counts as a failed write. */
  readonly descriptor: () => number
  readonly onWritten?: (numBytes: number) => void
  /** Called with the first failure since the last success. */
  readonly onError: (error: unknown) => void
  /** Called with the lines dropped since the last call: when writing works again, and at the end. */
  readonly onDropped?: (numLines: number) => void
  /** Called once, when the writer is closed and no write is in flight. */
  readonly release?: () => void
}

/** A queue of lines on their way to a descriptor. Lines are tried again with the next line after a failure. */
export class LineWriter {
  readonly #options: LineWriterOptions
  readonly #maxQueuedBytes: number
  #waiting: string[] = []
  #waitingBytes = 0
  /** Being written, or left by a failed write. */
  #current: Buffer = NOTHING
  #isWriting = false
  #hasFailed = false
  #isClosed = false
  #numDropped = 0
  #numReported = 0
  #retry: NodeJS.Timeout | null = null
  #idle: (() => void)[] = []

  /** @param maxQueuedBytes lines that would make the queue longer are dropped */
  constructor(options: LineWriterOptions, maxQueuedBytes = MAX_QUEUED_BYTES) {
    this.#options = options
    this.#maxQueuedBytes = maxQueuedBytes
  }

  /** Lines that were not written and will not be. */
  get numDropped(): number {
    return this.#numDropped
  }

  /** @param line with its line end */
  write(line: string): void {
    if (this.#isClosed) return
    const numBytes = Buffer.byteLength(line)
    if (this.#current.length + this.#waitingBytes + numBytes > this.#maxQueuedBytes) {
      this.#numDropped++
    } else {
      this.#waiting.push(line)
      this.#waitingBytes += numBytes
    }
    this.#writeNext()
  }

  /** Resolves when all lines so far have been written, or could not be. */
  async flush(): Promise<void> {
    if (this.#isWriting) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /** Writes the rest, synchronously: it may be called in a process 'exit' handler. What cannot be written is dropped. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    if (this.#retry) clearTimeout(this.#retry)
    this.#writeRest()
  }

  #writeNext(): void {
    if (this.#isWriting) return
    if (this.#current.length === 0) this.#current = this.#takeWaiting()
    if (this.#current.length === 0) {
      this.#settle()
      return
    }
    try {
      const descriptor = this.#options.descriptor()
      this.#isWriting = true
      write(descriptor, this.#current, (error, numBytes) => this.#wrote(error, numBytes))
    } catch (error) {
      this.#isWriting = false
      this.#failed(error)
    }
  }

  #wrote(error: unknown, numBytes: number): void {
    this.#isWriting = false
    if (!error) this.#advance(numBytes)
    if (this.#isClosed) this.#writeRest()
    else if (error) this.#failed(error)
    else this.#writeNext()
  }

  #advance(numBytes: number): void {
    this.#current = this.#current.subarray(numBytes)
    this.#options.onWritten?.(numBytes)
    if (this.#current.length > 0) return
    this.#hasFailed = false
    this.#reportDropped()
  }

  #writeRest(): void {
    // The write in flight takes what is current; its end calls this again.
    const inFlight = this.#isWriting ? this.#current : NOTHING
    this.#current = Buffer.concat([this.#isWriting ? NOTHING : this.#current, this.#takeWaiting()])
    const deadline = performance.now() + CLOSE_MS
    while (this.#current.length > 0) {
      try {
        this.#advance(writeSync(this.#options.descriptor(), this.#current))
      } catch (error) {
        if (isBusy(error) && performance.now() < deadline) {
          pause()
          continue
        }
        this.#numDropped += numLinesIn(this.#current)
        this.#current = NOTHING
        this.#failed(error)
      }
    }
    this.#current = inFlight
    if (this.#isWriting) return
    this.#reportDropped()
    this.#settle()
    this.#options.release?.()
  }

  #takeWaiting(): Buffer {
    const text = this.#waiting.join('')
    this.#waiting = []
    this.#waitingBytes = 0
    return Buffer.from(text)
  }

  #failed(error: unknown): void {
    this.#settle()
    if (isBusy(error)) {
      if (this.#isClosed || this.#retry) return
      this.#retry = setTimeout(() => {
        this.#retry = null
        this.#writeNext()
      }, RETRY_MS).unref()
      return
    }
    if (this.#hasFailed) return
    this.#hasFailed = true
    this.#options.onError(error)
  }

  #reportDropped(): void {
    const numLines = this.#numDropped - this.#numReported
    this.#numReported = this.#numDropped
    if (numLines > 0) this.#options.onDropped?.(numLines)
  }

  #settle(): void {
    const waiting = this.#idle
    this.#idle = []
    for (const resolve of waiting) resolve()
  }
}

/** A pipe that takes no more for now. */
const isBusy = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'EAGAIN'

/** Waits without returning to the event loop, which does not run in an 'exit' handler. */
const pause = (): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)

/** Line ends in a text. */
function numLinesIn(bytes: Buffer): number {
  let numLines = 0
  for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) numLines++
  return numLines
}
