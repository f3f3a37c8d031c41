/**
 * The header of a GGUF file: metadata and tensor descriptions (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The file is untrusted: counts
 * and lengths are checked against its size before anything is allocated, which the npm package for this format does not do.
 */
import type { FileHandle } from 'node:fs/promises'
import { ModelError } from '../runner/runner.ts'
import { readFully } from './source.ts'

export type GgufValue = string | number | boolean | readonly string[] | readonly number[]

export interface GgufTensor {
  readonly name: string
  /** ggml's number for the type. */
  readonly type: number
  /** Fastest dimension first, as in ggml. */
  readonly dimensions: readonly number[]
  /** Bytes from the start of the file. */
  readonly offset: number
}

/** A header's metadata by key. Lists are decoded only on request, because a vocabulary has hundreds of thousands of strings. */
export interface GgufValues {
  /** The number of keys. */
  readonly size: number
  get(key: string): GgufValue | undefined
  has(key: string): boolean
  /** The number of items of a list, without decoding it; undefined for anything else. */
  lengthOf(key: string): number | undefined
}

export interface GgufHeader {
  readonly version: number
  readonly metadata: GgufValues
  readonly tensors: readonly GgufTensor[]
}

const MAGIC = 0x46554747 // 'GGUF', little-endian
const MAX_DIMENSIONS = 4
/** Bytes of each scalar type. 8 (string) and 9 (array) are not scalars. */
const SCALAR_BYTES: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
}
const FIRST_READ_BYTES = 1 << 20
/** A header is mostly vocabulary, and real ones have at most tens of megabytes. */
const MAX_HEADER_BYTES = 1 << 28

const AGAIN = 'Download the file again.'

/** The header continues beyond the bytes that were read. */
class ShortRead extends Error {}

class HeaderReader {
  readonly path: string
  readonly #view: DataView
  readonly #bytes: Buffer
  readonly #fileBytes: number
  #at = 0

  constructor(path: string, bytes: Uint8Array, fileBytes: number) {
    this.path = path
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#fileBytes = fileBytes
  }

  get position(): number {
    return this.#at
  }

  fail(problem: string): never {
    throw new ModelError(`${this.path}: broken GGUF header at byte ${this.#at}: ${problem}. ${AGAIN}`)
  }

