// Attention over the paged pool, causal or bidirectional. A work unit is a run of rows of one sequence and one KV head with its query heads. The
// context is processed in splits of 128 tokens, aligned to absolute positions. Each split is a complete softmax (maximum, sum, weighted values), and
// splits are folded in ascending order (as in Flash-Decoding). So a row's result depends neither on other rows nor on the number of threads.
import { AttentionCommand, AttentionItem, blockAddress, HALF_SUM_FACTOR, KV_F16, KV_Q8, kvShift, scalesAddress, widen } from './attention-kv'
import { addBias } from './attention-bias'
import { barrier, scratch, takeUnits } from './pool'
import { dotRows, dotRowsHalf } from './linear-float'
import { ACTIVATION_FACTOR, exp, madd, maxLanes, sumLanes, tanh } from './simd'

const SPLIT: i32 = 128
/** Up to this many query rows are multiplied with f16 keys and values directly; more rows share panels that are widened once. */
const FEW: i32 = 3

// The state of R = numRows * group softmaxes: weighted values [R][paddedDim], then 4 f32 for each: maximum, sum, two unused.
function stateBytes(r: i32, paddedDim: usize): usize {
  return <usize>r * (paddedDim * 4 + 16)
}

export function attention(c: AttentionCommand): void {
  const perItem = c.splits == 0 ? c.numKvHeads : c.numKvHeads * c.splits
  const units = c.numItems * perItem
  for (;;) {
    const unit = takeUnits(changetype<usize>(c) + offsetof<AttentionCommand>('counter'), 1)
    if (unit >= units) break
    const index = unit / perItem
    const rest = unit - index * perItem
    const item = changetype<AttentionItem>(c.items + <usize>index * offsetof<AttentionItem>())
    if (c.splits == 0) runItem(c, item, rest)
    else runSplit(c, item, index, rest / c.splits, rest % c.splits)
  }
  if (c.splits == 0) return
  barrier()
  const folds = c.numItems * c.numKvHeads
  for (;;) {
    const unit = takeUnits(changetype<usize>(c) + offsetof<AttentionCommand>('foldCounter'), 1)
    if (unit >= folds) break
    foldPartials(c, unit / c.numKvHeads, unit % c.numKvHeads)
  }
}

/** The last position that any row of the item attends to. */
// @ts-ignore: decorator
@inline
function lastPosition(c: AttentionCommand, item: AttentionItem, row: i32): i32 {
  const own = position(c, item.firstRow + row)
  if (c.bidirectional == 0) return own
  return c.window == 0 ? item.last : min(item.last, own + c.window - 1)
}

/** The first position that the item's first row attends to. */
function firstPosition(c: AttentionCommand, item: AttentionItem): i32 {
  return c.window == 0 ? 0 : max(0, position(c, item.firstRow) - c.window + 1)
}

// @ts-ignore: decorator
@inline
function position(c: AttentionCommand, row: i32): i32 {
  return load<i32>(c.positions + (<usize>row << 2))
}

// @ts-ignore: decorator
@inline
function paddedDim(c: AttentionCommand): usize {
  return (<usize>c.headDim + 15) & ~15
}

/** Computes and folds all splits of one item and KV head. Scratch: queries, total state, split state, scores, keys or values. */
function runItem(c: AttentionCommand, item: AttentionItem, kvHead: i32): void {
  const r = item.numRows * c.group
  const dim = paddedDim(c)
  const queries = scratch
  const total = queries + (<usize>r * dim << 2)
  const split = total + stateBytes(r, dim)
  const work = split + stateBytes(r, dim)
  loadQueries(c, item, kvHead, queries)
  resetState(total, r, dim)
  const last = lastPosition(c, item, item.numRows - 1)
  for (let s = firstPosition(c, item) / SPLIT; s * SPLIT <= last; s++) {
    computeSplit(c, item, kvHead, s, queries, split, work)
    fold(c, total, split, r, dim)
  }
  writeOut(c, item, kvHead, total)
}

/** Computes one split into its place among the partial results. */
function runSplit(c: AttentionCommand, item: AttentionItem, index: i32, kvHead: i32, s: i32): void {
  const last = lastPosition(c, item, item.numRows - 1)
  if (s * SPLIT > last || s < firstPosition(c, item) / SPLIT) return
  const queries = scratch
  loadQueries(c, item, kvHead, queries)
  const work = queries + (<usize>(item.numRows * c.group) * paddedDim(c) << 2)
  computeSplit(c, item, kvHead, s, queries, partial(c, index, kvHead, s), work)
}

