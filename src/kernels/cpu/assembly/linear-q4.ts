// Products of int8 activations with q4 panels (quantized-panel.ts, super-panel.ts).
import { addDot, addSums, dots, scaled, widened } from './dot-products'
import { BLOCK_I8, BYTE_BLOCK_BYTES } from './prepare'
import { addRow, addRowWithMins, clear, groupSum, headerBytes, MINS, OCTET, Q4_OFFSET, QUAD, spreadFour, startOf, SUPER } from './quantized-panel'
import { madd, widenHigh, widenLow } from './simd'
import {
  factorBytes,
  minsHigh,
  minsLow,
  SPREAD_BYTES,
  SPREAD_CODES,
  SPREAD_PLUS,
  SPREAD_SUBS,
  SUBS,
  twiceHigh,
  twiceLow,
} from './super-panel'

/** acc[16] = one row against a q4 panel, relaxed; its blocks are `xStride` bytes apart. */
export function dot1x16Q4(x: usize, xStride: usize, panel: usize, blocks: usize, flags: i32, acc: usize): void {
  clear(acc, 64)
  const isSuper = (flags & SUPER) != 0
  const header = isSuper ? SUBS : headerBytes(flags)
  const hasMins = (flags & MINS) != 0
  const mask = i8x16.splat(15)
  let factors = panel
  for (let b: usize = 0; b < blocks; b++) {
    if (isSuper && (b & 7) == 0) {
      factors = panel
      panel += factorBytes(flags)
    }
    let w = panel + header
    const end = w + 4 * OCTET
    let at = x
    let p0 = i32x4.splat(0)
    let p1 = p0
    let p2 = p0
    let p3 = p0
    while (w < end) {
      const first = v128.load32_splat(at, BLOCK_I8)
      const second = v128.load32_splat(at, BLOCK_I8 + 4)
      let packed = v128.load(w)
      p0 = addSums(p0, dots(first, v128.and(packed, mask), second, v128.and(i16x8.shr_u(packed, 4), mask)))
      packed = v128.load(w, 16)
      p1 = addSums(p1, dots(first, v128.and(packed, mask), second, v128.and(i16x8.shr_u(packed, 4), mask)))
      packed = v128.load(w, 32)
      p2 = addSums(p2, dots(first, v128.and(packed, mask), second, v128.and(i16x8.shr_u(packed, 4), mask)))
      packed = v128.load(w, 48)
      p3 = addSums(p3, dots(first, v128.and(packed, mask), second, v128.and(i16x8.shr_u(packed, 4), mask)))
      at += 8
      w += OCTET
    }
    if (isSuper) {
      finishOneSuper(acc, factors, panel, x, p0, p1)
      finishOneSuper(acc + 32, factors + 16, panel + 8, x, p2, p3)
    } else {
      finishOne(acc, panel, hasMins, x, p0, p1)
      finishOne(acc + 32, panel + 16, hasMins, x, p2, p3)
    }
    x += xStride
    panel += header + 4 * OCTET
  }
}

// @ts-ignore: decorator
@inline
function finishOne(acc: usize, scales: usize, hasMins: bool, x: usize, p0: v128, p1: v128): void {
  const pairs = v128.load(scales)
  if (hasMins) {
    const mins = v128.load(scales, 32)
    finishWithMins(acc, widenLow(pairs), widenHigh(pairs), widenLow(mins), widenHigh(mins), x, p0, p1)
  } else {
    finishPairs(acc, widenLow(pairs), widenHigh(pairs), x, p0, p1)
  }
}

/** The same with sub-scales at `subs`, those of minimums 16 bytes on. */
// @ts-ignore: decorator
@inline
function finishOneSuper(acc: usize, factors: usize, subs: usize, x: usize, p0: v128, p1: v128): void {
  const scales = v128.load8x8_s(subs)
  const mins = v128.load8x8_s(subs, 16)
  const pairs = v128.load(factors)
  const minPairs = v128.load(factors, 32)
  addRowWithMins(
    acc,
    widenLow(pairs),
    widenHigh(pairs),
    minsLow(mins, widenLow(minPairs)),
    minsHigh(mins, widenHigh(minPairs)),
    groupSum(x, false, 0),
    x,
    scaled(p0, twiceLow(scales)),
    scaled(p1, twiceHigh(scales)),
  )
}

/**
 * One block of two rows against 8 of a q4 panel's 16 outputs, relaxed: the nibbles are taken apart once for both. `scales`: f16, or with
 * sub-scales those, and `factors` theirs.
 */
