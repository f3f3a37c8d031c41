/** Texts and pairs of texts through a model in ONNX. */
import { RagError } from './errors.ts'
import type { EmbedderApi, EmbeddingRole } from './model-api.ts'
import { type Encoded, type Loaded, onnxRuntime, type Tensor } from './onnx.ts'

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
    if (!rows)
      throw new RagError('model_unavailable', `the model asks for ${name}, which its tokenizer does not produce`)
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

/** Embed texts, at length 1. */
export async function embedWithOnnx(
  loadedModel: Loaded,
  texts: readonly string[],
  role: EmbeddingRole,
): Promise<EmbedderApi<never>['embed']['result']> {
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
      'the embedding model has neither the output last_hidden_state nor sentence_embedding',
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

/** UTF-16 units of a query for each token that a reranker reads, at most, so that half of them are left for the passage. */
const QUERY_CHARS_PER_TOKEN = 2

/** Relevance of documents to a query, read together. */
export async function scorePairs(
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
  if (!logits) throw new RagError('model_unavailable', 'the reranking model has no output logits')
  return { scores: relevance(logits), numTokens: numTokens.reduce((sum, count) => sum + count, 0) }
}
