/**
 * The reference backend: every op in plain TypeScript, each row computed by itself in a fixed order with f64 sums. It is the oracle of the
 * kernel tests and the device of last resort; the bundled model runs on it at a usable speed. Weights are widened to f32 on load.
 */
import { cpus } from 'node:os'
import { checkMatrix, dequantize } from '../dequantize.ts'
import type { InspectableBackend } from '../inspect.ts'
import { fromPlanes, toPlanes } from '../planes.ts'
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
  MatrixFormat,
  MemoryUse,
  MatrixUse,
  Norm,
  QkvOptions,
  RopeTable,
  SampleRow,
  ScoreRow,
  StepInput,
  StepOutput,
  StoredMatrix,
  TokenLogprobs,
  Vector,
} from '../ops.ts'
import { Sampler, tokenLogprobs } from '../sampling.ts'
import { geluTanh, inverseRms, matmul, silu } from './arithmetic.ts'
import { type AttentionScratch, pagedAttention } from './attention.ts'

const bytesOf = (arrays: readonly ArrayBufferView[]): number =>
  arrays.reduce((sum, { byteLength }) => sum + byteLength, 0)

/** Rows a matrix product takes at once: bounds the f64 scratch while the weights of four outputs stay in the cache. */
const TILE_ROWS = 32

interface HostMatrix extends Matrix {
  readonly values: Float32Array
}

interface HostVector extends Vector {
  readonly values: Float32Array
}

interface HostActivation extends Activation {
  readonly values: Float32Array // [maxRows, cols]
}

interface HostRope extends RopeTable {
  readonly inverseFrequencies: Float64Array
  readonly attentionFactor: number
  readonly cos: Float64Array // [maxRows, rotaryDim / 2]
  readonly sin: Float64Array
  /** Step whose positions cos and sin hold. */
  step: number
}

interface StepResults {
  sampled: Int32Array
  sampledLogprobs: (TokenLogprobs | null)[]
  scores: TokenLogprobs[]
  logits: Float32Array | null
}

class ReferenceBackend implements InspectableBackend {
  readonly info: BackendInfo = {
    kind: 'reference',
    adapter: cpus()[0]?.model ?? 'unknown CPU',
    driver: `node ${process.version}`,
    isSoftware: true,
    kvFormat: 'f32',
    hasTimestamps: false,
    memoryBudgetBytes: null,
  }
  readonly #options: BackendOptions
  // The objects given out are these very maps' keys: a handle of another backend is refused.
  readonly #matrices = new Map<Matrix, HostMatrix>()
  readonly #vectors = new Map<Vector, HostVector>()
  readonly #ropes = new Map<RopeTable, HostRope>()
  readonly #activations = new Map<Activation, HostActivation>()
  #layout: KvLayout | null = null
  #keys: Float32Array[] = [] // a layer each: [slots, numKvHeads, headDim]
  #values: Float32Array[] = []
  #scratch = new Float64Array(0) // inputs of one tile, [rows, cols]
  #products = new Float64Array(0) // outputs of one tile, [rows, outputs]
  #attention: AttentionScratch = { scores: new Float64Array(0), sum: new Float64Array(0) }
  #sampler: Sampler | null = null
  #logits = new Float32Array(0)
  #step = 0
  #input: StepInput | null = null
  #tokens: Int32Array
  #previousSampled: Int32Array = new Int32Array(0)
  #results: StepResults = { sampled: new Int32Array(0), sampledLogprobs: [], scores: [], logits: null }
  #closed = false

  constructor(options: BackendOptions) {
    this.#options = options
    this.#tokens = new Int32Array(options.limits.maxRows)
  }

  readonly packedLayout = 'canonical 1'

  async loadMatrix(label: string, rows: number, cols: number, data: MatrixData, use?: MatrixUse): Promise<Matrix> {
    checkMatrix(label, rows, cols, data)
    const matrix = { label, rows, cols, format: data.format as MatrixFormat, values: dequantize(data) }
    this.#matrices.set(matrix, matrix)
    await use?.onPacked?.(toPlanes(data))
    return matrix
  }

  async importMatrix(label: string, rows: number, cols: number, stored: StoredMatrix): Promise<Matrix> {
    return this.loadMatrix(label, rows, cols, await fromPlanes(stored))
  }

