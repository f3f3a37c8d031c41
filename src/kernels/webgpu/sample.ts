/** Launchers of logits, sampling, log-probabilities and scores. */
import type { Activation, BackendLimits, LogitsOptions, SampleRow, SampleSpec, ScoreRow } from '../ops.ts'
import { BANNED_LOGIT, GREEDY_TEMPERATURE, noiseKey } from '../sampling.ts'
import { bufferBytes, createStorage, record, type Bindings, type GpuContext } from './context.ts'
import { smallWorkgroup } from './elementwise.ts'
import type { LinearKernels } from './linear.ts'
import type { GpuMatrix } from './matrix.ts'
import type { BindingKind } from './pipelines.ts'
import { RESULT_TOKENS, RESULT_WORDS, type LogprobSlot, type ResultLayout } from './results.ts'
import { SPEC_WORDS } from './step-layout.ts'

const BINDINGS: readonly BindingKind[] = [
  'read',
  'uniform',
  'write',
  'read',
  'write',
  'write',
  'write',
  'write',
  'write',
]

/** Score rows whose logits exist at one time. */
const SCORE_CHUNK = 32
/** Tokens of a row that one workgroup looks through. */
const VOCAB_CHUNK = { software: 8192, gpu: 2048 } as const
const FLAG = { greedy: 1, mask: 2, topP: 4, filter: 8 } as const
/** What -Infinity is uploaded as: WGSL may assume that there is no infinity. */
const BAN_DELTA = -3e38
const ENTRY_WORDS = 3

/** A run of sample rows whose logits fit one binding. */
interface LogitsChunk {
  readonly buffer: GPUBuffer // [rows, vocab]
  readonly firstRow: number
}

export class SampleKernels {
  readonly #context: GpuContext
  readonly #bindings: Bindings
  readonly #linear: LinearKernels
  readonly #limits: BackendLimits
  /** [2, maxSampleRows]: tokens of this and of the previous step, by turns. */
  readonly sampled: GPUBuffer
  readonly results: GPUBuffer
  readonly #thresholds: GPUBuffer
  readonly #chunks: LogitsChunk[] = []
  #maxima: GPUBuffer | null = null
  #scoreLogits: GPUBuffer | null = null
  #masks: GPUBuffer
  #adjustments: GPUBuffer
  #entries = new Uint32Array(1024)
  #entryFloats = new Float32Array(this.#entries.buffer)
  readonly #key = new Uint32Array(2)
  #turn = 0
  #vocab = 0
  #numSamples = 0
  #logprobs: (LogprobSlot | null)[] = []
  #scores: LogprobSlot[] = []
  #resultWords = RESULT_TOKENS

  constructor(context: GpuContext, bindings: Bindings, linear: LinearKernels, limits: BackendLimits) {
    this.#context = context
    this.#bindings = bindings
    this.#linear = linear
    this.#limits = limits
    const { device } = context
    this.sampled = createStorage(device, 'sampled', 8 * limits.maxSampleRows)
    const words = RESULT_TOKENS + limits.maxSampleRows + (limits.maxSampleRows + limits.maxRows) * RESULT_WORDS
    this.results = device.createBuffer({
      label: 'results',
      size: Math.ceil(words / 4) * 16,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.QUERY_RESOLVE,
    })
    this.#thresholds = createStorage(device, 'thresholds', 4 * limits.maxSampleRows)
    this.#masks = createStorage(device, 'masks', 16)
    this.#adjustments = createStorage(device, 'adjustments', 16)
  }

