/** Ops over single rows: rows of tables, norms, sums and products of activations, residual streams. Checked and recorded as commands. */
import type { Activation, Columns, LayerNorm, Matrix, Norm, StreamOptions, Vector } from '../ops.ts'
import type { PanelMatrix } from './matrices.ts'
import type { Program } from './program.ts'
import type { HostActivation, Resources } from './resources.ts'
import type { StepInputs } from './step-inputs.ts'

const MAX_STREAMS = 4

/** Records ops as commands of `program`. Ops throw for shapes that do not fit. */
export class RowOps {
  readonly #program: Program
  readonly #resources: Resources
  readonly #step: StepInputs

  constructor(program: Program, resources: Resources, step: StepInputs) {
    this.#program = program
    this.#resources = resources
    this.#step = step
  }

  embed(out: Activation, table: Matrix, scale: number, adds: boolean): void {
    const { target, matrix } = this.#table(out, table)
    for (const token of adds ? [] : this.#step.tokenIds()) {
      if (token >= matrix.rows) throw new Error(`token ${token} is outside the vocabulary of ${matrix.rows}`)
    }
    this.#gather(target, matrix, this.#step.tokens, scale, adds)
  }

  embedAdd(out: Activation, table: Matrix): void {
    const { target, matrix } = this.#table(out, table)
    for (const place of this.#step.placeIds()) {
      if (place < 0 || place >= matrix.rows) throw new Error(`place ${place} is outside the table of ${matrix.rows}`)
    }
    this.#gather(target, matrix, this.#step.places, 1, true)
  }

  normAdd(residual: Activation, x: Activation, norm: Norm, scale: number): void {
    const { target, source } = this.#pair(residual, x)
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
    const { target, source } = this.#pair(out, x)
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
    const { target, source } = this.#pair(out, x)
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
    const { target, source } = this.#pair(residual, x)
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
    const target = this.#resources.activation(x)
    const source = this.#resources.activation(y)
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
    const { address, stride, cols } = this.#resources.activation(x)
    this.#program.add('sparseGelu', {
      rows: this.#step.input.numRows,
      x: address,
      xStride: stride,
      cols,
      scale: deviations,
    })
  }

  matchLength(x: Activation, reference: Activation): void {
    const { target, source } = this.#pair(x, reference)
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
    const own = this.#resources.activation(x)
    const placed = streams.map((stream) => this.#resources.activation(stream))
    const router = this.#resources.activation(logits)
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

  /** Two activations of the same width. */
  #pair(out: Activation, x: Activation): { readonly target: HostActivation; readonly source: HostActivation } {
    const [target, source] = [this.#resources.activation(out), this.#resources.activation(x)]
    if (target.cols !== source.cols)
      throw new Error(`${out.label} [.., ${target.cols}] and ${x.label} [.., ${source.cols}] differ in width`)
    return { target, source }
  }

  /** A table and where its rows go. */
  #table(out: Activation, table: Matrix): { readonly target: HostActivation; readonly matrix: PanelMatrix } {
    const target = this.#resources.activation(out)
    const matrix = this.#resources.matrix(table)
    if (target.cols !== matrix.cols || matrix.gated)
      throw new Error(`embed ${table.label}: rows of ${matrix.cols} do not fit [.., ${target.cols}]`)
    return { target, matrix }
  }

  #gather(target: HostActivation, matrix: PanelMatrix, tokens: number, scale: number, adds: boolean): void {
    const { numRows } = this.#step.input
    this.#program.add('embed', {
      rows: numRows,
      out: target.address,
      outStride: target.stride,
      tokens,
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
}
