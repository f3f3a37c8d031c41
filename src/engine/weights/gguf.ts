/**
 * GGUF files as a weight source: tensors under their Hugging Face names, and a config.json of the same meaning made from the metadata, so that
 * the decoder knows one naming only.
 */
import { open, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { dequantize } from '../../kernels/dequantize.ts'
import type { MatrixData, MatrixRows } from '../../kernels/ops.ts'
import { FAMILIES } from '../runner/families.ts'
import { type DecoderSpec, parseSpec, type SpecOptions } from '../runner/spec.ts'
import { ModelError, type ProgressListener } from '../runner/runner.ts'
import { BLOCK_FORMATS, typeName } from './gguf-blocks.ts'
import { type GgufHeader, type GgufTensor, type GgufValue, type GgufValues, readGgufHeader } from './gguf-header.ts'
import { partsOf } from './model-path.ts'
import { permuteRows, type TensorInfo, type WeightSource } from './source.ts'

/** How ggml's name of an architecture relates to ours. */
interface GgufFamily {
  readonly architecture: string
  /** The converter reordered the rows of q and k for rotations of neighbouring pairs; our rope rotates halves. */
  readonly permutesQk: boolean
}

const GGUF_FAMILIES: ReadonlyMap<string, GgufFamily> = new Map([
  ['llama', { architecture: 'LlamaForCausalLM', permutesQk: true }],
  ['qwen2', { architecture: 'Qwen2ForCausalLM', permutesQk: false }],
  ['qwen3', { architecture: 'Qwen3ForCausalLM', permutesQk: false }],
  ['smollm3', { architecture: 'SmolLM3ForCausalLM', permutesQk: true }],
  ['gemma2', { architecture: 'Gemma2ForCausalLM', permutesQk: false }],
  ['gemma3', { architecture: 'Gemma3ForCausalLM', permutesQk: false }],
  ['phi3', { architecture: 'Phi3ForCausalLM', permutesQk: false }],
  ['olmo2', { architecture: 'Olmo2ForCausalLM', permutesQk: false }],
  ['granite', { architecture: 'GraniteForCausalLM', permutesQk: true }],
  ['mistral3', { architecture: 'Ministral3ForCausalLM', permutesQk: true }],
  ['glm4', { architecture: 'Glm4ForCausalLM', permutesQk: false }],
  ['exaone4', { architecture: 'Exaone4ForCausalLM', permutesQk: false }],
  ['ernie4_5', { architecture: 'Ernie4_5ForCausalLM', permutesQk: false }],
  ['seed_oss', { architecture: 'SeedOssForCausalLM', permutesQk: false }],
])

/** The family of a file: OLMo 3 is written as OLMo 2 with a window. */
function familyOf(metadata: GgufMetadata): GgufFamily | undefined {
  const family = GGUF_FAMILIES.get(metadata.architecture)
  const isOlmo3 = metadata.architecture === 'olmo2' && metadata.own('attention.sliding_window') !== undefined
  return family !== undefined && isOlmo3 ? { ...family, architecture: 'Olmo3ForCausalLM' } : family
}

/** Names inside `blk.N.` and what they are called in Hugging Face checkpoints. */
function layerNames({ architecture }: GgufFamily): Readonly<Record<string, string>> {
  const { normPlacement, names } = FAMILIES[architecture] ?? unknownFamily(architecture)
  const [first, k = '', v = ''] = names.qkv
  const [gate, up] = names.gateUp
  return {
    attn_norm: 'input_layernorm',
    ...(k === '' ? { attn_qkv: first } : { attn_q: first, attn_k: k, attn_v: v }),
    attn_output: names.output,
    attn_q_norm: 'self_attn.q_norm',
    attn_k_norm: 'self_attn.k_norm',
    post_attention_norm: names.attentionNorm,
    ...(normPlacement === 'post' ? {} : { ffn_norm: names.mlpNorm }),
    post_ffw_norm: names.feedForwardNorm,
    ...(up === undefined ? { ffn_up: gate } : { ffn_gate: gate, ffn_up: up }),
    ffn_down: names.down,
  }
}

function unknownFamily(architecture: string): never {
  throw new Error(`no family ${architecture}`)
}

const TOP_NAMES: Readonly<Record<string, string>> = {
  token_embd: 'model.embed_tokens',
  output_norm: 'model.norm',
  output: 'lm_head',
}

function hubName(name: string, layers: Readonly<Record<string, string>>): string {
  const match = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name)
  if (match === null) return name
  const [, layer, part = '', kind = ''] = match
  const known = layer === undefined ? TOP_NAMES : layers
  if (!Object.hasOwn(known, part)) return name
  return layer === undefined ? `${known[part]}.${kind}` : `model.layers.${layer}.${known[part]}.${kind}`
}

