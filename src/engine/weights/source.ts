/** Where weights come from: named tensors of a checkpoint, read one at a time. Implemented by safetensors.ts and gguf.ts. */
import type { MatrixData, MatrixRows } from '../../kernels/ops.ts'
import { decodeF16 } from '../../kernels/float.ts'
import { dequantize } from '../../kernels/dequantize.ts'
import { ModelError } from '../runner/runner.ts'

export interface TensorInfo {
  readonly name: string
  /** The stored type, as the file names it. */
  readonly dtype: string
  /** Row-major, slowest dimension first. */
  readonly shape: readonly number[]
  /** Size in the file. */
  readonly bytes: number
}

export interface WeightSource {
  /** For messages: the file or folder. */
  readonly path: string
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /** Changes when a file of the checkpoint does: paths, sizes, times of change. */
  readonly identity: string
  /** Bytes of all tensors. */
  readonly totalBytes: number
  /** The tensor's values in the nearest canonical format, read from disk now. Rows x columns as stored; vectors are one row. */
  read(name: string): Promise<MatrixData>
  /** The matrix to be read a few rows at a time; null where its rows do not lie apart in the file, or their format shows only in all of them. */
  rows(name: string): MatrixRows | null
  /** Matrix `index` [rows, cols] of a tensor [matrices, rows, cols]. */
  slice(name: string, index: number): Promise<MatrixData>
  close(): Promise<void>
}

/** The tensor's description, after checking that it is there with the expected shape. */
export function expectTensor(source: WeightSource, name: string, shape: readonly number[]): TensorInfo {
  const info = source.tensors.get(name)
  if (info === undefined) {
    throw new ModelError(
      `${source.path}: tensor ${name} [${shape.join(', ')}] is missing; the checkpoint has ${source.tensors.size} tensors. ` +
        'Check that config.json belongs to these weights and that every shard was downloaded.',
    )
  }
  if (info.shape.length !== shape.length || info.shape.some((size, i) => size !== shape[i])) {
    throw new ModelError(
      `${source.path}: tensor ${name} should be [${shape.join(', ')}] by config.json, found [${info.shape.join(', ')}]. ` +
        'Check that config.json belongs to these weights.',
    )
  }
  return info
}

/** Reads a matrix [rows, cols], checking its shape. */
export async function readMatrix(source: WeightSource, name: string, rows: number, cols: number): Promise<MatrixData> {
  expectTensor(source, name, [rows, cols])
  return source.read(name)
}

/** A matrix [rows, cols] to be read a few rows at a time, or all of it, after checking its shape. */
export async function openMatrix(
  source: WeightSource,
  name: string,
  rows: number,
  cols: number,
): Promise<MatrixData | MatrixRows> {
  expectTensor(source, name, [rows, cols])
  return source.rows(name) ?? source.read(name)
}

/** The tensor's description, after checking that it is there with so many values, whatever its dimensions. */
export function expectValues(source: WeightSource, name: string, count: number): TensorInfo {
  const info = source.tensors.get(name) ?? expectTensor(source, name, [count])
  const found = info.shape.reduce((product, size) => product * size, 1)
  return found === count ? info : expectTensor(source, name, [count])
}

/** Reads a small tensor as f32 values in the order stored, checking their number. */
export async function readVector(source: WeightSource, name: string, length: number): Promise<Float32Array> {
  expectValues(source, name, length)
  return dequantize(await source.read(name))
}

function join<T extends Float32Array | Uint16Array | Int8Array | Uint8Array>(parts: readonly T[], target: T): T {
  let at = 0
  for (const part of parts) {
    target.set(part, at)
    at += part.length
  }
  return target
}

const total = (parts: readonly { readonly length: number }[]): number =>
  parts.reduce((sum, part) => sum + part.length, 0)

const joinF32 = (parts: readonly Float32Array[]): Float32Array => join(parts, new Float32Array(total(parts)))

/** The quantised form with the given group and with minimums, of the same exact values. */
function asQ8(
  data: MatrixData & { format: 'q8' | 'q4' },
  group: 16 | 32,
  withMins: boolean,
): MatrixData & { format: 'q8' } {
  let codes: Int8Array
  if (data.format === 'q8') codes = data.codes
  else {
    const offset = data.mins === null ? 8 : 0
    codes = new Int8Array(data.codes.length * 2)
    for (let i = 0; i < data.codes.length; i++) {
      const pair = data.codes[i]!
      codes[2 * i] = (pair & 15) - offset
      codes[2 * i + 1] = (pair >> 4) - offset
    }
  }
  const repeat = data.group / group
  const spread = (values: Float32Array): Float32Array =>
    repeat === 1
      ? values
      : Float32Array.from({ length: values.length * repeat }, (_, i) => values[Math.floor(i / repeat)]!)
  const scales = spread(data.scales)
  const mins = data.mins === null ? (withMins ? new Float32Array(scales.length) : null) : spread(data.mins)
  const isNarrow = (data.format === 'q4' || data.isNarrow === true) && (data.mins !== null || !withMins)
  return { format: 'q8', group, ...(isNarrow ? { isNarrow } : {}), codes, scales, mins }
}

