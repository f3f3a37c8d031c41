/** Low-rank updates of adapters, in plain loops with f64 sums. */
import { type PackedLowRank, PART_WORDS, TABLE_HEADER } from '../low-rank.ts'
import type { ActivateOptions, LowRank } from '../ops.ts'
import { activationOf, type HostNorm, inverseRms, joinGlu } from './arithmetic.ts'

export interface HostLowRank extends LowRank, PackedLowRank {}

/** target[r] += up (down norm(source[r])) with the matrices of each row's adapter. target [numRows, rows], source [numRows, cols]. */
export function addLowRank(
  target: Float32Array,
  source: Float32Array,
  { rows, cols, table, stride, values, rank }: HostLowRank,
  norm: HostNorm | null,
  adapters: Int32Array,
  numRows: number,
): void {
  const x = new Float64Array(cols)
  const between = new Float64Array(rank)
  for (let row = 0; row < numRows; row++) {
    const adapter = adapters[row]!
    if (adapter < 0) continue
    const at = adapter * stride
    const [ownRank, down, numParts] = [table[at]!, table[at + 1]!, table[at + 2]!]
    const factor = norm === null ? 1 : inverseRms(source, row * cols, cols, norm.eps)
    for (let i = 0; i < cols; i++) x[i] = source[row * cols + i]! * factor * (norm === null ? 1 : norm.weight[i]!)
    for (let k = 0; k < ownRank; k++) {
      let sum = 0
      for (let i = 0; i < cols; i++) sum += x[i]! * values[down + k * cols + i]!
      between[k] = sum
    }
    for (let part = 0; part < numParts; part++) {
      const place = at + TABLE_HEADER + part * PART_WORDS
      const [firstRow, endRow, firstRank] = [table[place]!, table[place + 1]!, table[place + 2]!]
      const [partRank, up] = [table[place + 3]!, table[place + 4]!]
      const count = endRow - firstRow
      for (let o = 0; o < count; o++) {
        let sum = 0
        for (let k = 0; k < partRank; k++) sum += between[firstRank + k]! * values[up + k * count + o]!
        target[row * rows + firstRow + o]! += sum
      }
    }
  }
}

/** target [numRows, cols] (+)= the activation of source [numRows, cols], or [numRows, 2 cols] with glu. */
export function activate(
  target: Float32Array,
  source: Float32Array,
  cols: number,
  { glu, activation, residual = false }: ActivateOptions,
  numRows: number,
): void {
  const width = glu === undefined ? cols : 2 * cols
  const make =
    glu === undefined ? activationOf(activation) : (gate: number, up: number): number => joinGlu(glu, gate, up)
  for (let row = 0; row < numRows; row++) {
    for (let i = 0; i < cols; i++) {
      const value = make(source[row * width + i]!, source[row * width + width - cols + i]!)
      target[row * cols + i] = residual ? target[row * cols + i]! + value : value
    }
  }
}
