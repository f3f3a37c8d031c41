// Draws a token from each row of logits as src/kernels/sampling.ts defines it, with the same f32 operations in the same order. So the token is the same,
// except that top-p uses f32 exponentials here. A work unit is a row.
//
// A vocabulary can have 262,144 tokens, so passes over it are kept few: the thresholds of top-k and top-p are searched only among the few tokens above
// a lower bound of the threshold.
import { scratch, takeUnits } from './pool'
import { exp, maxLanes } from './simd'

/** Tokens with logits at or below this are excluded. */
const BANNED_LOGIT: f32 = -1e30
/** The kind of a spec that takes the largest logit, without noise. */
const GREEDY: i32 = 1
/** Tokens per group in the search for top-k's bound, which uses only the largest of each group. */
const GROUP: i32 = 64
/** Up to this many candidates are drawn from one by one; with more, the whole vocabulary is processed, four tokens at a time. */
const MAX_LISTED: i32 = 8192
/** How much the bound of top-p is lowered to allow for rounding. */
const MASS_SLACK: f32 = 0.1
/** An upper bound of the noise. */
const LARGEST_NOISE: f32 = 23
/** A value above ln 2, and a margin for bounds computed from it: both exceed the f32 rounding errors of noise and of scores near the best. */
const LN2_BOUND: f32 = 0.69315412
const BOUND_SLACK: f32 = 1e-4

@unmanaged
export class SampleCommand {
  opcode: i32
  rows: i32
  logits: usize
  stride: usize
  vocab: i32
  specs: usize // SampleSpec[rows]
  out: usize // i32[rows]
  counter: i32
}

/** 64 bytes; sample-specs.ts writes them. */
@unmanaged
class SampleSpec {
  kind: i32
  topK: i32 // 0: all
  topP: f32
  inverseTemperature: f32
  minZ: f32 // min-p's threshold on z, at least BANNED_LOGIT
  key0: u32
  key1: u32
  penalty: f32
  inversePenalty: f32
  entries: usize // Entry[numEntries] with distinct tokens, penalised ones first
  numPenalized: i32
  numEntries: i32
  mask: usize // 0: none
  unused0: u32
  unused1: u32
  unused2: u32
}

@unmanaged
class Entry {
  token: u32
  delta: f32
}

export function sample(c: SampleCommand): void {
  const bytes = (<usize>c.vocab + 3 & ~3) << 2
  for (;;) {
    const row = takeUnits(changetype<usize>(c) + offsetof<SampleCommand>('counter'), 1)
    if (row >= c.rows) return
    const spec = changetype<SampleSpec>(c.specs + <usize>row * offsetof<SampleSpec>())
    let logits = c.logits + c.stride * row
    if (spec.numEntries > 0 || spec.mask != 0) {
      // The raw logits must stay, because log-probabilities are computed from them.
      memory.copy(scratch, logits, bytes)
      logits = scratch
      adjust(spec, logits, c.vocab)
    }
    let token = argmax(logits, c.vocab)
    if (spec.kind != GREEDY) {
      const largest = load<f32>(logits + (<usize>token << 2))
      if (largest > BANNED_LOGIT) token = draw(spec, logits, largest, c.vocab, token, scratch + bytes, bytes)
    }
    store<i32>(c.out + (<usize>row << 2), token)
  }
}

/** Applies penalties, adjustments and the mask, in place. */
function adjust(spec: SampleSpec, logits: usize, vocab: i32): void {
  for (let i = 0; i < spec.numEntries; i++) {
    const entry = changetype<Entry>(spec.entries + <usize>i * offsetof<Entry>())
    const at = logits + (<usize>entry.token << 2)
    let value = load<f32>(at)
    if (i < spec.numPenalized) value = value > 0 ? value * spec.inversePenalty : value * spec.penalty
    store<f32>(at, value + entry.delta)
  }
  if (spec.mask == 0) return
  const bits = i32x4(1, 2, 4, 8)
  const out = f32x4.splat(-Infinity)
  for (let t = 0; t < vocab; t += 4) {
    const allowed = load<u32>(spec.mask + (<usize>(t >> 5) << 2)) >> (t & 31)
    const at = logits + (<usize>t << 2)
    const isOut = i32x4.eq(v128.and(i32x4.splat(allowed), bits), i32x4.splat(0))
    v128.store(at, v128.bitselect(out, v128.load(at), isOut))
  }
}

