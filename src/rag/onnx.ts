/** Loads models in ONNX: the tokenizer through @xenova/transformers, the session on the runtime that it brings. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { z } from 'zod'
import { readBytesSync } from '../regular-file.ts'
import { downloadCache } from './download-cache.ts'
import type { TextRole } from '../engine/runner/encoder/text-model.ts'
import { messageOf, modelUnavailable } from './errors.ts'
import { readModelFile } from './model-file.ts'
import { modelThreads, onnxFile, type OnnxSource } from './models.ts'

/** A tensor of the runtime. */
export interface Tensor {
  readonly type: string
  readonly dims: readonly number[]
  /** BigInt64Array: masks and ids. */
  readonly data: Float32Array | BigInt64Array
}

export type Encoded = Readonly<Record<string, Tensor>>

/** The ids of each text or pair of texts, neither cut nor padded. */
type TokenLists = Readonly<Record<string, readonly (readonly number[])[]>>

interface Tokenizer {
  (texts: string[], options: { return_tensor: false; text_pair?: string[] }): TokenLists
  encode(text: string, pair: null, options: { add_special_tokens: boolean }): ArrayLike<number>
  decode(ids: number[], options: { skip_special_tokens: boolean }): string
  readonly model: { readonly vocab: ArrayLike<string> }
  readonly model_max_length?: number
  readonly pad_token_id?: number
}

interface Model {
  readonly config: Readonly<Record<string, unknown>>
}

export interface OnnxModel {
  readonly tokenizer: Tokenizer
  readonly session: Session
  readonly maxTokens: number
  readonly settings: EmbeddingSettings
}

/** The settings that sentence-transformers stores beside a model. */
interface EmbeddingSettings {
  readonly pooling: 'mean' | 'cls'
  readonly prefixes: Readonly<Record<TextRole, string>>
}

/** Tokenizers without a limit report a length above this. */
const NO_LIMIT = 1_000_000
/** The limit if none of the model's files has one. */
const FALLBACK_MAX_TOKENS = 512

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null

const settingsFile = z.record(z.string(), z.unknown())

/** An optional file of settings. @throws RagError model_unavailable if it is there and contains no JSON object */
const readSettings = (folder: string, file: string): z.output<typeof settingsFile> =>
  existsSync(join(folder, file)) ? readModelFile(folder, file, (json) => settingsFile.parse(json)) : {}

function embeddingSettings(source: OnnxSource): EmbeddingSettings & { readonly maxTokens: number | null } {
  if (source.kind === 'hub')
    return { pooling: 'mean', prefixes: { query: '', document: '', plain: '' }, maxTokens: null }
  const pooling = readSettings(source.folder, '1_Pooling/config.json')
  const { max_seq_length: maxTokens } = readSettings(source.folder, 'sentence_bert_config.json')
  const { prompts } = readSettings(source.folder, 'config_sentence_transformers.json')
  const prefix = (...names: string[]): string => {
    const found = names
      .map((name) => (isRecord(prompts) ? prompts[name] : undefined))
      .find((text) => typeof text === 'string')
    return typeof found === 'string' ? found : ''
  }
  return {
    pooling: pooling['pooling_mode_cls_token'] === true ? 'cls' : 'mean',
    prefixes: { query: prefix('query'), document: prefix('document', 'passage'), plain: '' },
    maxTokens: typeof maxTokens === 'number' ? maxTokens : null,
  }
}

interface Session {
  readonly inputNames: readonly string[]
  run(feeds: Encoded): Promise<Readonly<Record<string, Tensor>>>
}

interface OnnxRuntime {
  readonly InferenceSession: { create(model: unknown, options: Readonly<Record<string, unknown>>): Promise<Session> }
  readonly Tensor: new (type: string, data: BigInt64Array, dims: readonly number[]) => Tensor
}

/** What the hook into the runtime needs and returns: the library loads one model at a time. */
let runtime: OnnxRuntime | null = null
let loadingFile: string | null = null
let loadedSession: Session | null = null

/**
 * The runtime that the library loads models with. Models run on it directly, because the library's own tensors belong to an older runtime.
 *
 * The runtime gets half of the cores. By default it takes all of them and spins between operators, so the event loop and the engine's threads
 * would wait. The library has no option for this, and passes models as buffers, for which older runtimes ignore options.
 */
