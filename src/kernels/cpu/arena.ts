/**
 * A bump allocator in a shared WebAssembly memory: allocations are freed only with the whole memory. The cpu backend has several such memories
 * when a model does not fit in one.
 */
import { createMemory, type Memory } from './host.js'

const PAGE_BYTES = 65536
/** The most bytes that 32-bit addresses reach: 4 GiB. */
export const LIMIT_BYTES = 65536 * PAGE_BYTES
/** The memory grows by at least this many pages, because every growth is a call into the runtime. */
const GROWTH_PAGES = 256
const MIB = 2 ** 20

/** Allocates from the shared memory. Addresses are bytes; 0 means none. */
export class Arena {
  readonly memory: Memory
  #pages = 32
  // The module itself keeps nothing in this memory. The first page stays unused, so that address 0 can mean "none".
  #top = PAGE_BYTES

  constructor() {
    this.memory = createMemory(this.#pages)
  }

  get usedBytes(): number {
    return this.#top
  }

  get freeBytes(): number {
    return LIMIT_BYTES - this.#top
  }

  /**
   * Allocates `bytes` zeroed bytes, aligned to a cache line; returns their address.
   * @throws when the 4 GiB of address space or the machine's memory are exhausted
   */
  allocate(bytes: number, purpose: string): number {
    const address = Math.ceil(this.#top / 64) * 64
    const end = address + bytes
    const pages = Math.ceil(end / PAGE_BYTES)
    if (end > LIMIT_BYTES) {
      throw new Error(
        `${purpose}: a memory of the cpu backend has 4096 MiB, of which ${Math.round(address / MIB)} MiB are taken, and ${Math.ceil(bytes / MIB)} MiB ` +
          'more in one piece are asked for. Try fewer --num-kv-blocks, a smaller --max-num-batched-tokens, --quantization q8 or q4, or --device webgpu.',
      )
    }
    if (pages > this.#pages) {
      const grown = Math.min(65536, Math.max(pages, this.#pages + GROWTH_PAGES))
      try {
        this.memory.grow(grown - this.#pages)
      } catch (cause) {
        throw new Error(
          `${purpose}: the system refused ${Math.ceil(bytes / MIB)} MiB more memory (${Math.round(address / MIB)} MiB of this piece of it are in use)`,
          { cause },
        )
      }
      this.#pages = grown
    }
    this.#top = end
    return address
  }

  // Views stay valid when the memory grows, because a shared memory never moves.
  bytes(address: number, length: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, address, length)
  }

  u16(address: number, length: number): Uint16Array {
    return new Uint16Array(this.memory.buffer, address, length)
  }

  i32(address: number, length: number): Int32Array {
    return new Int32Array(this.memory.buffer, address, length)
  }

  f32(address: number, length: number): Float32Array {
    return new Float32Array(this.memory.buffer, address, length)
  }
}
