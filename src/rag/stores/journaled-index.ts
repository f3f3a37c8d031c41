/** An index in memory and its file on disk. What another process wrote is read before every answer. */
import { statSync } from 'node:fs'
import { indexTooNew, storeUnavailable, systemReasonOf } from '../errors.ts'
import type {
  Candidate,
  DocumentSummary,
  EmbeddedDocument,
  IndexInfo,
  SearchQuery,
  StoredDocument,
  VectorIndex,
} from '../vector-index.ts'
import { type HeldLock, withFileLock } from './file-lock.ts'
import {
  isIndexRecord,
  named,
  openIndexFile,
  packIndexFile,
  type IndexRecord,
  type OpenIndexFile,
} from './index-file.ts'
import { appendRecords, encodeRecord, MAGIC, type JournalReader, type JournalRecord } from './journal.ts'
import type { MemoryIndex } from './memory-index.ts'

/** A file is packed when at least half of it, and at least this many bytes, are no longer needed. */
const MIN_DEAD_BYTES = 1024 * 1024
/** Records after the segment are packed when they are longer than the segment, and at least this long. */
const MIN_TAIL_BYTES = 32 * 1024 * 1024
/** The same when an index is opened or closed: reading records takes longer than reading a segment. */
const MIN_SETTLED_TAIL_BYTES = 1024 * 1024
const MAX_SETTLED_TAIL_SHARE = 1 / 8

const putRecord = ({ vectors, ...document }: EmbeddedDocument): Buffer =>
  encodeRecord({ kind: 'put', document } satisfies IndexRecord, vectors)

/** An open index file. Searches run in memory; changes are appended to the file under a file lock. */
export class JournaledIndex implements VectorIndex {
  readonly path: string
  readonly name: string
  #file: OpenIndexFile
  /** Bytes of each document in the file. All other bytes are dead. */
  #recordBytes = new Map<string, number>()
  #liveBytes = 0
  #tail: Promise<unknown> = Promise.resolve()
  #numWriting = 0

  /** @throws the system's error if the file cannot be opened; RagError index_corrupt */
  constructor(path: string, name: string) {
    this.path = path
    this.name = name
    this.#file = openIndexFile(path, name)
    this.#countPacked()
    this.#readOn()
  }

  get model(): string {
    return this.#file.header.model
  }

  get dimensions(): number {
    return this.#file.header.dimensions
  }

