/**
 * The cpu backend: SIMD WebAssembly on a pool of threads over one shared memory. Ops are recorded as commands; a step, or the part of it up to its
 * sampling, then runs as one program on all threads (assembly/index.ts), so that an op costs a barrier, not a call.
 */
import { cpus } from 'node:os'
import { checkMatrix } from '../dequantize.ts'
import type { InspectableBackend } from '../inspect.ts'
import type {
  Activation,
  AttentionOptions,
  BackendInfo,
  BackendOptions,
  KvLayout,
  LinearOptions,
  LogitsOptions,
  Matrix,
  MatrixData,
  Norm,
  QkvOptions,
  RopeTable,
  SampleRow,
  SampleSpec,
  ScoreRow,
  StepInput,
  StepOutput,
  TokenLogprobs,
  Vector,
} from '../ops.ts'
import { GREEDY_TEMPERATURE, Sampler, tokenLogprobs } from '../sampling.ts'
import { Arena } from './arena.ts'
import { defaultThreads } from './cores.ts'
import { KvCache, kvGeometry, type KvFormat } from './kv-cache.ts'
import { MatrixPacker, PANEL, roundUp, type PackedMatrix } from './matrices.ts'
import { Pool } from './pool.ts'
import { Program } from './program.ts'

export interface CpuBackendOptions extends BackendOptions {
  /** Threads that compute, the calling one included; null: physical cores, at most 8. */
  readonly threads: number | null
  /** Element format of the KV pool; f16 halves its memory and traffic. Default f16. */
  readonly kvFormat?: KvFormat
  /** Use relaxed SIMD where the runtime has it. Default true. */
  readonly relaxedSimd?: boolean
}

// Flags of assembly/linear.ts.
const SILU = 1
const GELU = 2
const RESIDUAL = 4

/** Rows a unit of a matrix product has at most, tokens of an attention split (assembly/linear.ts, attention.ts). */
const ROW_TILE = 128
const SPLIT = 128
/** Query heads times rows that a unit of attention takes: its scores and sums stay in the level-2 cache. */
const ATTENTION_ROWS = 48
/** Splits are computed apart only while their states are few. */
const MAX_PARTIALS = 2048
const SCORE_ROWS = 16
/** Multiply-adds, and bytes of weights, a microsecond of one thread: rough, for deciding whether sharing the work pays. */
const WORK_PER_MICROSECOND = 15_000
/** What handing an op around costs: a barrier, more when other programs want the cores. */
const SHARING_MICROSECONDS = 8

interface HostVector extends Vector {
  readonly address: number // f32[length], zeros up to a whole panel
}

interface HostActivation extends Activation {
  readonly address: number // f32 [maxRows, stride]
  readonly stride: number
}

interface HostRope extends RopeTable {
  readonly inverseFrequencies: Float64Array
  readonly attentionFactor: number
  readonly address: number // f32 [maxRows][cosines, sines][rotaryDim / 2]
  /** Step whose positions the table holds. */
  step: number
}

/** f32 [rows, whole panels of the vocabulary]. */
interface LogitsBuffer {
  address: number
  bytes: number
}

interface StepResults {
  sampled: Int32Array
  sampledLogprobs: (TokenLogprobs | null)[]
  scores: TokenLogprobs[]
  /** Rows of logits that endStep may be asked for. */
  numLogitRows: number
  vocab: number
}

function emptyResults(): StepResults {
  return { sampled: new Int32Array(0), sampledLogprobs: [], scores: [], numLogitRows: 0, vocab: 0 }
}

/** Whether the token is the largest raw logit. */
function isPlainGreedy(spec: SampleSpec): boolean {
  return (
    spec.temperature < GREEDY_TEMPERATURE && spec.repetition === null && spec.adjustments === null && spec.mask === null
  )
}

class CpuBackend implements InspectableBackend {
  readonly #options: CpuBackendOptions
  readonly #arena: Arena
  readonly #pool: Pool
  readonly #program: Program
  readonly #packer: MatrixPacker
  readonly #kvFormat: KvFormat
  // The objects given out are these very maps' keys: a handle of another backend is refused.
  readonly #matrices = new Map<Matrix, PackedMatrix>()
  readonly #vectors = new Map<Vector, HostVector>()
  readonly #ropes = new Map<RopeTable, HostRope>()
  readonly #activations = new Map<Activation, HostActivation>()
  /** Biases of gated matrices, in the order of their panels. */
  readonly #gatedBiases = new Map<Vector, number>()
  #kv: KvCache | null = null

