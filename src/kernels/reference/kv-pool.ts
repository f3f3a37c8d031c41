/** The reference backend's KV pool: f32, one array of keys and one of values per layer. */
import type { KvLayout, KvShape } from '../ops.ts'

/** Values of K per block of one layer; V has as many. */
function blockLength({ numKvHeads, headDim }: KvShape, blockSize: number): number {
  return blockSize * numKvHeads * headDim
}

/** Bytes of K and V of one block in all layers. */
export function kvBlockBytes({ layers, blockSize }: KvLayout): number {
  return layers.reduce((sum, shape) => sum + 2 * blockLength(shape, blockSize) * Float32Array.BYTES_PER_ELEMENT, 0)
}

/** Rounds the values of one token's heads, in place, to those that q8 can represent (KvFormat). */
export function roundToCodes(pool: Float32Array, at: number, numHeads: number, headDim: number): void {
  for (let head = 0; head < numHeads; head++) {
    const values = pool.subarray(at + head * headDim, at + (head + 1) * headDim)
    let largest = 0
    for (const value of values) largest = Math.max(largest, Math.abs(value))
    const scale = Math.fround(largest / 127)
    const factor = largest > 1e-35 ? Math.fround(127 / largest) : 0
    for (let i = 0; i < headDim; i++) values[i] = nearestEven(Math.fround(values[i]! * factor)) * scale
  }
}

function nearestEven(value: number): number {
  const floor = Math.floor(value)
  const rest = value - floor
  if (rest !== 0.5) return Math.round(value)
  return floor % 2 === 0 ? floor : floor + 1
}

/** K and V of every layer, written by slot and read by block table. */
export class KvPool {
  readonly layout: KvLayout
  /** One array per layer: [slots, numKvHeads, headDim]. */
  readonly keys: readonly Float32Array[]
  readonly values: readonly Float32Array[]

  constructor(layout: KvLayout) {
    this.layout = layout
    const create = () =>
      layout.layers.map((shape) => new Float32Array(layout.numBlocks * blockLength(shape, layout.blockSize)))
    this.keys = create()
    this.values = create()
  }

  /** Copies the first `numTokens` tokens of a block, in every layer. */
  copyBlock(source: number, destination: number, numTokens: number): void {
    const { layers, blockSize } = this.layout
    for (const [layer, shape] of layers.entries()) {
      const length = blockLength(shape, blockSize)
      const from = source * length
      for (const pool of [this.keys[layer]!, this.values[layer]!])
        pool.copyWithin(destination * length, from, from + numTokens * shape.numKvHeads * shape.headDim)
    }
  }

  /** Whole blocks as bytes: block after block, layer after layer, K then V. */
  read(blocks: readonly number[]): Uint8Array {
    const bytes = new Uint8Array(blocks.length * kvBlockBytes(this.layout))
    this.#forEachPiece(blocks, bytes, (pool, piece) => piece.set(pool))
    return bytes
  }

  /** Writes bytes from `read` to any blocks. @throws when the number of bytes does not match the number of blocks */
  write(blocks: readonly number[], bytes: Uint8Array): void {
    const expected = blocks.length * kvBlockBytes(this.layout)
    if (bytes.length !== expected)
      throw new Error(`writeBlocks: ${bytes.length} bytes for ${blocks.length} blocks, expected ${expected}`)
    this.#forEachPiece(blocks, bytes, (pool, piece) => pool.set(piece))
  }

  #forEachPiece(
    blocks: readonly number[],
    bytes: Uint8Array,
    visit: (pool: Uint8Array, piece: Uint8Array) => void,
  ): void {
    const { numBlocks, layers, blockSize } = this.layout
    let at = 0
    for (const block of blocks) {
      if (block < 0 || block >= numBlocks) throw new Error(`block ${block} is outside the pool of ${numBlocks}`)
      for (const [layer, shape] of layers.entries()) {
        const length = blockLength(shape, blockSize) * Float32Array.BYTES_PER_ELEMENT
        for (const pool of [this.keys[layer]!, this.values[layer]!]) {
          visit(new Uint8Array(pool.buffer, pool.byteOffset + block * length, length), bytes.subarray(at, at + length))
          at += length
        }
      }
    }
  }
}
