/**
 * A log file that is flushed within 2 ms, so that a grep by the id that curl has just printed finds the request's lines, and rotated by size. A
 * disk that fails costs lines, counted, never a request.
 */
import { closeSync, fstatSync, mkdirSync, openSync, renameSync, write, writeSync } from 'node:fs'
import { dirname } from 'node:path'

const FLUSH_AFTER_MS = 2
const MAX_BUFFERED_BYTES = 8 * 1024 * 1024

export interface LogFileOptions {
  readonly path: string
  /** A file longer than this is rotated. */
  readonly maxBytes?: number
  /** Files kept, the current one included: path, path.1, path.2. */
  readonly maxFiles?: number
  /** Told the first time a write fails. */
  readonly onError: (error: unknown) => void
}

export class LogFile {
  private readonly path: string
  private readonly maxBytes: number
  private readonly maxFiles: number
  private readonly onError: (error: unknown) => void
  private fd: number
  private size: number
  private buffer: string[] = []
  private bufferedBytes = 0
  private timer: NodeJS.Timeout | null = null
  private writing: Promise<void> | null = null
  private hasFailed = false
  private isClosed = false
  /** Lines lost to a full buffer or a failing disk. */
  numDropped = 0

  /** @throws when the file cannot be opened. */
  constructor(options: LogFileOptions) {
    this.path = options.path
    this.maxBytes = options.maxBytes ?? 50 * 1024 * 1024
    this.maxFiles = options.maxFiles ?? 3
    this.onError = options.onError
    mkdirSync(dirname(this.path), { recursive: true })
    this.fd = openSync(this.path, 'a')
    this.size = fstatSync(this.fd).size
  }

  write(line: string): void {
    if (this.isClosed || this.bufferedBytes > MAX_BUFFERED_BYTES) {
      this.numDropped += 1
      return
    }
    this.buffer.push(line)
    this.bufferedBytes += line.length
    if (this.timer || this.writing) return
    this.timer = setTimeout(() => {
      this.timer = null
      void this.flush()
    }, FLUSH_AFTER_MS)
    this.timer.unref()
  }

  /** Writes what is buffered; resolves when it is with the operating system. */
  async flush(): Promise<void> {
    while (this.writing || this.buffer.length > 0) {
      this.writing ??= this.writeBuffered().finally(() => {
        this.writing = null
      })
      await this.writing
    }
  }

  /** Flushes and closes, without waiting for the event loop: also right in a process 'exit' handler. */
  close(): void {
    if (this.isClosed) return
    this.isClosed = true
    if (this.timer) clearTimeout(this.timer)
    const rest = this.take()
    try {
      if (rest.length > 0) writeSync(this.fd, rest)
    } catch (error) {
      this.failed(error)
    }
    // A write still in flight holds the descriptor; it is closed when that one ends.
    if (this.writing) void this.writing.finally(() => closeSync(this.fd))
    else closeSync(this.fd)
  }

  private take(): Buffer {
    const bytes = Buffer.from(this.buffer.join(''))
    this.buffer = []
    this.bufferedBytes = 0
    return bytes
  }

  private async writeBuffered(): Promise<void> {
    const numLines = this.buffer.length
    const bytes = this.take()
    try {
      for (let offset = 0; offset < bytes.length;) offset += await this.writeSome(bytes, offset)
      this.size += bytes.length
      if (this.size > this.maxBytes && !this.isClosed) this.rotate()
    } catch (error) {
      this.numDropped += numLines
      this.failed(error)
    }
  }

  private writeSome(bytes: Buffer, offset: number): Promise<number> {
    return new Promise((resolve, reject) => {
      write(this.fd, bytes, offset, (error, written) => (error ? reject(error) : resolve(written)))
    })
  }

  private rotate(): void {
    closeSync(this.fd)
    try {
      for (let i = this.maxFiles - 1; i >= 1; i--) {
        try {
          renameSync(i === 1 ? this.path : `${this.path}.${i - 1}`, `${this.path}.${i}`)
        } catch {
          // Not there yet.
        }
      }
    } finally {
      this.fd = openSync(this.path, 'a')
      this.size = fstatSync(this.fd).size
    }
  }

  private failed(error: unknown): void {
    if (this.hasFailed) return
    this.hasFailed = true
    this.onError(error)
  }
}