interface Placed extends TensorInfo {
  readonly tensor: GgufTensor
  /** The file that it is in: a model may be split over several. */
  readonly part: Part
  /** Heads whose rows the converter permuted. */
  readonly permutedHeads: number | null
}

/** Typed access to metadata. */
export class GgufMetadata {
  readonly path: string
  readonly architecture: string
  readonly #values: GgufValues

  constructor(path: string, { metadata }: GgufHeader) {
    this.path = path
    this.#values = metadata
    const architecture = metadata.get('general.architecture')
    if (typeof architecture !== 'string')
      throw new ModelError(
        `${path}: general.architecture should be a name, found ${JSON.stringify(architecture) ?? 'nothing'}`,
      )
    this.architecture = architecture
  }

  get(key: string): GgufValue | null {
    return this.#values.get(key) ?? null
  }

  /** Items of a list, which is not decoded for it. */
  lengthOf(key: string): number | undefined {
    return this.#values.lengthOf(key)
  }

  /** A value of this architecture's, as plain JSON for the config reader to judge; some files give one per layer where all are equal. */
  own(key: string): unknown {
    const value = this.get(`${this.architecture}.${key}`)
    if (!Array.isArray(value)) return value ?? undefined
    const [first] = value as readonly unknown[]
    if (value.some((item: unknown) => item !== first)) {
      throw new ModelError(
        `${this.path}: ${this.architecture}.${key} differs between layers, which no known family does`,
      )
    }
    return first
  }
}

/** The period of the pattern, or a flag for each layer. */
function slidingLayers(pattern: GgufValue | null): Record<string, unknown> {
  if (!Array.isArray(pattern)) return { sliding_window_pattern: pattern }
  return {
    layer_types: pattern.map((isSliding: unknown) =>
      isSliding === 1 || isSliding === true ? 'sliding_attention' : 'full_attention',
    ),
  }
}

