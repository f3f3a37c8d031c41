/**
 * The packed part of an index file: everything that a search needs, as typed arrays with the layout of the file. Opening a segment only reads it:
 * no text is parsed or kept in memory.
 *
 *   section     content
 *   documents   JSON: [{id, source, contentHash, origin, stamp?, metadata, numChunks}], their rows in this order
 *   vectors     f32 [rows, stride], rows padded with zeros to a multiple of 8 values
 *   lengths     u32 [rows], terms of a row
 *   terms       UTF-8, ascending by bytes; termEnds u32 [terms], where each ends
 *   postingEnds u32 [terms], where the postings of each end
 *   rows        u32 [postings], ascending within a term; frequencies u16 [postings], up to 65,535
 *   chunks      JSON, [chunk, text, headings, start, end, numTokens, anchor?] for each row; chunkEnds f64 [rows], where each ends
 *
 * Each section begins at a multiple of 8 bytes and has a CRC-32. Everything is little-endian.
 */
import { crc32 } from 'node:zlib'
import { z } from 'zod'
import type { Chunk, StoredDocument } from '../vector-index.ts'
import type { JournalReader } from './journal.ts'
import type { VectorMatrix } from './vector-matrix.ts'

export const SECTIONS = [
  'documents',
  'vectors',
  'lengths',
  'terms',
  'termEnds',
  'postingEnds',
  'rows',
  'frequencies',
  'chunks',
  'chunkEnds',
] as const

export type Section = (typeof SECTIONS)[number]

const section = z.object({ bytes: z.int().nonnegative(), crc: z.int().nonnegative() })

/** The layout of a segment, as the header of its file has it. */
export const segmentLayout = z.object({
  numRows: z.int().nonnegative(),
  sections: z.object(Object.fromEntries(SECTIONS.map((name) => [name, section])) as Record<Section, typeof section>),
})
export type SegmentLayout = z.output<typeof segmentLayout>

/** A document of a segment. Its chunks are read one by one. */
export type PackedDocument = Omit<StoredDocument, 'chunks'> & { readonly numChunks: number }

const ALIGNMENT = 8
export const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

/** The size of a whole segment in bytes. */
export const segmentBytes = ({ sections }: SegmentLayout): number =>
  SECTIONS.reduce((sum, name) => sum + aligned(sections[name].bytes), 0)

/** Bytes of chunks that are checked at a time. */
const CHECKED_BYTES = 4 * 1024 * 1024

/** The packed part of an index file, read through typed arrays without copying. */
export class Segment {
  readonly documents: readonly PackedDocument[]
  readonly lengths: Uint32Array
  readonly #terms: Buffer
  readonly #termEnds: Uint32Array
  readonly #postingEnds: Uint32Array
  readonly #rows: Uint32Array
  readonly #frequencies: Uint16Array
  readonly #chunkEnds: Float64Array
  readonly #file: JournalReader
  readonly #chunksAt: number

  /**
   * Reads a segment. Its vectors become the first rows of `vectors`.
   * @param at the offset of the segment in the file
   * @throws Error naming the section that is damaged
   */
  constructor(file: JournalReader, at: number, { numRows, sections }: SegmentLayout, vectors: VectorMatrix) {
    const offsets = new Map<Section, number>()
    let offset = at
    for (const name of SECTIONS) {
      offsets.set(name, offset)
      offset += aligned(sections[name].bytes)
    }
    const read = (name: Section, into: Uint8Array): Uint8Array => {
      const { bytes, crc } = sections[name]
      const isWhole = into.byteLength === bytes && file.readInto(into, offsets.get(name) ?? 0) === bytes
      if (!isWhole || crc32(into) !== crc) throw new Error(`its section ${name} is damaged`)
      return into
    }
    const bytesOf = (name: Section): Uint8Array => read(name, new Uint8Array(sections[name].bytes))
    const numbers = (name: Section): Uint32Array => new Uint32Array(bytesOf(name).buffer)
    this.#file = file
    this.#chunksAt = offsets.get('chunks') ?? 0
    read('vectors', vectors.extend(numRows))
    this.documents = JSON.parse(Buffer.from(bytesOf('documents').buffer).toString('utf8')) as PackedDocument[]
    this.lengths = numbers('lengths')
    this.#terms = Buffer.from(bytesOf('terms').buffer)
    this.#termEnds = numbers('termEnds')
    this.#postingEnds = numbers('postingEnds')
    this.#rows = numbers('rows')
    this.#frequencies = new Uint16Array(bytesOf('frequencies').buffer)
    this.#chunkEnds = new Float64Array(bytesOf('chunkEnds').buffer)
    this.#check(sections.chunks)
  }

  get numPostings(): number {
    return this.#rows.length
  }

  get numTerms(): number {
    return this.#termEnds.length
  }

  /** A term in UTF-8, by its number. */
  term(at: number): Buffer {
    return this.#terms.subarray(this.#termEnds[at - 1] ?? 0, this.#termEnds[at] ?? 0)
  }

  postingsAt(term: number): { readonly rows: Uint32Array; readonly frequencies: Uint16Array } {
    const [from, to] = [this.#postingEnds[term - 1] ?? 0, this.#postingEnds[term] ?? 0]
    return { rows: this.#rows.subarray(from, to), frequencies: this.#frequencies.subarray(from, to) }
  }

  postings(term: string): { readonly rows: Uint32Array; readonly frequencies: Uint16Array } | null {
    const wanted = Buffer.from(term, 'utf8')
    let [low, high] = [0, this.numTerms - 1]
    while (low <= high) {
      const middle = (low + high) >> 1
      const order = Buffer.compare(this.term(middle), wanted)
      if (order === 0) return this.postingsAt(middle)
      if (order < 0) low = middle + 1
      else high = middle - 1
    }
    return null
  }

  /** A chunk in its stored form. @throws Error if the file ends early */
  encodedChunk(row: number): Buffer {
    const [from, to] = [this.#chunkEnds[row - 1] ?? 0, this.#chunkEnds[row] ?? 0]
    const bytes = Buffer.allocUnsafe(to - from)
    if (this.#file.readInto(bytes, this.#chunksAt + from) !== bytes.length) throw new Error('its texts end early')
    return bytes
  }

  chunk(row: number): Chunk {
    return decodeChunk(this.encodedChunk(row))
  }

  #check({ bytes, crc }: SegmentLayout['sections']['chunks']): void {
    const part = Buffer.allocUnsafe(CHECKED_BYTES)
    let value = 0
    for (let done = 0; done < bytes;) {
      const count = this.#file.readInto(part.subarray(0, Math.min(CHECKED_BYTES, bytes - done)), this.#chunksAt + done)
      if (count === 0) break
      value = crc32(part.subarray(0, count), value)
      done += count
    }
    if (value !== crc) throw new Error('its section chunks is damaged')
  }
}

/** A chunk in its stored form. */
export const encodeChunk = ({ chunk, text, headings, start, end, numTokens, anchor }: Chunk): Buffer =>
  Buffer.from(
    JSON.stringify([chunk, text, headings, start, end, numTokens, ...(anchor === undefined ? [] : [anchor])]),
    'utf8',
  )

/** The checksum guarantees that `encodeChunk` wrote the bytes. */
function decodeChunk(bytes: Buffer): Chunk {
  const [chunk, text, headings, start, end, numTokens, anchor] = JSON.parse(bytes.toString('utf8')) as [
    number,
    string,
    string[],
    number,
    number,
    number,
    string?,
  ]
  return { chunk, text, headings, ...(anchor !== undefined && { anchor }), start, end, numTokens }
}
