// Row-wise ops: embed, normAdd, layerNorm, qkvRopeStore.
import { scratch, takeUnits } from './pool'
import { KV_F16, KV_Q8, kvShift } from './attention-kv'
import { ACTIVATION_FACTOR, madd, narrow, sumLanes } from './simd'
import { inverseRms } from './prepare'
import { GROUP16, headerBytes, MINS, NARROW, NARROW_OFFSET, OCTET, PAIR, Q4_OFFSET, QUAD, SUPER } from './quantized-panel'
import { sixOf } from './six-bits'
import { factorsAt, SUBS, superBlockAt } from './super-panel'

@unmanaged
export class EmbedCommand {
  opcode: i32
  rows: i32
  out: usize
  outStride: usize
  tokens: usize // i32[rows]
  format: i32
  flags: i32
  cols: usize
  panelBytes: usize
  weights: usize
  factors: usize // f32[panels]
  scale: f32
  adds: i32 // 1: add to the row's values
  tableRows: i32
  counter: i32
}

/** f32 value of stored f16 bits times 2^-112 (simd.ts). */
// @ts-ignore: decorator
@inline
function widenScalar(bits: u32): f32 {
  return reinterpret<f32>(((bits & 0x8000) << 16) | ((bits & 0x7fff) << 13))
}

/** Byte offset of row r's f16 in a 32-byte group of 16: pairs of rows (i, i + 4) share a word. */
// @ts-ignore: decorator
@inline
function halfOffset(r: usize): usize {
  return ((r & 8) << 1) + ((r & 3) << 2) + ((r & 4) >> 1)
}

export function embed(c: EmbedCommand): void {
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<EmbedCommand>('counter'), 1)
    if (row >= c.rows) return
    const given = load<i32>(c.tokens + (<usize>row << 2))
    const token = given < c.tableRows ? given : 0
    const panel = token >> 4
    const weights = c.weights + c.panelBytes * panel
    const row0 = c.out + c.outStride * row
    const out = c.adds != 0 ? scratch : row0
    const factor = load<f32>(c.factors + (<usize>panel << 2)) * c.scale
    if (c.format >= 2) embedQuantized(c, weights, token & 15, factor * ACTIVATION_FACTOR, out)
    else if (c.format == 1) {
      const at = weights + halfOffset(token & 15)
      for (let k: usize = 0; k < c.cols; k++) {
        store<f32>(out + (k << 2), widenScalar(load<u16>(at + (k << 5))) * ACTIVATION_FACTOR * factor)
      }
    } else {
      const at = weights + (<usize>(token & 15) << 2)
      for (let k: usize = 0; k < c.cols; k++) store<f32>(out + (k << 2), load<f32>(at + (k << 6)) * factor)
    }
    if (c.adds == 0) continue
    for (let i: usize = 0; i < c.cols << 2; i += 4) store<f32>(row0 + i, load<f32>(row0 + i) + load<f32>(scratch + i))
  }
}

function embedQuantized(c: EmbedCommand, panel: usize, r: usize, factor: f32, out: usize): void {
  if ((c.flags & SUPER) != 0) {
    embedSuper(c, panel, r, factor, out)
    return
  }
  const header = headerBytes(c.flags)
  const grouped = (c.flags & GROUP16) != 0
  const wide = c.format == 2
  const hasMins = (c.flags & MINS) != 0
  const half = halfOffset(r)
  const isNarrow = (c.flags & NARROW) != 0
  const offset = hasMins ? 0 : isNarrow ? NARROW_OFFSET : Q4_OFFSET
  for (let k: usize = 0; k < c.cols; k++) {
    const block = panel + (k >> 5) * (header + (wide ? 512 : 256))
    const second: usize = grouped ? ((k & 16) << 1) : 0
    const scale = widenScalar(load<u16>(block + second + half))
    const i = k & 31
    let code: i32
    if (isNarrow) {
      code = load<u8>(block + header + (i >> 2) * QUAD + (r << 2) + (i & 3)) - offset
    } else if (wide) {
      code = load<i8>(block + header + (i >> 1) * PAIR + (r << 1) + (i & 1))
    } else {
      const byte = load<u8>(block + header + (i >> 3) * OCTET + (r << 2) + (i & 3))
      code = <i32>((i & 4) != 0 ? byte >> 4 : byte & 15) - offset
    }
    let value = <f32>code * scale
    if (hasMins) value += widenScalar(load<u16>(block + (grouped ? 64 : 32) + second + half))
    store<f32>(out + (k << 2), value * factor)
  }
}

