/**
 * The paged KV pool of the cpu backend: a region per layer, in it blocks, in them heads, each K then V in tiles of 16, and in q8 their scales
 * (assembly/attention.ts).
 */
import type { KvFormat, KvLayout } from '../ops.ts'
import type { Arena } from './arena.ts'
import { roundUp } from './matrices.ts'

/** As assembly/attention.ts has them. */
const FORMATS: Readonly<Record<KvFormat, { code: number; elementBytes: number }>> = {
  f32: { code: 0, elementBytes: 4 },
  f16: { code: 1, elementBytes: 2 },
  q8: { code: 2, elementBytes: 1 },
}

interface KvGeometry {
  readonly elementBytes: number
  /** Tokens a block has room for: whole tiles. */
  readonly paddedBlock: number
  readonly keyBytes: number // of one head of a block
  readonly scaleBytes: number // of K, and of V
  readonly headBytes: number // K, V and scales
  readonly blockBytes: number // of one layer
}

/** Sizes in bytes of a block and its parts. */
export function kvGeometry(layout: KvLayout, format: KvFormat): KvGeometry {
  const { elementBytes } = FORMATS[format]
  const paddedBlock = roundUp(layout.blockSize, 16)
  const keyBytes = paddedBlock * layout.headDim * elementBytes
  const scaleBytes = format === 'q8' ? paddedBlock * 4 : 0
  const headBytes = keyBytes + paddedBlock * roundUp(layout.headDim, 16) * elementBytes + 2 * scaleBytes
  return { elementBytes, paddedBlock, keyBytes, scaleBytes, headBytes, blockBytes: headBytes * layout.numKvHeads }
}

/** Place of element i of 16 adjacent ones: f16 values i and i + 4 of each 8 share a word (assembly/simd.ts). */
function lane(i: number, format: KvFormat): number {
  return format === 'f16' ? (i & 8) + ((i & 3) << 1) + ((i & 4) >> 2) : i
}

/** The KV pool of one model: [layers][blocks][kv heads] keys, then values. */
export class KvCache {
  readonly layout: KvLayout
  readonly format: KvFormat
  readonly geometry: KvGeometry
  readonly #arena: Arena
  readonly #base: number

  constructor(arena: Arena, layout: KvLayout, format: KvFormat) {
    this.layout = layout
    this.format = format
    this.geometry = kvGeometry(layout, format)
    this.#arena = arena
    this.#base = arena.allocate(layout.numLayers * layout.numBlocks * this.geometry.blockBytes, 'KV pool')
  }

  /** The format as the kernels want it. */
  get formatCode(): number {
    return FORMATS[this.format].code
  }

  /** Address of a layer's blocks. */
  layer(index: number): number {
    if (index < 0 || index >= this.layout.numLayers)
      throw new Error(`layer ${index} is outside the KV pool's ${this.layout.numLayers}`)
    return this.#base + index * this.layout.numBlocks * this.geometry.blockBytes
  }

  /** Bytes of all layers of one block. */
  get bytesPerBlock(): number {
    return this.layout.numLayers * this.geometry.blockBytes
  }

  copy(source: number, destination: number, numTokens: number): void {
    this.#check(source)
    this.#check(destination)
    for (let layer = 0; layer < this.layout.numLayers; layer++) {
      const from = this.#block(layer, source)
      const to = this.#block(layer, destination)
      if (numTokens === this.layout.blockSize) to.set(from)
      else this.#copyTokens(from, to, numTokens)
    }
  }

  /** Opaque bytes: block after block, layer after layer. */
  read(blocks: readonly number[]): Uint8Array {
    const bytes = new Uint8Array(blocks.length * this.bytesPerBlock)
    this.#forEachPiece(blocks, (piece, at) => bytes.set(piece, at))
    return bytes
  }

  write(blocks: readonly number[], bytes: Uint8Array): void {
    const expected = blocks.length * this.bytesPerBlock
    if (bytes.length !== expected)
      throw new Error(`writeBlocks: ${bytes.length} bytes for ${blocks.length} blocks, expected ${expected}`)
    this.#forEachPiece(blocks, (piece, at) => piece.set(bytes.subarray(at, at + piece.length)))
  }

  #forEachPiece(blocks: readonly number[], visit: (piece: Uint8Array, at: number) => void): void {
    let at = 0
    for (const block of blocks) {
      this.#check(block)
      for (let layer = 0; layer < this.layout.numLayers; layer++) {
        visit(this.#block(layer, block), at)
        at += this.geometry.blockBytes
      }
    }
  }

  #block(layer: number, block: number): Uint8Array {
    return this.#arena.bytes(this.layer(layer) + block * this.geometry.blockBytes, this.geometry.blockBytes)
  }

  #check(block: number): void {
    if (block < 0 || block >= this.layout.numBlocks)
      throw new Error(`block ${block} is outside the pool of ${this.layout.numBlocks}`)
  }

  /** Copies the first tokens of one layer of a block: K lane by lane, V row by row. */
  #copyTokens(from: Uint8Array, to: Uint8Array, numTokens: number): void {
    const { headDim, numKvHeads } = this.layout
    const { headBytes, keyBytes, scaleBytes, elementBytes, paddedBlock } = this.geometry
    const view = ({ buffer, byteOffset, byteLength }: Uint8Array): Uint8Array | Uint16Array | Uint32Array => {
      if (elementBytes === 1) return new Uint8Array(buffer, byteOffset, byteLength)
      return elementBytes === 2
        ? new Uint16Array(buffer, byteOffset, byteLength / 2)
        : new Uint32Array(buffer, byteOffset, byteLength / 4)
    }
    const source = view(from)
    const target = view(to)
    for (let head = 0; head < numKvHeads; head++) {
      const keys = (head * headBytes) / elementBytes
      for (let token = 0; token < numTokens; token++) {
        const at = keys + (token >> 4) * headDim * 16 + lane(token & 15, this.format)
        for (let d = 0; d < headDim; d++) target[at + d * 16] = source[at + d * 16]!
      }
      const values = keys + keyBytes / elementBytes
      for (let d = 0; d < headDim; d += 16) {
        const at = values + d * paddedBlock
        target.set(source.subarray(at, at + numTokens * 16), at)
      }
      const end = (head + 1) * headBytes
      for (const at of scaleBytes === 0 ? [] : [end - 2 * scaleBytes, end - scaleBytes]) {
        to.set(from.subarray(at, at + numTokens * 4), at)
      }
    }
  }
}
