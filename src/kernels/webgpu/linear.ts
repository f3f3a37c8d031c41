/** Launchers of the linear kernels: which kernel and tile a matrix gets, and how it is called for a number of rows. */
import type { Activation, LinearOptions, LogitsOptions } from '../ops.ts'
import { Bindings, normWeight, record, type GpuContext } from './context.ts'
import type { GpuMatrix, MatrixShard } from './matrix.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'

const BINDINGS: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'write', 'read', 'read']

/** Which x rows a call takes: all of the step's, its sample rows or its score rows. */
export type RowSelection = 'all' | 'sample' | 'score'
const GATHER: Readonly<Record<RowSelection, number>> = { all: 0, sample: 1, score: 2 }
const GLU = { silu: 1, gelu_tanh: 2 } as const

/**
 * How a matrix is cut. `tree` is decided at load and never changes: every variant of the matrix adds its products in the same order.
 * The tiles may be chosen freely (tune.ts): they change speed only.
 */
export interface LinearPlan {
  /** Output rows a lane. */
  readonly R: number
  /** Rows of x a lane, ascending: a step takes the first that is not smaller than its rows, or the last in several workgroups. */
  readonly rowTiles: readonly number[]
}

/** Tiles to begin with, no measurement needed; `candidates` are what tuning may try. */
export interface LinearVariant {
  readonly R: number
  readonly TM: number
}

/** A call of a linear kernel with everything but the number of rows. */
interface LinearCall {
  readonly key: string
  readonly out: { readonly buffer: GPUBuffer; readonly stride: number; readonly cols: number }
  readonly x: Activation
  readonly w: GpuMatrix
  readonly options: LinearOptions
  readonly logits: LogitsOptions | null
  readonly selection: RowSelection
  /** First gathered row and the most rows of this call. */
  readonly firstRow: number
  readonly maxRows: number
}

export class LinearKernels {
  readonly #context: GpuContext
  readonly #bindings: Bindings
  /** Lanes of the barrier-free kernels, or 0: the kernels with workgroup memory are used. */
  readonly broadcastLanes: number
  /** Tuned tiles by shapeKey. */
  readonly tuned = new Map<string, LinearVariant>()

  constructor(context: GpuContext, bindings: Bindings) {
    this.#context = context
    this.#bindings = bindings
    const { isSoftware, subgroupSize } = context.capabilities
    this.broadcastLanes =
      isSoftware && (subgroupSize === 4 || subgroupSize === 8 || subgroupSize === 16) ? subgroupSize : 0
  }

  /** Run length of gate and up rows in the packed layout. */
  get gluRun(): number {
    return this.broadcastLanes === 0 ? 32 : this.broadcastLanes
  }

