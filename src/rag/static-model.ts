/**
 * Static embeddings: each token of a vocabulary has a vector, and a text's vector is the weighted mean of its tokens' vectors. Without layers, a
 * chunk takes a fraction of a millisecond and needs no runtime. The files are those of model2vec (https://github.com/MinishLab/model2vec):
 * tokenizer.json (WordPiece), config.json with `model_type: model2vec`, and model.safetensors with `embeddings` [tokens, dimensions] in I8 or
 * F32 and, if tokens have different weights, `weights` [tokens] in F32.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { readBytesSync, readTextSync } from '../regular-file.ts'
import { z } from 'zod'
import { modelUnavailable } from './errors.ts'
import type { Passage } from './model-api.ts'
import { modelJson, problemOf, readModelFile } from './model-file.ts'
import { WordPiece } from './wordpiece.ts'

const WEIGHTS_FILE = 'model.safetensors'

const config = z.object({
  model_type: z.literal('model2vec'),
  /** Tokens read per text. */
  seq_length: z.int().positive().optional(),
})

const tensorInfo = z.object({
  dtype: z.string(),
  shape: z.array(z.int().nonnegative()),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
})

/** Whether a folder contains static embeddings. */
export function isStaticModel(folder: string): boolean {
  if (!existsSync(join(folder, WEIGHTS_FILE)) || !existsSync(join(folder, 'config.json'))) return false
  try {
    return config.safeParse(JSON.parse(readTextSync(join(folder, 'config.json')))).success
  } catch {
    return false
  }
}

/** The share of the heading in the result of `interact`. */
const HEADING_SHARE = 1 / 3
/** Tokens of a query that `interact` compares: those with the largest weights. Questions have fewer. */
const MAX_QUERY_TOKENS = 48

/** Tokens read per text if the model's files name no limit. */
const DEFAULT_MAX_TOKENS = 512

/** A static embedding model: one vector per token. A text's vector is the weighted mean of them, with length 1. */
export class StaticModel {
  readonly dimensions: number
  readonly maxTokens: number
  /** Hash of the weights, 12 hexadecimal digits. */
  readonly digest: string
  readonly #tokenizer: WordPiece
  /** [tokens, dimensions] */
  readonly #rows: Int8Array | Float32Array
  /** [tokens] */
  readonly #weights: Float32Array
  /** [tokens], the lengths of their rows; 0: not computed yet. */
  readonly #lengths: Float32Array

  /** Reads the files of a folder. @throws RagError model_unavailable naming the file and what was expected */
  constructor(folder: string) {
    const { seq_length: length } = readModelFile(folder, 'config.json', (json) => config.parse(json))
    this.maxTokens = Math.min(length ?? DEFAULT_MAX_TOKENS, DEFAULT_MAX_TOKENS)
    this.#tokenizer = readModelFile(folder, 'tokenizer.json', (json) => new WordPiece(json))
    const file = readBytesSync(join(folder, WEIGHTS_FILE))
    this.digest = createHash('sha256').update(file).digest('hex').slice(0, 12)
    try {
      const tensors = readTensors(file)
      const embeddings = tensors.get('embeddings')
      if (!embeddings) throw new Error('expected a tensor embeddings, found none')
      const [numTokens = 0, dimensions = 0] = embeddings.shape
      if (embeddings.shape.length !== 2 || dimensions === 0 || numTokens < this.#tokenizer.size) {
        throw new Error(
          `embeddings: expected a row for each of ${this.#tokenizer.size} tokens, found [${embeddings.shape.join(', ')}]`,
        )
      }
      this.dimensions = dimensions
      this.#rows = embeddings.data
      const weights = tensors.get('weights')
      if (weights && (weights.shape.length !== 1 || weights.shape[0] !== numTokens)) {
        throw new Error(`weights: expected [${numTokens}], found [${weights.shape.join(', ')}]`)
      }
      this.#lengths = new Float32Array(numTokens)
      this.#weights = weights ? Float32Array.from(weights.data) : new Float32Array(numTokens).fill(1)
    } catch (error) {
      throw modelUnavailable(`${join(folder, WEIGHTS_FILE)}: ${problemOf(error)}`)
    }
  }

  /** Vectors [texts, dimensions], L2-normalised (zeros for a text without tokens), and the number of tokens read per text. */
  embed(texts: readonly string[]): { readonly vectors: Float32Array<ArrayBuffer>; readonly numTokens: number[] } {
    const { dimensions } = this
    const vectors = new Float32Array(texts.length * dimensions)
    const numTokens = texts.map((text, row) => {
      const ids = this.#tokenizer.encode(text, this.maxTokens)
      this.#sum(ids, vectors.subarray(row * dimensions, (row + 1) * dimensions))
      return ids.length
    })
    return { vectors, numTokens }
  }

