/** Files of indexes as a whole: made, opened and packed. */
import { basename } from 'node:path'
import { RagError } from '../errors.ts'
import type { IndexSpec, StoredDocument } from '../vector-index.ts'
import { encodeRecord, JournalReader, MAGIC, RECORD_OVERHEAD, replaceFile, writeAll } from './journal.ts'
import { MemoryIndex } from './memory-index.ts'
import { SECTIONS, Segment, segmentBytes, segmentLayout, type SegmentLayout } from './segment.ts'
import { writeSegment } from './segment-writer.ts'
import { VectorMatrix } from './vector-matrix.ts'

/** The format that is written. Of format 1 are files without a segment, which are packed when they are opened. */
const FORMAT = 2

export interface HeaderRecord extends IndexSpec {
  readonly kind: 'header'
  readonly format: number
  readonly name: string
  readonly segment?: SegmentLayout
}

export type IndexRecord =
  | HeaderRecord
  | { readonly kind: 'put'; readonly document: StoredDocument }
  | { readonly kind: 'delete'; readonly ids: readonly string[] }

/** Only the tag is looked at: the checksum vouches that the rest is what this module wrote. */
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

/** The segment begins at a multiple of this. */
const PAGE_BYTES = 4096
/** As long as a layout can become in JSON. */
const LONGEST_LAYOUT: SegmentLayout = {
  numRows: Number.MAX_SAFE_INTEGER,
  sections: Object.fromEntries(
    SECTIONS.map((name) => [name, { bytes: Number.MAX_SAFE_INTEGER, crc: 2 ** 32 }]),
  ) as SegmentLayout['sections'],
}

/** Writes all of an index as a segment in the place of its file. @param whileWriting called now and then. @param beforeRename may throw. */
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
    // The header says how long the sections are, which is known once they are written.
    writeAll(fd, Buffer.alloc(recordBytes))
    const segment = writeSegment(fd, memory, whileWriting)
    writeAll(fd, encodeRecord({ ...header, segment } satisfies HeaderRecord, undefined, recordBytes), MAGIC.length)
  }
  replaceFile(path, fill, beforeRename)
}

interface OpenIndexFile {
  readonly reader: JournalReader
  readonly header: HeaderRecord
  /** What is packed; the records behind it are still to be read. */
  readonly memory: MemoryIndex
  /** Where the records begin. */
  readonly tailAt: number
}

/**
 * Opens a file and reads its segment.
 * @param name the index's stored name: a file that was copied or moved here from another index is refused.
 * @throws the system's error when it cannot be opened; RagError index_corrupt.
 */
export function openIndexFile(path: string, name: string): OpenIndexFile {
  const reader = new JournalReader(path)
  try {
    const header = readHeader(reader)
    if (header.name !== name) {
      throw new RagError(
        'index_corrupt',
        `index ${basename(path, '.idx')}: its file was made for an index of another name or another key; put it back there, or delete the index and index again`,
      )
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
      throw new RagError(
        'index_corrupt',
        `the index has format ${json.format}, this version reads formats up to ${FORMAT}`,
      )
    }
    return json
  }
  throw new RagError(
    'index_corrupt',
    `index ${basename(reader.path, '.idx')}: it has no header; delete it and index again`,
  )
}

/** Runs what reads a segment; its errors name the index. @throws RagError index_corrupt */
export function named<T>(path: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof RagError || !(error instanceof Error) || 'code' in error) throw error
    throw new RagError(
      'index_corrupt',
      `index ${basename(path, '.idx')}: ${error.message}; restore its file, or delete the index and index again`,
      null,
      { cause: error },
    )
  }
}