// @ts-ignore: decorator
@inline
function partial(c: AttentionCommand, index: i32, kvHead: i32, s: i32): usize {
  return c.partials + c.partialBytes * <usize>((index * c.numKvHeads + kvHead) * c.splits + s)
}

function foldPartials(c: AttentionCommand, index: i32, kvHead: i32): void {
  const item = changetype<AttentionItem>(c.items + <usize>index * offsetof<AttentionItem>())
  const r = item.numRows * c.group
  const dim = paddedDim(c)
  const total = scratch
  resetState(total, r, dim)
  const last = lastPosition(c, item, item.numRows - 1)
  for (let s = firstPosition(c, item) / SPLIT; s * SPLIT <= last; s++) fold(c, total, partial(c, index, kvHead, s), r, dim)
  writeOut(c, item, kvHead, total)
}

/** Queries of the item's rows and the KV head's group, scaled: [row][head of the group][paddedDim]. */
function loadQueries(c: AttentionCommand, item: AttentionItem, kvHead: i32, dst: usize): void {
  const dim = paddedDim(c)
  const factor: f32 = c.kvFormat == KV_F16 ? c.scale * ACTIVATION_FACTOR : c.scale
  for (let row = 0; row < item.numRows; row++) {
    for (let g = 0; g < c.group; g++) {
      const from = c.q + c.qStride * (item.firstRow + row) + (<usize>((kvHead * c.group + g) * c.headDim) << 2)
      for (let d: usize = 0; d < <usize>c.headDim; d++) store<f32>(dst + (d << 2), load<f32>(from + (d << 2)) * factor)
      dst += dim << 2
    }
  }
}

function resetState(state: usize, r: i32, dim: usize): void {
  memory.fill(state, 0, <usize>r * dim << 2)
  const stats = state + (<usize>r * dim << 2)
  for (let i = 0; i < r; i++) {
    store<f32>(stats + (<usize>i << 4), -Infinity)
    store<f32>(stats + (<usize>i << 4), 0, 4)
  }
}

/** Multiplies rows of 16 scores, `stride` bytes apart, by the scales of their tokens. */
function scaleScores(scores: usize, stride: usize, r: i32, scales: usize): void {
  for (let i = 0; i < r; i++, scores += stride) {
    for (let lane: usize = 0; lane < 64; lane += 16) {
      v128.store(scores + lane, f32x4.mul(v128.load(scores + lane), v128.load(scales + lane)))
    }
  }
}

/** Multiplies softmax numerators by the scales of their tokens' values. */
function scaleNumerators(c: AttentionCommand, item: AttentionItem, kvHead: i32, first: i32, tokens: i32, scores: usize, r: i32): void {
  for (let t = 0; t < tokens; t++) {
    const token = first + t
    const block = token / c.blockSize
    const scales = scalesAddress(c, blockAddress(c, item, block, kvHead)) + (<usize>c.paddedBlock << 2)
    const scale = load<f32>(scales + (<usize>(token - block * c.blockSize) << 2))
    for (let i = 0; i < r; i++) {
      const at = scores + (<usize>(i * SPLIT + t) << 2)
      store<f32>(at, load<f32>(at) * scale)
    }
  }
}

function computeSplit(c: AttentionCommand, item: AttentionItem, kvHead: i32, s: i32, queries: usize, state: usize, work: usize): void {
  const dim = paddedDim(c)
  const r = item.numRows * c.group
  const first = s * SPLIT
  const last = lastPosition(c, item, item.numRows - 1)
  const tokens = min(SPLIT, last + 1 - first)
  const scores = work
  const tile = work + (<usize>r * SPLIT << 2)
  scoreSplit(c, item, kvHead, first, tokens, queries, scores, tile)
  const stats = state + (<usize>r * dim << 2)
  for (let row = 0; row < item.numRows; row++) {
    const own = position(c, item.firstRow + row)
    const end = lastPosition(c, item, row) + 1
    const begin = c.window == 0 ? 0 : max(0, own + 1 - c.window)
    for (let g = 0; g < c.group; g++) {
      const i = <usize>(row * c.group + g)
      if (c.bias != 0) addBias(c, item, kvHead * c.group + g, row, first, tokens, scores + i * (SPLIT << 2))
      softmax(c, scores + i * (SPLIT << 2), max(0, begin - first), min(tokens, end - first), (tokens + 15) & ~15, stats + (i << 4))
    }
  }
  if (c.kvFormat == KV_Q8) scaleNumerators(c, item, kvHead, first, tokens, scores, r)
  else if (r <= FEW) {
    addValues(c, item, kvHead, first, tokens, scores, r, state)
    return
  }
  gatherValues(c, item, kvHead, first, tokens, tile)
  const panelBytes = <usize>SPLIT << 6
  for (let p: usize = 0; p < dim; p += 16) {
    dotRows(scores, SPLIT << 2, r, tile + (p >> 4) * panelBytes, tokens, state + (p << 2), dim << 2, true)
  }
}

