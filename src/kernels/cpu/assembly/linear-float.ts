// Products with f32 and f16 weight panels. Every output element is one chain acc = acc + x[k] w[k], k ascending from acc = 0: in every kernel here,
// for any number of rows.
import { madd, widenHigh, widenLow } from './simd'

/** Columns of a panel that GEMM takes at a time: [256][16] f32 of weights are half of a level-1 cache. */
export const CHUNK: usize = 256
/** Bytes of one column of an f32 panel. */
const STEP: usize = 64

/** acc[16] (+)= x[depth] w[depth][16]: one row against f32 weights. */
export function dot1x16(x: usize, w: usize, depth: usize, acc: usize, first: bool): void {
  let a0 = f32x4.splat(0)
  let a1 = a0
  let a2 = a0
  let a3 = a0
  if (!first) {
    a0 = v128.load(acc)
    a1 = v128.load(acc, 16)
    a2 = v128.load(acc, 32)
    a3 = v128.load(acc, 48)
  }
  const end = x + depth * 4
  while (x < end) {
    const value = v128.load32_splat(x)
    a0 = madd(value, v128.load(w), a0)
    a1 = madd(value, v128.load(w, 16), a1)
    a2 = madd(value, v128.load(w, 32), a2)
    a3 = madd(value, v128.load(w, 48), a3)
    x += 4
    w += STEP
  }
  v128.store(acc, a0)
  v128.store(acc, a1, 16)
  v128.store(acc, a2, 32)
  v128.store(acc, a3, 48)
}

/** Four rows, `xStride` bytes apart, against 8 of the panel's 16 outputs; acc rows are `accStride` bytes apart. */
export function dot4x8(x: usize, xStride: usize, w: usize, depth: usize, acc: usize, accStride: usize, first: bool): void {
  let x1 = x + xStride
  let x2 = x1 + xStride
  let x3 = x2 + xStride
  const acc1 = acc + accStride
  const acc2 = acc1 + accStride
  const acc3 = acc2 + accStride
  let a0 = f32x4.splat(0)
  let a1 = a0
  let b0 = a0
  let b1 = a0
  let c0 = a0
  let c1 = a0
  let d0 = a0
  let d1 = a0
  if (!first) {
    a0 = v128.load(acc)
    a1 = v128.load(acc, 16)
    b0 = v128.load(acc1)
    b1 = v128.load(acc1, 16)
    c0 = v128.load(acc2)
    c1 = v128.load(acc2, 16)
    d0 = v128.load(acc3)
    d1 = v128.load(acc3, 16)
  }
  const end = x + depth * 4
  while (x < end) {
    const w0 = v128.load(w)
    const w1 = v128.load(w, 16)
    let value = v128.load32_splat(x)
    a0 = madd(value, w0, a0)
    a1 = madd(value, w1, a1)
    value = v128.load32_splat(x1)
    b0 = madd(value, w0, b0)
    b1 = madd(value, w1, b1)
    value = v128.load32_splat(x2)
    c0 = madd(value, w0, c0)
    c1 = madd(value, w1, c1)
    value = v128.load32_splat(x3)
    d0 = madd(value, w0, d0)
    d1 = madd(value, w1, d1)
    x += 4
    x1 += 4
    x2 += 4
    x3 += 4
    w += STEP
  }
  v128.store(acc, a0)
  v128.store(acc, a1, 16)
  v128.store(acc1, b0)
  v128.store(acc1, b1, 16)
  v128.store(acc2, c0)
  v128.store(acc2, c1, 16)
  v128.store(acc3, d0)
  v128.store(acc3, d1, 16)
}

