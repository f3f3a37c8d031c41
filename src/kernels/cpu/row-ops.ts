/** Checks and records row-wise ops: table look-ups, norms, sums and products of activations, residual streams. */
import type { Activation, Columns, LayerNorm, Matrix, Norm, StreamOptions, Vector } from '../ops.ts'
import type { Arena } from './arena.ts'
import { HostTable } from './host-table.ts'
import type { PanelMatrix } from './matrices.ts'
import type { Executor } from './executor.ts'
import type { Program } from './program.ts'
import type { HostActivation, Resources } from './resources.ts'
import type { StepInputs } from './step-inputs.ts'

const MAX_STREAMS = 4

/** Records ops as commands of `program`. Ops throw when shapes do not match. */
export class RowOps {
  readonly #arena: Arena
  readonly #program: Program
  readonly #executor: Executor
  readonly #resources: Resources
  readonly #step: StepInputs

  constructor(arena: Arena, program: Program, executor: Executor, resources: Resources, step: StepInputs) {
    this.#arena = arena
    this.#program = program
    this.#executor = executor
    this.#resources = resources
    this.#step = step
  }

  embed(out: Activation, table: Matrix, scale: number, adds: boolean): void {
    const { target, matrix } = this.#table(out, table, adds)
    for (const token of adds ? [] : this.#step.tokenIds()) {
      if (token >= matrix.rows) throw new Error(`token ${token} is outside the vocabulary of ${matrix.rows}`)
    }
    this.#gather(target, matrix, this.#step.tokens, scale, adds)
  }

  embedAdd(out: Activation, table: Matrix): void {
    const { target, matrix } = this.#table(out, table, true)
    for (const place of this.#step.placeIds()) {
      if (place < 0 || place >= matrix.rows) throw new Error(`place ${place} is outside the table of ${matrix.rows}`)
    }
    this.#gather(target, matrix, this.#step.places, 1, true)
  }

