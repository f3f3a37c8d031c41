/**
 * Weights on disk in a backend's own layout, so that a second start only reads them: nothing is decoded, quantised or repacked. There is one file per
 * checkpoint, quantisation and layout. It holds the planes one after the other, then a JSON index, its length and a magic word. Each plane has a
 * checksum, and a damaged file is never served.
 */
import { createHash, randomUUID } from 'node:crypto'
import { open, type FileHandle, readdir, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { crc32 } from 'node:zlib'
import { z } from 'zod'
import { makeFolder, openFile } from '../../regular-file.ts'
import type { Backend, ExpertsUse, MatrixUse, StoredMatrix } from '../../kernels/backend.ts'
import type { ExpertMatrix, Matrix, MatrixData, MatrixFormat, MatrixRows } from '../../kernels/ops.ts'
import type { ProgressListener } from '../runner/runner.ts'
import { readVector, type WeightSource } from './source.ts'
import type { WeightLoader } from './weight-loader.ts'
import { WriteBehind } from './write-behind.ts'

const MAGIC = 0x4b435057 // 'WPCK'
const VERSION = 2
const FOOTER_BYTES = 8
/** Files that are being written. One that has not changed for so long is of a process that was killed. */
const INCOMPLETE = '.incomplete'
const LEFT_OVER_MS = 3_600_000
/** Planes begin at multiples of this, so that elements of any size are aligned. */
const ALIGNMENT = 8
/** Bytes that are read and checked at a time. */
const PIECE = 4 << 20

const expertName = (label: string, expert: number): string => `${label} ${expert}`

/** Facts about the loaded weights, known only after all of them were read. */
export interface WeightFacts {
  readonly weightBytes: number
  /** Identifies the values. */
  readonly digest: string
}

const count = z.int().nonnegative()

const indexSchema = z.object({
  version: z.literal(VERSION),
  totalBytes: count,
  facts: z.object({ weightBytes: count, digest: z.string() }),
  entries: z.array(
    z.object({
      name: z.string(),
      rows: count,
      cols: count,
      format: z.custom<MatrixFormat>((value) => typeof value === 'string'),
      form: z.record(z.string(), z.number()),
      planes: z.array(z.object({ offset: count, bytes: count, crc: count })),
    }),
  ),
})

type Index = z.output<typeof indexSchema>
type Entry = Index['entries'][number]
type Plane = Entry['planes'][number]

/** A packed file that cannot be used. The message says why. */
export class DamagedWeightsError extends Error {
  override readonly name = 'DamagedWeightsError'
}

/**
 * The path of a checkpoint's packed weights. The first half of the name stands for the checkpoint's path, quantisation and layout, the second for the
 * identity of its files. Files of an earlier download have the same first half.
 */
export function packedPath(cacheDir: string, source: WeightSource, quantization: string, layout: string): string {
  const hash = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 24)
  const name = `${hash([source.path, quantization, layout])}-${hash([VERSION, source.identity])}.packed`
  return join(cacheDir, 'weights', name)
}

/** Reads `target.length` bytes at `offset` and returns their checksum. */
async function readAt(
  file: FileHandle,
  offset: number,
  target: Uint8Array,
  onRead: (count: number) => void,
): Promise<number> {
  // Bytes go through ordinary memory: the target may be shared with other threads, and neither `read` nor `crc32` takes shared memory.
  const piece = new Uint8Array(Math.min(PIECE, target.length))
  let crc = 0
  for (let done = 0; done < target.length;) {
    const { bytesRead } = await file.read(piece, 0, Math.min(PIECE, target.length - done), offset + done)
    if (bytesRead === 0) throw new DamagedWeightsError('the file ends early')
    const bytes = piece.subarray(0, bytesRead)
    crc = crc32(bytes, crc)
    target.set(bytes, done)
    done += bytesRead
    onRead(bytesRead)
  }
  return crc
}

async function readIndex(file: FileHandle): Promise<Index> {
  const { size } = await file.stat()
  if (size < FOOTER_BYTES) throw new DamagedWeightsError('the file is too short')
  const footer = new Uint32Array(2)
  await readAt(file, size - FOOTER_BYTES, new Uint8Array(footer.buffer), () => {})
  const [indexBytes = 0, magic] = footer
  const end = size - FOOTER_BYTES - indexBytes
  if (magic !== MAGIC || end < 0) throw new DamagedWeightsError('the file does not end as packed weights do')
  const text = new Uint8Array(indexBytes)
  await readAt(file, end, text, () => {})
  let index: Index
  try {
    index = indexSchema.parse(JSON.parse(Buffer.from(text).toString('utf8')))
  } catch (cause) {
    throw new DamagedWeightsError(`the index is not one of version ${VERSION}`, { cause })
  }
  const fits = index.entries.every(({ planes }) => planes.every(({ offset, bytes }) => offset + bytes <= end))
  if (!fits) throw new DamagedWeightsError('planes lie outside the file')
  return index
}

