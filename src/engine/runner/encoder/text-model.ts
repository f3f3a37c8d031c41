/** A model that embeds texts, or that ranks documents for a query: tokenizer, forward pass and what follows it. */
import type { Pooling } from '../../../kernels/ops.ts'
import { createTokenizer, type PairTokenizer } from '../../tokenizer/tokenizer.ts'
import { ModelError } from '../runner.ts'
import { openTextCheckpoint, type TextCheckpoint } from './checkpoint.ts'
import { decoderRanking, type MakeRanking, type Ranking } from './decoder-ranking.ts'
import { applyDense, classify, normalize, readClassifier, relevanceOf } from './head.ts'
import type { TextModules } from './modules.ts'
import { type PassRequest, TextPass } from './pass.ts'
import { TextReader } from './text-reader.ts'

export interface TextModelRequest extends PassRequest {
  /** A folder in Hugging Face layout, or a GGUF file. */
  readonly path: string
}

/** The role of a text, which decides the prompt before it. plain: neither query nor document, as sentence-transformers encodes a text by default. */
export type TextRole = 'query' | 'document' | 'plain'

/** Embeds texts as vectors. */
export class TextEmbedder {
  readonly dimensions: number
  readonly #reader: TextReader
  readonly #modules: TextModules

  private constructor(reader: TextReader, modules: TextModules, dimensions: number) {
    this.#reader = reader
    this.#modules = modules
    this.dimensions = dimensions
  }

  /** Loads the model. @throws ModelError that names the file and what was expected */
  static async load(request: TextModelRequest): Promise<TextEmbedder> {
    const { reader, extra } = await open(
      request,
      ({ modules }) => modules.pooling,
      ({ modules, spec }) => Promise.resolve({ modules, hiddenSize: spec.hiddenSize }),
    )
    const { dense, keptDimensions } = extra.modules
    const width = dense.at(-1)?.rows ?? extra.hiddenSize
    return new TextEmbedder(reader, extra.modules, Math.min(width, keptDimensions ?? width))
  }

  get maxTokens(): number {
    return this.#reader.pass.maxTokens
  }

  /** Identifies the weights: vectors of models with different digests cannot be compared. */
  get digest(): string {
    return this.#reader.pass.digest
  }

  /** The device's kind, adapter and driver. */
  get device(): TextPass['info'] {
    return this.#reader.pass.info
  }

  /**
   * Vectors [texts, dimensions], and the number of tokens read of each text. Texts that are too long are cut. Vectors of queries and documents have
   * length 1, as an index needs them; vectors of plain texts have the length that the model's modules give them.
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
      const whole = dense.reduce((x, layer) => applyDense(layer, x), row)
      // Truncated after it is scaled to length 1, as in sentence-transformers; vectors for an index are then scaled again.
      const vector = (isNormalized ? normalize(whole) : whole).subarray(0, this.dimensions)
      vectors.set(role === 'plain' ? vector : normalize(vector), i * this.dimensions)
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

/** Loads tokenizer and weights, and closes the checkpoint's files. @param read reads whatever else is needed from the checkpoint */
async function open<T>(
  request: TextModelRequest,
  poolingOf: (checkpoint: TextCheckpoint) => Pooling,
  read: (checkpoint: TextCheckpoint, tokenizer: PairTokenizer) => Promise<T>,
): Promise<{ readonly reader: TextReader; readonly extra: T }> {
  const checkpoint = await openTextCheckpoint(request.path)
  try {
    const pooling = poolingOf(checkpoint)
    const tokenizer = createTokenizer(checkpoint.tokenizer, 'read')
    const extra = await read(checkpoint, tokenizer)
    const pass = await TextPass.load(checkpoint, pooling, request)
    return { reader: new TextReader(pass, tokenizer, givesSegments(checkpoint.tokenizer.config)), extra }
  } finally {
    await checkpoint.source.close()
  }
}

/** Whether a tokenizer gives segments to the texts of a pair: as model_input_names says, or else if its class does so. */
function givesSegments({
  model_input_names: names,
  tokenizer_class: name,
}: Readonly<Record<string, unknown>>): boolean {
  return Array.isArray(names) ? names.includes('token_type_ids') : name !== 'TokenizersBackend'
}

/** Scores documents for a query. */
export class TextRanker {
  readonly #reader: TextReader
  readonly #ranking: Ranking

  private constructor(reader: TextReader, ranking: Ranking) {
    this.#reader = reader
    this.#ranking = ranking
  }

  /** Loads the model. @throws ModelError that names the file and what was expected */
  static async load(request: TextModelRequest): Promise<TextRanker> {
    const { reader, extra } = await open(
      request,
      (checkpoint) => (checkpoint.kind === 'encoder' ? checkpoint.spec.headPooling : 'last'),
      (checkpoint, tokenizer) =>
        checkpoint.kind === 'encoder' ? crossEncoder(request.path, checkpoint) : decoderRanking(checkpoint, tokenizer),
    )
    return new TextRanker(reader, extra(reader))
  }

  get maxTokens(): number {
    return this.#reader.pass.maxTokens
  }

  get device(): TextPass['info'] {
    return this.#reader.pass.info
  }

  /** The relevance of each document to the query, from 0 to 1, and the number of tokens read. Texts that are too long are cut. */
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

async function crossEncoder(path: string, checkpoint: TextCheckpoint & { kind: 'encoder' }): Promise<MakeRanking> {
  const classifier = await readClassifier(checkpoint.source, checkpoint.spec)
  if (classifier === null)
    throw new ModelError(
      `${path}: expected a model with a classifier (a cross-encoder) for ranking, found none; an embedding model does not rank`,
    )
  const numLabels = classifier.output.rows
  if (numLabels > 2)
    throw new ModelError(`${path}: expected a classifier of 1 or 2 labels (relevant or not), found ${numLabels}`)
  return () => ({
    row: (reader, query, document) => reader.pair(query, document),
    score: (pooled) => relevanceOf(classify(classifier, pooled)),
  })
}
