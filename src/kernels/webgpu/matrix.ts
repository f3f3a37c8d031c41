/**
 * The weight layout of this backend. A matrix is cut into tiles of 32 output rows. A tile holds vec4<u32> units of consecutive inputs, in the order
 * [unit of K][32 rows]. Lanes that own neighbouring output rows read neighbouring units (coalesced on a GPU, contiguous on a CPU), and no lane needs
 * the weights of another. K is padded with zeros to blocks of 32 inputs, rows to whole tiles.
 *
 *     codes    f32: 8 units per block, f16: 4, q8: 2, q4 and mxfp4: 1 (4 bits per input, ascending from the low end)
 *     scales   u32 [tile][word of K][32 rows]. With mins, a word is an f16 pair (scale, min) per group; without, the f16 scales of two groups. All
 *              are multiplied by one power of two per matrix, so that small scales do not become f16 subnormals; kernels divide it out at the end.
 *              mxfp4: a word has the exponents of four blocks, one byte each
 *
 * In a gated matrix, tiles of gate rows and tiles of up rows alternate, so that one thread computes both halves of an output.
 */
import { checkMatrix } from '../dequantize.ts'
import { f32ToF16 } from '../float.ts'
import type { MatrixUse, StoredMatrix } from '../backend.ts'
import type { Matrix, MatrixData, MatrixFormat } from '../ops.ts'

const TILE_ROWS = 32
const BLOCK_COLS = 32

const BITS: Readonly<Record<MatrixFormat, number>> = { f32: 32, f16: 16, q8: 8, q4: 4, mxfp4: 4 }

/** The properties of a weight format that the kernels are specialised for. */
export interface WeightForm {
  /** Bits per code. */
  readonly FORMAT: number
  /** 1: codes and scales are MXFP4's. */
  readonly FP4: number
  /** 16-byte units per block of 32 inputs. */
  readonly UNITS: number
  /** Inputs per scale. */
  readonly GROUP: number
  /** 1: groups have minimums. */
  readonly MINS: number
}

export interface MatrixShard {
  readonly codes: GPUBuffer
  readonly scales: GPUBuffer
  /** Packed rows before this shard and in it, padding included. A gated matrix counts both halves. */
  readonly firstRow: number
  readonly numRows: number
}

export interface GpuMatrix extends Matrix {
  readonly id: number
  readonly form: WeightForm
  readonly numBlocks: number
  /** Gate and up rows are in alternating tiles. */
  readonly isGated: boolean
  /** What kernels multiply sums by: the reciprocal of the power of two in the scales. */
  readonly weightScale: number
  readonly shards: readonly MatrixShard[]
}

/** Shader constants of a weight format. */
export function formOf(format: MatrixFormat, group: number, hasMins: boolean): WeightForm {
  const FORMAT = BITS[format]
  return {
    FORMAT,
    FP4: format === 'mxfp4' ? 1 : 0,
    UNITS: (BLOCK_COLS * FORMAT) / 128,
    GROUP: group,
    MINS: hasMins ? 1 : 0,
  }
}

/** Shader constants of these weights. */
export function weightForm(data: MatrixData): WeightForm {
  const isQuantized = data.format === 'q8' || data.format === 'q4'
  return isQuantized ? formOf(data.format, data.group, data.mins !== null) : formOf(data.format, 32, false)
}

/** Words of scales per output row. */
function scaleWords({ GROUP, MINS, FORMAT, FP4 }: WeightForm, numBlocks: number): number {
  if (FORMAT >= 16) return 0
  if (FP4 === 1) return Math.ceil(numBlocks / 4)
  const groups = numBlocks * (BLOCK_COLS / GROUP)
  return MINS === 1 ? groups : Math.ceil(groups / 2)
}

