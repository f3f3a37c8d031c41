/** Matrix products: which kernels a matrix gets, by its shape and the rows of a step, and their launches. */
import type { Activation, LinearOptions, LogitsOptions, Norm } from '../ops.ts'
import {
  bind,
  bufferBytes,
  createRows,
  Launch,
  LongLaunch,
  normWeight,
  type GpuActivation,
  type GpuContext,
  type PreparedOp,
  type Uniform,
} from './context.ts'
import type { GpuMatrix, MatrixShard, WeightForm } from './matrix.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'
import type { StepRows } from './step-layout.ts'

export const LINEAR: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'read', 'write', 'read']
const PREPARE: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write']

/** Which rows of a step a call takes: all there are, or its sample rows or score rows among them. */
type RowSelection = StepRows | 'sample' | 'score'
const ROWS: Readonly<Record<RowSelection, number>> = { all: 0, sample: 1, score: 2, output: 3 }
/** Of linear-io.wgsl. */
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

/** Rows of x a workgroup of linear-vector.wgsl multiplies: each has a kernel of its own. */
const VECTOR_ROWS = [1, 4, 8, 16] as const
/** Up to here linear-vector.wgsl is used, with two workgroups over the same weights where need be: linear-matrix.wgsl would idle. */
const MAX_VECTOR_ROWS = 32
/** Output rows and rows of x of a workgroup of linear-matrix.wgsl. */
const MATRIX_TILE = 64
/** What keeps a large card busy: 4 workgroups for each of 128 cores, of 256 threads. */
const BUSY_WORKGROUPS = 512
const WORKGROUP_THREADS = 256
const PREPARE_THREADS = 64

/** What of a matrix decides its kernels. */
interface MatrixShape {
  readonly rows: number
  readonly cols: number
  readonly form: WeightForm
  readonly isGated: boolean
  /** Experts of a row, each with a matrix of this shape; absent: one matrix for all rows. */
  readonly topK?: number
}

/** How a matrix is cut: the same for every number of rows, because SEGMENTS is the K-reduction tree. */
interface Cut {
  /** Runs of K whose sums are added in order. */
  readonly SEGMENTS: number
  /** Output rows of a tile that a workgroup of linear-vector.wgsl takes. */
  readonly LANES: number
}

/** Enough threads and workgroups to keep a large card busy, two blocks at least a thread. Pure: a matrix has the same bits on every adapter. */
function cut({ rows, cols, isGated, topK = 1 }: MatrixShape): Cut {
  const outputs = (isGated ? rows / 2 : rows) * topK
  const numBlocks = Math.ceil(cols / 32)
  let SEGMENTS = 4
  while (SEGMENTS < 32 && outputs * SEGMENTS < BUSY_WORKGROUPS * WORKGROUP_THREADS && SEGMENTS * 4 <= numBlocks)
    SEGMENTS *= 2
  let LANES = 32
  while (LANES > 4 && (outputs < BUSY_WORKGROUPS * LANES || LANES * SEGMENTS > WORKGROUP_THREADS)) LANES /= 2
  return { SEGMENTS, LANES }
}

/** Workgroups side by side for packed output rows (all, a shard's or an expert's), of linear-vector.wgsl. */
export function vectorColumns(shape: MatrixShape, packedRows: number): number {
  const { LANES } = cut(shape)
  return Math.ceil(packedRows / (shape.isGated ? 2 * LANES : LANES))
}

/** Index of the kernel in VECTOR_ROWS that takes a step of `numRows`; -1: linear-matrix.wgsl. */
function vectorKernel(numRows: number): number {
  if (numRows > MAX_VECTOR_ROWS) return -1
  let index = 0
  while (index < VECTOR_ROWS.length - 1 && VECTOR_ROWS[index]! < numRows) index++
  return index
}

