// Numeric building blocks. Two builds come from these sources: plain SIMD, and relaxed SIMD (ASC_FEATURE_RELAXED_SIMD), in which multiply-add
// is fused. A process runs one of them throughout, and every kernel uses the same building block for the same step of a sum: that is what makes
// GEMV and GEMM agree bit for bit.

/** Output features a weight panel interleaves: a panel is [cols][16]. */
export const PANEL: usize = 16

/** a * b + c, four f32. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c)
  return f32x4.add(f32x4.mul(a, b), c)
}

// Stored f16 pairs: a 16-byte vector holds, in each 32-bit lane i, the value of lane i (low half) and of lane i + 4 (high half).
// Widening is a shift of exponent and fraction into their f32 places: the result is value * 2^-112 exactly (a subnormal f16 gives a subnormal
// f32). The factor is taken out of the sum at its end, not of every weight.

/** Low halves as f32, times 2^-112. */
// @ts-ignore: decorator
@inline
export function widenLow(pairs: v128): v128 {
  return v128.and(i32x4.shr_s(i32x4.shl(pairs, 16), 3), i32x4.splat(0x8fffe000))
}

/** High halves as f32, times 2^-112. */
// @ts-ignore: decorator
@inline
export function widenHigh(pairs: v128): v128 {
  return v128.and(i32x4.shr_s(pairs, 3), i32x4.splat(0x8fffe000))
}

/** 2^112: what widened f16 values lack. */
export const WIDEN_FACTOR: f32 = 5.192296858534828e33
/** 2^96, applied to activations that meet widened f16 weights or scales: keeps the products of a sum in f32's normal range. */
export const ACTIVATION_FACTOR: f32 = 7.922816251426434e28

/** Four f32 to f16 bits in 32-bit lanes: nearest, ties to even; values beyond the range become the largest finite f16. */
export function narrow(values: v128): v128 {
  const x = f32x4.min(f32x4.max(values, f32x4.splat(-65504)), f32x4.splat(65504))
  const sign = i32x4.shr_u(v128.and(x, i32x4.splat(0x80000000)), 16)
  const magnitude = v128.and(x, i32x4.splat(0x7fffffff))
  const doubled = i32x4.shl(x, 1)
  // Adding a power of two 13 bits above the value's own rounds it to f16's fraction; its floor, 2^-14 shifted alike, to f16's subnormals.
  const bias = i32x4.max_u(v128.and(doubled, i32x4.splat(0xff000000)), i32x4.splat(0x71000000))
  const scaled = f32x4.mul(f32x4.mul(magnitude, f32x4.splat(WIDEN_FACTOR)), f32x4.splat(7.703719777548943e-34))
  const rounded = f32x4.add(i32x4.add(i32x4.shr_u(bias, 1), i32x4.splat(0x07800000)), scaled)
  const bits = i32x4.add(
    v128.and(i32x4.shr_u(rounded, 13), i32x4.splat(0x7c00)),
    v128.and(rounded, i32x4.splat(0x0fff)),
  )
  const isNan = i32x4.gt_u(doubled, i32x4.splat(0xff000000))
  return v128.or(sign, v128.bitselect(i32x4.splat(0x7e00), bits, isNan))
}

/** 1.5 * 2^23: a small f32 added to it is rounded to the nearest integer, which then stands in the sum's low bits. */
const ROUNDER: f32 = 12582912

/**
 * e^x, relative error below 2e-7; exactly 0 below -87.3. Cephes' expf: 2^n times a polynomial in the remainder. NaN stays NaN.
 * Only operations that are one instruction on x86: min, max, nearest and trunc_sat are up to eight there.
 */
export function exp(x: v128): v128 {
  const clamped = f32x4.pmin(f32x4.pmax(x, f32x4.splat(-87.3)), f32x4.splat(88.3))
  const shifted = f32x4.add(f32x4.mul(clamped, f32x4.splat(1.44269504)), f32x4.splat(ROUNDER))
  const n = f32x4.sub(shifted, f32x4.splat(ROUNDER))
  const r = f32x4.sub(f32x4.sub(clamped, f32x4.mul(n, f32x4.splat(0.693359375))), f32x4.mul(n, f32x4.splat(-2.12194440e-4)))
  let p = f32x4.splat(1.9875691500e-4)
  p = madd(p, r, f32x4.splat(1.3981999507e-3))
  p = madd(p, r, f32x4.splat(8.3334519073e-3))
  p = madd(p, r, f32x4.splat(4.1665795894e-2))
  p = madd(p, r, f32x4.splat(1.6666665459e-1))
  p = madd(p, r, f32x4.splat(5.0000001201e-1))
  p = f32x4.add(madd(p, f32x4.mul(r, r), r), f32x4.splat(1))
  const power = i32x4.shl(i32x4.add(shifted, i32x4.splat(127)), 23)
  return v128.andnot(f32x4.mul(p, power), f32x4.lt(x, f32x4.splat(-87.3)))
}

