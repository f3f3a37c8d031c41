/** Paged attention of the reference backend: two-pass softmax over the whole context, f64 throughout. */
import type { AttentionOptions } from '../attention-options.ts'
import type { StepInput } from '../ops.ts'

/** Scratch for one query head: scores and weighted sum. */
export interface AttentionScratch {
  readonly scores: Float64Array // [longest context]
  readonly sum: Float64Array // [headDim]
}

/** An attention bias in host memory. */
export interface HostBias {
  readonly reach: number
  /** [numHeads, 2 reach + 1] biases; or, for a disentangled bias, [2 reach + 1] buckets. */
  readonly values: Float32Array
  /** null: `values` are added to the scores. */
  readonly disentangled: {
    readonly scores: Float32Array // [rows, 2, numHeads, numBuckets]
    readonly numBuckets: number
  } | null
}

/** The bias between a row and the token of row `tokenRow`. */
function biasOf(
  { reach, values, disentangled }: HostBias,
  head: number,
  numHeads: number,
  row: number,
  tokenRow: number,
) {
  const at = Math.max(-reach, Math.min(reach, tokenRow - row)) + reach
  if (disentangled === null) return values[head * (2 * reach + 1) + at]!
  const { scores, numBuckets } = disentangled
  const place = head * numBuckets + values[at]!
  const width = numHeads * numBuckets
  return scores[row * 2 * width + place]! + scores[(tokenRow * 2 + 1) * width + place]!
}

/**
 * out[row, head] = softmax(scale q k^T) v over positions max(0, p - window + 1) .. p of the row's sequence; when bidirectional, up to
 * p + window - 1.
 * k and v: one layer of the pool, [slots, numKvHeads, headDim].
 */
export function pagedAttention(
  out: Float32Array, // [rows, numHeads, headDim]
  q: Float32Array, // [rows, numHeads, headDim]
  k: Float32Array,
  v: Float32Array,
  blockSize: number,
  input: StepInput,
  { numHeads, numKvHeads, headDim, scale, window, softcap, bidirectional = false }: AttentionOptions,
  sinks: Float32Array | null,
  bias: HostBias | null,
  { scores, sum }: AttentionScratch,
): void {
  const headsPerKvHead = numHeads / numKvHeads
  for (let sequence = 0; sequence < input.numSequences; sequence++) {
    const table = sequence * input.maxBlocksPerSequence
    const endRow = input.sequenceStarts[sequence + 1]!
    const end = input.positions[endRow - 1]!
    for (let row = input.sequenceStarts[sequence]!; row < endRow; row++) {
      const own = input.positions[row]!
      const first = window === null ? 0 : Math.max(0, own - window + 1)
      const last = !bidirectional ? own : window === null ? end : Math.min(end, own + window - 1)
      for (let head = 0; head < numHeads; head++) {
        const query = (row * numHeads + head) * headDim
        const kvOffset = Math.floor(head / headsPerKvHead) * headDim
        let max = -Infinity
        for (let position = first; position <= last; position++) {
          const slot = input.blockTables[table + Math.floor(position / blockSize)]! * blockSize + (position % blockSize)
          const key = slot * numKvHeads * headDim + kvOffset
          let score = 0
          for (let d = 0; d < headDim; d++) score += q[query + d]! * k[key + d]!
          score *= scale
          if (bias !== null) score += biasOf(bias, head, numHeads, row, row + position - own)
          if (softcap !== null) score = softcap * Math.tanh(score / softcap)
          scores[position - first] = score
          if (score > max) max = score
        }
        sum.fill(0)
        let total = 0
        for (let position = first; position <= last; position++) {
          const slot = input.blockTables[table + Math.floor(position / blockSize)]! * blockSize + (position % blockSize)
          const value = slot * numKvHeads * headDim + kvOffset
          const weight = Math.exp(scores[position - first]! - max)
          total += weight
          for (let d = 0; d < headDim; d++) sum[d]! += weight * v[value + d]!
        }
        if (sinks !== null) total += Math.exp(sinks[head]! - max)
        for (let d = 0; d < headDim; d++) out[query + d] = sum[d]! / total
      }
    }
  }
}