  // Step inputs in shared memory.
  readonly #tokens: number
  readonly #positions: number
  readonly #slots: number
  readonly #blockTables: number
  readonly #items: number
  readonly #rowIndex: number
  readonly #greedyTokens: number

  #scratch = 0 // per thread
  #scratchBytes = 0
  #prepared = 0
  #preparedBytes = 0
  #partials = 0
  #partialsBytes = 0
  // Sampled and scored rows apart: a step may have both, in either order.
  readonly #logits: LogitsBuffer = { address: 0, bytes: 0 }
  readonly #scored: LogitsBuffer = { address: 0, bytes: 0 }
  #largestInner = 0
  #largestOuter = 0

  /** One thread's time for what is recorded. */
  #estimatedMicroseconds = 0
  #input: StepInput | null = null
  #step = 0
  #itemGroup = 0
  #numItems = 0
  #longest = 0
  #results = emptyResults()
  #kernels = new Map<string, { micros: number; count: number }>()
  #sampler: Sampler | null = null

  constructor(options: CpuBackendOptions, arena: Arena, pool: Pool) {
    this.#options = options
    this.#arena = arena
    this.#pool = pool
    this.#program = new Program(arena)
    this.#packer = new MatrixPacker(arena, this.#program, () => this.#run())
    this.#kvFormat = options.kvFormat ?? 'f16'
    const { maxRows, maxSequences, maxSampleRows, maxBlocksPerSequence } = options.limits
    const words = (count: number): number => arena.allocate(count * 4, 'step inputs')
    this.#tokens = words(maxRows)
    this.#positions = words(maxRows)
    this.#slots = words(maxRows)
    this.#blockTables = words(maxSequences * maxBlocksPerSequence)
    this.#items = words(3 * maxRows)
    this.#rowIndex = words(Math.max(maxSampleRows, SCORE_ROWS))
    this.#greedyTokens = words(Math.max(maxSampleRows, 1))
  }

  get info(): BackendInfo {
    const { numThreads, relaxed } = this.#pool
    return {
      kind: 'cpu',
      adapter: `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${numThreads} ${numThreads === 1 ? 'thread' : 'threads'}`,
      driver: `node ${process.version}, WebAssembly ${relaxed ? 'relaxed SIMD' : 'SIMD'}`,
      isSoftware: false,
      kvFormat: this.#kvFormat,
      hasTimestamps: false,
      memoryBudgetBytes: this.#memoryBudget(),
    }
  }

