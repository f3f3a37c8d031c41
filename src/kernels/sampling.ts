/**
 * How a token is drawn from a row of logits, and how log-probabilities are computed from it. This file is the definition: every backend, on
 * the host or on the device, draws the token that this file draws (except where two candidates lie within f32 rounding of each other).
 *
 *   l   raw logits, f32
 *   0.  `pending`, if set, is resolved with the token that the previous step drew (resolvePending)
 *   1.  listed tokens of `repetition`: l = l > 0 ? l * f32(1 / penalty) : l * penalty
 *   2.  listed tokens of `adjustments`: l = l + delta
 *   3.  a token is excluded if its mask bit is 0 or its l is at or below BANNED_LOGIT. (WGSL implementations may assume that infinities do
 *       not occur, so the host uploads -Infinity to a device as a finite value at or below BANNED_LOGIT.)
 *   4.  temperature below GREEDY_TEMPERATURE: the answer is the largest l, lowest token id on ties. Otherwise, with m the largest l,
 *       z = (l - m) * f32(1 / temperature), so z <= 0 and exp(z) is the token's probability relative to the most likely one.
 *   5.  every filter is a threshold on z; a token stays if its z reaches all thresholds. Tokens equal to a threshold all stay, so ties need
 *       no order:
 *         top-k: the k-th largest z, equal values counted each
 *         top-p: over the tokens left by top-k, the largest z such that the tokens at or above it hold at least topP of the mass
 *         min-p: f32(ln minP)
 *   6.  the answer is the token with the largest z + gumbel(noiseHash(key, token)), lowest id on ties. This Gumbel-max trick draws from
 *       softmax(z) over the tokens that stay.
 *
 * The noise is a pure function of (seed, choice, position of the sampled token, token id). So the same request gives the same text whatever
 * other requests share its steps, after a preemption, and under speculative decoding, which samples the verified rows in the same way.
 */
import type { SampleSpec, TokenLogprobs } from './sample-spec.ts'

/** Tokens with logits at or below this are never drawn. */
export const BANNED_LOGIT = -1e30
/** Temperatures below this are greedy: a division by them would overflow f32. */
export const GREEDY_TEMPERATURE = 1e-5

/** Draws the token with the largest logit and reports nothing else. */
export const GREEDY: SampleSpec = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: 0,
  choice: 0,
  repetition: null,
  adjustments: null,
  pending: null,
  mask: null,
  logprobs: -1,
}

const f32 = Math.fround

/**
 * A 32-bit mixing permutation with low avalanche bias: two rounds of multiply and xor-shift, as found by exhaustive search in
 * C. Wellons' hash-prospector (constants 21f0aaad, 735a2d97).
 */
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad)
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
  return (x ^ (x >>> 15)) >>> 0
}

/** The two key words of a row's noise, written to out[offset], out[offset + 1]. */
export function noiseKey(seed: number, choice: number, position: number, out: Uint32Array, offset = 0): void {
  // The constants (fractional bits of the golden ratio, sqrt 2, sqrt 3) keep 0 from being a fixed point and make the two words differ.
  const stem = mix(mix(seed + 0x9e3779b9) ^ choice)
  out[offset] = mix((stem + 0x6a09e667) ^ position)
  out[offset + 1] = mix((stem ^ 0xbb67ae85) + mix(position + 0x9e3779b9))
}

/** u32 noise of a token: two keyed rounds of the permutation, so that tokens of one row never collide and rows are uncorrelated. */
export function noiseHash(key0: number, key1: number, token: number): number {
  return mix(mix(token ^ key0) ^ key1)
}

/** ln(1 + x) for sqrt(1/2) - 1 <= x <= sqrt(2) - 1, in f32: the polynomial of Cephes' logf. Only adds and multiplies, so that WGSL agrees. */
function log1pSmall(x: number): number {
  let p = f32(7.0376836292e-2)
  p = f32(f32(p * x) + f32(-1.151461031e-1))
  p = f32(f32(p * x) + f32(1.167699874e-1))
  p = f32(f32(p * x) + f32(-1.2420140846e-1))
  p = f32(f32(p * x) + f32(1.4249322787e-1))
  p = f32(f32(p * x) + f32(-1.6668057665e-1))
  p = f32(f32(p * x) + f32(2.0000714765e-1))
  p = f32(f32(p * x) + f32(-2.4999993993e-1))
  p = f32(f32(p * x) + f32(3.3333331174e-1))
  const square = f32(x * x)
  const cube = f32(square * x)
  return f32(x + f32(f32(cube * p) - f32(0.5 * square)))
}

/** Exceeds ln 2 by more than the f32 rounding error of the noise. */
const LN2_BOUND = Math.LN2 * (1 + 1e-5)

const wordView = new Uint32Array(1)
const floatView = new Float32Array(wordView.buffer)