/** The kernel that multiplies with a workgroup for `TM` rows; 0: linear-matrix.wgsl. */
function source(shape: MatrixShape, TM: number, hasPackedDot: boolean): KernelSource {
  const { FORMAT, FP4, GROUP, MINS } = shape.form
  const { SEGMENTS, LANES } = cut(shape)
  const isExperts = shape.topK !== undefined
  const bindings = isExperts ? [...LINEAR, 'read' as const] : LINEAR
  const common = { FORMAT, FP4, GROUP, MINS, SEGMENTS, DOT4: hasPackedDot ? 1 : 0, EXPERTS: isExperts ? 1 : 0 }
  if (TM === 0) return { name: 'linear-matrix', bindings, defines: common }
  // A lane of a gated matrix has a gate's row and its up row.
  const R = shape.isGated ? 2 : 1
  // Rows whose segments are added at a time: workgroup memory must not be what limits the waves of a core.
  const TOGETHER = Math.min(TM, 8 / R)
  const defines = { ...common, TM, R, LANES, TOGETHER, STEP: TM <= 4 ? 2 : 1 }
  return { name: 'linear-vector', bindings, defines }
}

/** Every kernel that multiplies with a matrix, by the rows of a workgroup. */
export function linearSources(shape: MatrixShape, hasPackedDot: boolean): ReadonlyMap<number, KernelSource> {
  return new Map([...VECTOR_ROWS, 0].map((TM) => [TM, source(shape, TM, hasPackedDot)]))
}

/** The kernels that multiply with experts' matrices: a pair of row and expert at a time, or tiles of pairs. */
export function expertSources(
  shape: MatrixShape & { readonly topK: number },
  hasPackedDot: boolean,
): { readonly pairs: KernelSource; readonly tiles: KernelSource } {
  return { pairs: source(shape, 1, hasPackedDot), tiles: source(shape, 0, hasPackedDot) }
}

/** The kernel that makes the inputs of a product, or null: the rows are taken as they are. */
export function prepareSource({ FORMAT }: WeightForm, hasNorm: boolean, selection: RowSelection): KernelSource | null {
  const INT8 = FORMAT < 16 ? 1 : 0
  if (INT8 === 0 && !hasNorm && (selection === 'all' || selection === 'output')) return null
  const defines = { INT8, NIBBLES: FORMAT === 4 ? 1 : 0, NORM: hasNorm ? 1 : 0, WS: PREPARE_THREADS }
  return { name: 'prepare', bindings: PREPARE, defines }
}

/** The uniforms of xIELU; zeros where there is another activation. */
export function xieluParams(activation: LinearOptions['activation']): Uniform[] {
  const { alphaP = 0, alphaN = 0, beta = 0 } = typeof activation === 'object' ? activation : {}
  return [{ f32: alphaP }, { f32: alphaN }, { f32: beta }]
}

/** The flags of what is made of a finished sum. */
export function activationFlags({ glu, activation }: Pick<LinearOptions, 'glu' | 'activation'>): number {
  if (glu !== undefined) return FLAG[glu] | FLAG.gated
  if (activation === undefined) return 0
  return typeof activation === 'string' ? FLAG[activation] : FLAG.xielu
}

/** A product with everything but the number of rows. */
interface Product {
  readonly label: string
  readonly out: { readonly buffer: GPUBuffer; readonly stride: number; readonly cols: number }
  readonly x: GpuActivation
  readonly w: GpuMatrix
  readonly options: LinearOptions
  readonly logits: LogitsOptions | null
  readonly selection: RowSelection
  /** First of the selected rows, and the most rows of a call. */
  readonly firstRow: number
  readonly maxRows: number
}

/** Launches matrix products with the kernel that fits shape and rows. */
export class LinearKernels {
  readonly #context: GpuContext
  readonly #maxRows: number
  /** Prepared rows by activation and form; shared by all products of the same input, which follow one another. */
  readonly #prepared = new Map<string, GPUBuffer>()

  /** @param maxRows rows that one product can have at most, selected ones included */
  constructor(context: GpuContext, maxRows: number) {
    this.#context = context
    this.#maxRows = maxRows
  }

