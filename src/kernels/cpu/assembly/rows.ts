// Ops over single rows: norms of groups of columns, sums and products of activations, lengths, residual streams. Sums are those of four lanes in
// ascending order, then the tail.
import { inverseRms } from './prepare'
import { scratch, takeUnits } from './pool'
import { geluTanh, madd, sumLanes, tanh } from './simd'

/** What matchLength divides by at least, squared. */
const LEAST_SQUARE: f32 = 1e-5

@unmanaged
export class RmsNormCommand {
  opcode: i32
  rows: i32
  out: usize
  outStride: usize
  x: usize
  xStride: usize
  groups: i32 // of columns, normalised apart
  width: usize // of a group
  weight: usize
  eps: f32
  counter: i32
}

/** out = x / rms(x) * weight, for each group of columns. */
export function rmsNorm(c: RmsNormCommand): void {
  const bytes = c.width << 2
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<RmsNormCommand>('counter'), 1)
    if (row >= c.rows) return
    for (let group = 0; group < c.groups; group++) {
      const x = c.x + c.xStride * row + bytes * group
      const out = c.out + c.outStride * row + bytes * group
      const inverse = inverseRms(x, c.width, c.eps)
      for (let i: usize = 0; i < bytes; i += 4) store<f32>(out + i, load<f32>(x + i) * inverse * load<f32>(c.weight + i))
    }
  }
}

/** What PairCommand does with x and y. */
const MULTIPLY: i32 = 1

@unmanaged
export class PairCommand {
  opcode: i32
  rows: i32
  x: usize // in place
  xStride: usize
  y: usize
  yStride: usize
  cols: usize
  kind: i32 // 0: (x + y) * scale, 1: x * y
  scale: f32
  counter: i32
}

/** x = (x + y) * scale, or x * y. */
export function pair(c: PairCommand): void {
  const bytes = c.cols << 2
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<PairCommand>('counter'), 1)
    if (row >= c.rows) return
    const x = c.x + c.xStride * row
    const y = c.y + c.yStride * row
    if (c.kind == MULTIPLY) {
      for (let i: usize = 0; i < bytes; i += 4) store<f32>(x + i, load<f32>(x + i) * load<f32>(y + i))
    } else {
      for (let i: usize = 0; i < bytes; i += 4) store<f32>(x + i, (load<f32>(x + i) + load<f32>(y + i)) * c.scale)
    }
  }
}

@unmanaged
export class SparseGeluCommand {
  opcode: i32
  rows: i32
  x: usize // in place
  xStride: usize
  cols: usize
  scale: f32 // standard deviations above the mean from which on values count
  counter: i32
}

/** x = gelu(max(0, x - cutoff)), where the cutoff is the row's mean plus `scale` standard deviations. */
export function sparseGelu(c: SparseGeluCommand): void {
  const cols = c.cols
  const whole = cols & ~3
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<SparseGeluCommand>('counter'), 1)
    if (row >= c.rows) return
    const x = c.x + c.xStride * row
    let sums = f32x4.splat(0)
    for (let i: usize = 0; i < whole; i += 4) sums = f32x4.add(sums, v128.load(x + (i << 2)))
    let sum = sumLanes(sums)
    for (let i = whole; i < cols; i++) sum += load<f32>(x + (i << 2))
    const mean = sum / <f32>cols
    sums = f32x4.splat(0)
    for (let i: usize = 0; i < whole; i += 4) {
      const d = f32x4.sub(v128.load(x + (i << 2)), f32x4.splat(mean))
      sums = madd(d, d, sums)
    }
    sum = sumLanes(sums)
    for (let i = whole; i < cols; i++) {
      const d = load<f32>(x + (i << 2)) - mean
      sum += d * d
    }
    const cutoff = f32x4.splat(mean + sqrt<f32>(sum / <f32>cols) * c.scale)
    // Rows are padded to whole vectors.
    for (let i: usize = 0; i < cols; i += 4) {
      const above = f32x4.max(f32x4.sub(v128.load(x + (i << 2)), cutoff), f32x4.splat(0))
      v128.store(x + (i << 2), geluTanh(above))
    }
  }
}

@unmanaged
export class MatchLengthCommand {
  opcode: i32
  rows: i32
  x: usize // in place
  xStride: usize
  reference: usize
  referenceStride: usize
  cols: usize
  counter: i32
}