export function onnxRuntime(): OnnxRuntime {
  if (runtime) return runtime
  runtime = createRequire(import.meta.resolve('@xenova/transformers'))('onnxruntime-node') as OnnxRuntime
  const { InferenceSession } = runtime
  const create = InferenceSession.create.bind(InferenceSession)
  const intraOpNumThreads = modelThreads()
  InferenceSession.create = async (model, options) => {
    loadedSession = await create(loadingFile ?? model, { ...options, intraOpNumThreads, interOpNumThreads: 1 })
    return loadedSession
  }
  return runtime
}

async function load(source: OnnxSource, task: 'embedding' | 'reranking'): Promise<OnnxModel> {
  let library
  try {
    library = await import('@xenova/transformers')
  } catch (error) {
    throw modelUnavailable(
      `@xenova/transformers cannot be loaded: ${messageOf(error)}; it is optional: npm install @xenova/transformers beside miniserve, or name an embedding model that needs no ONNX`,
    )
  }
  onnxRuntime()
  const { AutoModel, AutoModelForSequenceClassification, AutoTokenizer, env } = library
  env.useFSCache = false
  env.useCustomCache = source.kind === 'hub' && !source.isOffline
  const AutoClass = task === 'embedding' ? AutoModel : AutoModelForSequenceClassification
  let id: string
  let attempts: boolean[]
  if (source.kind === 'folder') {
    env.allowRemoteModels = false
    env.allowLocalModels = true
    env.localModelPath = `${dirname(source.folder)}/`
    id = basename(source.folder)
    attempts = [onnxFile(source.folder)?.isQuantized ?? false]
  } else {
    // Downloads are laid out like local models: offline, the library does not read a cache that it may not fill.
    env.allowRemoteModels = !source.isOffline
    env.allowLocalModels = source.isOffline
    env.localModelPath = `${source.cacheDir}/`
    env.remoteHost = `${source.endpoint}/`
    env.customCache = downloadCache(source.cacheDir, source.endpoint)
    id = source.name
    attempts = [true, false]
  }
  try {
    const tokenizer: unknown = await AutoTokenizer.from_pretrained(id)
    let failure: unknown
    for (const quantized of attempts) {
      try {
        loadingFile = source.kind === 'folder' ? (onnxFile(source.folder)?.path ?? null) : null
        const model: unknown = await AutoClass.from_pretrained(id, { quantized })
        // The library types everything as `any`; these are the parts used here.
        return describe(source, tokenizer as Tokenizer, model as Model, loadedSession)
      } catch (error) {
        failure = error
      }
    }
    throw failure
  } catch (error) {
    const hint =
      source.kind === 'folder'
        ? 'expected config.json, tokenizer.json, tokenizer_config.json and onnx/model.onnx'
        : source.isOffline
          ? 'HF_HUB_OFFLINE is set and it is not in the cache'
          : `it must be on ${source.endpoint} with ONNX weights, or be given as a folder`
    throw modelUnavailable(`the ${task} model ${source.name} cannot be loaded: ${messageOf(error)} (${hint})`)
  }
}

function describe(source: OnnxSource, tokenizer: Tokenizer, model: Model, session: Session | null): OnnxModel {
  if (!session) throw new Error('its file was not loaded')
  const settings = embeddingSettings(source)
  const positions = model.config['max_position_embeddings']
  // RoBERTa numbers positions from the padding id upwards.
  const reserved = /roberta/.test(String(model.config['model_type'])) ? 2 : 0
  const limits = [
    settings.maxTokens,
    tokenizer.model_max_length,
    typeof positions === 'number' ? positions - reserved : null,
  ]
  const known = limits.filter((limit): limit is number => typeof limit === 'number' && limit > 0 && limit < NO_LIMIT)
  return { tokenizer, session, settings, maxTokens: known.length > 0 ? Math.min(...known) : FALLBACK_MAX_TOKENS }
}

// The settings of the library are global: one load after the other.
let lastLoad: Promise<unknown> = Promise.resolve()

/** Loads a model, after the loads that were started before. @throws RagError model_unavailable */
export function loadOnnxModel(source: OnnxSource, task: 'embedding' | 'reranking'): Promise<OnnxModel> {
  const loading = lastLoad.then(() => load(source, task))
  lastLoad = loading.catch(() => undefined)
  return loading
}

/** Hash of the weights; null for a model of the hub. */
export function digestOf(source: OnnxSource): string | null {
  const file = source.kind === 'folder' ? onnxFile(source.folder) : null
  return file && createHash('sha256').update(readBytesSync(file.path)).digest('hex').slice(0, 12)
}