/** The config.json of the model's Hugging Face form. */
function configOf(
  metadata: GgufMetadata,
  family: GgufFamily,
  names: ReadonlySet<string>,
  factors: RopeFactors,
): Record<string, unknown> {
  const own = (key: string): unknown => metadata.own(key)
  const hidden = own('embedding_length')
  const heads = own('attention.head_count')
  const headDim =
    own('attention.key_length') ??
    (typeof hidden === 'number' && typeof heads === 'number' ? hidden / heads : undefined)
  const rotary = own('rope.dimension_count')
  const scaling = own('rope.scaling.type')
  const original = own('rope.scaling.original_context_length')
  const rope: Record<string, unknown> = { rope_theta: own('rope.freq_base') }
  if (typeof rotary === 'number' && typeof headDim === 'number' && rotary !== headDim)
    rope['partial_rotary_factor'] = rotary / headDim
  if (factors.long !== null && factors.short !== null) {
    const attention = own('rope.scaling.attn_factor')
    Object.assign(rope, {
      rope_type: 'longrope',
      long_factor: factors.long,
      short_factor: factors.short,
      original_max_position_embeddings: original,
      attention_factor: attention,
    })
  } else if (scaling === 'linear' || scaling === 'yarn') {
    Object.assign(rope, {
      rope_type: scaling,
      factor: own('rope.scaling.factor'),
      original_max_position_embeddings: original,
      beta_fast: own('rope.scaling.yarn_beta_fast'),
      beta_slow: own('rope.scaling.yarn_beta_slow'),
      // Written where cos and sin are not scaled.
      attention_factor: own('rope.scaling.yarn_log_multiplier') === undefined ? undefined : 1,
      llama_4_scaling_beta: own('attention.temperature_scale'),
    })
  } else if (scaling !== undefined && scaling !== 'none') {
    rope['rope_type'] = scaling
  }
  const isGemma3 = metadata.architecture === 'gemma3'
  const layers = own('block_count')
  // llama.cpp knows these two only by the size of the model: the 27 B ones scale queries by hidden / heads.
  const isLargeGemma = (metadata.architecture === 'gemma2' && layers === 46) || (isGemma3 && layers === 62)
  const eos = [
    metadata.get('tokenizer.ggml.eos_token_id'),
    metadata.get('tokenizer.ggml.eot_token_id'),
    metadata.get('tokenizer.ggml.eom_token_id'),
  ]
  return {
    architectures: [family.architecture],
    vocab_size: metadata.lengthOf('tokenizer.ggml.tokens') ?? own('vocab_size'),
    hidden_size: hidden,
    intermediate_size: own('feed_forward_length'),
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: own('attention.head_count_kv') ?? heads,
    head_dim: headDim,
    max_position_embeddings: own('context_length'),
    rms_norm_eps: own('attention.layer_norm_rms_epsilon'),
    rope_parameters: isGemma3
      ? { full_attention: rope, sliding_attention: { rope_theta: own('rope.freq_base_swa') ?? 10_000 } }
      : rope,
    sliding_window: own('attention.sliding_window'),
    ...slidingLayers(metadata.get(`${metadata.architecture}.attention.sliding_window_pattern`)),
    use_sliding_window: own('attention.sliding_window') !== undefined,
    query_pre_attn_scalar:
      isLargeGemma && typeof hidden === 'number' && typeof heads === 'number' ? hidden / heads : undefined,
    attn_logit_softcapping: own('attn_logit_softcapping'),
    final_logit_softcapping: own('final_logit_softcapping'),
    attention_bias: names.has('model.layers.0.self_attn.q_proj.bias'),
    attention_out_bias: names.has('model.layers.0.self_attn.o_proj.bias'),
    mlp_bias: names.has('model.layers.0.mlp.gate_proj.bias'),
    use_bias: names.has('model.layers.0.self_attn.q_proj.bias'),
    embedding_multiplier: own('embedding_scale'),
    residual_multiplier: own('residual_scale'),
    attention_multiplier: own('attention.scale'),
    logits_scaling: own('logit_scale'),
    tie_word_embeddings: !names.has('lm_head.weight'),
    bos_token_id: metadata.get('tokenizer.ggml.bos_token_id'),
    eos_token_id: eos.filter((id) => typeof id === 'number'),
  }
}

interface RopeFactors {
  /** Divisors of the frequencies (llama 3's scaling, already worked out). */
  readonly fixed: readonly number[] | null
  readonly long: readonly number[] | null
  readonly short: readonly number[] | null
}

export interface GgufModel {
  readonly source: WeightSource
  readonly metadata: GgufMetadata
  spec(options: SpecOptions): DecoderSpec
}

/** Reads a tensor's bytes. */
async function readBytes(
  { file, path }: Part,
  offset: number,
  length: number,
  onRead: (bytes: number) => void,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(bytes, done, Math.min(64 << 20, length - done), offset + done)
    if (bytesRead === 0)
      throw new ModelError(`${path}: ended at byte ${offset + done} while being read; was it replaced?`)
    done += bytesRead
    onRead(bytesRead)
  }
  return bytes
}

