/** Where the models of retrieval come from: which files are which kind of model. */
import { closeSync, existsSync, readdirSync, readSync, statSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { foundInstead, openFileSync, readTextSync } from '../regular-file.ts'
import { RagError } from './errors.ts'
import { isStaticModel } from './static-model.ts'

/** Static embeddings in a folder (static-model.ts). */
export interface StaticSource {
  readonly kind: 'static'
  readonly name: string
  readonly folder: string
}

/** A model in ONNX on disk, or on the hub. Structured-cloneable: the worker loads it. */
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

/** A model that the engine's kernels run: safetensors in a folder, a GGUF file, or a repository of the hub with either. */
export interface EngineSource {
  readonly kind: 'engine'
  readonly name: string
  /** A path, or hf:ORG/NAME. */
  readonly location: string
  readonly device: EngineDevice
  /** Threads of the cpu backend. */
  readonly threads: number
  readonly hub: {
    readonly cacheDir: string
    readonly endpoint: string
    readonly token: string | null
    readonly isOffline: boolean
  }
}

export type EngineDevice = 'auto' | 'webgpu' | 'cpu' | 'reference'

export type ModelSource = OnnxSource | EngineSource

interface ModelOptions {
  /** The hub's own cache on this machine: looked into for models in ONNX, and where the engine downloads to. */
  readonly hubCacheDir: string
  /** Where downloaded models in ONNX are kept, as ORG/NAME/FILE. */
  readonly downloadDir: string
  readonly endpoint: string
  readonly token: string | null
  readonly isOffline: boolean
  /** What models that are not in ONNX run on. */
  readonly device: EngineDevice
  readonly threads: number
}

const HUB_ID = /^[\w.-]+\/[\w.-]+$/
const ENGINE_HUB_ID = /^hf:[\w.-]+\/[\w.-]+(:[\w.-]+)?$/

/** What a folder may contain, for messages. */
const EXPECTED = 'onnx/model.onnx, *.safetensors or a .gguf file'

/**
 * A folder or GGUF file when there is one at that path, else a hub id: ORG/NAME in ONNX, hf:ORG/NAME or hf:ORG/NAME:QUANT for the engine. A
 * folder that has its model in ONNX too is run as that, so that indexes made with it stay valid.
 * @throws RagError model_unavailable naming the flag and what is missing.
 */
export function resolveModel(location: string, flag: string, options: ModelOptions): ModelSource {
  const path = resolve(location)
  if (existsSync(path))
    return statSync(path).isDirectory() ? folderModel(path, flag, options) : fileModel(path, flag, options)
  if (ENGINE_HUB_ID.test(location)) return engineModel(location, location, options)
  if (HUB_ID.test(location)) {
    const snapshot = cachedSnapshot(location, options.hubCacheDir)
    if (snapshot !== null) return { ...folderModel(snapshot, flag, options), name: location }
    const { downloadDir: cacheDir, endpoint, isOffline } = options
    return { kind: 'hub', name: location, cacheDir, endpoint, isOffline }
  }
  throw new RagError(
    'model_unavailable',
    `${flag}: ${location} is neither a folder, nor a .gguf file, nor a hub id ORG/NAME or hf:ORG/NAME`,
  )
}

/** As `resolveModel`, for the embedding model, which may be static embeddings too. @throws RagError model_unavailable */
export function resolveEmbedder(location: string, flag: string, options: ModelOptions): ModelSource | StaticSource {
  const folder = resolve(location)
  return isStaticModel(folder)
    ? { kind: 'static', name: basename(folder), folder }
    : resolveModel(location, flag, options)
}

function engineModel(
  name: string,
  location: string,
  { hubCacheDir: cacheDir, endpoint, token, isOffline, device, threads }: ModelOptions,
): EngineSource {
  return { kind: 'engine', name, location, device, threads, hub: { cacheDir, endpoint, token, isOffline } }
}

function folderModel(folder: string, flag: string, options: ModelOptions): ModelSource {
  const files = readdirSync(folder)
  const hasGguf = files.some((file) => /\.gguf$/i.test(file))
  if (hasGguf && !files.includes('config.json')) return engineModel(basename(folder), folder, options)
  for (const file of ['config.json', 'tokenizer.json']) {
    if (files.includes(file)) continue
    throw new RagError(
      'model_unavailable',
      `${flag}: ${folder} has no ${file}; expected config.json and tokenizer.json beside ${EXPECTED}`,
    )
  }
  if (onnxFile(folder) !== null) return { kind: 'folder', name: basename(folder), folder }
  if (files.some((file) => file.endsWith('.safetensors'))) return engineModel(basename(folder), folder, options)
  throw new RagError('model_unavailable', `${flag}: ${folder} has no weights; expected ${EXPECTED}`)
}

function fileModel(path: string, flag: string, options: ModelOptions): EngineSource {
  const magic = Buffer.alloc(4)
  let file: number
  try {
    file = openFileSync(path)
  } catch (error) {
    const message = `${flag}: ${path}: expected a file, found ${foundInstead(error)}`
    throw new RagError('model_unavailable', message, null, { cause: error })
  }
  try {
    readSync(file, magic, 0, 4, 0)
  } finally {
    closeSync(file)
  }
  if (magic.toString('latin1') === 'GGUF') return engineModel(basename(path).replace(/\.gguf$/i, ''), path, options)
  throw new RagError(
    'model_unavailable',
    `${flag}: ${path} is not a GGUF file; expected one, or a folder with config.json, tokenizer.json and ${EXPECTED}`,
  )
}

/** A model that other tools have already downloaded into the hub's cache, when it is complete there. */
function cachedSnapshot(id: string, hubCacheDir: string): string | null {
  const repository = join(hubCacheDir, `models--${id.replace('/', '--')}`)
  const ref = join(repository, 'refs', 'main')
  if (!existsSync(ref)) return null
  const snapshot = join(repository, 'snapshots', readTextSync(ref).trim())
  if (!['config.json', 'tokenizer.json'].every((file) => existsSync(join(snapshot, file)))) return null
  return onnxFile(snapshot) !== null || existsSync(join(snapshot, 'model.safetensors')) ? snapshot : null
}

/** The weights of a folder: the quantized ones when both are there, as the library's own default. */
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
