/** Packs weight matrices on load into panels of 16 output rows (assembly/linear-float.ts, quantized-panel.ts), on the thread pool. */
import { checkMatrix } from '../dequantize.ts'
import { mxfp4AsQ8 } from '../mxfp4.ts'
import type { PackedMatrix, StoredMatrix } from '../backend.ts'
import type { MatrixData, MatrixFormat, MatrixRows } from '../ops.ts'
import type { Arena } from './arena.ts'
import type { Program } from './program.ts'

export const PANEL = 16
/** The most rows per work unit of a matrix product (assembly/linear.ts). */
export const ROW_TILE = 128
/** Identifies the layout of packed panels; must change whenever their bytes do. */
export const PACKED_LAYOUT = 'cpu panels 6'
/** Values that are packed from staging memory at a time, or the rows of one panel if those are more. */
const PIECE_VALUES = 2 ** 20
const STAGING_BYTES = 4 * PIECE_VALUES

/** MXFP4 is converted to q8 before packing: kernels of its own would only add a table look-up to those of narrow 8-bit codes. */
type PanelFormat = Exclude<MatrixFormat, 'mxfp4'>
type PanelData = MatrixData & { readonly format: PanelFormat }

const FORMAT_CODES: Readonly<Record<PanelFormat, number>> = { f32: 0, f16: 1, q8: 2, q4: 3 }
const GROUP16 = 1
const MINS = 2
const NARROW = 4
const SUPER = 8
/** Why values cannot be packed, by the number that assembly/pack.ts stores. */
const PACKING_FAULTS: Readonly<Record<number, string>> = {
  1: 'the weights hold infinities or NaN',
  2: 'the scales of 256 columns are not integers times one factor, as hasSubScales promises',
}

export interface PanelMatrix {
  readonly label: string
  readonly rows: number
  readonly cols: number
  readonly format: PanelFormat
  readonly formatCode: number
  /** Flags for groups of 16, minimums, narrow codes and sub-scales (assembly/quantized-panel.ts). */
  readonly flags: number
  /** Index of the memory that the matrix lies in. */
  readonly memory: number
  /** Columns with padding to whole vectors, or to whole blocks of 32. */
  readonly padded: number
  /** Gate and up panels alternate. */
  readonly gated: boolean
  /** Number of matrices of this shape, stored one after another; more than 1 for experts. */
  readonly numExperts: number
  /** Panels per expert. */
  readonly numPanels: number
  readonly panelBytes: number
  readonly weights: number
  readonly factors: number // f32[numExperts][numPanels]: multiplies the sums of a panel
}

/** The smallest multiple that is not less than the value. */
export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple
}

function panelBytesOf(format: PanelFormat, padded: number, flags: number): number {
  if (format === 'f32') return padded * PANEL * 4
  if (format === 'f16') return padded * PANEL * 2
  if (flags & SUPER) {
    const factors = flags & MINS ? 64 : 32
    return (padded / 256) * (factors + 8 * (format === 'q8' ? 416 : 288))
  }
  const planes = (1 + (flags & GROUP16)) * (flags & MINS ? 2 : 1)
  return (padded / 32) * (planes * 32 + (format === 'q8' ? 512 : 256))
}

/** The properties of a matrix's values that decide how they are packed. */
interface PackedForm {
  readonly format: PanelFormat
  readonly flags: number
}

function packedForm(data: PanelData, cols: number): PackedForm {
  if (data.format !== 'q8' && data.format !== 'q4') return { format: data.format, flags: 0 }
  const isNarrow = data.format === 'q8' && data.isNarrow === true
  // Only the forms of Q4_K and Q6_K have panels with sub-scales; others keep one scale per group.
  const hasPanels = data.format === 'q4' ? data.mins !== null : isNarrow && data.group === 16 && data.mins === null
  const isSuper = data.hasSubScales === true && hasPanels && cols % 256 === 0
  const flags =
    (data.group === 16 ? GROUP16 : 0) |
    (data.mins === null ? 0 : MINS) |
    (isNarrow ? NARROW : 0) |
    (isSuper ? SUPER : 0)
  return { format: data.format, flags }
}

/** The form that a stored matrix was packed in. @throws RangeError for an invalid form */
export function storedForm({ format, form }: Pick<StoredMatrix, 'format' | 'form'>): PackedForm {
  if (format === 'mxfp4') throw new RangeError('a stored matrix of MXFP4: panels have none')
  return { format, flags: form['flags'] ?? 0 }
}