/** ln(x) of a positive normal f32, in f32. */
function logF32(x: number): number {
  floatView[0] = x
  const word = wordView[0]!
  // x = m 2^exponent with m in [sqrt(1/2), sqrt(2)): subtracting the bits of sqrt(1/2) leaves the exponent in the upper bits.
  const exponent = (word - 0x3f3504f3) >> 23
  wordView[0] = word - (exponent << 23)
  const tail = f32(exponent * f32(-2.1219444e-4))
  return f32(f32(log1pSmall(f32(floatView[0]! - 1)) + tail) + f32(exponent * 0.693359375))
}

/**
 * Standard Gumbel noise from 32 random bits: g = -ln(-ln(1 - v)) with v = bits / 2^32 in (0, 1), in f32.
 * A winning token has v near 0, where f32 is dense: with the 24 leading bits of the word, all small values of v stay distinct. The usual
 * u = 1 - v near 1 would have a resolution of 2^-24 and tie in large vocabularies. Truncating to 24 bits makes the conversion to f32 exact;
 * WGSL does not specify how inexact ones round.
 */
export function gumbel(hash: number): number {
  const excess = 8 - Math.clz32(hash)
  const kept = excess > 0 ? ((hash >>> excess) << excess) >>> 0 : hash
  const v = (kept === 0 ? 0.5 : kept) * 2 ** -32
  const exponential = v < 0.29289 ? -log1pSmall(-v) : -logF32(f32(1 - v))
  return -logF32(exponential)
}

/**
 * Returns the spec without `pending`: the pending token's penalty and adjustment are in the lists.
 * @param previous tokens that the sample rows of the previous step drew
 */
export function resolvePending(spec: SampleSpec, previous: ArrayLike<number>): SampleSpec {
  const { pending, repetition, adjustments } = spec
  if (pending === null) return spec
  const token = previous[pending.row]
  if (token === undefined) throw new Error(`sample row ${pending.row} of the previous step has no token`)
  const isListed = repetition === null || repetition.tokens.includes(token)
  const index = adjustments?.tokens.indexOf(token) ?? -1
  const tokens = [...(adjustments?.tokens ?? [])]
  const deltas = [...(adjustments?.deltas ?? [])]
  if (index < 0 && pending.delta !== 0) {
    tokens.push(token)
    deltas.push(pending.delta)
  } else if (index >= 0 && pending.deltas !== null) deltas[index] = pending.deltas[index]!
  return {
    ...spec,
    pending: null,
    repetition: isListed ? repetition : { ...repetition, tokens: Int32Array.of(...repetition.tokens, token) },
    adjustments: tokens.length === 0 ? null : { tokens: Int32Array.from(tokens), deltas: Float32Array.from(deltas) },
  }
}

/** Draws tokens; owns scratch memory for one row of logits. */
export class Sampler {
  readonly #logits: Float32Array // adjusted logits, then z
  readonly #keys: Uint32Array // the bits of #logits
  readonly #masses: Float64Array
  readonly #counts = new Uint32Array(256)
  readonly #sums = new Float64Array(256)
  readonly #noiseKey = new Uint32Array(2)

  constructor(vocabSize: number) {
    this.#logits = new Float32Array(vocabSize)
    this.#keys = new Uint32Array(this.#logits.buffer)
    this.#masses = new Float64Array(vocabSize)
  }

  /**
   * Draws a token from raw `logits` [vocab], which it does not change.
   * @param position the sampled token's own position
   * @returns the token id. 0 when every token is masked out; callers pass masks that allow a token.
   */
  sample(logits: Float32Array, spec: SampleSpec, position: number): number {
    const values = this.#logits
    values.set(logits)
    this.#adjust(spec)
    let best = 0
    for (let token = 1; token < values.length; token++) if (values[token]! > values[best]!) best = token
    if (spec.temperature < GREEDY_TEMPERATURE || values[best]! <= BANNED_LOGIT) return best

    const max = values[best]!
    const inverseTemperature = f32(1 / spec.temperature)
    for (let token = 0; token < values.length; token++) {
      const value = values[token]!
      values[token] = value <= BANNED_LOGIT ? -Infinity : f32(value - max) * inverseTemperature
    }
    const threshold = this.#threshold(spec)
    noiseKey(spec.seed, spec.choice, position, this.#noiseKey)
    const key0 = this.#noiseKey[0]!
    const key1 = this.#noiseKey[1]!
    let bestScore = -Infinity
    for (let token = 0; token < values.length; token++) {
      const z = values[token]!
      if (z < threshold) continue
      const hash = noiseHash(key0, key1, token)
      // gumbel < -ln v <= (leading zeros + 1) ln 2: this bound rules out nearly every token before its logarithms are computed.
      if (z + (Math.clz32(hash) + 1) * LN2_BOUND < bestScore) continue
      const score = f32(z + gumbel(hash))
      if (score > bestScore) {
        bestScore = score
        best = token
      }
    }
    return best
  }

  /** Steps 1 to 3, in place. */
  #adjust({ repetition, adjustments, mask }: SampleSpec): void {
    const values = this.#logits
    if (repetition !== null) {
      const inverse = f32(1 / repetition.penalty)
      for (const token of repetition.tokens) {
        const value = values[token]!
        values[token] = value > 0 ? value * inverse : value * f32(repetition.penalty)
      }
    }
    if (adjustments !== null) {
      for (let i = 0; i < adjustments.tokens.length; i++) {
        const token = adjustments.tokens[i]!
        values[token] = values[token]! + adjustments.deltas[i]!
      }
    }
    if (mask !== null) {
      for (let token = 0; token < values.length; token++) {
        if (((mask[token >> 5]! >>> (token & 31)) & 1) === 0) values[token] = -Infinity
      }
    }
  }

