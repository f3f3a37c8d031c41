/** The ops between embedding and logits, in plain TypeScript. */
import { checkExperts } from '../experts.ts'
import { checkHeadProducts } from '../head-products.ts'
import { checkActivate, checkLowRank } from '../low-rank.ts'
import type { AttentionOptions, HeadProductsOptions, QkvOptions } from '../attention-options.ts'
import type {
  ActivateOptions,
  Activation,
  Columns,
  ExpertsOptions,
  ExpertWeights,
  LinearOptions,
  LowRank,
  Matrix,
  Norm,
  Pooling,
  RopeTable,
  RouteOptions,
  Routing,
  Vector,
} from '../ops.ts'
import { outputStep } from '../output-rows.ts'
import { poolRows } from '../pooling.ts'
import type { TokenLogprobs } from '../sample-spec.ts'
import { activationOf, divideByLength, joinGlu, normalizePieces } from './arithmetic.ts'
import { type HostBias, pagedAttention } from './attention.ts'
import { combineExperts, multiplyExperts, routeRow } from './experts.ts'
import { activate, addLowRank } from './low-rank.ts'
import { roundToCodes } from './kv-pool.ts'
import { sigmoid } from './recurrence.ts'
import { HostRope } from './rope.ts'
import { TILE_ROWS } from './row-tile.ts'
import { StateOps } from './state-ops.ts'

/** Results of a step so far. */
interface StepResults {
  sampled: Int32Array
  sampledLogprobs: (TokenLogprobs | null)[]
  scores: TokenLogprobs[]
  logits: Float32Array | null
  pooled: Float32Array | null
}

/** Results of a step that has not sampled yet. */
export const NO_RESULTS: Readonly<StepResults> = {
  sampled: new Int32Array(0),
  sampledLogprobs: [],
  scores: [],
  logits: null,
  pooled: null,
}

/** The ops of layers; each row is computed separately. */
export class LayerOps extends StateOps {
  protected stepId = 0
  protected readonly tokens = new Int32Array(this.options.limits.maxRows)
  protected results: StepResults = { ...NO_RESULTS }

  embed(out: Activation, table: Matrix, scale: number, adds = false): void {
    const target = this.activations.get(out).values
    const { values, cols, rows } = this.matrices.get(table)
    const { numRows } = this.stepInput()
    for (let row = 0; row < numRows; row++) {
      const known = this.tokens[row]!
      const token = adds && known >= rows ? 0 : known
      if (token >= rows) throw new Error(`token ${token} is outside the vocabulary of ${rows}`)
      for (let i = 0; i < cols; i++) {
        const value = values[token * cols + i]! * scale
        target[row * cols + i] = adds ? target[row * cols + i]! + value : value
      }
    }
  }

  embedAdd(out: Activation, table: Matrix): void {
    const target = this.activations.get(out).values
    const { values, cols, rows } = this.matrices.get(table)
    const { numRows, places } = this.stepInput()
    if (places === undefined) throw new Error(`embedAdd ${table.label}: the step has no places`)
    for (let row = 0; row < numRows; row++) {
      const place = places[row]!
      if (place < 0 || place >= rows) throw new Error(`place ${place} is outside the table of ${rows}`)
      for (let i = 0; i < cols; i++) target[row * cols + i] = target[row * cols + i]! + values[place * cols + i]!
    }
  }