function meanSquare(x: usize, cols: usize): f32 {
  let sums = f32x4.splat(0)
  const whole = cols & ~3
  for (let i: usize = 0; i < whole; i += 4) {
    const values = v128.load(x + (i << 2))
    sums = madd(values, values, sums)
  }
  let sum = sumLanes(sums)
  for (let i = whole; i < cols; i++) sum += load<f32>(x + (i << 2)) * load<f32>(x + (i << 2))
  return sum / <f32>cols
}

/** Scales x to the root mean square of the reference's row. */
export function matchLength(c: MatchLengthCommand): void {
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<MatchLengthCommand>('counter'), 1)
    if (row >= c.rows) return
    const x = c.x + c.xStride * row
    const square = max(meanSquare(x, c.cols), LEAST_SQUARE)
    const factor = sqrt<f32>(meanSquare(c.reference + c.referenceStride * row, c.cols) / square)
    for (let i: usize = 0; i < c.cols << 2; i += 4) store<f32>(x + i, load<f32>(x + i) * factor)
  }
}

@unmanaged
export class StreamsCommand {
  opcode: i32
  rows: i32
  x: usize // the active stream: written by a prediction, read and scaled by a correction
  xStride: usize
  stream0: usize
  stream1: usize
  stream2: usize
  stream3: usize
  streamStride: usize
  numStreams: i32
  active: i32
  cols: usize
  logits: usize
  logitsStride: usize
  coefficients: usize
  scales: usize // f32[cols] of a correction; 0: a prediction
  counter: i32
}

/** Predicts the residual streams before a layer, or corrects them after it (Gemma 3n). */
export function streams(c: StreamsCommand): void {
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<StreamsCommand>('counter'), 1)
    if (row >= c.rows) return
    if (c.scales == 0) predict(c, row)
    else correct(c, row)
  }
}

/** Address of a stream's row. The fields stream0 .. stream3 are read as an array; there are at most 4 streams. */
// @ts-ignore: decorator
@inline
function streamRow(c: StreamsCommand, index: usize, row: i32): usize {
  return load<usize>(changetype<usize>(c) + offsetof<StreamsCommand>('stream0') + (index << 2)) + c.streamStride * row
}

/** The first `count` sums over j of coefficients[i, j] * tanh(logits[j]), to scratch. tanh(logits[j]) is what Gemma 3n calls a modality. */
function findCoefficients(c: StreamsCommand, row: i32, count: usize): void {
  const n = <usize>c.numStreams
  const logits = c.logits + c.logitsStride * row
  for (let i: usize = 0; i < count; i++) {
    let sum: f32 = 0
    for (let j: usize = 0; j < n; j++) {
      const modality = f32x4.extract_lane(tanh(v128.load32_splat(logits + (j << 2))), 0)
      sum += load<f32>(c.coefficients + ((i * n + j) << 2)) * modality
    }
    store<f32>(scratch + (i << 2), sum)
  }
}

function predict(c: StreamsCommand, row: i32): void {
  const n = <usize>c.numStreams
  findCoefficients(c, row, n * n)
  // The streams' values before the prediction; they lie after the coefficients.
  const before = scratch + (n * n << 2)
  const out = c.x + c.xStride * row
  for (let at: usize = 0; at < c.cols << 2; at += 4) {
    for (let j: usize = 0; j < n; j++) store<f32>(before + (j << 2), load<f32>(streamRow(c, j, row) + at))
    for (let i: usize = 0; i < n; i++) {
      let sum: f32 = 0
      for (let j: usize = 0; j < n; j++) sum += load<f32>(scratch + ((i * n + j) << 2)) * load<f32>(before + (j << 2))
      const value = load<f32>(before + (i << 2)) + sum
      store<f32>(streamRow(c, i, row) + at, value)
      if (i == <usize>c.active) store<f32>(out + at, value)
    }
  }
}

function correct(c: StreamsCommand, row: i32): void {
  const n = <usize>c.numStreams
  findCoefficients(c, row, n)
  const x = c.x + c.xStride * row
  const active = streamRow(c, c.active, row)
  for (let at: usize = 0; at < c.cols << 2; at += 4) {
    const innovation = load<f32>(x + at) - load<f32>(active + at)
    for (let i: usize = 0; i < n; i++) {
      const to = streamRow(c, i, row) + at
      store<f32>(to, load<f32>(to) + (1 + load<f32>(scratch + (i << 2))) * innovation)
    }
    store<f32>(x + at, load<f32>(active + at) * load<f32>(c.scales + at))
  }
}
