/** Ops that carry a state along a sequence, in f64, token by token. */
import type { StateShape } from '../ops.ts'
import { silu } from './arithmetic.ts'
import type { StateRun } from './state-pool.ts'

/** f32 [rows, stride], read from column `offset` on. */
export interface HostColumns {
  readonly values: Float32Array
  readonly stride: number
  readonly offset: number
}

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
const softplus = (x: number): number => (x > 20 ? x : Math.log1p(Math.exp(x)))

interface HostConvolution {
  readonly weight: Float32Array // [channels, kernel]
  readonly bias: Float32Array | null
  readonly isGated: boolean
}

/** Backend.convolution for one sequence. out [rows, channels]; stores the last kernel - 1 inputs in the run's state. */
export function convolve(
  out: Float32Array,
  { values, stride, offset }: HostColumns,
  { channels, kernel }: StateShape,
  { weight, bias, isGated }: HostConvolution,
  { firstRow, endRow, inputs }: StateRun,
): void {
  const window = new Float64Array(kernel)
  for (let channel = 0; channel < channels; channel++) {
    const state = inputs.subarray(channel * (kernel - 1), (channel + 1) * (kernel - 1))
    window.set(state, 1)
    for (let row = firstRow; row < endRow; row++) {
      const at = row * stride + offset + channel
      window.copyWithin(0, 1)
      // Rounded to f32, as the other backends store it between steps.
      window[kernel - 1] = isGated ? Math.fround(values[at]! * values[at + 2 * channels]!) : values[at]!
      let sum = bias === null ? 0 : bias[channel]!
      for (let j = 0; j < kernel; j++) sum += weight[channel * kernel + j]! * window[j]!
      out[row * channels + channel] = isGated ? values[at + channels]! * sum : silu(sum)
    }
    state.set(window.subarray(1))
  }
}

export interface HostScan {
  readonly numKeyHeads: number
  readonly tilesKeyHeads: boolean
  readonly decayRate: Float32Array
  readonly stepBias: Float32Array
  readonly step: HostColumns
  readonly gate: HostColumns
  readonly norm: { readonly weight: Float32Array; readonly eps: number }
}

/** One value of a row: column `index`, counted from the offset. */
const column = ({ values, stride, offset }: HostColumns, row: number, index: number): number =>
  values[row * stride + offset + index]!

/** x / |x|, in place. */
function unit(x: Float64Array): void {
  let sum = 0
  for (const value of x) sum += value * value
  const factor = 1 / Math.sqrt(sum + 1e-6)
  for (let i = 0; i < x.length; i++) x[i]! *= factor
}

/** RMSNorm in place. */
function normalise(x: Float64Array, weight: Float32Array, weightAt: number, eps: number): void {
  let sum = 0
  for (const value of x) sum += value * value
  const factor = 1 / Math.sqrt(sum / x.length + eps)
  for (let i = 0; i < x.length; i++) x[i]! *= factor * weight[weightAt + i]!
}

/** Backend.gatedDelta for one sequence. out [rows, heads valueDim]; x: q, k, v. */
export function gatedDelta(
  out: Float32Array,
  x: HostColumns,
  { heads, keyDim, valueDim }: StateShape,
  {
    numKeyHeads,
    tilesKeyHeads,
    decayRate,
    stepBias,
    step,
    gate,
    norm,
    beta,
  }: HostScan & { readonly beta: HostColumns },
  { firstRow, endRow, recurrent }: StateRun,
): void {
  const keyWidth = numKeyHeads * keyDim
  const query = new Float64Array(keyDim)
  const key = new Float64Array(keyDim)
  const result = new Float64Array(valueDim)
  for (let head = 0; head < heads; head++) {
    const keyHead = tilesKeyHeads ? head % numKeyHeads : Math.floor(head / (heads / numKeyHeads))
    const state = recurrent.subarray(head * valueDim * keyDim, (head + 1) * valueDim * keyDim)
    for (let row = firstRow; row < endRow; row++) {
      for (let d = 0; d < keyDim; d++) {
        query[d] = column(x, row, keyHead * keyDim + d)
        key[d] = column(x, row, keyWidth + keyHead * keyDim + d)
      }
      unit(query)
      unit(key)
      const decay = Math.exp(decayRate[head]! * softplus(column(step, row, head) + stepBias[head]!))
      const rate = sigmoid(column(beta, row, head))
      for (let v = 0; v < valueDim; v++) {
        const at = v * keyDim
        let known = 0
        for (let d = 0; d < keyDim; d++) known += state[at + d]! * decay * key[d]!
        const change = rate * (column(x, row, 2 * keyWidth + head * valueDim + v) - known)
        let sum = 0
        for (let d = 0; d < keyDim; d++) {
          const value = state[at + d]! * decay + change * key[d]!
          state[at + d] = value
          sum += value * query[d]!
        }
        result[v] = sum / Math.sqrt(keyDim)
      }
      normalise(result, norm.weight, 0, norm.eps)
      const to = (row * heads + head) * valueDim
      for (let v = 0; v < valueDim; v++) out[to + v] = result[v]! * silu(column(gate, row, head * valueDim + v))
    }
  }
}

/** Backend.selectiveScan for one sequence. out [rows, heads valueDim]; x: v, k, q. */
export function selectiveScan(
  out: Float32Array,
  x: HostColumns,
  { heads, keyDim, valueDim }: StateShape,
  { numKeyHeads, decayRate, stepBias, step, gate, norm, skip }: HostScan & { readonly skip: Float32Array },
  { firstRow, endRow, recurrent }: StateRun,
): void {
  const headsPerKey = heads / numKeyHeads
  const width = heads * valueDim
  const result = new Float64Array(headsPerKey * valueDim)
  for (let row = firstRow; row < endRow; row++) {
    for (let keyHead = 0; keyHead < numKeyHeads; keyHead++) {
      const keyAt = width + keyHead * keyDim
      const queryAt = keyAt + numKeyHeads * keyDim
      for (let h = 0; h < headsPerKey; h++) {
        const head = keyHead * headsPerKey + h
        const state = recurrent.subarray(head * valueDim * keyDim, (head + 1) * valueDim * keyDim)
        const dt = softplus(column(step, row, head) + stepBias[head]!)
        const decay = Math.exp(decayRate[head]! * dt)
        for (let v = 0; v < valueDim; v++) {
          const at = v * keyDim
          const value = column(x, row, head * valueDim + v)
          let sum = skip[head]! * value
          for (let d = 0; d < keyDim; d++) {
            const next = state[at + d]! * decay + dt * value * column(x, row, keyAt + d)
            state[at + d] = next
            sum += next * column(x, row, queryAt + d)
          }
          result[h * valueDim + v] = sum * silu(column(gate, row, head * valueDim + v))
        }
      }
      const first = keyHead * headsPerKey * valueDim
      normalise(result, norm.weight, first, norm.eps)
      out.set(result, row * width + first)
    }
  }
}
