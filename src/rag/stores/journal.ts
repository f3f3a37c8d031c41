/**
 * The file of an index: what was packed (segment.ts), and a journal of checksummed records, appended to and from time to time packed as well.
 *
 *   "MSRAGIX1"  header  segment?  record*      record = length u32 | crc32(payload) u32 | crc32(those 8 bytes) u32 | payload
 *   payload = jsonLength u32 | JSON | f32 vectors                                       everything little-endian
 *
 * The header is the first record; it says whether a segment follows. A document is one record, so it is there as a whole or not at all. A file is only ever made by
 * writing beside it and renaming, and only appended to afterwards: a crash at any byte leaves whole records and at most one torn
 * tail, which readers stop at and the next writer cuts off. Damage anywhere else is reported, never read past. The length has a
 * checksum of its own, because a damaged length would look like a torn tail and the writer would cut off good records.
 */
import {
  closeSync,
  fdatasyncSync,
  fsyncSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { basename, dirname } from 'node:path'
import { crc32 } from 'node:zlib'
import { openFileSync } from '../../regular-file.ts'
import { RagError, systemReasonOf } from '../errors.ts'
import type { RandomAccess } from './segment.ts'

export const MAGIC = Buffer.from('MSRAGIX1', 'latin1')
const RECORD_HEADER_BYTES = 12
const READ_CHUNK_BYTES = 4 * 1024 * 1024

export interface JournalRecord {
  readonly json: unknown
  readonly vectors: Float32Array
}

/** Bytes of a record around its JSON. */
export const RECORD_OVERHEAD = RECORD_HEADER_BYTES + 4

/** One record as bytes. @param minBytes of the whole record: spaces behind the JSON make up for what is missing. */
export function encodeRecord(json: unknown, vectors: Float32Array = new Float32Array(0), minBytes = 0): Buffer {
  const written = JSON.stringify(json)
  const missing = minBytes - RECORD_OVERHEAD - Buffer.byteLength(written) - vectors.byteLength
  const text = Buffer.from(written + ' '.repeat(Math.max(0, missing)), 'utf8')
  const payloadBytes = 4 + text.length + vectors.byteLength
  const record = Buffer.allocUnsafe(RECORD_HEADER_BYTES + payloadBytes)
  const payload = record.subarray(RECORD_HEADER_BYTES)
  payload.writeUInt32LE(text.length, 0)
  text.copy(payload, 4)
  Buffer.from(vectors.buffer, vectors.byteOffset, vectors.byteLength).copy(payload, 4 + text.length)
  record.writeUInt32LE(payloadBytes, 0)
  record.writeUInt32LE(crc32(payload), 4)
  record.writeUInt32LE(crc32(record.subarray(0, 8)), 8)
  return record
}

function decodePayload(payload: Buffer): JournalRecord {
  const jsonBytes = payload.readUInt32LE(0)
  const json: unknown = JSON.parse(payload.toString('utf8', 4, 4 + jsonBytes))
  // Copied: f32 wants an offset that is a multiple of 4.
  const bytes = Uint8Array.prototype.slice.call(payload, 4 + jsonBytes)
  return { json, vectors: new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4) }
}

/** A journal open for reading. `read` can be called again when the file has grown. */
export class JournalReader implements RandomAccess {
  readonly path: string
  readonly #fd: number
  #offset = 0

  /** @throws the system's error, ENOENT included. */
  constructor(path: string) {
    this.path = path
    this.#fd = openFileSync(path)
  }

  /** Where the last whole record ends: what a writer may cut the file to. */
  get offset(): number {
    return this.#offset
  }

