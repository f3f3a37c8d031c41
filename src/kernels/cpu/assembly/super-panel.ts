// Panels of weights whose scales are integers times one factor for 256 columns of a row, as those of GGUF's K-quants are: 4.63 bits per weight
// with minimums (Q4_K), 6.56 with codes of 6 bits in groups of 16 (Q6_K).
//
// A panel has, for each 256 columns, f16 scales of 16 rows, and with minimums f16 scales of those, then for each 32 of the columns [sub-scales i8 x 16]
// [second ones, or of minimums, i8 x 16][nibbles as in a q4 panel, or codes of 6 bits (six-bits.ts)]. All is read in the order in which it lies: a
// second place to read from, such as all factors in front, halves the speed at which one row's product streams from memory.
//
// A sum of 32 columns is an exact integer, sub-scales included, and meets the two factors as in quantized-panel.ts; so do minimums.
import { MINS, OCTET, spreadFour } from './quantized-panel'
import { widenHigh, widenLow } from './simd'
import { SIX_BYTES, spreadSix } from './six-bits'

/** Bytes of the factors of 256 columns. */
// @ts-ignore: decorator
@inline
export function factorBytes(flags: i32): usize {
  return (flags & MINS) != 0 ? 64 : 32
}

/** Bytes of the sub-scales before a block's codes. */
export const SUBS: usize = 32

/** Bytes of a block of 32 columns. */
// @ts-ignore: decorator
@inline
export function superBlockBytes(isSix: bool): usize {
  return SUBS + (isSix ? SIX_BYTES : 4 * OCTET)
}

/** Where the block of a column is, after its factors. */
// @ts-ignore: decorator
@inline
export function superBlockAt(panel: usize, column: usize, flags: i32, isSix: bool): usize {
  return panel + ((column >> 8) + 1) * factorBytes(flags) + (column >> 5) * superBlockBytes(isSix)
}

/** Where the factors of a column are. */
// @ts-ignore: decorator
@inline
export function factorsAt(panel: usize, column: usize, flags: i32, isSix: bool): usize {
  return superBlockAt(panel, column & ~255, flags, isSix) - factorBytes(flags)
}

// A block taken apart, for several rows: f32 scales, f32 minimums or (six bits) pairs of i16 that meet the sums of a row's two groups, i16
// sub-scales of the first and of the second group, each twice; 64 bytes each. Then the codes as bytes in the order of narrow q8 ones.
export const SPREAD_BYTES: usize = 768
export const SPREAD_PLUS: usize = 64
export const SPREAD_SUBS: usize = 128
export const SPREAD_CODES: usize = 256

/** Each of the first four i16 twice. */
// @ts-ignore: decorator
@inline
export function twiceLow(values: v128): v128 {
  return v128.shuffle<i16>(values, values, 0, 0, 1, 1, 2, 2, 3, 3)
}

/** Each of the last four i16 twice. */
// @ts-ignore: decorator
@inline
export function twiceHigh(values: v128): v128 {
  return v128.shuffle<i16>(values, values, 4, 4, 5, 5, 6, 6, 7, 7)
}

/** The first four i16 of two vectors by turns. */
// @ts-ignore: decorator
@inline
export function zipLow(a: v128, b: v128): v128 {
  return v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
}

/** The last four i16 of two vectors by turns. */
// @ts-ignore: decorator
@inline
export function zipHigh(a: v128, b: v128): v128 {
  return v128.shuffle<i16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
}

/** Minimums of the first four of eight outputs: their sub-scales, as i16, times the widened factors. */
// @ts-ignore: decorator
@inline
export function minsLow(subs: v128, factors: v128): v128 {
  return f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(subs)), factors)
}

/** The same of the last four. */
// @ts-ignore: decorator
@inline
export function minsHigh(subs: v128, factors: v128): v128 {
  return f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(subs)), factors)
}

/** What comes before a block's codes when it is taken apart, for 8 of its outputs. */
// @ts-ignore: decorator
@inline
function spreadHeader(factors: usize, subs: usize, isSix: bool, dst: usize): void {
  const pairs = v128.load(factors)
  v128.store(dst, widenLow(pairs))
  v128.store(dst, widenHigh(pairs), 16)
  const first = v128.load8x8_s(subs)
  const second = v128.load8x8_s(subs, 16)
  if (isSix) {
    // Codes are stored plus 32.
    const a = i16x8.shl(first, 5)
    const b = i16x8.shl(second, 5)
    v128.store(dst, zipLow(a, b), SPREAD_PLUS)
    v128.store(dst, zipHigh(a, b), SPREAD_PLUS + 16)
  } else {
    const mins = v128.load(factors, 32)
    v128.store(dst, minsLow(second, widenLow(mins)), SPREAD_PLUS)
    v128.store(dst, minsHigh(second, widenHigh(mins)), SPREAD_PLUS + 16)
  }
  const other = isSix ? second : first
  v128.store(dst, twiceLow(first), SPREAD_SUBS)
  v128.store(dst, twiceHigh(first), SPREAD_SUBS + 16)
  v128.store(dst, twiceLow(other), SPREAD_SUBS + 64)
  v128.store(dst, twiceHigh(other), SPREAD_SUBS + 80)
}

/** Takes a panel apart, block by block. */
export function spreadSuper(panel: usize, blocks: usize, flags: i32, isSix: bool, dst: usize): void {
  let factors = panel
  let block = panel
  for (let b: usize = 0; b < blocks; b++) {
    if ((b & 7) == 0) {
      factors = block
      block += factorBytes(flags)
    }
    spreadHeader(factors, block, isSix, dst)
    spreadHeader(factors + 16, block + 8, isSix, dst + 32)
    if (isSix) spreadSix(block + SUBS, dst + SPREAD_CODES)
    else spreadFour(block + SUBS, dst + SPREAD_CODES)
    block += superBlockBytes(isSix)
    dst += SPREAD_BYTES
  }
}
