/** The matrices of a model. Each lies in one memory of the cpu backend. */
import { asRows } from '../dequantize.ts'
import { Handles } from '../handles.ts'
import type { ExpertsUse, MatrixUse, StoredMatrix } from '../backend.ts'
import type { ExpertMatrix, Matrix, MatrixData, MatrixRows } from '../ops.ts'
import { HostTable } from './host-table.ts'
import { storedForm, type MatrixPacker, type PanelMatrix } from './matrices.ts'

/** A matrix fits in no memory. This can also happen on import, when an earlier run with more room has packed the matrix. */
export class MatrixTooLargeError extends RangeError {
  override readonly name = 'MatrixTooLargeError'
}

/** Loads matrices and finds them by handle. Look-ups throw for a handle of another backend. */
export class Weights {
  readonly #packer: MatrixPacker
  readonly #matrices = new Handles<Matrix, PanelMatrix | HostTable>('matrix')
  readonly #experts = new Handles<ExpertMatrix, PanelMatrix>('experts')

  constructor(packer: MatrixPacker) {
    this.#packer = packer
  }

  /** Bytes of packed matrices with their factors, and of the tables outside the memories. */
  get bytes(): number {
    const sizes = [...this.#matrices.values(), ...this.#experts.values()].map((matrix) =>
      matrix instanceof HostTable ? 0 : matrix.numExperts * matrix.numPanels * (matrix.panelBytes + 4) + 4,
    )
    return sizes.reduce((sum, bytes) => sum + bytes, this.bytesElsewhere)
  }

  /** Bytes of the tables outside the memories. */
  get bytesElsewhere(): number {
    const sizes = this.#matrices.values().map((matrix) => (matrix instanceof HostTable ? matrix.bytes : 0))
    return sizes.reduce((sum, bytes) => sum + bytes, 0)
  }

  /** Packs a matrix. @throws when the data does not match the sizes or contains infinities or NaN */
  async loadMatrix(
    label: string,
    rows: number,
    cols: number,
    data: MatrixData | MatrixRows,
    use: MatrixUse,
  ): Promise<Matrix> {
    const source = rereadable(asRows(label, rows, cols, data))
    try {
      const matrix = await this.#packer.pack(label, rows, cols, source, use.glu === true)
      await use.onPacked?.(this.#packer.planes(matrix))
      return this.#matrices.add(matrix)
    } catch (error) {
      if (!(error instanceof MatrixTooLargeError)) throw error
    }
    const table = await HostTable.read(label, rows, cols, source)
    await use.onPacked?.(table.packed())
    return this.#matrices.add(table)
  }

  /** Reads a matrix that was packed before. */
  async importMatrix(label: string, rows: number, cols: number, stored: StoredMatrix, use: MatrixUse): Promise<Matrix> {
    if (HostTable.isStored(stored)) return this.#matrices.add(await HostTable.restore(label, rows, cols, stored))
    const matrix = this.#packer.place(label, rows, cols, storedForm(stored), use.glu === true)
    await this.#packer.restore(matrix, stored)
    return this.#matrices.add(matrix)
  }

  /** Packs experts' matrices, one after another. @throws as loadMatrix does */
  async loadExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    load: (expert: number) => Promise<MatrixData>,
    use: ExpertsUse,
  ): Promise<ExpertMatrix> {
    let matrix: PanelMatrix | null = null
    for (let expert = 0; expert < numExperts; expert++) {
      const data = await load(expert)
      const source = asRows(`${label} ${expert}`, rows, cols, data)
      const gated = use.glu === true
      matrix = await this.#packer.packExpert(matrix, label, rows, cols, source, gated, numExperts, expert)
      await use.onPacked?.(this.#packer.planes(matrix, expert), expert)
    }
    return this.#keepExperts(label, matrix)
  }

  /** Reads experts' matrices that were packed before. */
  async importExperts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    stored: (expert: number) => StoredMatrix,
    use: ExpertsUse,
  ): Promise<ExpertMatrix> {
    let matrix: PanelMatrix | null = null
    for (let expert = 0; expert < numExperts; expert++) {
      const one = stored(expert)
      matrix ??= this.#packer.place(label, rows, cols, storedForm(one), use.glu === true, numExperts)
      await this.#packer.restore(matrix, one, expert)
    }
    return this.#keepExperts(label, matrix)
  }

  #keepExperts(label: string, matrix: PanelMatrix | null): PanelMatrix {
    if (matrix === null) throw new Error(`${label}: no experts`)
    return this.#experts.add(matrix)
  }

  /** A matrix for products. @throws for a table outside the memories */
  matrix(matrix: Matrix): PanelMatrix {
    const own = this.#matrices.get(matrix)
    if (own instanceof HostTable)
      throw new Error(
        `${own.label}: no product with ${own.rows} x ${own.cols} ${own.format} fits into a memory of 4 GiB`,
      )
    return own
  }

  /** A matrix for row look-ups. */
  table(matrix: Matrix): PanelMatrix | HostTable {
    return this.#matrices.get(matrix)
  }

  experts(matrix: ExpertMatrix): PanelMatrix {
    return this.#experts.get(matrix)
  }
}

/** Wraps a source so that reading the same piece again returns the last one: every read of a source counts as load progress. */
function rereadable(source: MatrixRows): MatrixRows {
  let last: { readonly first: number; readonly count: number; readonly data: MatrixData } | null = null
  return {
    async read(first, count) {
      if (last?.first !== first || last.count !== count) last = { first, count, data: await source.read(first, count) }
      return last.data
    },
  }
}
