/** An index in memory and its journal on disk, kept equal: what was written by another process is read before every answer. */
import { statSync } from 'node:fs'
import { basename } from 'node:path'
import { RagError, systemReasonOf } from '../errors.ts'
import type {
  Candidate,
  DocumentSummary,
  EmbeddedDocument,
  IndexInfo,
  IndexSpec,
  SearchQuery,
  StoredDocument,
  VectorIndex,
} from '../vector-index.ts'
import { type HeldLock, withFileLock } from './file-lock.ts'
import { appendRecords, encodeRecord, JournalReader, replaceFile, type JournalRecord } from './journal.ts'
import { MemoryIndex } from './memory-index.ts'

const FORMAT = 1
/** A journal is rewritten when more than half of it, and at least this much, is no longer needed. */
const MIN_DEAD_BYTES = 1024 * 1024
/** Longer than a lock takes to be found stale. */
const LOCK_TIMEOUT_MS = 40_000
const RECORDS_BETWEEN_TOUCHES = 1000

interface HeaderRecord extends IndexSpec {
  readonly kind: 'header'
  readonly format: number
  readonly name: string
}

type IndexRecord =
  | HeaderRecord
  | { readonly kind: 'put'; readonly document: StoredDocument }
  | { readonly kind: 'delete'; readonly ids: readonly string[] }

/** Only the tag is looked at: the checksum vouches that the rest is what this module wrote. */
const isIndexRecord = (json: unknown): json is IndexRecord =>
  typeof json === 'object' && json !== null && 'kind' in json && ['header', 'put', 'delete'].includes(String(json.kind))

const headerRecord = (name: string, { model, dimensions }: IndexSpec): Buffer =>
  encodeRecord({ kind: 'header', format: FORMAT, name, model, dimensions } satisfies HeaderRecord)

const putRecord = ({ vectors, ...document }: EmbeddedDocument): Buffer =>
  encodeRecord({ kind: 'put', document } satisfies IndexRecord, vectors)

/** Makes an empty index at `path`. */
export const createIndexFile = (path: string, name: string, spec: IndexSpec): void =>
  replaceFile(path, [headerRecord(name, spec)])

export class JournaledIndex implements VectorIndex {
  readonly path: string
  #reader: JournalReader
  #header: HeaderRecord
  #memory: MemoryIndex
  /** Bytes of the record of each document; what else the file holds is dead. */
  #recordBytes = new Map<string, number>()
  #liveBytes = 0
  #tail: Promise<unknown> = Promise.resolve()
  #numWriting = 0

  /** @throws the system's error when the file cannot be opened; RagError index_corrupt. */
  constructor(path: string) {
    this.path = path
    const { reader, header } = openJournal(path)
    this.#reader = reader
    this.#header = header
    this.#memory = new MemoryIndex(header.dimensions)
    this.#readOn()
  }

  get name(): string {
    return this.#header.name
  }

  get model(): string {
    return this.#header.model
  }

  get dimensions(): number {
    return this.#header.dimensions
  }