/** Reports as damaged what the backend refuses to import. */
async function fitting<T>(imported: Promise<T>): Promise<T> {
  try {
    return await imported
  } catch (cause) {
    throw cause instanceof RangeError ? new DamagedWeightsError(cause.message, { cause }) : cause
  }
}

/** Loads packed weights. Every read throws DamagedWeightsError if the file is not what was written. */
export class PackedWeights implements WeightLoader {
  readonly facts: WeightFacts
  readonly #backend: Backend
  readonly #file: FileHandle
  readonly #entries: ReadonlyMap<string, Entry>
  readonly #onRead: (count: number) => void

  private constructor(backend: Backend, file: FileHandle, index: Index, onProgress: ProgressListener | undefined) {
    this.#backend = backend
    this.#file = file
    this.facts = index.facts
    this.#entries = new Map(index.entries.map((entry) => [entry.name, entry]))
    let doneBytes = 0
    this.#onRead = (count) => {
      doneBytes += count
      onProgress?.(doneBytes, index.totalBytes)
    }
  }

  /** Opens packed weights; null: there are none. @throws DamagedWeightsError */
  static async open(path: string, backend: Backend, onProgress?: ProgressListener): Promise<PackedWeights | null> {
    let file: FileHandle
    try {
      file = await openFile(path)
    } catch {
      return null
    }
    try {
      return new PackedWeights(backend, file, await readIndex(file), onProgress)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  async matrix(label: string, rows: number, cols: number, use: MatrixUse): Promise<Matrix> {
    return fitting(this.#backend.importMatrix(label, rows, cols, this.#stored(label, rows, cols), use))
  }

  async experts(label: string, numExperts: number, rows: number, cols: number, use: ExpertsUse): Promise<ExpertMatrix> {
    const stored = (expert: number): StoredMatrix => this.#stored(expertName(label, expert), rows, cols)
    return fitting(this.#backend.importExperts(label, numExperts, rows, cols, stored, use))
  }

  #stored(name: string, rows: number, cols: number): StoredMatrix {
    const { format, form, planes } = this.#entry(name, rows, cols)
    const planeBytes = planes.map(({ bytes }) => bytes)
    return { format, form, planeBytes, read: (index, target) => this.#read(name, planes[index], target) }
  }

  async vector(name: string, length: number): Promise<Float32Array> {
    const [plane] = this.#entry(name, 1, length).planes
    const values = new Float32Array(length)
    await this.#read(name, plane, new Uint8Array(values.buffer))
    return values
  }

  close(): Promise<void> {
    return this.#file.close()
  }

  #entry(name: string, rows: number, cols: number): Entry {
    const entry = this.#entries.get(name)
    if (entry === undefined || entry.rows !== rows || entry.cols !== cols) {
      throw new DamagedWeightsError(`${name} [${rows}, ${cols}] is missing`)
    }
    return entry
  }

  async #read(name: string, plane: Plane | undefined, target: Uint8Array): Promise<void> {
    if (plane?.bytes !== target.length) throw new DamagedWeightsError(`${name} has an unexpected size`)
    if ((await readAt(this.#file, plane.offset, target, this.#onRead)) !== plane.crc) {
      throw new DamagedWeightsError(`${name} has a wrong checksum`)
    }
  }
}

/**
 * Loads weights from the checkpoint and writes them as the backend packs them, to a file beside the target that `commit` moves into place. If the disk is
 * full or not writable, writing stops and loading goes on.
 */
export class PackingLoader implements WeightLoader {
  readonly #path: string
  readonly #part: string
  readonly #backend: Backend
  readonly #source: WeightSource
  readonly #entries: Entry[] = []
  #file: WriteBehind | null = null
  #offset = 0
  #failure: string | null = null

  private constructor(path: string, backend: Backend, source: WeightSource) {
    this.#path = path
    this.#part = `${path}.${randomUUID()}${INCOMPLETE}`
    this.#backend = backend
    this.#source = source
  }

  static async create(path: string, backend: Backend, source: WeightSource): Promise<PackingLoader> {
    const loader = new PackingLoader(path, backend, source)
    try {
      makeFolder(dirname(path))
      loader.#file = new WriteBehind(await open(loader.#part, 'w'))
    } catch (error) {
      await loader.#abandon(error)
    }
    return loader
  }

  /** Why the file could not be written; null: nothing failed. */
  get failure(): string | null {
    return this.#failure
  }

  async matrix(
    label: string,
    rows: number,
    cols: number,
    use: MatrixUse,
    data: () => Promise<MatrixData | MatrixRows>,
  ): Promise<Matrix> {
    const onPacked: MatrixUse['onPacked'] = async ({ format, form, planes }) =>
      this.#attempt(async (file) => this.#add(file, { name: label, rows, cols, format, form }, planes))
    return this.#backend.loadMatrix(label, rows, cols, await data(), this.#file === null ? use : { ...use, onPacked })
  }

  async experts(
    label: string,
    numExperts: number,
    rows: number,
    cols: number,
    use: ExpertsUse,
    data: (expert: number) => Promise<MatrixData>,
  ): Promise<ExpertMatrix> {
    const onPacked: ExpertsUse['onPacked'] = async ({ format, form, planes }, expert) =>
      this.#attempt(async (file) =>
        this.#add(file, { name: expertName(label, expert), rows, cols, format, form }, planes),
      )
    const uses = this.#file === null ? use : { ...use, onPacked }
    return this.#backend.loadExperts(label, numExperts, rows, cols, data, uses)
  }

  async vector(name: string, length: number): Promise<Float32Array> {
    const values = await readVector(this.#source, name, length)
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    await this.#attempt((file) =>
      this.#add(file, { name, rows: 1, cols: values.length, format: 'f32', form: {} }, [bytes]),
    )
    return values
  }

  /** To be called after all weights were read: makes the file visible, and removes those of the checkpoint's earlier states. */
  async commit(facts: WeightFacts): Promise<void> {
    await this.#attempt(async (file) => {
      const totalBytes = this.#entries.reduce(
        (sum, { planes }) => sum + planes.reduce((bytes, plane) => bytes + plane.bytes, 0),
        0,
      )
      const index: Index = { version: VERSION, totalBytes, facts, entries: this.#entries }
      const json = Buffer.from(JSON.stringify(index))
      await this.#write(file, json, 1)
      await this.#write(file, new Uint8Array(Uint32Array.of(json.length, MAGIC).buffer), 1)
      await file.flush()
      this.#file = null
      await file.close()
      await rename(this.#part, this.#path)
      await this.#removeOthers()
    })
  }

  /** Removes the checkpoint's packed files of earlier states, and those that were never finished. */
  async #removeOthers(): Promise<void> {
    const folder = dirname(this.#path)
    const [series = ''] = basename(this.#path).split('-')
    for (const name of await readdir(folder)) {
      if (!name.startsWith(`${series}-`) || name === basename(this.#path)) continue
      const path = join(folder, name)
      const isLeftOver = async (): Promise<boolean> => Date.now() - (await stat(path)).mtimeMs > LEFT_OVER_MS
      if (name.endsWith('.packed') || (name.endsWith(INCOMPLETE) && (await isLeftOver())))
        await rm(path, { force: true })
    }
  }

  /** Without an earlier `commit` the load has failed: removes the incomplete file. */
  async close(): Promise<void> {
    const file = this.#file
    this.#file = null
    if (file === null) return
    try {
      await file.close()
    } finally {
      await rm(this.#part, { force: true })
    }
  }

  async #add(file: WriteBehind, entry: Omit<Entry, 'planes'>, planes: readonly Uint8Array[]): Promise<void> {
    const written: Plane[] = []
    for (const plane of planes) written.push(await this.#write(file, plane, ALIGNMENT))
    this.#entries.push({ ...entry, planes: written })
  }

  async #write(file: WriteBehind, bytes: Uint8Array, alignment: number): Promise<Plane> {
    const offset = Math.ceil(this.#offset / alignment) * alignment
    const crc = await file.write(bytes, offset)
    this.#offset = offset + bytes.length
    return { offset, bytes: bytes.length, crc }
  }

  /** Runs a step of the writing on the open file. The first step that fails ends the writing. */
  async #attempt(step: (file: WriteBehind) => Promise<void>): Promise<void> {
    const file = this.#file
    if (file === null) return
    try {
      await step(file)
    } catch (error) {
      await this.#abandon(error)
    }
  }

  async #abandon(error: unknown): Promise<void> {
    this.#failure = error instanceof Error ? error.message : String(error)
    try {
      await this.close()
      await rm(this.#part, { force: true })
    } catch {
      // Only the first failure is reported.
    }
  }
}