  get #reader(): JournalReader {
    return this.#file.reader
  }

  get #memory(): MemoryIndex {
    return this.#file.memory
  }

  async info(): Promise<IndexInfo> {
    this.#refresh()
    const { name, model, dimensions } = this
    const { numDocuments, numChunks } = this.#memory
    return { name, model, dimensions, numDocuments, numChunks, bytes: this.#reader.stat().bytes }
  }

  async get(id: string): Promise<StoredDocument | null> {
    this.#refresh()
    return named(this.path, () => this.#memory.get(id))
  }

  async summaries(ids: readonly string[] | null = null): Promise<readonly DocumentSummary[]> {
    this.#refresh()
    const documents = ids
      ? [...new Set(ids)].flatMap((id) => this.#memory.summary(id) ?? [])
      : [...this.#memory.summaries()]
    return documents.map(({ id, contentHash, origin, stamp }) => ({
      id,
      contentHash,
      origin,
      ...(stamp !== undefined && { stamp }),
    }))
  }

  async search(query: SearchQuery): Promise<readonly Candidate[]> {
    this.#refresh()
    return named(this.path, () => this.#memory.search(query))
  }

  upsert(documents: readonly EmbeddedDocument[]): Promise<void> {
    return this.#write((lock) => {
      for (const { id, vectors, chunks } of documents) {
        if (vectors.length !== chunks.length * this.dimensions) {
          throw new Error(`document ${id}: ${vectors.length} values for ${chunks.length} chunks of ${this.dimensions}`)
        }
      }
      // Checked before writing, because a file that does not fit into memory could not be opened again.
      const numChunks = documents.reduce((sum, { chunks }) => sum + chunks.length, 0)
      if (!this.#memory.hasRoomFor(numChunks)) {
        throw storeUnavailable(
          `index ${this.name} is full: ${this.#memory.numChunks} chunks and ${numChunks} more do not fit into 4 GiB; --rag-store pgvector has no such limit`,
        )
      }
      const records = documents.map(putRecord)
      this.#append(lock, records)
      documents.forEach((document, i) => this.#put(document, records[i]?.length ?? 0))
    })
  }

  delete(ids: readonly string[]): Promise<number> {
    return this.#write((lock) => {
      const found = ids.filter((id) => this.#memory.summary(id) !== null)
      if (found.length === 0) return 0
      this.#append(lock, [encodeRecord({ kind: 'delete', ids: found } satisfies IndexRecord)])
      for (const id of found) this.#remove(id)
      return found.length
    })
  }

  /** Whether a change is running or waiting: the index must not be closed then. */
  get isWriting(): boolean {
    return this.#numWriting > 0
  }

  close(): void {
    this.#reader.close()
  }

  /** Packs the file if its records would make the next opening slow, or its format is old. */
  async settle(): Promise<void> {
    const segment = this.#file.tailAt - MAGIC.length
    const tail = this.#reader.offset - this.#file.tailAt
    const isLong = tail >= Math.max(MIN_SETTLED_TAIL_BYTES, segment * MAX_SETTLED_TAIL_SHARE)
    if (isLong || this.#file.header.format < 2) await this.#write((lock) => this.#pack(lock))
  }

  /** Runs a change alone: a queue orders the changes of this process, a lock file those of several processes. */
  #write<T>(change: (lock: HeldLock) => T): Promise<T> {
    this.#numWriting++
    const run = this.#tail
      .then(() =>
        withFileLock(`${this.path}.lock`, (lock) => {
          this.#refresh()
          const result = change(lock)
          this.#packIfWorth(lock)
          return result
        }),
      )
      .finally(() => this.#numWriting--)
    this.#tail = run.catch(() => undefined)
    return run
  }

  #append(lock: HeldLock, records: readonly Buffer[]): void {
    lock.assertHeld()
    try {
      this.#reader.skipTo(appendRecords(this.path, this.#reader.offset, records))
    } catch (error) {
      throw storeUnavailable(`index ${this.name} cannot be written: ${systemReasonOf(error)}`, error)
    }
  }

  /** Reads what another process appended, or the whole file if it was replaced. */
  #refresh(): void {
    let onDisk
    try {
      onDisk = statSync(this.path, { bigint: true })
    } catch (error) {
      throw storeUnavailable(`index ${this.name} cannot be read: ${systemReasonOf(error)}`, error)
    }
    const open = this.#reader.stat()
    if (onDisk.ino !== open.inode) {
      const file = openIndexFile(this.path, this.name)
      this.#reader.close()
      this.#file = file
      this.#countPacked()
    } else if (open.bytes <= this.#reader.offset) return
    this.#readOn()
  }

  #readOn(): void {
    let before = this.#reader.offset
    for (const record of this.#reader.read()) {
      this.#apply(record, this.#reader.offset - before)
      before = this.#reader.offset
    }
  }

  #apply({ json, vectors }: JournalRecord, bytes: number): void {
    if (!isIndexRecord(json)) {
      throw indexTooNew(this.name, 'expected records of known kinds, found another')
    }
    if (json.kind === 'put') this.#put({ ...json.document, vectors }, bytes)
    else if (json.kind === 'delete') for (const id of json.ids) this.#remove(id)
  }

  #put(document: EmbeddedDocument, bytes: number): void {
    this.#memory.put(document)
    this.#liveBytes += bytes - (this.#recordBytes.get(document.id) ?? 0)
    this.#recordBytes.set(document.id, bytes)
  }

  #remove(id: string): void {
    this.#memory.delete(id)
    this.#liveBytes -= this.#recordBytes.get(id) ?? 0
    this.#recordBytes.delete(id)
  }

  /** Assigns each packed document its share of the segment. */
  #countPacked(): void {
    const segment = this.#file.tailAt - MAGIC.length
    this.#recordBytes = new Map()
    for (const { id, numChunks } of this.#memory.summaries()) {
      this.#recordBytes.set(id, Math.floor((segment * numChunks) / Math.max(1, this.#memory.numChunks)))
    }
    this.#liveBytes = [...this.#recordBytes.values()].reduce((sum, bytes) => sum + bytes, 0)
  }

  #packIfWorth(lock: HeldLock): void {
    const { bytes } = this.#reader.stat()
    const deadBytes = bytes - this.#liveBytes
    const hasDead = deadBytes >= MIN_DEAD_BYTES && deadBytes >= bytes / 2
    const hasTail = bytes - this.#file.tailAt >= Math.max(MIN_TAIL_BYTES, this.#file.tailAt)
    if (hasDead || hasTail || this.#memory.isSparse) this.#pack(lock)
  }

  #pack(lock: HeldLock): void {
    const whileWriting = (): void => lock.touch()
    const beforeRename = (): void => lock.assertHeld()
    named(this.path, () => packIndexFile(this.path, this.name, this.#memory, this, { whileWriting, beforeRename }))
    this.#refresh()
  }
}