  /** What is left for the KV pool: of the address space and of the machine, less what steps still need. */
  #memoryBudget(): number {
    const { maxRows, maxSequences, maxSampleRows } = this.#options.limits
    const logits = (maxSequences + maxSampleRows + SCORE_ROWS) * this.#largestOuter * 4
    const activations = 8 * maxRows * this.#largestInner * 4
    const reserve = logits + activations + this.#scratchNeed() * this.#pool.numThreads + 64 * 2 ** 20
    const machine = process.availableMemory() * 0.8
    return Math.max(0, Math.floor(Math.min(this.#arena.freeBytes, machine) - reserve))
  }

  // -- load time ------------------------------------------------------------------------------------------------------

  async loadMatrix(
    label: string,
    rows: number,
    cols: number,
    data: MatrixData,
    use?: { glu?: boolean },
  ): Promise<Matrix> {
    checkMatrix(label, rows, cols, data)
    const matrix = this.#packer.pack(label, rows, cols, data, use?.glu === true)
    this.#matrices.set(matrix, matrix)
    this.#largestInner = Math.max(this.#largestInner, matrix.padded)
    this.#largestOuter = Math.max(this.#largestOuter, matrix.numPanels * PANEL)
    return matrix
  }

  loadVector(label: string, values: Float32Array): Vector {
    const address = this.#arena.allocate(roundUp(values.length, PANEL) * 4, label)
    this.#arena.f32(address, values.length).set(values)
    const vector = { label, length: values.length, address }
    this.#vectors.set(vector, vector)
    return vector
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    const rotaryDim = inverseFrequencies.length * 2
    const address = this.#arena.allocate(this.#options.limits.maxRows * rotaryDim * 4, label)
    const table = { label, rotaryDim, inverseFrequencies, attentionFactor, address, step: -1 }
    this.#ropes.set(table, table)
    return table
  }

  createActivation(label: string, cols: number): Activation {
    const stride = roundUp(cols, PANEL) * 4
    const address = this.#arena.allocate(this.#options.limits.maxRows * stride, label)
    const activation = { label, cols, address, stride }
    this.#activations.set(activation, activation)
    return activation
  }

  createKvCache(layout: KvLayout): void {
    if (this.#kv !== null) throw new Error('createKvCache was called twice')
    this.#kv = new KvCache(this.#arena, layout, this.#kvFormat)
  }

  kvBlockBytes(layout: KvLayout): number {
    return layout.numLayers * kvGeometry(layout, this.#kvFormat).blockBytes
  }

  maxKvBlocks(): number {
    return Infinity
  }

  ready(): Promise<void> {
    const staging = this.#packer.takeStaging()
    if (staging.bytes >= this.#scratchNeed() * this.#pool.numThreads) {
      this.#scratch = staging.address
      this.#scratchBytes = Math.floor(staging.bytes / this.#pool.numThreads / 64) * 64
    }
    this.#reserve()
    return Promise.resolve()
  }

  // -- a step ---------------------------------------------------------------------------------------------------------

  copyBlock(source: number, destination: number, numTokens: number): void {
    this.#kvCache().copy(source, destination, numTokens)
  }

  beginStep(input: StepInput): void {
    const { maxRows, maxSequences, maxBlocksPerSequence } = this.#options.limits
    if (
      input.numRows > maxRows ||
      input.numSequences > maxSequences ||
      input.maxBlocksPerSequence > maxBlocksPerSequence
    ) {
      throw new Error(
        `step of ${input.numRows} rows, ${input.numSequences} sequences, ${input.maxBlocksPerSequence} blocks a sequence ` +
          `exceeds the limits ${maxRows}, ${maxSequences}, ${maxBlocksPerSequence}`,
      )
    }
    this.#reserve()
    this.#program.clear()
    this.#estimatedMicroseconds = 0
    this.#step++
    this.#input = input
    this.#itemGroup = 0
    const previous = this.#results.sampled
    this.#results = emptyResults()
    const tokens = this.#arena.i32(this.#tokens, input.numRows)
    for (let row = 0; row < input.numRows; row++) {
      const token = input.tokens[row]!
      const known = token >= 0 ? token : previous[-token - 1]
      if (known === undefined)
        throw new Error(`row ${row} takes sample row ${-token - 1} of a step that drew ${previous.length}`)
      tokens[row] = known
    }
    this.#arena.i32(this.#positions, input.numRows).set(input.positions.subarray(0, input.numRows))
    this.#arena.i32(this.#slots, input.numRows).set(input.slots.subarray(0, input.numRows))
    this.#longest = 0
    for (let row = 0; row < input.numRows; row++) this.#longest = Math.max(this.#longest, input.positions[row]! + 1)
    this.#copyBlockTables(input)
  }

  embed(out: Activation, table: Matrix, scale: number): void {
    const target = this.#activation(out)
    const matrix = this.#matrix(table)
    const { numRows } = this.#stepInput()
    if (target.cols !== matrix.cols || matrix.gated)
      throw new Error(`embed ${table.label}: rows of ${matrix.cols} do not fit [.., ${target.cols}]`)
    for (const token of this.#arena.i32(this.#tokens, numRows)) {
      if (token >= matrix.rows) throw new Error(`token ${token} is outside the vocabulary of ${matrix.rows}`)
    }
    this.#program.add('embed', {
      rows: numRows,
      out: target.address,
      outStride: target.stride,
      tokens: this.#tokens,
      format: matrix.formatCode,
      flags: matrix.flags,
      cols: matrix.cols,
      panelBytes: matrix.panelBytes,
      weights: matrix.weights,
      factors: matrix.factors,
      scale,
    })
  }

  linear(out: Activation, x: Activation, w: Matrix, { norm, bias, residual, glu }: LinearOptions): void {
    const target = this.#activation(out)
    const source = this.#activation(x)
    const matrix = this.#matrix(w)
    const outputs = glu === undefined ? matrix.rows : matrix.rows / 2
    if (target === source || target.cols !== outputs || source.cols !== matrix.cols) {
      throw new Error(
        `linear ${w.label}: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${matrix.rows} x ${matrix.cols}`,
      )
    }
    if (matrix.gated !== (glu !== undefined))
      throw new Error(`linear ${w.label}: the matrix was loaded ${matrix.gated ? 'for' : 'without'} glu`)
    const epilogue = (glu === 'silu' ? SILU : glu === 'gelu_tanh' ? GELU : 0) | (residual === true ? RESIDUAL : 0)
    this.#addLinear(matrix, source, norm, {
      rows: this.#stepInput().numRows,
      rowIndex: 0,
      out: target.address,
      outStride: target.stride,
      epilogue,
      bias: bias === undefined ? 0 : this.#biasOf(bias, matrix),
      softcap: 0,
      scale: 1,
    })
  }

