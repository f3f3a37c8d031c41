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

/** Sums of 8 columns of 4 outputs, of which `packed` has the nibbles. */
// @ts-ignore: decorator
@inline
function octet(first: v128, second: v128, packed: v128): v128 {
  const mask = i8x16.splat(15)
  return dots(first, v128.and(packed, mask), second, v128.and(i16x8.shr_u(packed, 4), mask))
}

/** acc[16] = one row against a q4 panel, relaxed; its blocks are `xStride` bytes apart. */
export function dot1x16Q4(x: usize, xStride: usize, panel: usize, blocks: usize, flags: i32, acc: usize): void {
  clear(acc, 64)
  const isSuper = (flags & SUPER) != 0
  const header = isSuper ? SUBS : headerBytes(flags)
  const hasMins = (flags & MINS) != 0
  let factors = panel
  for (let b: usize = 0; b < blocks; b++) {
    if (isSuper && (b & 7) == 0) {
      factors = panel
      panel += factorBytes(flags)
    }
    let w = panel + header
    const end = w + 3 * OCTET
    let at = x
    let first = v128.load32_splat(at, BLOCK_I8)
    let second = v128.load32_splat(at, BLOCK_I8 + 4)
    let p0 = octet(first, second, v128.load(w))
    let p1 = octet(first, second, v128.load(w, 16))
    let p2 = octet(first, second, v128.load(w, 32))
    let p3 = octet(first, second, v128.load(w, 48))
    while (w < end) {
      at += 8
      w += OCTET
      first = v128.load32_splat(at, BLOCK_I8)
      second = v128.load32_splat(at, BLOCK_I8 + 4)
      p0 = addSums(p0, octet(first, second, v128.load(w)))
      p1 = addSums(p1, octet(first, second, v128.load(w, 16)))
      p2 = addSums(p2, octet(first, second, v128.load(w, 32)))
      p3 = addSums(p3, octet(first, second, v128.load(w, 48)))
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
  let aFirst = v128.load32_splat(x, BLOCK_I8)
  let aSecond = v128.load32_splat(x, BLOCK_I8 + 4)
  let bFirst = v128.load32_splat(x + rowStride, BLOCK_I8)
  let bSecond = v128.load32_splat(x + rowStride, BLOCK_I8 + 4)
  let packed0 = v128.load(w)
  let packed1 = v128.load(w, 16)
  let a0 = octet(aFirst, aSecond, packed0)
  let b0 = octet(bFirst, bSecond, packed0)
  let a1 = octet(aFirst, aSecond, packed1)
  let b1 = octet(bFirst, bSecond, packed1)
  let at = x
  const end = w + 3 * OCTET
  while (w < end) {
    at += 8
    w += OCTET
    aFirst = v128.load32_splat(at, BLOCK_I8)
    aSecond = v128.load32_splat(at, BLOCK_I8 + 4)
    bFirst = v128.load32_splat(at + rowStride, BLOCK_I8)
    bSecond = v128.load32_splat(at + rowStride, BLOCK_I8 + 4)
    packed0 = v128.load(w)
    packed1 = v128.load(w, 16)
    a0 = addSums(a0, octet(aFirst, aSecond, packed0))
    b0 = addSums(b0, octet(bFirst, bSecond, packed0))
    a1 = addSums(a1, octet(aFirst, aSecond, packed1))
    b1 = addSums(b1, octet(bFirst, bSecond, packed1))
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
  let w0 = v128.load(w)
  let w1 = v128.load(w, 16)
  let value = v128.load32_splat(x, BLOCK_I8)
  let a0 = firstDot(value, w0)
  let a1 = firstDot(value, w1)
  value = v128.load32_splat(x, BYTE_BLOCK_BYTES + BLOCK_I8)
  let b0 = firstDot(value, w0)
  let b1 = firstDot(value, w1)
  value = v128.load32_splat(x, 2 * BYTE_BLOCK_BYTES + BLOCK_I8)
  let c0 = firstDot(value, w0)
  let c1 = firstDot(value, w1)
  value = v128.load32_splat(x, 3 * BYTE_BLOCK_BYTES + BLOCK_I8)
  let d0 = firstDot(value, w0)
  let d1 = firstDot(value, w1)
  let at = x
  const end = x + 28
  while (at < end) {
    at += 4
    w += OCTET
    w0 = v128.load(w)
    w1 = v128.load(w, 16)
    value = v128.load32_splat(at, BLOCK_I8)
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

/** A quad of columns that begins a sum. Beginning with it, not with zeros, saves an addition per sum and block: 3 to 7 % of the tile's time. */
// @ts-ignore: decorator
@inline
function firstDot(x: v128, w: v128): v128 {
  return DOT_PRODUCTS ? addDot(i32x4.splat(0), x, w) : i16x8.relaxed_dot_i8x16_i7x16_s(x, w)
}

// @ts-ignore: decorator
@inline
function finishPairs(acc: usize, low: v128, high: v128, x: usize, p0: v128, p1: v128): void {
  const start = startOf(x, i16x8.splat(<i16>Q4_OFFSET))
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
    for (let side: usize = 0; side < 32; side += 16) {
      block4x8Q4(x, panel + side, codes + 2 * side, hasMins, false, acc + 2 * side)
    }
    x += 4 * BYTE_BLOCK_BYTES
    panel += stride
    codes += 512
  }
}

/** The same against one with sub-scales, taken apart. */
function dot4x16Super(x: usize, spread: usize, blocks: usize, acc: usize): void {
  clear(acc, 256)
  for (let b: usize = 0; b < blocks; b++) {
    for (let side: usize = 0; side < 64; side += 32) {
      block4x8Q4(x, spread + side, spread + side + SPREAD_CODES, true, true, acc + side)
    }
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
