/**
 * Quantised weights on disk, so that a second start reads them as they are served instead of quantising again. One file a model: the planes one after the other,
 * then a JSON index, its length and a magic word. A file that does not hold together is ignored and written anew.
 */
import { createHash } from 'node:crypto'
import { mkdir, open, type FileHandle, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { MatrixData } from '../../kernels/ops.ts'
import type { ProgressListener } from '../runner/runner.ts'
import type { TensorInfo, WeightSource } from './source.ts'

const MAGIC = 0x4b435057 // 'WPCK'
const VERSION = 1
const FOOTER_BYTES = 8
/** Planes begin at multiples of this, so that any element size is aligned. */
const ALIGNMENT = 8

interface Plane {
  readonly offset: number
  readonly bytes: number
}

interface Entry {
  readonly info: TensorInfo
  readonly format: MatrixData['format']
  readonly group: number | null
  /** values; or codes, scales and (where there are minimums) mins. */
  readonly planes: readonly Plane[]
}

interface Index {
  readonly version: number
  readonly totalBytes: number
  readonly entries: readonly Entry[]
}

const planesOf = (data: MatrixData): (Float32Array | Uint16Array | Int8Array | Uint8Array)[] =>
  'values' in data
    ? [data.values]
    : data.mins === null
      ? [data.codes, data.scales]
      : [data.codes, data.scales, data.mins]

function assemble({ format, group }: Entry, [first, second, third]: readonly ArrayBuffer[]): MatrixData {
  if (first === undefined) throw new Error('an entry without planes')
  if (format === 'f32') return { format, values: new Float32Array(first) }
  if (format === 'f16') return { format, values: new Uint16Array(first) }
  if (second === undefined) throw new Error('a quantised entry without scales')
  const scales = new Float32Array(second)
  const mins = third === undefined ? null : new Float32Array(third)
  if (format === 'q4') return { format, group: 32, codes: new Uint8Array(first), scales, mins }
  return { format, group: group === 16 ? 16 : 32, codes: new Int8Array(first), scales, mins }
}

/** Where a checkpoint's packed weights are kept: named by the identity of its files and the quantisation. */
export function packedPath(cacheDir: string, source: WeightSource, quantization: string): string {
  const hash = createHash('sha256')
    .update(JSON.stringify([VERSION, source.identity, quantization]))
    .digest('hex')
  return join(cacheDir, 'weights', `${hash.slice(0, 32)}.packed`)
}

async function readAt(
  file: FileHandle,
  offset: number,
  bytes: number,
  onRead: (count: number) => void,
): Promise<ArrayBuffer> {
  const target = new Uint8Array(new ArrayBuffer(bytes))
  for (let done = 0; done < bytes;) {
    const { bytesRead } = await file.read(target, done, Math.min(64 << 20, bytes - done), offset + done)
    if (bytesRead === 0) throw new Error('the packed weights ended early')
    done += bytesRead
    onRead(bytesRead)
  }
  return target.buffer
}

async function removeQuietly(path: string): Promise<void> {
  try {
    await rm(path, { force: true })
  } catch {
    // What cannot be removed is refused again at the next start.
  }
}

/** The packed weights as a source; null when there are none, or none that hold together. */
export async function openPacked(
  path: string,
  original: WeightSource,
  onProgress?: ProgressListener,
): Promise<WeightSource | null> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch {
    return null
  }
  try {
    const { size } = await file.stat()
    const footer = new Uint32Array(await readAt(file, size - FOOTER_BYTES, FOOTER_BYTES, () => {}))
    const indexBytes = footer[0] ?? 0
    if (footer[1] !== MAGIC || indexBytes > size - FOOTER_BYTES) throw new Error('not packed weights')
    const end = size - FOOTER_BYTES - indexBytes
    const index = JSON.parse(Buffer.from(await readAt(file, end, indexBytes, () => {})).toString('utf8')) as Index
    const fits = index.entries.every((entry) =>
      entry.planes.every(({ offset, bytes }) => offset >= 0 && bytes >= 0 && offset + bytes <= end),
    )
    if (index.version !== VERSION || !fits) throw new Error('packed weights of another version')
    const entries = new Map(index.entries.map((entry) => [entry.info.name, entry]))
    let doneBytes = 0
    return {
      ...original,
      totalBytes: index.totalBytes,
      async read(name) {
        const entry = entries.get(name)
        // Tensors that the first start did not read (of another modality, say).
        if (entry === undefined) return original.read(name)
        const planes: ArrayBuffer[] = []
        for (const { offset, bytes } of entry.planes) {
          planes.push(
            await readAt(file, offset, bytes, (count) => {
              doneBytes += count
              onProgress?.(doneBytes, index.totalBytes)
            }),
          )
        }
        return assemble(entry, planes)
      },
      async close() {
        await file.close()
        await original.close()
      },
    }
  } catch {
    await file.close()
    await removeQuietly(path)
    return null
  }
}

/** A source that also writes what is read, beside the target until `commit` moves it into place. */
export interface PackingSource extends WeightSource {
  /** All weights were read: the file becomes visible. */
  commit(): Promise<void>
}

/** A disk that is full or not writable stops the writing, never the serving: the next start quantises again. */
export async function packing(path: string, source: WeightSource): Promise<PackingSource> {
  const part = `${path}.${process.pid}.incomplete`
  let file: FileHandle | null = null
  let offset = 0
  const entries: Entry[] = []
  const abandon = async (): Promise<void> => {
    const written = file
    file = null
    await written?.close()
    await removeQuietly(part)
  }
  try {
    await mkdir(dirname(path), { recursive: true })
    file = await open(part, 'w')
  } catch {
    await abandon()
  }
  const write = async (target: FileHandle, bytes: Uint8Array): Promise<Plane> => {
    const at = Math.ceil(offset / ALIGNMENT) * ALIGNMENT
    for (let done = 0; done < bytes.length;) {
      done += (await target.write(bytes, done, Math.min(64 << 20, bytes.length - done), at + done)).bytesWritten
    }
    offset = at + bytes.length
    return { offset: at, bytes: bytes.length }
  }
  return {
    ...source,
    async read(name) {
      const data = await source.read(name)
      const info = source.tensors.get(name)
      if (file === null || info === undefined) return data
      try {
        const planes: Plane[] = []
        for (const plane of planesOf(data))
          planes.push(await write(file, new Uint8Array(plane.buffer, plane.byteOffset, plane.byteLength)))
        entries.push({ info, format: data.format, group: 'group' in data ? data.group : null, planes })
      } catch {
        await abandon()
      }
      return data
    },
    async commit() {
      if (file === null) return
      try {
        const totalBytes = entries.reduce(
          (sum, { planes }) => sum + planes.reduce((bytes, plane) => bytes + plane.bytes, 0),
          0,
        )
        const index: Index = { version: VERSION, totalBytes, entries }
        const json = Buffer.from(JSON.stringify(index))
        const at = await write(file, json)
        await file.write(
          new Uint8Array(Uint32Array.of(json.length, MAGIC).buffer),
          0,
          FOOTER_BYTES,
          at.offset + at.bytes,
        )
        await file.close()
        file = null
        await rename(part, path)
      } catch {
        await abandon()
      }
    },
    async close() {
      // Not committed: the load failed half way.
      if (file !== null) await abandon()
      await source.close()
    },
  }
}