  normAdd(residual: Activation, x: Activation, norm: Norm): void {
    const target = this.#activation(residual)
    const source = this.#activation(x)
    this.#program.add('normAdd', {
      rows: this.#stepInput().numRows,
      residual: target.address,
      residualStride: target.stride,
      x: source.address,
      xStride: source.stride,
      cols: source.cols,
      weight: this.#vector(norm.weight).address,
      eps: norm.eps,
    })
  }

  qkvRopeStore(q: Activation, qkv: Activation, options: QkvOptions): void {
    const { numHeads, numKvHeads, headDim, qkNorm, rope, layer } = options
    const queries = this.#activation(q)
    const source = this.#activation(qkv)
    const kv = this.#kvCache()
    this.#checkHeads(kv.layout, numKvHeads, headDim)
    if (source.cols !== (numHeads + 2 * numKvHeads) * headDim || queries.cols !== numHeads * headDim) {
      throw new Error(
        `qkvRopeStore: [.., ${source.cols}] -> [.., ${queries.cols}] does not fit ${numHeads} + 2 x ${numKvHeads} heads of ${headDim}`,
      )
    }
    this.#program.add('qkvRopeStore', {
      pool: kv.layer(layer),
      blockBytes: kv.geometry.blockBytes,
      headBytes: kv.geometry.headBytes,
      keyBytes: kv.geometry.keyBytes,
      blockSize: kv.layout.blockSize,
      paddedBlock: kv.geometry.paddedBlock,
      half: kv.half,
      rows: this.#stepInput().numRows,
      q: queries.address,
      qStride: queries.stride,
      qkv: source.address,
      qkvStride: source.stride,
      slots: this.#slots,
      numHeads,
      numKvHeads,
      headDim,
      normKind: qkNorm === null ? 0 : qkNorm.kind === 'head' ? 1 : 2,
      qNorm: qkNorm === null ? 0 : this.#vector(qkNorm.q.weight).address,
      qEps: qkNorm?.q.eps ?? 0,
      kNorm: qkNorm === null ? 0 : this.#vector(qkNorm.k.weight).address,
      kEps: qkNorm?.k.eps ?? 0,
      rope: rope === null ? 0 : this.#ropeOfStep(rope),
      rotaryDim: rope?.rotaryDim ?? 0,
    })
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    const { numHeads, numKvHeads, headDim, layer, window, softcap } = options
    const target = this.#activation(out)
    const queries = this.#activation(q)
    const kv = this.#kvCache()
    this.#checkHeads(kv.layout, numKvHeads, headDim)
    const group = numHeads / numKvHeads
    this.#buildItems(group)
    const numSplits = Math.ceil(this.#longest / SPLIT)
    const states = this.#numItems * numKvHeads * numSplits
    const apart =
      this.#pool.numThreads > 1 &&
      numSplits > 1 &&
      this.#numItems * numKvHeads < 4 * this.#pool.numThreads &&
      states <= MAX_PARTIALS
    const partialBytes = apart ? this.#rowsPerItem(group) * group * (roundUp(headDim, 16) * 4 + 16) : 0
    const partials = apart ? this.#reservePartials(partialBytes * states) : 0
    const { numRows } = this.#stepInput()
    this.#estimatedMicroseconds += (2 * numRows * numHeads * headDim * this.#longest) / WORK_PER_MICROSECOND
    this.#program.add('attention', {
      pool: kv.layer(layer),
      blockBytes: kv.geometry.blockBytes,
      headBytes: kv.geometry.headBytes,
      keyBytes: kv.geometry.keyBytes,
      blockSize: kv.layout.blockSize,
      paddedBlock: kv.geometry.paddedBlock,
      half: kv.half,
      q: queries.address,
      qStride: queries.stride,
      out: target.address,
      outStride: target.stride,
      numKvHeads,
      group,
      headDim,
      scale: options.scale,
      window: window ?? 0,
      softcap: softcap ?? 0,
      items: this.#items,
      numItems: this.#numItems,
      positions: this.#positions,
      splits: apart ? numSplits : 0,
      partials,
      partialBytes,
    })
  }

  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void {
    const { positions } = this.#stepInput()
    const matrix = this.#matrix(head)
    const vocab = matrix.rows
    const stride = this.#addLogits(this.#logits, x, matrix, options, rows)
    if (rows.some(({ spec }) => isPlainGreedy(spec)))
      this.#program.add('argmax', {
        rows: rows.length,
        logits: this.#logits.address,
        stride,
        vocab,
        out: this.#greedyTokens,
      })
    this.#run()
    const greedy = this.#arena.i32(this.#greedyTokens, rows.length)
    this.#sampler ??= new Sampler(vocab)
    const sampled = new Int32Array(rows.length)
    for (const [i, { row, spec }] of rows.entries()) {
      const logits = this.#arena.f32(this.#logits.address + i * stride, vocab)
      sampled[i] = isPlainGreedy(spec) ? greedy[i]! : this.#sampler.sample(logits, spec, positions[row]! + 1)
      this.#results.sampledLogprobs.push(spec.logprobs < 0 ? null : tokenLogprobs(logits, sampled[i]!, spec.logprobs))
    }
    this.#results.sampled = sampled
    this.#results.numLogitRows = rows.length
    this.#results.vocab = vocab
  }

  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    const matrix = this.#matrix(head)
    // In chunks, so that a long prompt does not ask for [prompt, vocab] logits at once.
    for (let first = 0; first < rows.length; first += SCORE_ROWS) {
      const chunk = rows.slice(first, first + SCORE_ROWS)
      const stride = this.#addLogits(this.#scored, x, matrix, options, chunk)
      this.#run()
      for (const [i, { target, topN }] of chunk.entries()) {
        const logits = this.#arena.f32(this.#scored.address + i * stride, matrix.rows)
        this.#results.scores.push(tokenLogprobs(logits, target, topN))
      }
    }
  }

  endStep(options?: { readonly logits?: boolean }): Promise<StepOutput> {
    this.#stepInput()
    this.#run()
    this.#input = null
    const { sampled, sampledLogprobs, scores } = this.#results
    const kernels = [...this.#kernels].map(([kernel, time]) => ({ kernel, ...time }))
    this.#kernels.clear()
    return Promise.resolve({
      sampled,
      sampledLogprobs,
      scores,
      gpuMicros: null,
      logits: options?.logits === true ? this.#copyLogits() : null,
      kernels: this.#options.traceKernels ? kernels : null,
    })
  }

  // -- between steps --------------------------------------------------------------------------------------------------

  readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    return Promise.resolve(this.#kvCache().read(blocks))
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    this.#kvCache().write(blocks, bytes)
    return Promise.resolve()
  }

  debugWrite(activation: Activation, values: Float32Array): void {
    const { address, stride, cols, label } = this.#activation(activation)
    const numRows = values.length / cols
    if (!Number.isInteger(numRows) || numRows > this.#options.limits.maxRows)
      throw new Error(
        `${label}: ${values.length} values are no whole number of at most ${this.#options.limits.maxRows} rows of ${cols}`,
      )
    for (let row = 0; row < numRows; row++) {
      this.#arena.f32(address + row * stride, cols).set(values.subarray(row * cols, (row + 1) * cols))
    }
  }

  debugRead(activation: Activation): Promise<Float32Array> {
    const { address, stride, cols } = this.#activation(activation)
    const { maxRows } = this.#options.limits
    const values = new Float32Array(maxRows * cols)
    for (let row = 0; row < maxRows; row++) values.set(this.#arena.f32(address + row * stride, cols), row * cols)
    return Promise.resolve(values)
  }

  close(): Promise<void> {
    return this.#pool.close()
  }

  // -- inside ---------------------------------------------------------------------------------------------------------

  /** The entries in use of each sequence's table: a table has room for the longest context there may be. */
  #copyBlockTables({ numSequences, sequenceStarts, positions, blockTables, maxBlocksPerSequence }: StepInput): void {
    const blockSize = this.#kv?.layout.blockSize ?? 1
    const tables = this.#arena.i32(this.#blockTables, numSequences * maxBlocksPerSequence)
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const last = positions[sequenceStarts[sequence + 1]! - 1] ?? 0
      const from = sequence * maxBlocksPerSequence
      tables.set(blockTables.subarray(from, from + Math.floor(last / blockSize) + 1), from)
    }
  }

  /** Runs what is recorded; with traceKernels op by op, timed. */
  #run(): void {
    const { address, length, names } = this.#program
    if (length === 0) return
    this.#program.setScratch(this.#scratch, this.#scratchBytes)
    if (this.#options.traceKernels && this.#input !== null) {
      for (const [index, name] of names.entries()) {
        this.#program.isolate(index)
        const started = performance.now()
        this.#pool.run(address, 1)
        const time = this.#kernels.get(name) ?? { micros: 0, count: 0 }
        time.micros += (performance.now() - started) * 1000
        time.count++
        this.#kernels.set(name, time)
      }
    } else {
      // A small model decodes faster on one thread than with a barrier after every op.
      const saved = this.#estimatedMicroseconds * (1 - 1 / this.#pool.numThreads)
      this.#pool.run(address, length, this.#input !== null && saved < length * SHARING_MICROSECONDS)
    }
    this.#program.clear()
    this.#estimatedMicroseconds = 0
  }

  #addLinear(
    matrix: PackedMatrix,
    source: HostActivation,
    norm: Norm | undefined,
    to: {
      readonly rows: number
      readonly rowIndex: number
      readonly out: number
      readonly outStride: number
      readonly epilogue: number
      readonly bias: number
      readonly softcap: number
      readonly scale: number
    },
  ): void {
    const { numThreads } = this.#pool
    const outPanels = matrix.gated ? matrix.numPanels / 2 : matrix.numPanels
    const units = outPanels * Math.ceil(to.rows / ROW_TILE)
    // Large enough to make the counter cheap, small enough to end together.
    const chunk = Math.max(1, Math.min(16, Math.floor(units / (numThreads * 8))))
    const work = matrix.numPanels * (matrix.panelBytes + to.rows * PANEL * matrix.padded)
    this.#estimatedMicroseconds += work / WORK_PER_MICROSECOND
    // Every field spelled out, here and below: an object made by spreading is a slow dictionary, and there are hundreds a step.
    this.#program.add('linear', {
      rows: to.rows,
      rowIndex: to.rowIndex,
      out: to.out,
      outStride: to.outStride,
      epilogue: to.epilogue,
      bias: to.bias,
      softcap: to.softcap,
      scale: to.scale,
      x: source.address,
      xStride: source.stride,
      cols: matrix.cols,
      padded: matrix.padded,
      normWeight: norm === undefined ? 0 : this.#vector(norm.weight).address,
      eps: norm?.eps ?? 0,
      prepared: this.#prepared,
      format: matrix.formatCode,
      flags: matrix.flags,
      panels: matrix.numPanels,
      panelBytes: matrix.panelBytes,
      weights: matrix.weights,
      factors: matrix.factors,
      chunk,
    })
  }

  /** Logits of the given rows into their buffer; the bytes between rows. */
  #addLogits(
    buffer: LogitsBuffer,
    x: Activation,
    matrix: PackedMatrix,
    { norm, softcap, scale }: LogitsOptions,
    rows: readonly { readonly row: number }[],
  ): number {
    const source = this.#activation(x)
    if (source.cols !== matrix.cols || matrix.gated)
      throw new Error(`logits ${matrix.label}: [.., ${source.cols}] does not fit ${matrix.rows} x ${matrix.cols}`)
    const stride = matrix.numPanels * PANEL * 4
    if (rows.length * stride > buffer.bytes) {
      // One row a sequence is usual; more are drafts to verify, which few servers ever see.
      const { maxSequences, maxSampleRows } = this.#options.limits
      const numRows = rows.length <= maxSequences ? Math.max(1, Math.min(maxSequences, maxSampleRows)) : maxSampleRows
      buffer.bytes = Math.max(rows.length, buffer === this.#scored ? SCORE_ROWS : numRows) * stride
      buffer.address = this.#arena.allocate(buffer.bytes, 'logits')
    }
    this.#arena.i32(this.#rowIndex, rows.length).set(rows.map(({ row }) => row))
    this.#addLinear(matrix, source, norm, {
      rows: rows.length,
      rowIndex: this.#rowIndex,
      out: buffer.address,
      outStride: stride,
      epilogue: 0,
      bias: 0,
      softcap: softcap ?? 0,
      scale,
    })
    return stride
  }

  #copyLogits(): Float32Array {
    const { numLogitRows, vocab } = this.#results
    const stride = roundUp(vocab, PANEL) * 4
    const logits = new Float32Array(numLogitRows * vocab)
    for (let i = 0; i < numLogitRows; i++)
      logits.set(this.#arena.f32(this.#logits.address + i * stride, vocab), i * vocab)
    return logits
  }

  /** The bias as the epilogue reads it: of a gated matrix, 16 of the gate and 16 of the up projection in turn. */
  #biasOf(bias: Vector, matrix: PackedMatrix): number {
    const { address, length } = this.#vector(bias)
    if (length !== matrix.rows) throw new Error(`bias ${bias.label} has ${length} entries, expected ${matrix.rows}`)
    if (!matrix.gated) return address
    const known = this.#gatedBiases.get(bias)
    if (known !== undefined) return known
    const interleaved = this.#arena.allocate(matrix.numPanels * PANEL * 4, bias.label)
    const target = this.#arena.f32(interleaved, matrix.numPanels * PANEL)
    const values = this.#arena.f32(address, length)
    const half = length / 2
    for (let i = 0; i < length; i++) {
      const row = i % half
      target[(row >> 4) * 32 + (i < half ? 0 : 16) + (row & 15)] = values[i]!
    }
    this.#gatedBiases.set(bias, interleaved)
    return interleaved
  }

  #checkHeads(layout: KvLayout, numKvHeads: number, headDim: number): void {
    if (layout.numKvHeads !== numKvHeads || layout.headDim !== headDim)
      throw new Error(
        `the KV pool has ${layout.numKvHeads} heads of ${layout.headDim}, the op ${numKvHeads} of ${headDim}`,
      )
  }

  #rowsPerItem(group: number): number {
    return Math.max(1, Math.floor(ATTENTION_ROWS / group))
  }

  /** Units of attention: runs of rows of one sequence. */
  #buildItems(group: number): void {
    if (this.#itemGroup === group) return
    if (this.#itemGroup !== 0 && this.#program.names.includes('attention')) {
      throw new Error('the attention ops of a step must have the same number of query heads a KV head')
    }
    this.#itemGroup = group
    const { numSequences, sequenceStarts, maxBlocksPerSequence } = this.#stepInput()
    const rowsPerItem = this.#rowsPerItem(group)
    const items = this.#arena.i32(this.#items, 3 * this.#options.limits.maxRows)
    this.#numItems = 0
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const end = sequenceStarts[sequence + 1]!
      for (let row = sequenceStarts[sequence]!; row < end; row += rowsPerItem) {
        items.set(
          [row, Math.min(rowsPerItem, end - row), this.#blockTables + sequence * maxBlocksPerSequence * 4],
          3 * this.#numItems,
        )
        this.#numItems++
      }
    }
  }

  /** The table with the cosines and sines of this step's positions. */
  #ropeOfStep(rope: RopeTable): number {
    const table = this.#ropes.get(rope)
    if (table === undefined) throw new Error(`rope table ${rope.label} is not of this backend`)
    if (table.step === this.#step) return table.address
    const { numRows, positions } = this.#stepInput()
    const { inverseFrequencies, attentionFactor, rotaryDim } = table
    const half = rotaryDim / 2
    const values = this.#arena.f32(table.address, numRows * rotaryDim)
    for (let row = 0; row < numRows; row++) {
      for (let i = 0; i < half; i++) {
        const angle = positions[row]! * inverseFrequencies[i]!
        values[row * rotaryDim + i] = Math.cos(angle) * attentionFactor
        values[row * rotaryDim + half + i] = Math.sin(angle) * attentionFactor
      }
    }
    table.step = this.#step
    return table.address
  }

  /** Scratch bytes a thread needs for any op on what is loaded. */
  #scratchNeed(): number {
    // Own prepared rows or none, their f32 form while quantising, a tile of sums (gate and up), widened weights or expanded codes.
    const inner = this.#largestInner
    const product = 3 * inner * 4 + ROW_TILE * 128 + Math.max(256 * 64, inner * 16)
    const { headDim = 0 } = this.#kv?.layout ?? {}
    const dim = roundUp(headDim, 16)
    const rows = Math.max(ATTENTION_ROWS, 64)
    const attended = rows * (3 * dim * 4 + 32 + SPLIT * 4 + 64) + SPLIT * dim * 4 + dim * 64
    return roundUp(Math.max(product, attended) + 4096, 64)
  }

  /** Grows scratch and prepared rows to what the loaded matrices need. Before a step records addresses of them. */
  #reserve(): void {
    const need = this.#scratchNeed()
    if (need > this.#scratchBytes) {
      this.#scratchBytes = need
      this.#scratch = this.#arena.allocate(need * this.#pool.numThreads, 'scratch')
    }
    // f32 or, quantised, 128 bytes for 32 values: the same.
    const prepared =
      Math.max(this.#options.limits.maxRows, this.#options.limits.maxSampleRows, SCORE_ROWS) * this.#largestInner * 4
    if (prepared > this.#preparedBytes) {
      this.#preparedBytes = prepared
      this.#prepared = this.#arena.allocate(prepared, 'prepared rows')
    }
  }

  #reservePartials(bytes: number): number {
    if (bytes > this.#partialsBytes) {
      // An op recorded before may use the old ones: they stay.
      this.#partialsBytes = bytes * 2
      this.#partials = this.#arena.allocate(this.#partialsBytes, 'attention splits')
    }
    return this.#partials
  }

  #stepInput(): StepInput {
    if (this.#input === null) throw new Error('an op was called outside beginStep .. endStep')
    return this.#input
  }

  #kvCache(): KvCache {
    if (this.#kv === null) throw new Error('createKvCache has not been called')
    return this.#kv
  }

  #matrix(matrix: Matrix): PackedMatrix {
    const found = this.#matrices.get(matrix)
    if (found === undefined) throw new Error(`matrix ${matrix.label} is not of this backend`)
    return found
  }

  #vector(vector: Vector): HostVector {
    const found = this.#vectors.get(vector)
    if (found === undefined) throw new Error(`vector ${vector.label} is not of this backend`)
    return found
  }

  #activation(activation: Activation): HostActivation {
    const found = this.#activations.get(activation)
    if (found === undefined) throw new Error(`activation ${activation.label} is not of this backend`)
    return found
  }
}

/**
 * Starts the pool and returns a backend whose calls run on the calling thread and the pool's. Throws when the kernels have not been built.
 */
export async function createCpuBackend(options: CpuBackendOptions): Promise<InspectableBackend> {
  const arena = new Arena()
  const pool = await Pool.start(arena, options.threads ?? defaultThreads(), options.relaxedSimd ?? true)
  return new CpuBackend(options, arena, pool)
}