  /** Moves over the next `count` bytes and returns where they begin. */
  #take(count: number): number {
    if (count > this.#fileBytes - this.#at)
      this.fail(`${count} bytes are announced, ${this.#fileBytes - this.#at} are left in the file`)
    if (count > this.#bytes.length - this.#at) throw new ShortRead()
    const at = this.#at
    this.#at += count
    return at
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }

  /** A count or an offset. No real one is above 2^53. */
  u64(): number {
    const at = this.#take(8)
    const value = this.#view.getUint32(at + 4, true) * 2 ** 32 + this.#view.getUint32(at, true)
    if (value > Number.MAX_SAFE_INTEGER) this.fail(`the number ${value} is out of range`)
    return value
  }

  /** A count of items that take at least `itemBytes` each. */
  count(itemBytes: number): number {
    const value = this.u64()
    if (value * itemBytes > this.#fileBytes - this.#at)
      this.fail(`${value} items are announced, the file has ${this.#fileBytes - this.#at} bytes left`)
    return value
  }

  text(): string {
    const length = this.u64()
    const at = this.#take(length)
    return this.#bytes.toString('utf8', at, at + length)
  }

  scalar(type: number): number | boolean {
    const bytes = SCALAR_BYTES[type]
    if (bytes === undefined) this.fail(`unknown value type ${type}`)
    return this.#scalarAt(type, this.#take(bytes))
  }

  #scalarAt(type: number, at: number): number | boolean {
    switch (type) {
      case 0:
        return this.#view.getUint8(at)
      case 1:
        return this.#view.getInt8(at)
      case 2:
        return this.#view.getUint16(at, true)
      case 3:
        return this.#view.getInt16(at, true)
      case 4:
        return this.#view.getUint32(at, true)
      case 5:
        return this.#view.getInt32(at, true)
      case 6:
        return this.#view.getFloat32(at, true)
      case 7:
        return this.#view.getUint8(at) !== 0
      case 10:
        return Number(this.#view.getBigUint64(at, true))
      case 11:
        return Number(this.#view.getBigInt64(at, true))
      default:
        return this.#view.getFloat64(at, true)
    }
  }

  /** A value, or a list that is not decoded yet. */
  value(type: number): Exclude<GgufValue, readonly unknown[]> | List {
    if (type === 8) return this.text()
    if (type !== 9) return this.scalar(type)
    const itemType = this.u32()
    if (itemType === 8) {
      const length = this.count(8)
      const start = this.#at
      for (let i = 0; i < length; i++) this.#take(this.u64())
      return { length, decode: () => this.#texts(start, length) }
    }
    const itemBytes = SCALAR_BYTES[itemType]
    if (itemBytes === undefined) this.fail(`arrays of value type ${itemType} are not known`)
    const length = this.count(itemBytes)
    const start = this.#take(length * itemBytes)
    return { length, decode: () => this.#numbers(itemType, start, length) }
  }

  #texts(start: number, length: number): readonly string[] {
    const texts: string[] = []
    this.#at = start
    for (let i = 0; i < length; i++) texts.push(this.text())
    return texts
  }

  #numbers(type: number, start: number, length: number): readonly number[] {
    const numbers: number[] = []
    const bytes = SCALAR_BYTES[type] ?? 0
    for (let i = 0; i < length; i++) numbers.push(Number(this.#scalarAt(type, start + i * bytes)))
    return numbers
  }
}

interface List {
  readonly length: number
  readonly decode: () => GgufValue
}

class Metadata implements GgufValues {
  readonly #values: ReadonlyMap<string, ReturnType<HeaderReader['value']>>

  constructor(values: ReadonlyMap<string, ReturnType<HeaderReader['value']>>) {
    this.#values = values
  }

  get size(): number {
    return this.#values.size
  }

  get(key: string): GgufValue | undefined {
    const value = this.#values.get(key)
    return typeof value === 'object' ? value.decode() : value
  }

  has(key: string): boolean {
    return this.#values.has(key)
  }

  lengthOf(key: string): number | undefined {
    const value = this.#values.get(key)
    return typeof value === 'object' ? value.length : undefined
  }
}

function readHeader(reader: HeaderReader): GgufHeader {
  if (reader.u32() !== MAGIC) reader.fail('it does not begin with GGUF')
  const version = reader.u32()
  if (version !== 2 && version !== 3)
    reader.fail(`version ${version}; 2 and 3 can be read (a big-endian file reads as a large version)`)
  const numTensors = reader.count(24)
  const numValues = reader.count(12)
  const values = new Map<string, ReturnType<HeaderReader['value']>>()
  for (let i = 0; i < numValues; i++) {
    const key = reader.text()
    if (values.has(key)) reader.fail(`the key ${JSON.stringify(key.slice(0, 100))} appears twice`)
    values.set(key, reader.value(reader.u32()))
  }
  const metadata = new Metadata(values)
  const tensors: GgufTensor[] = []
  const names = new Set<string>()
  for (let i = 0; i < numTensors; i++) {
    const name = reader.text()
    if (names.has(name)) reader.fail(`tensor ${JSON.stringify(name.slice(0, 100))} appears twice`)
    names.add(name)
    const rank = reader.u32()
    if (rank < 1 || rank > MAX_DIMENSIONS)
      reader.fail(`tensor ${JSON.stringify(name.slice(0, 100))} has ${rank} dimensions`)
    const dimensions = Array.from({ length: rank }, () => reader.u64())
    tensors.push({ name, dimensions, type: reader.u32(), offset: reader.u64() })
  }
  const alignment = metadata.get('general.alignment') ?? 32
  if (typeof alignment !== 'number' || alignment < 1 || alignment > 1 << 20 || (alignment & (alignment - 1)) !== 0) {
    reader.fail(`general.alignment should be a power of two, found ${JSON.stringify(alignment)}`)
  }
  const dataStart = Math.ceil(reader.position / alignment) * alignment
  return { version, metadata, tensors: tensors.map((tensor) => ({ ...tensor, offset: tensor.offset + dataStart })) }
}

/** Parses a header from the first bytes of a file of `fileBytes`; null: more bytes are needed. @throws ModelError and nothing else */
export function parseGgufHeader(path: string, bytes: Uint8Array, fileBytes: number): GgufHeader | null {
  try {
    return readHeader(new HeaderReader(path, bytes, fileBytes))
  } catch (error) {
    if (error instanceof ShortRead) return null
    throw error
  }
}

/** Reads the header of an open file. @throws ModelError */
export async function readGgufHeader(file: FileHandle, path: string): Promise<GgufHeader> {
  const { size } = await file.stat()
  for (let length = Math.min(FIRST_READ_BYTES, size); ; length = Math.min(length * 4, size)) {
    const bytes = new Uint8Array(length)
    await readFully(file, path, bytes, 0)
    const header = parseGgufHeader(path, bytes, size)
    if (header !== null) return header
    if (length >= Math.min(size, MAX_HEADER_BYTES))
      throw new ModelError(`${path}: the GGUF header does not end within ${length} bytes. ${AGAIN}`)
  }
}
