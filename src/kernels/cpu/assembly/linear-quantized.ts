// Products of int8 activations with q8 and q4 weight panels. Within a block of 32 columns the sum is an exact integer; blocks are added in ascending
// order as f32: acc = acc + f32(sum) * (weight scale * activation scale), with a minimum acc = acc + min * (sum of the block's activations).
// The same steps in every kernel here, for any number of rows.
//
// A panel is a sequence of blocks, each [scales f16 x 16][second scales][mins][second mins][codes]: the second ones for groups of 16 columns. The
// f16 values are stored times a power of two of the panel's own and widened without their 2^112 (simd.ts); activation scales carry 2^96.
//
// Codes: q8, for each pair of columns pairs (k, k + 2), 4 sets of 4 rows: 16 bytes = rows 0..3 x (k, k + 1), then rows 0..3 x (k + 2, k + 3).
// q4, for each 8 columns, 4 sets of 4 rows: 16 bytes, a row's four hold the columns (0, 2) (4, 6) (1, 3) (5, 7), low nibble first.
import { BLOCK_BYTES, BLOCK_I16, BLOCK_I8, BLOCK_OFFSET, BLOCK_SUMS } from './prepare'
import { madd, widenHigh, widenLow } from './simd'

export const GROUP16: i32 = 1
export const MINS: i32 = 2

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

/** acc[16] = one row against a q8 panel. */
export function dot1x16Q8(x: usize, header: usize, headerStride: usize, codes: usize, codeStride: usize, blocks: usize, flags: i32, acc: usize): void {
  let a0 = f32x4.splat(0)
  let a1 = a0
  let a2 = a0
  let a3 = a0
  const grouped = (flags & GROUP16) != 0
  for (let b: usize = 0; b < blocks; b++) {
    const activationScale = v128.load32_splat(x)
    let w = codes
    for (let half: usize = 0; half < 2; half++) {
      let s0 = i32x4.splat(0)
      let s1 = s0
      let s2 = s0
      let s3 = s0
      let at = x + half * 32
      const end = at + (grouped ? 32 : 64)
      while (at < end) {
        const low = v128.load32_splat(at, BLOCK_I16)
        const high = v128.load32_splat(at, BLOCK_I16 + 4)
        s0 = i32x4.add(s0, i32x4.dot_i16x8_s(low, v128.load8x8_s(w)))
        s1 = i32x4.add(s1, i32x4.dot_i16x8_s(low, v128.load8x8_s(w, 16)))
        s2 = i32x4.add(s2, i32x4.dot_i16x8_s(low, v128.load8x8_s(w, 32)))
        s3 = i32x4.add(s3, i32x4.dot_i16x8_s(low, v128.load8x8_s(w, 48)))
        s0 = i32x4.add(s0, i32x4.dot_i16x8_s(high, v128.load8x8_s(w, 8)))
        s1 = i32x4.add(s1, i32x4.dot_i16x8_s(high, v128.load8x8_s(w, 24)))
        s2 = i32x4.add(s2, i32x4.dot_i16x8_s(high, v128.load8x8_s(w, 40)))
        s3 = i32x4.add(s3, i32x4.dot_i16x8_s(high, v128.load8x8_s(w, 56)))
        at += 8
        w += 64
      }
      const low = v128.load(header + half * 32)
      const high = v128.load(header + half * 32, 16)
      a0 = addScaled(a0, s0, widenLow(low), activationScale)
      a1 = addScaled(a1, s1, widenHigh(low), activationScale)
      a2 = addScaled(a2, s2, widenLow(high), activationScale)
      a3 = addScaled(a3, s3, widenHigh(high), activationScale)
      if (!grouped) break
    }
    if ((flags & MINS) != 0) {
      const mins = header + (grouped ? 64 : 32)
      for (let half: usize = 0; half < 2; half++) {
        const sum = grouped
          ? v128.load32_splat(x + half * 4, BLOCK_SUMS)
          : f32x4.splat(load<f32>(x, BLOCK_SUMS) + load<f32>(x, BLOCK_SUMS + 4))
        const low = v128.load(mins + half * 32)
        const high = v128.load(mins + half * 32, 16)
        a0 = madd(widenLow(low), sum, a0)
        a1 = madd(widenHigh(low), sum, a1)
        a2 = madd(widenLow(high), sum, a2)
        a3 = madd(widenHigh(high), sum, a3)
        if (!grouped) break
      }
    }
    x += BLOCK_BYTES
    header += headerStride
    codes += codeStride
  }
  v128.store(acc, a0)
  v128.store(acc, a1, 16)
  v128.store(acc, a2, 32)
  v128.store(acc, a3, 48)
}