// @ts-ignore: decorator
@inline
function block2x8Q4(x: usize, rowStride: usize, factors: usize, scales: usize, w: usize, hasMins: bool, isSuper: bool, acc: usize): void {
  const mask = i8x16.splat(15)
  let a0 = i32x4.splat(0)
  let a1 = a0
  let b0 = a0
  let b1 = a0
  let at = x
  const end = w + 4 * OCTET
  while (w < end) {
    const aFirst = v128.load32_splat(at, BLOCK_I8)
    const aSecond = v128.load32_splat(at, BLOCK_I8 + 4)
    const bFirst = v128.load32_splat(at + rowStride, BLOCK_I8)
    const bSecond = v128.load32_splat(at + rowStride, BLOCK_I8 + 4)
    const packed0 = v128.load(w)
    const low0 = v128.and(packed0, mask)
    const high0 = v128.and(i16x8.shr_u(packed0, 4), mask)
    a0 = addSums(a0, dots(aFirst, low0, aSecond, high0))
    b0 = addSums(b0, dots(bFirst, low0, bSecond, high0))
    const packed1 = v128.load(w, 16)
    const low1 = v128.and(packed1, mask)
    const high1 = v128.and(i16x8.shr_u(packed1, 4), mask)
    a1 = addSums(a1, dots(aFirst, low1, aSecond, high1))
    b1 = addSums(b1, dots(bFirst, low1, bSecond, high1))
    at += 8
    w += OCTET
  }
  if (isSuper) {
    finishOneSuper(acc, factors, scales, x, a0, a1)
    finishOneSuper(acc + 64, factors, scales, x + rowStride, b0, b1)
    return
  }
  const pairs = v128.load(scales)
  const low = widenLow(pairs)
  const high = widenHigh(pairs)
  if (hasMins) {
    const mins = v128.load(scales, 32)
    const lowMins = widenLow(mins)
    const highMins = widenHigh(mins)
    finishWithMins(acc, low, high, lowMins, highMins, x, a0, a1)
    finishWithMins(acc + 64, low, high, lowMins, highMins, x + rowStride, b0, b1)
  } else {
    finishPairs(acc, low, high, x, a0, a1)
    finishPairs(acc + 64, low, high, x + rowStride, b0, b1)
  }
}

/** acc[2][16] = two rows, `rowStride` bytes apart, against a q4 panel, relaxed. */
function dot2x16Q4(x: usize, rowStride: usize, xStride: usize, panel: usize, blocks: usize, flags: i32, acc: usize): void {
  clear(acc, 128)
  const isSuper = (flags & SUPER) != 0
  const header = isSuper ? SUBS : headerBytes(flags)
  const hasMins = (flags & MINS) != 0
  let factors = panel
  for (let b: usize = 0; b < blocks; b++) {
    if (isSuper && (b & 7) == 0) {
      factors = panel
      panel += factorBytes(flags)
    }
    block2x8Q4(x, rowStride, factors, panel, panel + header, hasMins, isSuper, acc)
    block2x8Q4(x, rowStride, factors + 16, panel + (isSuper ? 8 : 16), panel + header + 32, hasMins, isSuper, acc + 32)
    x += xStride
    panel += header + 4 * OCTET
  }
}

/**
 * One block of a quad of rows against 8 of the 16 outputs of a q4 panel whose nibbles are bytes, relaxed. `scales`: f16 where they are stored
 * (spreadNibbles), or with sub-scales what spreadSuper made.
 */
// @ts-ignore: decorator
@inline
export function block4x8Q4(x: usize, scales: usize, w: usize, hasMins: bool, isSuper: bool, acc: usize): void {
  let a0 = i32x4.splat(0)
  let a1 = a0
  let b0 = a0
  let b1 = a0
  let c0 = a0
  let c1 = a0
  let d0 = a0
  let d1 = a0
  let at = x
  const end = x + 32
  while (at < end) {
    const w0 = v128.load(w)
    const w1 = v128.load(w, 16)
    let value = v128.load32_splat(at, BLOCK_I8)
    a0 = addDot(a0, value, w0)
    a1 = addDot(a1, value, w1)
    value = v128.load32_splat(at, BYTE_BLOCK_BYTES + BLOCK_I8)
    b0 = addDot(b0, value, w0)
    b1 = addDot(b1, value, w1)
    value = v128.load32_splat(at, 2 * BYTE_BLOCK_BYTES + BLOCK_I8)
    c0 = addDot(c0, value, w0)
    c1 = addDot(c1, value, w1)
    value = v128.load32_splat(at, 3 * BYTE_BLOCK_BYTES + BLOCK_I8)
    d0 = addDot(d0, value, w0)
    d1 = addDot(d1, value, w1)
    at += 4
    w += OCTET
  }
  if (isSuper) {
    finishQuad(acc, scales, x, a0, b0, c0, d0)
    finishQuad(acc + 16, scales + 16, x, a1, b1, c1, d1)
    return
  }
  const pairs = v128.load(scales)
  const low = widenLow(pairs)
  const high = widenHigh(pairs)
  if (hasMins) {
    const mins = v128.load(scales, 32)
    const lowMins = widenLow(mins)
    const highMins = widenHigh(mins)
    finishWithMins(acc, low, high, lowMins, highMins, x, a0, a1)
    finishWithMins(acc + 64, low, high, lowMins, highMins, x + BYTE_BLOCK_BYTES, b0, b1)
    finishWithMins(acc + 128, low, high, lowMins, highMins, x + 2 * BYTE_BLOCK_BYTES, c0, c1)
    finishWithMins(acc + 192, low, high, lowMins, highMins, x + 3 * BYTE_BLOCK_BYTES, d0, d1)
  } else {
    finishPairs(acc, low, high, x, a0, a1)
    finishPairs(acc + 64, low, high, x + BYTE_BLOCK_BYTES, b0, b1)
    finishPairs(acc + 128, low, high, x + 2 * BYTE_BLOCK_BYTES, c0, c1)
    finishPairs(acc + 192, low, high, x + 3 * BYTE_BLOCK_BYTES, d0, d1)
  }
}

