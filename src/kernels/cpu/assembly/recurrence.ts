// Ops that carry a state along a sequence, token after token. A unit of work is a sequence and a part of the state that no other unit touches, so
// the slot that is written may be the one that was read.
import { scratch, takeUnits } from './pool'
import { exp, madd, silu, sumLanes } from './simd'
import { inverseRms } from './prepare'

/** A sequence's rows and slots. */
@unmanaged
class Run {
  firstRow: i32
  endRow: i32
  read: i32 // -1: the text begins
  write: i32
}

/** Channels of a unit of a convolution. */
const CHANNELS: i32 = 64

@unmanaged
export class ConvolutionCommand {
  opcode: i32
  runs: usize
  numRuns: i32
  states: usize // of the layer: a slot's inputs are f32 [kernel - 1][channels, padded]
  slotBytes: usize
  x: usize // from the first column read
  xStride: usize
  out: usize
  outStride: usize
  channels: i32
  kernel: i32
  weight: usize // f32 [channels][kernel]
  bias: usize // 0: none
  gated: i32
  counter: i32
}

export function convolution(c: ConvolutionCommand): void {
  const panels = (c.channels + CHANNELS - 1) / CHANNELS
  for (;;) {
    const unit = takeUnits(changetype<usize>(c) + offsetof<ConvolutionCommand>('counter'), 1)
    if (unit >= panels * c.numRuns) return
    const run = changetype<Run>(c.runs + <usize>(unit / panels) * offsetof<Run>())
    const first = (unit % panels) * CHANNELS
    const end = min(first + CHANNELS, c.channels)
    for (let channel = first; channel < end; channel += 4) convolve(c, run, channel)
  }
}

/** Four channels of a sequence. */
function convolve(c: ConvolutionCommand, run: Run, channel: i32): void {
  const past = c.kernel - 1
  const inputs = scratch
  const weights = scratch + (<usize>past << 4)
  for (let tap = 0; tap < c.kernel; tap++) {
    for (let i = 0; i < 4; i++) {
      const weight: f32 = channel + i < c.channels ? load<f32>(c.weight + (<usize>((channel + i) * c.kernel + tap) << 2)) : 0
      store<f32>(weights + (<usize>(tap * 4 + i) << 2), weight)
    }
  }
  const pitch = <usize>((c.channels + 3) & ~3) << 2
  const at = <usize>channel << 2
  for (let j = 0; j < past; j++) {
    const before = run.read < 0 ? f32x4.splat(0) : v128.load(c.states + c.slotBytes * run.read + pitch * j + at)
    v128.store(inputs + (<usize>j << 4), before)
  }
  const bias = c.bias == 0 ? f32x4.splat(0) : v128.load(c.bias + at)
  const width = <usize>c.channels << 2
  for (let row = run.firstRow; row < run.endRow; row++) {
    const x = c.x + c.xStride * row + at
    const input = c.gated ? f32x4.mul(v128.load(x), v128.load(x + 2 * width)) : v128.load(x)
    let sum = bias
    for (let j = 0; j < past; j++) {
      sum = madd(v128.load(weights + (<usize>j << 4)), v128.load(inputs + (<usize>j << 4)), sum)
    }
    sum = madd(v128.load(weights + (<usize>past << 4)), input, sum)
    v128.store(c.out + c.outStride * row + at, c.gated ? f32x4.mul(v128.load(x + width), sum) : silu(sum))
    for (let j = 0; j < past - 1; j++) v128.store(inputs + (<usize>j << 4), v128.load(inputs + (<usize>(j + 1) << 4)))
    if (past > 0) v128.store(inputs + (<usize>(past - 1) << 4), input)
  }
  for (let j = 0; j < past; j++) {
    v128.store(c.states + c.slotBytes * run.write + pitch * j + at, v128.load(inputs + (<usize>j << 4)))
  }
}

@unmanaged
export class ScanCommand {
  opcode: i32
  runs: usize
  numRuns: i32
  states: usize // of the layer: a slot's recurrent state is f32 [heads][valueDim][keyDim]
  slotBytes: usize
  q: usize // from the first head's
  k: usize
  v: usize
  xStride: usize
  out: usize
  outStride: usize
  heads: i32
  keyHeads: i32
  tiled: i32 // head h has the keys of h % keyHeads; else neighbours share them
  keyDim: i32 // a multiple of 4
  valueDim: i32
  decayRate: usize
  stepBias: usize
  step: usize
  stepStride: usize
  beta: usize // 0: Mamba-2's recurrence, else the gated delta rule's
  betaStride: usize
  skip: usize // of Mamba-2
  counter: i32
}

export function scan(c: ScanCommand): void {
  for (;;) {
    const unit = takeUnits(changetype<usize>(c) + offsetof<ScanCommand>('counter'), 1)
    if (unit >= c.heads * c.numRuns) return
    scanHead(c, changetype<Run>(c.runs + <usize>(unit / c.heads) * offsetof<Run>()), unit % c.heads)
  }
}