/** q4 without minimums as q4 with them: (code - 8) scale = code scale + (-8 scale), exactly. */
function q4WithMins(data: MatrixData & { format: 'q4' }): MatrixData & { format: 'q4' } {
  return data.mins === null ? { ...data, mins: data.scales.map((scale) => -8 * scale) } : data
}

/**
 * One matrix of the parts' rows, one below the other, with exactly the parts' values: parts of unlike formats are brought to the widest
 * among them (a quantised part beside a float one becomes float).
 */
export function concatRows(parts: readonly MatrixData[]): MatrixData {
  const first = parts[0]
  if (first === undefined) throw new Error('concatRows needs at least one part')
  if (parts.length === 1) return first
  const quantised = parts.filter((part) => part.format === 'q8' || part.format === 'q4')
  if (quantised.length === parts.length) {
    const withMins = quantised.some((part) => part.mins !== null)
    if (quantised.every((part) => part.format === 'q4')) {
      const planes = withMins ? quantised.map(q4WithMins) : quantised
      return {
        format: 'q4',
        group: 32,
        codes: join(
          planes.map((part) => part.codes),
          new Uint8Array(total(planes.map((part) => part.codes))),
        ),
        scales: joinF32(planes.map((part) => part.scales)),
        mins: withMins ? joinF32(planes.map((part) => part.mins ?? new Float32Array(0))) : null,
      }
    }
    const group = quantised.some((part) => part.group === 16) ? 16 : 32
    const planes = quantised.map((part) => asQ8(part, group, withMins))
    const isNarrow = planes.every((part) => part.isNarrow === true)
    return {
      format: 'q8',
      group,
      ...(isNarrow ? { isNarrow } : {}),
      codes: join(
        planes.map((part) => part.codes),
        new Int8Array(total(planes.map((part) => part.codes))),
      ),
      scales: joinF32(planes.map((part) => part.scales)),
      mins: withMins ? joinF32(planes.map((part) => part.mins ?? new Float32Array(0))) : null,
    }
  }
  const halves = parts.filter((part) => part.format === 'f16')
  if (halves.length === parts.length) {
    const values = halves.map((part) => part.values)
    return { format: 'f16', values: join(values, new Uint16Array(total(values))) }
  }
  return {
    format: 'f32',
    values: joinF32(parts.map((part) => (part.format === 'f16' ? decodeF16(part.values) : dequantize(part)))),
  }
}

/** The matrix [count, cols] whose row r is row `from(r)` of the data's `rows`. */
export function takeRows(data: MatrixData, rows: number, count: number, from: (row: number) => number): MatrixData {
  const take = <T extends Float32Array | Uint16Array | Int8Array | Uint8Array>(
    source: T,
    create: (length: number) => T,
  ): T => {
    const width = source.length / rows
    const target = create(count * width)
    for (let row = 0; row < count; row++)
      target.set(source.subarray(from(row) * width, (from(row) + 1) * width), row * width)
    return target
  }
  const takeF32 = (plane: Float32Array): Float32Array => take(plane, (length) => new Float32Array(length))
  if (data.format === 'f32') return { ...data, values: takeF32(data.values) }
  if (data.format === 'f16') return { ...data, values: take(data.values, (length) => new Uint16Array(length)) }
  const scales = takeF32(data.scales)
  const mins = data.mins === null ? null : takeF32(data.mins)
  return data.format === 'q8'
    ? { ...data, codes: take(data.codes, (length) => new Int8Array(length)), scales, mins }
    : { ...data, codes: take(data.codes, (length) => new Uint8Array(length)), scales, mins }
}

/** The matrix [cols, rows] of float data [rows, cols]. Throws ModelError for quantised data, whose groups run along rows. */
export function transpose(data: MatrixData, rows: number, cols: number): MatrixData {
  if (data.format !== 'f32' && data.format !== 'f16')
    throw new ModelError(
      'experts stored as [inputs, outputs] cannot be quantised while they load: take the MXFP4 checkpoint or a GGUF file',
    )
  const turned = <T extends Float32Array | Uint16Array>(from: T, to: T): T => {
    for (let row = 0; row < rows; row++)
      for (let col = 0; col < cols; col++) to[col * rows + row] = from[row * cols + col]!
    return to
  }
  return data.format === 'f32'
    ? { format: 'f32', values: turned(data.values, new Float32Array(rows * cols)) }
    : { format: 'f16', values: turned(data.values, new Uint16Array(rows * cols)) }
}
