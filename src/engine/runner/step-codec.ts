/**
 * Step plans and results as 32-bit words in shared memory. As objects they would be cloned twice per step, each typed array with a buffer of its own. For
 * sixteen sequences that takes a quarter of a millisecond, more than everything else that the serving thread does in a step.
 */
import type { SampleSpec, SequencePlan, SequenceResult, StepPlan, StepResult, TokenLogprobs } from './runner.ts'

const MIN_WORDS = 1024

/** Converts a double to two words, which need no 8-byte alignment. */
const double = new Float64Array(1)
const doubleWords = new Int32Array(double.buffer)

/** Appends words to shared memory. When the memory is full, a larger one replaces it. */
export class WordWriter {
  #words: Int32Array<SharedArrayBuffer>
  #length = 0

  constructor(buffer = new SharedArrayBuffer(MIN_WORDS * 4)) {
    this.#words = new Int32Array(buffer)
  }

  /** The memory that is written to. It changes when it has been full. */
  get buffer(): SharedArrayBuffer {
    return this.#words.buffer
  }

  reset(): void {
    this.#length = 0
  }

  int(value: number): void {
    this.#reserve(1)
    this.#words[this.#length++] = value
  }

  double(value: number): void {
    this.#reserve(2)
    double[0] = value
    this.#words[this.#length++] = doubleWords[0] ?? 0
    this.#words[this.#length++] = doubleWords[1] ?? 0
  }

  /** Writes the number of values, then their bits. */
  array(values: Int32Array | Uint32Array | Float32Array): void {
    this.#reserve(1 + values.length)
    this.#words[this.#length++] = values.length
    const bits = values instanceof Int32Array ? values : new Int32Array(values.buffer, values.byteOffset, values.length)
    this.#words.set(bits, this.#length)
    this.#length += values.length
  }

