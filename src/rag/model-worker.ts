/** Worker entry of the models: loads them on their first call through @xenova/transformers and runs them one batch a call. */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { downloadCache } from './download-cache.ts'
import { messageOf, RagError } from './errors.ts'
import { onnxFile, type ModelSource } from './models.ts'
import { serveCalls, Transferred } from './worker-rpc.ts'

export interface LoadedEmbedder {
  /** Name and hash of the weights: vectors of different ones do not compare. */
  readonly fingerprint: string
  readonly dimensions: number
  /** Tokens it reads, special tokens included. */
  readonly maxTokens: number
}

export interface LoadedReranker {
  readonly maxTokens: number
}

/** What a text is to a model that was trained with instructions. */
export type EmbeddingRole = 'query' | 'document'

export interface ModelWorkerApi {
  readonly loadEmbedder: { readonly params: { readonly model: ModelSource }; readonly result: LoadedEmbedder }
  readonly loadReranker: { readonly params: { readonly model: ModelSource }; readonly result: LoadedReranker }
  /** Vectors [texts, dimensions], L2-normalised, and the tokens read of each text. Longer texts are cut. */
  readonly embed: {
    readonly params: { readonly model: ModelSource; readonly texts: readonly string[]; readonly role: EmbeddingRole }
    readonly result: { readonly vectors: Float32Array<ArrayBuffer>; readonly numTokens: readonly number[] }
  }
  /** Token counts without special tokens. */
  readonly countTokens: {
    readonly params: { readonly model: ModelSource; readonly texts: readonly string[] }
    readonly result: readonly number[]
  }
  /** Texts of token ids; null where an id is outside the vocabulary. */
  readonly decode: {
    readonly params: { readonly model: ModelSource; readonly ids: readonly (readonly number[])[] }
    readonly result: readonly (string | null)[]
  }
  /** Relevance of each document to the query, 0..1. Longer documents are cut. */
  readonly rerank: {
    readonly params: { readonly model: ModelSource; readonly query: string; readonly documents: readonly string[] }
    readonly result: { readonly scores: Float32Array; readonly numTokens: number }
  }
}

/** A tensor as the library gives it. */
interface Tensor {
  readonly dims: readonly number[]
  /** i64 for masks and ids. */
  readonly data: Float32Array | BigInt64Array
}

type Encoded = Readonly<Record<string, Tensor>>

interface Tokenizer {
  (
    texts: string[],
    options: { padding: boolean; truncation: boolean; max_length: number; text_pair?: string[] },
  ): Encoded
  encode(text: string, pair: null, options: { add_special_tokens: boolean }): ArrayLike<number>
  decode(ids: number[], options: { skip_special_tokens: boolean }): string
  readonly model: { readonly vocab: ArrayLike<string> }
  readonly model_max_length?: number
}

interface Model {
  (inputs: Encoded): Promise<Readonly<Record<string, Tensor>>>
  readonly config: Readonly<Record<string, unknown>>
}

interface Loaded {
  readonly tokenizer: Tokenizer
  readonly model: Model
  readonly maxTokens: number
  readonly settings: EmbeddingSettings
}

/** What sentence-transformers stores beside a model. */
interface EmbeddingSettings {
  readonly pooling: 'mean' | 'cls'
  readonly prefixes: Readonly<Record<EmbeddingRole, string>>
}

/** Lengths that a tokenizer gives when it knows none. */
const NO_LIMIT = 1_000_000
/** Where nothing in the model's files says how long its inputs may be. */
const FALLBACK_MAX_TOKENS = 512

const loaded = new Map<string, Promise<Loaded>>()
const infos = new Map<string, Promise<LoadedEmbedder>>()

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null

function readSettings(folder: string, file: string): Readonly<Record<string, unknown>> {
  const path = join(folder, file)
  if (!existsSync(path)) return {}
  const json: unknown = JSON.parse(readFileSync(path, 'utf8'))
  return isRecord(json) ? json : {}
}

function embeddingSettings(source: ModelSource): EmbeddingSettings & { readonly maxTokens: number | null } {
  if (source.kind === 'hub') return { pooling: 'mean', prefixes: { query: '', document: '' }, maxTokens: null }
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
    prefixes: { query: prefix('query'), document: prefix('document', 'passage') },
    maxTokens: typeof maxTokens === 'number' ? maxTokens : null,
  }
}