/** Three rows against 8 of the panel's 16 outputs, f32 (`half` false) or f16 as they are stored. */
// @ts-ignore: decorator
@inline
function body3x8(x: usize, xStride: usize, w: usize, half: bool, depth: usize, acc: usize, accStride: usize, first: bool): void {
  let x1 = x + xStride
  let x2 = x1 + xStride
  const acc1 = acc + accStride
  const acc2 = acc1 + accStride
  let a0 = f32x4.splat(0)
  let a1 = a0
  let b0 = a0
  let b1 = a0
  let c0 = a0
  let c1 = a0
  if (!first) {
    a0 = v128.load(acc)
    a1 = v128.load(acc, 16)
    b0 = v128.load(acc1)
    b1 = v128.load(acc1, 16)
    c0 = v128.load(acc2)
    c1 = v128.load(acc2, 16)
  }
  const end = x + depth * 4
  while (x < end) {
    const pairs = v128.load(w)
    const w0 = half ? widenLow(pairs) : pairs
    const w1 = half ? widenHigh(pairs) : v128.load(w, 16)
    let value = v128.load32_splat(x)
    a0 = madd(value, w0, a0)
    a1 = madd(value, w1, a1)
    value = v128.load32_splat(x1)
    b0 = madd(value, w0, b0)
    b1 = madd(value, w1, b1)
    value = v128.load32_splat(x2)
    c0 = madd(value, w0, c0)
    c1 = madd(value, w1, c1)
    x += 4
    x1 += 4
    x2 += 4
    w += half ? STEP / 2 : STEP
  }
  v128.store(acc, a0)
  v128.store(acc, a1, 16)
  v128.store(acc1, b0)
  v128.store(acc1, b1, 16)
  v128.store(acc2, c0)
  v128.store(acc2, c1, 16)
}

/** acc[3][16] (+)= three rows against f32 weights. One row alone waits for its own sums; three keep the multipliers busy. */
function dot3x16(x: usize, xStride: usize, w: usize, depth: usize, acc: usize, accStride: usize, first: bool): void {
  for (let half: usize = 0; half < 64; half += 32) body3x8(x, xStride, w + half, false, depth, acc + half, accStride, first)
}

/** The same against an f16 panel. */
function dot3x16Half(x: usize, xStride: usize, w: usize, depth: usize, acc: usize, accStride: usize, first: bool): void {
  for (let half: usize = 0; half < 32; half += 16) body3x8(x, xStride, w + half, true, depth, acc + (half << 1), accStride, first)
}

/** acc[rows][16] (+)= x w for any number of rows. */
export function dotRows(
  x: usize,
  xStride: usize,
  rows: i32,
  w: usize,
  depth: usize,
  acc: usize,
  accStride: usize,
  first: bool,
): void {
  let r = 0
  for (; r + 4 <= rows; r += 4) {
    const from = x + <usize>r * xStride
    const to = acc + <usize>r * accStride
    dot4x8(from, xStride, w, depth, to, accStride, first)
    dot4x8(from, xStride, w + 32, depth, to + 32, accStride, first)
  }
  if (r + 3 == rows) {
    dot3x16(x + <usize>r * xStride, xStride, w, depth, acc + <usize>r * accStride, accStride, first)
    return
  }
  for (; r < rows; r++) dot1x16(x + <usize>r * xStride, w, depth, acc + <usize>r * accStride, first)
}

/** acc[rows][16] (+)= x w against an f16 panel for 1 to 3 rows: too few to make widening the panel beforehand worth its stores. */
export function dotRowsHalf(
  x: usize,
  xStride: usize,
  rows: i32,
  w: usize,
  depth: usize,
  acc: usize,
  accStride: usize,
  first: bool,
): void {
  if (rows == 3) dot3x16Half(x, xStride, w, depth, acc, accStride, first)
  else if (rows == 2) dot2x16Half(x, xStride, w, depth, acc, accStride, first)
  else dot1x16Half(x, w, depth, acc, first)
}