  linear(out: Activation, x: Activation, w: Matrix, { norm, bias, residual, glu, activation }: LinearOptions): void {
    const target = this.activations.get(out)
    const source = this.activations.get(x)
    const matrix = this.matrices.get(w)
    const outputs = glu === undefined ? matrix.rows : matrix.rows / 2
    if (target === source || target.cols !== outputs || source.cols !== matrix.cols) {
      throw new Error(
        `linear ${w.label}: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${matrix.rows} x ${matrix.cols}`,
      )
    }
    const biases = bias === undefined ? null : this.vectors.get(bias).values
    const activate = activation === undefined ? null : activationOf(activation)
    const { numRows } = this.stepInput()
    for (let first = 0; first < numRows; first += TILE_ROWS) {
      const rows = Math.min(TILE_ROWS, numRows - first)
      this.tile.multiply(source.values, (i) => first + i, rows, matrix, norm === undefined ? null : this.hostNorm(norm))
      const { products } = this.tile
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
    const [target, source] = [this.activations.get(out), this.activations.get(x)]
    const own = this.lowRanks.get(update)
    checkLowRank(own, target, source)
    const { numRows, adapters } = this.stepInput()
    if (adapters === undefined) throw new Error(`addLowRank ${update.label}: the step names no adapters`)
    addLowRank(target.values, source.values, own, norm === undefined ? null : this.hostNorm(norm), adapters, numRows)
  }

  activate(out: Activation, x: Activation, options: ActivateOptions): void {
    const [target, source] = [this.activations.get(out), this.activations.get(x)]
    checkActivate(target, source, options.glu !== undefined)
    activate(target.values, source.values, target.cols, options, this.stepInput().numRows)
  }

  route(routing: Routing, logits: Activation, options: RouteOptions): void {
    const { topK, numExperts, experts, weights } = this.routings.get(routing)
    const { values, cols } = this.activations.get(logits)
    if (cols !== numExperts) throw new Error(`route ${routing.label}: ${cols} logits for ${numExperts} experts`)
    const bias = options.bias === null ? null : this.vectors.get(options.bias).values
    const { expertScales = null } = options
    const scales = expertScales === null ? null : this.vectors.get(expertScales).values
    const { numRows } = this.stepInput()
    for (let row = 0; row < numRows; row++) {
      const [from, to] = [row * topK, (row + 1) * topK]
      const own = values.subarray(row * cols, (row + 1) * cols)
      routeRow(own, options, bias, scales, experts.subarray(from, to), weights.subarray(from, to))
    }
  }

  experts(out: Activation, x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void {
    const target = this.activations.get(out)
    const source = this.activations.get(x)
    const own = this.routings.get(routing)
    const [gateUp, down] = [this.expertMatrices.get(weights.gateUp), this.expertMatrices.get(weights.down)]
    checkExperts(target, source, gateUp, down, own, options.glu !== undefined)
    const { numRows } = this.stepInput()
    const biasOf = (bias: Vector | undefined) => (bias === undefined ? null : this.vectors.get(bias).values)
    multiplyExperts(this.tile, own, {
      x: source.values,
      numRows,
      gateUp,
      down,
      gateUpBias: biasOf(weights.gateUpBias),
      downBias: biasOf(weights.downBias),
      norm: options.norm === undefined ? null : this.hostNorm(options.norm),
      options,
    })
    combineExperts(target.values, own, numRows, target.cols, options.residual, biasOf(weights.bias))
  }

  qkvRopeStore(
    q: Activation,
    qkv: Activation,
    { layer, numHeads, numKvHeads, headDim, qkNorm, vNorm = null, rope, isQueryOnly = false }: QkvOptions,
  ): void {
    const queries = this.activations.get(q).values
    const { values: source, cols } = this.activations.get(qkv)
    const { numRows, slots } = this.stepInput()
    const pool = this.kvPool()
    const keys = pool.keys[layer]!
    const values = pool.values[layer]!
    const table = rope === null ? null : this.ropeOfStep(rope)
    const qWidth = numHeads * headDim
    // A layer that stores nothing has no k and v columns.
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
        normalizePieces(queries, row * qWidth, qWidth, perHead ? headDim : qWidth, this.hostNorm(qkNorm.q))
        normalizePieces(keys, slot, kvWidth, perHead ? headDim : kvWidth, this.hostNorm(qkNorm.k))
      }
      if (qkNorm?.kind !== 'rotatedHead') normalize()
      if (table !== null) {
        table.rotate(queries, row * qWidth, numHeads, headDim, row)
        table.rotate(keys, slot, numStored, headDim, row)
      }
      if (qkNorm?.kind === 'rotatedHead') normalize()
      if (vNorm !== null) divideByLength(values, slot, kvWidth, headDim, vNorm.eps)
      if (this.options.kvFormat === 'q8') {
        for (const stored of [keys, values]) roundToCodes(stored, slot, numStored, headDim)
      }
    }
  }

