/** Matrix products: chooses the kernels of a matrix by its shape and the rows of a step, and launches them. */
import type { Activation, LinearOptions, LogitsOptions } from '../ops.ts'
import {
  bind,
  Launch,
  LongLaunch,
  type GpuActivation,
  type GpuContext,
  type PreparedOp,
  type QuantizedResults,
  type Uniform,
} from './context.ts'
import type { GpuMatrix, MatrixShard, WeightForm } from './matrix.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'
import { isQuantized, type PreparedRows, ROWS, type RowSelection } from './prepared-rows.ts'

/** The bindings of every product, the one more of a product with experts' matrices, and the two more of a product that quantises its results. */
const LINEAR: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'write', 'read']
const EXPERTS: readonly BindingKind[] = ['read']
const NEXT: readonly BindingKind[] = ['write', 'read']

/** The flags of linear-io.wgsl and activation.wgsl. */
export const FLAG = {
  bias: 1,
  residual: 2,
  logits: 4,
  silu: 8,
  gelu_tanh: 16,
  gelu: 32,
  gated: 64,
  silu_clamped: 128,
  relu2: 256,
  xielu: 512,
} as const

/** Rows of x per workgroup of linear-vector.wgsl. Each number has its own kernel. */
const VECTOR_ROWS = [1, 4, 8, 16] as const
/** Most rows for linear-vector.wgsl. Over 16 rows, two workgroups read the same weights; tiles of linear-matrix.wgsl would still be half empty. */
const MAX_VECTOR_ROWS = 32
/** Output rows per workgroup of linear-matrix.wgsl, and rows of x. */
const MATRIX_TILE = 64
/** What keeps a large card busy: 4 workgroups of 256 threads for each of 128 cores. */
const BUSY_WORKGROUPS = 512
const WORKGROUP_THREADS = 256
/** Columns of a block of quantised results, and of a tile of weights. */
const BLOCK_COLUMNS = 32

/** The properties of a matrix that decide its kernels. */
interface MatrixShape {
  readonly rows: number
  readonly cols: number
  readonly form: WeightForm
  readonly isGated: boolean
  /** Experts per row, each with a matrix of this shape; absent: one matrix for all rows. */
  readonly topK?: number
  /** A norm precedes the product. */
  readonly isNormed?: boolean
  /** Results are also written quantised. */
  readonly next?: QuantizedResults['defines'] | undefined
}

/** How the product with a matrix is divided among threads. The same for every number of rows, because SEGMENTS is the K-reduction tree. */
interface Cut {
  /** Runs of K whose sums are added in order. */
  readonly SEGMENTS: number
  /** Output rows of one tile that a workgroup of linear-vector.wgsl takes. */
  readonly LANES: number
}

/**
 * Chooses enough threads and workgroups to keep a large card busy, with at least two blocks of K per thread. SEGMENTS does not depend on the adapter
 * or on `next`, so that the bits of a product depend on neither. A workgroup that quantises takes whole blocks of 32 columns: there are then fewer
 * workgroups, with up to 256 threads each.
 */
function cut({ rows, cols, form, isGated, topK = 1, next }: MatrixShape): Cut {
  const outputs = (isGated ? rows / 2 : rows) * topK
  const numBlocks = Math.ceil(cols / 32)
  const most = isQuantized(form) ? WORKGROUP_THREADS / BLOCK_COLUMNS : 32
  let SEGMENTS = 4
  while (SEGMENTS < most && outputs * SEGMENTS < BUSY_WORKGROUPS * WORKGROUP_THREADS && SEGMENTS * 4 <= numBlocks)
    SEGMENTS *= 2
  let LANES = BLOCK_COLUMNS
  if (next !== undefined) return { SEGMENTS, LANES }
  while (LANES > 4 && (outputs < BUSY_WORKGROUPS * LANES || LANES * SEGMENTS > WORKGROUP_THREADS)) LANES /= 2
  return { SEGMENTS, LANES }
}

/** Workgroups of linear-vector.wgsl along x for a number of packed output rows: those of a matrix, a shard or an expert. */
export function vectorColumns(shape: MatrixShape, packedRows: number): number {
  const { LANES } = cut(shape)
  return Math.ceil(packedRows / (shape.isGated ? 2 * LANES : LANES))
}

/** Index in VECTOR_ROWS of the kernel for a step of `numRows` rows; -1: linear-matrix.wgsl. */
function vectorKernel(numRows: number): number {
  if (numRows > MAX_VECTOR_ROWS) return -1
  let index = 0
  while (index < VECTOR_ROWS.length - 1 && VECTOR_ROWS[index]! < numRows) index++
  return index
}