  /** Step 5: the largest of the three thresholds on z. */
  #threshold({ topK, topP, minP }: SampleSpec): number {
    let threshold = minP > 0 ? f32(Math.log(minP)) : -Infinity
    // An excluded token's z is -Infinity, and so is a threshold that is off: the finite bound excludes such tokens.
    threshold = Math.max(threshold, BANNED_LOGIT)
    const values = this.#logits
    const byCount = topK > 0 && topK < values.length
    const kth = byCount ? this.#select(topK, false, -Infinity) : -Infinity
    threshold = Math.max(threshold, kth)
    if (topP < 1) {
      let total = 0
      for (let token = 0; token < values.length; token++) {
        const mass = values[token]! >= kth ? Math.exp(values[token]!) : 0
        this.#masses[token] = mass
        total += mass
      }
      threshold = Math.max(threshold, this.#select(topP * total, true, kth))
    }
    return threshold
  }

  /**
   * The largest z such that the tokens at or above it reach `target`, in number or in mass. Radix select, 8 bits at a time, over the bits of
   * |z|, which order non-positive floats from the largest down. Ignores tokens below `floor`.
   */
  #select(target: number, byMass: boolean, floor: number): number {
    const values = this.#logits
    let prefix = 0
    let reached = 0
    for (let shift = 24; shift >= 0; shift -= 8) {
      this.#counts.fill(0)
      this.#sums.fill(0)
      const highMask = shift === 24 ? 0 : (0xffffffff << (shift + 8)) >>> 0
      for (let token = 0; token < values.length; token++) {
        if (values[token]! < floor) continue
        const key = this.#keys[token]! & 0x7fffffff
        if ((key & highMask) >>> 0 !== prefix) continue
        const digit = (key >>> shift) & 255
        this.#counts[digit]!++
        this.#sums[digit]! += byMass ? this.#masses[token]! : 1
      }
      let chosen = -1
      for (let digit = 0; digit < 256; digit++) {
        if (this.#counts[digit] === 0) continue
        chosen = digit
        if (reached + this.#sums[digit]! >= target) break
        reached += this.#sums[digit]!
      }
      // Rounding can leave the sum below a target of the whole mass: then the last non-empty digit is chosen, and no token is cut.
      prefix = (prefix | (chosen << shift)) >>> 0
    }
    wordView[0] = prefix
    return -floatView[0]!
  }
}

/**
 * Log-probability and rank of `token`, and the `topN` most likely tokens, from raw logits [vocab].
 * rank = 1 + the number of tokens with a larger logit. Ties in the top tokens are listed lowest id first.
 */
export function tokenLogprobs(logits: Float32Array, token: number, topN: number): TokenLogprobs {
  let max = -Infinity
  for (let i = 0; i < logits.length; i++) if (logits[i]! > max) max = logits[i]!
  const own = logits[token]!
  let sum = 0
  let rank = 1
  for (let i = 0; i < logits.length; i++) {
    sum += Math.exp(logits[i]! - max)
    if (logits[i]! > own) rank++
  }
  const normalizer = max + Math.log(sum)
  const topTokens: number[] = []
  const scanned = topN > 0 ? logits.length : 0
  for (let i = 0; i < scanned; i++) {
    const value = logits[i]!
    if (topTokens.length === topN && value <= logits[topTokens[topN - 1]!]!) continue
    let at = topTokens.length === topN ? topN - 1 : topTokens.length
    while (at > 0 && logits[topTokens[at - 1]!]! < value) {
      topTokens[at] = topTokens[at - 1]!
      at--
    }
    topTokens[at] = i
  }
  return { logprob: own - normalizer, rank, topTokens, topLogprobs: topTokens.map((i) => logits[i]! - normalizer) }
}