/** A head of a sequence. */
function scanHead(c: ScanCommand, run: Run, head: i32): void {
  const keyBytes = <usize>c.keyDim << 2
  const stateBytes = keyBytes * c.valueDim
  const state = c.states + c.slotBytes * run.write + stateBytes * head
  if (run.read < 0) memory.fill(state, 0, stateBytes)
  else if (run.read != run.write) memory.copy(state, c.states + c.slotBytes * run.read + stateBytes * head, stateBytes)
  const keyHead = c.tiled ? head % c.keyHeads : head / (c.heads / c.keyHeads)
  const keyAt = keyBytes * keyHead
  const valueAt = <usize>(head * c.valueDim) << 2
  const headAt = <usize>head << 2
  const isDelta = c.beta != 0
  for (let row = run.firstRow; row < run.endRow; row++) {
    const at = c.xStride * row
    let q = c.q + at + keyAt
    let k = c.k + at + keyAt
    if (isDelta) {
      scaleToLength(q, scratch, c.keyDim, <f32>1 / sqrt<f32>(<f32>c.keyDim))
      scaleToLength(k, scratch + keyBytes, c.keyDim, 1)
      q = scratch
      k = scratch + keyBytes
    }
    const dt = softplus(load<f32>(c.step + c.stepStride * row + headAt) + load<f32>(c.stepBias + headAt))
    const decay = expScalar(load<f32>(c.decayRate + headAt) * dt)
    const rate = isDelta ? sigmoid(load<f32>(c.beta + c.betaStride * row + headAt)) : dt
    const skip: f32 = isDelta ? 0 : load<f32>(c.skip + headAt)
    const overlap = dot(k, q, keyBytes)
    const values = c.v + at + valueAt
    const out = c.out + c.outStride * row + valueAt
    for (let v = 0; v < c.valueDim; v++) {
      const s = state + keyBytes * v
      const value = load<f32>(values + (<usize>v << 2))
      let known = f32x4.splat(0)
      let seen = f32x4.splat(0)
      for (let d: usize = 0; d < keyBytes; d += 16) {
        const held = v128.load(s + d)
        known = madd(held, v128.load(k + d), known)
        seen = madd(held, v128.load(q + d), seen)
      }
      const change = rate * (isDelta ? value - decay * sumLanes(known) : value)
      const decays = f32x4.splat(decay)
      const changes = f32x4.splat(change)
      for (let d: usize = 0; d < keyBytes; d += 16) {
        v128.store(s + d, madd(v128.load(s + d), decays, f32x4.mul(changes, v128.load(k + d))))
      }
      // The new state's product with q, from the old one's.
      store<f32>(out + (<usize>v << 2), decay * sumLanes(seen) + change * overlap + skip * value)
    }
  }
}

/** dst = x / |x| * factor, so that its length is `factor`. */
function scaleToLength(x: usize, dst: usize, length: i32, factor: f32): void {
  const bytes = <usize>length << 2
  const scale = f32x4.splat(factor / sqrt<f32>(dot(x, x, bytes) + <f32>1e-6))
  for (let d: usize = 0; d < bytes; d += 16) v128.store(dst + d, f32x4.mul(v128.load(x + d), scale))
}

function dot(a: usize, b: usize, bytes: usize): f32 {
  let sums = f32x4.splat(0)
  for (let d: usize = 0; d < bytes; d += 16) sums = madd(v128.load(a + d), v128.load(b + d), sums)
  return sumLanes(sums)
}

function expScalar(x: f32): f32 {
  return f32x4.extract_lane(exp(f32x4.splat(x)), 0)
}

function sigmoid(x: f32): f32 {
  return <f32>1 / (<f32>1 + expScalar(-x))
}

function softplus(x: f32): f32 {
  return x > 20 ? x : Mathf.log1p(expScalar(x))
}

@unmanaged
export class GateNormCommand {
  opcode: i32
  rows: i32
  x: usize // in place
  xStride: usize
  gate: usize
  gateStride: usize
  groups: i32 // normalised apart
  width: i32 // of a group
  weight: usize
  weightStep: usize // bytes from one group's weights to the next's
  eps: f32
  gatesFirst: i32
  counter: i32
}

export function gateNorm(c: GateNormCommand): void {
  const width = <usize>c.width << 2
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<GateNormCommand>('counter'), 1)
    if (row >= c.rows) return
    for (let group = 0; group < c.groups; group++) {
      const x = c.x + c.xStride * row + width * group
      const gate = c.gate + c.gateStride * row + width * group
      const weight = c.weight + c.weightStep * group
      if (c.gatesFirst) {
        for (let i: usize = 0; i < width; i += 16) {
          v128.store(x + i, f32x4.mul(v128.load(x + i), silu(v128.load(gate + i))))
        }
      }
      const factor = f32x4.splat(inverseRms(x, c.width, c.eps))
      for (let i: usize = 0; i < width; i += 16) {
        const value = f32x4.mul(f32x4.mul(v128.load(x + i), factor), v128.load(weight + i))
        v128.store(x + i, c.gatesFirst ? value : f32x4.mul(value, silu(v128.load(gate + i))))
      }
    }
  }
}

@unmanaged
export class SigmoidGateCommand {
  opcode: i32
  rows: i32
  x: usize
  xStride: usize
  gate: usize
  gateStride: usize
  cols: usize
  isShared: i32 // one gate for all columns
  counter: i32
}

export function sigmoidGate(c: SigmoidGateCommand): void {
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<SigmoidGateCommand>('counter'), 1)
    if (row >= c.rows) return
    const x = c.x + c.xStride * row
    const gate = c.gate + c.gateStride * row
    for (let i: usize = 0; i < c.cols << 2; i += 16) {
      const gates = c.isShared ? v128.load32_splat(gate) : v128.load(gate + i)
      const divisor = f32x4.add(f32x4.splat(1), exp(f32x4.neg(gates)))
      v128.store(x + i, f32x4.div(v128.load(x + i), divisor))
    }
  }
}
