/** Weight matrices in panels of 16 output rows (assembly/linear-float.ts, linear-quantized.ts), packed on load by the pool. */
import type { MatrixData, MatrixFormat } from '../ops.ts'
import type { Arena } from './arena.ts'
import type { Program } from './program.ts'

export const PANEL = 16
/** Source rows are packed from staging memory of this size, or one panel's rows if they are larger. */
const STAGING_BYTES = 4 * 2 ** 20

const FORMAT_CODES: Readonly<Record<MatrixFormat, number>> = { f32: 0, f16: 1, q8: 2, q4: 3 }
const GROUP16 = 1
const MINS = 2

export interface PackedMatrix {
  readonly label: string
  readonly rows: number
  readonly cols: number
  readonly format: MatrixFormat
  readonly formatCode: number
  /** Groups of 16, minimums (assembly/linear-quantized.ts). */
  readonly flags: number
  /** Columns including padding: whole vectors, or whole blocks of 32. */
  readonly padded: number
  /** Gate and up panels alternate. */
  readonly gated: boolean
  readonly numPanels: number
  readonly panelBytes: number
  readonly weights: number
  readonly factors: number // f32[numPanels]: what a panel's sums are multiplied by
}

export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple
}

function panelBytesOf(data: MatrixData, padded: number, flags: number): number {
  if (data.format === 'f32') return padded * PANEL * 4
  if (data.format === 'f16') return padded * PANEL * 2
  const planes = (1 + (flags & GROUP16)) * (flags & MINS ? 2 : 1)
  return (padded / 32) * (planes * 32 + (data.format === 'q8' ? 512 : 256))
}

interface Plane {
  readonly bytes: Uint8Array
  readonly rowBytes: number
}

function planeOf(values: ArrayBufferView, rows: number): Plane {
  return {
    bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    rowBytes: values.byteLength / rows,
  }
}

export class MatrixPacker {
  readonly #arena: Arena
  readonly #program: Program
  readonly #run: () => void
  #staging = 0
  #stagingBytes = 0

  /** `run` runs and clears the program. */
  constructor(arena: Arena, program: Program, run: () => void) {
    this.#arena = arena
    this.#program = program
    this.#run = run
  }

  /** Packs a matrix of checked sizes. Throws when it holds infinities or NaN. */
  pack(label: string, rows: number, cols: number, data: MatrixData, gated: boolean): PackedMatrix {
    const quantized = data.format === 'q8' || data.format === 'q4'
    const flags = quantized ? (data.group === 16 ? GROUP16 : 0) | (data.mins === null ? 0 : MINS) : 0
    const padded = roundUp(cols, quantized ? 32 : 4)
    const panelBytes = panelBytesOf(data, padded, flags)
    const halves = gated ? 2 : 1
    const halfRows = rows / halves
    const halfPanels = Math.ceil(halfRows / PANEL)
    const numPanels = halfPanels * halves
    const factors = this.#arena.allocate((numPanels + 1) * 4, label)
    const invalid = factors + numPanels * 4
    const weights = this.#arena.allocate(numPanels * panelBytes, label)
    const formatCode = FORMAT_CODES[data.format]
    const planes = quantized
      ? [data.codes, data.scales, ...(data.mins === null ? [] : [data.mins])].map((plane) => planeOf(plane, rows))
      : [planeOf(data.values, rows)]
    const rowBytes = planes.reduce((sum, plane) => sum + plane.rowBytes, 0)
    const batchRows = Math.max(1, Math.floor((STAGING_BYTES - 256) / (rowBytes * PANEL))) * PANEL
    const staging = this.#reserve(Math.min(batchRows, roundUp(halfRows, PANEL)) * rowBytes + 256)
    for (let half = 0; half < halves; half++) {
      for (let first = 0; first < halfRows; first += batchRows) {
        const count = Math.min(batchRows, halfRows - first)
        const addresses = this.#stage(staging, planes, half * halfRows + first, count)
        const panel = (first / PANEL) * halves + half
        const [source = 0, scales = 0, mins = 0] = addresses
        this.#program.add('pack', {
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
          panelStep: halves,
          factors: factors + panel * 4,
          invalid,
        })
        this.#run()
      }
    }
    if (this.#arena.i32(invalid, 1)[0] !== 0) throw new Error(`${label}: the weights hold infinities or NaN`)
    return {
      label,
      rows,
      cols,
      format: data.format,
      formatCode,
      flags,
      padded,
      gated,
      numPanels,
      panelBytes,
      weights,
      factors,
    }
  }

  /** Memory that is free for other use once the weights are in. */
  takeStaging(): { readonly address: number; readonly bytes: number } {
    const staging = { address: this.#staging, bytes: this.#stagingBytes }
    this.#staging = 0
    this.#stagingBytes = 0
    return staging
  }

  #reserve(bytes: number): number {
    if (bytes > this.#stagingBytes) {
      this.#stagingBytes = Math.max(bytes, STAGING_BYTES)
      this.#staging = this.#arena.allocate(this.#stagingBytes, 'staging')
    }
    return this.#staging
  }

  /** Copies rows of every plane to staging; their addresses. */
  #stage(staging: number, planes: readonly Plane[], first: number, count: number): number[] {
    let at = staging
    return planes.map(({ bytes, rowBytes }) => {
      const address = at
      const piece = bytes.subarray(first * rowBytes, (first + count) * rowBytes)
      this.#arena.bytes(address, piece.length).set(piece)
      at = roundUp(address + piece.length, 64)
      return address
    })
  }
}