  loadVector(label: string, values: Float32Array): Vector {
    const vector = { label, length: values.length, values }
    this.#vectors.set(vector, vector)
    return vector
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    const half = inverseFrequencies.length
    const cells = this.#options.limits.maxRows * half
    const table = {
      label,
      rotaryDim: half * 2,
      inverseFrequencies,
      attentionFactor,
      cos: new Float64Array(cells),
      sin: new Float64Array(cells),
      step: -1,
    }
    this.#ropes.set(table, table)
    return table
  }

  createActivation(label: string, cols: number): Activation {
    const activation = { label, cols, values: new Float32Array(this.#options.limits.maxRows * cols) }
    this.#activations.set(activation, activation)
    return activation
  }

  createKvCache(layout: KvLayout): void {
    if (this.#layout !== null) throw new Error('createKvCache was called twice')
    this.#layout = layout
    const length = layout.numBlocks * layout.blockSize * layout.numKvHeads * layout.headDim
    for (let layer = 0; layer < layout.numLayers; layer++) {
      this.#keys.push(new Float32Array(length))
      this.#values.push(new Float32Array(length))
    }
    this.#attention = {
      scores: new Float64Array(this.#options.limits.maxBlocksPerSequence * layout.blockSize),
      sum: new Float64Array(layout.headDim),
    }
  }

  memoryUse(): MemoryUse {
    const ropes = [...this.#ropes.values()].flatMap(({ cos, sin }) => [cos, sin])
    const activations = [...this.#activations.values()].map(({ values }) => values)
    return {
      weightBytes: bytesOf([...this.#matrices.values(), ...this.#vectors.values()].map(({ values }) => values)),
      kvCacheBytes: bytesOf([...this.#keys, ...this.#values]),
      scratchBytes: bytesOf([
        ...ropes,
        ...activations,
        this.#scratch,
        this.#products,
        this.#attention.scores,
        this.#logits,
      ]),
    }
  }

  kvBlockBytes({ numLayers, blockSize, numKvHeads, headDim }: KvLayout): number {
    return numLayers * 2 * blockSize * numKvHeads * headDim * Float32Array.BYTES_PER_ELEMENT
  }

  maxKvBlocks(): number {
    return Infinity
  }

  ready(): Promise<void> {
    return Promise.resolve()
  }

  copyBlock(source: number, destination: number, numTokens: number): void {
    const { blockSize, numKvHeads, headDim } = this.#kvLayout()
    const stride = blockSize * numKvHeads * headDim
    const length = numTokens * numKvHeads * headDim
    for (const pool of [...this.#keys, ...this.#values]) {
      pool.copyWithin(destination * stride, source * stride, source * stride + length)
    }
  }

  beginStep(input: StepInput): void {
    if (this.#closed) throw new Error('the backend is closed')
    const { maxRows, maxSequences } = this.#options.limits
    if (input.numRows > maxRows || input.numSequences > maxSequences) {
      throw new Error(
        `step of ${input.numRows} rows, ${input.numSequences} sequences exceeds the limits ${maxRows}, ${maxSequences}`,
      )
    }
    this.#step++
    this.#input = input
    this.#previousSampled = this.#results.sampled
    this.#results = { sampled: new Int32Array(0), sampledLogprobs: [], scores: [], logits: null }
    for (let row = 0; row < input.numRows; row++) {
      const token = input.tokens[row]!
      this.#tokens[row] = token >= 0 ? token : this.#previousSampled[-token - 1]!
    }
  }

  embed(out: Activation, table: Matrix, scale: number): void {
    const target = this.#activation(out).values
    const { values, cols, rows } = this.#matrix(table)
    const { numRows } = this.#stepInput()
    for (let row = 0; row < numRows; row++) {
      const token = this.#tokens[row]!
      if (token >= rows) throw new Error(`token ${token} is outside the vocabulary of ${rows}`)
      for (let i = 0; i < cols; i++) target[row * cols + i] = values[token * cols + i]! * scale
    }
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
    const biases = bias === undefined ? null : this.#vector(bias)
    const activate = glu === undefined ? null : glu === 'silu' ? silu : geluTanh
    const { numRows } = this.#stepInput()
    for (let first = 0; first < numRows; first += TILE_ROWS) {
      const rows = Math.min(TILE_ROWS, numRows - first)
      const products = this.#multiply(source, first, rows, matrix, norm)
      for (let r = 0; r < rows; r++) {
        const from = r * matrix.rows
        const to = (first + r) * outputs
        for (let o = 0; o < outputs; o++) {
          let value = products[from + o]!
          if (biases !== null) value += biases[o]!
          if (activate !== null) {
            const up = products[from + outputs + o]! + (biases === null ? 0 : biases[outputs + o]!)
            value = activate(value) * up
          }
          target.values[to + o] = residual === true ? target.values[to + o]! + value : value
        }
      }
    }
  }

  normAdd(residual: Activation, x: Activation, norm: Norm): void {
    const target = this.#activation(residual).values
    const { values, cols } = this.#activation(x)
    const weight = this.#vector(norm.weight)
    const { numRows } = this.#stepInput()
    for (let row = 0; row < numRows; row++) {
      const base = row * cols
      const inverse = inverseRms(values, base, cols, norm.eps)
      for (let i = 0; i < cols; i++) target[base + i] = target[base + i]! + values[base + i]! * inverse * weight[i]!
    }
  }

  qkvRopeStore(
    q: Activation,
    qkv: Activation,
    { layer, numHeads, numKvHeads, headDim, qkNorm, rope }: QkvOptions,
  ): void {
    const queries = this.#activation(q).values
    const { values: source, cols } = this.#activation(qkv)
    const { numRows, slots } = this.#stepInput()
    const keys = this.#keys[layer]!
    const values = this.#values[layer]!
    const table = rope === null ? null : this.#ropeOfStep(rope)
    const qWidth = numHeads * headDim
    const kvWidth = numKvHeads * headDim
    for (let row = 0; row < numRows; row++) {
      const from = row * cols
      const slot = slots[row]! * kvWidth
      for (let i = 0; i < qWidth; i++) queries[row * qWidth + i] = source[from + i]!
      for (let i = 0; i < kvWidth; i++) keys[slot + i] = source[from + qWidth + i]!
      for (let i = 0; i < kvWidth; i++) values[slot + i] = source[from + qWidth + kvWidth + i]!
      if (qkNorm !== null) {
        const perHead = qkNorm.kind === 'head'
        this.#normalize(queries, row * qWidth, qWidth, perHead ? headDim : qWidth, qkNorm.q)
        this.#normalize(keys, slot, kvWidth, perHead ? headDim : kvWidth, qkNorm.k)
      }
      if (table !== null) {
        rotate(queries, row * qWidth, numHeads, headDim, table, row)
        rotate(keys, slot, numKvHeads, headDim, table, row)
      }
    }
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    const layout = this.#kvLayout()
    pagedAttention(
      this.#activation(out).values,
      this.#activation(q).values,
      this.#keys[options.layer]!,
      this.#values[options.layer]!,
      layout.blockSize,
      this.#stepInput(),
      options,
      this.#attention,
    )
  }

  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void {
    const { positions } = this.#stepInput()
    const logits = this.#computeLogits(x, head, options, rows)
    const vocab = head.rows
    this.#sampler ??= new Sampler(vocab)
    const sampled = new Int32Array(rows.length)
    for (const [i, { row, spec }] of rows.entries()) {
      const own = logits.subarray(i * vocab, (i + 1) * vocab)
      sampled[i] = this.#sampler.sample(own, spec, positions[row]! + 1)
      this.#results.sampledLogprobs.push(spec.logprobs < 0 ? null : tokenLogprobs(own, sampled[i]!, spec.logprobs))
    }
    this.#results.sampled = sampled
    this.#results.logits = logits
  }

  score(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly ScoreRow[]): void {
    const vocab = head.rows
    // In chunks, so that a long prompt does not ask for [prompt, vocab] logits at once.
    for (let first = 0; first < rows.length; first += TILE_ROWS) {
      const chunk = rows.slice(first, first + TILE_ROWS)
      const logits = this.#computeLogits(x, head, options, chunk, new Float32Array(chunk.length * vocab))
      for (const [i, { target, topN }] of chunk.entries()) {
        this.#results.scores.push(tokenLogprobs(logits.subarray(i * vocab, (i + 1) * vocab), target, topN))
      }
    }
  }

  endStep(options?: { readonly logits?: boolean }): Promise<StepOutput> {
    const { sampled, sampledLogprobs, scores, logits } = this.#results
    this.#input = null
    return Promise.resolve({
      sampled,
      sampledLogprobs,
      scores,
      logits: options?.logits === true ? (logits?.slice() ?? new Float32Array(0)) : null,
      gpuMicros: null,
      kernels: null,
    })
  }

  readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    const bytes = new Uint8Array(blocks.length * this.kvBlockBytes(this.#kvLayout()))
    this.#forEachPiece(blocks, bytes, (pool, piece) => piece.set(pool))
    return Promise.resolve(bytes)
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    const expected = blocks.length * this.kvBlockBytes(this.#kvLayout())
    if (bytes.length !== expected)
      throw new Error(`writeBlocks: ${bytes.length} bytes for ${blocks.length} blocks, expected ${expected}`)
    this.#forEachPiece(blocks, bytes, (pool, piece) => pool.set(piece))
    return Promise.resolve()
  }

  debugWrite(activation: Activation, values: Float32Array): void {
    const { label, cols, values: target } = this.#activation(activation)
    if (values.length % cols !== 0 || values.length > target.length)
      throw new Error(`debugWrite ${label}: ${values.length} values do not fit rows of ${cols}`)
    target.set(values)
  }

  debugRead(activation: Activation): Promise<Float32Array> {
    return Promise.resolve(this.#activation(activation).values.slice())
  }

  close(): Promise<void> {
    this.#closed = true
    this.#matrices.clear()
    this.#vectors.clear()
    this.#ropes.clear()
    this.#activations.clear()
    this.#keys = []
    this.#values = []
    return Promise.resolve()
  }

  /** Visits each layer's K and V of each block with its place in `bytes`: block after block, layer after layer, K then V. */
  #forEachPiece(
    blocks: readonly number[],
    bytes: Uint8Array,
    visit: (pool: Uint8Array, piece: Uint8Array) => void,
  ): void {
    const { numBlocks, numLayers, blockSize, numKvHeads, headDim } = this.#kvLayout()
    const length = blockSize * numKvHeads * headDim * Float32Array.BYTES_PER_ELEMENT
    let at = 0
    for (const block of blocks) {
      if (block < 0 || block >= numBlocks) throw new Error(`block ${block} is outside the pool of ${numBlocks}`)
      for (let layer = 0; layer < numLayers; layer++) {
        for (const pool of [this.#keys[layer]!, this.#values[layer]!]) {
          visit(new Uint8Array(pool.buffer, pool.byteOffset + block * length, length), bytes.subarray(at, at + length))
          at += length
        }
      }
    }
  }

  /** Products [rows, w.rows] of rows first.. of `x`, normalised first where asked, in scratch that the next call overwrites. */
  #multiply(x: HostActivation, first: number, rows: number, w: HostMatrix, norm: Norm | undefined): Float64Array {
    const { cols } = w
    this.#reserve(rows, cols, w.rows)
    for (let r = 0; r < rows; r++) this.#widen(x.values, (first + r) * cols, r * cols, cols, norm)
    matmul(this.#products, this.#scratch, rows, w.values, 0, w.rows, cols)
    return this.#products
  }

  /** Grows the scratch of a tile; steady state allocates nothing. */
  #reserve(rows: number, cols: number, outputs: number): void {
    if (this.#scratch.length < rows * cols) this.#scratch = new Float64Array(rows * cols)
    if (this.#products.length < rows * outputs) this.#products = new Float64Array(rows * outputs)
  }

  /** Copies a row into the f64 scratch, normalised where asked. */
  #widen(x: Float32Array, from: number, to: number, cols: number, norm: Norm | undefined): void {
    if (norm === undefined) {
      for (let i = 0; i < cols; i++) this.#scratch[to + i] = x[from + i]!
      return
    }
    const weight = this.#vector(norm.weight)
    const inverse = inverseRms(x, from, cols, norm.eps)
    for (let i = 0; i < cols; i++) this.#scratch[to + i] = x[from + i]! * inverse * weight[i]!
  }

  #computeLogits(
    x: Activation,
    head: Matrix,
    { norm, softcap, scale }: LogitsOptions,
    rows: readonly { readonly row: number }[],
    target?: Float32Array,
  ): Float32Array {
    const source = this.#activation(x)
    const matrix = this.#matrix(head)
    const vocab = matrix.rows
    const { cols } = matrix
    if (target === undefined && this.#logits.length < rows.length * vocab)
      this.#logits = new Float32Array(rows.length * vocab)
    const logits = target ?? this.#logits.subarray(0, rows.length * vocab)
    this.#reserve(Math.min(TILE_ROWS, rows.length), cols, vocab)
    for (let first = 0; first < rows.length; first += TILE_ROWS) {
      const count = Math.min(TILE_ROWS, rows.length - first)
      for (let r = 0; r < count; r++) this.#widen(source.values, rows[first + r]!.row * cols, r * cols, cols, norm)
      matmul(this.#products, this.#scratch, count, matrix.values, 0, vocab, cols)
      for (let i = 0; i < count * vocab; i++) {
        const value = this.#products[i]! * scale
        logits[first * vocab + i] = softcap === null ? value : softcap * Math.tanh(value / softcap)
      }
    }
    return logits
  }

  /** RMSNorm in place of each `width` piece of x[start .. start + length - 1]. */
  #normalize(x: Float32Array, start: number, length: number, width: number, norm: Norm): void {
    const weight = this.#vector(norm.weight)
    for (let base = start; base < start + length; base += width) {
      const inverse = inverseRms(x, base, width, norm.eps)
      for (let i = 0; i < width; i++) x[base + i] = x[base + i]! * inverse * weight[i]!
    }
  }

  /** The table with the cosines and sines of this step's positions. */
  #ropeOfStep(rope: RopeTable): HostRope {
    const table = this.#ropes.get(rope)
    if (table === undefined) throw new Error(`rope table ${rope.label} is not of this backend`)
    if (table.step === this.#step) return table
    const { numRows, positions } = this.#stepInput()
    const half = table.inverseFrequencies.length
    for (let row = 0; row < numRows; row++) {
      for (let i = 0; i < half; i++) {
        const angle = positions[row]! * table.inverseFrequencies[i]!
        table.cos[row * half + i] = Math.cos(angle) * table.attentionFactor
        table.sin[row * half + i] = Math.sin(angle) * table.attentionFactor
      }
    }
    table.step = this.#step
    return table
  }

  #stepInput(): StepInput {
    if (this.#input === null) throw new Error('an op was called outside beginStep .. endStep')
    return this.#input
  }

  #kvLayout(): KvLayout {
    if (this.#layout === null) throw new Error('createKvCache has not been called')
    return this.#layout
  }

  #matrix(matrix: Matrix): HostMatrix {
    const found = this.#matrices.get(matrix)
    if (found === undefined) throw new Error(`matrix ${matrix.label} is not of this backend`)
    return found
  }

  #vector(vector: Vector): Float32Array {
    const found = this.#vectors.get(vector)
    if (found === undefined) throw new Error(`vector ${vector.label} is not of this backend`)
    return found.values
  }

  #activation(activation: Activation): HostActivation {
    const found = this.#activations.get(activation)
    if (found === undefined) throw new Error(`activation ${activation.label} is not of this backend`)
    return found
  }
}

/** Rotates the leading dims of each head of a row: pairs (i, i + half), half = rotaryDim / 2. */
function rotate(x: Float32Array, start: number, numHeads: number, headDim: number, table: HostRope, row: number): void {
  const half = table.rotaryDim / 2
  for (let head = 0; head < numHeads; head++) {
    const base = start + head * headDim
    for (let i = 0; i < half; i++) {
      const cos = table.cos[row * half + i]!
      const sin = table.sin[row * half + i]!
      const a = x[base + i]!
      const b = x[base + half + i]!
      x[base + i] = a * cos - b * sin
      x[base + half + i] = b * cos + a * sin
    }
  }
}

/** A backend in this thread, in plain TypeScript. Needs nothing of the machine. */
export function createReferenceBackend(options: BackendOptions): InspectableBackend {
  return new ReferenceBackend(options)
}
