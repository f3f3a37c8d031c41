/** The small random matrices that variants are checked on, and their float64 values. */
import { dequantize } from '../dequantize.ts'
import { f32ToF16 } from '../float.ts'
import type { MatrixData, StepInput } from '../ops.ts'
import { loadMatrix, type GpuMatrix, type MatrixLoader } from './matrix.ts'

const ROWS = 128
const COLS = 160

export interface Probe {
  readonly matrix: GpuMatrix
  /** [rows, cols] */
  readonly weights: Float32Array
}

/** Values in [-1, 1) from an integer hash of the index: the same in every run. */
export function probeValues(length: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => {
    const hash = Math.imul(i ^ (i >>> 7), 0x9e3779b1)
    return (hash ^ (hash >>> 15)) / 2 ** 31
  })
}

/** A small matrix of the same form as `like`. */
export async function loadProbe(loader: MatrixLoader, like: GpuMatrix): Promise<Probe> {
  const values = probeValues(ROWS * COLS)
  const { format } = like
  const group = like.form.GROUP === 16 ? 16 : 32
  const plane = (factor: number) => probeValues((ROWS * COLS) / group).map((value) => (value + 1.5) * factor)
  const mins = like.form.MINS === 1 ? plane(-0.5) : null
  const data: MatrixData =
    format === 'f32'
      ? { format, values }
      : format === 'f16'
        ? { format, values: Uint16Array.from(values, (value) => f32ToF16(value)) }
        : format === 'q8'
          ? { format, group, codes: Int8Array.from(values, (value) => value * 127), scales: plane(1 / 128), mins }
          : {
              format,
              group: 32,
              codes: Uint8Array.from(values.subarray(0, values.length / 2), (value) => (value + 1) * 127),
              scales: plane(1 / 8),
              mins,
            }
  const matrix = await loadMatrix(loader, `tuning ${format}`, ROWS, COLS, data, { glu: like.gluRun > 0 })
  return { matrix, weights: dequantize(data) }
}

/** Normalised squared error of out = x W^T (silu-gated where the matrix is) against float64 sums. */
export function probeError({ matrix, weights }: Probe, x: Float32Array, out: Float32Array, numRows: number): number {
  const isGated = matrix.gluRun > 0
  const outputs = isGated ? ROWS / 2 : ROWS
  const product = (row: number, output: number) => {
    let sum = 0
    for (let k = 0; k < COLS; k++) sum += x[row * COLS + k]! * weights[output * COLS + k]!
    return sum
  }
  let error = 0
  let power = 0
  for (let row = 0; row < numRows; row++) {
    for (let output = 0; output < outputs; output++) {
      const sum = product(row, output)
      const expected = isGated ? (sum / (1 + Math.exp(-sum))) * product(row, outputs + output) : sum
      error += (out[row * outputs + output]! - expected) ** 2
      power += expected ** 2
    }
  }
  return error / power
}

/** A step of unrelated rows: for ops that look at nothing else. */
export function rowsAlone(numRows: number, maxBlocksPerSequence: number): StepInput {
  return {
    numRows,
    numSequences: 1,
    tokens: new Int32Array(numRows),
    positions: new Int32Array(numRows),
    slots: new Int32Array(numRows),
    sequenceStarts: Int32Array.of(0, numRows),
    blockTables: new Int32Array(maxBlocksPerSequence),
    maxBlocksPerSequence,
  }
}