/** The largest logit's token, the lowest id on ties. */
function argmax(logits: usize, vocab: i32): i32 {
  const whole = vocab & ~3
  let best = f32x4.splat(-Infinity)
  let tokens = i32x4.splat(0)
  let index = i32x4(0, 1, 2, 3)
  for (let t = 0; t < whole; t += 4) {
    const values = v128.load(logits + (<usize>t << 2))
    const larger = f32x4.gt(values, best)
    best = v128.bitselect(values, best, larger)
    tokens = v128.bitselect(index, tokens, larger)
    index = i32x4.add(index, i32x4.splat(4))
  }
  let value = maxLanes(best)
  // Lanes that hold the largest, others as far away as there are ids.
  const ids = v128.bitselect(tokens, i32x4.splat(i32.MAX_VALUE), f32x4.eq(best, f32x4.splat(value)))
  const low = i32x4.min_s(ids, i8x16.shuffle(ids, ids, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7))
  let token = min(i32x4.extract_lane(low, 0), i32x4.extract_lane(low, 1))
  for (let t = whole; t < vocab; t++) {
    const other = load<f32>(logits + (<usize>t << 2))
    if (other > value) {
      value = other
      token = t
    }
  }
  // A row of NaN only has no largest logit.
  return token == i32.MAX_VALUE ? 0 : token
}

/** @param lists memory for three lists of `bytes` each, and 256 sums */
function draw(
  spec: SampleSpec,
  logits: usize,
  largest: f32,
  vocab: i32,
  likeliest: i32,
  lists: usize,
  bytes: usize,
): i32 {
  const byCount = spec.topK > 0 && spec.topK < vocab
  if (!byCount && spec.topP >= 1 && spec.minZ <= BANNED_LOGIT) {
    return drawFromAll(spec, logits, largest, vocab, likeliest, BANNED_LOGIT)
  }
  const tokens = lists
  const z = lists + bytes
  const masses = z + bytes
  const sums = masses + bytes
  let bound = spec.minZ
  let total: f64 = 0
  // Top-p counts all tokens that top-k leaves, even those that min-p cuts.
  if (byCount) bound = countBound(spec, logits, largest, vocab, z, sums)
  else if (spec.topP < 1) {
    total = massOf(spec, logits, largest, vocab)
    // All tokens below this bound together have less mass than top-p leaves out.
    bound = max(BANNED_LOGIT, logOf(<f32>((1 - <f64>spec.topP) * total) / <f32>vocab) - MASS_SLACK)
  }
  const count = gather(spec, logits, largest, vocab, bound, tokens, z)
  let threshold = spec.minZ
  let kth: f32 = -Infinity
  if (byCount) {
    kth = select(z, 0, count, <f64>spec.topK, kth, sums)
    threshold = max(threshold, kth)
  }
  if (spec.topP < 1) {
    const listed = listMasses(z, masses, count, kth)
    threshold = max(threshold, select(z, masses, count, <f64>spec.topP * (byCount ? listed : total), kth, sums))
  }
  if (count > MAX_LISTED) return drawFromAll(spec, logits, largest, vocab, likeliest, threshold)
  let best = likeliest
  let bestScore: f32 = -Infinity
  for (let i: usize = 0; i < <usize>count << 2; i += 4) {
    const own = load<f32>(z + i)
    if (own < threshold) continue
    const token = load<i32>(tokens + i)
    const hash = mixScalar(mixScalar(token ^ spec.key0) ^ spec.key1)
    // As in drawFromAll.
    if (own + (<f32>(clz(hash) + 1) * LN2_BOUND + BOUND_SLACK) < bestScore) continue
    const score = own + gumbel(hash)
    if (score > bestScore) {
      bestScore = score
      best = token
    }
  }
  return best
}

/** z of four logits. */
// @ts-ignore: decorator
@inline
function relative(at: usize, maxima: v128, inverse: v128): v128 {
  return f32x4.mul(f32x4.sub(v128.load(at), maxima), inverse)
}

/** A z that at least topK tokens reach: the topK-th largest of the groups' maxima. */
function countBound(spec: SampleSpec, logits: usize, largest: f32, vocab: i32, z: usize, sums: usize): f32 {
  const numGroups = vocab / GROUP
  if (spec.topK > numGroups) return BANNED_LOGIT
  for (let group = 0; group < numGroups; group++) {
    const from = logits + (<usize>group * GROUP << 2)
    let maxima = v128.load(from)
    for (let i: usize = 16; i < <usize>GROUP << 2; i += 16) maxima = f32x4.pmax(maxima, v128.load(from + i))
    const value = maxLanes(maxima)
    const own: f32 = value <= BANNED_LOGIT ? -Infinity : (value - largest) * spec.inverseTemperature
    store<f32>(z + (<usize>group << 2), own)
  }
  return max(BANNED_LOGIT, select(z, 0, numGroups, <f64>spec.topK, -Infinity, sums))
}

