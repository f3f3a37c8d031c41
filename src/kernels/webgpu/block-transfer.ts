/** KV blocks between places of the pool, and between the pool and the host. */
import type { KvLayout } from '../ops.ts'
import type { AttentionKernels } from './attention.ts'
import { createStorage, type GpuContext } from './context.ts'
import type { StepQueue } from './step-queue.ts'

/** Largest buffer that blocks are read through: several are used for more. */
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

  /** Bytes of all layers of one block of a pool of this layout. */
  blockBytes(layout: KvLayout): number {
    return this.#attention.blockBytes(layout)
  }

  /** Notes a copy for the coming step. */
  copy(source: number, destination: number, numTokens: number): void {
    // The whole block goes: tokens past numTokens are written before they are ever attended to, and one copy per layer is cheapest.
    if (numTokens > 0) this.#copies.push({ source, destination })
  }

  /** Forgets the noted copies: their step will not be. */
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
          // Within one buffer a copy must not be direct: WebGPU forbids equal source and destination.
          encoder.copyBufferToBuffer(pool, base + source * bytes, scratch, 0, bytes)
          encoder.copyBufferToBuffer(scratch, 0, pool, base + destination * bytes, bytes)
        }
      }
    }
    this.#device.queue.submit([encoder.finish()])
    scratch.destroy()
  }

  /** Opaque bytes of the blocks, after everything submitted so far. */
  async read(blocks: readonly number[]): Promise<Uint8Array> {
    this.#check(blocks)
    const blockBytes = this.blockBytes(this.#attention.layout)
    const perPiece = Math.max(1, Math.floor(this.#maxPieceBytes / blockBytes))
    const pieces: Promise<ArrayBuffer>[] = []
    // All are submitted here, before anything is awaited: the steps that follow may write to the blocks.
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

  /** Throws when `bytes` are not those of as many blocks. */
  write(blocks: readonly number[], bytes: Uint8Array): void {
    const expected = blocks.length * this.blockBytes(this.#attention.layout)
    if (bytes.byteLength !== expected) {
      throw new Error(`writeBlocks: ${bytes.byteLength} bytes for ${blocks.length} blocks, expected ${expected}`)
    }
    this.#check(blocks)
    // The queue copies at once and keeps the order with the steps.
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

  /** Visits the regions of each block in each layer with their places in the opaque bytes: block, layer, region. */
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
