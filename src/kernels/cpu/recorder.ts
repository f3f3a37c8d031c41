/** Checks a step's ops and records them as commands. */
import type {
  Activated,
  Activation,
  ExpertsOptions,
  ExpertWeights,
  Glu,
  LinearOptions,
  LogitsOptions,
  Matrix,
  Norm,
  RouteOptions,
  Routing,
  Vector,
  Xielu,
} from '../ops.ts'
import { PANEL, ROW_TILE, type PanelMatrix } from './matrices.ts'
import type { HostActivation } from './resources.ts'
import type { LogitsBuffer } from './working-memory.ts'
import { AttentionRecorder } from './attention-recorder.ts'

// Flags of assembly/linear.ts.
const ACTIVATIONS: Readonly<Record<Activated | Glu, number>> = {
  silu: 1,
  gelu_tanh: 2,
  gelu: 8,
  silu_clamped: 32,
  relu2: 64,
}
const XIELU = 128
const NO_XIELU = { alphaP: 0, alphaN: 0, beta: 0 } as const
const RESIDUAL = 4
const GATED = 16

/** The epilogue of a product, as flags of assembly/linear.ts. */
export function epilogueOf({
  glu,
  activation,
  residual,
}: Pick<LinearOptions, 'glu' | 'activation' | 'residual'>): number {
  const activated = glu ?? activation
  return (
    (activated === undefined ? 0 : typeof activated === 'string' ? ACTIVATIONS[activated] : XIELU) |
    (glu === undefined ? 0 : GATED) |
    (residual === true ? RESIDUAL : 0)
  )
}

export const xieluOf = ({ activation }: Pick<LinearOptions, 'activation'>): Omit<Xielu, 'kind'> =>
  typeof activation === 'object' ? activation : NO_XIELU

/** Cost of sampling per logit, in multiply-adds: mostly its hash. */
const SAMPLE_WORK = 16