/** The sum of e^z of all tokens; a banned one's is 0. */
function massOf(spec: SampleSpec, logits: usize, largest: f32, vocab: i32): f64 {
  const maxima = f32x4.splat(largest)
  const inverse = f32x4.splat(spec.inverseTemperature)
  let low = f64x2.splat(0)
  let high = f64x2.splat(0)
  const whole = vocab & ~3
  for (let t = 0; t < whole; t += 4) {
    const power = exp(relative(logits + (<usize>t << 2), maxima, inverse))
    low = f64x2.add(low, f64x2.promote_low_f32x4(power))
    high = f64x2.add(high, f64x2.promote_low_f32x4(i8x16.shuffle(power, power, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)))
  }
  const both = f64x2.add(low, high)
  let sum = f64x2.extract_lane(both, 0) + f64x2.extract_lane(both, 1)
  for (let t = whole; t < vocab; t++) {
    const own = (load<f32>(logits + (<usize>t << 2)) - largest) * spec.inverseTemperature
    sum += <f64>f32x4.extract_lane(exp(f32x4.splat(own)), 0)
  }
  return sum
}

/** Lists the tokens with z of at least `bound`, and their z, in ascending order of ids. Returns their number. */
function gather(spec: SampleSpec, logits: usize, largest: f32, vocab: i32, bound: f32, tokens: usize, z: usize): i32 {
  const maxima = f32x4.splat(largest)
  const inverse = f32x4.splat(spec.inverseTemperature)
  const bounds = f32x4.splat(bound)
  const banned = f32x4.splat(BANNED_LOGIT)
  let count: usize = 0
  for (let t = 0; t < vocab; t += 4) {
    const at = logits + (<usize>t << 2)
    const isIn = v128.and(f32x4.ge(relative(at, maxima, inverse), bounds), f32x4.gt(v128.load(at), banned))
    if (!v128.any_true(isIn)) continue
    const end = min(t + 4, vocab)
    for (let token = t; token < end; token++) {
      const value = load<f32>(logits + (<usize>token << 2))
      const own = (value - largest) * spec.inverseTemperature
      if (value <= BANNED_LOGIT || own < bound) continue
      store<i32>(tokens + (count << 2), token)
      store<f32>(z + (count << 2), own)
      count++
    }
  }
  return <i32>count
}

/** Computes e^z of the listed tokens, 0 for those below the floor. Returns their sum. */
function listMasses(z: usize, masses: usize, count: i32, floor: f32): f64 {
  for (let i = 0; i < count; i += 4) {
    const values = v128.load(z + (<usize>i << 2))
    v128.store(masses + (<usize>i << 2), v128.and(exp(values), f32x4.ge(values, f32x4.splat(floor))))
  }
  let total: f64 = 0
  for (let i = 0; i < count; i++) total += <f64>load<f32>(masses + (<usize>i << 2))
  return total
}

function drawFromAll(spec: SampleSpec, logits: usize, largest: f32, vocab: i32, likeliest: i32, threshold: f32): i32 {
  const maxima = f32x4.splat(largest)
  const inverse = f32x4.splat(spec.inverseTemperature)
  const banned = f32x4.splat(BANNED_LOGIT)
  const key0 = i32x4.splat(spec.key0)
  const key1 = i32x4.splat(spec.key1)
  const thresholds = f32x4.splat(threshold)
  const vocabulary = i32x4.splat(vocab)
  let index = i32x4(0, 1, 2, 3)
  let best = likeliest
  let bestScore: f32 = -Infinity
  for (let t = 0; t < vocab; t += 4, index = i32x4.add(index, i32x4.splat(4))) {
    const at = logits + (<usize>t << 2)
    const z = relative(at, maxima, inverse)
    const reach = max(threshold, bestScore - LARGEST_NOISE)
    if (!v128.any_true(f32x4.ge(z, f32x4.splat(reach)))) continue
    const hash = mix(v128.xor(mix(v128.xor(index, key0)), key1))
    // gumbel < -ln v <= (leading zeros + 1) ln 2, computed from the exponent of the noise's upper 24 bits: this bound rules out nearly every token
    // before its logarithms are computed.
    const exponent = i32x4.shr_u(f32x4.convert_i32x4_s(i32x4.shr_u(hash, 8)), 23)
    const zeros = f32x4.convert_i32x4_s(i32x4.sub(i32x4.splat(127 + 24), exponent))
    const noise = f32x4.add(f32x4.mul(zeros, f32x4.splat(LN2_BOUND)), f32x4.splat(BOUND_SLACK))
    let open = f32x4.ge(f32x4.add(z, noise), f32x4.splat(bestScore))
    open = v128.and(open, v128.and(f32x4.ge(z, thresholds), f32x4.gt(v128.load(at), banned)))
    if (!v128.any_true(v128.and(open, i32x4.lt_s(index, vocabulary)))) continue
    const end = min(t + 4, vocab)
    for (let token = t; token < end; token++) {
      const one = load<f32>(logits + (<usize>token << 2))
      const own = (one - largest) * spec.inverseTemperature
      if (one <= BANNED_LOGIT || own < threshold) continue
      const score = own + gumbel(mixScalar(mixScalar(token ^ spec.key0) ^ spec.key1))
      if (score > bestScore) {
        bestScore = score
        best = token
      }
    }
  }
  return best
}

