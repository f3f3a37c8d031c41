// Writes GGUF files of random weights in the shape of real models: what the benchmarks load, and their peers too.
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'

/** Shapes of real models, llama architecture (Qwen's without its biases, which cost nothing). All tie the embedding to the output. */
export const SHAPES = JSON.parse(readFileSync(new URL('./shapes.json', import.meta.url), 'utf8'))

const ALIGNMENT = 32
const PATTERN_BLOCKS = 1 << 15

/** ggml's types: name -> [id, values per block, bytes per block]. */
const TYPES = {
  F32: [0, 1, 4],
  F16: [1, 1, 2],
  Q4_0: [2, 32, 18],
  Q5_0: [6, 32, 22],
  Q8_0: [8, 32, 34],
  Q4_K: [12, 256, 144],
  Q6_K: [14, 256, 210],
}

/** Where the f16 factors of a block are, and how many of its steps make the amplitude. All other bytes are codes and sub-scales. */
const FACTORS = {
  Q4_0: [[0, 8]],
  Q5_0: [[0, 16]],
  Q8_0: [[0, 127]],
  // Scale and minimum: codes are 0 to 15, and the mean minimum is the mean of codes times sub-scales.
  Q4_K: [
    [0, 63 * 7.5],
    [2, 63],
  ],
  Q6_K: [[208, 127 * 32]],
}

let state = 1
function random() {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return state / 2 ** 31 - 1
}

/** Bits of a binary16 that does not overflow, rounded towards zero. */
function half(value) {
  const word = new Uint32Array(Float32Array.of(value).buffer)[0]
  const exponent = ((word >>> 23) & 255) - 112
  return exponent <= 0
    ? ((word >>> 16) & 0x8000) | Math.trunc(Math.abs(value) * 2 ** 24)
    : ((word >>> 16) & 0x8000) | (exponent << 10) | ((word >>> 13) & 0x3ff)
}

/** Random weights of magnitude up to `amplitude` as blocks of a type; repeated through a tensor. */
function pattern(type, amplitude) {
  const [, , blockBytes] = TYPES[type]
  const bytes = Buffer.alloc(PATTERN_BLOCKS * blockBytes)
  if (type === 'F16') {
    for (let at = 0; at < bytes.length; at += 2) bytes.writeUInt16LE(half(random() * amplitude), at)
    return bytes
  }
  for (let at = 0; at < bytes.length; at++) bytes[at] = ((random() + 1) * 128) & 255
  for (let block = 0; block < PATTERN_BLOCKS; block++) {
    for (const [offset, steps] of FACTORS[type])
      bytes.writeUInt16LE(half(amplitude / steps), block * blockBytes + offset)
  }
  return bytes
}