  async info(): Promise<IndexInfo> {
    this.#refresh()
    const { name, model, dimensions } = this.#header
    const { numDocuments, numChunks } = this.#memory
    return { name, model, dimensions, numDocuments, numChunks, bytes: this.#reader.stat().bytes }
  }

  async isEmpty(): Promise<boolean> {
    this.#refresh()
    return this.#memory.numChunks === 0
  }

  async get(id: string): Promise<StoredDocument | null> {
    this.#refresh()
    return this.#memory.get(id)
  }

  async summaries(ids: readonly string[] | null = null): Promise<readonly DocumentSummary[]> {
    this.#refresh()
    const documents = ids
      ? [...new Set(ids)].flatMap((id) => this.#memory.get(id) ?? [])
      : [...this.#memory.documents()]
    return documents.map(({ id, contentHash, origin, stamp }) => ({
      id,
      contentHash,
      origin,
      ...(stamp !== undefined && { stamp }),
    }))
  }

  async search(query: SearchQuery): Promise<readonly Candidate[]> {
    this.#refresh()
    return this.#memory.search(query)
  }

  upsert(documents: readonly EmbeddedDocument[]): Promise<void> {
    return this.#write((lock) => {
      for (const { id, vectors, chunks } of documents) {
        if (vectors.length !== chunks.length * this.dimensions) {
          throw new Error(`document ${id}: ${vectors.length} values for ${chunks.length} chunks of ${this.dimensions}`)
        }
      }
      // Before they are written: a file that does not fit into memory could never be opened again.
      const numChunks = documents.reduce((sum, { chunks }) => sum + chunks.length, 0)
      if (!this.#memory.hasRoomFor(numChunks)) {
        throw new RagError(
          'store_unavailable',
          `index ${this.name} is full: ${this.#memory.numChunks} chunks and ${numChunks} more do not fit into 4 GiB; --rag-store pgvector has no such bound`,
        )
      }
      const records = documents.map(putRecord)
      this.#append(lock, records)
      documents.forEach((document, i) => this.#put(document, records[i]?.length ?? 0))
    })
  }

  delete(ids: readonly string[]): Promise<number> {
    return this.#write((lock) => {
      const found = ids.filter((id) => this.#memory.get(id) !== null)
      if (found.length === 0) return 0
      this.#append(lock, [encodeRecord({ kind: 'delete', ids: found } satisfies IndexRecord)])
      for (const id of found) this.#remove(id)
      return found.length
    })
  }

  /** Whether a change is under way or waits for its turn: it must not be closed then. */
  get isWriting(): boolean {
    return this.#numWriting > 0
  }

  close(): void {
    this.#reader.close()
  }

  /** Runs a change alone: in this process by the queue, among processes by the lock file. */
  #write<T>(change: (lock: HeldLock) => T): Promise<T> {
    this.#numWriting++
    const run = this.#tail
      .then(() =>
        withFileLock(`${this.path}.lock`, LOCK_TIMEOUT_MS, (lock) => {
          this.#refresh()
          const result = change(lock)
          this.#rewriteIfSparse(lock)
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
      const reason = `index ${this.name} cannot be written: ${systemReasonOf(error)}`
      throw new RagError('store_unavailable', reason, null, { cause: error })
    }
  }

  /** Takes in what another process appended, or all of it when the file was replaced. */
  #refresh(): void {
    let onDisk
    try {
      onDisk = statSync(this.path, { bigint: true })
    } catch (error) {
      throw new RagError('store_unavailable', `index ${this.name} cannot be read: ${systemReasonOf(error)}`, null, {
        cause: error,
      })
    }
    const open = this.#reader.stat()
    if (onDisk.ino !== open.inode) {
      const { reader, header } = openJournal(this.path)
      this.#reader.close()
      this.#reader = reader
      this.#header = header
      this.#memory = new MemoryIndex(header.dimensions)
      this.#recordBytes = new Map()
      this.#liveBytes = 0
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
      throw new RagError('index_corrupt', `index ${this.name}: a record of a kind that this version does not know`)
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

  #rewriteIfSparse(lock: HeldLock): void {
    const { bytes } = this.#reader.stat()
    const deadBytes = bytes - this.#liveBytes
    if (deadBytes < MIN_DEAD_BYTES || deadBytes < bytes / 2) return
    replaceFile(this.path, this.#liveRecords(lock), () => lock.assertHeld())
    this.#refresh()
  }

  *#liveRecords(lock: HeldLock): Generator<Buffer> {
    yield headerRecord(this.name, this)
    let numRecords = 0
    for (const document of this.#memory.documents()) {
      if (++numRecords % RECORDS_BETWEEN_TOUCHES === 0) lock.touch()
      yield putRecord({ ...document, vectors: this.#memory.vectorsOf(document.id) })
    }
  }
}

/** Opens a journal and reads its header. */
function openJournal(path: string): { readonly reader: JournalReader; readonly header: HeaderRecord } {
  const reader = new JournalReader(path)
  try {
    for (const { json } of reader.read()) {
      if (!isIndexRecord(json) || json.kind !== 'header') break
      if (json.format !== FORMAT) {
        throw new RagError('index_corrupt', `the index has format ${json.format}, this version reads format ${FORMAT}`)
      }
      return { reader, header: json }
    }
    throw new RagError('index_corrupt', `index ${basename(path, '.idx')}: it has no header; delete it and index again`)
  } catch (error) {
    reader.close()
    throw error
  }
}
