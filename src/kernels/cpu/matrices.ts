/** Weight matrices in panels of 16 output rows (assembly/linear-float.ts, quantized-panel.ts), packed on load by the pool. */
import { checkMatrix } from '../dequantize.ts'
import { mxfp4AsQ8 } from '../mxfp4.ts'
import type { PackedMatrix, StoredMatrix } from '../backend.ts'
import type { MatrixData, MatrixFormat, MatrixRows } from '../ops.ts'
import type { Arena } from './arena.ts'
import type { Program } from './program.ts'

export const PANEL = 16
/** Rows that a unit of a matrix product has at most (assembly/linear.ts). */
export const ROW_TILE = 128
/** Changes whenever the bytes of packed panels do. */
export const PACKED_LAYOUT = 'cpu panels 6'
/** Values that are packed from staging memory at a time, or one panel's rows if they are more. */
const PIECE_VALUES = 2 ** 20
const STAGING_BYTES = 4 * PIECE_VALUES

/** MXFP4 is widened before it is packed: its kernels would be those of narrow 8-bit codes with a table before them. */
type PanelFormat = Exclude<MatrixFormat, 'mxfp4'>
type PanelData = MatrixData & { readonly format: PanelFormat }

const FORMAT_CODES: Readonly<Record<PanelFormat, number>> = { f32: 0, f16: 1, q8: 2, q4: 3 }
const GROUP16 = 1
const MINS = 2
const NARROW = 4
const SUPER = 8

export interface PanelMatrix {
  readonly label: string
  readonly rows: number
  readonly cols: number
  readonly format: PanelFormat
  readonly formatCode: number
  /** Groups of 16, minimums, narrow codes, sub-scales (assembly/quantized-panel.ts). */
  readonly flags: number
  /** Index of the memory that it is in. */
  readonly memory: number
  /** Columns including padding: whole vectors, or whole blocks of 32. */
  readonly padded: number
  /** Gate and up panels alternate. */
  readonly gated: boolean
  /** Matrices of this shape that lie one behind the other; more than one are experts. */
  readonly numExperts: number
  /** Of one expert. */
  readonly numPanels: number
  readonly panelBytes: number
  readonly weights: number
  readonly factors: number // f32[numExperts][numPanels]: what a panel's sums are multiplied by
}

/** The next multiple, or the value itself. */
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

/** What of the values decides how they are packed. */
interface PackedForm {
  readonly format: PanelFormat
  readonly flags: number
}

function packedForm(data: PanelData, cols: number): PackedForm {
  if (data.format !== 'q8' && data.format !== 'q4') return { format: data.format, flags: 0 }
  const isNarrow = data.format === 'q8' && data.isNarrow === true
  // Q4_K's form and Q6_K's; others keep a scale per group.
  const hasPanels = data.format === 'q4' ? data.mins !== null : isNarrow && data.group === 16 && data.mins === null
  const isSuper = data.hasSubScales === true && hasPanels && cols % 256 === 0
  const flags =
    (data.group === 16 ? GROUP16 : 0) |
    (data.mins === null ? 0 : MINS) |
    (isNarrow ? NARROW : 0) |
    (isSuper ? SUPER : 0)
  return { format: data.format, flags }
}

/** The form that a stored matrix was packed in. @throws RangeError for one that none is */
export function storedForm({ format, form }: Pick<StoredMatrix, 'format' | 'form'>): PackedForm {
  if (format === 'mxfp4') throw new RangeError('a stored matrix of MXFP4: panels have none')
  return { format, flags: form['flags'] ?? 0 }
}

/** Memory of one arena that planes are copied to, to be packed from there. */
export class Staging {
  readonly #arena: Arena
  #address = 0
  #bytes = 0

  constructor(arena: Arena) {
    this.#arena = arena
  }

  /** Copies planes, each to a cache line of its own; their addresses. */
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

  /** Gives it up for other use, once the weights are in. */
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

/** What a matrix asks of its memory. */
export interface MatrixSize {
  /** Of all panels. */
  readonly bytes: number
  /** Columns and rows, padded. */
  readonly inner: number
  readonly outer: number
  readonly numExperts: number
}

/** The memories by index, and the one that takes the next matrix. */
export interface PackingSpaces {
  at(index: number): PackingSpace
  forMatrix(label: string, size: MatrixSize): PackingSpace
}

/** Rows that are read and packed at a time. */
export function pieceRows(cols: number): number {
  return Math.max(1, Math.floor(PIECE_VALUES / (cols * PANEL))) * PANEL
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

  /** Room for a matrix, or for as many experts', and all that is known of it beside its bytes. */
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
    // One more: whether a value was not finite.
    const factors = arena.allocate((numExperts * numPanels + 1) * 4, label)
    const weights = arena.allocate(bytes, label)
    const formatCode = FORMAT_CODES[format]
    const shape = { rows, cols, padded, gated, numExperts, numPanels, panelBytes, memory }
    return { label, format, formatCode, flags, weights, factors, ...shape }
  }

  /** The bytes of a packed matrix, where they are. */
  planes({ format, flags, memory, factors, weights, numPanels, panelBytes }: PanelMatrix, expert = 0): PackedMatrix {
    const panel = expert * numPanels
    const { arena } = this.#spaces.at(memory)
    const planes = [
      arena.bytes(factors + panel * 4, numPanels * 4),
      arena.bytes(weights + panel * panelBytes, numPanels * panelBytes),
    ]
    return { format, form: { flags }, planes }
  }

  /** Reads packed panels to where they will be used. Throws when their sizes do not fit. */
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

  /** Packs a matrix as it is read. Throws when it holds infinities or NaN, and when its pieces are not alike. */
  async pack(label: string, rows: number, cols: number, source: MatrixRows, gated: boolean): Promise<PanelMatrix> {
    const matrix = await this.packExpert(null, label, rows, cols, source, gated, 1, 0)
    return matrix
  }

  /** Packs the matrix of one of `numExperts` experts into `placed`, or where there is none yet, into a place for all of them. */
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
    const halfRows = rows / halves
    const mostRows = pieceRows(cols)
    let matrix = placed
    for (let half = 0; half < halves; half++) {
      for (let first = 0; first < halfRows; first += mostRows) {
        const count = Math.min(mostRows, halfRows - first)
        const stored = await source.read(half * halfRows + first, count)
        checkMatrix(label, count, cols, stored)
        const data = stored.format === 'mxfp4' ? mxfp4AsQ8(stored) : stored
        matrix ??= this.place(label, rows, cols, packedForm(data, cols), gated, numExperts)
        if (data.format !== matrix.format || packedForm(data, cols).flags !== matrix.flags)
          throw new Error(`${label}: rows from ${first} on are in another format than those before`)
        this.#packRows(matrix, data, expert * matrix.numPanels + (first / PANEL) * halves + half, count)
      }
    }
    if (matrix === null) throw new Error(`${label}: has no rows`)
    const isInvalid =
      this.#spaces.at(matrix.memory).arena.i32(matrix.factors + numExperts * matrix.numPanels * 4, 1)[0] !== 0
    if (isInvalid) throw new Error(`${label}: the weights hold infinities or NaN`)
    return matrix
  }

  /** Packs `count` rows into the panels from `panel` on, every second one of a gated matrix. */
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
