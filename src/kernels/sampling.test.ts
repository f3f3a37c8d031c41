import { expect, test } from 'vitest'
import type { SampleSpec } from './sample-spec.ts'
import { BANNED_LOGIT, GREEDY, gumbel, noiseHash, noiseKey, Sampler, tokenLogprobs } from './sampling.ts'

const SPEC: SampleSpec = { ...GREEDY, seed: 7 }

/** A skewed distribution over 40 tokens with exact ties among the tail. */
const LOGITS = Float32Array.from({ length: 40 }, (_, i) => (i < 30 ? Math.sin(i * 1.7) * 3 : -1))

/** Step 1 to 5 of the definition by plain sorting, in f64. */
function exactDistribution(logits: Float32Array, spec: SampleSpec): number[] {
  const adjusted = [...logits]
  if (spec.repetition !== null) {
    for (const t of spec.repetition.tokens)
      adjusted[t]! *= adjusted[t]! > 0 ? 1 / spec.repetition.penalty : spec.repetition.penalty
  }
  spec.adjustments?.tokens.forEach((t, i) => (adjusted[t]! += spec.adjustments!.deltas[i]!))
  for (let t = 0; t < adjusted.length; t++) {
    if (spec.mask !== null && !((spec.mask[t >> 5]! >>> (t & 31)) & 1)) adjusted[t] = -Infinity
  }
  const max = Math.max(...adjusted)
  let mass = adjusted.map((l) => Math.exp((l - max) / spec.temperature))
  if (spec.topK > 0) {
    const kth = [...mass].sort((a, b) => b - a)[spec.topK - 1] ?? 0
    mass = mass.map((m) => (m >= kth ? m : 0))
  }
  if (spec.topP < 1) {
    const total = mass.reduce((a, b) => a + b)
    const sorted = [...mass].sort((a, b) => b - a)
    let sum = 0
    const cut = sorted.find((m) => (sum += m) >= spec.topP * total) ?? 0
    mass = mass.map((m) => (m >= cut ? m : 0))
  }
  mass = mass.map((m) => (m >= spec.minP ? m : 0))
  const total = mass.reduce((a, b) => a + b)
  return mass.map((m) => m / total)
}

/** Chi-squared of `counts` against `expected` probabilities, in standard deviations of its own distribution. */
function chiSquaredSigma(counts: number[], expected: number[]): number {
  const draws = counts.reduce((a, b) => a + b)
  let chi = 0
  let degrees = -1
  counts.forEach((count, i) => {
    const mean = expected[i]! * draws
    if (mean === 0) {
      expect(count).toBe(0)
      return
    }
    chi += (count - mean) ** 2 / mean
    degrees++
  })
  return (chi - degrees) / Math.sqrt(2 * degrees)
}

function drawMany(logits: Float32Array, spec: SampleSpec, draws: number): number[] {
  const sampler = new Sampler(logits.length)
  const counts = Array.from({ length: logits.length }, () => 0)
  for (let position = 0; position < draws; position++) counts[sampler.sample(logits, spec, position)]!++
  return counts
}

const mask = new Uint32Array([0xffff00ff, 0xff])
const cases: [string, Partial<SampleSpec>][] = [
  ['temperature alone', {}],
  ['low temperature', { temperature: 0.5 }],
  ['high temperature', { temperature: 3 }],
  ['top-k', { topK: 5 }],
  ['top-p', { topP: 0.8 }],
  ['min-p', { minP: 0.1 }],
  ['all filters', { topK: 20, topP: 0.9, minP: 0.02, temperature: 1.5 }],
  [
    'mask and bias',
    { mask, adjustments: { tokens: new Int32Array([3, 17]), deltas: new Float32Array([2, -Infinity]) } },
  ],
  ['repetition penalty', { repetition: { penalty: 1.5, tokens: new Int32Array([1, 4, 7, 8]) } }],
]

test.each(cases)('draws follow the exact distribution: %s', (_name, partial) => {
  const spec = { ...SPEC, temperature: 1, ...partial }
  expect(chiSquaredSigma(drawMany(LOGITS, spec, 40_000), exactDistribution(LOGITS, spec))).toBeLessThan(4)
})

test('draws follow the exact distribution over seeds and over choices, at one position', () => {
  const expected = exactDistribution(LOGITS, { ...SPEC, temperature: 1 })
  const sampler = new Sampler(LOGITS.length)
  for (const field of ['seed', 'choice'] as const) {
    const counts = expected.map(() => 0)
    for (let i = 0; i < 40_000; i++) counts[sampler.sample(LOGITS, { ...SPEC, temperature: 1, [field]: i }, 11)]!++
    expect(chiSquaredSigma(counts, expected), field).toBeLessThan(4)
  }
})

test('successive positions are independent', () => {
  const flat = new Float32Array(16)
  const sampler = new Sampler(16)
  const pairs = Array.from({ length: 256 }, () => 0)
  let last = 0
  for (let position = 0; position < 60_000; position++) {
    const token = sampler.sample(flat, { ...SPEC, temperature: 1 }, position)
    if (position > 0) pairs[last * 16 + token]!++
    last = token
  }
  expect(
    chiSquaredSigma(
      pairs,
      pairs.map(() => 1 / 256),
    ),
  ).toBeLessThan(4)
})

