/**
 * safetensors checkpoints: a little-endian u64 header length, a JSON header {name: {dtype, shape, data_offsets}}, then the tensors' bytes
 * (https://huggingface.co/docs/safetensors). A checkpoint is one file, or several with an index. The header is untrusted: it is checked against the file
 * before it is used.
 */
import { readdir, stat, type FileHandle } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { foundInstead, openFile } from '../../regular-file.ts'
import { decodeBf16, narrowBf16 } from '../../kernels/float.ts'
import type { MatrixData, MatrixRows } from '../../kernels/ops.ts'
import { ModelError, type ProgressListener } from '../runner/runner.ts'
import { isJsonObject, readJsonObject } from './json-file.ts'
import type { RawWeightSource } from './quantized-checkpoint.ts'
import { readFully, type TensorInfo } from './source.ts'

/** The limit of the format's own implementation. */
const MAX_HEADER_BYTES = 100_000_000
/** Bytes per element of each dtype in the format. Only F32, F16 and BF16 can be read as values. */
const ELEMENT_BYTES: ReadonlyMap<string, number> = new Map(
  Object.entries({
    BOOL: 1,
    U8: 1,
    I8: 1,
    F8_E5M2: 1,
    F8_E4M3: 1,
    I16: 2,
    U16: 2,
    F16: 2,
    BF16: 2,
    I32: 4,
    U32: 4,
    F32: 4,
    F64: 8,
    I64: 8,
    U64: 8,
  }),
)
interface Placed extends TensorInfo {
  readonly offset: number // bytes from the start of its file
}

const AGAIN = 'Download the file again.'

function checkEntry(
  path: string,
  name: string,
  value: unknown,
  dataBytes: number,
): { dtype: string; shape: number[]; start: number; end: number } {
  const fail = (problem: string): never => {
    throw new ModelError(
      `${path}: broken safetensors header: tensor ${JSON.stringify(name.slice(0, 200))} ${problem}. ${AGAIN}`,
    )
  }
  if (typeof value !== 'object' || value === null) return fail('is not described by an object')
  const { dtype, shape, data_offsets: offsets } = value as { dtype?: unknown; shape?: unknown; data_offsets?: unknown }
  const elementBytes = typeof dtype === 'string' ? ELEMENT_BYTES.get(dtype) : undefined
  if (typeof dtype !== 'string' || elementBytes === undefined)
    return fail(`has the unknown dtype ${JSON.stringify(dtype)?.slice(0, 50) ?? '(none)'}`)
  const isCount = (n: unknown): n is number => typeof n === 'number' && Number.isSafeInteger(n) && n >= 0
  if (!Array.isArray(shape) || shape.length > 8 || !shape.every(isCount))
    return fail('has no valid shape (up to 8 sizes, each a non-negative integer)')
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount))
    return fail('has no valid data_offsets (two non-negative integers)')
  const [start, end] = offsets as [number, number]
  if (start > end || end > dataBytes)
    return fail(`has data_offsets [${start}, ${end}] outside the ${dataBytes} bytes of data in the file`)
  const expected = (shape as number[]).reduce((product, size) => product * size, 1) * elementBytes
  if (end - start !== expected)
    return fail(`of shape [${shape.join(', ')}] ${dtype} needs ${expected} bytes, its data_offsets span ${end - start}`)
  return { dtype, shape: shape as number[], start, end }
}

