/** Launchers of logits, sampling, log-probabilities and scores. */
import type { Activation, BackendLimits, LogitsOptions } from '../ops.ts'
import type { SampleRow, ScoreRow } from '../sample-spec.ts'
import { GREEDY_TEMPERATURE } from '../sampling.ts'
import { bind, bufferBytes, createStorage, Launch, type GpuContext, type PreparedOp } from './context.ts'
import { linearSources, type LinearKernels } from './linear.ts'
import { prepareSource, type PreparedRows } from './prepared-rows.ts'
import type { GpuMatrix } from './matrix.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'
import { RESULT_TOKENS, RESULT_WORDS, type LogprobSlot, type ResultLayout } from './results.ts'
import { hasFilter, roomFor, SampleSpecs } from './sample-specs.ts'

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
/** Tokens of a row per workgroup. */
const VOCAB_CHUNK = 2048
const LIST_CAPACITY = 8192
/** Words of a row of `filters` before its list: LIST of wgsl/sample-io.wgsl. */
const FILTER_WORDS = 772
/** The kernels of sampling. @param listCapacity most candidates for a row's threshold that are listed; with more, all tokens are searched */
function sampleKernels(listCapacity: number) {
  const source = (name: string, defines: KernelSource['defines'] = {}): KernelSource => {
    return { name, bindings: BINDINGS, defines: { ...defines, LIST_CAPACITY: listCapacity } }
  }
  return {
    adjust: source('sample-adjust', { RESTORE: 0, WS: 64 }),
    max: source('sample-max', { DRAW: 0, WS: 256 }),
    bins: source('sample-bins'),
    gather: source('sample-gather'),
    threshold: source('sample-threshold'),
    draw: source('sample-max', { DRAW: 1, WS: 256 }),
    final: source('sample-final', { WS: 64 }),
    restore: source('sample-adjust', { RESTORE: 1, WS: 64 }),
    logprobs: source('logprobs', { SCORE: 0, WS: 256 }),
    score: source('logprobs', { SCORE: 1, WS: 256 }),
  }
}
type Kernels = ReturnType<typeof sampleKernels>

/** Consecutive rows whose logits fit one binding, and the ops on them. */
interface LogitsChunk {
  readonly logits: GPUBuffer // [rows, vocab]
  readonly firstRow: number
  readonly product: PreparedOp
  /** Created on first use; cleared when one of the buffers that all launches share is replaced. */
  readonly launches: Map<keyof Kernels, Launch>
}

/** What logits are computed from. */
interface Head {
  readonly x: Activation
  readonly matrix: GpuMatrix
  readonly options: LogitsOptions
}

/** Launches logits, sampling, log-probabilities and scores. */
export class SampleKernels {
  readonly #context: GpuContext
  readonly #linear: LinearKernels
  readonly #prepared: PreparedRows
  readonly #kernels: Kernels
  readonly #filterBytes: number // of a row
  readonly #limits: BackendLimits
  /** i32 [2, maxSampleRows]: sampled tokens. Steps write the two rows in turn, so that the previous step's tokens stay readable. */
  readonly sampled: GPUBuffer
  readonly results: GPUBuffer
  #filters: GPUBuffer
  #head: Head | null = null
  #prepareSamples: PreparedOp | null = null
  #prepareScores: PreparedOp | null = null
  #chunks: LogitsChunk[] = []
  #scoreChunks: LogitsChunk[] = []
  #maxima: GPUBuffer | null = null
  #scoreLogits: GPUBuffer | null = null
  readonly #specs: SampleSpecs
  #turn = 0
  #vocab = 0
  #numSamples = 0
  #logprobs: readonly (LogprobSlot | null)[] = []
  #scores: LogprobSlot[] = []
  #resultWords = RESULT_TOKENS