  /** The K-reduction tree: number of segments whose sums are added in order. 1 where lanes walk all of K. */
  #segments(w: GpuMatrix): number {
    if (this.broadcastLanes !== 0) return 1
    let segments = 1
    while (segments < 8 && segments * 4 < w.numBlocks) segments *= 2
    return segments
  }

  /** The tile for a number of rows. */
  variant(w: GpuMatrix, numRows: number): LinearVariant {
    const bucket = numRows <= 1 ? 1 : numRows <= 2 ? 2 : numRows <= 4 ? 4 : 8
    const tuned = this.tuned.get(shapeKey(w, bucket))
    if (tuned !== undefined) return tuned
    return this.candidates(w, bucket)[0]!
  }

  /** Tiles that may be used for a bucket of rows (1, 2, 4, 8 = 8 and more), the default first. */
  candidates(w: GpuMatrix, bucket: number): readonly LinearVariant[] {
    const lanes = this.broadcastLanes
    if (lanes === 0) {
      const R = w.gluRun > 0 ? [2] : bucket === 1 ? [1, 2] : [2, 1]
      return R.map((r) => ({ R: r, TM: bucket }))
    }
    const packedRows = w.shards.reduce((sum, shard) => sum + shard.numRows, 0)
    const rows = [4, 2, 8].filter((R) => {
      const span = R * lanes
      const fits = span <= 32 ? 32 % span === 0 : span % 32 === 0 && packedRows % span === 0
      return fits && (w.gluRun === 0 || R % 2 === 0)
    })
    const TM = bucket === 8 ? [4, 8, 2] : [bucket]
    return TM.flatMap((tm) => rows.filter((R) => R * tm <= 32).map((R) => ({ R, TM: tm })))
  }

  /** The kernel of a call for a number of rows, with its grid. */
  #kernel(call: LinearCall, numRows: number): { source: KernelSource; rowsPerGroup: number; outputsPerGroup: number } {
    const { w, options, logits, selection } = call
    const { R, TM } = this.variant(w, numRows)
    const common = {
      ...w.form,
      R,
      TM,
      NORM: options.norm === undefined ? 0 : 1,
      BIAS: options.bias === undefined ? 0 : 1,
      RESIDUAL: options.residual === true ? 1 : 0,
      GLU: options.glu === undefined ? 0 : GLU[options.glu],
      LOGITS: logits === null ? 0 : 1,
      GATHER: GATHER[selection],
    }
    const lanes = this.broadcastLanes
    if (lanes !== 0) {
      const defines = { ...common, X: 0, LANES: lanes, X_WIDTH: Math.min(4, 32 / lanes) }
      return {
        source: { name: 'linear-broadcast', bindings: BINDINGS, defines },
        rowsPerGroup: TM,
        outputsPerGroup: R * lanes,
      }
    }
    const segments = this.#segments(w)
    const staged = { ...common, LANES: 32, X_WIDTH: 4 }
    if (numRows <= 8) {
      const defines = { ...staged, X: 2, YS: segments, ROWS: TM }
      return {
        source: { name: 'linear-vector', bindings: BINDINGS, defines },
        rowsPerGroup: TM,
        outputsPerGroup: R * 32,
      }
    }
    const defines = { ...staged, X: 1, YS: 4, ROWS: TM * 4, SEGMENTS: segments }
    return {
      source: { name: 'linear-matrix', bindings: BINDINGS, defines },
      rowsPerGroup: TM * 4,
      outputsPerGroup: R * 32,
    }
  }

  #group(call: LinearCall, shard: MatrixShard, index: number): GPUBindGroup {
    const { key, logits, maxRows, firstRow, options, out, w, x } = call
    return this.#bindings.get(`${key}|${index}`, BINDINGS, () => {
      const source = this.#context.activation(x)
      const isGated = w.gluRun > 0
      const firstOutput = isGated ? shard.firstRow / 2 : shard.firstRow
      const outputs = isGated ? shard.numRows / 2 : shard.numRows
      const norm = options.norm
      return {
        params: [
          Math.min(outputs, out.cols - firstOutput),
          w.numBlocks,
          source.stride,
          out.stride,
          firstOutput,
          firstRow,
          maxRows,
          out.cols,
          { f32: 1 / w.cols },
          { f32: norm?.eps ?? 0 },
          { f32: w.weightScale },
          { f32: logits?.scale ?? 1 },
          { f32: logits?.softcap ?? 0 },
          1,
        ],
        buffers: [
          source.buffer,
          shard.codes,
          shard.scales,
          out.buffer,
          normWeight(this.#context, norm),
          options.bias === undefined ? this.#context.nothing : this.#context.vector(options.bias).buffer,
        ],
      }
    })
  }

  #record(call: LinearCall, numRows: number): void {
    const { source, rowsPerGroup, outputsPerGroup } = this.#kernel(call, numRows)
    for (const [index, shard] of call.w.shards.entries()) {
      const group = this.#group(call, shard, index)
      record(
        this.#context,
        source,
        group,
        Math.ceil(shard.numRows / outputsPerGroup),
        Math.ceil(numRows / rowsPerGroup),
      )
    }
  }

  /** out (+)= f(x W^T) for all rows of the step. */
  linear(out: Activation, x: Activation, w: GpuMatrix, options: LinearOptions, numRows: number): void {
    const target = this.#context.activation(out)
    const source = this.#context.activation(x)
    const outputs = options.glu === undefined ? w.rows : w.rows / 2
    if (target === source || target.cols !== outputs || source.cols !== w.cols) {
      throw new Error(
        `linear ${w.label}: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${w.rows} x ${w.cols}`,
      )
    }
    if ((options.glu !== undefined) !== w.gluRun > 0) {
      throw new Error(`linear ${w.label}: loaded ${w.gluRun > 0 ? 'with' : 'without'} gated rows, called the other way`)
    }
    const norm = options.norm === undefined ? '' : this.#context.vector(options.norm.weight).id
    const bias = options.bias === undefined ? '' : this.#context.vector(options.bias).id
    const key = `linear|${target.id}|${source.id}|${w.id}|${norm}|${options.norm?.eps}|${bias}`
    this.#record({ key, out: target, x, w, options, logits: null, selection: 'all', firstRow: 0, maxRows: 0 }, numRows)
  }

  /** Logits of `numRows` gathered rows from `firstRow` on, into `target` [maxRows, vocab]. */
  logits(
    target: GPUBuffer,
    x: Activation,
    w: GpuMatrix,
    logits: LogitsOptions,
    selection: RowSelection,
    firstRow: number,
    numRows: number,
    maxRows: number,
  ): void {
    const key = `logits|${selection}|${firstRow}|${maxRows}|${this.#context.activation(x).id}|${w.id}`
    const out = { buffer: target, stride: w.rows, cols: w.rows }
    const options = { norm: logits.norm }
    this.#record({ key, out, x, w, options, logits, selection, firstRow, maxRows }, numRows)
  }
}

/** Identifies what tuning may tell apart: format, shape and a bucket of rows. */
export function shapeKey(w: GpuMatrix, bucket: number): string {
  const { FORMAT, GROUP, MINS } = w.form
  return `${FORMAT}.${GROUP}.${MINS}|${w.rows}x${w.cols}${w.gluRun > 0 ? 'g' : ''}|${bucket}`
}