  #sum(ids: readonly number[], out: Float32Array): void {
    const rows = this.#rows
    for (const id of ids) {
      const weight = this.#weights[id] ?? 0
      const from = id * out.length
      for (let i = 0; i < out.length; i++) out[i] = (out[i] ?? 0) + weight * (rows[from + i] ?? 0)
    }
    let squares = 0
    for (const value of out) squares += value * value
    const scale = squares > 0 ? 1 / Math.sqrt(squares) : 0
    for (let i = 0; i < out.length; i++) out[i] = (out[i] ?? 0) * scale
  }

  /**
   * How well each passage answers a query, compared token by token: late interaction (Khattab and Zaharia, ColBERT, 2020) over the token vectors.
   * Each token of the query contributes its weight times the cosine with the most similar token of the passage. This finds a passage by the words
   * that answer the query even if most of it is about something else. A third of the result is the similarity of the innermost heading.
   */
  interact(query: string, passages: readonly Passage[]): Float32Array<ArrayBuffer> {
    const asked = this.#tokenizer.encode(query, this.maxTokens)
    const ids = [...new Set(asked)].sort((a, b) => this.#weightOf(b) - this.#weightOf(a)).slice(0, MAX_QUERY_TOKENS)
    const total = ids.reduce((sum, id) => sum + this.#weightOf(id), 0)
    const { vectors: whole } = this.embed([query])
    const known = ids.map(() => new Map<number, number>())
    return Float32Array.from(passages, ({ headings, text }) => {
      const tokens = new Set(this.#tokenizer.encode([...headings, text].join('\n'), this.maxTokens))
      let sum = 0
      for (const [at, id] of ids.entries()) {
        let best = 0
        for (const token of tokens) best = Math.max(best, this.#similarity(id, token, known[at]))
        sum += best * this.#weightOf(id)
      }
      const interaction = total > 0 ? sum / total : 0
      const { vectors: heading } = this.embed([headings.at(-1) ?? ''])
      const headed = Math.max(0, dot(whole, 0, heading, 0, this.dimensions))
      return (1 - HEADING_SHARE) * interaction + HEADING_SHARE * headed
    })
  }

  /** The cosine of two tokens' vectors. @param known the cosines computed for the first token */
  #similarity(id: number, token: number, known: Map<number, number> | undefined): number {
    const found = known?.get(token)
    if (found !== undefined) return found
    const { dimensions } = this
    const lengths = this.#lengthOf(id) * this.#lengthOf(token)
    const product = dot(this.#rows, id * dimensions, this.#rows, token * dimensions, dimensions)
    const similarity = lengths > 0 ? product / lengths : 0
    known?.set(token, similarity)
    return similarity
  }

  /** The length of a token's row, without its weight. */
  #lengthOf(token: number): number {
    const known = this.#lengths[token] ?? 0
    if (known > 0) return known
    const at = token * this.dimensions
    const length = Math.sqrt(dot(this.#rows, at, this.#rows, at, this.dimensions))
    this.#lengths[token] = length
    return length
  }

  /** How much a token contributes to a mean. */
  #weightOf(token: number): number {
    return (this.#weights[token] ?? 0) * this.#lengthOf(token)
  }

  countTokens(text: string): number {
    return this.#tokenizer.encode(text).length
  }

  /** The text of token ids; null if an id is outside the vocabulary. */
  decode(ids: readonly number[]): string | null {
    return this.#tokenizer.decode(ids)
  }
}

function dot(
  left: Int8Array | Float32Array,
  leftAt: number,
  right: Int8Array | Float32Array,
  rightAt: number,
  size: number,
): number {
  let sum = 0
  for (let i = 0; i < size; i++) sum += (left[leftAt + i] ?? 0) * (right[rightAt + i] ?? 0)
  return sum
}

interface StaticTensor {
  readonly shape: readonly number[]
  readonly data: Int8Array | Float32Array
}

/** The I8 and F32 tensors of a safetensors file: the length of the header in 8 bytes, the header in JSON, the tensors' bytes. */
function readTensors(file: Buffer): Map<string, StaticTensor> {
  const headerBytes = file.length < 8 ? NaN : Number(file.readBigUInt64LE(0))
  if (!(headerBytes <= file.length - 8))
    throw new Error('expected a safetensors header, found a file that is too short')
  const header = z.record(z.string(), z.unknown()).parse(modelJson(file.toString('utf8', 8, 8 + headerBytes)))
  const tensors = new Map<string, StaticTensor>()
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const { dtype, shape, data_offsets: offsets } = tensorInfo.parse(value)
    const [start, end] = offsets.map((offset) => 8 + headerBytes + offset) as [number, number]
    const numElements = shape.reduce((product, size) => product * size, 1)
    const elementBytes = dtype === 'I8' ? 1 : dtype === 'F32' ? 4 : null
    if (elementBytes === null) throw new Error(`${name}: expected I8 or F32, found ${dtype.slice(0, 16)}`)
    if (end > file.length || end - start !== numElements * elementBytes) {
      throw new Error(
        `${name}: expected ${numElements * elementBytes} bytes, found ${Math.min(end, file.length) - start}`,
      )
    }
    // Copied, for the alignment and to release the rest of the file.
    const bytes = Uint8Array.from(file.subarray(start, end)).buffer
    tensors.set(name, { shape, data: elementBytes === 1 ? new Int8Array(bytes) : new Float32Array(bytes) })
  }
  return tensors
}
