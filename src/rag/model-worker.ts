/** Worker entry of the models: loads them on their first call through @xenova/transformers and runs them one batch a call. */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { setImmediate as nextTurn } from 'node:timers/promises'
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
  /** What a pair of a question and a passage takes on this machine. */
  readonly msPerPair: number
}

/** What a text is to a model that was trained with instructions. */
export type EmbeddingRole = 'query' | 'document'

/** What a worker of embedding models answers. `Source` says where a model of its kind is. */
export interface EmbedderApi<Source> {
  readonly loadEmbedder: { readonly params: { readonly model: Source }; readonly result: LoadedEmbedder }
  /** Vectors [texts, dimensions], L2-normalised, and the tokens read of each text. Longer texts are cut. */
  readonly embed: {
    readonly params: { readonly model: Source; readonly texts: readonly string[]; readonly role: EmbeddingRole }
    readonly result: { readonly vectors: Float32Array<ArrayBuffer>; readonly numTokens: readonly number[] }
  }
  /** Token counts without special tokens. */
  readonly countTokens: {
    readonly params: { readonly model: Source; readonly texts: readonly string[] }
    readonly result: readonly number[]
  }
  /** Texts of token ids; null where an id is outside the vocabulary. */
  readonly decode: {
    readonly params: { readonly model: Source; readonly ids: readonly (readonly number[])[] }
    readonly result: readonly (string | null)[]
  }
}

export interface ModelWorkerApi extends EmbedderApi<ModelSource> {
  readonly loadReranker: { readonly params: { readonly model: ModelSource }; readonly result: LoadedReranker }
  /** Relevance of each document to the query, 0..1. Longer documents are cut. Stops between batches when it is cancelled. */
  readonly rerank: {
    readonly params: { readonly model: ModelSource; readonly query: string; readonly documents: readonly string[] }
    readonly result: { readonly scores: Float32Array; readonly numTokens: number }
  }
}

/** A tensor as the library and the runtime give it. */
interface Tensor {
  readonly type: string
  readonly dims: readonly number[]
  /** i64 for masks and ids. */
  readonly data: Float32Array | BigInt64Array
}

type Encoded = Readonly<Record<string, Tensor>>

/** Ids of each text, or text pair, in full: neither cut nor padded. */
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