/** Checks a header against the size of its file; exported for the fuzz test. @throws ModelError and nothing else */
export function parseSafetensorsHeader(path: string, header: Uint8Array, fileBytes: number): Map<string, Placed> {
  let parsed: unknown
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(header))
  } catch (error) {
    throw new ModelError(`${path}: the safetensors header is not valid JSON. ${AGAIN}`, { cause: error })
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new ModelError(`${path}: the safetensors header is not a JSON object. ${AGAIN}`)
  }
  const dataStart = 8 + header.length
  const dataBytes = fileBytes - dataStart
  const tensors: Placed[] = []
  for (const [name, value] of Object.entries(parsed)) {
    if (name === '__metadata__') continue
    const { dtype, shape, start, end } = checkEntry(path, name, value, dataBytes)
    tensors.push({ name, dtype, shape, bytes: end - start, offset: dataStart + start })
  }
  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let end = dataStart
  let last = 'the header'
  for (const tensor of tensors) {
    if (tensor.offset < end)
      throw new ModelError(`${path}: broken safetensors header: tensors ${last} and ${tensor.name} overlap. ${AGAIN}`)
    if (tensor.offset > end)
      throw new ModelError(
        `${path}: broken safetensors header: ${tensor.offset - end} unused bytes before ${tensor.name}. ${AGAIN}`,
      )
    end = tensor.offset + tensor.bytes
    last = tensor.name
  }
  if (end !== fileBytes)
    throw new ModelError(`${path}: the tensors end at byte ${end}, the file at ${fileBytes}. ${AGAIN}`)
  return new Map(tensors.map((tensor) => [tensor.name, tensor]))
}

async function readHeader(file: FileHandle, path: string): Promise<Map<string, Placed>> {
  const { size } = await file.stat()
  const prefix = new Uint8Array(8)
  if (size >= 8) await readFully(file, path, prefix, 0)
  if (Buffer.from(prefix).toString('latin1') === 'version ')
    throw new ModelError(`${path}: a Git LFS pointer, not the file itself; run git lfs pull in its folder`)
  const headerBytes = Number(new DataView(prefix.buffer).getBigUint64(0, true))
  if (size < 8 || headerBytes > Math.min(size - 8, MAX_HEADER_BYTES) || headerBytes < 2) {
    throw new ModelError(
      `${path}: not a safetensors file, or truncated: its ${size} bytes should begin with a header of ${headerBytes} bytes ` +
        `(at most ${MAX_HEADER_BYTES}). ${AGAIN}`,
    )
  }
  const header = new Uint8Array(headerBytes)
  await readFully(file, path, header, 8)
  return parseSafetensorsHeader(path, header, size)
}

/** The stored bytes, which the result keeps, as values: F32 and F16 as they are, BF16 as f16 if every value fits its range and as f32 otherwise. */
function toMatrixData(path: string, { name, dtype }: TensorInfo, bytes: ArrayBuffer): MatrixData {
  switch (dtype) {
    case 'F32':
      return { format: 'f32', values: new Float32Array(bytes) }
    case 'F16':
      return { format: 'f16', values: new Uint16Array(bytes) }
    case 'BF16': {
      const words = new Uint16Array(bytes)
      return narrowBf16(words) ? { format: 'f16', values: words } : { format: 'f32', values: decodeBf16(words) }
    }
    default:
      throw new ModelError(
        `${path}: tensor ${name} has dtype ${dtype}; F32, F16 and BF16 can be served. ` +
          'For quantised weights use a GGUF file, or load the original with --quantization q8 or q4.',
      )
  }
}

/** The files of a checkpoint folder: those of its index, or else model.safetensors, or else the only .safetensors file. */
async function listFiles(folder: string): Promise<{ files: string[]; index: Map<string, string> | null }> {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.safetensors')).sort()
  const indexPath = join(folder, 'model.safetensors.index.json')
  const json = await readJsonObject(indexPath)
  if (json !== null) {
    const map = json['weight_map']
    const entries = isJsonObject(map) ? Object.entries(map) : []
    const valid =
      entries.length > 0 &&
      entries.every(([, file]) => typeof file === 'string' && basename(file) === file && file.endsWith('.safetensors'))
    if (!valid)
      throw new ModelError(
        `${indexPath}: weight_map should name a .safetensors file of this folder for each tensor. ${AGAIN}`,
      )
    const index = new Map(entries as [string, string][])
    return { files: [...new Set(index.values())].sort(), index }
  }
  if (names.includes('model.safetensors')) return { files: ['model.safetensors'], index: null }
  if (names.length === 1) return { files: names, index: null }
  throw new ModelError(
    names.length === 0
      ? `${folder}: no .safetensors weights found. Expected model.safetensors, or shards with model.safetensors.index.json.`
      : `${folder}: ${names.length} .safetensors files but no model.safetensors.index.json to say which belong together.`,
  )
}

