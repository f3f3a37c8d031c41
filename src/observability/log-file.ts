/** The log file. It is rotated by size, and opened again if somebody removes or renames it. */
import { closeSync, fstatSync, openSync, renameSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { makeFolder } from '../regular-file.ts'
import { LineWriter } from './line-writer.ts'

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
  /** Called with the lines that were dropped, when writing works again and at the end. */
  readonly onDropped: (numLines: number) => void
}

/** A log file that rotates by size. Write errors go to `onError`; lines that do not fit into the queue are dropped. */
export class LogFile {
  readonly #path: string
  readonly #maxBytes: number
  readonly #maxFiles: number
  readonly #writer: LineWriter
  #descriptor: number
  #size = 0
  #inode = 0
  /** The path is to be opened again: it names another file, or none. */
  #isStale = false
  #checkedMs = -Infinity

  /** @throws when the folder cannot be made or the file cannot be opened. */
  constructor(options: LogFileOptions) {
    this.#path = options.path
    this.#maxBytes = options.maxBytes ?? 50 * 1024 * 1024
    this.#maxFiles = options.maxFiles ?? 3
    this.#descriptor = this.#open()
    this.#writer = new LineWriter({
      descriptor: () => this.#currentDescriptor(),
      onWritten: (numBytes) => {
        this.#size += numBytes
      },
      onError: options.onError,
      onDropped: options.onDropped,
      release: () => closeSync(this.#descriptor),
    })
  }

  /** Lines that could not be written. */
  get numDropped(): number {
    return this.#writer.numDropped
  }

  write(line: string): void {
    this.#writer.write(line)
  }

  /** Resolves when all lines so far have been written, or could not be. */
  flush(): Promise<void> {
    return this.#writer.flush()
  }

  /** Writes the rest and closes, synchronously: it may be called in a process 'exit' handler. */
  close(): void {
    this.#writer.close()
  }

  /** @throws when the path has to be opened again and cannot be */
  #currentDescriptor(): number {
    const nowMs = performance.now()
    if (this.#size > this.#maxBytes) {
      // Another process that writes to the same file has rotated it: a second time would drop the oldest file early.
      if (inodeAt(this.#path) === this.#inode) this.#rotate()
      else this.#isStale = true
    } else if (nowMs - this.#checkedMs >= CHECK_EVERY_MS) {
      this.#checkedMs = nowMs
      if (inodeAt(this.#path) !== this.#inode) this.#isStale = true
    }
    if (this.#isStale) {
      const old = this.#descriptor
      this.#descriptor = this.#open()
      closeSync(old)
    }
    return this.#descriptor
  }

  #open(): number {
    makeFolder(dirname(this.#path))
    const descriptor = openSync(this.#path, 'a')
    const { size, ino } = fstatSync(descriptor)
    this.#size = size
    this.#inode = ino
    this.#isStale = false
    return descriptor
  }

  #rotate(): void {
    for (let i = this.#maxFiles - 1; i >= 1; i--) {
      try {
        renameSync(i === 1 ? this.#path : `${this.#path}.${i - 1}`, `${this.#path}.${i}`)
      } catch {
        // The file does not exist yet. If the current file cannot be renamed, it continues to grow.
      }
    }
    // Renamed once, even if the new file cannot be opened at once.
    this.#size = 0
    this.#isStale = true
  }
}

/** The inode at a path; undefined if there is none or it is not accessible. */
function inodeAt(path: string): number | undefined {
  try {
    return statSync(path).ino
  } catch {
    return undefined
  }
}
