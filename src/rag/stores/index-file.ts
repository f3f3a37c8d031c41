/** Makes, opens and packs index files. */
import { indexCorrupt, indexTooNew, RagError } from '../errors.ts'
import type { IndexSpec, StoredDocument } from '../vector-index.ts'
import { encodeRecord, JournalReader, MAGIC, nameOf, RECORD_OVERHEAD, replaceFile, writeAll } from './journal.ts'
import { MemoryIndex } from './memory-index.ts'
import { SECTIONS, Segment, segmentBytes, segmentLayout, type SegmentLayout } from './segment.ts'
import { writeSegment } from './segment-writer.ts'
import { VectorMatrix } from './vector-matrix.ts'

/** The format that is written. Files of format 1 have no segment; they are packed when they are opened. */
const FORMAT = 2

interface HeaderRecord extends IndexSpec {
  readonly kind: 'header'
  readonly format: number
  readonly name: string
  readonly segment?: SegmentLayout
}

export type IndexRecord =
  | HeaderRecord
  | { readonly kind: 'put'; readonly document: StoredDocument }
  | { readonly kind: 'delete'; readonly ids: readonly string[] }

/** Checks only the tag: the checksum guarantees that this module wrote the record. */
export const isIndexRecord = (json: unknown): json is IndexRecord =>
  typeof json === 'object' && json !== null && 'kind' in json && ['header', 'put', 'delete'].includes(String(json.kind))

const headerOf = (name: string, { model, dimensions }: IndexSpec): HeaderRecord => ({
  kind: 'header',
  format: FORMAT,
  name,
  model,
  dimensions,
})

/** Makes an empty index at `path`. */
export const createIndexFile = (path: string, name: string, spec: IndexSpec): void =>
  replaceFile(path, (fd) => writeAll(fd, encodeRecord(headerOf(name, spec))))

/** The segment begins at a multiple of this offset. */
const PAGE_BYTES = 4096
/** The layout that is longest in JSON. */
const LONGEST_LAYOUT: SegmentLayout = {
  numRows: Number.MAX_SAFE_INTEGER,
  sections: Object.fromEntries(
    SECTIONS.map((name) => [name, { bytes: Number.MAX_SAFE_INTEGER, crc: 2 ** 32 }]),
  ) as SegmentLayout['sections'],
}

/** Replaces an index file by one with everything in a segment. @param whileWriting called now and then @param beforeRename may throw to cancel */
export function packIndexFile(
  path: string,
  name: string,
  memory: MemoryIndex,
  spec: IndexSpec,
  { whileWriting, beforeRename }: { readonly whileWriting: () => void; readonly beforeRename: () => void },
): void {
  const header = headerOf(name, spec)
  const longest = Buffer.byteLength(JSON.stringify({ ...header, segment: LONGEST_LAYOUT }))
  const start = Math.ceil((MAGIC.length + RECORD_OVERHEAD + longest) / PAGE_BYTES) * PAGE_BYTES
  const recordBytes = start - MAGIC.length
  const fill = (fd: number): void => {
    // The header contains the lengths of the sections, which are known once those are written.
    writeAll(fd, Buffer.alloc(recordBytes))
    const segment = writeSegment(fd, memory, whileWriting)
    writeAll(fd, encodeRecord({ ...header, segment } satisfies HeaderRecord, undefined, recordBytes), MAGIC.length)
  }
  replaceFile(path, fill, beforeRename)
}

export interface OpenIndexFile {
  readonly reader: JournalReader
  readonly header: HeaderRecord
  /** The packed documents. The records after the segment are not read yet. */
  readonly memory: MemoryIndex
  /** The offset of the records after the segment. */
  readonly tailAt: number
}

/**
 * Opens a file and reads its segment.
 * @param name the stored name of the index: a file copied from another index is refused
 * @throws the system's error if the file cannot be opened; RagError index_corrupt
 */
export function openIndexFile(path: string, name: string): OpenIndexFile {
  const reader = new JournalReader(path)
  try {
    const header = readHeader(reader)
    if (header.name !== name) {
      throw indexCorrupt(nameOf(path), 'its file was made for an index of another name or another key')
    }
    if (!header.segment) {
      return { reader, header, memory: new MemoryIndex(header.dimensions), tailAt: reader.offset }
    }
    const layout = segmentLayout.parse(header.segment)
    const vectors = new VectorMatrix(header.dimensions)
    const segment = named(path, () => new Segment(reader, reader.offset, layout, vectors))
    reader.skipTo(reader.offset + segmentBytes(layout))
    return { reader, header, memory: new MemoryIndex(header.dimensions, segment, vectors), tailAt: reader.offset }
  } catch (error) {
    reader.close()
    throw error
  }
}

function readHeader(reader: JournalReader): HeaderRecord {
  for (const { json } of reader.read()) {
    if (!isIndexRecord(json) || json.kind !== 'header') break
    if (json.format > FORMAT) {
      throw indexTooNew(nameOf(reader.path), `expected a format up to ${FORMAT}, found ${json.format}`)
    }
    return json
  }
  throw indexCorrupt(nameOf(reader.path), 'it has no header')
}

/** Runs a function that reads a segment. @throws RagError index_corrupt, which names the index, for its errors */
export function named<T>(path: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof RagError || !(error instanceof Error) || 'code' in error) throw error
    throw indexCorrupt(nameOf(path), error.message, error)
  }
}