interface OnnxRuntime {
  readonly InferenceSession: { create(model: unknown, options: Readonly<Record<string, unknown>>): Promise<unknown> }
}

let isLimited = false

/**
 * Half of the cores for ONNX Runtime, which takes all of them by default and spins on them between operators: the event loop and the
 * engine's threads would wait. @xenova/transformers has no option for it, so the sessions it makes are given one here.
 */
function limitThreads(): void {
  if (isLimited) return
  isLimited = true
  const runtime = createRequire(import.meta.resolve('@xenova/transformers'))('onnxruntime-node') as OnnxRuntime
  const { InferenceSession } = runtime
  const create = InferenceSession.create.bind(InferenceSession)
  const intraOpNumThreads = Math.max(1, Math.floor(availableParallelism() / 2))
  InferenceSession.create = (model, options) => create(model, { ...options, intraOpNumThreads, interOpNumThreads: 1 })
}

async function load(source: ModelSource, task: 'embedding' | 'reranking'): Promise<Loaded> {
  let library
  try {
    library = await import('@xenova/transformers')
  } catch (error) {
    throw new RagError(
      'model_unavailable',
      `@xenova/transformers cannot be loaded: ${messageOf(error)}; npm install puts it in place`,
    )
  }
  limitThreads()
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
    // What was downloaded once is laid out as local models are. The library refuses to look into a cache that it may not fill.
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
        const model: unknown = await AutoClass.from_pretrained(id, { quantized })
        // The library's own types call everything `any`: these are the parts of it used here.
        return describe(source, tokenizer as Tokenizer, model as Model)
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
    throw new RagError(
      'model_unavailable',
      `the ${task} model ${source.name} cannot be loaded: ${messageOf(error)} (${hint})`,
    )
  }
}

function describe(source: ModelSource, tokenizer: Tokenizer, model: Model): Loaded {
  const settings = embeddingSettings(source)
  const positions = model.config['max_position_embeddings']
  // RoBERTa numbers positions from the padding id on.
  const reserved = /roberta/.test(String(model.config['model_type'])) ? 2 : 0
  const limits = [
    settings.maxTokens,
    tokenizer.model_max_length,
    typeof positions === 'number' ? positions - reserved : null,
  ]
  const known = limits.filter((limit): limit is number => typeof limit === 'number' && limit > 0 && limit < NO_LIMIT)
  return { tokenizer, model, settings, maxTokens: known.length > 0 ? Math.min(...known) : FALLBACK_MAX_TOKENS }
}

// The library's settings are global: one load after the other.
let lastLoad: Promise<unknown> = Promise.resolve()

function loadedModel(source: ModelSource, task: 'embedding' | 'reranking'): Promise<Loaded> {
  const key = `${task} ${source.kind} ${source.kind === 'folder' ? source.folder : source.name}`
  const known = loaded.get(key)
  if (known) return known
  const loading = lastLoad.then(() => load(source, task))
  lastLoad = loading.catch(() => undefined)
  loaded.set(key, loading)
  // A model that could not be loaded is tried again by the next call: a hub may be back.
  loading.catch(() => loaded.delete(key))
  return loading
}

function fingerprintOf(source: ModelSource): string {
  const file = source.kind === 'folder' ? onnxFile(source.folder) : null
  return file
    ? `${source.name}@${createHash('sha256').update(readFileSync(file.path)).digest('hex').slice(0, 12)}`
    : source.name
}

async function embed(
  { tokenizer, model, maxTokens, settings }: Loaded,
  texts: readonly string[],
  role: EmbeddingRole,
): Promise<ModelWorkerApi['embed']['result']> {
  const inputs = tokenizer(
    texts.map((text) => settings.prefixes[role] + text),
    { padding: true, truncation: true, max_length: maxTokens },
  )
  const { sentence_embedding: sentence, last_hidden_state: hidden, token_embeddings: tokens } = await model(inputs)
  const mask = inputs['attention_mask']
  if (!mask) throw new RagError('model_unavailable', 'the tokenizer gives no attention_mask')
  const numTokens = texts.map((_, row) => countOnes(mask, row))
  const states = hidden ?? tokens
  if (sentence?.data instanceof Float32Array) {
    return { vectors: normalised(new Float32Array(sentence.data), texts.length), numTokens }
  }
  if (!states)
    throw new RagError(
      'model_unavailable',
      'the embedding model gives neither last_hidden_state nor sentence_embedding',
    )
  return { vectors: normalised(pool(states, mask, settings.pooling), texts.length), numTokens }
}