/** The codes of a matrix as u32 words, each row padded to `units` units of 16 bytes. */
export function codeWords(data: MatrixData, rows: number, cols: number, units: number): Uint32Array {
  const plane = data.format === 'f32' || data.format === 'f16' ? data.values : data.codes
  const bytes = new Uint8Array(plane.buffer, plane.byteOffset, plane.byteLength)
  const rowBytes = (cols * BITS[data.format]) / 8
  const paddedBytes = units * 16
  if (data.format === 'mxfp4') return new Uint32Array(bytes.slice().buffer).map(withoutNegativeZeros)
  if (rowBytes === paddedBytes && bytes.byteOffset % 4 === 0) {
    return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
  }
  const padded = new Uint8Array(rows * paddedBytes)
  for (let row = 0; row < rows; row++)
    padded.set(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), row * paddedBytes)
  return new Uint32Array(padded.buffer)
}

/** The largest power of two that keeps the values of all planes within f16 when they are multiplied by it. */
function scaleShift(...planes: (Float32Array | null)[]): number {
  let largest = 0
  for (const plane of planes) {
    if (plane === null) continue
    for (const value of plane) largest = Math.max(largest, Math.abs(value))
  }
  return largest === 0 || !Number.isFinite(largest) ? 1 : 2 ** Math.floor(Math.log2(60000 / largest))
}

/** Source row of each packed row; -1: padding. */
function packedOrder(rows: number, isGated: boolean): Int32Array {
  const outputs = isGated ? rows / 2 : rows
  const numTiles = Math.ceil(outputs / TILE_ROWS) * (isGated ? 2 : 1)
  const order = new Int32Array(numTiles * TILE_ROWS).fill(-1)
  for (let output = 0; output < outputs; output++) {
    if (!isGated) order[output] = output
    else {
      const packed = 2 * Math.floor(output / TILE_ROWS) * TILE_ROWS + (output % TILE_ROWS)
      order[packed] = output
      order[packed + TILE_ROWS] = outputs + output
    }
  }
  return order
}

export interface MatrixLoader {
  readonly device: GPUDevice
  readonly maxBindingBytes: number
}

let nextId = 1

/** A name for the layout, with everything that the bytes of packed shards depend on. */
export function packedLayout({ maxBindingBytes }: MatrixLoader): string {
  return `webgpu tiles 3, bindings of ${maxBindingBytes}`
}

/** How a matrix is laid out on the device: everything except its bytes. */
export interface Plan {
  readonly form: WeightForm
  readonly numBlocks: number
  readonly units: number
  readonly numScaleWords: number
  /** Source row of each packed row; -1: padding. */
  readonly order: Int32Array
  readonly shards: readonly { readonly firstRow: number; readonly numRows: number; readonly bytes: readonly number[] }[]
}

/** Plans how a matrix is cut into buffers that the device can bind. @throws Error where one tile exceeds the largest binding */
export function plan(
  { maxBindingBytes }: MatrixLoader,
  label: string,
  rows: number,
  cols: number,
  form: WeightForm,
  isGated: boolean,
): Plan {
  const numBlocks = Math.ceil(cols / BLOCK_COLS)
  const units = numBlocks * form.UNITS
  const numScaleWords = scaleWords(form, numBlocks)
  const order = packedOrder(rows, isGated)
  const tileBytes = units * TILE_ROWS * 16
  // A shard of a gated matrix ends after a pair of tiles.
  const granularity = isGated ? 2 : 1
  const tilesPerShard = Math.floor(maxBindingBytes / tileBytes / granularity) * granularity
  if (tilesPerShard === 0)
    throw new Error(
      `${label}: ${TILE_ROWS * granularity} rows of ${cols} inputs exceed the adapter's largest binding of ${maxBindingBytes} bytes`,
    )
  const numTiles = order.length / TILE_ROWS
  const shards = Array.from({ length: Math.ceil(numTiles / tilesPerShard) }, (_, i) => {
    const tiles = Math.min(tilesPerShard, numTiles - i * tilesPerShard)
    return {
      firstRow: i * tilesPerShard * TILE_ROWS,
      numRows: tiles * TILE_ROWS,
      bytes: [tiles * tileBytes, Math.max(16, tiles * TILE_ROWS * numScaleWords * 4)],
    }
  })
  return { form, numBlocks, units, numScaleWords, order, shards }
}

