/** Tables that fit in no memory of the cpu backend, such as per-layer embeddings in f16. They stay outside WebAssembly; JavaScript looks up their rows. */
import { checkMatrix, dequantize, sliceRows } from '../dequantize.ts'
import { fromPlanes, toPlanes } from '../planes.ts'
import type { PackedMatrix, StoredMatrix } from '../backend.ts'
import type { Matrix, MatrixData, MatrixFormat, MatrixRows } from '../ops.ts'
import { pieceRows } from './matrices.ts'

/** A table in its own format, stored in pieces of several rows each. */
export class HostTable implements Matrix {
  readonly label: string
  readonly rows: number
  readonly cols: number
  readonly #pieces: readonly MatrixData[]
  readonly #rowsPerPiece: number

  private constructor(label: string, rows: number, cols: number, pieces: readonly MatrixData[]) {
    this.label = label
    this.rows = rows
    this.cols = cols
    this.#pieces = pieces
    this.#rowsPerPiece = pieceRows(cols)
  }

  /** Reads all rows. @throws when the data does not match the sizes */
  static async read(label: string, rows: number, cols: number, source: MatrixRows): Promise<HostTable> {
    const pieces: MatrixData[] = []
    for (const { first, count } of piecesOf(rows, cols)) {
      const data = await source.read(first, count)
      checkMatrix(label, count, cols, data)
      pieces.push(data)
    }
    return new HostTable(label, rows, cols, pieces)
  }

  /** Whether a matrix was stored by `packed`. */
  static isStored({ form }: StoredMatrix): boolean {
    return form['planesPerPiece'] !== undefined
  }

  /** Reads a table that `packed` exported in an earlier run. @throws RangeError when the sizes do not match */
  static async restore(label: string, rows: number, cols: number, stored: StoredMatrix): Promise<HostTable> {
    const { format, form, planeBytes } = stored
    const perPiece = form['planesPerPiece'] ?? 1
    const spans = [...piecesOf(rows, cols)]
    if (planeBytes.length !== spans.length * perPiece)
      throw new RangeError(`${label}: ${planeBytes.length} stored planes do not fit ${rows} x ${cols} ${format}`)
    const pieces: MatrixData[] = []
    for (const [index, { count }] of spans.entries()) {
      const first = index * perPiece
      const data = await fromPlanes({
        format,
        form,
        planeBytes: planeBytes.slice(first, first + perPiece),
        read: (plane, target) => stored.read(first + plane, target),
      })
      try {
        checkMatrix(label, count, cols, data)
      } catch (cause) {
        throw new RangeError(`${label}: stored planes do not fit ${rows} x ${cols} ${format}`, { cause })
      }
      pieces.push(data)
    }
    return new HostTable(label, rows, cols, pieces)
  }

  get format(): MatrixFormat {
    return this.#pieces[0]!.format
  }

  get bytes(): number {
    return this.packed().planes.reduce((sum, { length }) => sum + length, 0)
  }

  /** All planes, piece after piece. */
  packed(): PackedMatrix {
    const pieces = this.#pieces.map(toPlanes)
    const { format, form, planes } = pieces[0]!
    return { format, form: { ...form, planesPerPiece: planes.length }, planes: pieces.flatMap((piece) => piece.planes) }
  }

  /** out (+)= row * scale, in f32. */
  gather(row: number, scale: number, adds: boolean, out: Float32Array): void {
    const piece = Math.floor(row / this.#rowsPerPiece)
    const first = piece * this.#rowsPerPiece
    const count = Math.min(this.#rowsPerPiece, this.rows - first)
    const values = dequantize(sliceRows(this.#pieces[piece]!, count, row - first, 1))
    const factor = Math.fround(scale)
    for (let i = 0; i < values.length; i++) {
      const value = Math.fround(values[i]! * factor)
      out[i] = adds ? out[i]! + value : value
    }
  }
}

function* piecesOf(rows: number, cols: number): Generator<{ readonly first: number; readonly count: number }> {
  const most = pieceRows(cols)
  for (let first = 0; first < rows; first += most) yield { first, count: Math.min(most, rows - first) }
}
