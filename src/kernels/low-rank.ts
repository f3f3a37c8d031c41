/**
 * Low-rank updates of a linear layer (LoRA, arXiv 2106.09685) in the layout that every backend uses: a table of offsets, and the values that
 * it points into.
 */
import type { LowRankPart } from './ops.ts'

/** Words of an adapter's entry before its parts: total rank of its parts, offset of its `down`, number of parts. */
export const TABLE_HEADER = 3
/** Words per part: first row, end row (exclusive), first rank within the adapter, number of ranks, offset of its `up`. */
export const PART_WORDS = 5

export interface PackedLowRank {
  /** Words per adapter in the table. */
  readonly stride: number
  readonly table: Int32Array // [adapters, stride]
  /** Per adapter: `down` [total rank, cols], then `up` [rank, rows] of each part. */
  readonly values: Float32Array
  /** The largest total rank of an adapter. */
  readonly rank: number
}

/**
 * Packs the adapters' updates of a matrix of `rows` x `cols`. An adapter without parts does not change the matrix.
 * @throws RangeError for a part whose sizes do not match the matrix
 */
export function packLowRank(
  label: string,
  rows: number,
  cols: number,
  adapters: readonly (readonly LowRankPart[])[],
): PackedLowRank {
  const rankOf = (parts: readonly LowRankPart[]): number => parts.reduce((sum, { rank }) => sum + rank, 0)
  const length = (parts: readonly LowRankPart[]): number =>
    parts.reduce((sum, { down, up }) => sum + down.length + up.length, 0)
  const stride = TABLE_HEADER + PART_WORDS * Math.max(0, ...adapters.map((parts) => parts.length))
  const table = new Int32Array(adapters.length * stride)
  const values = new Float32Array(adapters.reduce((sum, parts) => sum + length(parts), 0))
  let at = 0
  for (const [adapter, parts] of adapters.entries()) {
    let word = adapter * stride
    table.set([rankOf(parts), at, parts.length], word)
    word += TABLE_HEADER
    for (const { rank, down, up, firstRow, rows: count } of parts) {
      const fits =
        rank > 0 &&
        firstRow >= 0 &&
        firstRow + count <= rows &&
        down.length === rank * cols &&
        up.length === rank * count
      if (!fits)
        throw new RangeError(
          `${label}: an update of rank ${rank} with ${down.length} and ${up.length} values for rows ${firstRow} to ${firstRow + count} does not fit ${rows} x ${cols}`,
        )
      values.set(down, at)
      at += down.length
    }
    let firstRank = 0
    for (const { rank, up, firstRow, rows: count } of parts) {
      table.set([firstRow, firstRow + count, firstRank, rank, at], word)
      word += PART_WORDS
      for (let row = 0; row < count; row++)
        for (let k = 0; k < rank; k++) values[at + k * count + row] = up[row * rank + k]!
      at += up.length
      firstRank += rank
    }
  }
  return { stride, table, values, rank: Math.max(0, ...adapters.map(rankOf)) }
}

/** @throws Error when an update of `rows` x `cols` does not match its output `out` and its input `x` */
export function checkLowRank(
  { label, rows, cols }: { readonly label: string; readonly rows: number; readonly cols: number },
  out: { readonly label: string; readonly cols: number },
  x: { readonly label: string; readonly cols: number },
): void {
  if (out === x || out.cols !== rows || x.cols !== cols)
    throw new Error(`addLowRank ${label}: [.., ${x.cols}] -> [.., ${out.cols}] does not fit ${rows} x ${cols}`)
}

/** @throws Error unless `x` has as many columns as `out`, or twice as many when it holds gate and up projection (`isGated`) */
export function checkActivate(
  out: { readonly label: string; readonly cols: number },
  x: { readonly label: string; readonly cols: number },
  isGated: boolean,
): void {
  if (out === x || x.cols !== out.cols * (isGated ? 2 : 1))
    throw new Error(`activate: ${x.label} [.., ${x.cols}] does not fit ${out.label} [.., ${out.cols}]`)
}