/** The kernel that takes `TM` rows of x per workgroup; 0: linear-matrix.wgsl. */
function source(shape: MatrixShape, TM: number, hasPackedDot: boolean): KernelSource {
  const { FORMAT, FP4, GROUP, MINS } = shape.form
  const { SEGMENTS, LANES } = cut(shape)
  const isExperts = shape.topK !== undefined
  const { isNormed = false, next } = shape
  const bindings: BindingKind[] = [...LINEAR, ...(isExperts ? EXPERTS : []), ...(next === undefined ? [] : NEXT)]
  const common = {
    FORMAT,
    FP4,
    GROUP,
    MINS,
    SEGMENTS,
    DOT4: hasPackedDot ? 1 : 0,
    EXPERTS: isExperts ? 1 : 0,
    NORMED: isNormed && isQuantized(shape.form) ? 1 : 0,
  }
  /** @param rows rows of results that a workgroup quantises at a time */
  const nextDefines = (rows: number, columns: number) =>
    next === undefined ? {} : { NEXT: 1, ...next, RESULTS: rows * columns, QUADS: (rows * columns) / 4 }
  if (TM === 0)
    return { name: 'linear-matrix', bindings, defines: { ...common, ...nextDefines(MATRIX_TILE / 4, MATRIX_TILE) } }
  // In a gated matrix, a lane takes a gate row and the up row that belongs to it.
  const R = shape.isGated ? 2 : 1
  // Rows of which the segments are added at a time. It is limited so that workgroup memory does not limit the waves per core.
  const TOGETHER = Math.min(TM, 8 / R)
  const defines = { ...common, ...nextDefines(TM, LANES), TM, R, LANES, TOGETHER, STEP: TM <= 4 ? 2 : 1 }
  return { name: 'linear-vector', bindings, defines }
}

/** Every kernel for a matrix, by rows of x per workgroup; 0: linear-matrix.wgsl. */
export function linearSources(shape: MatrixShape, hasPackedDot: boolean): ReadonlyMap<number, KernelSource> {
  return new Map([...VECTOR_ROWS, 0].map((TM) => [TM, source(shape, TM, hasPackedDot)]))
}

/** The kernels for experts' matrices: one takes a (row, expert) pair per workgroup, the other tiles of pairs. */
export function expertSources(
  shape: MatrixShape & { readonly topK: number },
  hasPackedDot: boolean,
): { readonly pairs: KernelSource; readonly tiles: KernelSource } {
  return { pairs: source(shape, 1, hasPackedDot), tiles: source(shape, 0, hasPackedDot) }
}

/** The uniforms of xIELU; zeros for other activations. */
export function xieluParams(activation: LinearOptions['activation']): Uniform[] {
  const { alphaP = 0, alphaN = 0, beta = 0 } = typeof activation === 'object' ? activation : {}
  return [{ f32: alphaP }, { f32: alphaN }, { f32: beta }]
}

/** The flags of the activation that is applied to a finished sum. */
export function activationFlags({ glu, activation }: Pick<LinearOptions, 'glu' | 'activation'>): number {
  if (glu !== undefined) return FLAG[glu] | FLAG.gated
  if (activation === undefined) return 0
  return typeof activation === 'string' ? FLAG[activation] : FLAG.xielu
}

/** Everything about a product except the number of rows. */
interface Product {
  readonly label: string
  readonly out: { readonly buffer: GPUBuffer; readonly stride: number; readonly cols: number }
  readonly x: GpuActivation
  readonly w: GpuMatrix
  readonly options: LinearOptions
  readonly logits: LogitsOptions | null
  readonly selection: RowSelection
  /** First of the selected rows that the call takes, and most rows of a call. */
  readonly firstRow: number
  readonly maxRows: number
  readonly next: QuantizedResults | undefined
}

/** Launches matrix products with the kernels that fit the shape of the matrix and the number of rows. */
export class LinearKernels {
  readonly #context: GpuContext
  readonly #prepared: PreparedRows

  constructor(context: GpuContext, prepared: PreparedRows) {
    this.#context = context
    this.#prepared = prepared
  }

