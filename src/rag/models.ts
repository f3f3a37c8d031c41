/** Finds the models of retrieval: which files are which kind of model. */
import { availableParallelism } from 'node:os'
import { closeSync, existsSync, readdirSync, readSync, statSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import type { HubOptions } from '../engine/weights/hub.ts'
import { foundInstead, openFileSync, readTextSync } from '../regular-file.ts'
import { modelUnavailable } from './errors.ts'
import { isStaticModel } from './static-model.ts'

/** Static embeddings in a folder (see static-model.ts). */
export interface StaticSource {
  readonly kind: 'static'
  readonly name: string
  readonly folder: string
}

/** A model in ONNX, on disk or on the hub. Structured-cloneable, because a worker loads it. */
export type OnnxSource =
  | { readonly kind: 'folder'; readonly name: string; readonly folder: string }
  | {
      readonly kind: 'hub'
      readonly name: string
      readonly cacheDir: string
      /** The hub's address, without a slash at the end. */
      readonly endpoint: string
      readonly isOffline: boolean
    }

/** A model for the engine's kernels: safetensors in a folder, a GGUF file, or a repository of the hub with either. */
export interface EngineSource {
  readonly kind: 'engine'
  readonly name: string
  /** A path, or hf:ORG/NAME. */
  readonly location: string
  readonly device: EngineDevice
  /** Threads of the cpu backend. */
  readonly threads: number
  readonly hub: HubOptions
}

export type EngineDevice = 'auto' | 'webgpu' | 'cpu' | 'reference'

export type ModelSource = OnnxSource | EngineSource

interface ModelOptions {
  /** Its cache is read for models in ONNX, and used by the engine for downloads. */
  readonly hub: HubOptions
  /** The folder of downloaded models in ONNX, as ORG/NAME/FILE. */
  readonly downloadDir: string
  /** The device of models that are not in ONNX. */
  readonly device: EngineDevice
  readonly threads: number
}

const HUB_ID = /^[\w.-]+\/[\w.-]+$/
const ENGINE_HUB_ID = /^hf:[\w.-]+\/[\w.-]+(:[\w.-]+)?$/

/** The weights that a folder may contain, for messages. */
const EXPECTED = 'onnx/model.onnx, *.safetensors or a .gguf file'

/**
 * Resolves a location: a folder or GGUF file at that path, else a hub id (ORG/NAME in ONNX, hf:ORG/NAME or hf:ORG/NAME:QUANT for the engine).
 * A folder that contains the model in ONNX, too, runs in ONNX, so that existing indexes stay valid.
 * @throws RagError model_unavailable naming the flag and what is missing
 */
export function resolveModel(location: string, flag: string, options: ModelOptions): ModelSource {
  const path = resolve(location)
  if (existsSync(path))
    return statSync(path).isDirectory() ? folderModel(path, flag, options) : fileModel(path, flag, options)
  if (ENGINE_HUB_ID.test(location)) return engineModel(location, location, options)
  if (HUB_ID.test(location)) {
    const { hub, downloadDir: cacheDir } = options
    const snapshot = cachedSnapshot(location, hub.cacheDir)
    if (snapshot !== null) return { ...folderModel(snapshot, flag, options), name: location }
    return { kind: 'hub', name: location, cacheDir, endpoint: hub.endpoint, isOffline: hub.offline }
  }
  throw modelUnavailable(
    `${flag}: ${location} is neither a folder, nor a .gguf file, nor a hub id ORG/NAME or hf:ORG/NAME`,
  )
}

/** As `resolveModel`, for the embedding model, which may also be static embeddings. */
export function resolveEmbedder(location: string, flag: string, options: ModelOptions): ModelSource | StaticSource {
  const folder = resolve(location)
  return isStaticModel(folder)
    ? { kind: 'static', name: basename(folder), folder }
    : resolveModel(location, flag, options)
}

const engineModel = (name: string, location: string, { hub, device, threads }: ModelOptions): EngineSource => ({
  kind: 'engine',
  name,
  location,
  device,
  threads,
  hub,
})

function folderModel(folder: string, flag: string, options: ModelOptions): ModelSource {
  const files = readdirSync(folder)
  const hasGguf = files.some((file) => /\.gguf$/i.test(file))
  if (hasGguf && !files.includes('config.json')) return engineModel(basename(folder), folder, options)
  for (const file of ['config.json', 'tokenizer.json']) {
    if (files.includes(file)) continue
    throw modelUnavailable(
      `${flag}: ${folder} has no ${file}; expected config.json and tokenizer.json beside ${EXPECTED}`,
    )
  }
  if (onnxFile(folder) !== null) return { kind: 'folder', name: basename(folder), folder }
  if (files.some((file) => file.endsWith('.safetensors'))) return engineModel(basename(folder), folder, options)
  throw modelUnavailable(`${flag}: ${folder} has no weights; expected ${EXPECTED}`)
}

function fileModel(path: string, flag: string, options: ModelOptions): EngineSource {
  const magic = Buffer.alloc(4)
  let file: number
  try {
    file = openFileSync(path)
  } catch (error) {
    const message = `${flag}: ${path}: expected a file, found ${foundInstead(error)}`
    throw modelUnavailable(message, error)
  }
  try {
    readSync(file, magic, 0, 4, 0)
  } finally {
    closeSync(file)
  }
  if (magic.toString('latin1') === 'GGUF') return engineModel(basename(path).replace(/\.gguf$/i, ''), path, options)
  throw modelUnavailable(
    `${flag}: ${path} is not a GGUF file; expected one, or a folder with config.json, tokenizer.json and ${EXPECTED}`,
  )
}

/** The folder of a model that another tool has downloaded into the hub's cache; null if it is incomplete. */
function cachedSnapshot(id: string, hubCacheDir: string): string | null {
  const repository = join(hubCacheDir, `models--${id.replace('/', '--')}`)
  const ref = join(repository, 'refs', 'main')
  if (!existsSync(ref)) return null
  const snapshot = join(repository, 'snapshots', readTextSync(ref).trim())
  if (!['config.json', 'tokenizer.json'].every((file) => existsSync(join(snapshot, file)))) return null
  return onnxFile(snapshot) !== null || existsSync(join(snapshot, 'model.safetensors')) ? snapshot : null
}

/** The ONNX file of a folder: the quantized one if there are two, which is the library's default. */
export function onnxFile(folder: string): { readonly path: string; readonly isQuantized: boolean } | null {
  for (const [file, isQuantized] of [
    ['model_quantized.onnx', true],
    ['model.onnx', false],
  ] as const) {
    const path = join(folder, 'onnx', file)
    if (statSync(path, { throwIfNoEntry: false })?.isFile() === true) return { path, isQuantized }
  }
  return null
}

/** Threads for an embedding or reranking model: half of the cores, so that neither the event loop nor a decode step has to wait. */
export const modelThreads = (): number => Math.max(1, Math.floor(availableParallelism() / 2))
