/** Random weights, activations and step inputs of the backend conformance suite: pure functions of their seeds. */
import { expect } from 'vitest'
import type { InspectableBackend } from '../../src/kernels/inspect.ts'
import { f32ToF16 } from '../../src/kernels/float.ts'
import type { BackendOptions } from '../../src/kernels/backend.ts'
import type { Activation, BackendLimits, MatrixData, StepInput } from '../../src/kernels/ops.ts'

export type CreateBackend = (options: BackendOptions) => Promise<InspectableBackend>

/**
 * How much of formats x shapes x epilogues the full level runs: `all` of it; `pairs`, each pair of them and each format with and without a norm
 * on each shape; `formats`, each format on each shape, half of the formats with a norm. Less than all is for WebGPU, whose kernels are dear to
 * compile on a software adapter: their text depends on format, gate and shape, and the epilogue is chosen by a uniform, so that all three
 * crossed would run the same code again. The default level takes one shape a format there.
 */
export type Coverage = 'all' | 'pairs' | 'formats'

export interface Tolerances {
  readonly f32: number
  readonly f16: number
  readonly quantized: number
  readonly attention: number
}

/** The one tolerance table: normalised squared error, sum((a - b)^2) / sum(b^2). Quantised: against the exactly dequantised weights. */
export const TOLERANCES: Tolerances = { f32: 1e-7, f16: 1e-6, quantized: 1e-6, attention: 1e-5 }

export const LIMITS: BackendLimits = { maxRows: 136, maxSequences: 8, maxSampleRows: 12, maxBlocksPerSequence: 24 }
export const BLOCK_SIZE = 16
export const isFull = process.env.MINISERVE_TEST_LEVEL === 'full'

/** Uniform in [-1, 1), mulberry32. */
export function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1
  }
}

export function randomValues(seed: number, length: number, magnitude = 1): Float32Array {
  const next = generator(seed)
  return Float32Array.from({ length }, () => next() * magnitude)
}

export type Format =
  | 'f32'
  | 'f16'
  | 'q8'
  | 'q8 g16'
  | 'q8 mins'
  | 'q8 g16 mins'
  | 'q8 narrow'
  | 'q8 narrow g16'
  | 'q8 narrow g16 mins'
  | 'q8 narrow subs g16'
  | 'q4'
  | 'q4 mins'
  | 'q4 subs mins'
  | 'mxfp4'

/** Every storage form a weight matrix can have; at the default level those that between them take every path. */
const CANONICAL: readonly Format[] = isFull
  ? ['f32', 'f16', 'q8', 'q8 g16', 'q8 mins', 'q8 g16 mins', 'q4', 'q4 mins', 'mxfp4']
  : ['f32', 'f16', 'q8', 'q8 g16 mins', 'q4', 'q4 mins', 'mxfp4']
const NARROW: readonly Format[] = isFull
  ? ['q8 narrow', 'q8 narrow g16', 'q8 narrow g16 mins']
  : ['q8 narrow', 'q8 narrow g16']
/** Scales with sub-scales, in matrices of whole 256 columns. */
const WITH_SUBS: readonly Format[] = ['q8 narrow subs g16', 'q4 subs mins']
export const FORMATS: readonly Format[] = [...CANONICAL, ...NARROW, ...WITH_SUBS]

/** Codes with scales, in whole groups. */
export const isCoded = (format: Format): boolean => format !== 'f32' && format !== 'f16'

export function formatTolerance(format: Format, tolerances: Tolerances): number {
  return format === 'f32' ? tolerances.f32 : format === 'f16' ? tolerances.f16 : tolerances.quantized
}

/** Scales that f16 holds exactly, as those of GGUF's legacy quantisations are: what is compared is arithmetic, not the rounding of scales. */
function randomScales(next: () => number, length: number, magnitude: number): Float32Array {
  return Float32Array.from({ length }, () => Math.round((next() + 1.5) * 256) * (magnitude / 1024))
}

/** Scales that are integers from `first` on, `count` of them, times a number of 11 bits for each 256 columns: it and the greatest integer are odd. */
function randomSubScales(
  next: () => number,
  length: number,
  group: number,
  first: number,
  count: number,
): Float32Array {
  const factors = Array.from({ length: Math.ceil((length * group) / 256) }, () => Math.round(next() * 511 + 1534) | 1)
  return Float32Array.from({ length }, (_, i) => {
    const integer = first + Math.floor(((next() + 1) / 2) * count)
    return (integer * factors[Math.floor((i * group) / 256)]! * 2 ** -12) / 64
  })
}

export function randomMatrix(format: Format, seed: number, rows: number, cols: number): MatrixData {
  const next = generator(seed)
  const size = rows * cols
  if (format === 'f32') return { format: 'f32', values: Float32Array.from({ length: size }, next) }
  if (format === 'f16') return { format: 'f16', values: Uint16Array.from({ length: size }, () => f32ToF16(next())) }
  if (format === 'mxfp4') {
    const codes = Uint8Array.from({ length: size / 2 }, () => Math.floor((next() + 1) * 128))
    // Zeros of either sign side by side.
    codes.fill(0x88, 0, 2)
    const exponents = Uint8Array.from({ length: size / 32 }, () => 122 + Math.floor((next() + 1) * 4))
    return { format, group: 32, codes, exponents }
  }
  const group = format.includes('g16') ? 16 : 32
  const numGroups = size / group
  const hasMins = format.endsWith('mins')
  const hasSubScales = format.includes('subs')
  const subs = hasSubScales ? ({ hasSubScales } as const) : {}
  if (format.startsWith('q8')) {
    const isNarrow = format.includes('narrow')
    const code = (): number => (isNarrow ? Math.floor(next() * 32) + (hasMins ? 32 : 0) : Math.round(next() * 127))
    const codes = Int8Array.from({ length: size }, code)
    const scales = hasSubScales
      ? randomSubScales(next, numGroups, group, -128, 256)
      : randomScales(next, numGroups, 2 ** -6)
    const mins = hasMins ? randomScales(next, numGroups, -(2 ** -1)) : null
    return { format: 'q8', group, ...subs, ...(isNarrow ? { isNarrow } : {}), codes, scales, mins }
  }
  const codes = Uint8Array.from({ length: size / 2 }, () => Math.floor((next() + 1) * 128))
  const scales = hasSubScales ? randomSubScales(next, numGroups, 32, 0, 64) : randomScales(next, numGroups, 2 ** -3)
  const mins = hasSubScales
    ? randomSubScales(next, numGroups, 32, -63, 64).map((min) => min * 8)
    : hasMins
      ? randomScales(next, numGroups, -1)
      : null
  return { format: 'q4', group: 32, ...subs, codes, scales, mins }
}