function embedSuper(c: EmbedCommand, panel: usize, r: usize, factor: f32, out: usize): void {
  const isSix = c.format == 2
  for (let k: usize = 0; k < c.cols; k++) {
    const factors = factorsAt(panel, k, c.flags, isSix) + halfOffset(r)
    const block = superBlockAt(panel, k, c.flags, isSix)
    const i = k & 31
    let code: i32
    let subs = block + r
    if (isSix) {
      code = sixOf(block + SUBS, r, i) - NARROW_OFFSET
      if (i >= 16) subs += 16
    } else {
      const byte = load<u8>(block + SUBS + (i >> 3) * OCTET + (r << 2) + (i & 3))
      code = <i32>((i & 4) != 0 ? byte >> 4 : byte & 15)
    }
    let value = <f32>(code * <i32>load<i8>(subs)) * widenScalar(load<u16>(factors))
    if (!isSix) value += <f32>load<i8>(subs, 16) * widenScalar(load<u16>(factors, 32))
    store<f32>(out + (k << 2), value * factor)
  }
}

@unmanaged
export class NormAddCommand {
  opcode: i32
  rows: i32
  residual: usize
  residualStride: usize
  x: usize
  xStride: usize
  cols: usize
  weight: usize
  eps: f32
  scale: f32
  counter: i32
}

export function normAdd(c: NormAddCommand): void {
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<NormAddCommand>('counter'), 1)
    if (row >= c.rows) return
    const x = c.x + c.xStride * row
    const residual = c.residual + c.residualStride * row
    const inverse = inverseRms(x, c.cols, c.eps)
    for (let i: usize = 0; i < c.cols << 2; i += 4) {
      const sum = load<f32>(residual + i) + load<f32>(x + i) * inverse * load<f32>(c.weight + i)
      store<f32>(residual + i, sum * c.scale)
    }
  }
}

@unmanaged
export class LayerNormCommand {
  opcode: i32
  rows: i32
  out: usize
  outStride: usize
  x: usize
  xStride: usize
  cols: usize
  weight: usize
  bias: usize // 0: none
  eps: f32
  counter: i32
}

/** The sums for mean and variance run over four lanes in ascending order, then over the tail. */
export function layerNorm(c: LayerNormCommand): void {
  const cols = c.cols
  const whole = cols & ~3
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<LayerNormCommand>('counter'), 1)
    if (row >= c.rows) return
    const x = c.x + c.xStride * row
    const out = c.out + c.outStride * row
    let sums = f32x4.splat(0)
    for (let i: usize = 0; i < whole; i += 4) sums = f32x4.add(sums, v128.load(x + (i << 2)))
    let sum = sumLanes(sums)
    for (let i = whole; i < cols; i++) sum += load<f32>(x + (i << 2))
    const mean = sum / <f32>cols
    const means = f32x4.splat(mean)
    sums = f32x4.splat(0)
    for (let i: usize = 0; i < whole; i += 4) {
      const d = f32x4.sub(v128.load(x + (i << 2)), means)
      sums = madd(d, d, sums)
    }
    sum = sumLanes(sums)
    for (let i = whole; i < cols; i++) {
      const d = load<f32>(x + (i << 2)) - mean
      sum += d * d
    }
    const inverse = <f32>1 / sqrt<f32>(sum / <f32>cols + c.eps)
    const inverses = f32x4.splat(inverse)
    for (let i: usize = 0; i < whole; i += 4) {
      const d = f32x4.mul(f32x4.sub(v128.load(x + (i << 2)), means), inverses)
      const scaled = f32x4.mul(d, v128.load(c.weight + (i << 2)))
      v128.store(out + (i << 2), c.bias == 0 ? scaled : f32x4.add(scaled, v128.load(c.bias + (i << 2))))
    }
    for (let i = whole; i < cols; i++) {
      const scaled = (load<f32>(x + (i << 2)) - mean) * inverse * load<f32>(c.weight + (i << 2))
      store<f32>(out + (i << 2), c.bias == 0 ? scaled : scaled + load<f32>(c.bias + (i << 2)))
    }
  }
}

