/** Writing files: all of the bytes, and behind the work that makes them. */
import type { FileHandle } from 'node:fs/promises'
import { crc32 } from 'node:zlib'

/** Bytes per write, and how many writes are in flight at most. */
const WRITE_BYTES = 1 << 20
const MAX_WRITES = 8

/** Writes all bytes at a position of the file: the system may write fewer at a time. */
export async function writeFully(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten
  }
}

/** Writes to an open file from a few buffers: `write` returns as soon as the bytes are copied to one of them. */
export class WriteBehind {
  readonly #file: FileHandle
  readonly #buffers = Array.from({ length: MAX_WRITES }, () => ({
    bytes: new Uint8Array(WRITE_BYTES),
    written: Promise.resolve(),
  }))
  #count = 0

  constructor(file: FileHandle) {
    this.#file = file
  }

  /** Copies the bytes for writing at `offset`, and returns their checksum. @throws what an earlier write has failed with */
  async write(bytes: Uint8Array, offset: number): Promise<number> {
    let crc = 0
    for (let done = 0; done < bytes.length; done += WRITE_BYTES) {
      const buffer = this.#buffers[this.#count++ % MAX_WRITES]!
      await buffer.written
      // The bytes may be shared with other threads, and neither `write` nor `crc32` takes shared memory.
      const piece = buffer.bytes.subarray(0, Math.min(WRITE_BYTES, bytes.length - done))
      piece.set(bytes.subarray(done, done + piece.length))
      crc = crc32(piece, crc)
      buffer.written = writeFully(this.#file, piece, offset + done)
      // Whoever takes this buffer next reports the failure.
      buffer.written.catch(() => {})
    }
    return crc
  }

  /** @throws what a write has failed with */
  async flush(): Promise<void> {
    for (const { written } of this.#buffers) await written
  }

  /** Closes the file once nothing is written to it any more. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#buffers.map(({ written }) => written))
    await this.#file.close()
  }
}
