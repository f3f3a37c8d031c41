/** Loads a checkpoint's weights onto a backend: from the packed copy on disk, or else from the checkpoint, writing the packed copy for the next start. */
import { createHash, type Hash } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { matrixBytes } from '../../kernels/dequantize.ts'
import type { Backend } from '../../kernels/backend.ts'
import type { MatrixData } from '../../kernels/ops.ts'
import {
  DamagedWeightsError,
  PackedWeights,
  packedPath,
  PackingLoader,
  type WeightFacts,
} from '../weights/packed-cache.ts'
import { quantizing } from '../weights/quantize.ts'
import type { WeightSource } from '../weights/source.ts'
import { Decoder, decoderTensors, loadDecoder } from './decoder.ts'
import type { Updates } from './parameters.ts'
import { ModelError, type ModelRequest, type ProgressListener } from './runner.ts'
import type { DecoderSpec } from './decoder-spec.ts'

/** Bytes of each tensor that go into the digest. The first values of a tensor differ between any two trainings. */
const DIGEST_BYTES = 4096

interface LoadedWeights {
  readonly backend: Backend
  readonly decoder: Decoder
  readonly facts: WeightFacts
  /** Messages for the operator's log. */
  readonly notices: readonly string[]
}

/** The source, with the bytes of everything that is read added to `tally.bytes` and the first bytes of every tensor hashed. */
export function tallying(source: WeightSource, tally: { bytes: number; readonly hash: Hash }): WeightSource {
  const count = (data: MatrixData, isFirst: boolean): MatrixData => {
    const plane = 'values' in data ? data.values : data.codes
    tally.bytes += matrixBytes(data)
    if (isFirst)
      tally.hash.update(new Uint8Array(plane.buffer, plane.byteOffset, Math.min(DIGEST_BYTES, plane.byteLength)))
    return data
  }
  // A tensor that gives rows to two matrices is read twice, and counted once.
  const read = new Set<string>()
  return {
    ...source,
    read: async (name) => {
      const data = await source.read(name)
      return read.size === read.add(name).size ? data : count(data, true)
    },
    slice: async (name, index) => count(await source.slice(name, index), index === 0),
    rows(name) {
      const rows = source.rows(name)
      return rows === null
        ? null
        : { read: async (first, numRows) => count(await rows.read(first, numRows), first === 0) }
    },
  }
}

async function removeQuietly(path: string): Promise<void> {
  try {
    await rm(path, { force: true })
  } catch {
    // A damaged file that stays is refused again at the next start.
  }
}

/** Names the layout of packed weights. With adapters, gate and up rows are not interleaved. */
const layoutOf = ({ packedLayout }: Backend, updates: Updates | null): string =>
  updates === null ? packedLayout : `${packedLayout} unjoined`

/** The least bytes that the loaded weights take: per tensor its size in the file, or in blocks of 32 codes with an f16 scale if that is less. */
async function leastBytes(
  spec: DecoderSpec,
  source: WeightSource,
  quantization: ModelRequest['quantization'],
): Promise<number> {
  const perValue = { none: Infinity, q8: 34 / 32, q4: 18 / 32 }[quantization]
  return [...(await decoderTensors(spec, source))].reduce(
    (sum, { shape, bytes }) => sum + Math.min(bytes, perValue * shape.reduce((product, size) => product * size, 1)),
    0,
  )
}

/**
 * Refuses a model that the host's memory could not hold even if nothing else ran. For devices that compute in that memory.
 * @param hostBytes the machine's memory
 * @throws ModelError
 */
export async function expectHostRoom(
  spec: DecoderSpec,
  source: WeightSource,
  quantization: ModelRequest['quantization'],
  hostBytes: number,
): Promise<void> {
  const needed = await leastBytes(spec, source, quantization)
  if (needed <= hostBytes) return
  const mebibytes = (bytes: number): number => Math.round(bytes / 2 ** 20)
  const smaller = { none: '--quantization q8 or q4, ', q8: '--quantization q4, ', q4: '' }[quantization]
  throw new ModelError(
    `${source.path}: the weights take at least ${mebibytes(needed)} MiB, and the machine has ${mebibytes(hostBytes)} MiB of memory. ` +
      `Choose ${smaller}a smaller model or another --device.`,
    { isOfDevice: true },
  )
}

/**
 * Loads the weights.
 * @param create makes the backend; called a second time where packed weights turn out to be damaged after some of them were loaded
 * @throws ModelError, after closing the backend
 */
export async function loadWeights(
  create: () => Promise<Backend>,
  spec: DecoderSpec,
  source: WeightSource,
  { cacheDir, quantization }: ModelRequest,
  updates: Updates | null,
  onProgress?: ProgressListener,
): Promise<LoadedWeights> {
  const notices: string[] = []
  let backend = await create()
  try {
    const path = cacheDir === null ? null : packedPath(cacheDir, source, quantization, layoutOf(backend, updates))
    if (path !== null) {
      try {
        const packed = await PackedWeights.open(path, backend, onProgress)
        if (packed !== null) {
          try {
            const decoder = await loadDecoder(backend, spec, source, { weights: packed, updates })
            return { backend, decoder, facts: packed.facts, notices }
          } finally {
            await packed.close()
          }
        }
      } catch (error) {
        if (!(error instanceof DamagedWeightsError)) throw error
        notices.push(`packed weights ignored and rebuilt: ${path}: ${error.message}`)
        await removeQuietly(path)
        await backend.close()
        backend = await create()
      }
    }
    const tally = { bytes: 0, hash: createHash('sha256') }
    const served = tallying(quantization === 'none' ? source : quantizing(source, quantization), tally)
    if (path === null) {
      const decoder = await loadDecoder(backend, spec, served, { updates })
      return { backend, decoder, facts: { weightBytes: tally.bytes, digest: tally.hash.digest('hex') }, notices }
    }
    const packing = await PackingLoader.create(path, backend, served)
    try {
      const decoder = await loadDecoder(backend, spec, served, { weights: packing, updates })
      const facts = { weightBytes: tally.bytes, digest: tally.hash.digest('hex') }
      await packing.commit(facts)
      if (packing.failure !== null) notices.push(`packed weights were not written: ${packing.failure}`)
      return { backend, decoder, facts, notices }
    } finally {
      await packing.close()
    }
  } catch (error) {
    await backend.close()
    throw error
  }
}
