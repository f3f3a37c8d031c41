/** GGUF files of any model as a weight source: headers, places of tensors and their values. The caller names the tensors. */
import type { FileHandle } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { foundInstead, isMissing, openFile } from '../../regular-file.ts'
import type { MatrixData, MatrixRows } from '../../kernels/ops.ts'
import { MAX_LAYERS } from '../runner/config-reader.ts'
import { ModelError, type ProgressListener } from '../runner/runner.ts'
import { BLOCK_FORMATS, blockTypeName } from './gguf-blocks.ts'
import { type GgufHeader, type GgufTensor, type GgufValue, type GgufValues, readGgufHeader } from './gguf-header.ts'
import { partsOf } from './model-path.ts'
import { readFully, takeRows, type TensorInfo, type WeightSource } from './source.ts'

/** Names a stored tensor, and says how it was stored. */
export type GgufNaming = (name: string) => {
  readonly name: string
  /** The number of heads whose rows the converter permuted; null: it permuted none. */
  readonly permutedHeads: number | null
  /** A vector, whatever the number of its stored dimensions. */
  readonly isVector?: boolean
  /** A matrix of one row, which the converter stored as a vector. */
  readonly isRow?: boolean
}

interface GgufFile {
  readonly source: WeightSource
  readonly metadata: GgufMetadata
}

interface Placed extends TensorInfo {
  readonly tensor: GgufTensor
  /** The file with the tensor: a model may be split into several. */
  readonly part: Part
  /** The number of heads whose rows the converter permuted; null: it permuted none. */
  readonly permutedHeads: number | null
}

/** Typed access to metadata. */
export class GgufMetadata {
  readonly path: string
  readonly architecture: string
  readonly #values: GgufValues

  constructor(path: string, { metadata }: GgufHeader) {
    this.path = path
    this.#values = metadata
    const architecture = metadata.get('general.architecture')
    if (typeof architecture !== 'string')
      throw new ModelError(
        `${path}: general.architecture should be a name, found ${JSON.stringify(architecture) ?? 'nothing'}`,
      )
    this.architecture = architecture
  }

  /** The decoder's layers by index; empty where the header has no plausible number. Blocks behind them predict further tokens. */
  get layers(): readonly number[] {
    const blocks = this.own('block_count')
    const extra = this.own('nextn_predict_layers') ?? 0
    const count = typeof blocks === 'number' && typeof extra === 'number' ? blocks - extra : 0
    return count > 0 && count <= MAX_LAYERS ? Array.from({ length: count }, (_, layer) => layer) : []
  }

  get(key: string): GgufValue | null {
    return this.#values.get(key) ?? null
  }

  /** As `get`, for numbers that the config reader checks, for which NaN and infinities are no value. Lists may have infinities (Gemma 3n's do). */
  #finite(key: string): GgufValue | null {
    const value = this.get(key)
    const isWrong = Array.isArray(value)
      ? value.some((item) => Number.isNaN(item))
      : typeof value === 'number' && !Number.isFinite(value)
    if (isWrong) throw new ModelError(`${this.path}: ${key} should be a finite number, found ${String(value)}`)
    return value
  }

  /** The number of items of a list, without decoding the list. */
  lengthOf(key: string): number | undefined {
    return this.#values.lengthOf(key)
  }

  /** A value under the architecture's name: a single one where all layers agree, otherwise a list with one item per layer. */
  perLayer(key: string): unknown {
    const value = this.#finite(`${this.architecture}.${key}`)
    if (!Array.isArray(value)) return value ?? undefined
    const items = value as readonly unknown[]
    return items.every((item) => item === items[0]) ? items[0] : [...items]
  }

  /**
   * A value under the architecture's name, as plain JSON that the config reader checks. Some files store a list with the same item for every layer.
   * @param isMeant items of a list for which it is false are ignored
   * @throws ModelError where the items differ
   */
  own(key: string, isMeant: (item: unknown) => boolean = () => true): unknown {
    const value = this.#finite(`${this.architecture}.${key}`)
    if (!Array.isArray(value)) return value ?? undefined
    const items = (value as readonly unknown[]).filter(isMeant)
    const [first] = items
    if (items.some((item) => item !== first)) {
      throw new ModelError(
        `${this.path}: ${this.architecture}.${key} differs between layers, which is not so in any known family`,
      )
    }
    return first
  }
}

