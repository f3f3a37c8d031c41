// Products of int8 activations with q4 panels (quantized-panel.ts).
import { BLOCK_BYTES, BLOCK_I16, BLOCK_I8, BLOCK_OFFSET, QUAD_BYTES } from './prepare'
import { addMins, finish16, finish8, headerBytes, MINS, OCTET, PAIR } from './quantized-panel'

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
export function dot4x16Q4(x: usize, panel: usize, codes: usize, blocks: usize, flags: i32, acc: usize): void {
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
export function spreadNibbles(panel: usize, blocks: usize, flags: i32, dst: usize): void {
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
export function expandCodes(panel: usize, blocks: usize, flags: i32, dst: usize): void {
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
