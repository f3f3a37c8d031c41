/** Launchers of the linear kernels: which kernel and tile a matrix gets, and how it is called for a number of rows. */
import type { Activation, LinearOptions, LogitsOptions } from '../ops.ts'
import { Bindings, normWeight, record, type GpuContext } from './context.ts'
import type { GpuMatrix, MatrixShard } from './matrix.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'

const BINDINGS: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'write', 'read', 'read']

/** Which x rows a call takes: all of the step's, its sample rows or its score rows. */
export type RowSelection = 'all' | 'sample' | 'score'
const GATHER: Readonly<Record<RowSelection, number>> = { all: 0, sample: 1, score: 2 }
const FLAG = { bias: 1, residual: 2, logits: 4, silu: 8, gelu_tanh: 16 } as const

/** Tiles of a kernel. They change speed only: the K-reduction tree is the matrix's own. */
export interface LinearVariant {
  /** Output rows a lane. */
  readonly R: number
  /** Rows of x a lane. */
  readonly TM: number
}

/** Numbers of rows of a step that have a tile of their own: 1, 2 to 4, 5 and more. */
export type Bucket = 1 | 4 | 8
const BUCKETS: readonly Bucket[] = [1, 4, 8]
/** Groups of TM rows that linear-matrix.wgsl works on side by side. */
const MATRIX_GROUPS = 4

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
  // What a step would work out anew for each of its calls.
  readonly #shapes = new WeakMap<GpuMatrix, Map<Bucket, { readonly key: string; readonly tile: LinearVariant }>>()
  readonly #sources = new Map<string, KernelSource>()

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

  /** Steps of 1, 2 to 4, 5 and more rows are told apart. */
  bucket(numRows: number): Bucket {
    if (numRows <= 1) return 1
    return numRows <= 4 ? 4 : 8
  }

  get buckets(): readonly Bucket[] {
    return BUCKETS
  }

  /** The tile for a number of rows. */
  variant(w: GpuMatrix, numRows: number): LinearVariant {
    const bucket = this.bucket(numRows)
    let shapes = this.#shapes.get(w)
    if (shapes === undefined) this.#shapes.set(w, (shapes = new Map()))
    let shape = shapes.get(bucket)
    if (shape === undefined) {
      shapes.set(bucket, (shape = { key: shapeKey(w, bucket), tile: this.candidates(w, bucket)[0]! }))
    }
    return this.tuned.get(shape.key) ?? shape.tile
  }

  /** Tiles that may be used for a bucket of rows, the default first: at most six. */
  candidates(w: GpuMatrix, bucket: Bucket): readonly LinearVariant[] {
    return this.broadcastLanes === 0 ? this.#stagedTiles(w, bucket) : this.#broadcastTiles(w, bucket)
  }

  #broadcastTiles(w: GpuMatrix, bucket: Bucket): readonly LinearVariant[] {
    // On llvmpipe, by measurement: unpacking q8 for one row of x is fastest over few sums; many rows pay for as wide a tile as compiles in
    // seconds, because every word of weights and of x costs each lane a branch.
    const order = bucket === 8 ? [8, 4, 2] : w.format === 'q8' && bucket === 1 ? [2, 4, 8] : [4, 2, 8]
    const outputs = order.filter((R) => {
      const span = R * this.broadcastLanes
      return span <= 32 ? 32 % span === 0 : w.shards.every(({ numRows }) => numRows % span === 0)
    })
    const TM = bucket === 8 ? [8, 4] : [bucket]
    return TM.flatMap((tm) => outputs.map((R) => ({ R, TM: tm })))
  }

  /** A lane of a gated matrix has a gate's row and its up row: R is even. */
  #stagedTiles(w: GpuMatrix, bucket: Bucket): readonly LinearVariant[] {
    const { isSoftware, maxWorkgroupBytes } = this.#context.capabilities
    const isGated = w.gluRun > 0
    const outputs = bucket === 1 ? (isGated ? [2, 4, 8] : [1, 2, 4]) : isGated ? [2, 4] : [2, 1, 4]
    // Compiling a tile of 8 rows takes a software adapter a minute.
    const TM = isSoftware ? [Math.min(2, bucket)] : [8, 4, 2, 1].filter((tm) => tm <= bucket && tm > bucket / 8)
    return TM.flatMap((tm) => outputs.map((R) => ({ R, TM: tm })))
      .filter((tile) => tile.R * tile.TM <= 16 && this.#workgroupBytes(w, tile) <= maxWorkgroupBytes)
      .slice(0, 6)
  }

  /** Workgroup memory of a staged tile, in whichever of its two kernels needs more of it, with a norm. */
  #workgroupBytes(w: GpuMatrix, { R, TM }: LinearVariant): number {
    const norm = (rows: number) => rows * 33 * 4
    const vector = this.#segments(w) * TM * R * 32 * 4 + norm(TM)
    const matrix = MATRIX_GROUPS * TM * 8 * 16 + norm(MATRIX_GROUPS * TM)
    return Math.max(vector, matrix)
  }

  /** The kernel that multiplies `numRows` rows with a tile. */
  source(w: GpuMatrix, { R, TM }: LinearVariant, numRows: number, hasNorm: boolean): KernelSource {
    const { FORMAT, GROUP, MINS } = w.form
    const common = { FORMAT, GROUP, MINS, R, TM, NORM: hasNorm ? 1 : 0 }
    const lanes = this.broadcastLanes
    if (lanes !== 0) {
      // A quantised step is a block, for the sake of its groups; a float step is the fewest units that give each lane an input.
      const STEP_COLS = FORMAT < 16 ? 32 : Math.max(lanes, 128 / FORMAT)
      const STEP_UNITS = (STEP_COLS * FORMAT) / 128
      const W = Math.min(4, STEP_COLS / lanes)
      const defines = { ...common, LANES: lanes, STEP_COLS, STEP_UNITS, W, AHEAD: TM > 1 ? 1 : 0 }
      return { name: 'linear-broadcast', bindings: BINDINGS, defines }
    }
    const staged = {
      ...common,
      LANES: 32,
      W: 4,
      STEP_UNITS: FORMAT < 16 ? FORMAT / 4 : 1,
      STEP_COLS: FORMAT < 16 ? 32 : 128 / FORMAT,
    }
    if (numRows <= 8) {
      return { name: 'linear-vector', bindings: BINDINGS, defines: { ...staged, YS: this.#segments(w), ROWS: TM } }
    }
    const defines = { ...staged, YS: MATRIX_GROUPS, ROWS: TM * MATRIX_GROUPS }
    return { name: 'linear-matrix', bindings: BINDINGS, defines }
  }

  #group(call: LinearCall, R: number, shard: MatrixShard, index: number): GPUBindGroup {
    const { key, logits, maxRows, firstRow, options, out, selection, w, x } = call
    return this.#bindings.get(`${key}|${R}|${index}`, BINDINGS, () => {
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
          GATHER[selection],
          (options.bias === undefined ? 0 : FLAG.bias) |
            (options.residual === true ? FLAG.residual : 0) |
            (logits === null ? 0 : FLAG.logits) |
            (options.glu === undefined ? 0 : FLAG[options.glu]),
          R,
          w.form.FORMAT < 16 ? 1 : Math.max(1, w.form.FORMAT / 4),
          this.#segments(w),
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
    const { w, options } = call
    const tile = this.variant(w, numRows)
    const hasNorm = options.norm !== undefined
    const key = `${w.id} ${tile.R} ${tile.TM} ${numRows <= 8} ${hasNorm}`
    let source = this.#sources.get(key)
    if (source === undefined) this.#sources.set(key, (source = this.source(w, tile, numRows, hasNorm)))
    const rowsPerGroup = source.name === 'linear-matrix' ? tile.TM * MATRIX_GROUPS : tile.TM
    const outputsPerGroup = tile.R * (this.broadcastLanes === 0 ? 32 : this.broadcastLanes)
    for (const [index, shard] of w.shards.entries()) {
      const group = this.#group(call, tile.R, shard, index)
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
    const key = `linear|${target.id}|${source.id}|${w.id}|${norm}|${options.norm?.eps}|${bias}|${options.residual}|${options.glu}`
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