/** Checks each tensor's type and place, and gives it its Hugging Face name. */
function place(part: Part, family: GgufFamily, metadata: GgufMetadata, tensors: Map<string, Placed>): void {
  const { path, header, numBytes: fileBytes } = part
  const names = layerNames(family)
  const heads = {
    q: metadata.own('attention.head_count'),
    k: metadata.own('attention.head_count_kv') ?? metadata.own('attention.head_count'),
  }
  const spans: { name: string; start: number; end: number }[] = []
  for (const tensor of header.tensors) {
    const fail = (problem: string): never => {
      throw new ModelError(`${path}: tensor ${tensor.name} ${problem}`)
    }
    const format = BLOCK_FORMATS.get(tensor.type)
    if (format === undefined) {
      const known = [...BLOCK_FORMATS.values()].map(({ name }) => name).join(', ')
      fail(`has type ${typeName(tensor.type)}; known: ${known}. Take the file in another quantisation (Q4_K_M, Q8_0).`)
      continue
    }
    const count = tensor.dimensions.reduce((product, size) => product * size, 1)
    const [cols = 0] = tensor.dimensions
    if (cols % format.values !== 0)
      fail(`of type ${format.name} has rows of ${cols}, not a multiple of ${format.values}`)
    const bytes = (count / format.values) * format.bytes
    if (!Number.isSafeInteger(bytes) || tensor.offset + bytes > fileBytes) {
      fail(
        `needs bytes ${tensor.offset} to ${tensor.offset + bytes}, the file has ${fileBytes}. Download the file again.`,
      )
    }
    spans.push({ name: tensor.name, start: tensor.offset, end: tensor.offset + bytes })
    const which = family.permutesQk ? /^blk\.\d+\.attn_([qk])\.(weight|bias)$/.exec(tensor.name)?.[1] : undefined
    const headCount = which === 'q' ? heads.q : which === 'k' ? heads.k : null
    const name = hubName(tensor.name, names)
    if (tensors.has(name)) fail(`is also in ${tensors.get(name)?.part.path ?? path}. Download the files again.`)
    tensors.set(name, {
      name,
      part,
      dtype: format.name,
      shape: [...tensor.dimensions].reverse(),
      bytes,
      tensor,
      permutedHeads: typeof headCount === 'number' ? headCount : null,
    })
  }
  spans.sort((a, b) => a.start - b.start)
  for (const [i, span] of spans.entries()) {
    const next = spans[i + 1]
    if (next !== undefined && next.start < span.end)
      throw new ModelError(`${path}: tensors ${span.name} and ${next.name} overlap. Download the file again.`)
  }
}

/** ggml's llama row h headDim + 2 i + j is our row h headDim + j half + i. */
function undoPermutation(data: MatrixData, rows: number, cols: number, numHeads: number): MatrixData {
  const headDim = rows / numHeads
  const half = headDim / 2
  return permuteRows(data, rows, cols, (row) => {
    const inHead = row % headDim
    return row - inHead + 2 * (inHead % half) + Math.floor(inHead / half)
  })
}

/** An open file of a model. */
interface Part {
  readonly path: string
  readonly file: FileHandle
  readonly header: GgufHeader
  readonly numBytes: number
  readonly changedMs: number
}

