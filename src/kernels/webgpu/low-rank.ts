/** addLowRank (LoRA updates) and activate: their buffers, kernels and launches. */
import { Handles } from '../handles.ts'
import { checkActivate, checkLowRank, packLowRank } from '../low-rank.ts'
import type { ActivateOptions, Activation, LowRank, LowRankPart, Norm } from '../ops.ts'
import { bind, bufferBytes, createStorage, type GpuContext, Launch, normWeight, type PreparedOp } from './context.ts'
import { activationFlags, FLAG, xieluParams } from './linear.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'
import { ROW_WORDS } from './step-layout.ts'

const DOWN: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'read', 'write']
const UP: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'write']
const ACTIVATE: readonly BindingKind[] = ['read', 'uniform', 'read', 'write']

/** Ranks per workgroup of the first product. */
const RANKS = 4
/** Columns per workgroup of the second product, and of `activate`. */
const COLUMNS = 64

const downSource = (hasNorm: boolean): KernelSource => ({
  name: 'low-rank-down',
  bindings: DOWN,
  defines: { WS: 128, RANKS, NORM: hasNorm ? 1 : 0 },
})
const UP_SOURCE: KernelSource = { name: 'low-rank-up', bindings: UP, defines: { WS: COLUMNS } }
const ACTIVATE_SOURCE: KernelSource = { name: 'activate', bindings: ACTIVATE, defines: { WS: COLUMNS } }

interface GpuLowRank extends LowRank {
  readonly table: GPUBuffer
  readonly stride: number
  readonly values: GPUBuffer
  readonly rank: number
}

/** The low-rank updates that a model has loaded, and the ops addLowRank and activate. */
export class LowRankKernels {
  readonly #context: GpuContext
  readonly #maxRows: number
  readonly #updates = new Handles<LowRank, GpuLowRank>('low-rank update')
  /** f32 [maxRows, #rank]: the results of the first product. */
  #between: GPUBuffer | null = null
  #rank = 0

  constructor(context: GpuContext, maxRows: number) {
    this.#context = context
    this.#maxRows = maxRows
  }

  get weightBytes(): number {
    return bufferBytes(this.#updates.values().flatMap(({ table, values }) => [table, values]))
  }

  get scratchBytes(): number {
    return bufferBytes([this.#between])
  }

  load(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank {
    if (this.#between !== null) throw new Error(`${label} was loaded after ready`)
    const { device, capabilities } = this.#context
    const { table, stride, values, rank } = packLowRank(label, rows, cols, adapters)
    if (values.byteLength > capabilities.maxBindingBytes)
      throw new Error(
        `${label}: its adapters take ${values.byteLength} bytes; this adapter of the device binds at most ${capabilities.maxBindingBytes}`,
      )
    const buffers = {
      table: createStorage(device, `${label} table`, table.byteLength),
      values: createStorage(device, label, values.byteLength),
    }
    device.queue.writeBuffer(buffers.table, 0, table)
    device.queue.writeBuffer(buffers.values, 0, values)
    this.#rank = Math.max(this.#rank, rank)
    return this.#updates.add({ label, rows, cols, numAdapters: adapters.length, stride, rank, ...buffers })
  }

  /** Two dispatches: down, then up. */
  add(out: Activation, x: Activation, update: LowRank, norm: Norm | undefined): PreparedOp {
    const context = this.#context
    const own = this.#updates.get(update)
    const [target, source] = [context.activation(out), context.activation(x)]
    checkLowRank(own, target, source)
    const { table, values, stride, rank, cols } = own
    this.#between ??= createStorage(context.device, 'low-rank updates', this.#maxRows * this.#rank * 4)
    const params = [
      cols,
      source.stride,
      target.cols,
      target.stride,
      stride,
      this.#rank,
      { f32: 1 / cols },
      { f32: norm?.eps ?? 0 },
      ROW_WORDS[context.stepRows].adapters,
    ]
    const down = downSource(norm !== undefined)
    const inputs = [table, values, source.buffer, normWeight(context, norm), this.#between]
    const launches = [
      new Launch(context, down, bind(context, `${own.label} down`, DOWN, params, inputs)),
      new Launch(
        context,
        UP_SOURCE,
        bind(context, `${own.label} up`, UP, params, [table, values, this.#between, target.buffer]),
      ),
    ] as const
    return {
      sources: [down, UP_SOURCE],
      launch: (numRows) => {
        if (context.step.get('adapters') === 0) throw new Error(`addLowRank ${own.label}: the step names no adapters`)
        if (rank === 0) return
        launches[0].add(Math.ceil(rank / RANKS), numRows, 2 * rank * cols * numRows)
        launches[1].add(Math.ceil(target.cols / COLUMNS), numRows, 2 * rank * target.cols * numRows)
      },
    }
  }

  activate(out: Activation, x: Activation, options: ActivateOptions): PreparedOp {
    const context = this.#context
    const [target, source] = [context.activation(out), context.activation(x)]
    const { cols } = target
    checkActivate(target, source, options.glu !== undefined)
    const flags = activationFlags(options) | (options.residual === true ? FLAG.residual : 0)
    const params = [cols, source.stride, target.stride, flags, ...xieluParams(options.activation)]
    const group = bind(context, 'activate', ACTIVATE, params, [source.buffer, target.buffer])
    const launch = new Launch(context, ACTIVATE_SOURCE, group)
    return { sources: [ACTIVATE_SOURCE], launch: (numRows) => launch.add(Math.ceil(cols / COLUMNS), numRows) }
  }

  /** Forgets all updates, when the backend closes. */
  clear(): void {
    this.#updates.clear()
  }
}
