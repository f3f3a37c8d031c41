/** The reference backend's ops that carry a state along a sequence. */
import type { Handles } from '../handles.ts'
import type {
  Activation,
  Columns,
  ConvolutionOptions,
  GatedDeltaOptions,
  SelectiveScanOptions,
  StateLayout,
  StepInput,
  Vector,
} from '../ops.ts'
import type { HostActivation, HostVector } from './arithmetic.ts'
import { convolve, gatedDelta, type HostColumns, type HostScan, selectiveScan } from './recurrence.ts'
import { StatePool } from './state-pool.ts'

/** Convolution, gated delta rule and selective scan over the states of a step's sequences. */
export class StateOps {
  readonly #vectors: Handles<Vector, HostVector>
  readonly #activations: Handles<Activation, HostActivation>
  #pool: StatePool | null = null

  constructor(vectors: Handles<Vector, HostVector>, activations: Handles<Activation, HostActivation>) {
    this.#vectors = vectors
    this.#activations = activations
  }

  get bytes(): number {
    return this.#pool?.bytes ?? 0
  }

  createPool(layout: StateLayout): void {
    if (this.#pool !== null) throw new Error('createStatePool was called twice')
    this.#pool = new StatePool(layout)
  }

  close(): void {
    this.#pool = null
  }

  convolution(out: Activation, x: Activation, options: ConvolutionOptions, input: StepInput): void {
    const { layer, offset, isGated } = options
    const pool = this.#states()
    const shape = pool.shape(layer)
    const target = this.#activations.get(out)
    if (target.cols !== shape.channels || options.kernel !== shape.kernel)
      throw new Error(
        `convolution: ${target.cols} columns and a kernel of ${options.kernel} for a state of ${shape.channels} and ${shape.kernel}`,
      )
    const weight = this.#vectors.get(options.weight).values
    const bias = options.bias === null ? null : this.#vectors.get(options.bias).values
    const columns = this.#columns({ x, offset })
    pool.forEach(layer, input, 'inputs', (run) =>
      convolve(target.values, columns, shape, { weight, bias, isGated }, run),
    )
  }

  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions, input: StepInput): void {
    const pool = this.#states()
    const shape = pool.shape(options.layer)
    const target = this.#activations.get(out).values
    const columns = this.#columns({ x, offset: 0 })
    const scan = { ...this.#scan(options), beta: this.#columns(options.beta) }
    pool.forEach(options.layer, input, 'recurrent', (run) => gatedDelta(target, columns, shape, scan, run))
  }

  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions, input: StepInput): void {
    const pool = this.#states()
    const shape = pool.shape(options.layer)
    const target = this.#activations.get(out).values
    const columns = this.#columns({ x, offset: 0 })
    const scan = { ...this.#scan(options), skip: this.#vectors.get(options.skip).values }
    pool.forEach(options.layer, input, 'recurrent', (run) => selectiveScan(target, columns, shape, scan, run))
  }

  #states(): StatePool {
    if (this.#pool === null) throw new Error('createStatePool has not been called')
    return this.#pool
  }

  #columns({ x, offset }: Columns): HostColumns {
    const { values, cols } = this.#activations.get(x)
    return { values, stride: cols, offset }
  }

  #scan(options: GatedDeltaOptions | SelectiveScanOptions): HostScan {
    return {
      numKeyHeads: options.numKeyHeads,
      tilesKeyHeads: options.tilesKeyHeads,
      decayRate: this.#vectors.get(options.decayRate).values,
      stepBias: this.#vectors.get(options.stepBias).values,
      step: this.#columns(options.step),
      gate: this.#columns(options.gate),
      norm: { weight: this.#vectors.get(options.norm.weight).values, eps: options.norm.eps },
    }
  }
}
