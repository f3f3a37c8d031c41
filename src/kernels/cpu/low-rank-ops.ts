/** Low-rank updates of adapters: places them in memory, and checks and records the ops that add them. */
import { Handles } from '../handles.ts'
import { checkActivate, checkLowRank, packLowRank } from '../low-rank.ts'
import type { ActivateOptions, Activation, LowRank, LowRankPart, Norm } from '../ops.ts'
import type { Arena } from './arena.ts'
import type { Executor } from './executor.ts'
import type { Program } from './program.ts'
import { epilogueOf, xieluOf } from './recorder.ts'
import type { Resources } from './resources.ts'
import type { StepInputs } from './step-inputs.ts'

interface PlacedLowRank extends LowRank {
  readonly table: number // i32 [adapters, stride]
  readonly stride: number
  readonly values: number // f32
  readonly rank: number
  readonly bytes: number
}

/** The loaded updates of a model, and the ops addLowRank and activate. */
export class LowRankOps {
  readonly #arena: Arena
  readonly #program: Program
  readonly #executor: Executor
  readonly #resources: Resources
  readonly #step: StepInputs
  readonly #maxRows: number
  readonly #updates = new Handles<LowRank, PlacedLowRank>('low-rank update')
  /** Address of f32 [maxRows, #rank], the product with `down`; 0: not placed yet. */
  #between = 0
  #rank = 0

  constructor(
    arena: Arena,
    program: Program,
    executor: Executor,
    resources: Resources,
    step: StepInputs,
    maxRows: number,
  ) {
    this.#arena = arena
    this.#program = program
    this.#executor = executor
    this.#resources = resources
    this.#step = step
    this.#maxRows = maxRows
  }

  /** Bytes of tables and values. */
  get bytes(): number {
    return this.#updates.values().reduce((sum, { bytes }) => sum + bytes, 0)
  }

  has(update: LowRank): boolean {
    return this.#updates.find(update) !== undefined
  }

  load(label: string, rows: number, cols: number, adapters: readonly (readonly LowRankPart[])[]): LowRank {
    if (this.#between !== 0) throw new Error(`${label} was loaded after ready`)
    const { table, stride, values, rank } = packLowRank(label, rows, cols, adapters)
    const placed = {
      table: this.#arena.allocate(table.byteLength, label),
      values: this.#arena.allocate(values.byteLength, label),
      bytes: table.byteLength + values.byteLength,
    }
    this.#arena.i32(placed.table, table.length).set(table)
    this.#arena.f32(placed.values, values.length).set(values)
    this.#rank = Math.max(this.#rank, rank)
    return this.#updates.add({ label, rows, cols, numAdapters: adapters.length, stride: stride * 4, rank, ...placed })
  }

  /** Call once all updates are loaded: allocates the buffer for the products with `down`. */
  ready(): void {
    if (this.#rank > 0 && this.#between === 0)
      this.#between = this.#arena.allocate(this.#maxRows * this.#rank * 4, 'low-rank updates')
  }

  add(out: Activation, x: Activation, update: LowRank, norm: Norm | undefined): void {
    this.ready()
    const own = this.#updates.get(update)
    const source = this.#resources.source(x)
    const target = this.#resources.changed(out)
    checkLowRank(own, target, source)
    if (own.rank === 0) return
    const { numRows } = this.#step.input
    const fields = {
      rows: numRows,
      x: source.address,
      xStride: source.stride,
      cols: source.cols,
      normWeight: norm === undefined ? 0 : this.#resources.vector(norm.weight).address,
      eps: norm?.eps ?? 0,
      out: target.address,
      outStride: target.stride,
      outputs: target.cols,
      adapters: this.#step.adapters(),
      table: own.table,
      tableStride: own.stride,
      values: own.values,
      between: this.#between,
      betweenStride: this.#rank * 4,
      rank: own.rank,
    }
    this.#executor.addWork(numRows * own.rank * (own.rows + own.cols))
    this.#program.add('lowRankDown', fields)
    this.#program.add('lowRankUp', fields)
  }

  activate(out: Activation, x: Activation, options: ActivateOptions): void {
    const source = this.#resources.source(x)
    const target = options.residual === true ? this.#resources.changed(out) : this.#resources.target(out)
    checkActivate(target, source, options.glu !== undefined)
    const { alphaP, alphaN, beta } = xieluOf(options)
    this.#program.add('activate', {
      rows: this.#step.input.numRows,
      x: source.address,
      xStride: source.stride,
      out: target.address,
      outStride: target.stride,
      cols: target.cols,
      epilogue: epilogueOf(options),
      alphaP,
      alphaN,
      xieluBeta: beta,
    })
  }
}