/** One block of 4 activation rows against 2 of the 4 sets of a panel; acc rows are 64 bytes apart and start at zero for the first block. */
// @ts-ignore: decorator
@inline
function block4x8Q8(x: usize, xStride: usize, header: usize, w: usize, high: bool, flags: i32, acc: usize): void {
  const x1 = x + xStride
  const x2 = x1 + xStride
  const x3 = x2 + xStride
  const grouped = (flags & GROUP16) != 0
  for (let half: usize = 0; half < 2; half++) {
    let a0 = i32x4.splat(0)
    let a1 = a0
    let b0 = a0
    let b1 = a0
    let c0 = a0
    let c1 = a0
    let d0 = a0
    let d1 = a0
    let at = half * 32
    const end = at + (grouped ? 32 : 64)
    while (at < end) {
      let w0 = v128.load8x8_s(w)
      let w1 = v128.load8x8_s(w, 16)
      let value = v128.load32_splat(x + at, BLOCK_I16)
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(value, w0))
      a1 = i32x4.add(a1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(x1 + at, BLOCK_I16)
      b0 = i32x4.add(b0, i32x4.dot_i16x8_s(value, w0))
      b1 = i32x4.add(b1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(x2 + at, BLOCK_I16)
      c0 = i32x4.add(c0, i32x4.dot_i16x8_s(value, w0))
      c1 = i32x4.add(c1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(x3 + at, BLOCK_I16)
      d0 = i32x4.add(d0, i32x4.dot_i16x8_s(value, w0))
      d1 = i32x4.add(d1, i32x4.dot_i16x8_s(value, w1))
      w0 = v128.load8x8_s(w, 8)
      w1 = v128.load8x8_s(w, 24)
      value = v128.load32_splat(x + at, BLOCK_I16 + 4)
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(value, w0))
      a1 = i32x4.add(a1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(x1 + at, BLOCK_I16 + 4)
      b0 = i32x4.add(b0, i32x4.dot_i16x8_s(value, w0))
      b1 = i32x4.add(b1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(x2 + at, BLOCK_I16 + 4)
      c0 = i32x4.add(c0, i32x4.dot_i16x8_s(value, w0))
      c1 = i32x4.add(c1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(x3 + at, BLOCK_I16 + 4)
      d0 = i32x4.add(d0, i32x4.dot_i16x8_s(value, w0))
      d1 = i32x4.add(d1, i32x4.dot_i16x8_s(value, w1))
      at += 8
      w += 64
    }
    finish2(acc, header, half, high, flags, x, a0, a1)
    finish2(acc + 64, header, half, high, flags, x1, b0, b1)
    finish2(acc + 128, header, half, high, flags, x2, c0, c1)
    finish2(acc + 192, header, half, high, flags, x3, d0, d1)
    if (!grouped) break
  }
}

/** Adds a block's (or half block's) integer sums of 8 outputs to their f32 sums. */
// @ts-ignore: decorator
@inline
function finish2(acc: usize, header: usize, half: usize, high: bool, flags: i32, x: usize, s0: v128, s1: v128): void {
  const activationScale = v128.load32_splat(x)
  const scales = v128.load(header + half * 32 + (high ? 16 : 0))
  v128.store(acc, addScaled(v128.load(acc), s0, widenLow(scales), activationScale))
  v128.store(acc, addScaled(v128.load(acc, 16), s1, widenHigh(scales), activationScale), 16)
}

/** Adds the minimums of one block to 8 outputs of one row. */
// @ts-ignore: decorator
@inline
function addMins(acc: usize, header: usize, high: bool, grouped: bool, x: usize): void {
  for (let half: usize = 0; half < 2; half++) {
    const sum = grouped
      ? v128.load32_splat(x + half * 4, BLOCK_SUMS)
      : f32x4.splat(load<f32>(x, BLOCK_SUMS) + load<f32>(x, BLOCK_SUMS + 4))
    const mins = v128.load(header + (grouped ? 64 : 32) + half * 32 + (high ? 16 : 0))
    v128.store(acc, madd(widenLow(mins), sum, v128.load(acc)))
    v128.store(acc, madd(widenHigh(mins), sum, v128.load(acc, 16)), 16)
    if (!grouped) return
  }
}

/** acc[4][16] = four rows against a q8 panel. */
function dot4x16Q8(x: usize, xStride: usize, header: usize, headerStride: usize, codes: usize, codeStride: usize, blocks: usize, flags: i32, acc: usize): void {
  memory.fill(acc, 0, 256)
  for (let b: usize = 0; b < blocks; b++) {
    block4x8Q8(x, xStride, header, codes, false, flags, acc)
    block4x8Q8(x, xStride, header, codes + 32, true, flags, acc + 32)
    if ((flags & MINS) != 0) {
      for (let r: usize = 0; r < 4; r++) {
        addMins(acc + r * 64, header, false, (flags & GROUP16) != 0, x + r * xStride)
        addMins(acc + r * 64 + 32, header, true, (flags & GROUP16) != 0, x + r * xStride)
      }
    }
    x += BLOCK_BYTES
    header += headerStride
    codes += codeStride
  }
}

/** Integer sums of one block and one set of 4 rows, q4: activations in i16. */
// @ts-ignore: decorator
@inline
function sumQ4(x: usize, w: usize, start: v128): v128 {
  let sum = start
  const mask = i16x8.splat(15)
  for (let g: usize = 0; g < 4; g++) {
    const packed = v128.load(w + g * 64)
    const at = x + g * 16
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(v128.load32_splat(at, BLOCK_I16), v128.and(packed, mask)))
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(v128.load32_splat(at, BLOCK_I16 + 4), v128.and(i16x8.shr_u(packed, 4), mask)))
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(v128.load32_splat(at, BLOCK_I16 + 8), v128.and(i16x8.shr_u(packed, 8), mask)))
    sum = i32x4.add(sum, i32x4.dot_i16x8_s(v128.load32_splat(at, BLOCK_I16 + 12), i16x8.shr_u(packed, 12)))
  }
  return sum
}

/** The same sums with relaxed dot products of int8: eight pair sums of at most 2 * 127 * 15 fit an i16. */
// @ts-ignore: decorator
@inline
function sumQ4Relaxed(x: usize, w: usize, start: v128): v128 {
  const mask = i8x16.splat(15)
  let pairs = i16x8.splat(0)
  for (let g: usize = 0; g < 4; g++) {
    const packed = v128.load(w + g * 64)
    const low = v128.and(packed, mask)
    const high = v128.and(i16x8.shr_u(packed, 4), mask)
    pairs = i16x8.add(pairs, i16x8.relaxed_dot_i8x16_i7x16_s(v128.load32_splat(x + g * 8, BLOCK_I8), low))
    pairs = i16x8.add(pairs, i16x8.relaxed_dot_i8x16_i7x16_s(v128.load32_splat(x + g * 8, BLOCK_I8 + 4), high))
  }
  return i32x4.add(start, i32x4.dot_i16x8_s(pairs, i16x8.splat(1)))
}

/** acc[16] = one row against a q4 panel. */
export function dot1x16Q4(x: usize, panel: usize, blocks: usize, flags: i32, acc: usize): void {
  let a0 = f32x4.splat(0)
  let a1 = a0
  let a2 = a0
  let a3 = a0
  const header = headerBytes(flags)
  const hasMins = (flags & MINS) != 0
  for (let b: usize = 0; b < blocks; b++) {
    const activationScale = v128.load32_splat(x)
    const w = panel + header
    // Without minimums a code c means c - 8.
    const start = hasMins ? i32x4.splat(0) : v128.load32_splat(x, BLOCK_OFFSET)
    let s0: v128
    let s1: v128
    let s2: v128
    let s3: v128
    if (ASC_FEATURE_RELAXED_SIMD) {
      s0 = sumQ4Relaxed(x, w, start)
      s1 = sumQ4Relaxed(x, w + 16, start)
      s2 = sumQ4Relaxed(x, w + 32, start)
      s3 = sumQ4Relaxed(x, w + 48, start)
    } else {
      s0 = sumQ4(x, w, start)
      s1 = sumQ4(x, w + 16, start)
      s2 = sumQ4(x, w + 32, start)
      s3 = sumQ4(x, w + 48, start)
    }
    const low = v128.load(panel)
    const high = v128.load(panel, 16)
    a0 = addScaled(a0, s0, widenLow(low), activationScale)
    a1 = addScaled(a1, s1, widenHigh(low), activationScale)
    a2 = addScaled(a2, s2, widenLow(high), activationScale)
    a3 = addScaled(a3, s3, widenHigh(high), activationScale)
    if (hasMins) {
      const sum = f32x4.splat(load<f32>(x, BLOCK_SUMS) + load<f32>(x, BLOCK_SUMS + 4))
      const minLow = v128.load(panel, 32)
      const minHigh = v128.load(panel, 48)
      a0 = madd(widenLow(minLow), sum, a0)
      a1 = madd(widenHigh(minLow), sum, a1)
      a2 = madd(widenLow(minHigh), sum, a2)
      a3 = madd(widenHigh(minHigh), sum, a3)
    }
    x += BLOCK_BYTES
    panel += header + 256
  }
  v128.store(acc, a0)
  v128.store(acc, a1, 16)
  v128.store(acc, a2, 32)
  v128.store(acc, a3, 48)
}

/** One block of 4 activation rows against 2 of the 4 sets of a q4 panel whose nibbles are bytes (spreadNibbles). */
// @ts-ignore: decorator
@inline
function block4x8Q4(x: usize, xStride: usize, header: usize, w: usize, high: bool, hasMins: bool, acc: usize): void {
  const x1 = x + xStride
  const x2 = x1 + xStride
  const x3 = x2 + xStride
  let a0 = i16x8.splat(0)
  let a1 = a0
  let b0 = a0
  let b1 = a0
  let c0 = a0
  let c1 = a0
  let d0 = a0
  let d1 = a0
  for (let at: usize = 0; at < 32; at += 4) {
    const w0 = v128.load(w)
    const w1 = v128.load(w, 16)
    let value = v128.load32_splat(x + at, BLOCK_I8)
    a0 = i16x8.add(a0, i16x8.relaxed_dot_i8x16_i7x16_s(value, w0))
    a1 = i16x8.add(a1, i16x8.relaxed_dot_i8x16_i7x16_s(value, w1))
    value = v128.load32_splat(x1 + at, BLOCK_I8)
    b0 = i16x8.add(b0, i16x8.relaxed_dot_i8x16_i7x16_s(value, w0))
    b1 = i16x8.add(b1, i16x8.relaxed_dot_i8x16_i7x16_s(value, w1))
    value = v128.load32_splat(x2 + at, BLOCK_I8)
    c0 = i16x8.add(c0, i16x8.relaxed_dot_i8x16_i7x16_s(value, w0))
    c1 = i16x8.add(c1, i16x8.relaxed_dot_i8x16_i7x16_s(value, w1))
    value = v128.load32_splat(x3 + at, BLOCK_I8)
    d0 = i16x8.add(d0, i16x8.relaxed_dot_i8x16_i7x16_s(value, w0))
    d1 = i16x8.add(d1, i16x8.relaxed_dot_i8x16_i7x16_s(value, w1))
    w += 64
  }
  finishPairs(acc, header, high, hasMins, x, a0, a1)
  finishPairs(acc + 64, header, high, hasMins, x1, b0, b1)
  finishPairs(acc + 128, header, high, hasMins, x2, c0, c1)
  finishPairs(acc + 192, header, high, hasMins, x3, d0, d1)
}

// @ts-ignore: decorator
@inline
function finishPairs(acc: usize, header: usize, high: bool, hasMins: bool, x: usize, p0: v128, p1: v128): void {
  const ones = i16x8.splat(1)
  const start = hasMins ? i32x4.splat(0) : v128.load32_splat(x, BLOCK_OFFSET)
  const s0 = i32x4.add(start, i32x4.dot_i16x8_s(p0, ones))
  const s1 = i32x4.add(start, i32x4.dot_i16x8_s(p1, ones))
  finish2(acc, header, 0, high, 0, x, s0, s1)
}

/** acc[4][16] = four rows against a q4 panel, relaxed. */
function dot4x16Q4(x: usize, xStride: usize, panel: usize, codes: usize, blocks: usize, flags: i32, acc: usize): void {
  memory.fill(acc, 0, 256)
  const hasMins = (flags & MINS) != 0
  const stride = headerBytes(flags) + 256
  for (let b: usize = 0; b < blocks; b++) {
    block4x8Q4(x, xStride, panel, codes, false, hasMins, acc)
    block4x8Q4(x, xStride, panel, codes + 32, true, hasMins, acc + 32)
    if (hasMins) {
      for (let r: usize = 0; r < 4; r++) {
        addMins(acc + r * 64, panel, false, false, x + r * xStride)
        addMins(acc + r * 64 + 32, panel, true, false, x + r * xStride)
      }
    }
    x += BLOCK_BYTES
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
        const packed = v128.load(panel + g * 64 + s)
        v128.store(dst + g * 128 + s, v128.and(packed, mask))
        v128.store(dst + g * 128 + s, v128.and(i16x8.shr_u(packed, 4), mask), 64)
      }
    }
    panel += 256
    dst += 512
  }
}