@unmanaged
export class QkvCommand {
  opcode: i32
  rows: i32
  q: usize
  qStride: usize
  qkv: usize
  qkvStride: usize
  slots: usize // i32[rows]
  pool: usize
  blockBytes: usize
  headBytes: usize
  keyBytes: usize
  blockSize: i32
  paddedBlock: i32
  kvFormat: i32
  numHeads: i32
  numKvHeads: i32
  headDim: i32
  normKind: i32 // 0: none, 1: each head, 2: the whole projection, 3: each head after its rotation
  qNorm: usize
  qEps: f32
  kNorm: usize
  kEps: f32
  normalizesV: i32
  vEps: f32
  rope: usize // f32 [rows][2][rotaryDim / 2]: cosines, sines; 0: none
  rotaryDim: i32
  counter: i32
}

const AFTER_ROPE: i32 = 3

function normQueriesAndKeys(c: QkvCommand, q: usize, keys: usize): void {
  normHeads(c.normKind, q, c.numHeads, c.headDim, c.qNorm, c.qEps)
  normHeads(c.normKind, keys, c.numKvHeads, c.headDim, c.kNorm, c.kEps)
}

export function qkvRopeStore(c: QkvCommand): void {
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<QkvCommand>('counter'), 1)
    if (row >= c.rows) return
    const dim = <usize>c.headDim << 2
    const source = c.qkv + c.qkvStride * row
    const q = c.q + c.qStride * row
    const keys = source + dim * c.numHeads
    const values = keys + dim * c.numKvHeads
    memory.copy(q, source, dim * c.numHeads)
    // Keys are normalised and rotated in place, because nothing reads qkv afterwards.
    if (c.normKind != AFTER_ROPE) normQueriesAndKeys(c, q, keys)
    if (c.rope != 0) {
      const table = c.rope + (<usize>(row * c.rotaryDim) << 2)
      rotate(q, c.numHeads, c.headDim, table, c.rotaryDim >> 1)
      rotate(keys, c.numKvHeads, c.headDim, table, c.rotaryDim >> 1)
    }
    if (c.normKind == AFTER_ROPE) normQueriesAndKeys(c, q, keys)
    if (c.normalizesV != 0) divideByLength(values, c.numKvHeads, c.headDim, c.vEps)
    const slot = load<i32>(c.slots + (<usize>row << 2))
    const block = slot / c.blockSize
    const offset = <usize>(slot - block * c.blockSize)
    for (let head = 0; head < c.numKvHeads; head++) {
      const at = c.pool + c.blockBytes * block + c.headBytes * head
      let keyFactor: f32 = 1
      let valueFactor: f32 = 1
      if (c.kvFormat == KV_Q8) {
        const scales = at + c.headBytes - (<usize>c.paddedBlock << 3) + (offset << 2)
        keyFactor = storeScale(keys + dim * head, c.headDim, scales)
        valueFactor = storeScale(values + dim * head, c.headDim, scales + (<usize>c.paddedBlock << 2))
      }
      storeKey(c, keys + dim * head, at, offset, keyFactor)
      storeValue(c, values + dim * head, at + c.keyBytes, offset, valueFactor)
    }
  }
}

function normHeads(kind: i32, x: usize, heads: i32, headDim: i32, weight: usize, eps: f32): void {
  if (kind == 0) return
  const width = <usize>(kind == 2 ? headDim * heads : headDim)
  const pieces = kind == 2 ? 1 : heads
  for (let piece = 0; piece < pieces; piece++) {
    const at = x + (width << 2) * piece
    const inverse = inverseRms(at, width, eps)
    for (let i: usize = 0; i < width << 2; i += 4) store<f32>(at + i, load<f32>(at + i) * inverse * load<f32>(weight + i))
  }
}