/** Creates the buffers of all shards. `fill` writes the codes and the scales of shard `index`; it is awaited before they go to the device. */
async function upload(
  { device }: MatrixLoader,
  label: string,
  { shards }: Plan,
  fill: (codes: ArrayBuffer, scales: ArrayBuffer, index: number) => void | Promise<void>,
): Promise<MatrixShard[]> {
  const uploaded: MatrixShard[] = []
  for (const [index, { bytes, firstRow, numRows }] of shards.entries()) {
    const [codes, scales] = (['codes', 'scales'] as const).map((plane, i) =>
      device.createBuffer({
        label: `${label} ${plane}`,
        size: bytes[i]!,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
        mappedAtCreation: true,
      }),
    ) as [GPUBuffer, GPUBuffer]
    await fill(codes.getMappedRange(), scales.getMappedRange(), index)
    codes.unmap()
    scales.unmap()
    uploaded.push({ codes, scales, firstRow, numRows })
  }
  // The queue copies uploads later: waiting here limits the staging memory to one matrix.
  await device.queue.onSubmittedWorkDone()
  return uploaded
}

/** Writes the codes and scales of one shard. `words`: result of codeWords. `shift`: result of shiftOf. */
export function fillShard(
  { numScaleWords, order, shards, units }: Plan,
  index: number,
  data: MatrixData,
  cols: number,
  words: Uint32Array,
  shift: number,
  codes: ArrayBuffer,
  scales: ArrayBuffer,
): void {
  const { firstRow, numRows } = shards[index]!
  const shardOrder = order.subarray(firstRow, firstRow + numRows)
  interleave(new Uint32Array(codes), words, shardOrder, units)
  if (data.format === 'f32' || data.format === 'f16') return
  const groups = cols / data.group
  if (data.format === 'mxfp4') {
    packExponents(new Uint8Array(scales), data.exponents, shardOrder, groups, numScaleWords)
    return
  }
  packScales(new Uint32Array(scales), data.scales, data.mins, shardOrder, groups, numScaleWords, shift)
}

/** The power of two by which the kernels' sums are too large: the one in the matrix's scales, or 2 for MXFP4, whose codes kernels read doubled. */
export function shiftOf(data: MatrixData): number {
  if (data.format === 'mxfp4') return 2
  return data.format === 'q8' || data.format === 'q4' ? scaleShift(data.scales, data.mins) : 1
}

/** Repacks a matrix and uploads it, one shard at a time: host memory for one shard is needed beside the data. */
export async function loadMatrix(
  loader: MatrixLoader,
  label: string,
  rows: number,
  cols: number,
  data: MatrixData,
  use: MatrixUse,
): Promise<GpuMatrix> {
  checkMatrix(label, rows, cols, data)
  const planned = plan(loader, label, rows, cols, weightForm(data), use.glu === true)
  const { form, numBlocks } = planned
  const words = codeWords(data, rows, cols, planned.units)
  const shift = shiftOf(data)
  const planes: Uint8Array[] = []
  const uploaded = await upload(loader, label, planned, (codes, scales, index) => {
    fillShard(planned, index, data, cols, words, shift, codes, scales)
    // Copied, because unmapping detaches the memory.
    if (use.onPacked !== undefined) planes.push(new Uint8Array(codes.slice(0)), new Uint8Array(scales.slice(0)))
  })
  await use.onPacked?.({ format: data.format, form: { ...form, shift }, planes })
  const weightScale = 1 / shift
  const { format } = data
  return {
    id: nextId++,
    label,
    rows,
    cols,
    format,
    form,
    numBlocks,
    isGated: use.glu === true,
    weightScale,
    shards: uploaded,
  }
}

