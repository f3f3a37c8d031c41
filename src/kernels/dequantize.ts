/** The f32 values that a MatrixData encodes: the one definition of every weight format. */
import { decodeF16 } from './float.ts'
import { MXFP4_VALUES, mxfp4Scale } from './mxfp4.ts'
import type { MatrixData, MatrixRows } from './ops.ts'

/** Bytes of a matrix in its own format. */
export function matrixBytes(data: MatrixData): number {
  if (data.format === 'f32' || data.format === 'f16') return data.values.byteLength
  if (data.format === 'mxfp4') return data.codes.byteLength + data.exponents.byteLength
  return data.codes.byteLength + data.scales.byteLength + (data.mins?.byteLength ?? 0)
}

export type Plane = Float32Array | Uint16Array | Int8Array | Uint8Array

/** Applies `change` to every plane and keeps the format. */
export function mapPlanes(data: MatrixData, change: <T extends Plane>(plane: T) => T): MatrixData {
  switch (data.format) {
    case 'f32':
      return { ...data, values: change(data.values) }
    case 'f16':
      return { ...data, values: change(data.values) }
    case 'mxfp4':
      return { ...data, codes: change(data.codes), exponents: change(data.exponents) }
    default: {
      const planes = { scales: change(data.scales), mins: data.mins === null ? null : change(data.mins) }
      // Both branches are the same call: TypeScript has no single type for the codes of the union.
      return data.format === 'q8'
        ? { ...data, ...planes, codes: change(data.codes) }
        : { ...data, ...planes, codes: change(data.codes) }
    }
  }
}

/** Rows `first` .. `first + count - 1` of a matrix of `rows` rows, as views, not copies. */
export function sliceRows(data: MatrixData, rows: number, first: number, count: number): MatrixData {
  return mapPlanes(data, (plane) => {
    const width = plane.length / rows
    return plane.subarray(first * width, (first + count) * width) as typeof plane
  })
}

/** Wraps whole matrices as rows to be read; `MatrixRows` pass through. @throws when the planes do not have the sizes that the shape needs */
export function asRows(label: string, rows: number, cols: number, data: MatrixData | MatrixRows): MatrixRows {
  if ('read' in data) return data
  checkMatrix(label, rows, cols, data)
  return { read: (first, count) => Promise.resolve(sliceRows(data, rows, first, count)) }
}

/** All rows at once. */
export function wholeMatrix(data: MatrixData | MatrixRows, rows: number): Promise<MatrixData> {
  return 'read' in data ? data.read(0, rows) : Promise.resolve(data)
}

/** @throws when the planes of a matrix do not have the sizes that its shape and format need */
export function checkMatrix(label: string, rows: number, cols: number, data: MatrixData): void {
  const expect = (plane: string, found: number, expected: number): void => {
    if (found !== expected)
      throw new Error(
        `${label}: ${plane} has ${found} entries, expected ${expected} for ${rows} x ${cols} ${data.format}`,
      )
  }
  if (data.format === 'f32' || data.format === 'f16') {
    expect('values', data.values.length, rows * cols)
    return
  }
  if (cols % data.group !== 0)
    throw new Error(`${label}: ${cols} columns are not a multiple of the ${data.format} group of ${data.group}`)
  expect('codes', data.codes.length, data.format === 'q8' ? rows * cols : (rows * cols) / 2)
  if (data.format === 'mxfp4') {
    expect('exponents', data.exponents.length, (rows * cols) / data.group)
    return
  }
  expect('scales', data.scales.length, (rows * cols) / data.group)
  if (data.mins !== null) expect('mins', data.mins.length, (rows * cols) / data.group)
}

/** The matrix as f32 values [rows, cols], each rounded once from its exact value. f32 data is returned without a copy. */
export function dequantize(data: MatrixData): Float32Array {
  switch (data.format) {
    case 'f32':
      return data.values
    case 'f16':
      return decodeF16(data.values)
    case 'q8': {
      const { codes, scales, mins, group } = data
      const values = new Float32Array(codes.length)
      for (let g = 0; g < scales.length; g++) {
        const scale = scales[g]!
        const min = mins === null ? 0 : mins[g]!
        for (let i = g * group; i < (g + 1) * group; i++) values[i] = codes[i]! * scale + min
      }
      return values
    }
    case 'q4': {
      const { codes, scales, mins, group } = data
      const values = new Float32Array(codes.length * 2)
      for (let g = 0; g < scales.length; g++) {
        const scale = scales[g]!
        const min = mins === null ? -8 * scale : mins[g]!
        for (let i = g * group; i < (g + 1) * group; i += 2) {
          const pair = codes[i >> 1]!
          values[i] = (pair & 15) * scale + min
          values[i + 1] = (pair >> 4) * scale + min
        }
      }
      return values
    }
    case 'mxfp4': {
      const { codes, exponents } = data
      const values = new Float32Array(codes.length * 2)
      for (const [i, pair] of codes.entries()) {
        const scale = mxfp4Scale(exponents[i >> 4]!)
        values[2 * i] = MXFP4_VALUES[pair & 15]! * scale
        values[2 * i + 1] = MXFP4_VALUES[pair >> 4]! * scale
      }
      return values
    }
    default:
      throw new Error(`unknown matrix format ${JSON.stringify((data as MatrixData).format)}`)
  }
}
