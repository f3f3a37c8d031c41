/** The reference backend's ops that carry a state along a sequence. */
import type { Activation, Columns, ConvolutionOptions, GatedDeltaOptions, SelectiveScanOptions } from '../ops.ts'
import { convolve, gatedDelta, type HostColumns, type HostScan, selectiveScan } from './recurrence.ts'
import { RowOps } from './row-ops.ts'

/** Convolution, gated delta rule and selective scan over the states of a step's sequences. */
export class StateOps extends RowOps {
  convolution(out: Activation, x: Activation, options: ConvolutionOptions): void {
    const { layer, offset, isGated } = options
    const pool = this.statePool()
    const shape = pool.shape(layer)
    const target = this.activations.get(out)
    if (target.cols !== shape.channels || options.kernel !== shape.kernel)
      throw new Error(
        `convolution: ${target.cols} columns and a kernel of ${options.kernel} for a state of ${shape.channels} and ${shape.kernel}`,
      )
    const weight = this.vectors.get(options.weight).values
    const bias = options.bias === null ? null : this.vectors.get(options.bias).values
    const columns = this.#columns({ x, offset })
    pool.forEach(layer, this.stepInput(), 'inputs', (run) =>
      convolve(target.values, columns, shape, { weight, bias, isGated }, run),
    )
  }

  gatedDelta(out: Activation, x: Activation, options: GatedDeltaOptions): void {
    const pool = this.statePool()
    const shape = pool.shape(options.layer)
    const target = this.activations.get(out).values
    const columns = this.#columns({ x, offset: 0 })
    const scan = { ...this.#scan(options), beta: this.#columns(options.beta) }
    pool.forEach(options.layer, this.stepInput(), 'recurrent', (run) => gatedDelta(target, columns, shape, scan, run))
  }

  selectiveScan(out: Activation, x: Activation, options: SelectiveScanOptions): void {
    const pool = this.statePool()
    const shape = pool.shape(options.layer)
    const target = this.activations.get(out).values
    const columns = this.#columns({ x, offset: 0 })
    const scan = { ...this.#scan(options), skip: this.vectors.get(options.skip).values }
    pool.forEach(options.layer, this.stepInput(), 'recurrent', (run) =>
      selectiveScan(target, columns, shape, scan, run),
    )
  }

  #columns({ x, offset }: Columns): HostColumns {
    const { values, cols } = this.activations.get(x)
    return { values, stride: cols, offset }
  }

  #scan(options: GatedDeltaOptions | SelectiveScanOptions): HostScan {
    return {
      numKeyHeads: options.numKeyHeads,
      tilesKeyHeads: options.tilesKeyHeads,
      decayRate: this.vectors.get(options.decayRate).values,
      stepBias: this.vectors.get(options.stepBias).values,
      step: this.#columns(options.step),
      gate: this.#columns(options.gate),
      norm: { weight: this.vectors.get(options.norm.weight).values, eps: options.norm.eps },
    }
  }
}