/**
 * The largest z such that the tokens at or above it reach `target`, in number (`masses` 0) or in mass. Radix select over the bits of |z|, which
 * order non-positive floats from the largest down. `sums`: memory for 256 f64.
 */
function select(z: usize, masses: usize, vocab: i32, target: f64, floor: f32, sums: usize): f32 {
  let prefix: u32 = 0
  let reached: f64 = 0
  for (let shift = 24; shift >= 0; shift -= 8) {
    // -1: no token has this digit; one of no mass counts as present.
    for (let digit: usize = 0; digit < 256; digit++) store<f64>(sums + (digit << 3), -1)
    const highMask: u32 = shift == 24 ? 0 : <u32>0xffffffff << (shift + 8)
    for (let t = 0; t < vocab; t++) {
      const at = <usize>t << 2
      const key = load<u32>(z + at) & 0x7fffffff
      if ((key & highMask) != prefix || load<f32>(z + at) < floor) continue
      const digit = sums + (<usize>((key >> shift) & 255) << 3)
      const mass: f64 = masses == 0 ? 1 : <f64>load<f32>(masses + at)
      const sum = load<f64>(digit)
      store<f64>(digit, sum < 0 ? mass : sum + mass)
    }
    let chosen: u32 = 0
    for (let digit: u32 = 0; digit < 256; digit++) {
      const sum = load<f64>(sums + (<usize>digit << 3))
      if (sum < 0) continue
      chosen = digit
      if (reached + sum >= target) break
      reached += sum
    }
    // Rounding can leave the sum below a target of the whole mass: then the last non-empty digit is chosen, and no token is cut.
    prefix |= chosen << shift
  }
  return -reinterpret<f32>(prefix)
}

// @ts-ignore: decorator
@inline
function mix(x: v128): v128 {
  x = i32x4.mul(v128.xor(x, i32x4.shr_u(x, 16)), i32x4.splat(0x21f0aaad))
  x = i32x4.mul(v128.xor(x, i32x4.shr_u(x, 15)), i32x4.splat(0x735a2d97))
  return v128.xor(x, i32x4.shr_u(x, 15))
}

function mixScalar(x: u32): u32 {
  x = (x ^ (x >> 16)) * 0x21f0aaad
  x = (x ^ (x >> 15)) * 0x735a2d97
  return x ^ (x >> 15)
}

/** ln(1 + x) for sqrt(1/2) - 1 <= x <= sqrt(2) - 1: Cephes' logf. */
function log1pSmall(x: f32): f32 {
  let p: f32 = 7.0376836292e-2
  p = p * x + <f32>-1.151461031e-1
  p = p * x + <f32>1.167699874e-1
  p = p * x + <f32>-1.2420140846e-1
  p = p * x + <f32>1.4249322787e-1
  p = p * x + <f32>-1.6668057665e-1
  p = p * x + <f32>2.0000714765e-1
  p = p * x + <f32>-2.4999993993e-1
  p = p * x + <f32>3.3333331174e-1
  const square = x * x
  const cube = square * x
  return x + (cube * p - <f32>0.5 * square)
}

/** ln(x) of a positive normal f32. */
function logOf(x: f32): f32 {
  const word = reinterpret<i32>(x)
  const exponent = (word - 0x3f3504f3) >> 23
  const tail = <f32>exponent * <f32>-2.1219444e-4
  return log1pSmall(reinterpret<f32>(word - (exponent << 23)) - 1) + tail + <f32>exponent * <f32>0.693359375
}

/** Standard Gumbel noise from the 24 leading bits of 32 random bits. */
function gumbel(hash: u32): f32 {
  const excess = 8 - <i32>clz(hash)
  const kept: u32 = excess > 0 ? (hash >> excess) << excess : hash
  const v: f32 = (kept == 0 ? <f32>0.5 : <f32>kept) * <f32>2.3283064365386963e-10
  const exponential = <f64>v < 0.29289 ? -log1pSmall(-v) : -logOf(<f32>1 - v)
  return -logOf(exponential)
}
