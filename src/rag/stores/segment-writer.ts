/** Writes the rows of an index as a segment (segment.ts), without removed rows. */
import { writeSync } from 'node:fs'
import { crc32 } from 'node:zlib'
import type { MemoryIndex } from './memory-index.ts'
import { aligned, SECTIONS, type Section, type SegmentLayout } from './segment.ts'

/** Bytes per write. */
const BUFFER_BYTES = 1024 * 1024
const MAX_FREQUENCY = 0xffff

/** Writes consecutive sections, each at a multiple of 8 bytes. */
class SectionWriter {
  readonly #fd: number
  #buffer = Buffer.allocUnsafe(BUFFER_BYTES)
  #used = 0
  #bytes = 0
  #crc = 0

  constructor(fd: number) {
    this.#fd = fd
  }

  write(bytes: Uint8Array): void {
    this.#crc = crc32(bytes, this.#crc)
    this.#bytes += bytes.byteLength
    this.#put(bytes)
  }

  /** Ends a section. */
  end(): { readonly bytes: number; readonly crc: number } {
    const section = { bytes: this.#bytes, crc: this.#crc }
    this.#put(new Uint8Array(aligned(this.#bytes) - this.#bytes))
    this.#bytes = 0
    this.#crc = 0
    return section
  }

  flush(): void {
    for (let done = 0; done < this.#used;) done += writeSync(this.#fd, this.#buffer, done, this.#used - done)
    this.#used = 0
  }

  #put(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.byteLength;) {
      if (this.#used === BUFFER_BYTES) this.flush()
      const part = bytes.subarray(done, done + BUFFER_BYTES - this.#used)
      this.#buffer.set(part, this.#used)
      this.#used += part.byteLength
      done += part.byteLength
    }
  }
}

const bytesOf = (numbers: Uint32Array | Uint16Array | Float64Array): Uint8Array =>
  new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)

/**
 * Writes a segment at the current position of a file.
 * @param onRows called now and then, so that a long write can touch its lock
 */
export function writeSegment(fd: number, source: MemoryIndex, onRows: () => void): SegmentLayout {
  const writer = new SectionWriter(fd)
  const documents = [...source.documents()]
  const newRow = new Int32Array(source.numRows).fill(-1)
  const oldRows = new Uint32Array(source.numChunks)
  let numRows = 0
  for (const { document, firstRow } of documents) {
    for (let i = 0; i < document.numChunks; i++) {
      newRow[firstRow + i] = numRows
      oldRows[numRows++] = firstRow + i
    }
  }
  const chunkEnds = new Float64Array(numRows)
  const postings = mergedPostings(source, newRow)
  const content: Record<Section, () => void> = {
    documents: () => writer.write(Buffer.from(JSON.stringify(documents.map(({ document }) => document)), 'utf8')),
    vectors: () => {
      for (const row of oldRows) writer.write(source.vectorBytes(row))
    },
    lengths: () => writer.write(bytesOf(oldRows.map((row) => source.lengthOf(row)))),
    terms: () => {
      for (const term of postings.terms) writer.write(term)
    },
    termEnds: () => writer.write(bytesOf(endsOf(postings.terms))),
    postingEnds: () => writer.write(bytesOf(Uint32Array.from(postings.ends))),
    rows: () => writer.write(bytesOf(postings.rows)),
    frequencies: () => writer.write(bytesOf(postings.frequencies)),
    chunks: () => {
      let end = 0
      for (const [row, old] of oldRows.entries()) {
        const bytes = source.encodedChunk(old)
        writer.write(bytes)
        end += bytes.length
        chunkEnds[row] = end
        if (row % 1000 === 999) onRows()
      }
    },
    chunkEnds: () => writer.write(bytesOf(chunkEnds)),
  }
  const sections = Object.fromEntries(
    SECTIONS.map((name) => {
      content[name]()
      onRows()
      return [name, writer.end()]
    }),
  ) as SegmentLayout['sections']
  writer.flush()
  return { numRows, sections }
}

function endsOf(parts: readonly Uint8Array[]): Uint32Array {
  let end = 0
  return Uint32Array.from(parts, (part) => (end += part.byteLength))
}

interface Postings {
  readonly terms: readonly Buffer[]
  readonly ends: readonly number[]
  readonly rows: Uint32Array
  readonly frequencies: Uint16Array
}

/** The postings of packed and added rows, by ascending term, with the rows' new numbers in their order. Terms without rows are left out. */
function mergedPostings(source: MemoryIndex, newRow: Int32Array): Postings {
  const { packed } = source
  const added = [...source.addedTerms()]
    .map(([term, entries]) => ({ term: Buffer.from(term, 'utf8'), entries }))
    .sort((a, b) => Buffer.compare(a.term, b.term))
  const capacity = (packed?.numPostings ?? 0) + added.reduce((sum, { entries }) => sum + entries.length / 2, 0)
  const rows = new Uint32Array(capacity)
  const frequencies = new Uint16Array(capacity)
  const terms: Buffer[] = []
  const ends: number[] = []
  let end = 0
  let [at, next] = [0, 0]
  const numPacked = packed?.numTerms ?? 0
  while (at < numPacked || next < added.length) {
    const old = at < numPacked ? packed?.term(at) : undefined
    const fresh = added[next]
    const order = !old ? 1 : !fresh ? -1 : Buffer.compare(old, fresh.term)
    const begin = end
    const take = (row: number, frequency: number): void => {
      const to = newRow[row] ?? -1
      if (to < 0) return
      rows[end] = to
      frequencies[end++] = Math.min(frequency, MAX_FREQUENCY)
    }
    if (order <= 0 && packed) {
      const found = packed.postingsAt(at++)
      found.rows.forEach((row, i) => take(row, found.frequencies[i] ?? 0))
    }
    if (order >= 0 && fresh) {
      next++
      for (let i = 0; i < fresh.entries.length; i += 2) take(fresh.entries[i] ?? 0, fresh.entries[i + 1] ?? 0)
    }
    const term = order <= 0 ? old : fresh?.term
    if (end === begin || !term) continue
    terms.push(term)
    ends.push(end)
  }
  return { terms, ends, rows: rows.subarray(0, end), frequencies: frequencies.subarray(0, end) }
}