async function openPart(path: string): Promise<Part> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT'
    throw new ModelError(
      `${path}: ${isMissing ? 'this part of the model is missing; download all parts into one folder' : 'cannot be opened'}`,
      { cause: error },
    )
  }
  try {
    const { size, mtimeMs } = await file.stat()
    return { path, file, header: await readGgufHeader(file, path), numBytes: size, changedMs: mtimeMs }
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Opens a GGUF file, or the first of its parts and with it the others, and checks the headers. Throws ModelError. */
export async function openGguf(path: string, onProgress?: ProgressListener): Promise<GgufModel> {
  const parts: Part[] = []
  const close = async (): Promise<void> => {
    await Promise.all(parts.map(({ file }) => file.close()))
  }
  try {
    for (const name of partsOf(basename(path)) ?? [basename(path)])
      parts.push(await openPart(join(dirname(path), name)))
    const [first] = parts
    if (first === undefined) throw new ModelError(`${path}: expected at least one part`)
    const metadata = new GgufMetadata(path, first.header)
    const family = familyOf(metadata)
    if (family === undefined || metadata.own('expert_count') !== undefined) {
      const what =
        family === undefined
          ? `unknown architecture "${metadata.architecture}"`
          : `"${metadata.architecture}" with experts`
      throw new ModelError(`${path}: ${what}; known: ${[...GGUF_FAMILIES.keys()].join(', ')} (without experts)`)
    }
    const count = metadata.get('split.count')
    if (typeof count === 'number' && count > 1 && count !== parts.length) {
      throw new ModelError(
        `${path}: one of ${count} parts of a split GGUF; keep the parts' own names, which end in -00001-of-${String(count).padStart(5, '0')}.gguf and so on, in one folder`,
      )
    }
    const identity = parts.map((part) => `${resolve(part.path)} ${part.numBytes} ${part.changedMs}\n`).join('')
    const tensors = new Map<string, Placed>()
    for (const part of parts) place(part, family, metadata, tensors)
    const totalBytes = [...tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)
    let doneBytes = 0
    const onRead = (count: number): void => {
      doneBytes += count
      onProgress?.(doneBytes, totalBytes)
    }
    const find = (name: string) => {
      const placed = tensors.get(name)
      if (placed === undefined) throw new Error(`tensor ${name} is not in ${path}`)
      const [rows = 1, cols = 1] = placed.shape.length === 1 ? [placed.shape[0] ?? 1, 1] : placed.shape
      const format = BLOCK_FORMATS.get(placed.tensor.type)
      if (format === undefined) throw new Error(`${name} has no format`)
      return { placed, rows, cols, format }
    }
    const read = async (name: string): Promise<MatrixData> => {
      const { placed, rows, cols, format } = find(name)
      const data = format.decode(await readBytes(placed.part, placed.tensor.offset, placed.bytes, onRead), rows * cols)
      if (placed.permutedHeads === null) return data
      if (rows % (2 * placed.permutedHeads) !== 0)
        throw new ModelError(`${path}: tensor ${name} has ${rows} rows for ${placed.permutedHeads} heads`)
      return undoPermutation(data, rows, cols, placed.permutedHeads)
    }
    const rowsOf = (name: string): MatrixRows | null => {
      const { placed, rows, cols, format } = find(name)
      if (placed.permutedHeads !== null || format.dependsOnValues === true) return null
      const rowBytes = placed.bytes / rows
      return {
        read: async (first, count) =>
          format.decode(
            await readBytes(placed.part, placed.tensor.offset + first * rowBytes, count * rowBytes, onRead),
            count * cols,
          ),
      }
    }
    const factorsOf = async (name: string): Promise<readonly number[] | null> =>
      tensors.has(name) ? [...dequantize(await read(name))] : null
    const factors: RopeFactors = {
      fixed: await factorsOf('rope_freqs.weight'),
      long: await factorsOf('rope_factors_long.weight'),
      short: await factorsOf('rope_factors_short.weight'),
    }
    const config = configOf(metadata, family, new Set(tensors.keys()), factors)
    const spec = (options: SpecOptions): DecoderSpec => {
      const parsed = parseSpec(path, config, null, options)
      const ropes = parsed.ropes.map((rope) => {
        if (factors.fixed === null) return rope
        if (factors.fixed.length !== rope.inverseFrequencies.length || !factors.fixed.every((factor) => factor > 0)) {
          throw new ModelError(
            `${path}: rope_freqs.weight should be ${rope.inverseFrequencies.length} positive numbers, found ${factors.fixed.length}`,
          )
        }
        return {
          ...rope,
          inverseFrequencies: rope.inverseFrequencies.map((frequency, i) => frequency / (factors.fixed?.[i] ?? 1)),
        }
      })
      // The converter has added the 1 to norm weights already.
      return { ...parsed, ropes, normAddsOne: false }
    }
    return { source: { path, tensors, identity, totalBytes, read, rows: rowsOf, close }, metadata, spec }
  } catch (error) {
    await close()
    throw error
  }
}