/** Staging memory in one arena: planes are copied there and packed from there. */
export class Staging {
  readonly #arena: Arena
  #address = 0
  #bytes = 0

  constructor(arena: Arena) {
    this.#arena = arena
  }

  /** Copies planes, each aligned to a cache line; returns their addresses. */
  fill(planes: readonly ArrayBufferView[]): number[] {
    const sizes = planes.map(({ byteLength }) => roundUp(byteLength, 64))
    let at = this.#reserve(sizes.reduce((sum, size) => sum + size, 0))
    return planes.map(({ buffer, byteOffset, byteLength }, i) => {
      const address = at
      this.#arena.bytes(address, byteLength).set(new Uint8Array(buffer, byteOffset, byteLength))
      at += sizes[i]!
      return address
    })
  }

  /** Gives up the memory for other uses, once all weights are loaded. */
  take(): { readonly address: number; readonly bytes: number } {
    const taken = { address: this.#address, bytes: this.#bytes }
    this.#address = 0
    this.#bytes = 0
    return taken
  }

  #reserve(bytes: number): number {
    if (bytes > this.#bytes) {
      this.#bytes = Math.max(bytes, STAGING_BYTES)
      this.#address = this.#arena.allocate(this.#bytes, 'staging')
    }
    return this.#address
  }
}

/** A memory that matrices are packed in. */
export interface PackingSpace {
  readonly index: number
  readonly arena: Arena
  readonly program: Program
  readonly staging: Staging
}

/** The memory that a matrix needs. */
export interface MatrixSize {
  /** Bytes of all panels. */
  readonly bytes: number
  /** Columns and rows, padded. */
  readonly inner: number
  readonly outer: number
  readonly numExperts: number
}

/** The memories by index, and the choice of a memory for the next matrix. */
export interface PackingSpaces {
  at(index: number): PackingSpace
  forMatrix(label: string, size: MatrixSize): PackingSpace
}

/** Rows to read and pack at a time. */
export function pieceRows(cols: number): number {
  return Math.max(1, Math.floor(PIECE_VALUES / (cols * PANEL))) * PANEL
}

interface Piece {
  readonly half: number
  readonly first: number
  readonly count: number
}

/** The pieces that a matrix is packed in: gate rows before up rows in a gated one. */
function piecesOf(rows: number, cols: number, halves: number): Piece[] {
  const halfRows = rows / halves
  const mostRows = pieceRows(cols)
  const pieces: Piece[] = []
  for (let half = 0; half < halves; half++) {
    for (let first = 0; first < halfRows; first += mostRows)
      pieces.push({ half, first, count: Math.min(mostRows, halfRows - first) })
  }
  return pieces
}

/** Packs matrices into panels on the pool, in pieces of bounded memory. @throws Error for values that are not finite */
export class MatrixPacker {
  readonly #spaces: PackingSpaces
  readonly #run: (program: Program) => void

  /** `run` runs and clears a program. */
  constructor(spaces: PackingSpaces, run: (program: Program) => void) {
    this.#spaces = spaces
    this.#run = run
  }

