/** A model that embeds texts, or that ranks documents for a query: tokenizer, pass and what follows it. */
import { dequantize } from '../../../kernels/dequantize.ts'
import type { MatrixData, Pooling } from '../../../kernels/ops.ts'
import { createTokenizer, type PairTokenizer } from '../../tokenizer.ts'
import { readMatrix, type WeightSource } from '../../weights/source.ts'
import { ModelError } from '../runner.ts'
import { type DecoderCheckpoint, openTextCheckpoint, type TextCheckpoint } from './checkpoint.ts'
import { applyDense, type Classifier, classify, normalize, readClassifier, relevanceOf } from './head.ts'
import type { TextModules } from './modules.ts'
import { type PassRequest, TextPass } from './pass.ts'
import { SpecialTokens, type TokenRow } from './special-tokens.ts'

export interface TextModelRequest extends PassRequest {
  /** A folder in Hugging Face layout, or a GGUF file. */
  readonly path: string
}

/** What a text is to a model that was trained with instructions; plain: neither, as sentence-transformers encodes a text. */
export type TextRole = 'query' | 'document' | 'plain'

/**
 * UTF-16 units for each token that a model reads, at most, of what its tokenizer is given: tokenizing a text of megabytes for the tokens at its
 * beginning would keep everybody waiting. Prose has about five; only runs of white space and words without end have more.
 */
const MAX_CHARS_PER_TOKEN = 32

/** Tokenizer and pass, which both kinds of model have. */
class TextReader {
  readonly pass: TextPass
  readonly #tokenizer: PairTokenizer
  readonly #special: SpecialTokens

  constructor(pass: TextPass, tokenizer: PairTokenizer, hasSegments: boolean) {
    this.pass = pass
    this.#tokenizer = tokenizer
    this.#special = new SpecialTokens(
      (text) => this.#body(text),
      (text, pair) => {
        const { ids, segments } = tokenizer.encodePair(text, pair ?? null)
        return { ids, segments: hasSegments ? segments : ids.map(() => 0) }
      },
    )
  }

  single(text: string): TokenRow {
    return this.#special.single(this.#body(this.#cut(text)), this.pass.maxTokens)
  }

  pair(first: string, second: string): TokenRow {
    return this.#special.pair(this.#body(this.#cut(first)), this.#body(this.#cut(second)), this.pass.maxTokens)
  }

  /** Ids of a text without special tokens. */
  countTokens(text: string): number {
    return this.#body(text).length
  }

  /** Null where an id is outside the vocabulary. */
  decode(ids: readonly number[]): string | null {
    if (ids.some((id) => this.#tokenizer.tokenText(id) === null)) return null
    return this.#tokenizer.decode(ids, { skipSpecialTokens: true })
  }

  tokenId(token: string): number | null {
    return this.#tokenizer.tokenId(token)
  }

  /** A text's own ids; of a prompt whose special tokens are written out, all of them. */
  body(text: string): readonly number[] {
    return this.#body(text)
  }

  #body(text: string): readonly number[] {
    return this.#tokenizer.encode(text, { addSpecialTokens: false })
  }

  #cut(text: string): string {
    return text.slice(0, this.pass.maxTokens * MAX_CHARS_PER_TOKEN)
  }
}

export class TextEmbedder {
  readonly dimensions: number
  readonly #reader: TextReader
  readonly #modules: TextModules

  private constructor(reader: TextReader, modules: TextModules, dimensions: number) {
    this.#reader = reader
    this.#modules = modules
    this.dimensions = dimensions
  }

  /** Throws ModelError that names the file and what was expected. */
  static async load(request: TextModelRequest): Promise<TextEmbedder> {
    const { reader, extra } = await open(
      request,
      ({ modules }) => modules.pooling,
      ({ modules, spec }) => Promise.resolve({ modules, hiddenSize: spec.hiddenSize }),
    )
    return new TextEmbedder(reader, extra.modules, extra.modules.dense.at(-1)?.rows ?? extra.hiddenSize)
  }

  get maxTokens(): number {
    return this.#reader.pass.maxTokens
  }

  /** Identifies the weights: vectors of different ones do not compare. */
  get digest(): string {
    return this.#reader.pass.digest
  }

  /** Adapter, driver and kind of device. */
  get device(): TextPass['info'] {
    return this.#reader.pass.info
  }