/** Divides each head by its root mean square. */
function divideByLength(x: usize, heads: i32, headDim: i32, eps: f32): void {
  const bytes = <usize>headDim << 2
  for (let head = 0; head < heads; head++, x += bytes) {
    const inverse = inverseRms(x, headDim, eps)
    for (let i: usize = 0; i < bytes; i += 4) store<f32>(x + i, load<f32>(x + i) * inverse)
  }
}

/** Rotates the pairs (i, i + half) of each head. */
function rotate(x: usize, heads: i32, headDim: i32, table: usize, half: i32): void {
  const bytes = <usize>half << 2
  for (let head = 0; head < heads; head++) {
    const at = x + (<usize>(head * headDim) << 2)
    for (let i: usize = 0; i < bytes; i += 4) {
      const cos = load<f32>(table + i)
      const sin = load<f32>(table + bytes + i)
      const a = load<f32>(at + i)
      const b = load<f32>(at + bytes + i)
      store<f32>(at + i, a * cos - b * sin)
      store<f32>(at + bytes + i, b * cos + a * sin)
    }
  }
}

// @ts-ignore: decorator
@inline
function narrowScalar(value: f32): u16 {
  return <u16>i32x4.extract_lane(narrow(f32x4.splat(value)), 0)
}

/** Stores the scale of `count` values; returns the factor that turns values into codes. */
function storeScale(source: usize, count: i32, scale: usize): f32 {
  let largest: f32 = 0
  for (let i: usize = 0; i < <usize>count << 2; i += 4) largest = max(largest, abs(load<f32>(source + i)))
  store<f32>(scale, largest / 127)
  // As in the quantisation of activations: the quotient of a tiny amplitude would overflow.
  return largest > 1e-35 ? <f32>127 / largest : 0
}

// @ts-ignore: decorator
@inline
function codeOf(value: f32, factor: f32): i8 {
  return <i8>nearest(value * factor)
}

/** Stores K of one token: lane `offset & 15` of its tile [headDim][16]. */
function storeKey(c: QkvCommand, source: usize, keys: usize, offset: usize, factor: f32): void {
  const lane = offset & 15
  const headDim = <usize>c.headDim
  if (c.kvFormat == KV_F16) {
    const at = keys + (offset >> 4) * (headDim << 5) + halfOffset(lane)
    const whole = headDim & ~3
    for (let d: usize = 0; d < whole; d += 4) {
      const bits = narrow(v128.load(source + (d << 2)))
      v128.store16_lane(at + (d << 5), bits, 0)
      v128.store16_lane(at + (d << 5), bits, 2, 32)
      v128.store16_lane(at + (d << 5), bits, 4, 64)
      v128.store16_lane(at + (d << 5), bits, 6, 96)
    }
    for (let d = whole; d < headDim; d++) store<u16>(at + (d << 5), narrowScalar(load<f32>(source + (d << 2))))
  } else if (c.kvFormat == KV_Q8) {
    const at = keys + (offset >> 4) * (headDim << 4) + lane
    for (let d: usize = 0; d < headDim; d++) store<i8>(at + (d << 4), codeOf(load<f32>(source + (d << 2)), factor))
  } else {
    const at = keys + (offset >> 4) * (headDim << 6) + (lane << 2)
    for (let d: usize = 0; d < headDim; d++) store<f32>(at + (d << 6), load<f32>(source + (d << 2)))
  }
}

/** Stores V of one token: row `offset` of its panels [paddedBlock][16]. */
function storeValue(c: QkvCommand, source: usize, values: usize, offset: usize, factor: f32): void {
  const shift = kvShift(c.kvFormat)
  for (let d: usize = 0; d < <usize>c.headDim; d++) {
    const at = values + (d >> 4) * (<usize>c.paddedBlock << shift) + (offset << shift)
    const value = load<f32>(source + (d << 2))
    if (c.kvFormat == KV_F16) store<u16>(at + halfOffset(d & 15), narrowScalar(value))
    else if (c.kvFormat == KV_Q8) store<i8>(at + (d & 15), codeOf(value, factor))
    else store<f32>(at + ((d & 15) << 2), value)
  }
}