  /** Allocates a matrix, or the matrices of `numExperts` experts. Their bytes are written later. */
  place(
    label: string,
    rows: number,
    cols: number,
    { format, flags }: PackedForm,
    gated: boolean,
    numExperts = 1,
  ): PanelMatrix {
    const padded = roundUp(cols, format === 'q8' || format === 'q4' ? 32 : 4)
    const panelBytes = panelBytesOf(format, padded, flags)
    const halves = gated ? 2 : 1
    const numPanels = Math.ceil(rows / halves / PANEL) * halves
    const bytes = numExperts * numPanels * panelBytes
    const { index: memory, arena } = this.#spaces.forMatrix(label, {
      bytes,
      inner: padded,
      outer: numPanels * PANEL,
      numExperts,
    })
    // The last word is set when a value is not finite.
    const factors = arena.allocate((numExperts * numPanels + 1) * 4, label)
    const weights = arena.allocate(bytes, label)
    const formatCode = FORMAT_CODES[format]
    const shape = { rows, cols, padded, gated, numExperts, numPanels, panelBytes, memory }
    return { label, format, formatCode, flags, weights, factors, ...shape }
  }

  /** A packed matrix as views of its memory. */
  planes({ format, flags, memory, factors, weights, numPanels, panelBytes }: PanelMatrix, expert = 0): PackedMatrix {
    const panel = expert * numPanels
    const { arena } = this.#spaces.at(memory)
    const planes = [
      arena.bytes(factors + panel * 4, numPanels * 4),
      arena.bytes(weights + panel * panelBytes, numPanels * panelBytes),
    ]
    return { format, form: { flags }, planes }
  }

  /** Reads packed panels directly into the matrix's memory. @throws when their sizes do not match */
  async restore(matrix: PanelMatrix, stored: StoredMatrix, expert = 0): Promise<void> {
    const { planeBytes } = stored
    const { label, rows, cols, format, flags } = matrix
    const { planes } = this.planes(matrix, expert)
    const form = storedForm(stored)
    if (
      form.format !== format ||
      form.flags !== flags ||
      planes.length !== planeBytes.length ||
      planes.some(({ length }, i) => length !== planeBytes[i])
    ) {
      throw new RangeError(
        `${label}: stored planes of ${planeBytes.join(', ')} bytes do not fit ${rows} x ${cols} ${format}`,
      )
    }
    for (const [index, plane] of planes.entries()) await stored.read(index, plane)
  }

  /** Packs a matrix while reading it. @throws when its values cannot be packed (PACKING_FAULTS), and when its pieces differ in format */
  async pack(label: string, rows: number, cols: number, source: MatrixRows, gated: boolean): Promise<PanelMatrix> {
    const matrix = await this.packExpert(null, label, rows, cols, source, gated, 1, 0)
    return matrix
  }

  /** Packs one expert's matrix into `placed`. For the first expert, `placed` is null: then it allocates the matrices of all `numExperts` experts. */
  async packExpert(
    placed: PanelMatrix | null,
    label: string,
    rows: number,
    cols: number,
    source: MatrixRows,
    gated: boolean,
    numExperts: number,
    expert: number,
  ): Promise<PanelMatrix> {
    const halves = gated ? 2 : 1
    const pieces = piecesOf(rows, cols, halves)
    const read = (piece: Piece | undefined): Promise<MatrixData> | null =>
      piece ? source.read(piece.half * (rows / halves) + piece.first, piece.count) : null
    let matrix = placed
    let next = read(pieces[0])
    for (const [i, { half, first, count }] of pieces.entries()) {
      const stored = (await next)!
      checkMatrix(label, count, cols, stored)
      const data = stored.format === 'mxfp4' ? mxfp4AsQ8(stored) : stored
      matrix ??= this.place(label, rows, cols, packedForm(data, cols), gated, numExperts)
      if (data.format !== matrix.format || packedForm(data, cols).flags !== matrix.flags)
        throw new Error(`${label}: rows from ${first} on are in another format than those before`)
      // The file is read while this piece is packed. A failure is reported when its turn comes.
      next = read(pieces[i + 1])
      next?.catch(() => {})
      this.#packRows(matrix, data, expert * matrix.numPanels + (first / PANEL) * halves + half, count)
    }
    if (matrix === null) throw new Error(`${label}: has no rows`)
    const [fault = 0] = this.#spaces.at(matrix.memory).arena.i32(matrix.factors + numExperts * matrix.numPanels * 4, 1)
    if (fault !== 0) throw new Error(`${label}: ${PACKING_FAULTS[fault]}`)
    return matrix
  }

  /** Packs `count` rows into the panels from `panel` on; in a gated matrix into every second panel. */
  #packRows(matrix: PanelMatrix, data: PanelData, panel: number, count: number): void {
    const { factors, formatCode, flags, numExperts, numPanels, cols, padded, panelBytes, weights } = matrix
    const planes =
      data.format === 'q8' || data.format === 'q4'
        ? [data.codes, data.scales, ...(data.mins === null ? [] : [data.mins])]
        : [data.values]
    const { program, staging } = this.#spaces.at(matrix.memory)
    const [source = 0, scales = 0, mins = 0] = staging.fill(planes)
    program.add('pack', {
      format: formatCode,
      flags,
      panels: Math.ceil(count / PANEL),
      cols,
      padded,
      rows: count,
      source,
      scales,
      mins,
      dst: weights + panel * panelBytes,
      panelBytes,
      panelStep: matrix.gated ? 2 : 1,
      factors: factors + panel * 4,
      invalid: factors + numExperts * numPanels * 4,
    })
    this.#run(program)
  }
}
