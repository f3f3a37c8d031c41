/**
 * The reference backend: every op in plain TypeScript, each row computed by itself in a fixed order with f64 sums. It is the oracle of the
 * kernel tests and the device of last resort; the bundled model runs on it at a usable speed. Weights are widened to f32 on load.
 */
import { cpus } from 'node:os'
import { checkMatrix, dequantize, wholeMatrix } from '../dequantize.ts'
import { checkExperts } from '../experts.ts'
import { Handles } from '../handles.ts'
import { checkActivate, checkLowRank, packLowRank } from '../low-rank.ts'
import type { InspectableBackend } from '../inspect.ts'
import { fromPlanes, toPlanes } from '../planes.ts'
import type {
  ActivateOptions,
  Activation,
  AttentionOptions,
  BackendInfo,
  BackendOptions,
  ConvolutionOptions,
  ExpertMatrix,
  ExpertsOptions,
  ExpertsUse,
  ExpertWeights,
  GatedDeltaOptions,
  KvLayout,
  LayerNorm,
  LinearOptions,
  LogitsOptions,
  LowRank,
  LowRankPart,
  Matrix,
  MatrixData,
  MatrixFormat,
  MatrixRows,
  MemoryUse,
  MatrixUse,
  Norm,
  OpSequence,
  Pooling,
  QkvOptions,
  RepeatedOps,
  RopeTable,
  RouteOptions,
  Routing,
  RoutingShape,
  SampleRow,
  ScoreRow,
  SelectiveScanOptions,
  StateLayout,
  StepInput,
  StepOutput,
  StoredMatrix,
  TokenLogprobs,
  Vector,
} from '../ops.ts'
import { resolvePending, Sampler, tokenLogprobs } from '../sampling.ts'
import {
  activationOf,
  divideByLength,
  type HostNorm,
  inverseRms,
  joinGlu,
  layerNorm,
  normalizePieces,
} from './arithmetic.ts'
import { type AttentionScratch, pagedAttention } from './attention.ts'
import { combineExperts, createHostRouting, type HostRouting, multiplyExperts, routeRow } from './experts.ts'
import { activate, addLowRank, type HostLowRank } from './low-rank.ts'
import { KvPool, kvBlockBytes, roundToCodes } from './kv-pool.ts'
import { sigmoid } from './recurrence.ts'
import { HostRope } from './rope.ts'
import { RowTile, TILE_ROWS } from './row-tile.ts'
import { StateOps } from './state-ops.ts'
import { stateSlotBytes } from './state-pool.ts'

const bytesOf = (arrays: readonly ArrayBufferView[]): number =>
  arrays.reduce((sum, { byteLength }) => sum + byteLength, 0)

interface HostMatrix extends Matrix {
  readonly values: Float32Array
}

interface HostExpertMatrix extends ExpertMatrix {
  readonly values: Float32Array // [numExperts, rows, cols]
}

export interface HostVector extends Vector {
  readonly values: Float32Array
}

export interface HostActivation extends Activation {
  readonly values: Float32Array // [maxRows, cols]
}

interface StepResults {
  sampled: Int32Array
  sampledLogprobs: (TokenLogprobs | null)[]
  scores: TokenLogprobs[]
  logits: Float32Array | null
  pooled: Float32Array | null
}

const NO_RESULTS: Readonly<StepResults> = {
  sampled: new Int32Array(0),
  sampledLogprobs: [],
  scores: [],
  logits: null,
  pooled: null,
}

class ReferenceBackend implements InspectableBackend {
  readonly #options: BackendOptions
  readonly #matrices = new Handles<Matrix, HostMatrix>('matrix')
  readonly #experts = new Handles<ExpertMatrix, HostExpertMatrix>('experts')
  readonly #vectors = new Handles<Vector, HostVector>('vector')
  readonly #lowRanks = new Handles<LowRank, HostLowRank>('low-rank update')
  readonly #ropes = new Handles<RopeTable, HostRope>('rope table')
  readonly #activations = new Handles<Activation, HostActivation>('activation')
  readonly #routings = new Handles<Routing, HostRouting>('routing')
  readonly #states = new StateOps(this.#vectors, this.#activations)
  readonly #tile = new RowTile()
  #pool: KvPool | null = null
  #attention: AttentionScratch = { scores: new Float64Array(0), sum: new Float64Array(0) }
  #sampler: Sampler | null = null
  #logits = new Float32Array(0)
  #step = 0
  #input: StepInput | null = null
  #tokens: Int32Array
  #previousSampled: Int32Array = new Int32Array(0)
  #results: StepResults = { ...NO_RESULTS }
  #closed = false