/** acc[16] (+)= x w, one row against an f16 panel [depth][16]. x is scaled (2^96), the widened weights lack 2^112. */
function dot1x16Half(x: usize, w: usize, depth: usize, acc: usize, first: bool): void {
  let a0 = f32x4.splat(0)
  let a1 = a0
  let a2 = a0
  let a3 = a0
  if (!first) {
    a0 = v128.load(acc)
    a1 = v128.load(acc, 16)
    a2 = v128.load(acc, 32)
    a3 = v128.load(acc, 48)
  }
  const end = x + depth * 4
  while (x < end) {
    const value = v128.load32_splat(x)
    const low = v128.load(w)
    const high = v128.load(w, 16)
    a0 = madd(value, widenLow(low), a0)
    a1 = madd(value, widenHigh(low), a1)
    a2 = madd(value, widenLow(high), a2)
    a3 = madd(value, widenHigh(high), a3)
    x += 4
    w += 32
  }
  v128.store(acc, a0)
  v128.store(acc, a1, 16)
  v128.store(acc, a2, 32)
  v128.store(acc, a3, 48)
}

/** Two rows at once: the weights are widened once. */
function dot2x16Half(x: usize, xStride: usize, w: usize, depth: usize, acc: usize, accStride: usize, first: bool): void {
  let x1 = x + xStride
  const acc1 = acc + accStride
  let a0 = f32x4.splat(0)
  let a1 = a0
  let a2 = a0
  let a3 = a0
  let b0 = a0
  let b1 = a0
  let b2 = a0
  let b3 = a0
  if (!first) {
    a0 = v128.load(acc)
    a1 = v128.load(acc, 16)
    a2 = v128.load(acc, 32)
    a3 = v128.load(acc, 48)
    b0 = v128.load(acc1)
    b1 = v128.load(acc1, 16)
    b2 = v128.load(acc1, 32)
    b3 = v128.load(acc1, 48)
  }
  const end = x + depth * 4
  while (x < end) {
    const v0 = v128.load32_splat(x)
    const v1 = v128.load32_splat(x1)
    const low = v128.load(w)
    let weight = widenLow(low)
    a0 = madd(v0, weight, a0)
    b0 = madd(v1, weight, b0)
    weight = widenHigh(low)
    a1 = madd(v0, weight, a1)
    b1 = madd(v1, weight, b1)
    const high = v128.load(w, 16)
    weight = widenLow(high)
    a2 = madd(v0, weight, a2)
    b2 = madd(v1, weight, b2)
    weight = widenHigh(high)
    a3 = madd(v0, weight, a3)
    b3 = madd(v1, weight, b3)
    x += 4
    x1 += 4
    w += 32
  }
  v128.store(acc, a0)
  v128.store(acc, a1, 16)
  v128.store(acc, a2, 32)
  v128.store(acc, a3, 48)
  v128.store(acc1, b0)
  v128.store(acc1, b1, 16)
  v128.store(acc1, b2, 32)
  v128.store(acc1, b3, 48)
}

/** Widens `depth` columns of an f16 panel to f32 (times 2^-112). */
export function widenPanel(w: usize, depth: usize, dst: usize): void {
  const end = w + depth * 32
  while (w < end) {
    const low = v128.load(w)
    const high = v128.load(w, 16)
    v128.store(dst, widenLow(low))
    v128.store(dst, widenHigh(low), 16)
    v128.store(dst, widenLow(high), 32)
    v128.store(dst, widenHigh(high), 48)
    w += 32
    dst += STEP
  }
}

/** acc[rows][16] = x w against a panel of f32 (`half` false) or f16 weights. `temporary`: CHUNK * 64 bytes. */
export function multiplyPanel(
  x: usize,
  xStride: usize,
  rows: i32,
  w: usize,
  half: bool,
  depth: usize,
  acc: usize,
  temporary: usize,
): void {
  if (half && rows < 4) {
    dotRowsHalf(x, xStride, rows, w, depth, acc, STEP, true)
    return
  }
  for (let k: usize = 0; k < depth; k += CHUNK) {
    const chunk = min(CHUNK, depth - k)
    let weights = w + k * STEP
    if (half) {
      widenPanel(w + k * 32, chunk, temporary)
      weights = temporary
    }
    dotRows(x + k * 4, xStride, rows, weights, chunk, acc, STEP, k == 0)
  }
}
