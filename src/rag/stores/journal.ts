/**
 * An index file: a packed segment (segment.ts), and after it a journal of checksummed records. Changes are appended to the journal, which is packed
 * into the segment from time to time.
 *
 *   "MSRAGIX1"  header  segment?  record*      record = length u32 | crc32(payload) u32 | crc32(those 8 bytes) u32 | payload
 *   payload = jsonLength u32 | JSON | f32 vectors                                       everything little-endian
 *
 * The header is the first record and shows whether a segment follows. A document is one record, so it is present as a whole or not at all. A file is
 * created under another name and renamed, and afterwards only appended to. A crash at any byte therefore leaves whole records and at most one torn
 * record at the end: readers stop before it, and the next writer cuts it off. Any other damage is reported. The length has its own checksum, because
 * a damaged length would look like a torn record, and the writer would cut off good records.
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
import { indexCorrupt, indexTooNew, RagError, storeUnavailable, systemReasonOf } from '../errors.ts'

export const MAGIC = Buffer.from('MSRAGIX1', 'latin1')
const RECORD_HEADER_BYTES = 12
const READ_CHUNK_BYTES = 4 * 1024 * 1024

/** The name of the index in a file, without its key. */
export const nameOf = (path: string): string => basename(path, '.idx')

export interface JournalRecord {
  readonly json: unknown
  readonly vectors: Float32Array
}

/** Bytes of a record besides its JSON and vectors. */
export const RECORD_OVERHEAD = RECORD_HEADER_BYTES + 4

/** One record as bytes. @param minBytes of the whole record, which spaces after the JSON fill up */
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
  // Copied, because f32 needs an offset that is a multiple of 4.
  const bytes = Uint8Array.prototype.slice.call(payload, 4 + jsonBytes)
  return { json, vectors: new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4) }
}

/** An index file open for reading. `read` can be called again after the file has grown. */
export class JournalReader {
  readonly path: string
  readonly #fd: number
  #offset = 0

  /** @throws the system's error, such as ENOENT */
  constructor(path: string) {
    this.path = path
    this.#fd = openFileSync(path)
  }

  /** The end of the last whole record, to which a writer may cut the file. */
  get offset(): number {
    return this.#offset
  }

  /** Identity and size of the open file: a rename over the path does not change it. */
  stat(): { readonly inode: bigint; readonly bytes: number } {
    const { ino, size } = fstatSync(this.#fd, { bigint: true })
    return { inode: ino, bytes: Number(size) }
  }

  /** Skips bytes that the caller knows. */
  skipTo(offset: number): void {
    this.#offset = offset
  }

  /** Fills `into` with the bytes from an offset on. @returns how many there were */
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
   * The whole records from the end of the last call to the end of the file.
   * @throws RagError index_corrupt naming the index and the offset
   */
  *read(): Generator<JournalRecord> {
    const { bytes: size } = this.stat()
    if (this.#offset === 0) {
      const magic = this.#readAt(0, MAGIC.length)
      if (!magic.equals(MAGIC)) {
        throw /^MSRAGIX[2-9]$/.test(magic.toString('latin1'))
          ? indexTooNew(nameOf(this.path), 'expected the first kind of index file, found another')
          : this.#corrupt(0, 'it is not an index file')
      }
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
        // After a power failure the last record may have its length, but not all of its bytes.
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
    return indexCorrupt(nameOf(this.path), `${what} at byte ${offset}`)
  }
}

/** Writes all bytes. @param at an offset in the file; null: the current position */
export function writeAll(fd: number, bytes: Uint8Array, at: number | null = null): void {
  let done = 0
  while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done, at === null ? null : at + done)
}

/** Cuts the file off at `offset`, appends records, and waits until they are on disk. @returns the new end */
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
    // Half a record would take room on a full disk.
    try {
      ftruncateSync(fd, offset)
    } catch {
      // Readers stop before it, and the next writer cuts it off.
    }
    throw error
  } finally {
    closeSync(fd)
  }
}

/**
 * Replaces the file at `path` in one step, unless `beforeRename` throws. Readers that have the old file open keep it.
 * @param fill writes what follows the magic bytes
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
    throw storeUnavailable(`the index cannot be written: ${systemReasonOf(error)}`, error)
  }
}

/** Makes a rename durable. On a platform that cannot open folders, it becomes durable a little later. */
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
