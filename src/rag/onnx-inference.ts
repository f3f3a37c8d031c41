/** Embeds texts and scores pairs of texts with models in ONNX. */
import type { TextRole } from '../engine/runner/encoder/text-model.ts'
import { modelUnavailable } from './errors.ts'
import type { Embeddings } from './model-api.ts'
import type { WorkerEmbedder } from './model-worker.ts'
import type { OnnxSource } from './models.ts'
import { digestOf, loadOnnxModel, type Encoded, type OnnxModel, onnxRuntime, type Tensor } from './onnx.ts'

/** Loads an embedding model. @throws RagError model_unavailable */
export async function loadOnnxEmbedder(source: OnnxSource): Promise<WorkerEmbedder> {
  const model = await loadOnnxModel(source, 'embedding')
  const { tokenizer, maxTokens } = model
  const numIds = tokenizer.model.vocab.length
  const sample = await embed(model, ['a'], 'query')
  return {
    digest: digestOf(source),
    dimensions: sample.vectors.length,
    maxTokens,
    embed: (texts, role) => embed(model, texts, role),
    countTokens: (text) => tokenizer.encode(text, null, { add_special_tokens: false }).length,
    decode: (ids) =>
      ids.every((id) => id < numIds) ? tokenizer.decode([...ids], { skip_special_tokens: true }) : null,
  }
}

/** Loads a reranking model. @throws RagError model_unavailable */
export async function loadOnnxReranker(source: OnnxSource) {
  const model = await loadOnnxModel(source, 'reranking')
  return {
    maxTokens: model.maxTokens,
    score: (query: string, documents: readonly string[]) => scorePairs(model, query, documents),
  }
}

/**
 * UTF-16 units passed to the tokenizer per token that the model reads: tokenizing megabytes for the first 256 tokens would hold up all other
 * calls. Prose has about five units per token; only runs of white space and endless words have more than this.
 */
const MAX_CHARS_PER_TOKEN = 32

const cut = (text: string, maxTokens: number): string => text.slice(0, maxTokens * MAX_CHARS_PER_TOKEN)

/**
 * The inputs [texts, tokens] of a batch, padded to its longest text. A text that is too long is cut, but keeps its last token, which ends the
 * sequence.
 */
function encodeBatch(
  { tokenizer, session, maxTokens }: OnnxModel,
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
    if (!rows) throw modelUnavailable(`the model needs the input ${name}, which its tokenizer does not produce`)
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

/** Vectors of length 1. */
async function embed(model: OnnxModel, texts: readonly string[], role: TextRole): Promise<Embeddings> {
  const { session, settings } = model
  const { inputs, numTokens } = encodeBatch(
    model,
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
  if (!states) throw modelUnavailable('the embedding model has no output last_hidden_state or sentence_embedding')
  return { vectors: normalised(pool(states, numTokens, settings.pooling), texts.length), numTokens }
}

/** Hidden states [texts, tokens, dimensions] pooled to one vector per text. */
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

/** Rows scaled to length 1, for which sums and means are equivalent. A row of zeros stays. */
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

/** The probability of "relevant": the sigmoid of one logit, or the softmax of two. */
function relevance({ dims, data }: Tensor): Float32Array {
  const [numRows = 0, numLabels = 1] = dims
  if (numLabels > 2) throw modelUnavailable(`expected a reranking model with 1 or 2 labels, found ${numLabels}`)
  return Float32Array.from({ length: numRows }, (_, row) => {
    const logit = numLabels === 1 ? Number(data[row]) : Number(data[row * 2 + 1]) - Number(data[row * 2])
    return 1 / (1 + Math.exp(-logit))
  })
}

/** UTF-16 units of a query per token that the reranker reads, which leaves about half of the tokens for the passage. */
const QUERY_CHARS_PER_TOKEN = 2

/** The relevance of documents to a query. */
async function scorePairs(
  reranker: OnnxModel,
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
  if (!logits) throw modelUnavailable('the reranking model has no output logits')
  return { scores: relevance(logits), numTokens: numTokens.reduce((sum, count) => sum + count, 0) }
}