/** scores[r][128] for the split's tokens, 16 at a time. Tokens after the last valid one are computed from stale data; the softmax masks them. */
function scoreSplit(c: AttentionCommand, item: AttentionItem, kvHead: i32, first: i32, tokens: i32, queries: usize, scores: usize, tile: usize): void {
  const dim = paddedDim(c)
  const depth = <usize>c.headDim
  const r = item.numRows * c.group
  if ((c.blockSize & 15) == 0) {
    for (let t = 0; t < tokens; t += 16) {
      const token = first + t
      const block = token / c.blockSize
      const inBlock = (token - block * c.blockSize) >> 4
      const head = blockAddress(c, item, block, kvHead)
      const source = head + <usize>inBlock * (depth << kvShift(c.kvFormat))
      const to = scores + (<usize>t << 2)
      if (r <= FEW && c.kvFormat == KV_F16) {
        dotRowsHalf(queries, dim << 2, r, source, depth, to, SPLIT << 2, true)
        continue
      }
      let keys = source
      if (c.kvFormat != 0) {
        widen(source, depth, c.kvFormat, tile)
        keys = tile
      }
      dotRows(queries, dim << 2, r, keys, depth, to, SPLIT << 2, true)
      if (c.kvFormat == KV_Q8) scaleScores(to, SPLIT << 2, r, scalesAddress(c, head) + (<usize>inBlock << 6))
    }
    return
  }
  // Other block sizes: the tokens of their padded tiles are not adjacent in the split, so scores are computed in a separate tile and copied.
  const apart = tile + (depth << 6)
  for (let t = 0; t < tokens; ) {
    const token = first + t
    const block = token / c.blockSize
    const offset = token - block * c.blockSize
    const inTile = offset & 15
    const count = min(min(16 - inTile, c.blockSize - offset), tokens - t)
    const head = blockAddress(c, item, block, kvHead)
    widen(head + <usize>(offset >> 4) * (depth << kvShift(c.kvFormat)), depth, c.kvFormat, tile)
    dotRows(queries, dim << 2, r, tile, depth, apart, 64, true)
    if (c.kvFormat == KV_Q8) scaleScores(apart, 64, r, scalesAddress(c, head) + (<usize>(offset >> 4) << 6))
    for (let i = 0; i < r; i++) {
      memory.copy(scores + (<usize>(i * SPLIT + t) << 2), apart + (<usize>(i * 16 + inTile) << 2), <usize>count << 2)
    }
    t += count
  }
}

/** state[r][paddedDim] = numerators times values, for few rows: block by block, accumulating the sums. */
function addValues(c: AttentionCommand, item: AttentionItem, kvHead: i32, first: i32, tokens: i32, scores: usize, r: i32, state: usize): void {
  const dim = paddedDim(c)
  const shift = kvShift(c.kvFormat)
  for (let t = 0; t < tokens; ) {
    const token = first + t
    const block = token / c.blockSize
    const offset = token - block * c.blockSize
    const count = min(c.blockSize - offset, tokens - t)
    const source = blockAddress(c, item, block, kvHead) + c.keyBytes + (<usize>offset << shift)
    const from = scores + (<usize>t << 2)
    for (let p: usize = 0; p < dim >> 4; p++) {
      const values = source + p * (<usize>c.paddedBlock << shift)
      const to = state + (p << 6)
      if (c.kvFormat == KV_F16) dotRowsHalf(from, SPLIT << 2, r, values, count, to, dim << 2, t == 0)
      else dotRows(from, SPLIT << 2, r, values, count, to, dim << 2, t == 0)
    }
    t += count
  }
}

/** tile[panel of 16 dims][128 tokens][16] of the split's values as f32. */
function gatherValues(c: AttentionCommand, item: AttentionItem, kvHead: i32, first: i32, tokens: i32, tile: usize): void {
  const dim = paddedDim(c)
  const shift = kvShift(c.kvFormat)
  for (let t = 0; t < tokens; ) {
    const token = first + t
    const block = token / c.blockSize
    const offset = token - block * c.blockSize
    const count = min(c.blockSize - offset, tokens - t)
    const source = blockAddress(c, item, block, kvHead) + c.keyBytes + (<usize>offset << shift)
    for (let p: usize = 0; p < dim >> 4; p++) {
      widen(source + p * (<usize>c.paddedBlock << shift), count, c.kvFormat, tile + (p * SPLIT + t << 6))
    }
    t += count
  }
}