/**
 * Opens the safetensors weights of a folder, or a single file, and checks every header. Tensors are read on demand.
 * @param onProgress gets the bytes read so far and in total
 * @throws ModelError
 */
export async function openSafetensors(path: string, onProgress?: ProgressListener): Promise<RawWeightSource> {
  const isFolder = (await stat(path)).isDirectory()
  const { files, index } = isFolder ? await listFiles(path) : { files: [''], index: null }
  const handles: FileHandle[] = []
  const tensors = new Map<string, Placed & { readonly file: FileHandle; readonly filePath: string }>()
  const close = async (): Promise<void> => {
    await Promise.all(handles.splice(0).map((handle) => handle.close()))
  }
  let totalBytes = 0
  let identity = ''
  try {
    for (const name of files) {
      const filePath = isFolder ? join(path, name) : path
      let file: FileHandle
      try {
        file = await openFile(filePath)
      } catch (error) {
        throw new ModelError(
          `${filePath}: expected a file, found ${foundInstead(error)}${index === null ? '' : '; the index names it. Download the missing shard'}.`,
          { cause: error },
        )
      }
      handles.push(file)
      const { size, mtimeMs } = await file.stat()
      identity += `${resolve(filePath)} ${size} ${mtimeMs}\n`
      for (const [tensor, placed] of await readHeader(file, filePath)) {
        if (tensors.has(tensor))
          throw new ModelError(`${filePath}: tensor ${tensor} is also in another shard. ${AGAIN}`)
        tensors.set(tensor, { ...placed, file, filePath })
        totalBytes += placed.bytes
      }
    }
    for (const [tensor, file] of index ?? []) {
      if (!tensors.has(tensor))
        throw new ModelError(`${join(path, file)}: tensor ${tensor} is missing, the index places it there. ${AGAIN}`)
    }
  } catch (error) {
    await close()
    throw error
  }
  let doneBytes = 0
  const tensorOf = (name: string): Placed & { readonly file: FileHandle; readonly filePath: string } => {
    const tensor = tensors.get(name)
    if (tensor === undefined) throw new Error(`tensor ${name} is not in ${path}`)
    return tensor
  }
  const readAt = async (
    { file, filePath, offset }: ReturnType<typeof tensorOf>,
    from: number,
    length: number,
  ): Promise<ArrayBuffer> => {
    const bytes = new ArrayBuffer(length)
    await readFully(file, filePath, new Uint8Array(bytes), offset + from, (read) => {
      doneBytes += read
      onProgress?.(doneBytes, totalBytes)
    })
    return bytes
  }
  const readRaw = (name: string): Promise<ArrayBuffer> => readAt(tensorOf(name), 0, tensorOf(name).bytes)
  const rows = (name: string): MatrixRows | null => {
    const tensor = tensorOf(name)
    const [numRows = 0, ...others] = tensor.shape
    if (others.length !== 1 || (tensor.dtype !== 'F16' && tensor.dtype !== 'F32')) return null
    const rowBytes = tensor.bytes / numRows
    return {
      read: async (first, count) =>
        toMatrixData(tensor.filePath, tensor, await readAt(tensor, first * rowBytes, count * rowBytes)),
    }
  }
  const readRawSlice = (name: string, index: number): Promise<ArrayBuffer> => {
    const tensor = tensorOf(name)
    const bytes = tensor.bytes / (tensor.shape[0] ?? 1)
    return readAt(tensor, index * bytes, bytes)
  }
  const slice = async (name: string, index: number): Promise<MatrixData> =>
    toMatrixData(tensorOf(name).filePath, tensorOf(name), await readRawSlice(name, index))
  return {
    path,
    tensors,
    identity,
    totalBytes,
    readRaw,
    readRawSlice,
    rows,
    slice,
    read: async (name) => toMatrixData(tensorOf(name).filePath, tensorOf(name), await readRaw(name)),
    close,
  }
}
