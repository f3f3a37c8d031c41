/** Rows of f32 in WebAssembly memory and their dot products with a query (scan.wat): exact search as fast as memory can be read. */
import { readFileSync } from 'node:fs'

const PAGE_BYTES = 65_536
/** WebAssembly's 32-bit address space. */
const MAX_PAGES = 65_536
/** Floats per step of the inner loop. Rows are padded to a multiple. */
const LANES = 8

type Scan = (query: number, rows: number, numRows: number, stride: number, out: number) => void

let compiled: WebAssembly.Module | null = null

const isScan = (value: unknown): value is Scan => typeof value === 'function'

/** Vectors [rows, dimensions] in f32. */
export class VectorMatrix {
  readonly dimensions: number
  #numRows = 0
  readonly #stride: number
  readonly #memory = new WebAssembly.Memory({ initial: 1, maximum: MAX_PAGES })
  readonly #scan: Scan

  constructor(dimensions: number) {
    this.dimensions = dimensions
    this.#stride = Math.ceil(dimensions / LANES) * LANES
    compiled ??= new WebAssembly.Module(readFileSync(new URL('./scan.wasm', import.meta.url)))
    const { scan } = new WebAssembly.Instance(compiled, { env: { memory: this.#memory } }).exports
    if (!isScan(scan)) throw new Error('scan.wasm exports no function scan')
    this.#scan = scan
  }

  /** Whether this many more rows fit into the address space. */
  hasRoomFor(numRows: number): boolean {
    return this.#pagesFor(this.#numRows + numRows) <= MAX_PAGES
  }

  /** Appends rows: [n, dimensions]. @throws RangeError if they do not fit into 4 GiB */
  append(rows: Float32Array): void {
    const count = rows.length / this.dimensions
    if (!Number.isInteger(count))
      throw new RangeError(`expected a multiple of ${this.dimensions} values, found ${rows.length}`)
    // Includes room for the scores after the rows, so that a search never grows the memory.
    this.#reserve(this.#numRows + count)
    const floats = new Float32Array(this.#memory.buffer)
    for (let i = 0; i < count; i++) {
      const at = (1 + this.#numRows + i) * this.#stride
      floats.set(rows.subarray(i * this.dimensions, (i + 1) * this.dimensions), at)
      // The padding may contain scores of an earlier search.
      floats.fill(0, at + this.dimensions, at + this.#stride)
    }
    this.#numRows += count
  }

  /** Appends rows of zeros. @returns a view of their bytes, with padding, to be filled before the next call */
  extend(count: number): Uint8Array {
    this.#reserve(this.#numRows + count)
    const at = (1 + this.#numRows) * this.#stride
    const floats = new Float32Array(this.#memory.buffer).subarray(at, at + count * this.#stride).fill(0)
    this.#numRows += count
    return new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength)
  }

  /** The bytes of one row, with padding: a view that is valid until the next call. */
  rowBytes(index: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, (1 + index) * this.#stride * 4, this.#stride * 4)
  }

  /** The dot products of all rows with the query, [numRows]: a view that is valid until the next call. */
  scores(query: Float32Array): Float32Array {
    if (query.length !== this.dimensions) {
      throw new RangeError(`expected a query of ${this.dimensions} values, found ${query.length}`)
    }
    const floats = new Float32Array(this.#memory.buffer)
    floats.fill(0, 0, this.#stride)
    floats.set(query, 0)
    const out = (1 + this.#numRows) * this.#stride
    this.#scan(0, this.#stride * 4, this.#numRows, this.#stride, out * 4)
    return floats.subarray(out, out + this.#numRows)
  }

  /** Pages for a query, the rows and their scores. */
  #pagesFor(numRows: number): number {
    return Math.ceil((((1 + numRows) * this.#stride + numRows) * 4) / PAGE_BYTES)
  }

  #reserve(numRows: number): void {
    const needed = this.#pagesFor(numRows)
    const have = this.#memory.buffer.byteLength / PAGE_BYTES
    if (needed <= have) return
    if (needed > MAX_PAGES) {
      throw new RangeError(`${numRows} vectors of ${this.dimensions} dimensions do not fit into 4 GiB`)
    }
    this.#memory.grow(Math.min(MAX_PAGES, Math.max(needed, Math.ceil(have * 1.5))) - have)
  }
}