  /**
   * Vectors [texts, dimensions] and the tokens read of each text; longer texts are cut. Those of queries and documents have length 1, as an
   * index wants them; those of plain texts the length that the model's modules give them.
   */
  async embed(
    texts: readonly string[],
    role: TextRole,
  ): Promise<{ readonly vectors: Float32Array<ArrayBuffer>; readonly numTokens: readonly number[] }> {
    const { dense, isNormalized, prompts } = this.#modules
    const rows = texts.map((text) => this.#reader.single(prompts[role] + text))
    const pooled = await this.#reader.pass.run(rows)
    const vectors = new Float32Array(texts.length * this.dimensions)
    for (const [i, row] of pooled.entries()) {
      const vector = dense.reduce((x, layer) => applyDense(layer, x), row)
      vectors.set(role !== 'plain' || isNormalized ? normalize(vector) : vector, i * this.dimensions)
    }
    return { vectors, numTokens: rows.map(({ ids }) => ids.length) }
  }

  countTokens(text: string): number {
    return this.#reader.countTokens(text)
  }

  decode(ids: readonly number[]): string | null {
    return this.#reader.decode(ids)
  }

  close(): Promise<void> {
    return this.#reader.pass.close()
  }
}

/** Loads tokenizer and weights; the checkpoint's files are closed again. `read`: what else is needed of them. */
async function open<T>(
  request: TextModelRequest,
  poolingOf: (checkpoint: TextCheckpoint) => Pooling,
  read: (checkpoint: TextCheckpoint) => Promise<T>,
): Promise<{ readonly reader: TextReader; readonly extra: T }> {
  const checkpoint = await openTextCheckpoint(request.path)
  try {
    const pooling = poolingOf(checkpoint)
    if (checkpoint.kind === 'decoder' && pooling === 'mean')
      throw new ModelError(`${request.path}: expected the last token's row as the pooling of a decoder, found the mean`)
    const tokenizer = createTokenizer(checkpoint.tokenizer, 'read')
    const extra = await read(checkpoint)
    const pass = await TextPass.load(checkpoint, pooling, request)
    return { reader: new TextReader(pass, tokenizer, givesSegments(checkpoint.tokenizer.config)), extra }
  } finally {
    await checkpoint.source.close()
  }
}

/** Whether a tokenizer's files say that it tells a pair's texts apart: in a list of what it gives, or by its class, which is one that does. */
function givesSegments({
  model_input_names: names,
  tokenizer_class: name,
}: Readonly<Record<string, unknown>>): boolean {
  return Array.isArray(names) ? names.includes('token_type_ids') : name !== 'TokenizersBackend'
}

/** How a ranker's rows are made and read. */
interface Ranking {
  row(reader: TextReader, query: string, document: string): TokenRow
  score(pooled: Float32Array): number
}

export class TextRanker {
  readonly #reader: TextReader
  readonly #ranking: Ranking

  private constructor(reader: TextReader, ranking: Ranking) {
    this.#reader = reader
    this.#ranking = ranking
  }

  /** Throws ModelError that names the file and what was expected. */
  static async load(request: TextModelRequest): Promise<TextRanker> {
    const { reader, extra } = await open(
      request,
      (checkpoint) => (checkpoint.kind === 'encoder' ? checkpoint.spec.headPooling : 'last'),
      (checkpoint) =>
        checkpoint.kind === 'encoder' ? crossEncoder(request.path, checkpoint) : decoderRanking(checkpoint),
    )
    return new TextRanker(reader, extra(reader))
  }

  get maxTokens(): number {
    return this.#reader.pass.maxTokens
  }

  get device(): TextPass['info'] {
    return this.#reader.pass.info
  }