/** Uploads a matrix that was packed before. @throws RangeError where its form or sizes do not fit */
export async function importMatrix(
  loader: MatrixLoader,
  label: string,
  rows: number,
  cols: number,
  { format, form: stored, planeBytes, read }: StoredMatrix,
  use: MatrixUse,
): Promise<GpuMatrix> {
  const { FORMAT, GROUP = 32, MINS = 0, shift = 1 } = stored
  const form = formOf(format, GROUP, MINS === 1)
  const planned = plan(loader, label, rows, cols, form, use.glu === true)
  const expected = planned.shards.flatMap(({ bytes }) => bytes)
  if (form.FORMAT !== FORMAT || expected.length !== planeBytes.length || expected.some((n, i) => n !== planeBytes[i])) {
    throw new RangeError(
      `${label}: stored planes of ${planeBytes.join(', ')} bytes do not fit ${rows} x ${cols} ${format}`,
    )
  }
  const shards = await upload(loader, label, planned, async (codes, scales, index) => {
    await read(2 * index, new Uint8Array(codes))
    await read(2 * index + 1, new Uint8Array(scales))
  })
  const { numBlocks } = planned
  const weightScale = 1 / shift
  return { id: nextId++, label, rows, cols, format, form, numBlocks, isGated: use.glu === true, weightScale, shards }
}

/** Eight MXFP4 codes, with -0 replaced by 0: the sign of a zero would carry into the neighbouring code when kernels widen codes. */
function withoutNegativeZeros(codes: number): number {
  const isNotZero = (codes | (codes >>> 1) | (codes >>> 2)) & 0x11111111
  return codes & (0x77777777 | (isNotZero << 3))
}

function interleave(target: Uint32Array, words: Uint32Array, order: Int32Array, units: number): void {
  for (let packed = 0; packed < order.length; packed++) {
    const row = order[packed]!
    if (row < 0) continue
    const tile = Math.floor(packed / TILE_ROWS) * units * TILE_ROWS + (packed % TILE_ROWS)
    let from = row * units * 4
    let to = tile * 4
    for (let unit = 0; unit < units; unit++) {
      target[to] = words[from]!
      target[to + 1] = words[from + 1]!
      target[to + 2] = words[from + 2]!
      target[to + 3] = words[from + 3]!
      from += 4
      to += TILE_ROWS * 4
    }
  }
}

function packScales(
  target: Uint32Array,
  scales: Float32Array,
  mins: Float32Array | null,
  order: Int32Array,
  groups: number,
  numWords: number,
  shift: number,
): void {
  const scaled = (value: number | undefined) => f32ToF16(value === undefined ? 0 : value * shift)
  for (let packed = 0; packed < order.length; packed++) {
    const row = order[packed]!
    if (row < 0) continue
    const base = row * groups
    const tile = Math.floor(packed / TILE_ROWS) * numWords * TILE_ROWS + (packed % TILE_ROWS)
    for (let word = 0; word < numWords; word++) {
      const [low, high] =
        mins === null
          ? [scales[base + 2 * word], 2 * word + 1 < groups ? scales[base + 2 * word + 1] : undefined]
          : [word < groups ? scales[base + word] : undefined, word < groups ? mins[base + word] : undefined]
      target[tile + word * TILE_ROWS] = (scaled(low) | (scaled(high) << 16)) >>> 0
    }
  }
}

/** Writes the exponents of each row's blocks, four to a word. */
function packExponents(
  target: Uint8Array,
  exponents: Uint8Array,
  order: Int32Array,
  numBlocks: number,
  numWords: number,
): void {
  for (const [packed, row] of order.entries()) {
    if (row < 0) continue
    const tile = Math.floor(packed / TILE_ROWS) * numWords * TILE_ROWS + (packed % TILE_ROWS)
    for (let block = 0; block < numBlocks; block++)
      target[4 * (tile + (block >> 2) * TILE_ROWS) + (block & 3)] = exponents[row * numBlocks + block]!
  }
}