  normAdd(residual: Activation, x: Activation, norm: Norm, scale: number): void {
    const { target, source } = this.#pair(residual, x, true)
    this.#program.add('normAdd', {
      rows: this.#step.input.numRows,
      residual: target.address,
      residualStride: target.stride,
      x: source.address,
      xStride: source.stride,
      cols: source.cols,
      weight: this.#resources.vector(norm.weight).address,
      eps: norm.eps,
      scale,
    })
  }

  rmsNorm(out: Activation, x: Activation, { weight, eps }: Norm): void {
    const { target, source } = this.#pair(out, x, false)
    if (source.cols % weight.length !== 0)
      throw new Error(`rmsNorm: ${source.cols} columns in groups of ${weight.length}`)
    this.#program.add('rmsNorm', {
      rows: this.#step.input.numRows,
      out: target.address,
      outStride: target.stride,
      x: source.address,
      xStride: source.stride,
      groups: source.cols / weight.length,
      width: weight.length,
      weight: this.#resources.vector(weight).address,
      eps,
    })
  }

  layerNorm(out: Activation, x: Activation, { weight, bias, eps }: LayerNorm): void {
    const { target, source } = this.#pair(out, x, false)
    this.#program.add('layerNorm', {
      rows: this.#step.input.numRows,
      out: target.address,
      outStride: target.stride,
      x: source.address,
      xStride: source.stride,
      cols: source.cols,
      weight: this.#resources.vector(weight).address,
      bias: bias === null ? 0 : this.#resources.vector(bias).address,
      eps,
    })
  }

  add(residual: Activation, x: Activation, scale: number): void {
    const { target, source } = this.#pair(residual, x, true)
    this.#program.add('pair', {
      rows: this.#step.input.numRows,
      x: target.address,
      xStride: target.stride,
      y: source.address,
      yStride: source.stride,
      cols: target.cols,
      kind: 0,
      scale,
    })
  }

  multiply(x: Activation, { x: y, offset }: Columns): void {
    const source = this.#resources.source(y)
    const target = this.#resources.changed(x)
    if (offset + target.cols > source.cols)
      throw new Error(`multiply: columns ${offset} .. ${offset + target.cols - 1} of ${source.cols}`)
    this.#program.add('pair', {
      rows: this.#step.input.numRows,
      x: target.address,
      xStride: target.stride,
      y: source.address + offset * 4,
      yStride: source.stride,
      cols: target.cols,
      kind: 1,
      scale: 1,
    })
  }

  sparseGelu(x: Activation, deviations: number): void {
    const { address, stride, cols } = this.#resources.changed(x)
    this.#program.add('sparseGelu', {
      rows: this.#step.input.numRows,
      x: address,
      xStride: stride,
      cols,
      scale: deviations,
    })
  }

  matchLength(x: Activation, reference: Activation): void {
    const { target, source } = this.#pair(x, reference, true)
    this.#program.add('matchLength', {
      rows: this.#step.input.numRows,
      x: target.address,
      xStride: target.stride,
      reference: source.address,
      referenceStride: source.stride,
      cols: target.cols,
    })
  }

  predictStreams(out: Activation, options: StreamOptions): void {
    this.#streams(out, options, 0)
  }

  correctStreams(x: Activation, scale: Vector, options: StreamOptions): void {
    this.#streams(x, options, this.#resources.vector(scale).address)
  }

  #streams(x: Activation, { streams, active, logits, coefficients }: StreamOptions, scales: number): void {
    const router = this.#resources.source(logits)
    const placed = streams.map((stream) => this.#resources.changed(stream))
    const own = scales === 0 ? this.#resources.target(x) : this.#resources.changed(x)
    if (streams.length > MAX_STREAMS || placed.some(({ cols }) => cols !== own.cols) || router.cols !== streams.length)
      throw new Error(`${streams.length} streams, ${router.cols} logits: at most ${MAX_STREAMS} of [.., ${own.cols}]`)
    const addressOf = (index: number): number => placed[index]?.address ?? 0
    this.#program.add('streams', {
      rows: this.#step.input.numRows,
      x: own.address,
      xStride: own.stride,
      stream0: addressOf(0),
      stream1: addressOf(1),
      stream2: addressOf(2),
      stream3: addressOf(3),
      streamStride: placed[0]!.stride,
      numStreams: streams.length,
      active,
      cols: own.cols,
      logits: router.address,
      logitsStride: router.stride,
      coefficients: this.#resources.vector(coefficients).address,
      scales,
    })
  }

  /** Looks up two activations of the same width. `changes`: the op also reads `out`. */
  #pair(out: Activation, x: Activation, changes: boolean): { target: HostActivation; source: HostActivation } {
    const source = this.#resources.source(x)
    const target = changes ? this.#resources.changed(out) : this.#resources.target(out)
    if (target.cols !== source.cols)
      throw new Error(`${out.label} [.., ${target.cols}] and ${x.label} [.., ${source.cols}] differ in width`)
    return { target, source }
  }

  /** Looks up a table and the activation that gets its rows. `adds`: the rows are added to its values. */
  #table(out: Activation, table: Matrix, adds: boolean): { target: HostActivation; matrix: PanelMatrix | HostTable } {
    const target = adds ? this.#resources.changed(out) : this.#resources.target(out)
    const matrix = this.#resources.table(table)
    if (target.cols !== matrix.cols || (!(matrix instanceof HostTable) && matrix.gated))
      throw new Error(`embed ${table.label}: rows of ${matrix.cols} do not fit [.., ${target.cols}]`)
    return { target, matrix }
  }

  #gather(target: HostActivation, matrix: PanelMatrix | HostTable, rowIds: number, scale: number, adds: boolean): void {
    const { numRows } = this.#step.input
    if (matrix instanceof HostTable) return this.#gatherHere(target, matrix, rowIds, scale, adds)
    this.#program.add('embed', {
      rows: numRows,
      out: target.address,
      outStride: target.stride,
      tokens: rowIds,
      format: matrix.formatCode,
      flags: matrix.flags,
      cols: matrix.cols,
      panelBytes: matrix.panelBytes,
      weights: matrix.weights,
      factors: matrix.factors,
      scale,
      adds: adds ? 1 : 0,
      tableRows: matrix.rows,
    })
  }

  /** Runs what is recorded so far, then does on this thread what the embed command does. */
  #gatherHere(target: HostActivation, table: HostTable, rowIds: number, scale: number, adds: boolean): void {
    this.#executor.run()
    const { numRows } = this.#step.input
    for (const [row, id] of this.#arena.i32(rowIds, numRows).entries()) {
      const out = this.#arena.f32(target.address + row * target.stride, target.cols)
      table.gather(id < table.rows ? id : 0, scale, adds, out)
    }
  }
}