/** Records the ops of the cpu backend. @throws Error when shapes do not match */
export class Recorder extends AttentionRecorder {
  linear(out: Activation, x: Activation, w: Matrix, options: LinearOptions): void {
    const { norm, bias, glu, residual } = options
    const source = this.resources.source(x)
    const target = residual === true ? this.resources.changed(out) : this.resources.target(out)
    const matrix = this.resources.matrix(w)
    const outputs = glu === undefined ? matrix.rows : matrix.rows / 2
    if (target === source || target.cols !== outputs || source.cols !== matrix.cols) {
      throw new Error(
        `linear ${w.label}: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${matrix.rows} x ${matrix.cols}`,
      )
    }
    if (matrix.gated !== (glu !== undefined))
      throw new Error(`linear ${w.label}: the matrix was loaded ${matrix.gated ? 'for' : 'without'} glu`)
    this.#addLinear(matrix, source, norm, {
      rows: this.step.input.numRows,
      rowIndex: 0,
      out: target.address,
      outStride: target.stride,
      epilogue: epilogueOf(options),
      bias: bias === undefined ? 0 : this.resources.bias(bias, matrix),
      softcap: 0,
      scale: 1,
      tiles: 0,
      gathers: 0,
      xielu: xieluOf(options),
    })
  }

  route(routing: Routing, logits: Activation, options: RouteOptions): void {
    const { expertScales = null } = options
    const { address, stride, cols } = this.resources.source(logits)
    const { numExperts, topK, experts, weights, positions, sources, tiles } = this.resources.routed(routing)
    if (cols !== numExperts) throw new Error(`route ${routing.label}: ${cols} logits for ${numExperts} experts`)
    const { numRows } = this.step.input
    this.program.add('route', {
      rows: numRows,
      logits: address,
      logitsStride: stride,
      numExperts,
      topK,
      sigmoid: options.scores === 'sigmoid' ? 1 : 0,
      bias: options.bias === null ? 0 : this.resources.vector(options.bias).address,
      groups: options.groups?.count ?? 0,
      usedGroups: options.groups?.used ?? 0,
      normalizes: options.normalizes ? 1 : 0,
      scale: options.scale,
      expertScales: expertScales === null ? 0 : this.resources.vector(expertScales).address,
      experts,
      weights,
    })
    this.program.add('sort', { pairs: numRows * topK, topK, numExperts, experts, positions, sources, tiles })
  }

  /** The first half of `experts`: computes the inner activations, in the memory of the gate and up projections. */
  expertsInner(x: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void {
    this.resources.routedSource(routing)
    const source = this.resources.source(x)
    const gateUp = this.resources.experts(weights.gateUp)
    const isGated = options.glu !== undefined
    if (gateUp.gated !== isGated || this.resources.experts(weights.down).gated)
      throw new Error(`experts ${gateUp.label}: the matrices were not loaded for ${isGated ? 'glu' : 'an activation'}`)
    const { activations, activationsStride, sources, tiles, topK } = this.resources.routed(routing)
    this.#addLinear(gateUp, source, options.norm, {
      rows: this.step.input.numRows * topK,
      rowIndex: sources,
      out: activations,
      outStride: activationsStride,
      epilogue: epilogueOf({ ...options, residual: false }),
      bias: this.#expertBias(weights.gateUpBias, gateUp),
      softcap: 0,
      scale: 1,
      tiles,
      gathers: 1,
      xielu: NO_XIELU,
    })
  }

  /** The second half of `experts`: computes the down projections and their weighted sum, in the memory of the down projections. */
  expertsOuter(out: Activation, weights: ExpertWeights, routing: Routing, options: ExpertsOptions): void {
    const own = this.resources.routedSource(routing)
    const target = options.residual ? this.resources.changed(out) : this.resources.target(out)
    const down = this.resources.experts(weights.down)
    const { numRows } = this.step.input
    const { activations, activationsStride, outputs, outputsStride, sources, tiles, topK } = own
    const inner = { address: activations, stride: activationsStride }
    this.#addLinear(down, inner, undefined, {
      rows: numRows * topK,
      rowIndex: sources,
      out: outputs,
      outStride: outputsStride,
      epilogue: 0,
      bias: this.#expertBias(weights.downBias, down),
      softcap: 0,
      scale: 1,
      tiles,
      gathers: 0,
      xielu: NO_XIELU,
    })
    this.program.add('combine', {
      rows: numRows,
      topK,
      positions: own.positions,
      weights: own.weights,
      outputs,
      outputsStride,
      cols: target.cols,
      out: target.address,
      outStride: target.stride,
      bias: weights.bias === undefined ? 0 : this.resources.vector(weights.bias).address,
      residual: options.residual ? 1 : 0,
    })
  }

  #expertBias(bias: Vector | undefined, matrix: PanelMatrix): number {
    return bias === undefined ? 0 : this.resources.bias(bias, matrix)
  }

  /** Computes the logits of the given rows into the buffer; returns the bytes between rows. */
  logits(
    buffer: LogitsBuffer,
    x: Activation,
    head: Matrix,
    { norm, softcap, scale }: LogitsOptions,
    rows: readonly { readonly row: number }[],
  ): number {
    const matrix = this.resources.matrix(head)
    const source = this.resources.source(x)
    if (source.cols !== matrix.cols || matrix.gated)
      throw new Error(`logits ${matrix.label}: [.., ${source.cols}] does not fit ${matrix.rows} x ${matrix.cols}`)
    const stride = matrix.numPanels * PANEL * 4
    buffer.reserve(rows.length, stride)
    this.step.setRowIndex(rows)
    this.#addLinear(matrix, source, norm, {
      rows: rows.length,
      rowIndex: this.step.rowIndex,
      out: buffer.address,
      outStride: stride,
      epilogue: 0,
      bias: 0,
      softcap: softcap ?? 0,
      scale,
      tiles: 0,
      gathers: 0,
      xielu: NO_XIELU,
    })
    return stride
  }

  /** Draws a token from each row of logits as its spec says (SampleSpecs); writes i32 ids at address `out`. */
  sample(rows: number, logits: number, stride: number, vocab: number, specs: number, out: number): void {
    this.executor.addWork(SAMPLE_WORK * rows * vocab)
    this.program.add('sample', { rows, logits, stride, vocab, specs, out })
  }

  /** Computes what the log-probability of a token needs from each row of logits (ScoreRows). `targets`: the address of drawn tokens, or 0. */
  score(rows: number, logits: number, stride: number, vocab: number, scores: number, targets: number): void {
    this.executor.addWork(SAMPLE_WORK * rows * vocab)
    this.program.add('score', { rows, logits, stride, vocab, scores, targets })
  }

  #addLinear(
    matrix: PanelMatrix,
    source: Pick<HostActivation, 'address' | 'stride'>,
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
      readonly tiles: number
      readonly gathers: number
      readonly xielu: Omit<Xielu, 'kind'>
    },
  ): void {
    const outPanels = matrix.gated ? matrix.numPanels / 2 : matrix.numPanels
    const numMatrices = Math.min(matrix.numExperts, to.rows)
    const units = outPanels * Math.max(numMatrices, Math.ceil(to.rows / ROW_TILE))
    // Large enough to make the shared counter cheap, small enough that all threads end at about the same time.
    const chunk = Math.max(1, Math.min(16, Math.floor(units / (this.numThreads * 8))))
    const work = matrix.numPanels * (numMatrices * matrix.panelBytes + to.rows * PANEL * matrix.padded)
    this.executor.addWork(work)
    // All fields are spelled out, here and above: V8 makes objects with spread fields slow dictionaries, and a step creates hundreds.
    this.program.add('linear', {
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
      normWeight: norm === undefined ? 0 : this.resources.vector(norm.weight).address,
      eps: norm?.eps ?? 0,
      prepared: this.memory.prepared,
      format: matrix.formatCode,
      flags: matrix.flags,
      panels: matrix.numPanels,
      panelBytes: matrix.panelBytes,
      weights: matrix.weights,
      factors: matrix.factors,
      tiles: to.tiles,
      gathers: to.gathers,
      biasStride: matrix.numPanels * PANEL * 4,
      alphaP: to.xielu.alphaP,
      alphaN: to.xielu.alphaN,
      xieluBeta: to.xielu.beta,
      chunk,
    })
  }
}
