/** Converts matrices in their canonical formats to lists of byte planes and back. */
import type { PackedMatrix, StoredMatrix } from './backend.ts'
import type { MatrixData } from './ops.ts'

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength)

/** The planes are: values (f32, f16); codes and exponents (mxfp4); codes, scales and, if present, minimums (q8, q4). */
export function toPlanes(data: MatrixData): PackedMatrix {
  if (data.format === 'f32' || data.format === 'f16') {
    return { format: data.format, form: {}, planes: [bytesOf(data.values)] }
  }
  if (data.format === 'mxfp4') {
    return { format: data.format, form: {}, planes: [data.codes, data.exponents].map(bytesOf) }
  }
  const planes = [data.codes, data.scales, ...(data.mins === null ? [] : [data.mins])].map(bytesOf)
  return { format: data.format, form: { group: data.group }, planes }
}

/** Reads the planes into newly allocated memory. */
export async function fromPlanes({ format, form, planeBytes, read }: StoredMatrix): Promise<MatrixData> {
  const planes = planeBytes.map((bytes) => new ArrayBuffer(bytes))
  for (const [index, plane] of planes.entries()) await read(index, new Uint8Array(plane))
  const [first, second, third] = planes
  if (first === undefined) throw new Error('a matrix without planes')
  if (format === 'f32') return { format, values: new Float32Array(first) }
  if (format === 'f16') return { format, values: new Uint16Array(first) }
  if (second === undefined) throw new Error('a quantised matrix without scales')
  if (format === 'mxfp4') return { format, group: 32, codes: new Uint8Array(first), exponents: new Uint8Array(second) }
  const scales = new Float32Array(second)
  const mins = third === undefined ? null : new Float32Array(third)
  if (format === 'q4') return { format, group: 32, codes: new Uint8Array(first), scales, mins }
  return { format, group: form['group'] === 16 ? 16 : 32, codes: new Int8Array(first), scales, mins }
}