/** Reads `length` bytes of a part. */
async function readBytes(
  { file, path }: Part,
  offset: number,
  length: number,
  onRead: (bytes: number) => void,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  await readFully(file, path, bytes, offset, onRead)
  return bytes
}

/** Checks the type and place of each tensor of a part, and adds it to `tensors` under its name. */
function place(part: Part, nameOf: GgufNaming, tensors: Map<string, Placed>): void {
  const { path, header, numBytes: fileBytes } = part
  const spans: { name: string; start: number; end: number }[] = []
  for (const tensor of header.tensors) {
    const fail = (problem: string): never => {
      throw new ModelError(`${path}: tensor ${tensor.name} ${problem}`)
    }
    const format = BLOCK_FORMATS.get(tensor.type)
    if (format === undefined) {
      const known = [...BLOCK_FORMATS.values()].map(({ name }) => name).join(', ')
      fail(
        `has type ${blockTypeName(tensor.type)}; known: ${known}. Use a file in another quantisation (Q4_K_M, Q8_0).`,
      )
      continue
    }
    const count = tensor.dimensions.reduce((product, size) => product * size, 1)
    const [cols = 0] = tensor.dimensions
    if (cols % format.values !== 0)
      fail(`of type ${format.name} has rows of ${cols}, not a multiple of ${format.values}`)
    const bytes = (count / format.values) * format.bytes
    if (!Number.isSafeInteger(bytes) || tensor.offset + bytes > fileBytes) {
      fail(
        `needs bytes ${tensor.offset} to ${tensor.offset + bytes}, the file has ${fileBytes}. Download the file again.`,
      )
    }
    spans.push({ name: tensor.name, start: tensor.offset, end: tensor.offset + bytes })
    const { name, permutedHeads, isVector = false, isRow = false } = nameOf(tensor.name)
    if (tensors.has(name)) fail(`is also in ${tensors.get(name)?.part.path ?? path}. Download the files again.`)
    tensors.set(name, {
      name,
      part,
      dtype: format.name,
      shape: isVector ? [count] : isRow ? [1, count] : [...tensor.dimensions].reverse(),
      bytes,
      tensor,
      permutedHeads,
    })
  }
  spans.sort((a, b) => a.start - b.start)
  for (const [i, span] of spans.entries()) {
    const next = spans[i + 1]
    if (next !== undefined && next.start < span.end)
      throw new ModelError(`${path}: tensors ${span.name} and ${next.name} overlap. Download the file again.`)
  }
}

/** Restores the order of rows: within a head, row 2 i + j of the file is row j headDim / 2 + i. */
function undoPermutation(data: MatrixData, rows: number, numHeads: number): MatrixData {
  const headDim = rows / numHeads
  const half = headDim / 2
  return takeRows(data, rows, rows, (row) => {
    const inHead = row % headDim
    return row - inHead + 2 * (inHead % half) + Math.floor(inHead / half)
  })
}

/** An open file of a model. */
interface Part {
  readonly path: string
  readonly file: FileHandle
  readonly header: GgufHeader
  readonly numBytes: number
  readonly changedMs: number
}

async function openPart(path: string): Promise<Part> {
  let file: FileHandle
  try {
    file = await openFile(path)
  } catch (error) {
    const problem = isMissing(error)
      ? 'this part of the model is missing; download all parts into one folder'
      : `expected a file, found ${foundInstead(error)}`
    throw new ModelError(`${path}: ${problem}`, { cause: error })
  }
  try {
    const { size, mtimeMs } = await file.stat()
    return { path, file, header: await readGgufHeader(file, path), numBytes: size, changedMs: mtimeMs }
  } catch (error) {
    await file.close()
    throw error
  }
}

