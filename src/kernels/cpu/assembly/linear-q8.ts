// Products of int8 activations with panels of full q8 codes (quantized-panel.ts), as i16.
import { BLOCK_I16, WORD_BLOCK_BYTES } from './prepare'
import { addMins, addRow, clear, finish16, GROUP16, headerBytes, MINS, PAIR } from './quantized-panel'
import { widenHigh, widenLow } from './simd'

/** acc[16] = one row against a q8 panel; its blocks are `xStride` bytes apart. */
function dot1x16Q8(
  x: usize,
  xStride: usize,
  panel: usize,
  blocks: usize,
  flags: i32,
  acc: usize,
): void {
  clear(acc, 64)
  const grouped = (flags & GROUP16) != 0
  const length: usize = grouped ? 8 * PAIR : 16 * PAIR
  const header = headerBytes(flags)
  for (let b: usize = 0; b < blocks; b++) {
    let w = panel + header
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
      finish16(acc, panel + half * 32, x, s0, s1, s2, s3)
      if (!grouped) break
    }
    if ((flags & MINS) != 0) addMins(acc, panel, grouped, x)
    x += xStride
    panel += header + 16 * PAIR
  }
}

/** Two rows, `rowStride` bytes apart, of blocks `xStride` bytes apart: acc[2][16]. */
function dot2x16Q8(
  x: usize,
  rowStride: usize,
  xStride: usize,
  panel: usize,
  blocks: usize,
  flags: i32,
  acc: usize,
): void {
  clear(acc, 128)
  const grouped = (flags & GROUP16) != 0
  const length: usize = grouped ? 8 * PAIR : 16 * PAIR
  const header = headerBytes(flags)
  for (let b: usize = 0; b < blocks; b++) {
    let w = panel + header
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
      finish16(acc, panel + half * 32, x, a0, a1, a2, a3)
      finish16(acc + 64, panel + half * 32, x + rowStride, b0, b1, b2, b3)
      if (!grouped) break
    }
    if ((flags & MINS) != 0) {
      addMins(acc, panel, grouped, x)
      addMins(acc + 64, panel, grouped, x + rowStride)
    }
    x += xStride
    panel += header + 16 * PAIR
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
      value = v128.load32_splat(at, WORD_BLOCK_BYTES + BLOCK_I16)
      b0 = i32x4.add(b0, i32x4.dot_i16x8_s(value, w0))
      b1 = i32x4.add(b1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(at, 2 * WORD_BLOCK_BYTES + BLOCK_I16)
      c0 = i32x4.add(c0, i32x4.dot_i16x8_s(value, w0))
      c1 = i32x4.add(c1, i32x4.dot_i16x8_s(value, w1))
      value = v128.load32_splat(at, 3 * WORD_BLOCK_BYTES + BLOCK_I16)
      d0 = i32x4.add(d0, i32x4.dot_i16x8_s(value, w0))
      d1 = i32x4.add(d1, i32x4.dot_i16x8_s(value, w1))
      at += 4
      w += PAIR
    }
    const pairs = v128.load(scales + half * 32)
    const low = widenLow(pairs)
    const high = widenHigh(pairs)
    addRow(acc, low, high, x, a0, a1)
    addRow(acc + 64, low, high, x + WORD_BLOCK_BYTES, b0, b1)
    addRow(acc + 128, low, high, x + 2 * WORD_BLOCK_BYTES, c0, c1)
    addRow(acc + 192, low, high, x + 3 * WORD_BLOCK_BYTES, d0, d1)
    if (!grouped) return
  }
}

/** acc[4][16] = a quad of rows against a q8 panel. */
function dot4x16Q8(
  x: usize,
  panel: usize,
  blocks: usize,
  flags: i32,
  acc: usize,
): void {
  clear(acc, 256)
  const grouped = (flags & GROUP16) != 0
  const header = headerBytes(flags)
  for (let b: usize = 0; b < blocks; b++) {
    for (let side: usize = 0; side < 32; side += 16) {
      block4x8Q8(x, panel + side, panel + header + side, grouped, acc + 2 * side)
    }
    if ((flags & MINS) != 0) {
      for (let r: usize = 0; r < 4; r++) addMins(acc + r * 64, panel, grouped, x + r * WORD_BLOCK_BYTES)
    }
    x += 4 * WORD_BLOCK_BYTES
    panel += header + 16 * PAIR
  }
}

/** acc[rows][16] = up to 4 rows, `rowStride` bytes apart, of blocks `xStride` bytes apart; 4 are a quad. */
export function dotFull(x: usize, rowStride: usize, xStride: usize, rows: i32, panel: usize, blocks: usize, flags: i32, acc: usize): void {
  if (rows == 4) {
    dot4x16Q8(x, panel, blocks, flags, acc)
    return
  }
  if (rows >= 2) dot2x16Q8(x, rowStride, xStride, panel, blocks, flags, acc)
  if ((rows & 1) == 0) return
  const last = <usize>(rows - 1)
  dot1x16Q8(x + last * rowStride, xStride, panel, blocks, flags, acc + last * 64)
}