/** tanh(x) = sign(x) (1 - e^(-2|x|)) / (1 + e^(-2|x|)); an odd polynomial near 0, where the difference would cancel. */
export function tanh(x: v128): v128 {
  const magnitude = f32x4.abs(x)
  const e = exp(f32x4.mul(magnitude, f32x4.splat(-2)))
  const far = f32x4.div(f32x4.sub(f32x4.splat(1), e), f32x4.add(f32x4.splat(1), e))
  const square = f32x4.mul(x, x)
  let p = f32x4.splat(-5.70498872745e-3)
  p = madd(p, square, f32x4.splat(2.06390887954e-2))
  p = madd(p, square, f32x4.splat(-5.37397155531e-2))
  p = madd(p, square, f32x4.splat(1.33314422036e-1))
  p = madd(p, square, f32x4.splat(-3.33332819422e-1))
  const near = madd(f32x4.mul(p, square), magnitude, magnitude)
  const result = v128.bitselect(near, far, f32x4.lt(magnitude, f32x4.splat(0.625)))
  return v128.or(result, v128.and(x, i32x4.splat(0x80000000)))
}

/** x / (1 + e^-x) */
export function silu(x: v128): v128 {
  return f32x4.div(x, f32x4.add(f32x4.splat(1), exp(f32x4.neg(x))))
}

/** The tanh approximation of GELU. */
export function geluTanh(x: v128): v128 {
  const cube = f32x4.mul(f32x4.mul(x, x), x)
  const inner = f32x4.mul(madd(cube, f32x4.splat(0.044715), x), f32x4.splat(0.7978845608028654))
  return f32x4.mul(f32x4.mul(f32x4.splat(0.5), x), f32x4.add(f32x4.splat(1), tanh(inner)))
}

/** GELU by the error function (Abramowitz and Stegun 7.1.26, absolute error below 2e-7). */
export function gelu(x: v128): v128 {
  const z = f32x4.mul(f32x4.abs(x), f32x4.splat(0.7071067811865476))
  const t = f32x4.div(f32x4.splat(1), madd(z, f32x4.splat(0.3275911), f32x4.splat(1)))
  let p = f32x4.splat(1.061405429)
  p = madd(p, t, f32x4.splat(-1.453152027))
  p = madd(p, t, f32x4.splat(1.421413741))
  p = madd(p, t, f32x4.splat(-0.284496736))
  p = madd(p, t, f32x4.splat(0.254829592))
  const complement = f32x4.mul(f32x4.mul(p, t), exp(f32x4.neg(f32x4.mul(z, z))))
  // x <= 0: 0.5 x (1 - erf z), which is 0.5 x times the complement; x > 0: x less that of the mirrored side.
  const half = f32x4.mul(f32x4.mul(f32x4.splat(0.5), x), complement)
  return v128.bitselect(f32x4.sub(x, half), half, f32x4.gt(x, f32x4.splat(0)))
}

/** The square of what is above 0. */
export function relu2(x: v128): v128 {
  const positive = f32x4.max(x, f32x4.splat(0))
  return f32x4.mul(positive, positive)
}

/** alphaP x^2 + beta x above 0, alphaN (e^x - 1 - x) + beta x below; near 0 the difference would cancel, and a series stands for it. */
export function xielu(x: v128, alphaP: f32, alphaN: f32, beta: f32): v128 {
  const square = f32x4.mul(x, x)
  const below = f32x4.min(x, f32x4.splat(0))
  const far = f32x4.sub(f32x4.sub(exp(below), f32x4.splat(1)), below)
  // x^2 (1/2 + x/6 + x^2/24 + x^3/120 + x^4/720)
  let p = madd(below, f32x4.splat(1.3888889e-3), f32x4.splat(8.3333333e-3))
  p = madd(p, below, f32x4.splat(4.1666667e-2))
  p = madd(p, below, f32x4.splat(1.6666667e-1))
  p = madd(p, below, f32x4.splat(0.5))
  const near = f32x4.mul(p, square)
  const rest = v128.bitselect(near, far, f32x4.gt(below, f32x4.splat(-0.5)))
  const curve = v128.bitselect(
    f32x4.mul(f32x4.splat(alphaP), square),
    f32x4.mul(f32x4.splat(alphaN), rest),
    f32x4.gt(x, f32x4.splat(0)),
  )
  return madd(x, f32x4.splat(beta), curve)
}

/** gpt-oss's gate: g / (1 + e^(-1.702 g)) (u + 1), with g = min(gate, 7) and u = up within -7 .. 7. */
export function siluClamped(gate: v128, up: v128): v128 {
  const limit = f32x4.splat(7)
  const g = f32x4.min(gate, limit)
  const u = f32x4.max(f32x4.neg(limit), f32x4.min(up, limit))
  const swish = f32x4.div(g, f32x4.add(f32x4.splat(1), exp(f32x4.mul(g, f32x4.splat(-1.702)))))
  return f32x4.mul(swish, f32x4.add(u, f32x4.splat(1)))
}

/** Sum of the four lanes, in one fixed order. */
// @ts-ignore: decorator
@inline
export function sumLanes(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3))
}

// @ts-ignore: decorator
@inline
export function maxLanes(x: v128): f32 {
  return max(max(f32x4.extract_lane(x, 0), f32x4.extract_lane(x, 1)), max(f32x4.extract_lane(x, 2), f32x4.extract_lane(x, 3)))
}
