/** Pooling for backends that keep activations in host memory. */
import type { Pooling } from './ops.ts'

/**
 * Pools the rows `first` .. `end - 1` of a sequence into `out` [cols].
 * @param rowAt returns the values [cols] of a row
 */
export function poolRows(
  pooling: Pooling,
  first: number,
  end: number,
  rowAt: (row: number) => Float32Array,
  out: Float32Array,
): void {
  if (pooling === 'first' || pooling === 'last') {
    out.set(rowAt(pooling === 'first' ? first : end - 1))
    return
  }
  const count = end - first
  const isMax = pooling === 'max'
  const sums = new Float64Array(out.length).fill(isMax ? -Infinity : 0)
  for (let row = first; row < end; row++) {
    const values = rowAt(row)
    const weight = pooling === 'weightedMean' ? row - first + 1 : 1
    for (let i = 0; i < sums.length; i++)
      sums[i] = isMax ? Math.max(sums[i]!, values[i]!) : sums[i]! + weight * values[i]!
  }
  const divisors = { mean: count, rootMean: Math.sqrt(count), weightedMean: (count * (count + 1)) / 2, max: 1 }
  for (let i = 0; i < sums.length; i++) out[i] = sums[i]! / divisors[pooling]
}
