// Low-rank updates of a product, out += up (down norm(x)), with each row's own adapter; and the activation, which then follows the update instead of
// the product.
import { activated, CLAMPED, GATED, RESIDUAL } from './linear'
import { takeUnits } from './pool'
import { inverseRms } from './prepare'
import { madd, siluClamped, sumLanes } from './simd'

// Words of the table, in the layout of src/kernels/low-rank.ts.
const TABLE_HEADER: usize = 12
const PART_BYTES: usize = 20

/** Ranks per work unit of the first product, and columns per unit of the second. */
const RANKS: i32 = 4
const COLUMNS: i32 = 256

@unmanaged
export class LowRankCommand {
  opcode: i32
  rows: i32
  x: usize
  xStride: usize
  cols: usize
  normWeight: usize // 0: none
  eps: f32
  out: usize
  outStride: usize
  outputs: i32
  adapters: usize // i32[rows], -1: none
  table: usize
  tableStride: usize
  values: usize
  between: usize // f32 [rows, rank]
  betweenStride: usize
  rank: i32 // the largest rank of an adapter
  counter: i32
}

/** between = down norm(x). A work unit is a row and a few ranks. */
export function lowRankDown(c: LowRankCommand): void {
  const blocks = (c.rank + RANKS - 1) / RANKS
  const units = c.rows * blocks
  for (;;) {
    const unit = takeUnits(changetype<usize>(c) + offsetof<LowRankCommand>('counter'), 1)
    if (unit >= units) return
    const row = unit / blocks
    const adapter = load<i32>(c.adapters + (<usize>row << 2))
    if (adapter < 0) continue
    const place = c.table + c.tableStride * adapter
    const first = (unit - row * blocks) * RANKS
    const end = min(first + RANKS, load<i32>(place))
    if (first >= end) continue
    const x = c.x + c.xStride * row
    const factor = c.normWeight == 0 ? <f32>1 : inverseRms(x, c.cols, c.eps)
    const down = c.values + (<usize>load<i32>(place, 4) << 2)
    const to = c.between + c.betweenStride * row
    for (let k = first; k < end; k++) {
      store<f32>(to + (<usize>k << 2), factor * dot(x, c.normWeight, down + c.cols * (<usize>k << 2), c.cols))
    }
  }
}

/** Sum of x * weight * w: four lane sums in ascending order, then the tail. weight 0: none. */
function dot(x: usize, weight: usize, w: usize, cols: usize): f32 {
  const whole = cols & ~3
  let sums = f32x4.splat(0)
  if (weight != 0) {
    for (let i: usize = 0; i < whole << 2; i += 16) {
      sums = madd(f32x4.mul(v128.load(x + i), v128.load(weight + i)), v128.load(w + i), sums)
    }
  } else {
    for (let i: usize = 0; i < whole << 2; i += 16) sums = madd(v128.load(x + i), v128.load(w + i), sums)
  }
  let sum = sumLanes(sums)
  for (let i = whole << 2; i < cols << 2; i += 4) {
    const value = weight == 0 ? load<f32>(x + i) : load<f32>(x + i) * load<f32>(weight + i)
    sum += value * load<f32>(w + i)
  }
  return sum
}

/** out += up between. A work unit is a row and a block of its columns. */
export function lowRankUp(c: LowRankCommand): void {
  const blocks = (c.outputs + COLUMNS - 1) / COLUMNS
  const units = c.rows * blocks
  for (;;) {
    const unit = takeUnits(changetype<usize>(c) + offsetof<LowRankCommand>('counter'), 1)
    if (unit >= units) return
    const row = unit / blocks
    const adapter = load<i32>(c.adapters + (<usize>row << 2))
    if (adapter < 0) continue
    const place = c.table + c.tableStride * adapter
    const first = (unit - row * blocks) * COLUMNS
    const out = c.out + c.outStride * row
    const between = c.between + c.betweenStride * row
    const parts = load<i32>(place, 8)
    for (let part = 0; part < parts; part++) {
      const at = place + TABLE_HEADER + PART_BYTES * part
      const firstRow = load<i32>(at)
      const endRow = load<i32>(at, 4)
      const from = max(first, firstRow)
      const end = min(first + COLUMNS, endRow)
      if (from >= end) continue
      const up = c.values + (<usize>(load<i32>(at, 16) + from - firstRow) << 2)
      addUp(out + (<usize>from << 2), end - from, up, (endRow - firstRow) << 2, between + (<usize>load<i32>(at, 8) << 2), load<i32>(at, 12))
    }
  }
}

/** out += the sum over k of factors[k] * up[k], `count` columns, rows of up `stride` bytes apart. */
function addUp(out: usize, count: usize, up: usize, stride: usize, factors: usize, rank: usize): void {
  const whole = (count & ~3) << 2
  for (let i: usize = 0; i < whole; i += 16) {
    let sum = f32x4.splat(0)
    for (let k: usize = 0; k < rank; k++) sum = madd(v128.load32_splat(factors + (k << 2)), v128.load(up + stride * k + i), sum)
    v128.store(out + i, f32x4.add(v128.load(out + i), sum))
  }
  for (let i = whole; i < count << 2; i += 4) {
    let sum: f32 = 0
    for (let k: usize = 0; k < rank; k++) sum += load<f32>(factors + (k << 2)) * load<f32>(up + stride * k + i)
    store<f32>(out + i, load<f32>(out + i) + sum)
  }
}

@unmanaged
export class ActivateCommand {
  opcode: i32
  rows: i32
  x: usize
  xStride: usize
  out: usize
  outStride: usize
  cols: usize // of out
  epilogue: i32 // as a linear layer's
  alphaP: f32
  alphaN: f32
  xieluBeta: f32
  counter: i32
}

/** out (+)= act(x), or act(gate) * up of the two halves of x. */
export function activate(c: ActivateCommand): void {
  const gated = (c.epilogue & GATED) != 0
  const residual = (c.epilogue & RESIDUAL) != 0
  const half = c.cols << 2
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<ActivateCommand>('counter'), 1)
    if (row >= c.rows) return
    const x = c.x + c.xStride * row
    const out = c.out + c.outStride * row
    // Rows are padded to whole vectors, so writing after the last column overwrites only padding.
    for (let i: usize = 0; i < half; i += 16) {
      let value = v128.load(x + i)
      if ((c.epilogue & CLAMPED) != 0) value = siluClamped(value, v128.load(x + half + i))
      else {
        value = activated(c.epilogue, value, c.alphaP, c.alphaN, c.xieluBeta)
        if (gated) value = f32x4.mul(value, v128.load(x + half + i))
      }
      if (residual) value = f32x4.add(v128.load(out + i), value)
      v128.store(out + i, value)
    }
  }
}