/**
 * Softmax numerators of scores[begin .. end) in place (times 2^96 for f16 values), zeros elsewhere up to `width`; their maximum and sum to
 * stats.
 */
function softmax(c: AttentionCommand, scores: usize, begin: i32, end: i32, width: i32, stats: usize): void {
  if (begin >= end) {
    memory.fill(scores, 0, <usize>width << 2)
    store<f32>(stats, -Infinity)
    store<f32>(stats, 0, 4)
    return
  }
  const scoreFactor = f32x4.splat(c.kvFormat == KV_F16 ? HALF_SUM_FACTOR : 1)
  const numeratorFactor = f32x4.splat(c.kvFormat == KV_F16 ? ACTIVATION_FACTOR : 1)
  const lanes = i32x4(0, 1, 2, 3)
  const begins = i32x4.splat(begin)
  const ends = i32x4.splat(end)
  const out = f32x4.splat(-Infinity)
  let largest = out
  for (let t = 0; t < width; t += 4) {
    const at = scores + (<usize>t << 2)
    let value = f32x4.mul(v128.load(at), scoreFactor)
    if (c.softcap != 0) {
      const cap = f32x4.splat(c.softcap)
      value = f32x4.mul(cap, tanh(f32x4.div(value, cap)))
    }
    const index = i32x4.add(lanes, i32x4.splat(t))
    const valid = v128.and(i32x4.ge_s(index, begins), i32x4.lt_s(index, ends))
    value = v128.bitselect(value, out, valid)
    largest = f32x4.pmax(largest, value)
    v128.store(at, value)
  }
  const maximum = maxLanes(largest)
  const maxima = f32x4.splat(maximum)
  let sums = f32x4.splat(0)
  for (let t = 0; t < width; t += 4) {
    const at = scores + (<usize>t << 2)
    const value = exp(f32x4.sub(v128.load(at), maxima))
    sums = f32x4.add(sums, value)
    v128.store(at, f32x4.mul(value, numeratorFactor))
  }
  store<f32>(stats, maximum)
  store<f32>(stats, sumLanes(sums), 4)
}

/** Folds the next split into the total. A split in which a row attends to nothing does not change the row. */
function fold(c: AttentionCommand, total: usize, split: usize, r: i32, dim: usize): void {
  const offset = <usize>r * dim << 2
  for (let i: usize = 0; i < <usize>r; i++) {
    const stats = total + offset + (i << 4)
    const splitStats = split + offset + (i << 4)
    const splitMax = load<f32>(splitStats)
    if (splitMax == -Infinity) continue
    const oldMax = load<f32>(stats)
    const newMax = max(oldMax, splitMax)
    const factors = exp(f32x4.replace_lane(f32x4.splat(splitMax - newMax), 0, oldMax - newMax))
    const keep = f32x4.splat(f32x4.extract_lane(factors, 0))
    const take = f32x4.splat(f32x4.extract_lane(factors, 1) * (c.kvFormat == KV_F16 ? HALF_SUM_FACTOR : <f32>1))
    store<f32>(stats, newMax)
    store<f32>(
      stats,
      load<f32>(stats, 4) * f32x4.extract_lane(factors, 0) + load<f32>(splitStats, 4) * f32x4.extract_lane(factors, 1),
      4,
    )
    const row = i * dim << 2
    for (let d = row; d < row + (dim << 2); d += 16) {
      v128.store(total + d, madd(v128.load(total + d), keep, f32x4.mul(v128.load(split + d), take)))
    }
  }
}

/** out = weighted values / sum. */
function writeOut(c: AttentionCommand, item: AttentionItem, kvHead: i32, total: usize): void {
  const dim = paddedDim(c)
  const r = item.numRows * c.group
  const stats = total + (<usize>r * dim << 2)
  let i: usize = 0
  for (let row = 0; row < item.numRows; row++) {
    for (let g = 0; g < c.group; g++, i++) {
      const out = c.out + c.outStride * (item.firstRow + row) + (<usize>((kvHead * c.group + g) * c.headDim) << 2)
      let sum = load<f32>(stats + (i << 4), 4)
      if (c.sinks != 0) {
        const sink = load<f32>(c.sinks + (<usize>(kvHead * c.group + g) << 2))
        sum += f32x4.extract_lane(exp(f32x4.splat(sink - load<f32>(stats + (i << 4)))), 0)
      }
      const from = total + (i * dim << 2)
      for (let d: usize = 0; d < <usize>c.headDim; d++) store<f32>(out + (d << 2), load<f32>(from + (d << 2)) / sum)
    }
  }
}
