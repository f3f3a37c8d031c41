/** Checks and records the ops that carry a state along a sequence. */
import type { Activation, Columns, ConvolutionOptions, GatedDeltaOptions, SelectiveScanOptions } from '../ops.ts'
import type { Executor } from './executor.ts'
import type { Program } from './program.ts'
import type { HostActivation, Resources } from './resources.ts'
import { inputBytes } from './state-pool.ts'
import type { StepInputs } from './step-inputs.ts'

/** The state ops of the cpu backend, over the states in one memory. */
export class StateOps {
  readonly #program: Program
  readonly #executor: Executor
  readonly #resources: Resources
  readonly #step: StepInputs

  constructor(program: Program, executor: Executor, resources: Resources, step: StepInputs) {
    this.#program = program
    this.#executor = executor
    this.#resources = resources
    this.#step = step
  }

  convolution(
    out: Activation,
    x: Activation,
    { layer, weight, bias, kernel, offset, isGated }: ConvolutionOptions,
  ): void {
    const { shape, states, slotBytes } = this.#resources.statePool().layer(layer)
    const { channels } = shape
    const source = this.#resources.source(x)
    const target = this.#resources.target(out)
    if (target.cols !== channels || kernel !== shape.kernel || source.cols < offset + channels * (isGated ? 3 : 1))
      throw new Error(
        `convolution: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${channels} channels and a kernel of ${shape.kernel}`,
      )
    const { numRows } = this.#step.input
    this.#executor.addWork(4 * numRows * channels * kernel)
    this.#program.add('convolution', {
      runs: this.#step.runs(),
      numRuns: this.#step.input.numSequences,
      states,
      slotBytes,
      x: source.address + offset * 4,
      xStride: source.stride,
      out: target.address,
      outStride: target.stride,
      channels,
      kernel,
      weight: this.#resources.vector(weight).address,
      bias: bias === null ? 0 : this.#resources.vector(bias).address,
      gated: isGated ? 1 : 0,
    })
  }

  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): void {
    const { heads, keyDim, valueDim } = this.#resources.statePool().layer(options.layer).shape
    const source = this.#resources.source(x)
    const target = this.#resources.target(out)
    const keyWidth = options.numKeyHeads * keyDim
    const beta = this.#columns(options.beta)
    this.#scan(target, source, options, { q: 0, k: keyWidth, v: 2 * keyWidth, beta, skip: 0 })
    this.#gateNorm(target, options, heads, valueDim, 0)
  }

  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): void {
    const { numKeyHeads } = options
    const { heads, keyDim, valueDim } = this.#resources.statePool().layer(options.layer).shape
    const source = this.#resources.source(x)
    const target = this.#resources.target(out)
    const width = heads * valueDim
    const skip = this.#resources.vector(options.skip).address
    const places = { q: width + numKeyHeads * keyDim, k: width, v: 0, beta: null, skip }
    this.#scan(target, source, options, places)
    const groupWidth = width / numKeyHeads
    this.#gateNorm(target, options, numKeyHeads, groupWidth, groupWidth * 4)
  }

  /** x *= sigmoid(gate) */
  sigmoidGate(x: Activation, gate: Activation): void {
    const source = this.#resources.source(gate)
    const target = this.#resources.changed(x)
    if (source.cols !== target.cols && source.cols !== 1)
      throw new Error(`sigmoidGate: ${source.cols} columns of ${gate.label} for ${target.cols} of ${x.label}`)
    this.#program.add('sigmoidGate', {
      rows: this.#step.input.numRows,
      x: target.address,
      xStride: target.stride,
      gate: source.address,
      gateStride: source.stride,
      cols: target.cols,
      isShared: source.cols < target.cols ? 1 : 0,
    })
  }

  #scan(
    target: HostActivation,
    source: HostActivation,
    options: GatedDeltaOptions | SelectiveScanOptions,
    at: { q: number; k: number; v: number; beta: { address: number; stride: number } | null; skip: number },
  ): void {
    const { shape, states, slotBytes } = this.#resources.statePool().layer(options.layer)
    const { heads, keyDim, valueDim } = shape
    const { numKeyHeads } = options
    const cols = heads * valueDim
    if (
      target.cols !== cols ||
      source.cols !== cols + 2 * numKeyHeads * keyDim ||
      keyDim % 4 !== 0 ||
      valueDim % 4 !== 0
    )
      throw new Error(
        `a scan: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${heads} heads of ${valueDim} and ${numKeyHeads} of ${keyDim}, in fours`,
      )
    const step = this.#columns(options.step)
    this.#executor.addWork(4 * this.#step.input.numRows * cols * keyDim)
    this.#program.add('scan', {
      runs: this.#step.runs(),
      numRuns: this.#step.input.numSequences,
      states: states + inputBytes(shape),
      slotBytes,
      q: source.address + at.q * 4,
      k: source.address + at.k * 4,
      v: source.address + at.v * 4,
      xStride: source.stride,
      out: target.address,
      outStride: target.stride,
      heads,
      keyHeads: numKeyHeads,
      tiled: options.tilesKeyHeads ? 1 : 0,
      keyDim,
      valueDim,
      decayRate: this.#resources.vector(options.decayRate).address,
      stepBias: this.#resources.vector(options.stepBias).address,
      step: step.address,
      stepStride: step.stride,
      beta: at.beta?.address ?? 0,
      betaStride: at.beta?.stride ?? 0,
      skip: at.skip,
    })
  }

  /** Norm and gate of a scan's output. The delta rule normalises first, and its heads share the weights; Mamba-2 gates first, with weights per head. */
  #gateNorm(
    target: HostActivation,
    { gate, norm }: GatedDeltaOptions | SelectiveScanOptions,
    groups: number,
    width: number,
    weightStep: number,
  ): void {
    const { address, stride } = this.#columns(gate)
    this.#program.add('gateNorm', {
      rows: this.#step.input.numRows,
      x: target.address,
      xStride: target.stride,
      gate: address,
      gateStride: stride,
      groups,
      width,
      weight: this.#resources.vector(norm.weight).address,
      weightStep,
      eps: norm.eps,
      gatesFirst: weightStep > 0 ? 1 : 0,
    })
  }

  #columns({ x, offset }: Columns): { readonly address: number; readonly stride: number } {
    const { address, stride } = this.#resources.source(x)
    return { address: address + offset * 4, stride }
  }
}
