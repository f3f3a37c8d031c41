// Panels of q8 and q4 weights, and what products of int8 activations with both have in common. Within a block of 32 columns the sum is an exact integer; blocks are added in ascending
// order as f32: acc = acc + f32(sum) * (weight scale * activation scale), with a minimum acc = acc + min * (sum of the block's activations).
// The same steps in every kernel of linear-q8.ts and linear-q4.ts, for any number of rows.
//
// A panel is a sequence of blocks, each [scales f16 x 16][second scales][mins][second mins][codes]: the second ones for groups of 16 columns. The
// f16 values are stored times a power of two of the panel's own and widened without their 2^112 (simd.ts); activation scales carry 2^96.
//
// Codes: q8, [16 column pairs][16 rows][2 columns]. q4, for each 8 columns, 4 sets of 4 rows: 16 bytes, a row's four hold the columns
// (0, 2) (4, 6) (1, 3) (5, 7), low nibble first.
//
// Their loops are short on purpose. V8's compiler moves all of a loop body's loads to its front; a body whose loads and sums exceed the 15 vector
// registers spills the sums, and then runs at half the speed (17 instead of 35 multiply-adds a nanosecond on a Zen 3 core at 3.5 GHz).
import { BLOCK_SUMS } from './prepare'
import { madd, widenHigh, widenLow } from './simd'

export const GROUP16: i32 = 1
export const MINS: i32 = 2

/** Bytes of a q8 column pair, and of 8 q4 columns. */
export const PAIR: usize = 32
export const OCTET: usize = 64

/** Bytes before a block's codes. */
// @ts-ignore: decorator
@inline
export function headerBytes(flags: i32): usize {
  return 32 << (((flags & GROUP16) != 0 ? 1 : 0) + ((flags & MINS) != 0 ? 1 : 0))
}

// @ts-ignore: decorator
@inline
function addScaled(acc: v128, sum: v128, scale: v128, activationScale: v128): v128 {
  return madd(f32x4.convert_i32x4_s(sum), f32x4.mul(scale, activationScale), acc)
}

/** Adds a block's (or half block's) integer sums of 16 outputs to their f32 sums. `scales`: those of the half. */
// @ts-ignore: decorator
@inline
export function finish16(acc: usize, scales: usize, x: usize, s0: v128, s1: v128, s2: v128, s3: v128): void {
  finish8(acc, scales, x, s0, s1)
  finish8(acc + 32, scales + 16, x, s2, s3)
}

/** The same for 8 outputs. */
// @ts-ignore: decorator
@inline
export function finish8(acc: usize, scales: usize, x: usize, s0: v128, s1: v128): void {
  const activationScale = v128.load32_splat(x)
  const pairs = v128.load(scales)
  v128.store(acc, addScaled(v128.load(acc), s0, widenLow(pairs), activationScale))
  v128.store(acc, addScaled(v128.load(acc, 16), s1, widenHigh(pairs), activationScale), 16)
}

/** Adds the minimums of one block to the 16 outputs of a row. */
export function addMins(acc: usize, header: usize, grouped: bool, x: usize): void {
  const mins = header + (grouped ? 64 : 32)
  for (let half: usize = 0; half < 2; half++) {
    const sum = grouped
      ? v128.load32_splat(x + half * 4, BLOCK_SUMS)
      : f32x4.splat(load<f32>(x, BLOCK_SUMS) + load<f32>(x, BLOCK_SUMS + 4))
    const low = v128.load(mins + half * 32)
    const high = v128.load(mins + half * 32, 16)
    v128.store(acc, madd(widenLow(low), sum, v128.load(acc)))
    v128.store(acc, madd(widenHigh(low), sum, v128.load(acc, 16)), 16)
    v128.store(acc, madd(widenLow(high), sum, v128.load(acc, 32)), 32)
    v128.store(acc, madd(widenHigh(high), sum, v128.load(acc, 48)), 48)
    if (!grouped) return
  }
}