interface Loaded {
  readonly tokenizer: Tokenizer
  readonly session: Session
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

interface Session {
  readonly inputNames: readonly string[]
  run(feeds: Encoded): Promise<Readonly<Record<string, Tensor>>>
}

interface OnnxRuntime {
  readonly InferenceSession: { create(model: unknown, options: Readonly<Record<string, unknown>>): Promise<Session> }
  readonly Tensor: new (type: string, data: BigInt64Array, dims: readonly number[]) => Tensor
}

/** The library loads one model at a time. */
let runtime: OnnxRuntime | null = null
let loadingFile: string | null = null
let loadedSession: Session | null = null

/**
 * The runtime that the library loads models with. Models are run on it directly: the library's own tensors are those of an older runtime.
 * It gets half of the cores. It takes all of them by default and spins on them between operators: the event loop and the engine's threads
 * would wait. The library has no option for it, and hands the model over as a buffer, for which older runtimes ignore options.
 */
function onnxRuntime(): OnnxRuntime {
  if (runtime) return runtime
  runtime = createRequire(import.meta.resolve('@xenova/transformers'))('onnxruntime-node') as OnnxRuntime
  const { InferenceSession } = runtime
  const create = InferenceSession.create.bind(InferenceSession)
  const intraOpNumThreads = Math.max(1, Math.floor(availableParallelism() / 2))
  InferenceSession.create = async (model, options) => {
    loadedSession = await create(loadingFile ?? model, { ...options, intraOpNumThreads, interOpNumThreads: 1 })
    return loadedSession
  }
  return runtime
}

async function load(source: ModelSource, task: 'embedding' | 'reranking'): Promise<Loaded> {
  let library
  try {
    library = await import('@xenova/transformers')
  } catch (error) {
    throw new RagError(
      'model_unavailable',
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
        loadingFile = source.kind === 'folder' ? (onnxFile(source.folder)?.path ?? null) : null
        const model: unknown = await AutoClass.from_pretrained(id, { quantized })
        // The library's own types call everything `any`: these are the parts of it used here.
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
    throw new RagError(
      'model_unavailable',
      `the ${task} model ${source.name} cannot be loaded: ${messageOf(error)} (${hint})`,
    )
  }
}

function describe(source: ModelSource, tokenizer: Tokenizer, model: Model, session: Session | null): Loaded {
  if (!session) throw new Error('its file was not loaded')
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
  return { tokenizer, session, settings, maxTokens: known.length > 0 ? Math.min(...known) : FALLBACK_MAX_TOKENS }
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

/**
 * UTF-16 units for each token that a model reads, at most, of what its tokenizer is given: tokenizing a text of megabytes for the 256
 * tokens at its beginning would keep everybody waiting. Prose has about five; only runs of white space and words without end have more.
 */
const MAX_CHARS_PER_TOKEN = 32

const cut = (text: string, maxTokens: number): string => text.slice(0, maxTokens * MAX_CHARS_PER_TOKEN)

/**
 * The inputs [texts, tokens] of a batch, padded to its longest text. Longer texts than the model reads lose what is before their last
 * token, which ends the sequence.
 */
function encodeBatch(
  { tokenizer, session, maxTokens }: Loaded,
  texts: readonly string[],
  pairs?: readonly string[],
): { readonly inputs: Encoded; readonly numTokens: readonly number[] } {
  const { Tensor: RuntimeTensor } = onnxRuntime()
  const lists = tokenizer(
    texts.map((text) => cut(text, maxTokens)),
    { return_tensor: false, ...(pairs && { text_pair: pairs.map((text) => cut(text, maxTokens)) }) },
  )
  const lengths = (lists['input_ids'] ?? []).map(({ length }) => Math.min(length, maxTokens))
  const longest = Math.max(1, ...lengths)
  const inputs: Record<string, Tensor> = {}
  for (const name of session.inputNames) {
    const rows = lists[name] ?? (name === 'token_type_ids' ? texts.map(() => []) : null)
    if (!rows) throw new RagError('model_unavailable', `the model asks for ${name}, which its tokenizer does not give`)
    const data = new BigInt64Array(texts.length * longest)
    if (name === 'input_ids') data.fill(BigInt(tokenizer.pad_token_id ?? 0))
    for (const [row, ids] of rows.entries()) {
      const length = Math.min(ids.length, maxTokens)
      for (let i = 0; i < length; i++) {
        const from = i === length - 1 ? ids.length - 1 : i
        data[row * longest + i] = BigInt(ids[from] ?? 0)
      }
    }
    inputs[name] = new RuntimeTensor('int64', data, [texts.length, longest])
  }
  return { inputs, numTokens: lengths }
}

async function embed(
  loadedModel: Loaded,
  texts: readonly string[],
  role: EmbeddingRole,
): Promise<ModelWorkerApi['embed']['result']> {
  const { session, settings } = loadedModel
  const { inputs, numTokens } = encodeBatch(
    loadedModel,
    texts.map((text) => settings.prefixes[role] + text),
  )
  const {
    sentence_embedding: sentence,
    last_hidden_state: hidden,
    token_embeddings: tokens,
  } = await session.run(inputs)
  const states = hidden ?? tokens
  if (sentence?.data instanceof Float32Array) {
    return { vectors: normalised(new Float32Array(sentence.data), texts.length), numTokens }
  }
  if (!states)
    throw new RagError(
      'model_unavailable',
      'the embedding model gives neither last_hidden_state nor sentence_embedding',
    )
  return { vectors: normalised(pool(states, numTokens, settings.pooling), texts.length), numTokens }
}

/** Hidden states [texts, tokens, dimensions] to one vector a text. */
function pool(
  { dims, data }: Tensor,
  numTokens: readonly number[],
  pooling: 'mean' | 'cls',
): Float32Array<ArrayBuffer> {
  const [numTexts = 0, length = 0, dimensions = 0] = dims
  const vectors = new Float32Array(numTexts * dimensions)
  for (let text = 0; text < numTexts; text++) {
    const out = vectors.subarray(text * dimensions, (text + 1) * dimensions)
    for (let token = 0; token < (pooling === 'cls' ? 1 : (numTokens[text] ?? 0)); token++) {
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

/** Pairs that are scored together: between batches a call can be cancelled. */
const RERANK_BATCH = 8
/** What a reranker is timed with: lengths as they occur. */
const SAMPLE_QUESTION = 'Which flag of the server sets the port that it listens on?'
const SAMPLE_PASSAGE = 'Sets the port that the server listens on; 0 takes any free one. '.repeat(8)
/** UTF-16 units of a query for each token that a reranker reads, at most, so that half of them are left for the passage. */
const QUERY_CHARS_PER_TOKEN = 2

async function scorePairs(
  reranker: Loaded,
  query: string,
  documents: readonly string[],
): Promise<{ readonly scores: Float32Array; readonly numTokens: number }> {
  const short = query.slice(0, reranker.maxTokens * QUERY_CHARS_PER_TOKEN)
  const { inputs, numTokens } = encodeBatch(
    reranker,
    documents.map(() => short),
    documents,
  )
  const { logits } = await reranker.session.run(inputs)
  if (!logits) throw new RagError('model_unavailable', 'the reranking model gives no logits')
  return { scores: relevance(logits), numTokens: numTokens.reduce((sum, count) => sum + count, 0) }
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
    const reranker = await loadedModel(model, 'reranking')
    const passages = Array.from({ length: RERANK_BATCH }, () => SAMPLE_PASSAGE)
    // The first run prepares the model for the shape.
    await scorePairs(reranker, SAMPLE_QUESTION, passages)
    const started = performance.now()
    await scorePairs(reranker, SAMPLE_QUESTION, passages)
    return { maxTokens: reranker.maxTokens, msPerPair: (performance.now() - started) / RERANK_BATCH }
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
  async rerank({ model, query, documents }, signal) {
    const reranker = await loadedModel(model, 'reranking')
    const scores = new Float32Array(documents.length)
    const order = documents.map((_, i) => i).sort((a, b) => (documents[a]?.length ?? 0) - (documents[b]?.length ?? 0))
    let numTokens = 0
    for (let from = 0; from < order.length; from += RERANK_BATCH) {
      const rows = order.slice(from, from + RERANK_BATCH)
      const batch = await scorePairs(
        reranker,
        query,
        rows.map((row) => documents[row] ?? ''),
      )
      rows.forEach((row, i) => (scores[row] = batch.scores[i] ?? 0))
      numTokens += batch.numTokens
      // A message that cancels the call is read here.
      await nextTurn()
      signal.throwIfAborted()
    }
    return { scores, numTokens }
  },
})