  attention(out: Activation, q: Activation, options: AttentionOptions): void {
    const { keys, values, layout } = this.kvPool()
    pagedAttention(
      this.activations.get(out).values,
      this.activations.get(q).values,
      keys[options.layer]!,
      values[options.layer]!,
      layout.blockSize,
      this.stepInput(),
      options,
      options.sinks === undefined || options.sinks === null ? null : this.vectors.get(options.sinks).values,
      this.#hostBias(options.bias ?? null),
      this.attentionScratch,
    )
  }

  #hostBias(bias: AttentionOptions['bias'] | null): HostBias | null {
    if (bias === null || bias === undefined) return null
    const { reach } = bias
    if (bias.kind === 'distance') return { reach, values: this.vectors.get(bias.values).values, disentangled: null }
    const { values: scores } = this.activations.get(bias.scores)
    const { numBuckets, buckets } = bias
    return { reach, values: this.vectors.get(buckets).values, disentangled: { scores, numBuckets } }
  }

  headProducts(out: Columns, { x, numHeads, headDim, count, table }: HeadProductsOptions): void {
    const target = this.activations.get(out.x)
    const source = this.activations.get(x.x)
    const vectors = this.vectors.get(table).values
    const { numRows } = this.stepInput()
    checkHeadProducts(out, { x, numHeads, headDim, count, table })
    for (let row = 0; row < numRows; row++) {
      for (let head = 0; head < numHeads; head++) {
        const from = row * source.cols + x.offset + head * headDim
        for (let i = 0; i < count; i++) {
          const vector = (head * count + Math.floor(i / 16) * 16) * headDim + (i % 16)
          let sum = 0
          for (let d = 0; d < headDim; d++) sum += source.values[from + d]! * vectors[vector + d * 16]!
          target.values[row * target.cols + out.offset + head * count + i] = sum
        }
      }
    }
  }

  keepOutputs(activations: readonly Activation[]): void {
    const input = this.stepInput()
    const kept = outputStep(input)
    if (kept === input) return
    for (const activation of activations) {
      const { values, cols } = this.activations.get(activation)
      for (const [i, row] of input.outputRows!.entries()) values.copyWithin(i * cols, row * cols, (row + 1) * cols)
    }
    this.input = kept
    // The rows have other positions now: the rotary tables must be computed again.
    this.stepId++
  }

  pool(x: Activation, pooling: Pooling): void {
    const { values, cols } = this.activations.get(x)
    const { numSequences, sequenceStarts } = this.stepInput()
    const pooled = new Float32Array(numSequences * cols)
    for (let sequence = 0; sequence < numSequences; sequence++) {
      const [start, end] = [sequenceStarts[sequence]!, sequenceStarts[sequence + 1]!]
      const rowAt = (row: number): Float32Array => values.subarray(row * cols, (row + 1) * cols)
      poolRows(pooling, start, end, rowAt, pooled.subarray(sequence * cols, (sequence + 1) * cols))
    }
    this.results.pooled = pooled
  }

  sigmoidGate(x: Activation, gate: Activation): void {
    const target = this.activations.get(x)
    const source = this.activations.get(gate)
    if (source.cols !== target.cols && source.cols !== 1)
      throw new Error(`sigmoidGate: ${source.cols} columns of ${gate.label} for ${target.cols} of ${x.label}`)
    const { numRows } = this.stepInput()
    const columnsPerGate = target.cols / source.cols
    for (let i = 0; i < numRows * target.cols; i++)
      target.values[i]! *= sigmoid(source.values[Math.floor(i / columnsPerGate)]!)
  }

  /** The table, with cosines and sines computed for this step's positions. */
  protected ropeOfStep(rope: RopeTable): HostRope {
    const table = this.ropes.get(rope)
    const { numRows, positions } = this.stepInput()
    table.prepare(this.stepId, positions, numRows)
    return table
  }
}
