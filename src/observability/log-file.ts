/**
 * The log file, written by sonic-boom without buffering delays. It is rotated by size, and opened again if somebody removes or renames it. A
 * failing disk costs lines, never a request.
 */
import { renameSync, type Stats, statSync } from 'node:fs'
import { dirname } from 'node:path'
import sonicBoom from 'sonic-boom'
import { makeFolder } from '../regular-file.ts'

const MAX_BUFFERED_BYTES = 8 * 1024 * 1024
/** How often a write checks that the path still names the open file. */
const CHECK_EVERY_MS = 250

interface LogFileOptions {
  readonly path: string
  /** A file longer than this is rotated. */
  readonly maxBytes?: number
  /** Files kept, the current one included: path, path.1, path.2. */
  readonly maxFiles?: number
  /** Called with the first failure since the last success. */
  readonly onError: (error: unknown) => void
}

/** A log file that rotates by size. Write errors go to `onError`; lines that do not fit into the buffer are dropped. */
export class LogFile {
  readonly #path: string
  readonly #maxBytes: number
  readonly #maxFiles: number
  readonly #onError: (error: unknown) => void
  readonly #stream: sonicBoom.SonicBoom
  #size = 0
  #inode = 0
  /** Bytes in the stream that have not been written yet. */
  #pendingBytes = 0
  #isReopening = false
  #checkedMs = -Infinity
  #hasFailed = false
  #isClosed = false
  #idle: (() => void)[] = []

  /** @throws when the folder cannot be made or the file cannot be opened. */
  constructor(options: LogFileOptions) {
    this.#path = options.path
    this.#maxBytes = options.maxBytes ?? 50 * 1024 * 1024
    this.#maxFiles = options.maxFiles ?? 3
    this.#onError = options.onError
    makeFolder(dirname(this.#path))
    // With `sync` the file is opened at once, so an unwritable path throws here.
    this.#stream = new sonicBoom.SonicBoom({ dest: this.#path, sync: true, maxLength: MAX_BUFFERED_BYTES })
    Object.assign(this.#stream, { sync: false })
    this.#measure()
    // The first 'ready' comes late: lines may have been written by then.
    this.#stream.once('ready', () => this.#stream.on('ready', this.#opened))
    this.#stream.on('write', (numBytes: number) => this.#wrote(numBytes))
    this.#stream.on('drop', (line: string) => this.#release(Buffer.byteLength(line)))
    this.#stream.on('drain', () => this.#hasDrained())
    this.#stream.on('error', (error: unknown) => this.#failed(error))
  }

  write(line: string): void {
    if (this.#isClosed) return
    this.#pendingBytes += Buffer.byteLength(line)
    this.#check()
    this.#stream.write(line)
  }

  /** Resolves when all lines so far have been written, or could not be. */
  async flush(): Promise<void> {
    if (this.#isClosed || (this.#pendingBytes === 0 && !this.#isReopening)) return
    await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /** Writes the rest and closes, synchronously: it may be called in a process 'exit' handler. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    try {
      this.#stream.flushSync()
    } catch (error) {
      this.#failed(error)
    }
    this.#stream.end()
    this.#settle()
  }

  readonly #opened = (): void => {
    this.#isReopening = false
    this.#hasFailed = false
    this.#measure()
    this.#hasDrained()
  }

  /** Reads size and inode of the file. Call it right after opening, before anything is written. */
  #measure(): void {
    const { size, ino } = fileAt(this.#path) ?? { size: 0, ino: 0 }
    this.#size = size
    this.#inode = ino
  }

  #wrote(numBytes: number): void {
    this.#size += numBytes
    this.#release(numBytes)
    if (this.#size > this.#maxBytes && !this.#isReopening && !this.#isClosed) this.#rotate()
  }

  #release(numBytes: number): void {
    this.#pendingBytes = Math.max(0, this.#pendingBytes - numBytes)
  }

  #hasDrained(): void {
    if (this.#pendingBytes === 0 && !this.#isReopening) this.#settle()
  }

  #settle(): void {
    const waiting = this.#idle
    this.#idle = []
    for (const resolve of waiting) resolve()
  }

  /** Opens the path again if it no longer names the open file. */
  #check(): void {
    const nowMs = performance.now()
    if (this.#isReopening || nowMs - this.#checkedMs < CHECK_EVERY_MS) return
    this.#checkedMs = nowMs
    if (fileAt(this.#path)?.ino !== this.#inode) this.#reopen()
  }

  #rotate(): void {
    for (let i = this.#maxFiles - 1; i >= 1; i--) {
      try {
        renameSync(i === 1 ? this.#path : `${this.#path}.${i - 1}`, `${this.#path}.${i}`)
      } catch {
        // The file does not exist yet. If the current file cannot be renamed, it continues to grow.
      }
    }
    this.#size = 0
    this.#reopen()
  }

  /** The stream opens the new file before it closes the old one, so after a failure its descriptor is still valid. */
  #reopen(): void {
    try {
      makeFolder(dirname(this.#path))
    } catch (error) {
      this.#failed(error)
      return
    }
    this.#isReopening = true
    this.#stream.reopen()
  }

  #failed(error: unknown): void {
    this.#isReopening = false
    // A failed reopening leaves a listener that would close the old descriptor a second time after the next success. By then the
    // descriptor may belong to another file.
    this.#stream.removeAllListeners('ready')
    this.#stream.on('ready', this.#opened)
    this.#settle()
    if (this.#hasFailed) return
    this.#hasFailed = true
    this.#onError(error)
  }
}

/** The file or folder at a path; undefined if there is none or it is not accessible. */
function fileAt(path: string): Stats | undefined {
  try {
    return statSync(path)
  } catch {
    return undefined
  }
}