  constructor(
    context: GpuContext,
    linear: LinearKernels,
    prepared: PreparedRows,
    limits: BackendLimits,
    listCapacity = LIST_CAPACITY,
  ) {
    this.#kernels = sampleKernels(listCapacity)
    this.#filterBytes = 4 * (FILTER_WORDS + listCapacity)
    this.#context = context
    this.#linear = linear
    this.#prepared = prepared
    this.#limits = limits
    const { device } = context
    this.sampled = createStorage(device, 'sampled', 8 * limits.maxSampleRows)
    const words = RESULT_TOKENS + limits.maxSampleRows + (limits.maxSampleRows + limits.maxRows) * RESULT_WORDS
    this.results = device.createBuffer({
      label: 'results',
      size: Math.ceil(words / 4) * 16,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.QUERY_RESOLVE,
    })
    this.#filters = createStorage(device, 'filters', 16)
    this.#specs = new SampleSpecs(context, () => this.#forgetLaunches())
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

  /** The layout of the step's results in the results buffer. */
  get layout(): ResultLayout {
    return { numSamples: this.#numSamples, logprobs: this.#logprobs, scores: this.#scores, words: this.#resultWords }
  }

  /** Copies the raw logits of the sample rows to `target`, f32 [sample rows, vocab]. */
  copyLogits(encoder: GPUCommandEncoder, target: GPUBuffer): void {
    const rowBytes = this.#vocab * 4
    for (const { logits, firstRow } of this.#chunks) {
      const rows = Math.min(this.#numSamples - firstRow, Math.floor(logits.size / rowBytes))
      if (rows > 0) encoder.copyBufferToBuffer(logits, 0, target, firstRow * rowBytes, rows * rowBytes)
    }
  }

  get logitsBytes(): number {
    return this.#numSamples * this.#vocab * 4
  }

  /**
   * Computes the logits of the rows and samples a token for each. The kernels, in order: adjust; max; bins, gather and threshold, where a row has
   * filters; draw, where a row has a temperature; final; restore, which puts raw logits back; logprobs, which reads raw logits.
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
    this.#settle({ x, matrix: head, options })
    this.#numSamples = rows.length
    const { step } = this.#context
    step.set('numSampleRows', rows.length)
    step.append(
      'sampleRows',
      rows.map(({ row }) => row),
    )
    this.#resultWords += this.#limits.maxSampleRows
    const { numEntries, logprobs, resultWords } = this.#specs.write(rows, positions, head.rows, this.#resultWords)
    this.#logprobs = logprobs
    this.#resultWords = resultWords

    const isDrawn = rows.some(({ spec }) => spec.temperature >= GREEDY_TEMPERATURE)
    const isFiltered = isDrawn && rows.some(({ spec }) => hasFilter(spec, head.rows))
    const hasLogprobs = this.#logprobs.some((slot) => slot !== null)
    if (isFiltered && this.#filters.size < rows.length * this.#filterBytes) {
      this.#filters.destroy()
      this.#filters = createStorage(this.#context.device, 'filters', roomFor(rows.length) * this.#filterBytes)
      this.#forgetLaunches()
    }
    const numChunks = Math.ceil(head.rows / VOCAB_CHUNK)
    this.#prepareSamples?.launch(rows.length)
    for (const chunk of this.#logitsChunks(rows.length)) {
      const numRows = Math.min(rows.length - chunk.firstRow, Math.floor(chunk.logits.size / (head.rows * 4)))
      chunk.product.launch(numRows)
      if (numEntries > 0) this.#launch(chunk, 'adjust').add(numRows)
      this.#launch(chunk, 'max').add(numChunks, numRows)
      if (isFiltered) {
        this.#launch(chunk, 'bins').add(numChunks, numRows)
        this.#launch(chunk, 'gather').add(numChunks, numRows)
        this.#launch(chunk, 'threshold').add(numRows)
      }
      if (isDrawn) this.#launch(chunk, 'draw').add(numChunks, numRows)
      this.#launch(chunk, 'final').add(numRows)
      if (numEntries > 0) this.#launch(chunk, 'restore').add(numRows)
      if (hasLogprobs) this.#launch(chunk, 'logprobs').add(numRows)
    }
  }

  /** Computes the log-probabilities of given tokens. Chunks of rows go through one buffer of logits, one after another. */
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
    // After everything that a sample() of this step may write.
    const first = RESULT_TOKENS + this.#limits.maxSampleRows * (1 + RESULT_WORDS)
    step.set('scoreResults', first)
    this.#scores = rows.map(({ topN }, i) => ({ word: first + i * RESULT_WORDS, topN }))
    this.#resultWords = Math.max(this.#resultWords, first + rows.length * RESULT_WORDS)
    this.#settle({ x, matrix: head, options })
    const capacity = Math.min(SCORE_CHUNK, Math.floor(capabilities.maxBindingBytes / (head.rows * 4)))
    this.#scoreLogits ??= createStorage(device, 'score logits', capacity * head.rows * 4)
    this.#prepareScores?.launch(rows.length)
    for (let firstRow = 0; firstRow < rows.length; firstRow += capacity) {
      const numRows = Math.min(capacity, rows.length - firstRow)
      const index = firstRow / capacity
      const chunk = (this.#scoreChunks[index] ??= this.#chunk('score', this.#scoreLogits, firstRow, capacity))
      chunk.product.launch(numRows)
      this.#launch(chunk, 'score').add(numRows)
    }
  }

  /** Every kernel that sampling and scoring with a head may launch. */
  sources(head: GpuMatrix): readonly KernelSource[] {
    const prepare = prepareSource(head.form, true, 'sample')
    const products = linearSources({ ...head, isNormed: true }, this.#context.capabilities.hasPackedDot).values()
    return [...(prepare === null ? [] : [prepare]), ...products, ...Object.values(this.#kernels)]
  }

  /** Prepares the buffers for a head. Does nothing where the head is that of the previous call. */
  #settle(head: Head): void {
    const before = this.#head
    if (before?.x === head.x && before.matrix === head.matrix && before.options === head.options) return
    const { matrix, options, x } = head
    this.#head = head
    for (const { logits } of this.#chunks) logits.destroy()
    this.#scoreLogits?.destroy()
    this.#scoreLogits = null
    this.#maxima?.destroy()
    this.#chunks = []
    this.#scoreChunks = []
    this.#vocab = matrix.rows
    const words = 4 * this.#limits.maxSampleRows * Math.ceil(matrix.rows / VOCAB_CHUNK)
    this.#maxima = createStorage(this.#context.device, 'maxima', 4 * words)
    this.#prepareSamples = this.#prepared.prepare(this.#context.activation(x), matrix, options.norm, 'sample')
    this.#prepareScores = this.#prepared.prepare(this.#context.activation(x), matrix, options.norm, 'score')
  }

  #chunk(selection: 'sample' | 'score', logits: GPUBuffer, firstRow: number, capacity: number): LogitsChunk {
    const { matrix, options, x } = this.#head!
    const product = this.#linear.logits(logits, x, matrix, options, selection, firstRow, capacity)
    return { logits, firstRow, product, launches: new Map() }
  }

  #launch(chunk: LogitsChunk, kernel: keyof Kernels): Launch {
    let launch = chunk.launches.get(kernel)
    if (launch === undefined) {
      const numChunks = Math.ceil(this.#vocab / VOCAB_CHUNK)
      const params = [this.#vocab, Math.ceil(this.#vocab / 32), numChunks, VOCAB_CHUNK, chunk.firstRow]
      const shared = [
        this.#specs.masks,
        this.#maxima!,
        this.#filters,
        this.sampled,
        this.results,
        this.#specs.adjustments,
      ]
      const group = bind(this.#context, kernel, BINDINGS, params, [chunk.logits, ...shared])
      launch = new Launch(this.#context, this.#kernels[kernel], group)
      chunk.launches.set(kernel, launch)
    }
    return launch
  }

  get scratchBytes(): number {
    return bufferBytes([
      this.sampled,
      this.results,
      this.#filters,
      this.#specs.masks,
      this.#specs.adjustments,
      this.#maxima,
      this.#scoreLogits,
      ...this.#chunks.map(({ logits }) => logits),
    ])
  }

  /** Buffers for the logits of `numRows` rows. Each has as many rows as fit one binding; the last grows with the number of rows. */
  #logitsChunks(numRows: number): readonly LogitsChunk[] {
    const rowBytes = this.#vocab * 4
    const { device, capabilities } = this.#context
    const capacity = Math.min(this.#limits.maxSampleRows, Math.floor(capabilities.maxBindingBytes / rowBytes))
    const needed = Math.ceil(numRows / capacity)
    for (let index = 0; index < needed; index++) {
      const firstRow = index * capacity
      const rows = Math.min(capacity, numRows - firstRow)
      const chunk = this.#chunks[index]
      if (chunk !== undefined && chunk.logits.size >= rows * rowBytes) continue
      chunk?.logits.destroy()
      const roomy = Math.min(capacity, roomFor(rows))
      const logits = createStorage(device, `logits ${firstRow}`, roomy * rowBytes)
      this.#chunks[index] = this.#chunk('sample', logits, firstRow, capacity)
    }
    return this.#chunks.slice(0, needed)
  }

  /** Clears all launches, because a buffer that they share was replaced. */
  #forgetLaunches(): void {
    for (const { launches } of [...this.#chunks, ...this.#scoreChunks]) launches.clear()
  }
}