/** Sum of squared differences over the sum of the expected squares; NaN anywhere gives NaN, which is above no tolerance but fails `<`. */
export function normalizedSquaredError(actual: Float32Array, expected: Float32Array): number {
  let error = 0
  let power = 0
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i]! - expected[i]!) ** 2
    power += expected[i]! ** 2
  }
  return power === 0 ? error : error / power
}

export function expectClose(actual: Float32Array, expected: Float32Array, tolerance: number, what: string): void {
  expect(actual.length, `${what}: length`).toBe(expected.length)
  const error = normalizedSquaredError(actual, expected)
  expect(error, `${what}: normalised squared error`).toBeLessThan(tolerance)
}

/** Bit equality, with the first difference named. */
export function expectBitEqual(actual: Float32Array, expected: Float32Array, what: string): void {
  expect(actual.length, `${what}: length`).toBe(expected.length)
  const a = new Uint32Array(actual.buffer, actual.byteOffset, actual.length)
  const b = new Uint32Array(expected.buffer, expected.byteOffset, expected.length)
  const at = a.findIndex((word, i) => word !== b[i])
  if (at >= 0) expect.fail(`${what}: element ${at} is ${actual[at]}, expected the same bits as ${expected[at]}`)
}

/** The rows past `numRows` of a poisoned buffer must still hold the poison: nothing may be written outside the step's rows. */
export function expectPoison(all: Float32Array, numRows: number, cols: number, what: string): void {
  const at = all.subarray(numRows * cols).findIndex((value) => !Number.isNaN(value))
  if (at >= 0) expect.fail(`${what}: row ${numRows + Math.floor(at / cols)} lies outside the step and was written`)
}

/** Writes the first rows of an activation, as far as `values` has them; the others are poison: nothing may be read or written outside a step. */
export function writeRows(
  backend: InspectableBackend,
  activation: Activation,
  values: Float32Array,
  numRows: number,
): void {
  const all = new Float32Array(LIMITS.maxRows * activation.cols).fill(NaN)
  all.set(values.subarray(0, numRows * activation.cols))
  backend.debugWrite(activation, all)
}

/** The first rows of an activation, after checking that the poison behind them is untouched. */
export async function readRows(
  backend: InspectableBackend,
  activation: Activation,
  numRows: number,
): Promise<Float32Array> {
  const all = await backend.debugRead(activation)
  expectPoison(all, numRows, activation.cols, activation.label)
  return all.slice(0, numRows * activation.cols)
}

export interface SequenceFixture {
  readonly start: number
  readonly numTokens: number
  /** Block ids of positions 0... */
  readonly blocks: readonly number[]
  /** One a token; 0, 1, 2, ... when left out. */
  readonly tokens?: readonly number[]
}

export function stepInput(sequences: readonly SequenceFixture[]): StepInput {
  const numRows = sequences.reduce((sum, sequence) => sum + sequence.numTokens, 0)
  const maxBlocksPerSequence = LIMITS.maxBlocksPerSequence
  const input = {
    numRows,
    numSequences: sequences.length,
    tokens: new Int32Array(numRows),
    positions: new Int32Array(numRows),
    slots: new Int32Array(numRows),
    sequenceStarts: new Int32Array(sequences.length + 1),
    // Entries past the context are ignored: a wild one must not be followed.
    blockTables: new Int32Array(sequences.length * maxBlocksPerSequence).fill(0x7fffff),
    maxBlocksPerSequence,
  }
  let row = 0
  for (const [index, sequence] of sequences.entries()) {
    input.sequenceStarts[index] = row
    input.blockTables.set(sequence.blocks, index * maxBlocksPerSequence)
    for (let i = 0; i < sequence.numTokens; i++, row++) {
      const position = sequence.start + i
      input.tokens[row] = sequence.tokens?.[i] ?? i
      input.positions[row] = position
      input.slots[row] = sequence.blocks[Math.floor(position / BLOCK_SIZE)]! * BLOCK_SIZE + (position % BLOCK_SIZE)
    }
  }
  input.sequenceStarts[sequences.length] = row
  return input
}

/** A step of `numRows` rows whose ops look at nothing but the rows. */
export function plainStep(numRows: number): StepInput {
  const blocks = Array.from({ length: Math.ceil(numRows / BLOCK_SIZE) }, (_, i) => i)
  return stepInput([{ start: 0, numTokens: numRows, blocks }])
}

/** Copies the leading rows out of row-major values. */
export function firstRows(values: Float32Array, numRows: number, cols: number): Float32Array {
  return values.slice(0, numRows * cols)
}

export function backendOptions(limits: BackendLimits = LIMITS): BackendOptions {
  return { limits, traceKernels: false }
}
