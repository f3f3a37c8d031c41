/**
 * BERT encoders with random weights, written as ONNX in the layout that @xenova/transformers loads, for tests: a bi-encoder
 * (last_hidden_state) or a cross-encoder (logits) of any size, with a WordPiece tokenizer. Mean-pooled, texts that share words are
 * near each other even so, because the residual stream carries the word embeddings through.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { seededRandom } from './documents.ts'

export interface BertShape {
  readonly hidden: number
  readonly layers: number
  readonly heads: number
  readonly intermediate: number
  readonly maxPositions: number
  readonly vocabSize: number
}

export const TINY: BertShape = { hidden: 32, layers: 1, heads: 2, intermediate: 64, maxPositions: 128, vocabSize: 2000 }
/** The shape of all-MiniLM-L6-v2 and ms-marco-MiniLM-L-6-v2. */
export const MINILM_L6: BertShape = {
  hidden: 384,
  layers: 6,
  heads: 12,
  intermediate: 1536,
  maxPositions: 512,
  vocabSize: 30_522,
}

const varint = (value: number): number[] => {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, BigInt(value))
  do {
    const low = Number(rest & 0x7fn)
    rest >>= 7n
    bytes.push(rest === 0n ? low : low | 0x80)
  } while (rest !== 0n)
  return bytes
}
const int = (field: number, value: number): Buffer => Buffer.from([...varint(field * 8), ...varint(value)])
const bytes = (field: number, value: Uint8Array | string): Buffer => {
  const content = typeof value === 'string' ? Buffer.from(value) : value
  return Buffer.concat([Buffer.from([...varint(field * 8 + 2), ...varint(content.length)]), content])
}
const float = (field: number, value: number): Buffer => {
  const buffer = Buffer.alloc(4)
  buffer.writeFloatLE(value)
  return Buffer.concat([Buffer.from(varint(field * 8 + 5)), buffer])
}
const message = (...fields: readonly Buffer[]): Buffer => Buffer.concat(fields)

const FLOAT = 1
const INT64 = 7

/** Collects the nodes and weights of a graph. Field numbers are those of onnx.proto3. */
class Graph {
  readonly #nodes: Buffer[] = []
  readonly #weights: Buffer[] = []
  #next = 0

  weights(dims: readonly number[], data: Float32Array | BigInt64Array): string {
    const name = `w${this.#next++}`
    const raw = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
    const type = data instanceof Float32Array ? FLOAT : INT64
    this.#weights.push(
      bytes(5, message(...dims.map((dim) => int(1, dim)), int(2, type), bytes(8, name), bytes(9, raw))),
    )
    return name
  }

  /** Integers as a 1-d tensor. */
  ints(...values: readonly number[]): string {
    return this.weights([values.length], BigInt64Array.from(values, BigInt))
  }

  scalar(value: number): string {
    return this.weights([], Float32Array.of(value))
  }

  /** Adds a node. Attributes are integers, lists of integers or floats ({ float }). */
  add(
    op: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, number | readonly number[] | { float: number }>> = {},
    output = `t${this.#next++}`,
  ): string {
    const attribute = ([name, value]: readonly [string, number | readonly number[] | { float: number }]): Buffer => {
      if (typeof value === 'number') return bytes(5, message(bytes(1, name), int(3, value), int(20, 2)))
      if ('float' in value) return bytes(5, message(bytes(1, name), float(2, value.float), int(20, 1)))
      return bytes(5, message(bytes(1, name), ...value.map((item) => int(8, item)), int(20, 7)))
    }
    const fields = [
      ...inputs.map((input) => bytes(1, input)),
      bytes(2, output),
      bytes(4, op),
      ...Object.entries(attributes).map(attribute),
    ]
    this.#nodes.push(bytes(1, message(...fields)))
    return output
  }

  model(inputs: readonly string[], output: string, outputDims: readonly (string | number)[]): Buffer {
    const value = (name: string, type: number, dims: readonly (string | number)[]): Buffer => {
      const shape = dims.map((dim) => bytes(1, typeof dim === 'string' ? bytes(2, dim) : int(1, dim)))
      return message(bytes(1, name), bytes(2, bytes(1, message(int(1, type), bytes(2, message(...shape))))))
    }
    const graph = message(
      ...this.#nodes,
      bytes(2, 'bert'),
      ...this.#weights,
      ...inputs.map((name) => bytes(11, value(name, INT64, ['batch', 'sequence']))),
      bytes(12, value(output, FLOAT, outputDims)),
    )
    return message(int(1, 8), bytes(7, graph), bytes(8, int(2, 13)))
  }
}

