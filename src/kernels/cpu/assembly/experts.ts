// Mixture of experts: chooses the experts of a step's rows, sorts the rows by expert, and sums the experts' outputs.
import { ROW_TILE, TILE_BYTES, TILES_HEADER } from './linear'
import { scratch, takeUnits, thread } from './pool'
import { exp, madd } from './simd'

@unmanaged
export class RouteCommand {
  opcode: i32
  rows: i32
  logits: usize
  logitsStride: usize
  numExperts: i32
  topK: i32
  sigmoid: i32 // else softmax
  bias: usize // f32[numExperts]; 0: none
  groups: i32 // 0: experts are chosen from all
  usedGroups: i32
  normalizes: i32
  scale: f32
  expertScales: usize // f32[numExperts]; 0: none
  experts: usize // i32 [rows][topK], written
  weights: usize // f32 [rows][topK], written
  counter: i32
}

// @ts-ignore: decorator
@inline
function expScalar(x: f32): f32 {
  return f32x4.extract_lane(exp(f32x4.splat(x)), 0)
}

/** Index of the largest of values[first .. end - 1]; ties go to the lowest index. Values already chosen are -Infinity. */
function largest(values: usize, first: i32, end: i32): i32 {
  let best = first
  for (let i = first + 1; i < end; i++) {
    if (load<f32>(values + (<usize>i << 2)) > load<f32>(values + (<usize>best << 2))) best = i
  }
  return best
}

// @ts-ignore: decorator
@inline
function take(values: usize, index: i32): f32 {
  const value = load<f32>(values + (<usize>index << 2))
  store<f32>(values + (<usize>index << 2), f32.NEGATIVE_INFINITY)
  return value
}

export function route(c: RouteCommand): void {
  const numExperts = c.numExperts
  const bytes = <usize>numExperts << 2
  const scores = scratch
  const ranked = scores + bytes
  const sums = ranked + bytes
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<RouteCommand>('counter'), 1)
    if (row >= c.rows) return
    const logits = c.logits + c.logitsStride * row
    let most = load<f32>(logits)
    for (let i: usize = 4; i < bytes; i += 4) most = max(most, load<f32>(logits + i))
    let total: f32 = 0
    for (let i: usize = 0; i < bytes; i += 4) {
      const logit = load<f32>(logits + i)
      const score: f32 = c.sigmoid ? 1 / (1 + expScalar(-logit)) : expScalar(logit - most)
      total += score
      store<f32>(scores + i, score)
    }
    if (!c.sigmoid) {
      for (let i: usize = 0; i < bytes; i += 4) store<f32>(scores + i, load<f32>(scores + i) / total)
    }
    for (let i: usize = 0; i < bytes; i += 4) {
      store<f32>(ranked + i, load<f32>(scores + i) + (c.bias == 0 ? 0 : load<f32>(c.bias + i)))
    }
    if (c.groups != 0) dropGroups(c, ranked, sums)
    const experts = c.experts + (<usize>(row * c.topK) << 2)
    const weights = c.weights + (<usize>(row * c.topK) << 2)
    let sum: f32 = 0
    for (let k: usize = 0; k < <usize>c.topK; k++) {
      const expert = largest(ranked, 0, numExperts)
      take(ranked, expert)
      const score = load<f32>(scores + (<usize>expert << 2))
      sum += score
      store<i32>(experts + (k << 2), expert)
      store<f32>(weights + (k << 2), score)
    }
    const factor: f32 = c.normalizes ? c.scale / sum : c.scale
    for (let k: usize = 0; k < <usize>c.topK; k++) {
      const weight = load<f32>(weights + (k << 2)) * factor
      const own: f32 = c.expertScales == 0 ? 1 : load<f32>(c.expertScales + (<usize>load<i32>(experts + (k << 2)) << 2))
      store<f32>(weights + (k << 2), weight * own)
    }
  }
}