  beginStep(): void {
    this.#turn = 1 - this.#turn
    const { step } = this.#context
    step.set('currentTokens', this.#turn * this.#limits.maxSampleRows)
    step.set('previousTokens', (1 - this.#turn) * this.#limits.maxSampleRows)
    this.#numSamples = 0
    this.#logprobs = []
    this.#scores = []
    this.#resultWords = RESULT_TOKENS
  }

  /** How the step's results lie in the results buffer. */
  get layout(): ResultLayout {
    return { numSamples: this.#numSamples, logprobs: this.#logprobs, scores: this.#scores, words: this.#resultWords }
  }

  /** Copies the sample rows' raw logits behind each other into `target`. */
  copyLogits(encoder: GPUCommandEncoder, target: GPUBuffer): void {
    const rowBytes = this.#vocab * 4
    for (const { buffer, firstRow } of this.#chunks) {
      const rows = Math.min(this.#numSamples - firstRow, Math.floor(buffer.size / rowBytes))
      if (rows > 0) encoder.copyBufferToBuffer(buffer, 0, target, firstRow * rowBytes, rows * rowBytes)
    }
  }

  get logitsBytes(): number {
    return this.#numSamples * this.#vocab * 4
  }

  /**
   * Logits of the rows, then a token for each: adjust, maximum, thresholds (rows with filters), draw (rows with a temperature), final.
   * Raw logits are put back where they were adjusted, and log-probabilities are taken from them.
   */
  sample(
    x: Activation,
    head: GpuMatrix,
    options: LogitsOptions,
    rows: readonly SampleRow[],
    positions: Int32Array,
  ): void {
    if (rows.length > this.#limits.maxSampleRows) {
      throw new Error(`${rows.length} sample rows exceed the limit of ${this.#limits.maxSampleRows}`)
    }
    if (this.#numSamples > 0) throw new Error('sample was called twice in a step')
    if (rows.length === 0) return
    this.#vocab = head.rows
    this.#numSamples = rows.length
    const { step } = this.#context
    step.set('numSampleRows', rows.length)
    step.append(
      'sampleRows',
      rows.map(({ row }) => row),
    )
    this.#resultWords += this.#limits.maxSampleRows
    const numEntries = this.#writeSpecs(rows, positions)

    const isDrawn = rows.some(({ spec }) => spec.temperature >= GREEDY_TEMPERATURE)
    const isFiltered = isDrawn && rows.some(({ spec }) => hasFilter(spec, head.rows))
    const hasLogprobs = this.#logprobs.some((slot) => slot !== null)
    const numChunks = Math.ceil(head.rows / this.#vocabChunk)
    for (const chunk of this.#logitsChunks(rows.length)) {
      const capacity = Math.floor(chunk.buffer.size / (head.rows * 4))
      const numRows = Math.min(rows.length - chunk.firstRow, capacity)
      this.#linear.logits(chunk.buffer, x, head, options, 'sample', chunk.firstRow, numRows, capacity)
      const at = { logits: chunk.buffer, firstRow: chunk.firstRow }
      if (numEntries > 0) this.#record('sample-adjust', { RESTORE: 0 }, at, numRows)
      this.#record('sample-max', { DRAW: 0 }, at, numChunks, numRows)
      if (isFiltered) this.#record('sample-threshold', {}, at, numRows)
      if (isDrawn) this.#record('sample-max', { DRAW: 1 }, at, numChunks, numRows)
      this.#record('sample-final', {}, at, numRows)
      if (numEntries > 0) this.#record('sample-adjust', { RESTORE: 1 }, at, numRows)
      if (hasLogprobs) this.#record('logprobs', { SCORE: 0 }, at, numRows)
    }
  }

  /** Log-probabilities of given tokens, a chunk of rows after another through one buffer of logits. */
  score(x: Activation, head: GpuMatrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    if (rows.length > this.#limits.maxRows)
      throw new Error(`${rows.length} score rows exceed the limit of ${this.#limits.maxRows}`)
    if (this.#scores.length > 0) throw new Error('score was called twice in a step')
    if (rows.length === 0) return
    const { step, device, capabilities } = this.#context
    step.set('numScoreRows', rows.length)
    step.append(
      'scoreRows',
      rows.map(({ row }) => row),
    )
    step.append(
      'scoreTargets',
      rows.flatMap(({ target, topN }) => [target, topN]),
    )
    // Behind everything a sample() of this step may write.
    const first = RESULT_TOKENS + this.#limits.maxSampleRows * (1 + RESULT_WORDS)
    step.set('scoreResults', first)
    this.#scores = rows.map(({ topN }, i) => ({ word: first + i * RESULT_WORDS, topN }))
    this.#resultWords = Math.max(this.#resultWords, first + rows.length * RESULT_WORDS)
    const capacity = Math.min(SCORE_CHUNK, Math.floor(capabilities.maxBindingBytes / (head.rows * 4)))
    this.#scoreLogits ??= createStorage(device, 'score logits', capacity * head.rows * 4)
    this.#vocab = head.rows
    for (let firstRow = 0; firstRow < rows.length; firstRow += capacity) {
      const numRows = Math.min(capacity, rows.length - firstRow)
      this.#linear.logits(this.#scoreLogits, x, head, options, 'score', firstRow, numRows, capacity)
      this.#record('logprobs', { SCORE: 1 }, { logits: this.#scoreLogits, firstRow }, numRows)
    }
  }

  get #vocabChunk(): number {
    return this.#context.capabilities.isSoftware ? VOCAB_CHUNK.software : VOCAB_CHUNK.gpu
  }

  #record(
    name: string,
    defines: Readonly<Record<string, number>>,
    at: { logits: GPUBuffer; firstRow: number },
    x: number,
    y = 1,
  ): void {
    const numChunks = Math.ceil(this.#vocab / this.#vocabChunk)
    this.#maxima ??= createStorage(this.#context.device, 'maxima', 16 * this.#limits.maxSampleRows * numChunks)
    const maxima = this.#maxima
    const group = this.#bindings.get(
      `${at.logits.label}|${at.firstRow}|${this.#masks.size}|${this.#adjustments.size}`,
      BINDINGS,
      () => ({
        params: [this.#vocab, Math.ceil(this.#vocab / 32), numChunks, this.#vocabChunk, at.firstRow],
        buffers: [at.logits, this.#masks, maxima, this.#thresholds, this.sampled, this.results, this.#adjustments],
      }),
    )
    const { isSoftware } = this.#context.capabilities
    // One workgroup looks through a whole row: on a GPU it is as large as is portable.
    const isWholeRow = name === 'sample-threshold' || name === 'logprobs'
    const WS = isSoftware ? smallWorkgroup(this.#context) : isWholeRow ? 256 : 64
    record(this.#context, { name, bindings: BINDINGS, defines: { ...defines, WS } }, group, x, y)
  }

  get scratchBytes(): number {
    return bufferBytes([
      this.sampled,
      this.results,
      this.#thresholds,
      this.#masks,
      this.#adjustments,
      this.#maxima,
      this.#scoreLogits,
      ...this.#chunks.map(({ buffer }) => buffer),
    ])
  }

  /** Buffers for the logits of `numRows` rows, as many rows each as one binding holds. */
  #logitsChunks(numRows: number): readonly LogitsChunk[] {
    const rowBytes = this.#vocab * 4
    const { device, capabilities } = this.#context
    const capacity = Math.min(this.#limits.maxSampleRows, Math.floor(capabilities.maxBindingBytes / rowBytes))
    const needed = Math.ceil(numRows / capacity)
    while (this.#chunks.length < needed) {
      const firstRow = this.#chunks.length * capacity
      const rows = Math.min(capacity, this.#limits.maxSampleRows - firstRow)
      this.#chunks.push({ buffer: createStorage(device, `logits ${firstRow}`, rows * rowBytes), firstRow })
    }
    return this.#chunks.slice(0, needed)
  }

  /** Writes specs, masks and adjustments; the number of adjustment entries. */
  #writeSpecs(rows: readonly SampleRow[], positions: Int32Array): number {
    const { step, device } = this.#context
    const { words, floats } = step.reserve('sampleSpecs', rows.length * SPEC_WORDS)
    const maskBytes = Math.ceil(this.#vocab / 32) * 4
    if (rows.some(({ spec }) => spec.mask !== null) && this.#masks.size < this.#limits.maxSampleRows * maskBytes) {
      this.#masks = createStorage(device, 'masks', this.#limits.maxSampleRows * maskBytes)
    }
    let numEntries = 0
    for (const [index, { row, spec }] of rows.entries()) {
      const isGreedy = spec.temperature < GREEDY_TEMPERATURE
      const firstEntry = numEntries
      const numPenalized = this.#writeEntries(spec, firstEntry)
      numEntries = numPenalized.end
      noiseKey(spec.seed, spec.choice, positions[row]! + 1, this.#key)
      const at = index * SPEC_WORDS
      words[at] =
        (isGreedy ? FLAG.greedy : 0) |
        (spec.mask === null ? 0 : FLAG.mask) |
        (spec.topP < 1 ? FLAG.topP : 0) |
        (!isGreedy && hasFilter(spec, this.#vocab) ? FLAG.filter : 0)
      floats[at + 1] = isGreedy ? 1 : 1 / spec.temperature
      words[at + 2] = spec.topK > 0 && spec.topK < this.#vocab ? spec.topK : 0
      floats[at + 3] = spec.topP
      floats[at + 4] = spec.minP > 0 ? Math.log(spec.minP) : BANNED_LOGIT
      words[at + 5] = this.#key[0]!
      words[at + 6] = this.#key[1]!
      floats[at + 7] = spec.repetition?.penalty ?? 1
      floats[at + 8] = 1 / (spec.repetition?.penalty ?? 1)
      words[at + 9] = firstEntry
      words[at + 10] = numPenalized.penalized
      words[at + 11] = numEntries - firstEntry
      words[at + 12] = spec.logprobs
      words[at + 13] = spec.logprobs < 0 ? 0 : this.#resultWords
      if (spec.logprobs < 0) this.#logprobs.push(null)
      else {
        this.#logprobs.push({ word: this.#resultWords, topN: spec.logprobs })
        this.#resultWords += RESULT_WORDS
      }
      if (spec.mask !== null)
        device.queue.writeBuffer(this.#masks, index * maskBytes, spec.mask.slice(0, maskBytes / 4))
    }
    if (numEntries > 0) {
      const bytes = numEntries * ENTRY_WORDS * 4
      if (this.#adjustments.size < bytes)
        this.#adjustments = createStorage(device, 'adjustments', Math.max(bytes, 2 * this.#adjustments.size))
      device.queue.writeBuffer(this.#adjustments, 0, this.#entries, 0, numEntries * ENTRY_WORDS)
    }
    return numEntries
  }

  /** A row's entries from index `first` on: penalised tokens, then those that are only adjusted. Each token appears once. */
  #writeEntries({ repetition, adjustments }: SampleSpec, first: number): { end: number; penalized: number } {
    let end = first
    const put = (token: number, delta: number) => {
      if ((end + 1) * ENTRY_WORDS > this.#entries.length) {
        const grown = new Uint32Array(this.#entries.length * 2)
        grown.set(this.#entries)
        this.#entries = grown
        this.#entryFloats = new Float32Array(grown.buffer)
      }
      this.#entries[end * ENTRY_WORDS] = token
      this.#entryFloats[end * ENTRY_WORDS + 1] = Math.max(delta, BAN_DELTA)
      end++
    }
    const entryOf = new Map<number, number>()
    for (const token of repetition?.tokens ?? []) {
      if (adjustments !== null) entryOf.set(token, end)
      put(token, 0)
    }
    const penalized = end - first
    for (const [i, token] of adjustments?.tokens.entries() ?? []) {
      const delta = adjustments!.deltas[i]!
      const entry = entryOf.get(token)
      if (entry === undefined) put(token, delta)
      else this.#entryFloats[entry * ENTRY_WORDS + 1] = Math.max(delta, BAN_DELTA)
    }
    return { end, penalized }
  }
}

function hasFilter(spec: SampleSpec, vocab: number): boolean {
  return (spec.topK > 0 && spec.topK < vocab) || spec.topP < 1 || spec.minP > 0
}