/** The encoder as ONNX opset 13. */
function bertOnnx(shape: BertShape, isClassifier: boolean, seed: number): Buffer {
  const { hidden, layers, heads, intermediate, maxPositions, vocabSize } = shape
  const random = seededRandom(seed)
  const graph = new Graph()
  const matrix = (rows: number, columns: number, scale: number): string =>
    graph.weights(
      [rows, columns],
      Float32Array.from({ length: rows * columns }, () => (random() * 2 - 1) * scale),
    )
  const vector = (length: number, value = 0): string => graph.weights([length], new Float32Array(length).fill(value))
  const linear = (x: string, rows: number, columns: number): string =>
    graph.add('Add', [graph.add('MatMul', [x, matrix(rows, columns, 1 / Math.sqrt(rows))]), vector(columns)])
  const layerNorm = (x: string): string => {
    const centred = graph.add('Sub', [x, graph.add('ReduceMean', [x], { axes: [-1], keepdims: 1 })])
    const variance = graph.add('ReduceMean', [graph.add('Mul', [centred, centred])], { axes: [-1], keepdims: 1 })
    const deviation = graph.add('Sqrt', [graph.add('Add', [variance, graph.scalar(1e-12)])])
    return graph.add('Mul', [graph.add('Div', [centred, deviation]), vector(hidden, 1)])
  }
  const length = graph.add('Gather', [graph.add('Shape', ['input_ids']), graph.weights([], BigInt64Array.of(1n))])
  const positions = graph.add('Range', [
    graph.weights([], BigInt64Array.of(0n)),
    length,
    graph.weights([], BigInt64Array.of(1n)),
  ])
  const words = graph.add('Gather', [matrix(vocabSize, hidden, 1), 'input_ids'])
  const types = graph.add('Gather', [matrix(2, hidden, 0.05), 'token_type_ids'])
  const places = graph.add('Gather', [matrix(maxPositions, hidden, 0.05), positions])
  let x = layerNorm(graph.add('Add', [graph.add('Add', [words, types]), places]))

  const mask = graph.add('Cast', [graph.add('Unsqueeze', ['attention_mask', graph.ints(1, 2)])], { to: FLOAT })
  const bias = graph.add('Mul', [graph.add('Sub', [graph.scalar(1), mask]), graph.scalar(-10_000)])
  const splitHeads = (y: string, perm: readonly number[]): string =>
    graph.add('Transpose', [graph.add('Reshape', [y, graph.ints(0, 0, heads, hidden / heads)])], { perm })
  for (let layer = 0; layer < layers; layer++) {
    const q = splitHeads(linear(x, hidden, hidden), [0, 2, 1, 3])
    const k = splitHeads(linear(x, hidden, hidden), [0, 2, 3, 1])
    const v = splitHeads(linear(x, hidden, hidden), [0, 2, 1, 3])
    const scaled = graph.add('Mul', [graph.add('MatMul', [q, k]), graph.scalar(1 / Math.sqrt(hidden / heads))])
    const weights = graph.add('Softmax', [graph.add('Add', [scaled, bias])], { axis: -1 })
    const joined = graph.add('Transpose', [graph.add('MatMul', [weights, v])], { perm: [0, 2, 1, 3] })
    const attended = linear(graph.add('Reshape', [joined, graph.ints(0, 0, hidden)]), hidden, hidden)
    x = layerNorm(graph.add('Add', [x, attended]))
    const up = linear(x, hidden, intermediate)
    const erf = graph.add('Erf', [graph.add('Mul', [up, graph.scalar(Math.SQRT1_2)])])
    const gelu = graph.add('Mul', [graph.add('Mul', [up, graph.add('Add', [erf, graph.scalar(1)])]), graph.scalar(0.5)])
    x = layerNorm(graph.add('Add', [x, linear(gelu, intermediate, hidden)]))
  }
  const inputs = ['input_ids', 'attention_mask', 'token_type_ids']
  if (!isClassifier) {
    graph.add('Identity', [x], {}, 'last_hidden_state')
    return graph.model(inputs, 'last_hidden_state', ['batch', 'sequence', hidden])
  }
  const first = graph.add('Gather', [x, graph.weights([], BigInt64Array.of(0n))], { axis: 1 })
  const pooled = graph.add('Tanh', [linear(first, hidden, hidden)])
  graph.add('Add', [graph.add('MatMul', [pooled, matrix(hidden, 1, 1)]), vector(1)], {}, 'logits')
  return graph.model(inputs, 'logits', ['batch', 1])
}

const SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'] as const

/** A WordPiece vocabulary of letters, two- and three-letter pieces and the given words. */
function vocabulary(size: number, words: readonly string[]): string[] {
  const letters = [...'abcdefghijklmnopqrstuvwxyz0123456789']
  const pieces = letters.flatMap((a) => [a, `##${a}`])
  const pairs = letters.slice(0, 26).flatMap((a) => letters.slice(0, 26).map((b) => `##${a}${b}`))
  const known = [
    ...new Set([...SPECIAL, ...words, ...pieces, ...'.,;:!?()[]{}<>|/\\-_"\'`#*=+&%$@~^', ...pairs]),
  ].slice(0, size)
  return [...known, ...Array.from({ length: size - known.length }, (_, i) => `[unused${i}]`)]
}

/** Writes a model folder. @returns its path. */
export function writeBertFolder(
  parent: string,
  name: string,
  {
    shape = TINY,
    isClassifier = false,
    seed = 1,
    words = [],
  }: { shape?: BertShape; isClassifier?: boolean; seed?: number; words?: readonly string[] } = {},
): string {
  const folder = join(parent, name)
  mkdirSync(join(folder, 'onnx'), { recursive: true })
  const vocab = vocabulary(shape.vocabSize, words)
  const idOf = (token: string): number => vocab.indexOf(token)
  const special = (token: string) => ({ id: token, ids: [idOf(token)], tokens: [token] })
  const write = (file: string, json: unknown): void => writeFileSync(join(folder, file), JSON.stringify(json))
  write('config.json', {
    architectures: [isClassifier ? 'BertForSequenceClassification' : 'BertModel'],
    model_type: 'bert',
    hidden_size: shape.hidden,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    intermediate_size: shape.intermediate,
    max_position_embeddings: shape.maxPositions,
    vocab_size: shape.vocabSize,
    ...(isClassifier && { id2label: { 0: 'LABEL_0' } }),
  })
  write('tokenizer_config.json', {
    tokenizer_class: 'BertTokenizer',
    model_max_length: shape.maxPositions,
    do_lower_case: true,
    cls_token: '[CLS]',
    sep_token: '[SEP]',
    pad_token: '[PAD]',
    unk_token: '[UNK]',
    mask_token: '[MASK]',
  })
  write('tokenizer.json', {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL.map((content) => ({
      id: idOf(content),
      content,
      special: true,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    })),
    normalizer: {
      type: 'BertNormalizer',
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: null,
      lowercase: true,
    },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: {
      type: 'TemplateProcessing',
      single: [
        { SpecialToken: { id: '[CLS]', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '[SEP]', type_id: 0 } },
      ],
      pair: [
        { SpecialToken: { id: '[CLS]', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '[SEP]', type_id: 0 } },
        { Sequence: { id: 'B', type_id: 1 } },
        { SpecialToken: { id: '[SEP]', type_id: 1 } },
      ],
      special_tokens: { '[CLS]': special('[CLS]'), '[SEP]': special('[SEP]') },
    },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
    },
  })
  writeFileSync(join(folder, 'onnx', 'model.onnx'), bertOnnx(shape, isClassifier, seed))
  return folder
}
