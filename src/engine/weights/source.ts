/** Where weights come from: named tensors of a checkpoint, read one at a time. Implemented by safetensors.ts and gguf-file.ts. */
import type { FileHandle } from 'node:fs/promises'
import type { MatrixData, MatrixRows } from '../../kernels/ops.ts'
import { dequantize, mapPlanes, type Plane } from '../../kernels/dequantize.ts'
import { mxfp4AsQ8 } from '../../kernels/mxfp4.ts'
import { ModelError } from '../runner/runner.ts'

export interface TensorInfo {
  readonly name: string
  /** The stored type, by the file format's name. */
  readonly dtype: string
  /** Row-major, slowest dimension first. */
  readonly shape: readonly number[]
  /** Size in the file. */
  readonly bytes: number
}

export interface WeightSource {
  /** The file or folder, for messages. */
  readonly path: string
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /** Paths, sizes and modification times of the files: changes when a file of the checkpoint does. */
  readonly identity: string
  /** Bytes of all tensors. */
  readonly totalBytes: number
  /** Reads a tensor from disk, in the nearest format of MatrixData: [rows, cols] as stored, a vector as one row. */
  read(name: string): Promise<MatrixData>
  /** Reads a matrix a few rows at a time; null: its rows are not contiguous in the file, or their format depends on all values. */
  rows(name: string): MatrixRows | null
  /** Reads matrix `index` [rows, cols] of a tensor [matrices, rows, cols]. */
  slice(name: string, index: number): Promise<MatrixData>
  close(): Promise<void>
}

/** Bytes per read, so that progress shows inside large tensors. Node reads at most 2 GiB at once. */
const READ_BYTES = 64 << 20

/** Fills `target` from the file's bytes at `offset`. @param onRead gets the number of bytes of each read. @throws ModelError where the file ends */
export async function readFully(
  file: FileHandle,
  path: string,
  target: Uint8Array,
  offset: number,
  onRead: (bytes: number) => void = () => {},
): Promise<void> {
  for (let done = 0; done < target.length;) {
    const { bytesRead } = await file.read(target, done, Math.min(READ_BYTES, target.length - done), offset + done)
    if (bytesRead === 0)
      throw new ModelError(`${path}: ended at byte ${offset + done} while being read; was it replaced?`)
    done += bytesRead
    onRead(bytesRead)
  }
}

/** The number of values of a shape. */
export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1)

/** The tensor's description. @throws ModelError if it is missing or has another shape */
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

/** Reads a matrix [rows, cols]. @throws ModelError if it is missing or has another shape */
export async function readMatrix(source: WeightSource, name: string, rows: number, cols: number): Promise<MatrixData> {
  expectTensor(source, name, [rows, cols])
  return source.read(name)
}

/** A matrix [rows, cols], to be read a few rows at a time where that is possible. @throws ModelError if it is missing or has another shape */
export async function openMatrix(
  source: WeightSource,
  name: string,
  rows: number,
  cols: number,
): Promise<MatrixData | MatrixRows> {
  expectTensor(source, name, [rows, cols])
  return source.rows(name) ?? source.read(name)
}

const withoutOnes = (shape: readonly number[]): readonly number[] => shape.filter((size) => size !== 1)

/**
 * The tensor's description. Dimensions of size 1 do not count: file formats differ in them.
 * @throws ModelError if it is missing or has another shape
 */
export function expectValues(source: WeightSource, name: string, shape: readonly number[]): TensorInfo {
  const info = source.tensors.get(name)
  const expected = withoutOnes(shape)
  const found = info === undefined ? null : withoutOnes(info.shape)
  const isExpected = found?.length === expected.length && found.every((size, i) => size === expected[i])
  return isExpected && info !== undefined ? info : expectTensor(source, name, shape)
}

/** Reads a small tensor as f32 values in the order stored. @throws ModelError if it is missing or does not have `length` values */
export async function readVector(source: WeightSource, name: string, length: number): Promise<Float32Array> {
  const { shape } = source.tensors.get(name) ?? expectTensor(source, name, [length])
  if (sizeOf(shape) !== length) expectTensor(source, name, [length])
  return dequantize(await source.read(name))
}

/** An empty array of the same type. */
const arrayLike = <T extends Plane>(plane: T, length: number): T =>
  new (plane.constructor as new (length: number) => T)(length)

/** The first part, which says that it has sub-scales only if all have. */
function withSubScalesOfAll(parts: readonly MatrixData[]): MatrixData {
  const hasAll = parts.every((part) => (part.format === 'q8' || part.format === 'q4') && part.hasSubScales === true)
  const first = parts[0]!
  if (hasAll || (first.format !== 'q8' && first.format !== 'q4')) return first
  const { hasSubScales: _, ...rest } = first
  return rest
}