class Header {
  #parts = []
  u32(value) {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32LE(value)
    this.#parts.push(bytes)
  }
  f32(value) {
    const bytes = Buffer.alloc(4)
    bytes.writeFloatLE(value)
    this.#parts.push(bytes)
  }
  u64(value) {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64LE(BigInt(value))
    this.#parts.push(bytes)
  }
  string(value) {
    const bytes = Buffer.from(value)
    this.u64(bytes.length)
    this.#parts.push(bytes)
  }
  /** type: 4 u32, 5 i32, 6 f32, 8 string. */
  value(type, value) {
    if (type === 8) this.string(value)
    else if (type === 6) this.f32(value)
    else this.u32(value)
  }
  entry(key, type, value) {
    this.string(key)
    this.u32(type)
    this.value(type, value)
  }
  array(key, type, values) {
    this.string(key)
    this.u32(9)
    this.u32(type)
    this.u64(values.length)
    for (const value of values) this.value(type, value)
  }
  bytes() {
    return Buffer.concat(this.#parts)
  }
}

const padded = (length) => Math.ceil(length / ALIGNMENT) * ALIGNMENT

/**
 * The type of a matrix in a file of a type. Q4_K_M, as llama-quantize makes it: Q6_K for the output and, in half of the layers, for the value and
 * down projections, else Q4_K; rows that are not whole blocks of 256 are in Q8_0 and Q5_0 instead.
 */
function typeOf(type, layer, layers, cols, wantsMore) {
  if (type !== 'Q4_K_M') return type
  const eighth = Math.floor(layers / 8)
  const isOneOfHalf = layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2
  const isSix = layer === null || (wantsMore && isOneOfHalf)
  if (cols % 256 !== 0) return isSix ? 'Q8_0' : 'Q5_0'
  return isSix ? 'Q6_K' : 'Q4_K'
}

/** Writes a model of the shape with all matrices in `type` (F16, Q8_0, Q4_0) or in the mix Q4_K_M; bytes of its weights. */
export function writeGguf(path, shape, type) {
  const { hidden, inner, layers, heads, kvHeads, headDim, vocab, rope } = shape
  const matrix = (name, dims, layer, wantsMore = false) => [name, dims, typeOf(type, layer, layers, dims[0], wantsMore)]
  const tensors = [matrix('token_embd.weight', [hidden, vocab], null)]
  for (let layer = 0; layer < layers; layer++) {
    const name = (suffix) => `blk.${layer}.${suffix}.weight`
    tensors.push(
      [name('attn_norm'), [hidden], 'F32'],
      matrix(name('attn_q'), [hidden, heads * headDim], layer),
      matrix(name('attn_k'), [hidden, kvHeads * headDim], layer),
      matrix(name('attn_v'), [hidden, kvHeads * headDim], layer, true),
      matrix(name('attn_output'), [heads * headDim, hidden], layer),
      [name('ffn_norm'), [hidden], 'F32'],
      matrix(name('ffn_gate'), [hidden, inner], layer),
      matrix(name('ffn_up'), [hidden, inner], layer),
      matrix(name('ffn_down'), [inner, hidden], layer, true),
    )
  }
  tensors.push(['output_norm.weight', [hidden], 'F32'])

  const metadata = new Header()
  const entries = [
    ['general.architecture', 8, 'llama'],
    ['general.name', 8, 'random'],
    ['llama.context_length', 4, 8192],
    ['llama.embedding_length', 4, hidden],
    ['llama.block_count', 4, layers],
    ['llama.feed_forward_length', 4, inner],
    ['llama.attention.head_count', 4, heads],
    ['llama.attention.head_count_kv', 4, kvHeads],
    ['llama.attention.key_length', 4, headDim],
    ['llama.attention.value_length', 4, headDim],
    ['llama.rope.dimension_count', 4, headDim],
    ['llama.rope.freq_base', 6, rope],
    ['llama.attention.layer_norm_rms_epsilon', 6, 1e-5],
    ['llama.vocab_size', 4, vocab],
    ['tokenizer.ggml.model', 8, 'llama'],
    ['tokenizer.ggml.bos_token_id', 4, 1],
    ['tokenizer.ggml.eos_token_id', 4, 2],
    ['tokenizer.ggml.unknown_token_id', 4, 0],
  ]
  for (const [key, kind, value] of entries) metadata.entry(key, kind, value)
  const bytesToken = (i) => `<0x${(i - 3).toString(16).toUpperCase().padStart(2, '0')}>`
  const tokens = Array.from({ length: vocab }, (_, i) =>
    i < 3 ? ['<unk>', '<s>', '</s>'][i] : i < 259 ? bytesToken(i) : `\u2581t${i}`,
  )
  metadata.array('tokenizer.ggml.tokens', 8, tokens)
  metadata.array(
    'tokenizer.ggml.scores',
    6,
    tokens.map((_, i) => -i),
  )
  metadata.array(
    'tokenizer.ggml.token_type',
    5,
    tokens.map((_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1)),
  )

  const header = new Header()
  header.u32(0x46554747) // "GGUF"
  header.u32(3)
  header.u64(tensors.length)
  header.u64(entries.length + 3)
  const infos = new Header()
  let offset = 0
  const sizes = tensors.map(([name, dims, kind]) => {
    const [id, perBlock, blockBytes] = TYPES[kind]
    const bytes = (dims.reduce((a, b) => a * b, 1) / perBlock) * blockBytes
    infos.string(name)
    infos.u32(dims.length)
    for (const dim of dims) infos.u64(dim)
    infos.u32(id)
    infos.u64(offset)
    offset += padded(bytes)
    return bytes
  })
  const head = Buffer.concat([header.bytes(), metadata.bytes(), infos.bytes()])
  const file = openSync(path, 'w')
  try {
    writeSync(file, Buffer.concat([head, Buffer.alloc(padded(head.length) - head.length)]))
    const patterns = new Map()
    for (const [index, [, dims, kind]] of tensors.entries()) {
      const bytes = sizes[index]
      if (kind === 'F32') writeSync(file, Buffer.from(new Float32Array(dims[0]).fill(1).buffer))
      else {
        if (!patterns.has(kind)) patterns.set(kind, pattern(kind, 0.06))
        const weights = patterns.get(kind)
        for (let at = 0; at < bytes; at += weights.length)
          writeSync(file, weights, 0, Math.min(weights.length, bytes - at))
      }
      writeSync(file, Buffer.alloc(padded(bytes) - bytes))
    }
  } finally {
    closeSync(file)
  }
  return sizes.reduce((a, b) => a + b, 0)
}