  /** The relevance of each document to the query, 0..1, and the tokens read. Longer ones are cut. */
  async score(
    query: string,
    documents: readonly string[],
  ): Promise<{ readonly scores: Float32Array; readonly numTokens: number }> {
    const rows = documents.map((document) => this.#ranking.row(this.#reader, query, document))
    const pooled = await this.#reader.pass.run(rows)
    return {
      scores: Float32Array.from(pooled, (row) => this.#ranking.score(row)),
      numTokens: rows.reduce((sum, { ids }) => sum + ids.length, 0),
    }
  }

  close(): Promise<void> {
    return this.#reader.pass.close()
  }
}

type MakeRanking = (reader: TextReader) => Ranking

async function crossEncoder(path: string, checkpoint: TextCheckpoint & { kind: 'encoder' }): Promise<MakeRanking> {
  const classifier = await readClassifier(checkpoint.source, checkpoint.spec)
  if (classifier === null)
    throw new ModelError(
      `${path}: expected a model with a classifier (a cross-encoder) for ranking, found none; an embedding model does not rank`,
    )
  requireRelevance(path, classifier)
  return () => ({
    row: (reader, query, document) => reader.pair(query, document),
    score: (pooled) => relevanceOf(classify(classifier, pooled)) ?? 0,
  })
}

function requireRelevance(path: string, { output }: Classifier): void {
  if (output.rows > 2)
    throw new ModelError(`${path}: expected a classifier of 1 or 2 labels (relevant or not), found ${output.rows}`)
}

const RANK_BEFORE =
  '<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. ' +
  'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
const RANK_AFTER = '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n'
const RANK_TASK = 'Given a web search query, retrieve relevant passages that answer the query'

/**
 * A decoder that was trained to answer yes or no (Qwen3-Reranker): the relevance is the probability of yes among both, after the prompt of its
 * model card. Variants with a head for it have the head's one row.
 */
async function decoderRanking(checkpoint: DecoderCheckpoint): Promise<MakeRanking> {
  const { source, spec } = checkpoint
  const tokenizer = createTokenizer(checkpoint.tokenizer, 'read')
  const direction = await relevanceRow(source, spec.hiddenSize, tokenizer)
  return (reader) => {
    const before = reader.body(RANK_BEFORE)
    const after = reader.body(RANK_AFTER)
    return {
      row(_, query, document) {
        const room = Math.max(0, reader.pass.maxTokens - before.length - after.length)
        const asked = `<Instruct>: ${RANK_TASK}\n<Query>: ${query.slice(0, room * MAX_CHARS_PER_TOKEN)}\n<Document>: `
        const body = reader.body(asked + document.slice(0, room * MAX_CHARS_PER_TOKEN)).slice(0, room)
        const ids = [...before, ...body, ...after]
        return { ids, segments: ids.map(() => 0) }
      },
      score: (pooled) => 1 / (1 + Math.exp(-pooled.reduce((sum, value, i) => sum + value * direction[i]!, 0))),
    }
  }
}

/** The row whose product with the last state is the logit of "relevant". */
async function relevanceRow(source: WeightSource, hiddenSize: number, tokenizer: PairTokenizer): Promise<Float32Array> {
  const head = ['score', 'cls.output'].find((name) => source.tensors.has(`${name}.weight`))
  if (head !== undefined) {
    const rows = source.tensors.get(`${head}.weight`)?.shape[0] ?? 1
    if (rows > 2) throw new ModelError(`${source.path}: ${head}.weight: expected 1 or 2 rows, found ${rows}`)
    const values = dequantize(await readMatrix(source, `${head}.weight`, rows, hiddenSize))
    if (rows === 1) return values
    // llama.cpp's order of labels: yes, no; that of classifiers is the other way round.
    const sign = head === 'score' ? -1 : 1
    return values.slice(0, hiddenSize).map((value, i) => sign * (value - values[hiddenSize + i]!))
  }
  const [yes, no] = [tokenizer.tokenId('yes'), tokenizer.tokenId('no')]
  if (yes === null || no === null)
    throw new ModelError(`${source.path}: expected a vocabulary with the tokens yes and no for ranking, found none`)
  const name = ['lm_head', 'model.embed_tokens', 'embed_tokens'].find((candidate) =>
    source.tensors.has(`${candidate}.weight`),
  )
  const info = source.tensors.get(`${name ?? 'lm_head'}.weight`)
  if (name === undefined || info === undefined)
    throw new ModelError(`${source.path}: expected lm_head.weight, found none`)
  const rowOf = rowsOf(await source.read(`${name}.weight`), hiddenSize)
  const [ofYes, ofNo] = [rowOf(yes), rowOf(no)]
  return ofYes.map((value, i) => value - ofNo[i]!)
}

/** Single rows of a matrix as f32. */
function rowsOf(data: MatrixData, cols: number): (row: number) => Float32Array {
  if (data.format === 'f32') return (row) => data.values.slice(row * cols, (row + 1) * cols)
  if (data.format === 'f16')
    return (row) => dequantize({ format: 'f16', values: data.values.slice(row * cols, (row + 1) * cols) })
  const groups = cols / data.group
  const perRow = data.format === 'q8' ? cols : cols / 2
  return (row) => {
    const planes = {
      scales: data.scales.slice(row * groups, (row + 1) * groups),
      mins: data.mins?.slice(row * groups, (row + 1) * groups) ?? null,
    }
    return data.format === 'q8'
      ? dequantize({ ...data, ...planes, codes: data.codes.slice(row * perRow, (row + 1) * perRow) })
      : dequantize({ ...data, ...planes, codes: data.codes.slice(row * perRow, (row + 1) * perRow) })
  }
}