/** Excludes the experts of all but the best groups. A group's score is the sum of its two largest scores. */
function dropGroups(c: RouteCommand, ranked: usize, sums: usize): void {
  const size = c.numExperts / c.groups
  for (let group = 0; group < c.groups; group++) {
    const first = group * size
    const best = largest(ranked, first, first + size)
    const value = take(ranked, best)
    const second: f32 = size > 1 ? load<f32>(ranked + (<usize>largest(ranked, first, first + size) << 2)) : 0
    store<f32>(ranked + (<usize>best << 2), value)
    store<f32>(sums + (<usize>group << 2), value + second)
  }
  for (let i = 0; i < c.usedGroups; i++) {
    const best = largest(sums, 0, c.groups)
    store<f32>(sums + (<usize>best << 2), f32.NEGATIVE_INFINITY)
  }
  for (let group = 0; group < c.groups; group++) {
    if (load<f32>(sums + (<usize>group << 2)) == f32.NEGATIVE_INFINITY) continue
    for (let i = group * size; i < (group + 1) * size; i++) take(ranked, i)
  }
}

@unmanaged
export class SortCommand {
  opcode: i32
  pairs: i32 // rows x topK
  topK: i32
  numExperts: i32
  experts: usize // i32 [pairs]
  positions: usize // i32 [pairs], written: the position of a pair's row among the sorted rows
  sources: usize // i32 [positions], written: the row at a position; -1: none
  tiles: usize // linear.ts, written
}

/** Sorts rows by expert; each expert's rows begin at a multiple of 4. Runs on one thread: it is a counting sort of a few thousand numbers. */
export function sortRows(c: SortCommand): void {
  if (thread != 0) return
  const next = scratch
  memory.fill(next, 0, <usize>c.numExperts << 2)
  for (let pair = 0; pair < c.pairs; pair++) {
    const at = next + (<usize>load<i32>(c.experts + (<usize>pair << 2)) << 2)
    store<i32>(at, load<i32>(at) + 1)
  }
  let numTiles = 0
  let position = 0
  for (let expert = 0; expert < c.numExperts; expert++) {
    const at = next + (<usize>expert << 2)
    const count = load<i32>(at)
    store<i32>(at, position)
    for (let first = 0; first < count; first += ROW_TILE) {
      const tile = c.tiles + TILES_HEADER + <usize>numTiles * TILE_BYTES
      numTiles++
      store<i32>(tile, expert)
      store<i32>(tile, position + first, 4)
      store<i32>(tile, min(ROW_TILE, count - first), 8)
    }
    position += (count + 3) & ~3
  }
  store<i32>(c.tiles, numTiles)
  store<i32>(c.tiles, position, 4)
  memory.fill(c.sources, 0xff, <usize>position << 2)
  for (let pair = 0; pair < c.pairs; pair++) {
    const at = next + (<usize>load<i32>(c.experts + (<usize>pair << 2)) << 2)
    const place = load<i32>(at)
    store<i32>(at, place + 1)
    store<i32>(c.positions + (<usize>pair << 2), place)
    store<i32>(c.sources + (<usize>place << 2), pair / c.topK)
  }
}

@unmanaged
export class CombineCommand {
  opcode: i32
  rows: i32
  topK: i32
  positions: usize // i32 [rows][topK]
  weights: usize // f32 [rows][topK]
  outputs: usize // f32 [positions][stride]
  outputsStride: usize
  cols: usize
  out: usize
  outStride: usize
  bias: usize // f32[cols]; 0: none
  residual: i32
  counter: i32
}

/** out[row] (+)= the weighted sum of the outputs of the row's experts, in descending order of score. */
export function combine(c: CombineCommand): void {
  const bytes = c.cols << 2
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<CombineCommand>('counter'), 1)
    if (row >= c.rows) return
    const out = c.out + c.outStride * row
    const first = <usize>(row * c.topK) << 2
    // Rows are padded to whole vectors.
    for (let i: usize = 0; i < bytes; i += 16) {
      let sum = c.bias == 0 ? f32x4.splat(0) : v128.load(c.bias + i)
      for (let k: usize = 0; k < <usize>c.topK << 2; k += 4) {
        const output = c.outputs + c.outputsStride * load<i32>(c.positions + first + k)
        sum = madd(v128.load32_splat(c.weights + first + k), v128.load(output + i), sum)
      }
      if (c.residual) sum = f32x4.add(v128.load(out + i), sum)
      v128.store(out + i, sum)
    }
  }
}
