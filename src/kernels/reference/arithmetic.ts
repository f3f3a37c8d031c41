/**
 * The loops of the reference backend: f32 storage, f64 sums in ascending order. Each output is a sum of its own; the loop computes four
 * outputs at a time, because independent sums hide the latency of the additions without changing a result.
 */
import type { Activated, Activation, Glu, Vector, Xielu } from '../ops.ts'

export interface HostVector extends Vector {
  readonly values: Float32Array
}

export interface HostActivation extends Activation {
  readonly values: Float32Array // [maxRows, cols]
}

/** out = x w^T for `numRows` rows of x and the `numOutputs` rows of w from `firstOutput` on. */
export function matmul(
  out: Float64Array, // [numRows, numOutputs]
  x: Float64Array, // [numRows, cols]
  numRows: number,
  w: Float32Array, // [.., cols]
  firstOutput: number,
  numOutputs: number,
  cols: number,
): void {
  const quads = numOutputs - (numOutputs % 4)
  for (let o = 0; o < quads; o += 4) {
    const w0 = (firstOutput + o) * cols
    const w1 = w0 + cols
    const w2 = w1 + cols
    const w3 = w2 + cols
    for (let r = 0; r < numRows; r++) {
      const base = r * cols
      let s0 = 0
      let s1 = 0
      let s2 = 0
      let s3 = 0
      for (let k = 0; k < cols; k++) {
        const value = x[base + k]!
        s0 += value * w[w0 + k]!
        s1 += value * w[w1 + k]!
        s2 += value * w[w2 + k]!
        s3 += value * w[w3 + k]!
      }
      const at = r * numOutputs + o
      out[at] = s0
      out[at + 1] = s1
      out[at + 2] = s2
      out[at + 3] = s3
    }
  }
  for (let o = quads; o < numOutputs; o++) {
    const w0 = (firstOutput + o) * cols
    for (let r = 0; r < numRows; r++) {
      let sum = 0
      for (let k = 0; k < cols; k++) sum += x[r * cols + k]! * w[w0 + k]!
      out[r * numOutputs + o] = sum
    }
  }
}

/** 1 / sqrt(mean of squares + eps) of x[start .. start + length - 1]. */
export function inverseRms(x: Float32Array, start: number, length: number, eps: number): number {
  let sum = 0
  for (let i = start; i < start + length; i++) sum += x[i]! * x[i]!
  return 1 / Math.sqrt(sum / length + eps)
}

export interface HostNorm {
  readonly weight: Float32Array
  readonly eps: number
}

/** Divides each group of `width` values of x[start .. start + length - 1] by its root mean square, in place. */
export function divideByLength(x: Float32Array, start: number, length: number, width: number, eps: number): void {
  for (let base = start; base < start + length; base += width) {
    const inverse = inverseRms(x, base, width, eps)
    for (let i = base; i < base + width; i++) x[i] = x[i]! * inverse
  }
}

/** RMSNorm of each group of `width` values of x[start .. start + length - 1], in place. */
export function normalizePieces(
  x: Float32Array,
  start: number,
  length: number,
  width: number,
  { weight, eps }: HostNorm,
): void {
  for (let base = start; base < start + length; base += width) {
    const inverse = inverseRms(x, base, width, eps)
    for (let i = 0; i < width; i++) x[base + i] = x[base + i]! * inverse * weight[i]!
  }
}

/** x * sigmoid(x) */
export function silu(x: number): number {
  return x / (1 + Math.exp(-x))
}

/** LayerNorm of x[start .. start + length - 1] into out, which may be x. */
export function layerNorm(
  out: Float32Array,
  x: Float32Array,
  start: number,
  length: number,
  weight: Float32Array,
  bias: Float32Array | null,
  eps: number,
): void {
  let sum = 0
  for (let i = start; i < start + length; i++) sum += x[i]!
  const mean = sum / length
  let squares = 0
  for (let i = start; i < start + length; i++) squares += (x[i]! - mean) ** 2
  const inverse = 1 / Math.sqrt(squares / length + eps)
  for (let i = 0; i < length; i++) {
    out[start + i] = (x[start + i]! - mean) * inverse * weight[i]! + (bias === null ? 0 : bias[i]!)
  }
}

/** Exact GELU, from the error function. */
export function gelu(x: number): number {
  return 0.5 * x * (1 + erf(x / Math.SQRT2))
}

/** The error function, to 1e-15: its series near 0, else a continued fraction of its complement (Abramowitz and Stegun 7.1.6, 7.1.14). */
export function erf(x: number): number {
  const magnitude = Math.abs(x)
  if (magnitude > 6) return Math.sign(x)
  if (magnitude < 2.5) {
    let term = x
    let sum = x
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= (2 * x * x) / (2 * n + 1)
      sum += term
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
  }
  let fraction = 0
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (magnitude + fraction)
  const complement = Math.exp(-magnitude * magnitude) / Math.sqrt(Math.PI) / (magnitude + fraction)
  return Math.sign(x) * (1 - complement)
}

/** The tanh approximation of GELU. */
function geluTanh(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)))
}

const ACTIVATIONS: Readonly<Record<Activated, (x: number) => number>> = {
  silu,
  gelu,
  gelu_tanh: geluTanh,
  relu2: (x) => Math.max(x, 0) ** 2,
}

/** The activation function that an option of a linear layer selects. */
export function activationOf(activation: Activated | Xielu): (x: number) => number {
  if (typeof activation === 'string') return ACTIVATIONS[activation]
  const { alphaP, alphaN, beta } = activation
  return (x) => (x > 0 ? alphaP * x * x : alphaN * (Math.expm1(x) - x)) + beta * x
}

/** Combines the two projections of a gated layer (see Glu). */
export function joinGlu(glu: Glu, gate: number, up: number): number {
  if (glu !== 'silu_clamped') return ACTIVATIONS[glu](gate) * up
  const g = Math.min(gate, 7)
  return (g / (1 + Math.exp(-1.702 * g))) * (Math.max(-7, Math.min(up, 7)) + 1)
}