  /** Identity and size of the open file: a rename over the path does not change it. */
  stat(): { readonly inode: bigint; readonly bytes: number } {
    const { ino, size } = fstatSync(this.#fd, { bigint: true })
    return { inode: ino, bytes: Number(size) }
  }

  /** Goes on behind records that the caller appended and knows. */
  skipTo(offset: number): void {
    this.#offset = offset
  }

  readInto(into: Uint8Array, offset: number): number {
    let done = 0
    while (done < into.byteLength) {
      const length = Math.min(into.byteLength - done, READ_CHUNK_BYTES)
      const count = readSync(this.#fd, into, done, length, offset + done)
      if (count === 0) break
      done += count
    }
    return done
  }

  /**
   * The whole records from where the last call stopped to the end of the file.
   * @throws RagError index_corrupt naming file and offset.
   */
  *read(): Generator<JournalRecord> {
    const { bytes: size } = this.stat()
    if (this.#offset === 0) {
      const magic = this.#readAt(0, MAGIC.length)
      if (!magic.equals(MAGIC)) throw this.#corrupt(0, 'it is not an index file')
      this.#offset = MAGIC.length
    }
    while (this.#offset + RECORD_HEADER_BYTES <= size) {
      const at = this.#offset
      const header = this.#readAt(at, RECORD_HEADER_BYTES)
      if (header.length < RECORD_HEADER_BYTES) return
      if (crc32(header.subarray(0, 8)) !== header.readUInt32LE(8)) {
        if (this.#isZeroFrom(at, size)) return
        throw this.#corrupt(at, 'the header of a record is damaged')
      }
      const end = at + RECORD_HEADER_BYTES + header.readUInt32LE(0)
      if (end > size) return
      const payload = this.#readAt(at + RECORD_HEADER_BYTES, end - at - RECORD_HEADER_BYTES)
      if (crc32(payload) !== header.readUInt32LE(4)) {
        // After a loss of power the last record may have its length but not all of its bytes.
        if (end === size) return
        throw this.#corrupt(at, 'a record is damaged')
      }
      const record = decodePayload(payload)
      this.#offset = end
      yield record
    }
  }

  close(): void {
    closeSync(this.#fd)
  }

  #readAt(offset: number, length: number): Buffer {
    const buffer = Buffer.allocUnsafe(length)
    return buffer.subarray(0, this.readInto(buffer, offset))
  }

  #isZeroFrom(offset: number, size: number): boolean {
    for (let at = offset; at < size; at += READ_CHUNK_BYTES) {
      if (this.#readAt(at, Math.min(READ_CHUNK_BYTES, size - at)).some((byte) => byte !== 0)) return false
    }
    return true
  }

  #corrupt(offset: number, what: string): RagError {
    return new RagError(
      'index_corrupt',
      `index ${basename(this.path, '.idx')}: ${what} at byte ${offset}; restore its file, or delete the index and index again`,
    )
  }
}

/** @param at where in the file; null: where it is. */
export function writeAll(fd: number, bytes: Uint8Array, at: number | null = null): void {
  let done = 0
  while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done, at === null ? null : at + done)
}

/** Appends records after `offset`, cutting off what lies behind it, and waits until they are on disk. @returns the new end. */
export function appendRecords(path: string, offset: number, records: Iterable<Buffer>): number {
  const fd = openSync(path, 'r+')
  try {
    ftruncateSync(fd, offset)
    let end = offset
    for (const record of records) {
      writeAll(fd, record, end)
      end += record.length
    }
    fdatasyncSync(fd)
    return end
  } catch (error) {
    // Half a record on a full disk takes room that its index needs.
    try {
      ftruncateSync(fd, offset)
    } catch {
      // Readers stop at it, and the next writer cuts it off.
    }
    throw error
  } finally {
    closeSync(fd)
  }
}

/**
 * Puts a new file in the place of `path` in one step, unless `beforeRename` throws. Whoever has the old one open keeps it.
 * @param fill writes what follows the file's first bytes.
 */
export function replaceFile(path: string, fill: (fd: number) => void, beforeRename: () => void = () => {}): void {
  const temporary = `${path}.new`
  try {
    const fd = openSync(temporary, 'w')
    try {
      writeAll(fd, MAGIC)
      fill(fd)
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    beforeRename()
    renameSync(temporary, path)
    syncFolder(dirname(path))
  } catch (error) {
    rmSync(temporary, { force: true })
    if (error instanceof RagError) throw error
    throw new RagError('store_unavailable', `the index cannot be written: ${systemReasonOf(error)}`, null, {
      cause: error,
    })
  }
}

/** Makes a rename durable. Not every platform can open a folder; there the rename is durable a little later. */
function syncFolder(folder: string): void {
  let fd: number
  try {
    fd = openSync(folder, 'r')
  } catch {
    return
  }
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
