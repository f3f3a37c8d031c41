/** KV blocks between places of the pool, and between the pool and the host. */
import type { KvLayout } from '../ops.ts'
import { AttentionKernels } from './attention.ts'
import { createStorage } from './context.ts'
import type { StepQueue } from './step-queue.ts'

export class BlockTransfer {
  readonly #device: GPUDevice
  readonly #attention: AttentionKernels
  readonly #queue: StepQueue
  readonly #copies: { source: number; destination: number }[] = []

  constructor(device: GPUDevice, attention: AttentionKernels, queue: StepQueue) {
    this.#device = device
    this.#attention = attention
    this.#queue = queue
  }

  /** Bytes of all layers of one block of a pool of this layout. */
  static blockBytes(layout: KvLayout): number {
    return layout.numLayers * 2 * AttentionKernels.halfBlockBytes(layout)
  }

  /** Notes a copy for the coming step. */
  copy(source: number, destination: number, numTokens: number): void {
    // The whole block goes: tokens past numTokens are written before they are ever attended to, and one copy a layer is cheapest.
    if (numTokens > 0) this.#copies.push({ source, destination })
  }

  /** Submits the noted copies, in order. */
  submitCopies(): void {
    if (this.#copies.length === 0) return
    const { layout, pools } = this.#attention
    const half = AttentionKernels.halfBlockBytes(layout)
    const vBase = layout.numBlocks * half
    const encoder = this.#device.createCommandEncoder()
    const scratch = createStorage(this.#device, 'block copy', half)
    for (const { source, destination } of this.#copies.splice(0)) {
      if (source === destination) continue
      for (const pool of pools) {
        for (const base of [0, vBase]) {
          // Within one buffer a copy must not be direct: WebGPU forbids equal source and destination.
          encoder.copyBufferToBuffer(pool, base + source * half, scratch, 0, half)
          encoder.copyBufferToBuffer(scratch, 0, pool, base + destination * half, half)
        }
      }
    }
    this.#device.queue.submit([encoder.finish()])
    scratch.destroy()
  }

  /** Opaque bytes of the blocks, after everything submitted so far. */
  async read(blocks: readonly number[]): Promise<Uint8Array> {
    const size = blocks.length * BlockTransfer.blockBytes(this.#attention.layout)
    const bytes = await this.#queue.readBuffer(size, (encoder, target) => {
      this.#forEachPiece(blocks, (pool, poolAt, at, length) =>
        encoder.copyBufferToBuffer(pool, poolAt, target, at, length),
      )
    })
    return new Uint8Array(bytes)
  }

  /** Throws when `bytes` are not those of as many blocks. */
  write(blocks: readonly number[], bytes: Uint8Array): void {
    const expected = blocks.length * BlockTransfer.blockBytes(this.#attention.layout)
    if (bytes.byteLength !== expected) {
      throw new Error(`writeBlocks: ${bytes.byteLength} bytes for ${blocks.length} blocks, expected ${expected}`)
    }
    // The queue copies at once and keeps the order with the steps.
    const copy = bytes.slice()
    this.#forEachPiece(blocks, (pool, poolAt, at, length) =>
      this.#device.queue.writeBuffer(pool, poolAt, copy, at, length),
    )
  }

  /** Visits K and V of each block in each layer with their places in the opaque bytes: block, layer, K, V. */
  #forEachPiece(
    blocks: readonly number[],
    visit: (pool: GPUBuffer, poolAt: number, at: number, length: number) => void,
  ): void {
    const { layout, pools } = this.#attention
    const half = AttentionKernels.halfBlockBytes(layout)
    let at = 0
    for (const block of blocks) {
      if (block < 0 || block >= layout.numBlocks)
        throw new Error(`block ${block} is outside the pool of ${layout.numBlocks}`)
      for (const pool of pools) {
        for (const base of [0, layout.numBlocks * half]) {
          visit(pool, base + block * half, at, half)
          at += half
        }
      }
    }
  }
}