  constructor(options: BackendOptions) {
    this.#options = options
    this.#tokens = new Int32Array(options.limits.maxRows)
  }

  get info(): BackendInfo {
    return {
      kind: 'reference',
      adapter: cpus()[0]?.model ?? 'unknown CPU',
      driver: `node ${process.version}`,
      isSoftware: true,
      kvFormat: this.#options.kvFormat === 'q8' ? 'q8' : 'f32',
      hasTimestamps: false,
      memoryBudgetBytes: null,
    }
  }

  readonly packedLayout = 'canonical 1'

  async loadMatrix(
    label: string,
    rows: number,
    cols: number,
    given: MatrixData | MatrixRows,
    use?: MatrixUse,
  ): Promise<Matrix> {
    const data = await wholeMatrix(given, rows)
    checkMatrix(label, rows, cols, data)
    const matrix = { label, rows, cols, format: data.format as MatrixFormat, values: dequantize(data) }
    this.#matrices.add(matrix)
    await use?.onPacked?.(toPlanes(data))
    return matrix
  }

  async importMatrix(label: string, rows: number, cols: number, stored: StoredMatrix): Promise<Matrix> {
    return this.loadMatrix(label, rows, cols, await fromPlanes(stored))
  }

  async loadExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    load: (expert: number) => Promise<MatrixData>,
    use?: ExpertsUse,
  ): Promise<ExpertMatrix> {
    const values = new Float32Array(numExperts * rows * cols)
    let format: MatrixFormat | null = null
    for (let expert = 0; expert < numExperts; expert++) {
      const data = await load(expert)
      checkMatrix(`${label} ${expert}`, rows, cols, data)
      if (format !== null && format !== data.format)
        throw new Error(`${label}: experts in ${format} and ${data.format}`)
      format = data.format
      values.set(dequantize(data), expert * rows * cols)
      await use?.onPacked?.(toPlanes(data), expert)
    }
    return this.#experts.add({ label, numExperts, rows, cols, format: format ?? 'f32', values })
  }

  async importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
  ): Promise<ExpertMatrix> {
    return this.loadExperts(label, numExperts, rows, cols, (expert) => fromPlanes(stored(expert)))
  }

  loadVector(label: string, values: Float32Array): Vector {
    return this.#vectors.add({ label, length: values.length, values })
  }

  loadLowRank(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank {
    const packed = packLowRank(label, rows, cols, adapters)
    return this.#lowRanks.add({ label, rows, cols, numAdapters: adapters.length, ...packed })
  }

  loadRope(label: string, inverseFrequencies: Float64Array, attentionFactor: number): RopeTable {
    return this.#ropes.add(new HostRope(label, inverseFrequencies, attentionFactor, this.#options.limits.maxRows))
  }

  createActivation(label: string, cols: number): Activation {
    return this.#activations.add({ label, cols, values: new Float32Array(this.#options.limits.maxRows * cols) })
  }

  createRouting(label: string, shape: RoutingShape): Routing {
    return this.#routings.add(createHostRouting(label, shape, this.#options.limits.maxRows))
  }

  createKvCache(layout: KvLayout): void {
    if (this.#pool !== null) throw new Error('createKvCache was called twice')
    this.#pool = new KvPool(layout)
    this.#attention = {
      scores: new Float64Array(this.#options.limits.maxBlocksPerSequence * layout.blockSize),
      sum: new Float64Array(Math.max(...layout.layers.map(({ headDim }) => headDim))),
    }
  }

  memoryUse(): MemoryUse {
    const ropes = this.#ropes.values().flatMap(({ cos, sin }) => [cos, sin])
    const routings = this.#routings
      .values()
      .flatMap(({ experts, weights, activations, outputs }) => [experts, weights, activations, outputs])
    const activations = [...this.#activations.values().map(({ values }) => values), ...routings]
    return {
      weightBytes: bytesOf(
        [
          ...this.#matrices.values(),
          ...this.#experts.values(),
          ...this.#vectors.values(),
          ...this.#lowRanks.values(),
        ].map(({ values }) => values),
      ),
      kvCacheBytes:
        (this.#pool === null ? 0 : bytesOf([...this.#pool.keys, ...this.#pool.values])) + this.#states.bytes,
      scratchBytes: bytesOf([...ropes, ...activations, ...this.#tile.scratch, this.#attention.scores, this.#logits]),
    }
  }

  kvBlockBytes(layout: KvLayout): number {
    return kvBlockBytes(layout)
  }

  maxKvBlocks(): number {
    return Infinity
  }

  createStatePool(layout: StateLayout): void {
    this.#states.createPool(layout)
  }

  stateSlotBytes(layout: StateLayout): number {
    return stateSlotBytes(layout)
  }

  maxStateSlots(): number {
    return Infinity
  }

  record(label: string, ops: () => void): RepeatedOps {
    return { label, ops }
  }

  ready(): Promise<void> {
    return Promise.resolve()
  }

  copyBlock(source: number, destination: number, numTokens: number): void {
    this.#kvPool().copyBlock(source, destination, numTokens)
  }

  run(sequence: OpSequence): void {
    ;(sequence as RepeatedOps).ops()
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
    this.#results = { ...NO_RESULTS, sampledLogprobs: [], scores: [] }
    for (let row = 0; row < input.numRows; row++) {
      const token = input.tokens[row]!
      this.#tokens[row] = token >= 0 ? token : this.#previousSampled[-token - 1]!
    }
  }

  embed(out: Activation, table: Matrix, scale: number): void {
    const target = this.#activations.get(out).values
    const { values, cols, rows } = this.#matrices.get(table)
    const { numRows } = this.#stepInput()
    for (let row = 0; row < numRows; row++) {
      const token = this.#tokens[row]!
      if (token >= rows) throw new Error(`token ${token} is outside the vocabulary of ${rows}`)
      for (let i = 0; i < cols; i++) target[row * cols + i] = values[token * cols + i]! * scale
    }
  }

  embedAdd(out: Activation, table: Matrix): void {
    const target = this.#activations.get(out).values
    const { values, cols, rows } = this.#matrices.get(table)
    const { numRows, places } = this.#stepInput()
    if (places === undefined) throw new Error(`embedAdd ${table.label}: the step has no places`)
    for (let row = 0; row < numRows; row++) {
      const place = places[row]!
      if (place < 0 || place >= rows) throw new Error(`place ${place} is outside the table of ${rows}`)
      for (let i = 0; i < cols; i++) target[row * cols + i] = target[row * cols + i]! + values[place * cols + i]!
    }
  }

  linear(out: Activation, x: Activation, w: Matrix, { norm, bias, residual, glu, activation }: LinearOptions): void {
    const target = this.#activations.get(out)
    const source = this.#activations.get(x)
    const matrix = this.#matrices.get(w)
    const outputs = glu === undefined ? matrix.rows : matrix.rows / 2
    if (target === source || target.cols !== outputs || source.cols !== matrix.cols) {
      throw new Error(
        `linear ${w.label}: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${matrix.rows} x ${matrix.cols}`,
      )
    }
    const biases = bias === undefined ? null : this.#vectors.get(bias).values
    const activate = activation === undefined ? null : activationOf(activation)
    const { numRows } = this.#stepInput()
    for (let first = 0; first < numRows; first += TILE_ROWS) {
      const rows = Math.min(TILE_ROWS, numRows - first)
      this.#tile.multiply(source.values, (i) => first + i, rows, matrix, norm === undefined ? null : this.#norm(norm))
      const { products } = this.#tile
      for (let r = 0; r < rows; r++) {
        const from = r * matrix.rows
        const to = (first + r) * outputs
        for (let o = 0; o < outputs; o++) {
          let value = products[from + o]!
          if (biases !== null) value += biases[o]!
          if (activate !== null) value = activate(value)
          if (glu !== undefined) {
            const up = products[from + outputs + o]! + (biases === null ? 0 : biases[outputs + o]!)
            value = joinGlu(glu, value, up)
          }
          target.values[to + o] = residual === true ? target.values[to + o]! + value : value
        }
      }
    }
  }

  addLowRank(out: Activation, x: Activation, update: LowRank, norm?: Norm): void {
    const [target, source] = [this.#activations.get(out), this.#activations.get(x)]
    const own = this.#lowRanks.get(update)
    checkLowRank(own, target, source)
    const { numRows, adapters } = this.#stepInput()
    if (adapters === undefined) throw new Error(`addLowRank ${update.label}: the step names no adapters`)
    addLowRank(target.values, source.values, own, norm === undefined ? null : this.#norm(norm), adapters, numRows)
  }

  activate(out: Activation, x: Activation, options: ActivateOptions): void {
    const [target, source] = [this.#activations.get(out), this.#activations.get(x)]
    checkActivate(target, source, options.glu !== undefined)
    activate(target.values, source.values, target.cols, options, this.#stepInput().numRows)
  }

  normAdd(residual: Activation, x: Activation, norm: Norm): void {
    const target = this.#activations.get(residual).values
    const { values, cols } = this.#activations.get(x)
    const weight = this.#vectors.get(norm.weight).values
    const { numRows } = this.#stepInput()
    for (let row = 0; row < numRows; row++) {
      const base = row * cols
      const inverse = inverseRms(values, base, cols, norm.eps)
      for (let i = 0; i < cols; i++) target[base + i] = target[base + i]! + values[base + i]! * inverse * weight[i]!
    }
  }

  layerNorm(out: Activation, x: Activation, { weight, bias, eps }: LayerNorm): void {
    const target = this.#activations.get(out)
    const { values, cols } = this.#activations.get(x)
    const [scales, offsets] = [this.#vectors.get(weight).values, bias === null ? null : this.#vectors.get(bias).values]
    const { numRows } = this.#stepInput()
    for (let row = 0; row < numRows; row++) layerNorm(target.values, values, row * cols, cols, scales, offsets, eps)
  }

  route(routing: Routing, logits: Activation, options: RouteOptions): void {
    const { topK, numExperts, experts, weights } = this.#routings.get(routing)
    const { values, cols } = this.#activations.get(logits)
    if (cols !== numExperts) throw new Error(`route ${routing.label}: ${cols} logits for ${numExperts} experts`)
    const bias = options.bias === null ? null : this.#vectors.get(options.bias).values
    const { numRows } = this.#stepInput()
    for (let row = 0; row < numRows; row++) {
      const [from, to] = [row * topK, (row + 1) * topK]
      const own = values.subarray(row * cols, (row + 1) * cols)
      routeRow(own, options, bias, experts.subarray(from, to), weights.subarray(from, to))
    }
  }

  experts(out: Activation, x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void {
    const target = this.#activations.get(out)
    const source = this.#activations.get(x)
    const own = this.#routings.get(routing)
    const [gateUp, down] = [this.#experts.get(weights.gateUp), this.#experts.get(weights.down)]
    checkExperts(target, source, gateUp, down, own)
    const { numRows } = this.#stepInput()
    const biasOf = (bias: Vector | undefined) => (bias === undefined ? null : this.#vectors.get(bias).values)
    multiplyExperts(this.#tile, own, {
      x: source.values,
      numRows,
      gateUp,
      down,
      gateUpBias: biasOf(weights.gateUpBias),
      downBias: biasOf(weights.downBias),
      norm: options.norm === undefined ? null : this.#norm(options.norm),
      glu: options.glu,
    })
    combineExperts(target.values, own, numRows, target.cols, options.residual)
  }

  qkvRopeStore(
    q: Activation,
    qkv: Activation,
    { layer, numHeads, numKvHeads, headDim, qkNorm, vNorm = null, rope, isQueryOnly = false }: QkvOptions,
  ): void {
    const queries = this.#activations.get(q).values
    const { values: source, cols } = this.#activations.get(qkv)
    const { numRows, slots } = this.#stepInput()
    const pool = this.#kvPool()
    const keys = pool.keys[layer]!
    const values = pool.values[layer]!
    const table = rope === null ? null : this.#ropeOfStep(rope)
    const qWidth = numHeads * headDim
    // Of a layer that stores nothing there are no rows of k and v.
    const kvWidth = isQueryOnly ? 0 : numKvHeads * headDim
    const numStored = isQueryOnly ? 0 : numKvHeads
    if (cols !== qWidth + 2 * kvWidth) throw new Error(`qkvRopeStore: ${cols} columns of ${qkv.label} do not fit`)
    for (let row = 0; row < numRows; row++) {
      const from = row * cols
      const slot = slots[row]! * kvWidth
      for (let i = 0; i < qWidth; i++) queries[row * qWidth + i] = source[from + i]!
      for (let i = 0; i < kvWidth; i++) keys[slot + i] = source[from + qWidth + i]!
      for (let i = 0; i < kvWidth; i++) values[slot + i] = source[from + qWidth + kvWidth + i]!
      const normalize = (): void => {
        if (qkNorm === null) return
        const perHead = qkNorm.kind !== 'full'
        normalizePieces(queries, row * qWidth, qWidth, perHead ? headDim : qWidth, this.#norm(qkNorm.q))
        normalizePieces(keys, slot, kvWidth, perHead ? headDim : kvWidth, this.#norm(qkNorm.k))
      }
      if (qkNorm?.kind !== 'rotatedHead') normalize()
      if (table !== null) {
        table.rotate(queries, row * qWidth, numHeads, headDim, row)
        table.rotate(keys, slot, numStored, headDim, row)
      }
      if (qkNorm?.kind === 'rotatedHead') normalize()
      if (vNorm !== null) divideByLength(values, slot, kvWidth, headDim, vNorm.eps)
      if (this.#options.kvFormat === 'q8') {
        for (const stored of [keys, values]) roundToCodes(stored, slot, numStored, headDim)
      }
    }
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    const { keys, values, layout } = this.#kvPool()
    pagedAttention(
      this.#activations.get(out).values,
      this.#activations.get(q).values,
      keys[options.layer]!,
      values[options.layer]!,
      layout.blockSize,
      this.#stepInput(),
      options,
      options.sinks === undefined || options.sinks === null ? null : this.#vectors.get(options.sinks).values,
      this.#attention,
    )
  }

  pool(x: Activation, pooling: Pooling): void {
    const { values, cols } = this.#activations.get(x)
    const { numSequences, sequenceStarts } = this.#stepInput()
    const pooled = new Float32Array(numSequences * cols)
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const [start, end] = [sequenceStarts[sequence]!, sequenceStarts[sequence + 1]!]
      const first = pooling === 'last' ? end - 1 : start
      const last = pooling === 'first' ? start : end - 1
      for (let i = 0; i < cols; i++) {
        let sum = 0
        for (let row = first; row <= last; row++) sum += values[row * cols + i]!
        pooled[sequence * cols + i] = sum / (last + 1 - first)
      }
    }
    this.#results.pooled = pooled
  }

  sigmoidGate(x: Activation, gate: Activation): void {
    const target = this.#activations.get(x)
    const source = this.#activations.get(gate)
    if (source.cols !== target.cols && source.cols !== 1)
      throw new Error(`sigmoidGate: ${source.cols} columns of ${gate.label} for ${target.cols} of ${x.label}`)
    const { numRows } = this.#stepInput()
    const columnsPerGate = target.cols / source.cols
    for (let i = 0; i < numRows * target.cols; i++)
      target.values[i]! *= sigmoid(source.values[Math.floor(i / columnsPerGate)]!)
  }

  convolution(out: Activation, x: Activation, options: ConvolutionOptions): void {
    this.#states.convolution(out, x, options, this.#stepInput())
  }

  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): void {
    this.#states.gatedDelta(out, x, options, this.#stepInput())
  }

  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): void {
    this.#states.selectiveScan(out, x, options, this.#stepInput())
  }

  sample(x: Activation, head: Matrix, options: LogitsOptions, rows: readonly SampleRow[]): void {
    const { positions } = this.#stepInput()
    const logits = this.#computeLogits(x, head, options, rows)
    const vocab = head.rows
    this.#sampler ??= new Sampler(vocab)
    const sampled = new Int32Array(rows.length)
    for (const [i, { row, spec }] of rows.entries()) {
      const own = logits.subarray(i * vocab, (i + 1) * vocab)
      sampled[i] = this.#sampler.sample(own, resolvePending(spec, this.#previousSampled), positions[row]! + 1)
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
    const { sampled, sampledLogprobs, scores, logits, pooled } = this.#results
    this.#input = null
    return Promise.resolve({
      sampled,
      sampledLogprobs,
      scores,
      logits: options?.logits === true ? (logits?.slice() ?? new Float32Array(0)) : null,
      pooled,
      gpuMicros: null,
      kernels: null,
    })
  }

  readBlocks(blocks: readonly number[]): Promise<Uint8Array> {
    return Promise.resolve(this.#kvPool().read(blocks))
  }

  writeBlocks(blocks: readonly number[], bytes: Uint8Array): Promise<void> {
    this.#kvPool().write(blocks, bytes)
    return Promise.resolve()
  }

  debugWrite(activation: Activation, values: Float32Array): void {
    const { label, cols, values: target } = this.#activations.get(activation)
    if (values.length % cols !== 0 || values.length > target.length)
      throw new Error(`debugWrite ${label}: ${values.length} values do not fit rows of ${cols}`)
    target.set(values)
  }

  debugRead(activation: Activation): Promise<Float32Array> {
    return Promise.resolve(this.#activations.get(activation).values.slice())
  }

  close(): Promise<void> {
    this.#closed = true
    this.#matrices.clear()
    this.#vectors.clear()
    this.#lowRanks.clear()
    this.#ropes.clear()
    this.#experts.clear()
    this.#activations.clear()
    this.#routings.clear()
    this.#pool = null
    this.#states.close()
    return Promise.resolve()
  }

  #computeLogits(
    x: Activation,
    head: Matrix,
    { norm, softcap, scale }: LogitsOptions,
    rows: readonly { readonly row: number }[],
    target?: Float32Array,
  ): Float32Array {
    const source = this.#activations.get(x)
    const matrix = this.#matrices.get(head)
    const vocab = matrix.rows
    if (target === undefined && this.#logits.length < rows.length * vocab)
      this.#logits = new Float32Array(rows.length * vocab)
    const logits = target ?? this.#logits.subarray(0, rows.length * vocab)
    const hostNorm = this.#norm(norm)
    for (let first = 0; first < rows.length; first += TILE_ROWS) {
      const count = Math.min(TILE_ROWS, rows.length - first)
      this.#tile.multiply(source.values, (i) => rows[first + i]!.row, count, matrix, hostNorm)
      for (let i = 0; i < count * vocab; i++) {
        const value = this.#tile.products[i]! * scale
        logits[first * vocab + i] = softcap === null ? value : softcap * Math.tanh(value / softcap)
      }
    }
    return logits
  }

  /** The table with the cosines and sines of this step's positions. */
  #ropeOfStep(rope: RopeTable): HostRope {
    const table = this.#ropes.get(rope)
    const { numRows, positions } = this.#stepInput()
    table.prepare(this.#step, positions, numRows)
    return table
  }

  #stepInput(): StepInput {
    if (this.#input === null) throw new Error('an op was called outside beginStep .. endStep')
    return this.#input
  }

  #kvPool(): KvPool {
    if (this.#pool === null) throw new Error('createKvCache has not been called')
    return this.#pool
  }

  #norm({ weight, eps }: Norm): HostNorm {
    return { weight: this.#vectors.get(weight).values, eps }
  }
}

/** A backend in this thread, in plain TypeScript. Needs nothing of the machine. */
export function createReferenceBackend(options: BackendOptions): InspectableBackend {
  return new ReferenceBackend(options)
}