  get scratchBytes(): number {
    return bufferBytes([...this.#prepared.values()])
  }

  /** out (+)= f(x W^T) for all rows of a step. Throws when shapes do not fit. */
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
    const product = {
      out: target,
      x: source,
      w,
      options,
      logits: null,
      selection: this.#context.stepRows,
      firstRow: 0,
      maxRows: this.#maxRows,
    }
    const prepare = this.prepare(source, w, options.norm, product.selection)
    const multiply = this.#multiply({ ...product, label: w.label })
    return {
      sources: [...(prepare === null ? [] : prepare.sources), ...multiply.sources],
      launch: (numRows) => {
        prepare?.launch(numRows)
        multiply.launch(numRows)
      },
    }
  }

  /** The selected rows as the products of `w` take them, or null where they are taken as they are. */
  prepare(
    x: GpuActivation,
    w: Pick<GpuMatrix, 'label' | 'cols' | 'form' | 'numBlocks'>,
    norm: Norm | undefined,
    selection: RowSelection,
  ): PreparedOp | null {
    const source = prepareSource(w.form, norm !== undefined, selection)
    if (source === null) return null
    const { buffer, stride } = x
    const launch = new Launch(
      this.#context,
      source,
      bind(
        this.#context,
        `${w.label} prepare`,
        PREPARE,
        [w.numBlocks, stride, { f32: 1 / w.cols }, { f32: norm?.eps ?? 0 }, ROWS[selection]],
        [buffer, normWeight(this.#context, norm), this.#preparedBuffer(x, w)],
      ),
    )
    return { sources: [source], launch: (numRows) => launch.add(numRows) }
  }

  /**
   * Logits of the selected rows from `firstRow` on, at most `maxRows`, into `target` [maxRows, vocab]. The rows must have been prepared:
   * they are for all calls of a selection at once.
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
    const out = { buffer: target, stride: w.rows, cols: w.rows }
    const options = { norm: logits.norm }
    const source = this.#context.activation(x)
    return this.#multiply({
      label: `${w.label} logits`,
      out,
      x: source,
      w,
      options,
      logits,
      selection,
      firstRow,
      maxRows,
    })
  }

  /** The rows of x as the products of `w` take them, and the vec4s between two. */
  inputs(
    x: GpuActivation,
    w: Pick<GpuMatrix, 'label' | 'cols' | 'form' | 'numBlocks'>,
    norm: Norm | undefined,
    selection: RowSelection,
  ): { readonly buffer: GPUBuffer; readonly stride: number } {
    const isPrepared = prepareSource(w.form, norm !== undefined, selection) !== null
    if (!isPrepared) return { buffer: x.buffer, stride: x.stride / 4 }
    return { buffer: this.#preparedBuffer(x, w), stride: w.numBlocks * (w.form.FORMAT < 16 ? 3 : 8) }
  }

  #preparedBuffer(
    x: GpuActivation,
    { form, numBlocks }: Pick<GpuMatrix, 'label' | 'cols' | 'form' | 'numBlocks'>,
  ): GPUBuffer {
    const blockBytes = form.FORMAT < 16 ? 48 : 128
    const key = `${x.id} ${blockBytes}`
    let buffer = this.#prepared.get(key)
    if (buffer === undefined) {
      const rows = Math.max(this.#maxRows, x.maxRows)
      buffer = createRows(this.#context, `${x.label} prepared`, rows, numBlocks * blockBytes)
      this.#prepared.set(key, buffer)
    }
    return buffer
  }

  #multiply(product: Product): PreparedOp {
    const { label, logits, maxRows, firstRow, options, out, selection, w, x } = product
    const { capabilities, nothing } = this.#context
    const { buffer: rows, stride } = this.inputs(x, w, options.norm, selection)
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
      ]
      const bias = options.bias === undefined ? nothing : this.#context.vector(options.bias).buffer
      return bind(this.#context, label, LINEAR, params, [rows, shard.codes, shard.scales, out.buffer, bias])
    }
    const kernels = linearSources(w, capabilities.hasPackedDot)
    const parts = w.shards.map((shard) => {
      const group = groupAt(shard, 0)
      return {
        vectors: VECTOR_ROWS.map((TM) => new Launch(this.#context, kernels.get(TM)!, group)),
        columns: vectorColumns(w, shard.numRows),
        tiles: new LongLaunch(this.#context, kernels.get(0)!, 'y', (firstTile) => groupAt(shard, firstTile)),
        tileColumns: Math.ceil(shard.numRows / MATRIX_TILE),
        operations: 2 * shard.numRows * w.cols,
      }
    })
    return {
      sources: [...kernels.values()],
      // Once for each product of each step: nothing is worked out or allocated here that could be above.
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