/** The codes of a q4 panel as those of a q8 panel, 512 bytes a block. */
function expandCodes(panel: usize, blocks: usize, flags: i32, dst: usize): void {
  const offset = i8x16.splat((flags & MINS) != 0 ? 0 : 8)
  const mask = i16x8.splat(15)
  const header = headerBytes(flags)
  for (let b: usize = 0; b < blocks; b++) {
    panel += header
    for (let g: usize = 0; g < 4; g++) {
      for (let s: usize = 0; s < 64; s += 16) {
        const packed = v128.load(panel + g * 64 + s)
        const first = i8x16.narrow_i16x8_u(v128.and(packed, mask), v128.and(i16x8.shr_u(packed, 4), mask))
        const second = i8x16.narrow_i16x8_u(v128.and(i16x8.shr_u(packed, 8), mask), i16x8.shr_u(packed, 12))
        v128.store(dst + g * 128 + s, i8x16.sub(first, offset))
        v128.store(dst + g * 128 + s, i8x16.sub(second, offset), 64)
      }
    }
    panel += 256
    dst += 512
  }
}

/** acc[rows][16] = prepared rows against a q8 panel or a q4 one (`wide` false). `temporary`: 512 bytes a block. */
export function multiplyQuantizedPanel(
  x: usize,
  xStride: usize,
  rows: i32,
  panel: usize,
  wide: bool,
  flags: i32,
  blocks: usize,
  acc: usize,
  temporary: usize,
): void {
  const header = headerBytes(flags)
  let headerStride = header + (wide ? 512 : 256)
  let codes = panel + header
  let codeStride = headerStride
  if (!wide) {
    if (rows < 4) {
      for (let r = 0; r < rows; r++) dot1x16Q4(x + <usize>r * xStride, panel, blocks, flags, acc + <usize>r * 64)
      return
    }
    if (ASC_FEATURE_RELAXED_SIMD) {
      spreadNibbles(panel, blocks, flags, temporary)
      let r = 0
      for (; r + 4 <= rows; r += 4) {
        dot4x16Q4(x + <usize>r * xStride, xStride, panel, temporary, blocks, flags, acc + <usize>r * 64)
      }
      for (; r < rows; r++) dot1x16Q4(x + <usize>r * xStride, panel, blocks, flags, acc + <usize>r * 64)
      return
    }
    expandCodes(panel, blocks, flags, temporary)
    codes = temporary
    codeStride = 512
  }
  let r = 0
  for (; r + 4 <= rows; r += 4) {
    dot4x16Q8(x + <usize>r * xStride, xStride, panel, headerStride, codes, codeStride, blocks, flags, acc + <usize>r * 64)
  }
  for (; r < rows; r++) {
    dot1x16Q8(x + <usize>r * xStride, panel, headerStride, codes, codeStride, blocks, flags, acc + <usize>r * 64)
  }
}
