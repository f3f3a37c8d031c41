// Products of int8 activations with panels that have sub-scales (super-panel.ts). Used for 6-bit codes, and without relaxed SIMD for every format
// with sub-scales; linear-q4.ts has the rest.
import { dotQuad } from './linear-narrow'
import { BLOCK_I8, BLOCK_NEGATED } from './prepare'
import { addRow, addRowWithMins, clear, groupSum, MINS, QUAD } from './quantized-panel'
import { widenHigh, widenLow } from './simd'
import { fourth, SIX_OCTET, SIX_SIDE, sixMask } from './six-bits'
import {
  factorBytes,
  SPREAD_BYTES,
  SPREAD_CODES,
  SPREAD_PLUS,
  SPREAD_SUBS,
  SUBS,
  superBlockBytes,
  twiceHigh,
  twiceLow,
  zipHigh,
  zipLow,
} from './super-panel'

/**
 * sum + 8 columns of 4 outputs times their sub-scales, relaxed. Two pairs of products, at most 4 * 127 * 63, fit an i16. Not by the dot products of
 * dot-products.ts: here one instruction multiplies pairs by sub-scales and adds them up, and i32 sums would need two for the multiplication alone.
 */
// @ts-ignore: decorator
@inline
function addOctet(sum: v128, x0: v128, x1: v128, w0: v128, w1: v128, subs: v128): v128 {
  const pairs = i16x8.add(i16x8.relaxed_dot_i8x16_i7x16_s(x0, w0), i16x8.relaxed_dot_i8x16_i7x16_s(x1, w1))
  return i32x4.add(sum, i32x4.dot_i16x8_s(pairs, subs))
}

/** acc[16] = one row against a panel of 6-bit codes as they are stored, relaxed; its blocks are `xStride` bytes apart. */
function dot1x16Six(x: usize, xStride: usize, panel: usize, blocks: usize, flags: i32, acc: usize): void {
  clear(acc, 64)
  const mask = sixMask(blocks)
  let factors = panel
  let block = panel
  for (let b: usize = 0; b < blocks; b++) {
    if ((b & 7) == 0) {
      factors = block
      block += factorBytes(flags)
    }
    for (let side: usize = 0; side < 2; side++) {
      let subs = v128.load8x8_s(block + side * 8)
      const second = v128.load8x8_s(block + side * 8, 16)
      const negated = v128.load32_splat(x, BLOCK_NEGATED)
      // Codes are stored plus 32. Sums therefore begin at -32 * sub-scale * the sum of the activations (`negated`).
      const a = i16x8.shl(subs, 5)
      const b5 = i16x8.shl(second, 5)
      let s0 = i32x4.dot_i16x8_s(negated, zipLow(a, b5))
      let s1 = i32x4.dot_i16x8_s(negated, zipHigh(a, b5))
      let w = block + SUBS + side * SIX_SIDE
      let at = x
      for (let half = 0; half < 2; half++) {
        const subs0 = twiceLow(subs)
        const subs1 = twiceHigh(subs)
        const end = w + 2 * SIX_OCTET
        while (w < end) {
          const x0 = v128.load32_splat(at, BLOCK_I8)
          const x1 = v128.load32_splat(at, BLOCK_I8 + 4)
          const first = v128.load(w)
          const next = v128.load(w, 16)
          const third = v128.load(w, 32)
          s0 = addOctet(s0, x0, x1, v128.and(first, mask), v128.and(next, mask), subs0)
          s1 = addOctet(s1, x0, x1, v128.and(third, mask), fourth(first, next, third, mask), subs1)
          at += 8
          w += SIX_OCTET
        }
        subs = second
      }
      const pairs = v128.load(factors + side * 16)
      addRow(acc + side * 32, widenLow(pairs), widenHigh(pairs), x, s0, s1)
    }
    x += xStride
    block += superBlockBytes(true)
  }
}

