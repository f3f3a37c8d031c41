/** Rows of activations in the form that matrix products take: the buffers for them, and the dispatches that fill these. */
import type { Activation, Norm } from '../ops.ts'
import {
  bind,
  bufferBytes,
  createRows,
  Launch,
  normWeight,
  type GpuActivation,
  type GpuContext,
  type PreparedOp,
} from './context.ts'
import type { GpuMatrix, WeightForm } from './matrix.ts'
import type { BindingKind, KernelSource } from './pipelines.ts'
import type { StepRows } from './step-layout.ts'

const PREPARE: readonly BindingKind[] = ['read', 'uniform', 'read', 'read', 'write']
const PREPARE_THREADS = 64

/** The rows of a step that a call takes: all, the output rows, the sample rows or the score rows. */
export type RowSelection = StepRows | 'sample' | 'score'
/** Their numbers in wgsl/rows.wgsl. */
export const ROWS: Readonly<Record<RowSelection, number>> = { all: 0, sample: 1, score: 2, output: 3 }

/** The properties of a matrix that decide the form of its inputs. */
type Weights = Pick<GpuMatrix, 'label' | 'cols' | 'form' | 'numBlocks'>

/** Whether weights are quantised: their inputs are then int8. */
export const isQuantized = ({ FORMAT }: WeightForm): boolean => FORMAT < 16

/** Defines of wgsl/quantize.wgsl for the inputs of weights of this form. */
const recordDefines = ({ FORMAT, GROUP }: WeightForm, hasNorm: boolean) => ({
  NIBBLES: FORMAT === 4 ? 1 : 0,
  GROUP16: GROUP === 16 ? 1 : 0,
  NORM: hasNorm ? 1 : 0,
})

/** The kernel that prepares the inputs of a product; null where the product reads the activation directly. */
export function prepareSource(form: WeightForm, hasNorm: boolean, selection: RowSelection): KernelSource | null {
  const isInt8 = isQuantized(form)
  if (!isInt8 && !hasNorm && (selection === 'all' || selection === 'output')) return null
  const record = isInt8 ? recordDefines(form, hasNorm) : { NORM: hasNorm ? 1 : 0 }
  return { name: 'prepare', bindings: PREPARE, defines: { INT8: isInt8 ? 1 : 0, ...record, WS: PREPARE_THREADS } }
}

/** What is known while a sequence of ops is recorded. The ops always run together, in this order. */
interface Recording {
  /** The op that last wrote an activation. */
  readonly writers: Map<number, PreparedOp>
  /** The form of the current rows of an activation that a buffer contains. Buffers with outdated rows are absent. */
  readonly contents: Map<GPUBuffer, string>
}

/** Buffers of prepared rows, one for each activation and width, and the dispatches that fill them. */
export class PreparedRows {
  readonly #context: GpuContext
  readonly #maxRows: number
  readonly #buffers = new Map<string, GPUBuffer>()
  #recording: Recording | null = null

  /** @param maxRows most rows of one product, for any selection */
  constructor(context: GpuContext, maxRows: number) {
    this.#context = context
    this.#maxRows = maxRows
  }

  get scratchBytes(): number {
    return bufferBytes([...this.#buffers.values()])
  }

  /**
   * Calls `ops`, a sequence that always runs as a whole. Rows are then prepared once for all products that take the same form, if possible by the op
   * that computes them.
   */
  record(ops: () => void): void {
    this.#recording = { writers: new Map(), contents: new Map() }
    try {
      ops()
    } finally {
      this.#recording = null
    }
  }

  /** Notes that a recorded op changes these activations: their prepared rows are outdated. */
  noteWrites(op: PreparedOp, written: readonly Activation[]): void {
    if (this.#recording === null) return
    const { writers, contents } = this.#recording
    for (const activation of written) {
      const { id } = this.#context.activation(activation)
      writers.set(id, op)
      for (const bytes of [RECORD_BYTES, FLOAT_BYTES]) {
        const buffer = this.#buffers.get(bufferKey(id, bytes))
        if (buffer !== undefined) contents.delete(buffer)
      }
    }
  }

  /** Prepares all rows for the product that is recorded or called next; null where no dispatch is needed. */
  prepareOnce(x: GpuActivation, w: Weights, norm: Norm | undefined): PreparedOp | null {
    const op = this.prepare(x, w, norm, this.#context.stepRows)
    if (op === null || this.#recording === null) return op
    const { writers, contents } = this.#recording
    const buffer = this.#buffer(x, w)
    const record = isQuantized(w.form) ? recordDefines(w.form, norm !== undefined) : null
    const vector = norm === undefined ? null : this.#context.vector(norm.weight)
    const content = JSON.stringify([record, vector?.id, record === null ? norm?.eps : null])
    if (contents.get(buffer) === content) return null
    // The op that computed the rows may fill the buffer only if it has not been filled in another form since.
    const isFree = !contents.has(buffer)
    contents.set(buffer, content)
    if (record === null || !isFree) return op
    const weight = vector?.buffer ?? null
    return writers.get(x.id)?.quantize?.({ buffer, weight, defines: record }) === true ? null : op
  }

  /** Prepares the selected rows for products with `w`; null where these read the activation directly. */
  prepare(x: GpuActivation, w: Weights, norm: Norm | undefined, selection: RowSelection): PreparedOp | null {
    const source = prepareSource(w.form, norm !== undefined, selection)
    if (source === null) return null
    const params = [w.numBlocks, x.stride, { f32: 1 / w.cols }, { f32: norm?.eps ?? 0 }, ROWS[selection]]
    const buffers = [x.buffer, normWeight(this.#context, norm), this.#buffer(x, w)]
    const group = bind(this.#context, `${w.label} prepare`, PREPARE, params, buffers)
    const launch = new Launch(this.#context, source, group)
    const columns = isQuantized(w.form) ? Math.ceil(w.numBlocks / PREPARE_THREADS) : 1
    return { sources: [source], launch: (numRows) => launch.add(numRows, columns) }
  }

  /** The buffer from which products with `w` read the rows of x, and its vec4s per row. */
  inputs(
    x: GpuActivation,
    w: Weights,
    norm: Norm | undefined,
    selection: RowSelection,
  ): { readonly buffer: GPUBuffer; readonly stride: number } {
    if (prepareSource(w.form, norm !== undefined, selection) === null) return { buffer: x.buffer, stride: x.stride / 4 }
    return { buffer: this.#buffer(x, w), stride: (w.numBlocks * blockBytes(w.form)) / 16 }
  }

  #buffer(x: GpuActivation, { form, numBlocks }: Weights): GPUBuffer {
    const bytes = blockBytes(form)
    const key = bufferKey(x.id, bytes)
    let buffer = this.#buffers.get(key)
    if (buffer === undefined) {
      const rows = Math.max(this.#maxRows, x.maxRows)
      buffer = createRows(this.#context, `${x.label} prepared`, rows, numBlocks * bytes)
      this.#buffers.set(key, buffer)
    }
    return buffer
  }
}

/** Bytes per block of 32 inputs: as a record of wgsl/quantize.wgsl, or as f32. */
const RECORD_BYTES = 48
const FLOAT_BYTES = 128
const blockBytes = (form: WeightForm): number => (isQuantized(form) ? RECORD_BYTES : FLOAT_BYTES)
const bufferKey = (activation: number, bytes: number): string => `${activation} ${bytes}`