/** Joins the rows of parts that agree in format, group and having minimums. */
function joinAlike(parts: readonly MatrixData[]): MatrixData {
  const planes = parts.map((part) => {
    const own: Plane[] = []
    mapPlanes(part, (plane) => {
      own.push(plane)
      return plane
    })
    return own
  })
  let index = 0
  return mapPlanes(withSubScalesOfAll(parts), (plane) => {
    const own = planes.map((all) => all[index]!)
    index++
    const target = arrayLike(
      plane,
      own.reduce((sum, { length }) => sum + length, 0),
    )
    let at = 0
    for (const part of own) {
      target.set(part, at)
      at += part.length
    }
    return target
  })
}

/** The same values, exactly, as q8 with the given group; data without minimums gets them if `withMins`. Narrow where the codes allow it. */
function asQ8(
  data: MatrixData & { format: 'q8' | 'q4' },
  group: 16 | 32,
  withMins: boolean,
): MatrixData & { format: 'q8' } {
  let codes: Int8Array
  // (code - offset) scale = code scale + (-offset scale), exactly.
  const movesOffset = withMins && data.mins === null && (data.format === 'q4' || data.isNarrow === true)
  const ownOffset = data.format === 'q4' ? 8 : 32
  if (data.format === 'q8') codes = movesOffset ? data.codes.map((code) => code + ownOffset) : data.codes
  else {
    const offset = data.mins === null && !movesOffset ? 8 : 0
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
  const added = (): Float32Array =>
    movesOffset ? scales.map((scale) => -ownOffset * scale) : new Float32Array(scales.length)
  const mins = data.mins === null ? (withMins ? added() : null) : spread(data.mins)
  const isNarrow = data.format === 'q4' || data.isNarrow === true
  return { format: 'q8', group, ...(isNarrow ? { isNarrow } : {}), codes, scales, mins }
}

/** q4 with minimums, of the same exact values: (code - 8) scale = code scale + (-8 scale). */
function q4WithMins(data: MatrixData & { format: 'q4' }): MatrixData & { format: 'q4' } {
  return data.mins === null ? { ...data, mins: data.scales.map((scale) => -8 * scale) } : data
}

const isNarrowed = (part: MatrixData): boolean => part.format === 'q8' && part.isNarrow === true

/** The parts in the narrowest format that represents all of their values exactly. */
function alike(parts: readonly MatrixData[]): readonly MatrixData[] {
  const [first] = parts
  if (parts.every(({ format }) => format === first?.format && (format === 'f16' || format === 'mxfp4'))) return parts
  const coded = parts
    .map((part) => (part.format === 'mxfp4' ? mxfp4AsQ8(part) : part))
    .filter((part) => part.format === 'q8' || part.format === 'q4')
  // Bytes of their own kind need no other form.
  const kinds = new Set(coded.map((part) => [part.format, part.group, part.mins === null, isNarrowed(part)].join()))
  if (kinds.size === 1 && coded.length === parts.length) return coded
  if (coded.length < parts.length) return parts.map((part) => ({ format: 'f32', values: dequantize(part) }))
  const withMins = coded.some(({ mins }) => mins !== null)
  if (coded.every((part) => part.format === 'q4')) return withMins ? coded.map(q4WithMins) : coded
  const group = coded.some((part) => part.group === 16) ? 16 : 32
  const planes = coded.map((part) => asQ8(part, group, withMins))
  if (planes.every(({ isNarrow }) => isNarrow === true)) return planes
  return planes.map(({ codes, scales, mins }) => ({ format: 'q8', group, codes, scales, mins }))
}

/**
 * One matrix of the parts' rows, one part below the other, with exactly the parts' values. Parts of different formats are converted to the widest among
 * them: a quantised part beside a float one becomes float.
 */
export function concatRows(parts: readonly MatrixData[]): MatrixData {
  const [first] = parts
  if (first === undefined) throw new Error('concatRows needs at least one part')
  return parts.length === 1 ? first : joinAlike(alike(parts))
}

/** The matrix [count, cols] with row `from(r)` of `data` [rows, cols] as its row r. */
export function takeRows(data: MatrixData, rows: number, count: number, from: (row: number) => number): MatrixData {
  return mapPlanes(data, (plane) => {
    const width = plane.length / rows
    const target = arrayLike(plane, count * width)
    for (let row = 0; row < count; row++)
      target.set(plane.subarray(from(row) * width, (from(row) + 1) * width), row * width)
    return target
  })
}

/** The transpose [cols, rows] of float data [rows, cols]. @throws ModelError for quantised data, which has groups along its rows */
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
