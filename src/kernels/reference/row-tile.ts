/** Matrix products of a few rows at a time, widened to f64 and normalised on the way in. */
import { type HostNorm, inverseRms, matmul } from './arithmetic.ts'

/** The most rows per tile: bounds the f64 scratch memory, and lets the weights of four outputs stay in the cache. */
export const TILE_ROWS = 32

/** Scratch memory that grows to the largest tile seen, so that the steady state allocates nothing. */
export class RowTile {
  #inputs = new Float64Array(0) // [rows, cols]
  /** [rows, outputs] of the last product. */
  products = new Float64Array(0)

  get scratch(): readonly Float64Array[] {
    return [this.#inputs, this.products]
  }

  /**
   * products = norm(x[rowAt(i)]) w^T for i in 0 .. numRows - 1
   * @param x [.., cols]
   * @param numRows at most TILE_ROWS
   * @param w [outputs, cols]
   */
  multiply(
    x: Float32Array,
    rowAt: (index: number) => number,
    numRows: number,
    { values, rows: outputs, cols }: { readonly values: Float32Array; readonly rows: number; readonly cols: number },
    norm: HostNorm | null,
  ): void {
    if (this.#inputs.length < numRows * cols) this.#inputs = new Float64Array(numRows * cols)
    if (this.products.length < numRows * outputs) this.products = new Float64Array(numRows * outputs)
    for (let index = 0; index < numRows; index++) this.#widen(x, rowAt(index) * cols, index * cols, cols, norm)
    matmul(this.products, this.#inputs, numRows, values, 0, outputs, cols)
  }

  #widen(x: Float32Array, from: number, to: number, cols: number, norm: HostNorm | null): void {
    const inputs = this.#inputs
    if (norm === null) {
      for (let i = 0; i < cols; i++) inputs[to + i] = x[from + i]!
      return
    }
    const inverse = inverseRms(x, from, cols, norm.eps)
    for (let i = 0; i < cols; i++) inputs[to + i] = x[from + i]! * inverse * norm.weight[i]!
  }
}
