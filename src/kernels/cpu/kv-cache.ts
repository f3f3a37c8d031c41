/**
 * The paged KV pool of the cpu backend. Layout: layers, then blocks, then KV heads, each with K, then V, in tiles of 16 tokens; in q8 their scales
 * follow (assembly/attention.ts).
 */
import type { KvFormat, KvLayout, KvShape } from '../ops.ts'
import type { Arena } from './arena.ts'
import { roundUp } from './matrices.ts'

/** Format codes as in assembly/attention.ts. */
const FORMATS: Readonly<Record<KvFormat, { code: number; elementBytes: number }>> = {
  f32: { code: 0, elementBytes: 4 },
  f16: { code: 1, elementBytes: 2 },
  q8: { code: 2, elementBytes: 1 },
}

interface KvGeometry {
  readonly elementBytes: number
  /** Tokens per block, rounded up to whole tiles. */
  readonly paddedBlock: number
  readonly keyBytes: number // of one head of a block
  readonly scaleBytes: number // of K, and of V
  readonly headBytes: number // K, V and scales
  readonly blockBytes: number // of one layer
}

/** Sizes in bytes of one layer's block and of its parts. */
function kvGeometry({ numKvHeads, headDim }: KvShape, blockSize: number, format: KvFormat): KvGeometry {
  const { elementBytes } = FORMATS[format]
  const paddedBlock = roundUp(blockSize, 16)
  const keyBytes = paddedBlock * headDim * elementBytes
  const scaleBytes = format === 'q8' ? paddedBlock * 4 : 0
  const headBytes = keyBytes + paddedBlock * roundUp(headDim, 16) * elementBytes + 2 * scaleBytes
  return { elementBytes, paddedBlock, keyBytes, scaleBytes, headBytes, blockBytes: headBytes * numKvHeads }
}

/** Bytes per block: all layers. */
export function kvBlockBytes({ layers, blockSize }: KvLayout, format: KvFormat): number {
  return layers.reduce((sum, shape) => sum + kvGeometry(shape, blockSize, format).blockBytes, 0)
}

/** Bytes per block of the layer that needs the most. */
export function largestKvBytes({ layers, blockSize }: KvLayout, format: KvFormat): number {
  return Math.max(0, ...layers.map((shape) => kvGeometry(shape, blockSize, format).blockBytes))
}

/** One layer of the pool. */
interface KvLayer {
  readonly shape: KvShape
  readonly geometry: KvGeometry
  readonly arena: Arena
  /** Index of the memory. */
  readonly memory: number
  /** Address of its blocks. */
  readonly address: number
}

/** Index at which element i of 16 is stored: in f16, elements i and i + 4 of each 8 share a word (assembly/simd.ts). */
function lane(i: number, format: KvFormat): number {
  return format === 'f16' ? (i & 8) + ((i & 3) << 1) + ((i & 4) >> 2) : i
}

/** The KV pool of one model, [layers][blocks][kv heads]: keys, then values. A layer lies in one memory. */
export class KvCache {
  readonly layout: KvLayout
  readonly format: KvFormat
  readonly #layers: (KvLayer | undefined)[] = []

  constructor(layout: KvLayout, format: KvFormat) {
    this.layout = layout
    this.format = format
  }

  get numLayers(): number {
    return this.layout.layers.length
  }

  get bytes(): number {
    return this.layout.numBlocks * this.bytesPerBlock
  }

  /** Bytes of all blocks of a layer. @throws for an unknown layer */
  layerBytes(index: number): number {
    return this.layout.numBlocks * kvGeometry(this.#shape(index), this.layout.blockSize, this.format).blockBytes
  }

  /** Index of the memory that a layer lies in; null before it is placed. */
  memoryOf(index: number): number | null {
    return this.#layers[index]?.memory ?? null
  }

  place(index: number, arena: Arena, memory: number): void {
    const shape = this.#shape(index)
    const geometry = kvGeometry(shape, this.layout.blockSize, this.format)
    this.#layers[index] = { shape, geometry, arena, memory, address: arena.allocate(this.layerBytes(index), 'KV pool') }
  }

  /** The format's code for the kernels. */
  get formatCode(): number {
    return FORMATS[this.format].code
  }

  /** A layer for an op with these head sizes. @throws for other sizes and for an unknown layer */
  layer(index: number, numKvHeads: number, headDim: number): KvLayer {
    const shape = this.#shape(index)
    if (shape.numKvHeads !== numKvHeads || shape.headDim !== headDim)
      throw new Error(
        `layer ${index} of the KV pool has ${shape.numKvHeads} heads of ${shape.headDim}, the op ${numKvHeads} of ${headDim}`,
      )
    return this.#placed(index)
  }

  #shape(index: number): KvShape {
    const shape = this.layout.layers[index]
    if (shape === undefined) throw new Error(`layer ${index} is outside the KV pool's ${this.numLayers}`)
    return shape
  }

  #placed(index: number): KvLayer {
    const layer = this.#layers[index]
    if (layer === undefined) throw new Error(`layer ${index} of the KV pool has no place yet`)
    return layer
  }

  #all(): readonly KvLayer[] {
    return this.layout.layers.map((_, index) => this.#placed(index))
  }

  /** Bytes per block: all layers. */
  get bytesPerBlock(): number {
    return kvBlockBytes(this.layout, this.format)
  }

  copy(source: number, destination: number, numTokens: number): void {
    this.#check(source)
    this.#check(destination)
    for (const layer of this.#all()) {
      const from = this.#block(layer, source)
      const to = this.#block(layer, destination)
      if (numTokens === this.layout.blockSize) to.set(from)
      else this.#copyTokens(layer, from, to, numTokens)
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
    const layers = this.#all()
    let at = 0
    for (const block of blocks) {
      this.#check(block)
      for (const layer of layers) {
        visit(this.#block(layer, block), at)
        at += layer.geometry.blockBytes
      }
    }
  }

  #block({ arena, address, geometry }: KvLayer, block: number): Uint8Array {
    return arena.bytes(address + block * geometry.blockBytes, geometry.blockBytes)
  }

  #check(block: number): void {
    if (block < 0 || block >= this.layout.numBlocks)
      throw new Error(`block ${block} is outside the pool of ${this.layout.numBlocks}`)
  }

  /** Copies the first `numTokens` tokens of a block in one layer: K lane by lane, V row by row. */
  #copyTokens({ shape, geometry }: KvLayer, from: Uint8Array, to: Uint8Array, numTokens: number): void {
    const { headDim, numKvHeads } = shape
    const { headBytes, keyBytes, scaleBytes, elementBytes, paddedBlock } = geometry
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
