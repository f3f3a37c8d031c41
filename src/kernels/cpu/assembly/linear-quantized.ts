// Products of int8 activations with q8 and q4 weight panels. Within a block of 32 columns the sum is an exact integer; blocks are added in ascending
// order as f32: acc = acc + f32(sum) * (weight scale * activation scale), with a minimum acc = acc + min * (sum of the block's activations).
// The same steps in every kernel here, for any number of rows.
//
// A panel is a sequence of blocks, each [scales f16 x 16][second scales][mins][second mins][codes]: the second ones for groups of 16 columns. The
// f16 values are stored times a power of two of the panel's own and widened without their 2^112 (simd.ts); activation scales carry 2^96.
//
// Codes: q8, [16 column pairs][16 rows][2 columns]. q4, for each 8 columns, 4 sets of 4 rows: 16 bytes, a row's four hold the columns
// (0, 2) (4, 6) (1, 3) (5, 7), low nibble first.
//
// Loops are short on purpose. V8's compiler moves all of a loop body's loads to its front; a body whose loads and sums exceed the 15 vector
// registers spills the sums, and then runs at half the speed (17 instead of 35 multiply-adds a nanosecond on a Zen 3 core at 3.5 GHz).
import { BLOCK_BYTES, BLOCK_I16, BLOCK_I8, BLOCK_OFFSET, BLOCK_SUMS, QUAD_BYTES } from './prepare'
import { madd, widenHigh, widenLow } from './simd'

export const GROUP16: i32 = 1
export const MINS: i32 = 2

/** Bytes of a q8 column pair, and of 8 q4 columns. */
const PAIR: usize = 32
const OCTET: usize = 64

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
function finish16(acc: usize, scales: usize, x: usize, s0: v128, s1: v128, s2: v128, s3: v128): void {
  finish8(acc, scales, x, s0, s1)
  finish8(acc + 32, scales + 16, x, s2, s3)
}

/** The same for 8 outputs. */
// @ts-ignore: decorator
@inline
function finish8(acc: usize, scales: usize, x: usize, s0: v128, s1: v128): void {
  const activationScale = v128.load32_splat(x)
  const pairs = v128.load(scales)
  v128.store(acc, addScaled(v128.load(acc), s0, widenLow(pairs), activationScale))
  v128.store(acc, addScaled(v128.load(acc, 16), s1, widenHigh(pairs), activationScale), 16)
}