/** acc[2][16] = two rows, `rowStride` bytes apart, against 6-bit codes taken apart (spreadSuper), relaxed. */
function dot2x16Six(x: usize, rowStride: usize, xStride: usize, spread: usize, blocks: usize, acc: usize): void {
  clear(acc, 128)
  for (let b: usize = 0; b < blocks; b++) {
    for (let side: usize = 0; side < 64; side += 32) {
      const head = spread + side
      const plus0 = v128.load(head, SPREAD_PLUS)
      const plus1 = v128.load(head, SPREAD_PLUS + 16)
      let negated = v128.load32_splat(x, BLOCK_NEGATED)
      let a0 = i32x4.dot_i16x8_s(negated, plus0)
      let a1 = i32x4.dot_i16x8_s(negated, plus1)
      negated = v128.load32_splat(x + rowStride, BLOCK_NEGATED)
      let b0 = i32x4.dot_i16x8_s(negated, plus0)
      let b1 = i32x4.dot_i16x8_s(negated, plus1)
      let w = head + SPREAD_CODES
      let at = x
      for (let half: usize = 0; half < 128; half += 64) {
        const subs0 = v128.load(head + half, SPREAD_SUBS)
        const subs1 = v128.load(head + half, SPREAD_SUBS + 16)
        const end = w + 4 * QUAD
        while (w < end) {
          const w0 = v128.load(w)
          const w1 = v128.load(w, QUAD)
          const w2 = v128.load(w, 16)
          const w3 = v128.load(w, QUAD + 16)
          const aFirst = v128.load32_splat(at, BLOCK_I8)
          const aSecond = v128.load32_splat(at, BLOCK_I8 + 4)
          const bFirst = v128.load32_splat(at + rowStride, BLOCK_I8)
          const bSecond = v128.load32_splat(at + rowStride, BLOCK_I8 + 4)
          a0 = addOctet(a0, aFirst, aSecond, w0, w1, subs0)
          b0 = addOctet(b0, bFirst, bSecond, w0, w1, subs0)
          a1 = addOctet(a1, aFirst, aSecond, w2, w3, subs1)
          b1 = addOctet(b1, bFirst, bSecond, w2, w3, subs1)
          at += 8
          w += 2 * QUAD
        }
      }
      const low = v128.load(head)
      const high = v128.load(head, 16)
      addRow(acc + side, low, high, x, a0, a1)
      addRow(acc + side + 64, low, high, x + rowStride, b0, b1)
    }
    x += xStride
    spread += SPREAD_BYTES
  }
}

/** acc[16] = one row against a panel taken apart; plain SIMD, and the last of an odd number of rows. */
function dot1x16Spread(x: usize, xStride: usize, spread: usize, blocks: usize, hasMins: bool, acc: usize): void {
  clear(acc, 64)
  for (let b: usize = 0; b < blocks; b++) {
    for (let side: usize = 0; side < 64; side += 32) {
      const head = spread + side
      let s0 = i32x4.splat(0)
      let s1 = s0
      if (!hasMins) {
        const negated = v128.load32_splat(x, BLOCK_NEGATED)
        s0 = i32x4.dot_i16x8_s(negated, v128.load(head, SPREAD_PLUS))
        s1 = i32x4.dot_i16x8_s(negated, v128.load(head, SPREAD_PLUS + 16))
      }
      let w = head + SPREAD_CODES
      let at = x
      for (let half: usize = 0; half < 128; half += 64) {
        const subs0 = v128.load(head + half, SPREAD_SUBS)
        const subs1 = v128.load(head + half, SPREAD_SUBS + 16)
        const end = w + 4 * QUAD
        if (ASC_FEATURE_RELAXED_SIMD) {
          while (w < end) {
            const x0 = v128.load32_splat(at, BLOCK_I8)
            const x1 = v128.load32_splat(at, BLOCK_I8 + 4)
            s0 = addOctet(s0, x0, x1, v128.load(w), v128.load(w, QUAD), subs0)
            s1 = addOctet(s1, x0, x1, v128.load(w, 16), v128.load(w, QUAD + 16), subs1)
            at += 8
            w += 2 * QUAD
          }
        } else {
          let t0 = i32x4.splat(0)
          let t1 = t0
          while (w < end) {
            const columns = v128.load32_splat(at, BLOCK_I8)
            t0 = i32x4.add(t0, dotQuad(columns, v128.load(w)))
            t1 = i32x4.add(t1, dotQuad(columns, v128.load(w, 16)))
            at += 4
            w += QUAD
          }
          s0 = i32x4.add(s0, i32x4.mul(t0, i32x4.shr_s(subs0, 16)))
          s1 = i32x4.add(s1, i32x4.mul(t1, i32x4.shr_s(subs1, 16)))
        }
      }
      const low = v128.load(head)
      const high = v128.load(head, 16)
      if (hasMins) {
        const lowMins = v128.load(head, SPREAD_PLUS)
        const highMins = v128.load(head, SPREAD_PLUS + 16)
        addRowWithMins(acc + side, low, high, lowMins, highMins, groupSum(x, false, 0), x, s0, s1)
      } else {
        addRow(acc + side, low, high, x, s0, s1)
      }
    }
    x += xStride
    spread += SPREAD_BYTES
  }
}

/**
 * acc[rows][16] = up to 4 rows, `rowStride` bytes apart, of blocks `xStride` bytes apart, against a panel; `spread` is what spreadSuper made of it,
 * or 0 for one row.
 */
export function dotSuper(
  x: usize,
  rowStride: usize,
  xStride: usize,
  rows: i32,
  panel: usize,
  spread: usize,
  blocks: usize,
  flags: i32,
  acc: usize,
): void {
  const hasMins = (flags & MINS) != 0
  if (ASC_FEATURE_RELAXED_SIMD) {
    if (spread == 0) {
      dot1x16Six(x, xStride, panel, blocks, flags, acc)
      return
    }
    for (; rows >= 2; rows -= 2) {
      dot2x16Six(x, rowStride, xStride, spread, blocks, acc)
      x += 2 * rowStride
      acc += 128
    }
  }
  for (; rows > 0; rows--) {
    dot1x16Spread(x, xStride, spread, blocks, hasMins, acc)
    x += rowStride
    acc += 64
  }
}
