/** Scratch memory of the ops, grown to the size that the loaded model needs. */
import type { BackendOptions } from '../backend.ts'
import type { Arena } from './arena.ts'
import { ROW_TILE, roundUp, type MatrixSize } from './matrices.ts'
import type { Program } from './program.ts'
import type { Resources } from './resources.ts'

/** Tokens per attention split (assembly/attention.ts). */
export const SPLIT = 128
/** The most query heads times rows per work unit of attention, so that its scores and sums stay in the level-2 cache. */
export const ATTENTION_ROWS = 48
/** Rows scored at a time, so that a long prompt does not need [prompt, vocab] logits at once. */
export const SCORE_ROWS = 32
/** Reserve for small allocations that are not counted separately. */
const SPARE_BYTES = 64 * 2 ** 20

/** A buffer for logits, f32 [rows, vocabulary rounded up to whole panels]. */
export class LogitsBuffer {
  readonly #arena: Arena
  readonly #usualRows: number
  readonly #maxRows: number
  #address = 0
  #bytes = 0

  /** @param usualRows initial capacity; the first step with more rows grows it to `maxRows` */
  constructor(arena: Arena, usualRows: number, maxRows: number) {
    this.#arena = arena
    this.#usualRows = usualRows
    this.#maxRows = maxRows
  }

  get address(): number {
    return this.#address
  }

  /** Makes room for `numRows` rows that are `stride` bytes apart. */
  reserve(numRows: number, stride: number): void {
    if (numRows * stride <= this.#bytes) return
    this.#bytes = Math.max(numRows, numRows <= this.#usualRows ? this.#usualRows : this.#maxRows) * stride
    this.#address = this.#arena.allocate(this.#bytes, 'logits')
  }
}

/** Scratch memory of the ops in one memory, shared by all layers. */
export class WorkingMemory {
  readonly #limits: BackendOptions['limits']
  readonly #arena: Arena
  readonly #program: Program
  readonly #resources: Resources
  readonly #numThreads: number
  #scratchBytes = 0 // per thread
  #prepared = 0
  #preparedBytes = 0
  #partials = 0
  #partialsBytes = 0

  constructor(
    limits: BackendOptions['limits'],
    arena: Arena,
    program: Program,
    resources: Resources,
    numThreads: number,
  ) {
    this.#limits = limits
    this.#arena = arena
    this.#program = program
    this.#resources = resources
    this.#numThreads = numThreads
  }

  /** Address of the rows that a matrix product normalises or quantises before it starts. */
  get prepared(): number {
    return this.#prepared
  }

  /** Bytes that steps will still allocate, assuming that the matrix `next` is loaded too. */
  reserveBytes(next: Omit<MatrixSize, 'bytes'> = { inner: 0, outer: 0, numExperts: 1 }): number {
    const { maxRows, maxSequences, maxSampleRows } = this.#limits
    const largestInner = Math.max(next.inner, this.#resources.largestInner)
    const largestOuter = Math.max(next.numExperts > 1 ? 0 : next.outer, this.#resources.largestOuter)
    const routing =
      this.#resources.routedBytes(next.numExperts > 1 ? next.inner : 0) + this.#resources.absentRoutingBytes
    const logits = (maxSequences + maxSampleRows + SCORE_ROWS) * largestOuter * 4
    const activations = 8 * maxRows * largestInner * 4
    const scratch = this.#scratchNeed(largestInner, largestOuter) * this.#numThreads
    return logits + activations + routing + scratch + SPARE_BYTES
  }

  /** Uses memory that is no longer needed as scratch, if it is large enough. */
  reuse({ address, bytes }: { readonly address: number; readonly bytes: number }): void {
    if (bytes >= this.#scratchNeed() * this.#numThreads)
      this.#setScratch(address, Math.floor(bytes / this.#numThreads / 64) * 64)
  }

  /** Grows scratch and prepared rows to the size that the loaded matrices need. Call before a step records their addresses. */
  reserve(): void {
    const need = this.#scratchNeed()
    if (need > this.#scratchBytes) this.#setScratch(this.#arena.allocate(need * this.#numThreads, 'scratch'), need)
    const { maxRows, maxSampleRows } = this.#limits
    // The same size in f32 and quantised: 128 bytes per 32 values.
    // Quantised rows come in quads.
    const { largestInner } = this.#resources
    const prepared = Math.max(
      roundUp(Math.max(maxRows, maxSampleRows, SCORE_ROWS) + 3, 4) * largestInner * 4,
      this.#resources.routedBytes(),
    )
    if (prepared > this.#preparedBytes) {
      this.#preparedBytes = prepared
      this.#prepared = this.#arena.allocate(prepared, 'prepared rows')
    }
  }

  /** Reserves memory for the partial results of attention splits; returns its address. */
  reservePartials(bytes: number): number {
    if (bytes > this.#partialsBytes) {
      // The old memory is not reused, because an op recorded earlier may use it.
      this.#partialsBytes = bytes * 2
      this.#partials = this.#arena.allocate(this.#partialsBytes, 'attention splits')
    }
    return this.#partials
  }

  #setScratch(address: number, bytesPerThread: number): void {
    this.#scratchBytes = bytesPerThread
    this.#program.setScratch(address, bytesPerThread)
  }

  /** Scratch bytes per thread for any op on the loaded matrices. */
  #scratchNeed(inner = this.#resources.largestInner, outer = this.#resources.largestOuter): number {
    // The thread's own prepared rows, their f32 form while quantising, a tile of sums (gate and up), and widened weights or an unpacked panel.
    const product = 3 * inner * 4 + ROW_TILE * 128 + Math.max(256 * 64, inner * 24)
    const dim = roundUp(this.#resources.largestHead, 16)
    const rows = Math.max(ATTENTION_ROWS, 64)
    const attended = rows * (3 * dim * 4 + 32 + SPLIT * 4 + 64) + SPLIT * dim * 4 + dim * 64
    // Adjusted logits of the vocabulary; tokens, z and masses of the candidates; and 256 sums (assembly/sample.ts).
    const sampled = outer * 16 + 256 * 8
    // Scores, ranks and group sums (assembly/experts.ts).
    const routed = this.#resources.mostExperts * 12
    return roundUp(Math.max(product, attended, sampled, routed) + 4096, 64)
  }
}
