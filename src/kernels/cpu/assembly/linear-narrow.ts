// Products of int8 activations with panels of narrow codes (quantized-panel.ts): q8's, and q4's spread to bytes.
import { dots, widened } from './dot-products'
import { BLOCK_I8 } from './prepare'
import { addRow, addRowWithMins, clear, GROUP16, groupSum, MINS, offsetPairs, QUAD, startOf } from './quantized-panel'
import { widenHigh, widenLow } from './simd'

/** Four products of 4 columns each, plain SIMD: x holds the 4 columns four times, w four rows of them. */
// @ts-ignore: decorator
@inline
export function dotQuad(x: v128, w: v128): v128 {
  const columns = i16x8.extend_low_i8x16_s(x)
  const low = i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(w), columns)
  const high = i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(w), columns)
  return i32x4.add(v128.shuffle<i32>(low, high, 0, 2, 4, 6), v128.shuffle<i32>(low, high, 1, 3, 5, 7))
}

/** sum + 8 columns of 4 outputs. */
// @ts-ignore: decorator
@inline
function addOctet(sum: v128, x0: v128, x1: v128, w0: v128, w1: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) {
    return widened(dots(x0, w0, x1, w1), sum)
  } else {
    return i32x4.add(i32x4.add(sum, dotQuad(x0, w0)), dotQuad(x1, w1))
  }
}

/** acc[16] = one row, whose blocks are `xStride` bytes apart, against a panel. */
// @ts-ignore: decorator
@inline
function oneRow(
  x: usize,
  xStride: usize,
  header: usize,
  headerStride: usize,
  codes: usize,
  codeStride: usize,
  blocks: usize,
  flags: i32,
  offset: i32,
  acc: usize,
): void {
  clear(acc, 64)
  const grouped = (flags & GROUP16) != 0
  const hasMins = (flags & MINS) != 0
  const minsOffset: usize = grouped ? 64 : 32
  const firstOffsets = offsetPairs(offset, grouped, 0)
  const secondOffsets = offsetPairs(offset, grouped, 1)
  const length: usize = grouped ? 4 * QUAD : 8 * QUAD
  for (let b: usize = 0; b < blocks; b++) {
    for (let side: usize = 0; side < 64; side += 32) {
      let w = codes + side
      let at = x
      let offsets = firstOffsets
      for (let half: usize = 0; half < 64; half += 32) {
        let s0 = startOf(x, offsets)
        let s1 = s0
        const end = w + length
        while (w < end) {
          const x0 = v128.load32_splat(at, BLOCK_I8)
          const x1 = v128.load32_splat(at, BLOCK_I8 + 4)
          const w0 = v128.load(w)
          const w1 = v128.load(w, QUAD)
          const w2 = v128.load(w, 16)
          const w3 = v128.load(w, QUAD + 16)
          s0 = addOctet(s0, x0, x1, w0, w1)
          s1 = addOctet(s1, x0, x1, w2, w3)
          at += 8
          w += 2 * QUAD
        }
        const scales = header + (side >> 1) + half
        const pairs = v128.load(scales)
        if (hasMins) {
          const mins = v128.load(scales + minsOffset)
          addRowWithMins(acc + side, widenLow(pairs), widenHigh(pairs), widenLow(mins), widenHigh(mins), groupSum(x, grouped, half), x, s0, s1)
        } else {
          addRow(acc + side, widenLow(pairs), widenHigh(pairs), x, s0, s1)
        }
        if (!grouped) break
        offsets = secondOffsets
      }
    }
    x += xStride
    header += headerStride
    codes += codeStride
  }
}

/** acc[2][16] = two rows, `rowStride` bytes apart, against a panel. */
// @ts-ignore: decorator
@inline
function twoRows(
  x: usize,
  rowStride: usize,
  xStride: usize,
  header: usize,
  headerStride: usize,
  codes: usize,
  codeStride: usize,
  blocks: usize,
  flags: i32,
  offset: i32,
  acc: usize,
): void {
  clear(acc, 128)
  const grouped = (flags & GROUP16) != 0
  const hasMins = (flags & MINS) != 0
  const minsOffset: usize = grouped ? 64 : 32
  const firstOffsets = offsetPairs(offset, grouped, 0)
  const secondOffsets = offsetPairs(offset, grouped, 1)
  const length: usize = grouped ? 4 * QUAD : 8 * QUAD
  for (let b: usize = 0; b < blocks; b++) {
    for (let side: usize = 0; side < 64; side += 32) {
      let w = codes + side
      let at = x
      let offsets = firstOffsets
      for (let half: usize = 0; half < 64; half += 32) {
        let a0 = startOf(x, offsets)
        let a1 = a0
        let b0 = startOf(x + rowStride, offsets)
        let b1 = b0
        const end = w + length
        while (w < end) {
          const w0 = v128.load(w)
          const w1 = v128.load(w, QUAD)
          const w2 = v128.load(w, 16)
          const w3 = v128.load(w, QUAD + 16)
          const aFirst = v128.load32_splat(at, BLOCK_I8)
          const aSecond = v128.load32_splat(at, BLOCK_I8 + 4)
          const bFirst = v128.load32_splat(at + rowStride, BLOCK_I8)
          const bSecond = v128.load32_splat(at + rowStride, BLOCK_I8 + 4)
          a0 = addOctet(a0, aFirst, aSecond, w0, w1)
          b0 = addOctet(b0, bFirst, bSecond, w0, w1)
          a1 = addOctet(a1, aFirst, aSecond, w2, w3)
          b1 = addOctet(b1, bFirst, bSecond, w2, w3)
          at += 8
          w += 2 * QUAD
        }
        const scales = header + (side >> 1) + half
        const pairs = v128.load(scales)
        const low = widenLow(pairs)
        const high = widenHigh(pairs)
        if (hasMins) {
          const mins = v128.load(scales + minsOffset)
          const lowMins = widenLow(mins)
          const highMins = widenHigh(mins)
          addRowWithMins(acc + side, low, high, lowMins, highMins, groupSum(x, grouped, half), x, a0, a1)
          const next = x + rowStride
          addRowWithMins(acc + side + 64, low, high, lowMins, highMins, groupSum(next, grouped, half), next, b0, b1)
        } else {
          addRow(acc + side, low, high, x, a0, a1)
          addRow(acc + side + 64, low, high, x + rowStride, b0, b1)
        }
        if (!grouped) break
        offsets = secondOffsets
      }
    }
    x += xStride
    header += headerStride
    codes += codeStride
  }
}

/**
 * acc[rows][16] = rows, `rowStride` bytes apart, of blocks `xStride` bytes apart against a panel whose headers and codes are `headerStride` and
 * `codeStride` bytes apart. Codes are stored plus `offset`.
 */
export function dotNarrow(
  x: usize,
  rowStride: usize,
  xStride: usize,
  rows: i32,
  header: usize,
  headerStride: usize,
  codes: usize,
  codeStride: usize,
  blocks: usize,
  flags: i32,
  offset: i32,
  acc: usize,
): void {
  for (; rows >= 2; rows -= 2) {
    twoRows(x, rowStride, xStride, header, headerStride, codes, codeStride, blocks, flags, offset, acc)
    x += 2 * rowStride
    acc += 128
  }
  if (rows != 0) oneRow(x, xStride, header, headerStride, codes, codeStride, blocks, flags, offset, acc)
}