/**
 * Opens a GGUF file and checks its header. Given the first part of a split file, opens all parts.
 * @param naming names the tensors, given the metadata; may throw ModelError to refuse the file
 * @throws ModelError
 */
export async function openGgufFile(
  path: string,
  naming: (metadata: GgufMetadata) => GgufNaming,
  onProgress?: ProgressListener,
): Promise<GgufFile> {
  const parts: Part[] = []
  const close = async (): Promise<void> => {
    await Promise.all(parts.map(({ file }) => file.close()))
  }
  try {
    for (const name of partsOf(basename(path)) ?? [basename(path)])
      parts.push(await openPart(join(dirname(path), name)))
    const [first] = parts
    if (first === undefined) throw new ModelError(`${path}: expected at least one part`)
    const metadata = new GgufMetadata(path, first.header)
    const nameOf = naming(metadata)
    const count = metadata.get('split.count')
    if (typeof count === 'number' && count > 1 && count !== parts.length) {
      throw new ModelError(
        `${path}: one of ${count} parts of a split GGUF; keep the parts' own names, which end in -00001-of-${String(count).padStart(5, '0')}.gguf and so on, in one folder`,
      )
    }
    const identity = parts.map((part) => `${resolve(part.path)} ${part.numBytes} ${part.changedMs}\n`).join('')
    const tensors = new Map<string, Placed>()
    for (const part of parts) place(part, nameOf, tensors)
    const totalBytes = [...tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)
    let doneBytes = 0
    const onRead = (count: number): void => {
      doneBytes += count
      onProgress?.(doneBytes, totalBytes)
    }
    const find = (name: string) => {
      const placed = tensors.get(name)
      if (placed === undefined) throw new Error(`tensor ${name} is not in ${path}`)
      const [rows = 1, cols = 1] = placed.shape.length === 1 ? [placed.shape[0] ?? 1, 1] : placed.shape
      const format = BLOCK_FORMATS.get(placed.tensor.type)
      if (format === undefined) throw new Error(`${name} has no format`)
      return { placed, rows, cols, format }
    }
    const read = async (name: string): Promise<MatrixData> => {
      const { placed, rows, cols, format } = find(name)
      const data = format.decode(await readBytes(placed.part, placed.tensor.offset, placed.bytes, onRead), rows * cols)
      if (placed.permutedHeads === null) return data
      if (rows % (2 * placed.permutedHeads) !== 0)
        throw new ModelError(`${path}: tensor ${name} has ${rows} rows for ${placed.permutedHeads} heads`)
      return undoPermutation(data, rows, placed.permutedHeads)
    }
    const rowsOf = (name: string): MatrixRows | null => {
      const { placed, rows, cols, format } = find(name)
      if (placed.permutedHeads !== null || format.dependsOnValues === true) return null
      const rowBytes = placed.bytes / rows
      return {
        read: async (first, count) =>
          format.decode(
            await readBytes(placed.part, placed.tensor.offset + first * rowBytes, count * rowBytes, onRead),
            count * cols,
          ),
      }
    }
    const slice = async (name: string, index: number): Promise<MatrixData> => {
      const { placed, format } = find(name)
      const [numMatrices = 1, rows = 1, cols = 1] = placed.shape
      const bytes = placed.bytes / numMatrices
      const first = placed.tensor.offset + index * bytes
      return format.decode(await readBytes(placed.part, first, bytes, onRead), rows * cols)
    }
    return { source: { path, tensors, identity, totalBytes, read, rows: rowsOf, slice, close }, metadata }
  } catch (error) {
    await close()
    throw error
  }
}
