/** Copies KV blocks within the pool, and between the pool and the host. */
import type { KvLayout } from '../ops.ts'
import type { AttentionKernels } from './attention.ts'
import { createStorage, type GpuContext } from './context.ts'
import type { StepQueue } from './step-queue.ts'

/** Largest readback buffer. Larger reads use several buffers. */
const PIECE_BYTES = 64 * 2 ** 20

/** Copies, reads and writes KV blocks. */
export class BlockTransfer {
  readonly #device: GPUDevice
  readonly #maxPieceBytes: number
  readonly #attention: AttentionKernels
  readonly #queue: StepQueue
  readonly #copies: { source: number; destination: number }[] = []

  constructor({ device, capabilities }: GpuContext, attention: AttentionKernels, queue: StepQueue) {
    this.#device = device
    this.#maxPieceBytes = Math.min(PIECE_BYTES, capabilities.maxBindingBytes)
    this.#attention = attention
    this.#queue = queue
  }

  /** Bytes of one block over all layers, for a pool of this layout. */
  blockBytes(layout: KvLayout): number {
    return this.#attention.blockBytes(layout)
  }

  /** Notes a copy for the coming step. */
  copy(source: number, destination: number, numTokens: number): void {
    // The whole block is copied: tokens past numTokens are overwritten before any row attends to them, and one copy per region is cheapest.
    if (numTokens > 0) this.#copies.push({ source, destination })
  }

  /** Forgets the noted copies, because their step will not run. */
  abandonCopies(): void {
    this.#copies.length = 0
  }

  /** Submits the noted copies, in order. */
  submitCopies(): void {
    if (this.#copies.length === 0) return
    const { pools } = this.#attention
    const encoder = this.#device.createCommandEncoder()
    const largest = Math.max(...pools.flatMap(({ regions }) => regions.map(({ bytes }) => bytes)))
    const scratch = createStorage(this.#device, 'block copy', largest)
    for (const { source, destination } of this.#copies.splice(0)) {
      if (source === destination) continue
      for (const { buffer: pool, regions } of pools) {
        for (const { base, bytes } of regions) {
          // Through a scratch buffer, because WebGPU forbids copies within one buffer.
          encoder.copyBufferToBuffer(pool, base + source * bytes, scratch, 0, bytes)
          encoder.copyBufferToBuffer(scratch, 0, pool, base + destination * bytes, bytes)
        }
      }
    }
    this.#device.queue.submit([encoder.finish()])
    scratch.destroy()
  }

  /** Reads the blocks as opaque bytes, after everything submitted so far. */
  async read(blocks: readonly number[]): Promise<Uint8Array> {
    this.#check(blocks)
    const blockBytes = this.blockBytes(this.#attention.layout)
    const perPiece = Math.max(1, Math.floor(this.#maxPieceBytes / blockBytes))
    const pieces: Promise<ArrayBuffer>[] = []
    // All reads are submitted before anything is awaited, because later steps may write to the blocks.
    for (let first = 0; first < blocks.length; first += perPiece) {
      const piece = blocks.slice(first, first + perPiece)
      const copy = (encoder: GPUCommandEncoder, target: GPUBuffer) =>
        this.#forEachPiece(piece, (pool, poolAt, at, length) =>
          encoder.copyBufferToBuffer(pool, poolAt, target, at, length),
        )
      pieces.push(this.#queue.readBuffer(piece.length * blockBytes, copy))
    }
    const bytes = new Uint8Array(blocks.length * blockBytes)
    for (const [index, piece] of (await Promise.all(pieces)).entries()) {
      bytes.set(new Uint8Array(piece), index * perPiece * blockBytes)
    }
    return bytes
  }

  /** Writes blocks from the bytes that `read` returned. @throws Error where the number of bytes does not fit the number of blocks */
  write(blocks: readonly number[], bytes: Uint8Array): void {
    const expected = blocks.length * this.blockBytes(this.#attention.layout)
    if (bytes.byteLength !== expected) {
      throw new Error(`writeBlocks: ${bytes.byteLength} bytes for ${blocks.length} blocks, expected ${expected}`)
    }
    this.#check(blocks)
    // writeBuffer copies the data at once, and the queue keeps its order with the steps.
    const copy = bytes.slice()
    this.#forEachPiece(blocks, (pool, poolAt, at, length) =>
      this.#device.queue.writeBuffer(pool, poolAt, copy, at, length),
    )
  }

  #check(blocks: readonly number[]): void {
    const { numBlocks } = this.#attention.layout
    const outside = blocks.find((block) => block < 0 || block >= numBlocks)
    if (outside !== undefined) throw new Error(`block ${outside} is outside the pool of ${numBlocks}`)
  }

  /** Visits each region of each block in each layer, with its place in the opaque bytes. Their order is [block][layer][region]. */
  #forEachPiece(
    blocks: readonly number[],
    visit: (pool: GPUBuffer, poolAt: number, at: number, length: number) => void,
  ): void {
    const { pools } = this.#attention
    let at = 0
    for (const block of blocks) {
      for (const { buffer: pool, regions } of pools) {
        for (const { base, bytes } of regions) {
          visit(pool, base + block * bytes, at, bytes)
          at += bytes
        }
      }
    }
  }
}