  /** out (+)= f(x W^T) for all rows of a step. @throws Error where shapes do not fit */
  linear(out: Activation, x: Activation, w: GpuMatrix, options: LinearOptions): PreparedOp {
    const target = this.#context.activation(out)
    const source = this.#context.activation(x)
    const outputs = options.glu === undefined ? w.rows : w.rows / 2
    if (target === source || target.cols !== outputs || source.cols !== w.cols) {
      throw new Error(
        `linear ${w.label}: [.., ${source.cols}] -> [.., ${target.cols}] does not fit ${w.rows} x ${w.cols}`,
      )
    }
    if ((options.glu !== undefined) !== w.isGated) {
      throw new Error(`linear ${w.label}: loaded ${w.isGated ? 'with' : 'without'} gated rows, called the other way`)
    }
    const selection = this.#context.stepRows
    const prepare = this.#prepared.prepareOnce(source, w, options.norm)
    let next: QuantizedResults | undefined
    let product: PreparedOp | null = null
    // Created on first use: until then, an op that follows may ask for quantised results.
    const settled = (): PreparedOp =>
      (product ??= this.#multiply({
        label: w.label,
        out: target,
        x: source,
        w,
        options,
        logits: null,
        selection,
        firstRow: 0,
        maxRows: target.maxRows,
        next,
      }))
    return {
      get sources() {
        return [...(prepare?.sources ?? []), ...settled().sources]
      },
      quantize: (results) => {
        if (!isQuantized(w.form) || next !== undefined) return false
        next = results
        return true
      },
      launch: (numRows) => {
        prepare?.launch(numRows)
        settled().launch(numRows)
      },
    }
  }

  /**
   * Writes the logits of at most `maxRows` of the selected rows, from `firstRow` on, to `target`, f32 [maxRows, vocab]. The caller prepares the rows:
   * once for all calls with the same selection.
   */
  logits(
    target: GPUBuffer,
    x: Activation,
    w: GpuMatrix,
    logits: LogitsOptions,
    selection: RowSelection,
    firstRow: number,
    maxRows: number,
  ): PreparedOp {
    return this.#multiply({
      label: `${w.label} logits`,
      out: { buffer: target, stride: w.rows, cols: w.rows },
      x: this.#context.activation(x),
      w,
      options: { norm: logits.norm },
      logits,
      selection,
      firstRow,
      maxRows,
      next: undefined,
    })
  }

  #multiply(product: Product): PreparedOp {
    const { label, logits, maxRows, firstRow, options, out, selection, w, x, next } = product
    const { capabilities, nothing } = this.#context
    const { buffer: rows, stride } = this.#prepared.inputs(x, w, options.norm, selection)
    const shape = {
      rows: w.rows,
      cols: w.cols,
      form: w.form,
      isGated: w.isGated,
      isNormed: options.norm !== undefined,
      next: next?.defines,
    }
    const kernels = linearSources(shape, capabilities.hasPackedDot)
    const groupAt = (shard: MatrixShard, firstTile: number) => {
      const firstOutput = w.isGated ? shard.firstRow / 2 : shard.firstRow
      const outputs = w.isGated ? shard.numRows / 2 : shard.numRows
      const params = [
        Math.min(outputs, out.cols - firstOutput),
        w.numBlocks,
        stride,
        out.stride,
        firstOutput,
        firstRow,
        maxRows,
        out.cols,
        { f32: w.weightScale },
        { f32: logits?.scale ?? 1 },
        { f32: logits?.softcap ?? 0 },
        ROWS[selection],
        (options.bias === undefined ? 0 : FLAG.bias) |
          (options.residual === true ? FLAG.residual : 0) |
          (logits === null ? 0 : FLAG.logits) |
          activationFlags(options),
        ...xieluParams(options.activation),
        firstTile,
        { f32: 1 / w.cols },
        { f32: options.norm?.eps ?? 0 },
      ]
      const bias = options.bias === undefined ? nothing : this.#context.vector(options.bias).buffer
      const results = next === undefined ? [] : [next.buffer, next.weight ?? nothing]
      const buffers = [rows, shard.codes, shard.scales, out.buffer, bias, ...results]
      return bind(this.#context, label, kernels.get(0)!.bindings, params, buffers)
    }
    const parts = w.shards.map((shard) => {
      const group = groupAt(shard, 0)
      return {
        vectors: VECTOR_ROWS.map((TM) => new Launch(this.#context, kernels.get(TM)!, group)),
        columns: vectorColumns(shape, shard.numRows),
        tiles: new LongLaunch(this.#context, kernels.get(0)!, 'y', (firstTile) => groupAt(shard, firstTile)),
        tileColumns: Math.ceil(shard.numRows / MATRIX_TILE),
        operations: 2 * shard.numRows * w.cols,
      }
    })
    return {
      sources: [...kernels.values()],
      // Runs for each product of each step: everything that can be computed or allocated in advance is above.
      launch: (numRows) => {
        const kernel = vectorKernel(numRows)
        for (const { vectors, columns, tiles, tileColumns, operations } of parts) {
          if (kernel < 0) tiles.add(tileColumns, Math.ceil(numRows / MATRIX_TILE), operations * numRows)
          else vectors[kernel]!.add(columns, Math.ceil(numRows / VECTOR_ROWS[kernel]!), operations * numRows)
        }
      },
    }
  }
}
