/** Rotary position embedding of the reference backend: angles, cosines and sines in f64, computed once per step. */
import type { RopeTable } from '../ops.ts'

/** Cosines and sines [rows, rotaryDim / 2] of a step's positions. */
export class HostRope implements RopeTable {
  readonly label: string
  readonly rotaryDim: number
  readonly cos: Float64Array // [maxRows, rotaryDim / 2]
  readonly sin: Float64Array
  readonly #inverseFrequencies: Float64Array
  readonly #attentionFactor: number
  #step = -1

  constructor(label: string, inverseFrequencies: Float64Array, attentionFactor: number, maxRows: number) {
    this.label = label
    this.rotaryDim = inverseFrequencies.length * 2
    this.#inverseFrequencies = inverseFrequencies
    this.#attentionFactor = attentionFactor
    this.cos = new Float64Array(maxRows * inverseFrequencies.length)
    this.sin = new Float64Array(maxRows * inverseFrequencies.length)
  }

  /** Computes the cosines and sines of a step's positions; further calls for the same step do nothing. */
  prepare(step: number, positions: Int32Array, numRows: number): void {
    if (this.#step === step) return
    const half = this.#inverseFrequencies.length
    for (let row = 0; row < numRows; row++) {
      for (let i = 0; i < half; i++) {
        const angle = positions[row]! * this.#inverseFrequencies[i]!
        this.cos[row * half + i] = Math.cos(angle) * this.#attentionFactor
        this.sin[row * half + i] = Math.sin(angle) * this.#attentionFactor
      }
    }
    this.#step = step
  }

  /** Rotates the first rotaryDim dims of each head of step row `row`, stored from x[start] on: pairs (i, i + rotaryDim / 2). */
  rotate(x: Float32Array, start: number, numHeads: number, headDim: number, row: number): void {
    const half = this.rotaryDim / 2
    for (let head = 0; head < numHeads; head++) {
      const base = start + head * headDim
      for (let i = 0; i < half; i++) {
        const cos = this.cos[row * half + i]!
        const sin = this.sin[row * half + i]!
        const a = x[base + i]!
        const b = x[base + half + i]!
        x[base + i] = a * cos - b * sin
        x[base + half + i] = b * cos + a * sin
      }
    }
  }
}
