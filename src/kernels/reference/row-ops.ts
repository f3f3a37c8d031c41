/** Row-wise ops of the reference backend: norms, sums and products of activations, and residual streams. */
import type { Activation, Columns, LayerNorm, Norm, StreamOptions, Vector } from '../ops.ts'
import { activationOf, inverseRms, layerNorm, normalizePieces } from './arithmetic.ts'
import { HostMemory } from './memory.ts'

/** Square of the smallest root mean square that `matchLength` divides by. */
const LEAST_SQUARE = 1e-5

/** Row-wise ops. Each row is computed separately, with f64 sums. */
export class RowOps extends HostMemory {
  normAdd(residual: Activation, x: Activation, norm: Norm, scale = 1): void {
    const { target, values, cols, numRows } = this.#pair(residual, x)
    const weight = this.vectors.get(norm.weight).values
    for (let row = 0; row < numRows; row++) {
      const base = row * cols
      const inverse = inverseRms(values, base, cols, norm.eps)
      for (let i = 0; i < cols; i++)
        target[base + i] = (target[base + i]! + values[base + i]! * inverse * weight[i]!) * scale
    }
  }

  rmsNorm(out: Activation, x: Activation, { weight, eps }: Norm): void {
    const { target, values, cols, numRows } = this.#pair(out, x)
    if (cols % weight.length !== 0) throw new Error(`rmsNorm: ${cols} columns in groups of ${weight.length}`)
    if (target !== values) target.set(values.subarray(0, numRows * cols))
    normalizePieces(target, 0, numRows * cols, weight.length, { weight: this.vectors.get(weight).values, eps })
  }

  layerNorm(out: Activation, x: Activation, { weight, bias, eps }: LayerNorm): void {
    const { target, values, cols, numRows } = this.#pair(out, x)
    const [scales, offsets] = [this.vectors.get(weight).values, bias === null ? null : this.vectors.get(bias).values]
    for (let row = 0; row < numRows; row++) layerNorm(target, values, row * cols, cols, scales, offsets, eps)
  }

  add(residual: Activation, x: Activation, scale: number): void {
    const { target, values, cols, numRows } = this.#pair(residual, x)
    for (let i = 0; i < numRows * cols; i++) target[i] = (target[i]! + values[i]!) * scale
  }

  multiply(x: Activation, { x: y, offset }: Columns): void {
    const { numRows } = this.stepInput()
    const target = this.activations.get(x)
    const source = this.activations.get(y)
    if (offset + target.cols > source.cols)
      throw new Error(`multiply: columns ${offset} .. ${offset + target.cols - 1} of ${source.cols}`)
    for (let row = 0; row < numRows; row++) {
      for (let i = 0; i < target.cols; i++)
        target.values[row * target.cols + i]! *= source.values[row * source.cols + offset + i]!
    }
  }

  sparseGelu(x: Activation, deviations: number): void {
    const { numRows } = this.stepInput()
    const { values, cols } = this.activations.get(x)
    const gelu = activationOf('gelu_tanh')
    for (let base = 0; base < numRows * cols; base += cols) {
      const row = values.subarray(base, base + cols)
      const mean = row.reduce((sum, value) => sum + value, 0) / cols
      const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / cols
      const cutoff = mean + Math.sqrt(variance) * deviations
      for (let i = 0; i < cols; i++) row[i] = gelu(Math.max(0, row[i]! - cutoff))
    }
  }

  matchLength(x: Activation, reference: Activation): void {
    const { target, values, cols, numRows } = this.#pair(x, reference)
    const square = (of: Float32Array, base: number) => inverseRms(of, base, cols, 0) ** -2
    for (let base = 0; base < numRows * cols; base += cols) {
      const factor = Math.sqrt(square(values, base) / Math.max(square(target, base), LEAST_SQUARE))
      for (let i = base; i < base + cols; i++) target[i] = target[i]! * factor
    }
  }

  predictStreams(out: Activation, options: StreamOptions): void {
    const { numRows } = this.stepInput()
    const { streams, numStreams, cols, coefficientsOf } = this.#streams(options)
    const target = this.activations.get(out).values
    for (let row = 0; row < numRows; row++) {
      const c = coefficientsOf(row, numStreams * numStreams)
      for (let at = row * cols; at < (row + 1) * cols; at++) {
        const before = streams.map((values) => values[at]!)
        for (const [i, values] of streams.entries())
          values[at] = before[i]! + before.reduce((sum, value, j) => sum + c[i * numStreams + j]! * value, 0)
        target[at] = streams[options.active]![at]!
      }
    }
  }

  correctStreams(x: Activation, scale: Vector, options: StreamOptions): void {
    const { numRows } = this.stepInput()
    const { streams, numStreams, cols, coefficientsOf } = this.#streams(options)
    const computed = this.activations.get(x).values
    const scales = this.vectors.get(scale).values
    for (let row = 0; row < numRows; row++) {
      const c = coefficientsOf(row, numStreams)
      for (let i = 0; i < cols; i++) {
        const at = row * cols + i
        const innovation = computed[at]! - streams[options.active]![at]!
        for (const [stream, values] of streams.entries()) values[at] = values[at]! + (1 + c[stream]!) * innovation
        computed[at] = streams[options.active]![at]! * scales[i]!
      }
    }
  }

  #streams({ streams, logits, coefficients }: StreamOptions) {
    const numStreams = streams.length
    const router = this.activations.get(logits).values
    const matrix = this.vectors.get(coefficients).values
    const coefficientsOf = (row: number, count: number): Float64Array => {
      const modalities = Array.from(router.subarray(row * numStreams, (row + 1) * numStreams), Math.tanh)
      return Float64Array.from({ length: count }, (_, i) =>
        modalities.reduce((sum, value, j) => sum + matrix[i * numStreams + j]! * value, 0),
      )
    }
    return {
      numStreams,
      cols: streams[0]!.cols,
      streams: streams.map((stream) => this.activations.get(stream).values),
      coefficientsOf,
    }
  }

  /** Two activations of the same width, and the rows of the step. */
  #pair(out: Activation, x: Activation) {
    const [target, source] = [this.activations.get(out), this.activations.get(x)]
    if (target.cols !== source.cols)
      throw new Error(`${out.label} [.., ${target.cols}] and ${x.label} [.., ${source.cols}] differ in width`)
    return { target: target.values, values: source.values, cols: source.cols, numRows: this.stepInput().numRows }
  }
}