// @ts-ignore: decorator
@inline
function finishPairs(acc: usize, low: v128, high: v128, x: usize, p0: v128, p1: v128): void {
  const start = startOf(x, false, 0, Q4_OFFSET)
  addRow(acc, low, high, x, widened(p0, start), widened(p1, start))
}

// @ts-ignore: decorator
@inline
function finishWithMins(acc: usize, low: v128, high: v128, lowMins: v128, highMins: v128, x: usize, p0: v128, p1: v128): void {
  const zero = i32x4.splat(0)
  addRowWithMins(acc, low, high, lowMins, highMins, groupSum(x, false, 0), x, widened(p0, zero), widened(p1, zero))
}

/** Adds the sums of a quad of rows for 4 outputs, output by output rather than row by row: what they share then needs three registers. */
// @ts-ignore: decorator
@inline
function finishQuad(acc: usize, spread: usize, x: usize, a: v128, b: v128, c: v128, d: v128): void {
  const scales = v128.load(spread)
  const mins = v128.load(spread, SPREAD_PLUS)
  const subs = v128.load(spread, SPREAD_SUBS)
  finishSuper(acc, scales, mins, subs, x, a)
  finishSuper(acc + 64, scales, mins, subs, x + BYTE_BLOCK_BYTES, b)
  finishSuper(acc + 128, scales, mins, subs, x + 2 * BYTE_BLOCK_BYTES, c)
  finishSuper(acc + 192, scales, mins, subs, x + 3 * BYTE_BLOCK_BYTES, d)
}

// @ts-ignore: decorator
@inline
function finishSuper(acc: usize, scales: v128, mins: v128, subs: v128, x: usize, sums: v128): void {
  const sum = f32x4.convert_i32x4_s(scaled(sums, subs))
  const product = madd(sum, f32x4.mul(scales, v128.load32_splat(x)), v128.load(acc))
  v128.store(acc, madd(mins, groupSum(x, false, 0), product))
}

/** acc[4][16] = a quad of rows against a q4 panel, relaxed. */
function dot4x16Q4(x: usize, panel: usize, codes: usize, blocks: usize, flags: i32, acc: usize): void {
  clear(acc, 256)
  const hasMins = (flags & MINS) != 0
  const stride = headerBytes(flags) + 4 * OCTET
  for (let b: usize = 0; b < blocks; b++) {
    block4x8Q4(x, panel, codes, hasMins, false, acc)
    block4x8Q4(x, panel + 16, codes + 32, hasMins, false, acc + 32)
    x += 4 * BYTE_BLOCK_BYTES
    panel += stride
    codes += 512
  }
}

/** The same against one with sub-scales, taken apart. */
function dot4x16Super(x: usize, spread: usize, blocks: usize, acc: usize): void {
  clear(acc, 256)
  for (let b: usize = 0; b < blocks; b++) {
    block4x8Q4(x, spread, spread + SPREAD_CODES, true, true, acc)
    block4x8Q4(x, spread + 32, spread + SPREAD_CODES + 32, true, true, acc + 32)
    x += 4 * BYTE_BLOCK_BYTES
    spread += SPREAD_BYTES
  }
}

/** The codes of a q4 panel as narrow bytes, 512 a block. */
export function spreadNibbles(panel: usize, blocks: usize, flags: i32, dst: usize): void {
  const header = headerBytes(flags)
  for (let b: usize = 0; b < blocks; b++) {
    spreadFour(panel + header, dst)
    panel += header + 4 * OCTET
    dst += 8 * QUAD
  }
}

/** acc[rows][16] = up to 4 rows, `rowStride` bytes apart, of blocks `xStride` bytes apart, relaxed; 4 are a quad, and `codes` what spreadNibbles or spreadSuper made. */
export function dotQ4(
  x: usize,
  rowStride: usize,
  xStride: usize,
  rows: i32,
  panel: usize,
  codes: usize,
  blocks: usize,
  flags: i32,
  acc: usize,
): void {
  if (rows == 4) {
    if ((flags & SUPER) != 0) dot4x16Super(x, codes, blocks, acc)
    else dot4x16Q4(x, panel, codes, blocks, flags, acc)
    return
  }
  if (rows >= 2) dot2x16Q4(x, rowStride, xStride, panel, blocks, flags, acc)
  if ((rows & 1) == 0) return
  const last = <usize>(rows - 1)
  dot1x16Q4(x + last * rowStride, xStride, panel, blocks, flags, acc + last * 64)
}