test('noise bits are uniform and avalanche in every input', () => {
  const key = new Uint32Array(2)
  const word = (seed: number, choice: number, position: number, token: number): number => {
    noiseKey(seed, choice, position, key)
    return noiseHash(key[0]!, key[1]!, token)
  }
  const ones = Array.from({ length: 32 }, () => 0)
  const inputs: [number, number, number, number][] = []
  for (let i = 0; i < 4096; i++) inputs.push([i % 7, i % 3, i, (i * 5) % 997])
  for (const input of inputs) {
    const value = word(...input)
    for (let bit = 0; bit < 32; bit++) ones[bit]! += (value >>> bit) & 1
  }
  for (const count of ones) expect(Math.abs(count - 2048)).toBeLessThan(5 * 32)
  for (let argument = 0; argument < 4; argument++) {
    for (const bit of [0, 1, 7, 15, 16, 31]) {
      let flips = 0
      for (const input of inputs) {
        const other: typeof input = [...input]
        other[argument] = (other[argument]! ^ (1 << bit)) >>> 0
        let difference = word(...input) ^ word(...other)
        for (; difference !== 0; difference &= difference - 1) flips++
      }
      expect(flips / inputs.length, `argument ${argument} bit ${bit}`).toBeGreaterThan(15.7)
      expect(flips / inputs.length, `argument ${argument} bit ${bit}`).toBeLessThan(16.3)
    }
  }
})

test('gumbel matches -ln(-ln(1 - v)) in f64 over its whole range, monotonically, and is finite at both ends', () => {
  let last = Infinity
  for (let i = 0; i < 100_000; i++) {
    const hash = Math.floor(2 ** (32 * (i / 100_000)))
    const g = gumbel(hash)
    const v = hash / 2 ** 32
    // The truncation to 24 bits moves v by 2^-24 of itself; near v = 1 that is a large step of ln(1 - v).
    const error = v < 0.999 ? Math.abs(g - -Math.log(-Math.log1p(-v))) : 0
    if (error > 4e-6 * Math.max(1, Math.abs(g))) expect.fail(`${g} for ${hash}`)
    if (g > last + 1e-5) expect.fail(`not monotone at ${hash}`)
    last = g
  }
  expect(gumbel(0)).toBeCloseTo(33 * Math.LN2, 4)
  expect(gumbel(0)).toBeLessThan(23)
  expect(Number.isFinite(gumbel(0xffffffff))).toBe(true)
})

test('noise values are fixed for good: a change would change the text of every seeded request', () => {
  const key = new Uint32Array(2)
  noiseKey(42, 1, 100, key)
  expect([...key]).toEqual([479177341, 3550974220])
  expect([0, 1, 31_999].map((token) => noiseHash(key[0]!, key[1]!, token))).toEqual([3640137831, 4285453556, 275866358])
})

test('greedy takes the lowest id among equals, after bias and mask', () => {
  const logits = new Float32Array([1, 5, 5, 2])
  const sampler = new Sampler(4)
  expect(sampler.sample(logits, SPEC, 0)).toBe(1)
  expect(sampler.sample(logits, { ...SPEC, mask: new Uint32Array([0b1101]) }, 0)).toBe(2)
  const adjustments = { tokens: new Int32Array([1, 2]), deltas: new Float32Array([-Infinity, -4]) }
  expect(sampler.sample(logits, { ...SPEC, adjustments }, 0)).toBe(3)
  expect(sampler.sample(logits, { ...SPEC, temperature: 1e-6 }, 0)).toBe(1)
  expect([...logits]).toEqual([1, 5, 5, 2])
})

test('equal logits stand or fall together at every threshold', () => {
  const logits = new Float32Array([3, 2, 2, 2, 1])
  for (const spec of [{ topK: 2 }, { topP: 0.6 }]) {
    const counts = drawMany(logits, { ...SPEC, temperature: 1, ...spec }, 4000)
    expect(counts[4]).toBe(0)
    expect(Math.min(counts[1]!, counts[2]!, counts[3]!)).toBeGreaterThan(300)
  }
})

test('edges: top-k 1 and top-p 0 are greedy, top-k beyond the vocabulary is off, banned tokens never return', () => {
  const sampler = new Sampler(LOGITS.length)
  const greedy = sampler.sample(LOGITS, SPEC, 0)
  const banned = {
    tokens: Int32Array.from({ length: 38 }, (_, i) => i + 2),
    deltas: new Float32Array(38).fill(BANNED_LOGIT),
  }
  for (let position = 0; position < 500; position++) {
    expect(sampler.sample(LOGITS, { ...SPEC, temperature: 2, topK: 1 }, position)).toBe(greedy)
    expect(sampler.sample(LOGITS, { ...SPEC, temperature: 2, topP: 0 }, position)).toBe(greedy)
    expect(sampler.sample(LOGITS, { ...SPEC, temperature: 2, topK: 4000 }, position)).toBe(
      sampler.sample(LOGITS, { ...SPEC, temperature: 2 }, position),
    )
    expect(
      sampler.sample(LOGITS, { ...SPEC, temperature: 100, topK: 30, topP: 0.9999, adjustments: banned }, position),
    ).toBeLessThan(2)
  }
})

test('log-probabilities and ranks', () => {
  const logits = new Float32Array([0.5, 2, -1, 2, 0])
  const sum = [...logits].reduce((a, l) => a + Math.exp(l), 0)
  const result = tokenLogprobs(logits, 0, 3)
  expect(result.logprob).toBeCloseTo(0.5 - Math.log(sum), 10)
  expect(result.rank).toBe(3)
  expect(result.topTokens).toEqual([1, 3, 0])
  expect(result.topLogprobs[1]).toBeCloseTo(2 - Math.log(sum), 10)
  expect(tokenLogprobs(logits, 3, 0)).toMatchObject({ rank: 1, topTokens: [], topLogprobs: [] })
  expect(tokenLogprobs(logits, 2, 20).topTokens).toEqual([1, 3, 0, 4, 2])
  expect(tokenLogprobs(new Float32Array([1000, -1000]), 1, 0).logprob).toBe(-2000)
})