  #reserve(count: number): void {
    const needed = this.#length + count
    if (needed <= this.#words.length) return
    const grown = new Int32Array(new SharedArrayBuffer(Math.max(needed, 2 * this.#words.length) * 4))
    grown.set(this.#words)
    this.#words = grown
  }
}

/** Reads what a WordWriter wrote. */
class WordReader {
  readonly #words: Int32Array
  #at = 0

  constructor(buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer)
  }

  int(): number {
    const value = this.#words[this.#at++]
    if (value === undefined) throw new RangeError(`word ${this.#at - 1} of ${this.#words.length}`)
    return value
  }

  double(): number {
    doubleWords[0] = this.int()
    doubleWords[1] = this.int()
    return double[0] ?? 0
  }

  /** A view of an array, valid until the memory is written again. */
  view(): Int32Array {
    const length = this.int()
    const start = this.#at
    this.#at += length
    if (this.#at > this.#words.length) throw new RangeError(`words ${start} to ${this.#at} of ${this.#words.length}`)
    return this.#words.subarray(start, this.#at)
  }

  /** A copy of an array in memory that is not shared, because devices refuse to upload from shared memory. */
  array(): Int32Array<ArrayBuffer> {
    return new Int32Array(this.view())
  }
}

const SOURCE = { ids: 0, previousStep: 1 } as const
const FLAG = { repetition: 1, adjustments: 2, mask: 4, pending: 8, pendingDeltas: 16 } as const

/** Writes a plan. @param awaitsMasks masks will follow in a message */
export function writePlan(writer: WordWriter, plan: StepPlan, awaitsMasks = false): void {
  writer.reset()
  writer.int(awaitsMasks ? 1 : 0)
  writer.int(plan.stepId)
  writer.int(plan.poolId ?? -1)
  writer.int(plan.blockCopies.length)
  for (const { source, destination, numTokens } of plan.blockCopies) {
    writer.int(source)
    writer.int(destination)
    writer.int(numTokens)
  }
  writer.int(plan.sequences.length)
  for (const { tokenSource, startPosition, blockTable, adapter, state, sample, score } of plan.sequences) {
    if ('ids' in tokenSource) {
      writer.int(SOURCE.ids)
      writer.array(tokenSource.ids)
    } else {
      writer.int(SOURCE.previousStep)
      writer.int(tokenSource.fromPreviousStep)
    }
    writer.int(startPosition)
    writer.array(blockTable)
    writer.int(adapter ?? -1)
    // -2 stands for no state: slots are -1 or more.
    writer.int(state === undefined ? -2 : state.read)
    if (state !== undefined) writer.int(state.write)
    writer.int(sample.length)
    for (const spec of sample) writeSpec(writer, spec)
    writer.int(score === null ? -1 : score.topN)
    if (score !== null) writer.array(score.targets)
  }
}

/** Reads a plan. Its token ids and block tables are views of the shared memory, valid until the memory is written again. */
export function readPlan(buffer: SharedArrayBuffer): { readonly plan: StepPlan; readonly awaitsMasks: boolean } {
  const reader = new WordReader(buffer)
  const awaitsMasks = reader.int() === 1
  const stepId = reader.int()
  const poolId = reader.int()
  const blockCopies = Array.from({ length: reader.int() }, () => ({
    source: reader.int(),
    destination: reader.int(),
    numTokens: reader.int(),
  }))
  const sequences: SequencePlan[] = []
  for (let left = reader.int(); left > 0; left--) {
    const tokenSource = reader.int() === SOURCE.ids ? { ids: reader.view() } : { fromPreviousStep: reader.int() }
    const startPosition = reader.int()
    const blockTable = reader.view()
    const index = reader.int()
    const adapter = index < 0 ? {} : { adapter: index }
    const read = reader.int()
    const state = read < -1 ? {} : { state: { read, write: reader.int() } }
    const sample: SampleSpec[] = []
    for (let rows = reader.int(); rows > 0; rows--) sample.push(readSpec(reader))
    const topN = reader.int()
    const score = topN < 0 ? null : { targets: reader.array(), topN }
    sequences.push({ tokenSource, startPosition, blockTable, ...adapter, ...state, sample, score })
  }
  return { plan: { stepId, ...(poolId < 0 ? {} : { poolId }), blockCopies, sequences }, awaitsMasks }
}

function writeSpec(writer: WordWriter, spec: SampleSpec): void {
  const { repetition, adjustments, pending, mask } = spec
  writer.double(spec.temperature)
  writer.double(spec.topK)
  writer.double(spec.topP)
  writer.double(spec.minP)
  writer.double(spec.seed)
  writer.int(spec.choice)
  writer.int(spec.logprobs)
  writer.int(
    (repetition === null ? 0 : FLAG.repetition) |
      (adjustments === null ? 0 : FLAG.adjustments) |
      (mask === null ? 0 : FLAG.mask) |
      (pending === null ? 0 : FLAG.pending) |
      (pending === null || pending.deltas === null ? 0 : FLAG.pendingDeltas),
  )
  if (repetition !== null) {
    writer.double(repetition.penalty)
    writer.array(repetition.tokens)
  }
  if (adjustments !== null) {
    writer.array(adjustments.tokens)
    writer.array(adjustments.deltas)
  }
  if (pending !== null) {
    writer.int(pending.row)
    writer.double(pending.delta)
    if (pending.deltas !== null) writer.array(pending.deltas)
  }
  if (mask !== null) writer.array(mask)
}

function readSpec(reader: WordReader): SampleSpec {
  const temperature = reader.double()
  const topK = reader.double()
  const topP = reader.double()
  const minP = reader.double()
  const seed = reader.double()
  const choice = reader.int()
  const logprobs = reader.int()
  const flags = reader.int()
  const repetition = (flags & FLAG.repetition) === 0 ? null : { penalty: reader.double(), tokens: reader.array() }
  const adjustments =
    (flags & FLAG.adjustments) === 0
      ? null
      : { tokens: reader.array(), deltas: new Float32Array(reader.array().buffer) }
  const pending =
    (flags & FLAG.pending) === 0
      ? null
      : {
          row: reader.int(),
          delta: reader.double(),
          deltas: (flags & FLAG.pendingDeltas) === 0 ? null : new Float32Array(reader.array().buffer),
        }
  const mask = (flags & FLAG.mask) === 0 ? null : new Uint32Array(reader.array().buffer)
  return { temperature, topK, topP, minP, seed, choice, repetition, adjustments, pending, mask, logprobs }
}

/** The parts of a result that are not written as words. Most steps have none; those of other steps are cloned. */
export interface ResultDetails {
  /** By sequence. */
  readonly logprobs: readonly (readonly (TokenLogprobs | null)[])[]
  readonly scores: readonly (readonly TokenLogprobs[])[]
  readonly kernels: StepResult['kernels']
}

/** Writes the numbers of a result. Returns its other parts; null: it has none. */
export function writeResult(writer: WordWriter, result: StepResult): ResultDetails | null {
  writer.reset()
  writer.int(result.stepId)
  writer.int(result.poolId ?? 0)
  writer.double(result.computeMs)
  writer.double(result.gpuMicros ?? Number.NaN)
  writer.int(result.sequences.length)
  let hasDetails = result.kernels !== null
  for (const { tokens, logprobs, scores } of result.sequences) {
    writer.int(tokens.length)
    for (const token of tokens) writer.int(token)
    hasDetails ||= scores.length > 0 || logprobs.some((detail) => detail !== null)
  }
  if (!hasDetails) return null
  const { sequences, kernels } = result
  return {
    logprobs: sequences.map(({ logprobs }) => logprobs),
    scores: sequences.map(({ scores }) => scores),
    kernels,
  }
}

const NO_SCORES: readonly TokenLogprobs[] = []
const ONE_WITHOUT_LOGPROBS: readonly null[] = [null]

/** Reads a result. @param details the parts that came in a message; null: there are none */
export function readResult(buffer: SharedArrayBuffer, details: ResultDetails | null): StepResult {
  const reader = new WordReader(buffer)
  const stepId = reader.int()
  const poolId = reader.int()
  const computeMs = reader.double()
  const gpuMicros = reader.double()
  const sequences: SequenceResult[] = []
  const numSequences = reader.int()
  for (let i = 0; i < numSequences; i++) {
    const tokens: number[] = []
    for (let rows = reader.int(); rows > 0; rows--) tokens.push(reader.int())
    const none = tokens.length === 1 ? ONE_WITHOUT_LOGPROBS : tokens.map(() => null)
    sequences.push({ tokens, logprobs: details?.logprobs[i] ?? none, scores: details?.scores[i] ?? NO_SCORES })
  }
  const kernels = details?.kernels ?? null
  return { stepId, poolId, sequences, gpuMicros: Number.isNaN(gpuMicros) ? null : gpuMicros, kernels, computeMs }
}