const countOnes = (mask: Tensor, row: number): number => {
  const length = mask.dims[1] ?? 0
  let count = 0
  for (let i = 0; i < length; i++) count += Number(mask.data[row * length + i])
  return count
}

/** Hidden states [texts, tokens, dimensions] to one vector a text. */
function pool({ dims, data }: Tensor, mask: Tensor, pooling: 'mean' | 'cls'): Float32Array<ArrayBuffer> {
  const [numTexts = 0, length = 0, dimensions = 0] = dims
  const vectors = new Float32Array(numTexts * dimensions)
  for (let text = 0; text < numTexts; text++) {
    const out = vectors.subarray(text * dimensions, (text + 1) * dimensions)
    for (let token = 0; token < (pooling === 'cls' ? 1 : length); token++) {
      if (Number(mask.data[text * length + token]) === 0) continue
      const from = (text * length + token) * dimensions
      for (let i = 0; i < dimensions; i++) out[i] = (out[i] ?? 0) + Number(data[from + i])
    }
  }
  return vectors
}

/** Rows scaled to length 1, which makes sums and means the same. A row of zeros stays. */
function normalised(vectors: Float32Array<ArrayBuffer>, numRows: number): Float32Array<ArrayBuffer> {
  const dimensions = vectors.length / numRows
  for (let row = 0; row < numRows; row++) {
    const vector = vectors.subarray(row * dimensions, (row + 1) * dimensions)
    let squares = 0
    for (const value of vector) squares += value * value
    const scale = squares > 0 ? 1 / Math.sqrt(squares) : 0
    for (let i = 0; i < dimensions; i++) vector[i] = (vector[i] ?? 0) * scale
  }
  return vectors
}

/** Probability of "relevant": of one logit by the sigmoid, of two by the softmax. */
function relevance({ dims, data }: Tensor): Float32Array {
  const [numRows = 0, numLabels = 1] = dims
  if (numLabels > 2)
    throw new RagError('model_unavailable', `the reranking model has ${numLabels} labels, expected 1 or 2`)
  return Float32Array.from({ length: numRows }, (_, row) => {
    const logit = numLabels === 1 ? Number(data[row]) : Number(data[row * 2 + 1]) - Number(data[row * 2])
    return 1 / (1 + Math.exp(-logit))
  })
}

serveCalls<ModelWorkerApi>({
  async loadEmbedder({ model }) {
    const embedder = await loadedModel(model, 'embedding')
    const key = JSON.stringify(model)
    const info =
      infos.get(key) ??
      embed(embedder, ['a'], 'query').then(({ vectors }) => ({
        fingerprint: fingerprintOf(model),
        dimensions: vectors.length,
        maxTokens: embedder.maxTokens,
      }))
    infos.set(key, info)
    return info
  },
  async loadReranker({ model }) {
    const { maxTokens } = await loadedModel(model, 'reranking')
    return { maxTokens }
  },
  async embed({ model, texts, role }) {
    const result = await embed(await loadedModel(model, 'embedding'), texts, role)
    return new Transferred(result, [result.vectors.buffer])
  },
  async countTokens({ model, texts }) {
    const { tokenizer } = await loadedModel(model, 'embedding')
    return texts.map((text) => tokenizer.encode(text, null, { add_special_tokens: false }).length)
  },
  async decode({ model, ids }) {
    const { tokenizer } = await loadedModel(model, 'embedding')
    const size = tokenizer.model.vocab.length
    return ids.map((list) =>
      list.every((id) => id < size) ? tokenizer.decode([...list], { skip_special_tokens: true }) : null,
    )
  },
  async rerank({ model, query, documents }) {
    const { tokenizer, model: run, maxTokens } = await loadedModel(model, 'reranking')
    const inputs = tokenizer(
      documents.map(() => query),
      { text_pair: [...documents], padding: true, truncation: true, max_length: maxTokens },
    )
    const { logits } = await run(inputs)
    if (!logits) throw new RagError('model_unavailable', 'the reranking model gives no logits')
    const mask = inputs['attention_mask']
    const numTokens = mask ? documents.reduce((sum, _, row) => sum + countOnes(mask, row), 0) : 0
    return { scores: relevance(logits), numTokens }
  },
})
