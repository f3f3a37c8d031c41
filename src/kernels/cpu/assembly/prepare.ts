// Prepares the inputs of a matrix product, once per row: normalises them if requested, pads with zeros, and converts to the form that the weights need.
import { ACTIVATION_FACTOR, madd, sumLanes } from './simd'

/** Prepared forms. */
export const PLAIN: i32 = 0 // f32
export const SCALED: i32 = 1 // f32 times 2^96
/** Blocks of 32 int8 codes, stored as i8 and as i16 (quantized-panel.ts). */
export const BYTES: i32 = 2
export const WORDS: i32 = 3

// A block of 32 int8 activations, 64 bytes or, with codes as i16, 128:
//   +0 f32 scale * 2^96, +4 f32 sum of the first 16 values * 2^96, +8 f32 sum of the last 16, +12 f32 sum of all values * 2^96,
//   +16 i8[32] the codes, +48 i16 sums of the codes of the first and of the last 16, both negated; or
//   +64 i16[32] the codes
//
// With 4 or more rows in a step, rows are stored in quads: the blocks of 4 rows lie side by side, so that kernels reach them from one address.
export const BYTE_BLOCK_BYTES: usize = 64
export const WORD_BLOCK_BYTES: usize = 128
export const BLOCK_SUMS: usize = 4
export const BLOCK_SUM: usize = 12
export const BLOCK_I8: usize = 16
export const BLOCK_NEGATED: usize = 48
export const BLOCK_I16: usize = 64

/** Bytes per block of a quantised form. */
// @ts-ignore: decorator
@inline
export function blockBytesOf(form: i32): usize {
  return form == WORDS ? WORD_BLOCK_BYTES : BYTE_BLOCK_BYTES
}

/** Bytes of a prepared row of `padded` columns (a multiple of 4; of 32 when quantised). */
export function preparedBytes(form: i32, padded: usize): usize {
  return form >= BYTES ? (padded / 32) * blockBytesOf(form) : padded * 4
}

/** 1 / sqrt(mean(x^2) + eps) of `cols` values: four lane sums in ascending order, then the tail. */
export function inverseRms(x: usize, cols: usize, eps: f32): f32 {
  let sums = f32x4.splat(0)
  const whole = cols & ~3
  for (let i: usize = 0; i < whole; i += 4) {
    const values = v128.load(x + i * 4)
    sums = madd(values, values, sums)
  }
  let sum = sumLanes(sums)
  for (let i = whole; i < cols; i++) sum += load<f32>(x + i * 4) * load<f32>(x + i * 4)
  return <f32>1 / sqrt<f32>(sum / <f32>cols + eps)
}

/** dst = x * factor (* weight), `cols` values, zeros up to `padded` (multiples of 4). weight 0: none. */
function scaleRow(x: usize, cols: usize, padded: usize, weight: usize, factor: f32, dst: usize): void {
  const whole = cols & ~3
  const factors = f32x4.splat(factor)
  if (weight != 0) {
    for (let i: usize = 0; i < whole; i += 4) {
      v128.store(dst + i * 4, f32x4.mul(f32x4.mul(v128.load(x + i * 4), factors), v128.load(weight + i * 4)))
    }
  } else {
    for (let i: usize = 0; i < whole; i += 4) v128.store(dst + i * 4, f32x4.mul(v128.load(x + i * 4), factors))
  }
  for (let i = whole; i < cols; i++) {
    const value = load<f32>(x + i * 4) * factor
    store<f32>(dst + i * 4, weight == 0 ? value : value * load<f32>(weight + i * 4))
  }
  for (let i = cols; i < padded; i++) store<f32>(dst + i * 4, 0)
}

/** Quantises 32 f32 values to a block: code = nearest(x * 127 / max |x|). */
function quantizeBlock(form: i32, x: usize, dst: usize): void {
  let magnitudes = f32x4.splat(0)
  for (let i: usize = 0; i < 128; i += 16) magnitudes = f32x4.max(magnitudes, f32x4.abs(v128.load(x + i)))
  const amplitude = max(
    max(f32x4.extract_lane(magnitudes, 0), f32x4.extract_lane(magnitudes, 1)),
    max(f32x4.extract_lane(magnitudes, 2), f32x4.extract_lane(magnitudes, 3)),
  )
  // Amplitudes of up to 1e-35 count as 0, because the quotient of a tiny amplitude would overflow.
  const inverse: f32 = amplitude > 1e-35 ? <f32>127 / amplitude : 0
  const factors = f32x4.splat(inverse)
  const ones = i16x8.splat(1)
  const scale: f32 = inverse == 0 ? 0 : (amplitude / <f32>127) * ACTIVATION_FACTOR
  store<f32>(dst, scale)
  for (let half: usize = 0; half < 2; half++) {
    const at = x + half * 64
    const a = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(at), factors)))
    const b = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(at, 16), factors)))
    const c = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(at, 32), factors)))
    const d = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(at, 48), factors)))
    const low = i16x8.narrow_i32x4_s(a, b)
    const high = i16x8.narrow_i32x4_s(c, d)
    if (form == BYTES) {
      v128.store(dst + half * 16, i8x16.narrow_i16x8_s(low, high), BLOCK_I8)
    } else {
      v128.store(dst + half * 32, low, BLOCK_I16)
      v128.store(dst + half * 32, high, BLOCK_I16 + 16)
    }
    const sums = i32x4.add(i32x4.dot_i16x8_s(low, ones), i32x4.dot_i16x8_s(high, ones))
    const sum =
      i32x4.extract_lane(sums, 0) + i32x4.extract_lane(sums, 1) + i32x4.extract_lane(sums, 2) + i32x4.extract_lane(sums, 3)
    store<f32>(dst + half * 4, scale * <f32>sum, BLOCK_SUMS)
    store<i16>(dst + half * 2, <i16>-sum, BLOCK_NEGATED)
  }
  store<f32>(dst, load<f32>(dst, BLOCK_SUMS) + load<f32>(dst, BLOCK_SUMS + 4), BLOCK_SUM)
}

/**
 * Prepares one row in the given form. `row`: `cols` f32 values, padded to `padded`. `weight`: that of the norm (0: no norm). `temporary`: memory for
 * `padded` f32, used when quantising. `blockStride`: bytes between a row's quantised blocks.
 */
export function prepareRow(
  form: i32,
  row: usize,
  cols: usize,
  padded: usize,
  weight: usize,
  eps: f32,
  dst: usize,
  blockStride: usize,
  temporary: usize,
): void {
  let factor: f32 = weight == 0 ? 1 : inverseRms(row, cols, eps)
  if (form >= BYTES) {
    let source = row
    if (weight != 0 || padded != cols) {
      scaleRow(row, cols, padded, weight, factor, temporary)
      source = temporary
    }
    const blocks = padded / 32
    for (let b: usize = 0; b < blocks; b++) quantizeBlock(form, source + b * 128, dst + b * blockStride)
    return
  }
  if (form == SCALED) factor *= ACTIVATION_FACTOR
  scaleRow(row, cols, padded, weight, factor, dst)
}
