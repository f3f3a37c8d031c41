// Panels of q8 and q4 weights, and what products of int8 activations with both have in common. Within a group of 32 (or 16) columns the sum is an exact
// integer; groups are added in ascending order as f32: acc = acc + f32(sum) * (weight scale * activation scale), with a minimum
// acc = acc + min * (sum of the block's activations). The same steps in every kernel of linear-q8.ts, linear-narrow.ts and linear-q4.ts, for any number of rows.
//
// A panel is a sequence of blocks, each [scales f16 x 16][second scales][mins][second mins][codes]: the second ones for groups of 16 columns. The
// f16 values are stored times a power of two of the panel's own and widened without their 2^112 (simd.ts); activation scales carry 2^96.
//
// Codes: q8, [16 column pairs][16 rows][2 columns]; narrow ones, of at most 6 bits, from 0 on, [8 column quads][16 rows][4 columns]. q4, for each 8
// columns, 4 sets of 4 rows: 16 bytes, a row's four hold the columns (0, 4) (1, 5) (2, 6) (3, 7), low nibble first. Narrow codes and q4's are products
// of bytes, of which the instruction for them wants one to have 7 bits and no sign; full ones are multiplied as i16.
//
// Loops are short on purpose. V8's compiler moves all of a loop body's loads to its front; a body whose loads and sums exceed the 15 vector
// registers spills the sums, and then runs at half the speed.
import { BLOCK_NEGATED, BLOCK_SUM, BLOCK_SUMS } from './prepare'
import { madd, widenHigh, widenLow } from './simd'

export const GROUP16: i32 = 1
export const MINS: i32 = 2
/** q8 codes of at most 6 bits. */
export const NARROW: i32 = 4
/** Scales are integers times one factor for 256 columns: panels of their own (super-panel.ts). */
export const SUPER: i32 = 8

/** What is added to narrow q8 codes, and what q4's hold already, where there are no minimums. */
export const NARROW_OFFSET: i32 = 32
export const Q4_OFFSET: i32 = 8

/** Bytes of 2 q8 columns, of 4 narrow ones, and of 8 q4 columns. */
export const PAIR: usize = 32
export const QUAD: usize = 64
export const OCTET: usize = 64

/** Bytes before a block's codes, where scales are f16 each. */
// @ts-ignore: decorator
@inline
export function headerBytes(flags: i32): usize {
  return 32 << (((flags & GROUP16) != 0 ? 1 : 0) + ((flags & MINS) != 0 ? 1 : 0))
}

/**
 * `offset` as a pair of i16 for each output, the factors of a block's two sums of activations. Where groups are of 16 columns, `half` (0 or not) names
 * the group, and the other sum's factor is 0. Make it before the loop over blocks: V8 makes it anew wherever it is written.
 */
// @ts-ignore: decorator
@inline
export function offsetPairs(offset: i32, grouped: bool, half: usize): v128 {
  const first = !grouped || half == 0 ? offset : 0
  const last = !grouped || half != 0 ? offset << 16 : 0
  return i32x4.splat(first | last)
}

/** What a group's sum begins with, so that codes may be stored plus an offset: the sum of the activations, negated, times the offset. */
// @ts-ignore: decorator
@inline
export function startOf(x: usize, offsets: v128): v128 {
  return i32x4.dot_i16x8_s(v128.load32_splat(x, BLOCK_NEGATED), offsets)
}

/** Adds a group's integer sums of 4 outputs to their f32 sums. */
// @ts-ignore: decorator
@inline
function addScaled(acc: usize, sum: v128, scale: v128, activationScale: v128): void {
  v128.store(acc, madd(f32x4.convert_i32x4_s(sum), f32x4.mul(scale, activationScale), v128.load(acc)))
}

/** The same for 8 outputs of the row whose block is at `x`; `low` and `high` are their scales. */
// @ts-ignore: decorator
@inline
export function addRow(acc: usize, low: v128, high: v128, x: usize, s0: v128, s1: v128): void {
  const activationScale = v128.load32_splat(x)
  addScaled(acc, s0, low, activationScale)
  addScaled(acc + 16, s1, high, activationScale)
}

/** The same with minimums, which meet the sum of the row's activations in the group. */
// @ts-ignore: decorator
@inline
export function addRowWithMins(acc: usize, low: v128, high: v128, lowMins: v128, highMins: v128, sum: v128, x: usize, s0: v128, s1: v128): void {
  const activationScale = v128.load32_splat(x)
  const a0 = madd(f32x4.convert_i32x4_s(s0), f32x4.mul(low, activationScale), v128.load(acc))
  const a1 = madd(f32x4.convert_i32x4_s(s1), f32x4.mul(high, activationScale), v128.load(acc, 16))
  v128.store(acc, madd(lowMins, sum, a0))
  v128.store(acc, madd(highMins, sum, a1), 16)
}

/** The sum of a row's activations in a group: a block, or the half of it that `half` (0 or not) names. */
// @ts-ignore: decorator
@inline
export function groupSum(x: usize, grouped: bool, half: usize): v128 {
  if (grouped) return v128.load32_splat(x + (half == 0 ? 0 : 4), BLOCK_SUMS)
  return v128.load32_splat(x, BLOCK_SUM)
}

/** The same, with the scales as they are stored. */
// @ts-ignore: decorator
@inline
export function finish8(acc: usize, scales: usize, x: usize, s0: v128, s1: v128): void {
  const pairs = v128.load(scales)
  addRow(acc, widenLow(pairs), widenHigh(pairs), x, s0, s1)
}

/** The same for 16 outputs. */
// @ts-ignore: decorator
@inline
export function finish16(acc: usize, scales: usize, x: usize, s0: v128, s1: v128, s2: v128, s3: v128): void {
  finish8(acc, scales, x, s0, s1)
  finish8(acc + 32, scales + 16, x, s2, s3)
}

/** The nibbles of a q4 block as bytes in the order of narrow codes, 512 bytes. */
// @ts-ignore: decorator
@inline
export function spreadFour(codes: usize, dst: usize): void {
  const mask = i8x16.splat(15)
  for (let g: usize = 0; g < 4; g++) {
    for (let s: usize = 0; s < 64; s += 16) {
      const packed = v128.load(codes + g * OCTET + s)
      v128.store(dst + g * 2 * QUAD + s, v128.and(packed, mask))
      v128.store(dst + g * 2 * QUAD + s, v128.and(i16x8.shr_u(packed, 4), mask), QUAD)
    }
  }
}

/** Zeros. memory.fill would be a call out of the kernel. */
// @ts-ignore: decorator
@inline
export function clear(at: usize, bytes: usize): void {
  for (const end = at + bytes; at < end; at += 16) v128.store(at, i32x4.splat(0))
}

/** Adds the minimums of one block to the 16 outputs of a row. */
export function addMins(acc: usize, header: usize, grouped: bool, x: usize): void {
  const mins = header + (grouped ? 64 : 32)
  for (let half: usize = 0; half < 2; half++) {
    const sum = groupSum(x, grouped, half)
    const low = v128.load(mins + half * 32)
    const high = v128.load(mins + half * 32, 16)
    v128.store(acc, madd(widenLow(low), sum, v128.load(acc)))
    v128.store(acc, madd(widenHigh(low), sum, v128.load(acc, 16)), 16)
    v128.store(acc, madd(widenLow(high), sum, v128.load(acc, 32)), 32)
    v128.store(acc, madd(widenHigh(high), sum, v128.load(acc, 48)), 48)
    if (!grouped) return
  }
}