/** Adds the minimums of one block to the 16 outputs of a row. */
function addMins(acc: usize, header: usize, grouped: bool, x: usize): void {
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

/** acc[16] = one row against a q8 panel; its blocks are `xStride` bytes apart. */
export function dot1x16Q8(
  x: usize,
  xStride: usize,
  header: usize,
  headerStride: usize,
  codes: usize,
  codeStride: usize,
  blocks: usize,
  flags: i32,
  acc: usize,
): void {
  memory.fill(acc, 0, 64)
  const grouped = (flags & GROUP16) != 0
  const length: usize = grouped ? 8 * PAIR : 16 * PAIR
  for (let b: usize = 0; b < blocks; b++) {
    let w = codes
    let at = x
    for (let half: usize = 0; half < 2; half++) {
      let s0 = i32x4.splat(0)
      let s1 = s0
      let s2 = s0
      let s3 = s0
      const end = w + length
      while (w < end) {
        const low = v128.load32_splat(at, BLOCK_I16)
        const high = v128.load32_splat(at, BLOCK_I16 + 4)
        s0 = i32x4.add(s0, i32x4.dot_i16x8_s(low, v128.load8x8_s(w)))
        s1 = i32x4.add(s1, i32x4.dot_i16x8_s(low, v128.load8x8_s(w, 8)))
        s2 = i32x4.add(s2, i32x4.dot_i16x8_s(low, v128.load8x8_s(w, 16)))
        s3 = i32x4.add(s3, i32x4.dot_i16x8_s(low, v128.load8x8_s(w, 24)))
        s0 = i32x4.add(s0, i32x4.dot_i16x8_s(high, v128.load8x8_s(w, 32)))
        s1 = i32x4.add(s1, i32x4.dot_i16x8_s(high, v128.load8x8_s(w, 40)))
        s2 = i32x4.add(s2, i32x4.dot_i16x8_s(high, v128.load8x8_s(w, 48)))
        s3 = i32x4.add(s3, i32x4.dot_i16x8_s(high, v128.load8x8_s(w, 56)))
        at += 8
        w += 2 * PAIR
      }
      finish16(acc, header + half * 32, x, s0, s1, s2, s3)
      if (!grouped) break
    }
    if ((flags & MINS) != 0) addMins(acc, header, grouped, x)
    x += xStride
    header += headerStride
    codes += codeStride
  }
}

/** Two rows, `rowStride` bytes apart, of blocks `xStride` bytes apart: acc[2][16]. */
function dot2x16Q8(
  x: usize,
  rowStride: usize,
  xStride: usize,
  header: usize,
  headerStride: usize,
  codes: usize,
  codeStride: usize,
  blocks: usize,
  flags: i32,
  acc: usize,
): void {
  memory.fill(acc, 0, 128)
  const grouped = (flags & GROUP16) != 0
  const length: usize = grouped ? 8 * PAIR : 16 * PAIR
  for (let b: usize = 0; b < blocks; b++) {
    let w = codes
    let at = x
    for (let half: usize = 0; half < 2; half++) {
      let a0 = i32x4.splat(0)
      let a1 = a0
      let a2 = a0
      let a3 = a0
      let b0 = a0
      let b1 = a0
      let b2 = a0
      let b3 = a0
      const end = w + length
      while (w < end) {
        const first = v128.load32_splat(at, BLOCK_I16)
        const second = v128.load32_splat(at + rowStride, BLOCK_I16)
        let weights = v128.load8x8_s(w)
        a0 = i32x4.add(a0, i32x4.dot_i16x8_s(first, weights))
        b0 = i32x4.add(b0, i32x4.dot_i16x8_s(second, weights))
        weights = v128.load8x8_s(w, 8)
        a1 = i32x4.add(a1, i32x4.dot_i16x8_s(first, weights))
        b1 = i32x4.add(b1, i32x4.dot_i16x8_s(second, weights))
        weights = v128.load8x8_s(w, 16)
        a2 = i32x4.add(a2, i32x4.dot_i16x8_s(first, weights))
        b2 = i32x4.add(b2, i32x4.dot_i16x8_s(second, weights))
        weights = v128.load8x8_s(w, 24)
        a3 = i32x4.add(a3, i32x4.dot_i16x8_s(first, weights))
        b3 = i32x4.add(b3, i32x4.dot_i16x8_s(second, weights))
        at += 4
        w += PAIR
      }
      finish16(acc, header + half * 32, x, a0, a1, a2, a3)
      finish16(acc + 64, header + half * 32, x + rowStride, b0, b1, b2, b3)
      if (!grouped) break
    }
    if ((flags & MINS) != 0) {
      addMins(acc, header, grouped, x)
      addMins(acc + 64, header, grouped, x + rowStride)
    }
    x += xStride
    header += headerStride
    codes += codeStride
  }
}

/** One block of a quad of rows against 8 of the panel's 16 outputs: `w`, `scales` and `acc` begin at the first of them. */
// @ts-ignore: decorator
@inline
function block4x8Q8(x: usize, scales: usize, w: usize, grouped: bool, acc: usize): void {
  const length: usize = grouped ? 8 * PAIR : 16 * PAIR
  let at = x
  for (let half: usize = 0; half < 2; half++) {
    let a0 = i32x4.splat(0)
    let a1 = a0
    let b0 = a0
    let b1 = a0
    let c0 = a0
    let c1 = a0
    let d0 = a0
    let d1 = a0
    const end = w + length
    while (w < end) {
      const w0 = v128.load8x8_s(w)
      const w1 = v128.load8x8_s(w, 8)
      let value = v128.load32_splat(at, BLOCK_I16)
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(value, w0))
      a1 = i32x4.add(a1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(at, BLOCK_BYTES + BLOCK_I16)
      b0 = i32x4.add(b0, i32x4.dot_i16x8_s(value, w0))
      b1 = i32x4.add(b1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(at, 2 * BLOCK_BYTES + BLOCK_I16)
      c0 = i32x4.add(c0, i32x4.dot_i16x8_s(value, w0))
      c1 = i32x4.add(c1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(at, 3 * BLOCK_BYTES + BLOCK_I16)
      d0 = i32x4.add(d0, i32x4.dot_i16x8_s(value, w0))
      d1 = i32x4.add(d1, i32x4.dot_i16x8_s(value, w1))
      at += 4
      w += PAIR
    }
    finish8(acc, scales + half * 32, x, a0, a1)
    finish8(acc + 64, scales + half * 32, x + BLOCK_BYTES, b0, b1)
    finish8(acc + 128, scales + half * 32, x + 2 * BLOCK_BYTES, c0, c1)
    finish8(acc + 192, scales + half * 32, x + 3 * BLOCK_BYTES, d0, d1)
    if (!grouped) return
  }
}

/** acc[4][16] = a quad of rows against a q8 panel. */
function dot4x16Q8(
  x: usize,
  header: usize,
  headerStride: usize,
  codes: usize,
  codeStride: usize,
  blocks: usize,
  flags: i32,
  acc: usize,
): void {
  memory.fill(acc, 0, 256)
  const grouped = (flags & GROUP16) != 0
  for (let b: usize = 0; b < blocks; b++) {
    block4x8Q8(x, header, codes, grouped, acc)
    block4x8Q8(x, header + 16, codes + 16, grouped, acc + 32)
    if ((flags & MINS) != 0) {
      for (let r: usize = 0; r < 4; r++) addMins(acc + r * 64, header, grouped, x + r * BLOCK_BYTES)
    }
    x += QUAD_BYTES
    header += headerStride
    codes += codeStride
  }
}

/** Eight sums of pairs of at most 2 * 127 * 15 fit an i16: as i32, plus `start`. */
// @ts-ignore: decorator
@inline
function widenPairs(pairs: v128, start: v128): v128 {
  return i32x4.add(start, i32x4.dot_i16x8_s(pairs, i16x8.splat(1)))
}

/** acc[16] = one row against a q4 panel; its blocks are `xStride` bytes apart. */
export function dot1x16Q4(x: usize, xStride: usize, panel: usize, blocks: usize, flags: i32, acc: usize): void {
  memory.fill(acc, 0, 64)
  const header = headerBytes(flags)
  const hasMins = (flags & MINS) != 0
  for (let b: usize = 0; b < blocks; b++) {
    // Without minimums a code c means c - 8.
    const start = hasMins ? i32x4.splat(0) : v128.load32_splat(x, BLOCK_OFFSET)
    let w = panel + header
    const end = w + 4 * OCTET
    let at = x
    if (ASC_FEATURE_RELAXED_SIMD) {
      const mask = i8x16.splat(15)
      let p0 = i16x8.splat(0)
      let p1 = p0
      let p2 = p0
      let p3 = p0
      while (w < end) {
        const first = v128.load32_splat(at, BLOCK_I8)
        const second = v128.load32_splat(at, BLOCK_I8 + 4)
        let packed = v128.load(w)
        p0 = i16x8.add(p0, i16x8.relaxed_dot_i8x16_i7x16_s(first, v128.and(packed, mask)))
        p0 = i16x8.add(p0, i16x8.relaxed_dot_i8x16_i7x16_s(second, v128.and(i16x8.shr_u(packed, 4), mask)))
        packed = v128.load(w, 16)
        p1 = i16x8.add(p1, i16x8.relaxed_dot_i8x16_i7x16_s(first, v128.and(packed, mask)))
        p1 = i16x8.add(p1, i16x8.relaxed_dot_i8x16_i7x16_s(second, v128.and(i16x8.shr_u(packed, 4), mask)))
        packed = v128.load(w, 32)
        p2 = i16x8.add(p2, i16x8.relaxed_dot_i8x16_i7x16_s(first, v128.and(packed, mask)))
        p2 = i16x8.add(p2, i16x8.relaxed_dot_i8x16_i7x16_s(second, v128.and(i16x8.shr_u(packed, 4), mask)))
        packed = v128.load(w, 48)
        p3 = i16x8.add(p3, i16x8.relaxed_dot_i8x16_i7x16_s(first, v128.and(packed, mask)))
        p3 = i16x8.add(p3, i16x8.relaxed_dot_i8x16_i7x16_s(second, v128.and(i16x8.shr_u(packed, 4), mask)))
        at += 8
        w += OCTET
      }
      const s2 = widenPairs(p2, start)
      const s3 = widenPairs(p3, start)
      finish16(acc, panel, x, widenPairs(p0, start), widenPairs(p1, start), s2, s3)
    } else {
      const mask = i16x8.splat(15)
      let s0 = start
      let s1 = start
      let s2 = start
      let s3 = start
      while (w < end) {
        const v0 = v128.load32_splat(at, BLOCK_I16)
        const v1 = v128.load32_splat(at, BLOCK_I16 + 4)
        const v2 = v128.load32_splat(at, BLOCK_I16 + 8)
        const v3 = v128.load32_splat(at, BLOCK_I16 + 12)
        s0 = addOctet(s0, v128.load(w), mask, v0, v1, v2, v3)
        s1 = addOctet(s1, v128.load(w, 16), mask, v0, v1, v2, v3)
        s2 = addOctet(s2, v128.load(w, 32), mask, v0, v1, v2, v3)
        s3 = addOctet(s3, v128.load(w, 48), mask, v0, v1, v2, v3)
        at += 16
        w += OCTET
      }
      finish16(acc, panel, x, s0, s1, s2, s3)
    }
    if (hasMins) addMins(acc, panel, false, x)
    x += xStride
    panel += header + 4 * OCTET
  }
}

/** sum + 8 columns of 4 rows; v0 .. v3 are the i16 activations of the columns (0, 1), (2, 3), (4, 5), (6, 7). */
// @ts-ignore: decorator
@inline
function addOctet(sum: v128, packed: v128, mask: v128, v0: v128, v1: v128, v2: v128, v3: v128): v128 {
  sum = i32x4.add(sum, i32x4.dot_i16x8_s(v0, v128.and(packed, mask)))
  sum = i32x4.add(sum, i32x4.dot_i16x8_s(v1, v128.and(i16x8.shr_u(packed, 4), mask)))
  sum = i32x4.add(sum, i32x4.dot_i16x8_s(v2, v128.and(i16x8.shr_u(packed, 8), mask)))
  return i32x4.add(sum, i32x4.dot_i16x8_s(v3, i16x8.shr_u(packed, 12)))
}

/** One block of a quad of rows against 8 of the 16 outputs of a q4 panel whose nibbles are bytes (spreadNibbles), relaxed. */
// @ts-ignore: decorator
@inline
function block4x8Q4(x: usize, scales: usize, w: usize, hasMins: bool, acc: usize): void {
  let a0 = i16x8.splat(0)
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
    a0 = i16x8.add(a0, i16x8.relaxed_dot_i8x16_i7x16_s(value, w0))
    a1 = i16x8.add(a1, i16x8.relaxed_dot_i8x16_i7x16_s(value, w1))
    value = v128.load32_splat(at, BLOCK_BYTES + BLOCK_I8)
    b0 = i16x8.add(b0, i16x8.relaxed_dot_i8x16_i7x16_s(value, w0))
    b1 = i16x8.add(b1, i16x8.relaxed_dot_i8x16_i7x16_s(value, w1))
    value = v128.load32_splat(at, 2 * BLOCK_BYTES + BLOCK_I8)
    c0 = i16x8.add(c0, i16x8.relaxed_dot_i8x16_i7x16_s(value, w0))
    c1 = i16x8.add(c1, i16x8.relaxed_dot_i8x16_i7x16_s(value, w1))
    value = v128.load32_splat(at, 3 * BLOCK_BYTES + BLOCK_I8)
    d0 = i16x8.add(d0, i16x8.relaxed_dot_i8x16_i7x16_s(value, w0))
    d1 = i16x8.add(d1, i16x8.relaxed_dot_i8x16_i7x16_s(value, w1))
    at += 4
    w += OCTET
  }
  finishPairs(acc, scales, hasMins, x, a0, a1)
  finishPairs(acc + 64, scales, hasMins, x + BLOCK_BYTES, b0, b1)
  finishPairs(acc + 128, scales, hasMins, x + 2 * BLOCK_BYTES, c0, c1)
  finishPairs(acc + 192, scales, hasMins, x + 3 * BLOCK_BYTES, d0, d1)
}

// @ts-ignore: decorator
@inline
function finishPairs(acc: usize, scales: usize, hasMins: bool, x: usize, p0: v128, p1: v128): void {
  const start = hasMins ? i32x4.splat(0) : v128.load32_splat(x, BLOCK_OFFSET)
  finish8(acc, scales, x, widenPairs(p0, start), widenPairs(p1, start))
}

/** acc[4][16] = a quad of rows against a q4 panel, relaxed. */
function dot4x16Q4(x: usize, panel: usize, codes: usize, blocks: usize, flags: i32, acc: usize): void {
  memory.fill(acc, 0, 256)
  const hasMins = (flags & MINS) != 0
  const stride = headerBytes(flags) + 4 * OCTET
  for (let b: usize = 0; b < blocks; b++) {
    block4x8Q4(x, panel, codes, hasMins, acc)
    block4x8Q4(x, panel + 16, codes + 32, hasMins, acc + 32)
    if (hasMins) {
      for (let r: usize = 0; r < 4; r++) addMins(acc + r * 64, panel, false, x + r * BLOCK_BYTES)
    }
    x += QUAD_BYTES
    panel += stride
    codes += 512
  }
}

/** The nibbles of a q4 panel as bytes, 512 a block: of each 8 columns the low nibbles, then the high ones. */
function spreadNibbles(panel: usize, blocks: usize, flags: i32, dst: usize): void {
  const mask = i8x16.splat(15)
  const header = headerBytes(flags)
  for (let b: usize = 0; b < blocks; b++) {
    panel += header
    for (let g: usize = 0; g < 4; g++) {
      for (let s: usize = 0; s < 64; s += 16) {
        const packed = v128.load(panel + g * OCTET + s)
        v128.store(dst + g * 128 + s, v128.and(packed, mask))
        v128.store(dst + g * 128 + s, v128.and(i16x8.shr_u(packed, 4), mask), 64)
      }
    }
    panel += 4 * OCTET
    dst += 512
  }
}

/** The codes of a q4 panel as those of a q8 panel, 512 bytes per block. */
function expandCodes(panel: usize, blocks: usize, flags: i32, dst: usize): void {
  const offset = i8x16.splat((flags & MINS) != 0 ? 0 : 8)
  const mask = i16x8.splat(15)
  const header = headerBytes(flags)
  for (let b: usize = 0; b < blocks; b++) {
    panel += header
    for (let g: usize = 0; g < 4; g++) {
      for (let s: usize = 0; s < 64; s += 32) {
        // Two sets of 4 rows: 8 rows of each column pair.
        const low = v128.load(panel + g * OCTET + s)
        const high = v128.load(panel + g * OCTET + s, 16)
        const to = dst + g * 4 * PAIR + (s >> 1)
        const pair0 = i8x16.narrow_i16x8_u(v128.and(low, mask), v128.and(high, mask))
        const pair1 = i8x16.narrow_i16x8_u(v128.and(i16x8.shr_u(low, 4), mask), v128.and(i16x8.shr_u(high, 4), mask))
        const pair2 = i8x16.narrow_i16x8_u(v128.and(i16x8.shr_u(low, 8), mask), v128.and(i16x8.shr_u(high, 8), mask))
        const pair3 = i8x16.narrow_i16x8_u(i16x8.shr_u(low, 12), i16x8.shr_u(high, 12))
        v128.store(to, i8x16.sub(pair0, offset))
        v128.store(to, i8x16.sub(pair1, offset), PAIR)
        v128.store(to, i8x16.sub(pair2, offset), 2 * PAIR)
        v128.store(to, i8x16.sub(pair3, offset), 3 * PAIR)
      }
    }
    panel += 4 * OCTET
    dst += 512
  }
}

/**
 * acc[rows][16] = prepared rows against a q8 panel or a q4 one (`wide` false). The rows, `rowBytes` each, lie in quads or one after another
 * (prepare.ts). `temporary`: 512 bytes per block.
 */
export function multiplyQuantizedPanel(
  x: usize,
  rowBytes: usize,
  rows: i32,
  inQuads: bool,
  panel: usize,
  wide: bool,
  flags: i32,
  blocks: usize,
  acc: usize,
  temporary: usize,
): void {
  const header = headerBytes(flags)
  const stride = inQuads ? QUAD_BYTES : BLOCK_BYTES
  const rowStride = inQuads ? BLOCK_BYTES : rowBytes
  let headerStride = header + (wide ? 512 : 256)
  let codes = panel + header
  let codeStride = headerStride
  let r = 0
  if (!wide) {
    if (ASC_FEATURE_RELAXED_SIMD) {
      if (rows >= 4) spreadNibbles(panel, blocks, flags, temporary)
      for (; r + 4 <= rows; r += 4) {
        dot4x16Q4(x + <usize>r * rowBytes, panel, temporary, blocks, flags, acc + <usize>r * 64)
      }
      const rest = x + <usize>r * rowBytes
      for (let i = 0; r + i < rows; i++) {
        dot1x16Q4(rest + <usize>i * rowStride, stride, panel, blocks, flags, acc + <usize>(r + i) * 64)
      }
      return
    }
    if (rows == 1) {
      dot1x16Q4(x, stride, panel, blocks, flags, acc)
      return
    }
    expandCodes(panel, blocks, flags, temporary)
    codes = temporary
    codeStride = 512
  }
  for (; r + 4 <= rows; r += 4) {
    dot4x16Q8(x + <usize>r * rowBytes, panel, headerStride, codes, codeStride, blocks, flags, acc + <usize>r * 64)
  }
  let rest = x + <usize>r * rowBytes
  if (r + 2 <= rows) {
    dot2x16Q8(rest, rowStride, stride, panel, headerStride, codes, codeStride, blocks, flags, acc + <usize>r * 64)
    r += 2
    rest += 2 * rowStride
  }
  if (r < rows) dot1x16Q8(rest, stride, panel, headerStride, codes, codeStride, blocks, flags, acc + <usize>r * 64)
}
