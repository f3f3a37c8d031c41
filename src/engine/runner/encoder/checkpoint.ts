/** Opens a model that embeds or ranks texts: an encoder or a decoder, as a folder in Hugging Face layout or as a GGUF file. */
import { basename, join } from 'node:path'
import { readTokenizerFiles, type TokenizerFiles } from '../../tokenizer/tokenizer.ts'
import { dequantize } from '../../../kernels/dequantize.ts'
import { type GgufMetadata, openGgufFile } from '../../weights/gguf-file.ts'
import { openGguf } from '../../weights/gguf.ts'
import { type Json, readJsonObject } from '../../weights/json-file.ts'
import { isFolder, localModel } from '../../weights/model-path.ts'
import { unpackCheckpoint } from '../../weights/quantized-checkpoint.ts'
import { openSafetensors } from '../../weights/safetensors.ts'
import type { WeightSource } from '../../weights/source.ts'
import type { DecoderSpec } from '../decoder-spec.ts'
import { FAMILIES } from '../families.ts'
import { ModelError } from '../runner.ts'
import { parseSpec, readQuantization } from '../spec.ts'
import type { Pooling } from '../../../kernels/ops.ts'
import type { Dense } from './head.ts'
import { readModules, type TextModules } from './modules.ts'
import { GGUF_TYPES, renamed } from './names.ts'
import { type EncoderSpec, isEncoder, parseEncoderSpec } from './spec.ts'

interface Opened {
  readonly name: string
  readonly source: WeightSource
  readonly modules: TextModules
  readonly tokenizer: TokenizerFiles
}

interface EncoderCheckpoint extends Opened {
  readonly kind: 'encoder'
  readonly spec: EncoderSpec
}

export interface DecoderCheckpoint extends Opened {
  readonly kind: 'decoder'
  readonly spec: DecoderSpec
}

export type TextCheckpoint = EncoderCheckpoint | DecoderCheckpoint

/** The family of a decoder that may lack the head of a language model, as Qwen3Model does in Qwen3ForCausalLM; null: it is no decoder. */
function decoderArchitecture(json: Json): string | null {
  const [architecture = ''] = Array.isArray(json['architectures']) ? (json['architectures'] as unknown[]) : []
  if (typeof architecture !== 'string') return null
  if (typeof json['model_type'] === 'string' && Object.hasOwn(SEEING, json['model_type']))
    return SEEING[json['model_type']]!
  const causal = architecture.replace(/(TextModel|Model|ForSequenceClassification|ForCausalLM)$/, 'ForCausalLM')
  return Object.hasOwn(FAMILIES, causal) ? causal : null
}

/** Bidirectional models that are decoders in every other way, by `model_type`. */
const SEEING: Readonly<Record<string, string>> = { eurobert: 'LlamaForCausalLM' }

/** The spec, with the head left out. @throws ModelError for a model with layers other than attention */
function requireAttention(path: string, spec: DecoderSpec): DecoderSpec {
  const other = spec.layers.find(({ mixer }) => mixer.kind !== 'attention')
  if (other !== undefined)
    throw new ModelError(`${path}: models with layers that keep a state cannot embed or rank texts`)
  // No logits are computed, so that a separate head need not be loaded.
  return { ...spec, tiesEmbeddings: true }
}

async function openFolder(path: string): Promise<TextCheckpoint> {
  const file = join(path, 'config.json')
  const json = await readJsonObject(file)
  if (json === null) throw new ModelError(`${file}: expected a file, found no such file`)
  const name = basename(path)
  const architecture = decoderArchitecture(json)
  const tokenizer = await readTokenizerFiles(path)
  if (isEncoder(json) || architecture === null) {
    const spec = parseEncoderSpec(file, json)
    const modules = await readModules(path, 'mean')
    const source = renamed(await openSafetensors(path), spec.modelType, false)
    return { kind: 'encoder', name, source, spec, modules, tokenizer }
  }
  const isSeeing = typeof json['model_type'] === 'string' && Object.hasOwn(SEEING, json['model_type'])
  const config = { ...json, architectures: [architecture], ...(isSeeing ? { use_bidirectional_attention: true } : {}) }
  const spec = requireAttention(path, parseSpec(file, config, null, { servedPositions: null, embeds: true }))
  const modules = await readModules(path, spec.isBidirectional ? 'mean' : 'last')
  const quantization = await readQuantization(path)
  const source = await openSafetensors(path)
  const unpacked = quantization === null ? source : unpackCheckpoint(source, quantization)
  return { kind: 'decoder', name, source: unpacked, spec, modules, tokenizer }
}

/** Poolings by llama.cpp's numbers. Others, such as that of rankers, stand for the architecture's own: the first row, or a decoder's last. */
const GGUF_POOLINGS: Readonly<Record<number, Pooling>> = { 1: 'mean', 2: 'first', 3: 'last' }

async function ggufModules(metadata: GgufMetadata, fallback: Pooling, source: WeightSource): Promise<TextModules> {
  const type = metadata.own('pooling_type')
  const pooling = typeof type === 'number' ? GGUF_POOLINGS[type] : undefined
  const length = metadata.own('context_length')
  return {
    pooling: pooling ?? fallback,
    dense: await ggufDense(source),
    isNormalized: true,
    prompts: { ...promptsOfCard(metadata.architecture), plain: '' },
    maxTokens: typeof length === 'number' ? length : null,
    keptDimensions: null,
  }
}

/** The dense layers after the pooling, which EmbeddingGemma has; they have no bias. */
async function ggufDense(source: WeightSource): Promise<readonly Dense[]> {
  const layers: Dense[] = []
  for (const name of ['dense_2.weight', 'dense_3.weight']) {
    const [rows, cols] = source.tensors.get(name)?.shape ?? []
    if (rows === undefined || cols === undefined) continue
    const weight = dequantize(await source.read(name))
    layers.push({ rows, cols, weight, bias: null, activation: 'none' })
  }
  return layers
}

const NOMIC_PROMPTS = { query: 'search_query: ', document: 'search_document: ' }

/** Prompts that model cards put before texts. GGUF files do not contain them. */
const GGUF_PROMPTS: Readonly<Record<string, { readonly query: string; readonly document: string }>> = {
  qwen3: {
    query: 'Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:',
    document: '',
  },
  'gemma-embedding': { query: 'task: search result | query: ', document: 'title: none | text: ' },
  'nomic-bert': NOMIC_PROMPTS,
  'nomic-bert-moe': NOMIC_PROMPTS,
}

const promptsOfCard = (architecture: string): { readonly query: string; readonly document: string } =>
  GGUF_PROMPTS[architecture] ?? { query: '', document: '' }

/** Config fields that follow from the name of an architecture. */
const GGUF_FIELDS: Readonly<Record<string, Json>> = {
  'nomic-bert-moe': { activation_function: 'gelu' },
  'jina-bert-v2': { position_embedding_type: 'alibi', feed_forward_type: 'geglu' },
}

/** The metadata of an encoder as the config.json of its Hugging Face form. */
function ggufConfig(metadata: GgufMetadata, modelType: string, source: WeightSource): Json {
  const rows = (name: string): number | undefined => source.tensors.get(`${name}.weight`)?.shape[0]
  const period = metadata.own('attention.sliding_window_pattern')
  return {
    model_type: modelType,
    vocab_size: rows('tokens'),
    hidden_size: metadata.own('embedding_length'),
    intermediate_size: metadata.own('feed_forward_length'),
    num_hidden_layers: metadata.own('block_count'),
    num_attention_heads: metadata.own('attention.head_count'),
    // The converter leaves out the rows that XLM-R has before its first position.
    max_position_embeddings: rows('positions') ?? metadata.own('context_length'),
    type_vocab_size: rows('segments') ?? 0,
    layer_norm_eps: metadata.own('attention.layer_norm_epsilon'),
    norm_eps: metadata.own('attention.layer_norm_epsilon'),
    rope_theta: metadata.own('rope.freq_base'),
    global_rope_theta: metadata.own('rope.freq_base'),
    local_rope_theta: metadata.own('rope.freq_base_swa'),
    local_attention: metadata.own('attention.sliding_window'),
    ...(typeof period === 'number' && period > 0 ? { global_attn_every_n_layers: period } : {}),
    num_labels: 1,
    num_experts: metadata.own('expert_count'),
    moe_top_k: metadata.own('expert_used_count'),
    moe_every_n_layers: metadata.own('moe_every_n_layers'),
    ...GGUF_FIELDS[metadata.architecture],
  }
}

async function openFile(path: string): Promise<TextCheckpoint> {
  const name = basename(path)
  const { source, metadata } = await openGgufFile(path, () => (tensor) => ({ name: tensor, permutedHeads: null }))
  try {
    const tokenizer = await readTokenizerFiles(path)
    const modelType = Object.hasOwn(GGUF_TYPES, metadata.architecture) ? GGUF_TYPES[metadata.architecture] : undefined
    if (modelType !== undefined) {
      const named = renamed(source, modelType, true)
      const spec = parseEncoderSpec(path, ggufConfig(metadata, modelType, named))
      return {
        kind: 'encoder',
        name,
        source: named,
        spec,
        modules: await ggufModules(metadata, 'first', source),
        tokenizer,
      }
    }
    await source.close()
    const decoder = await openGguf(path)
    const spec = requireAttention(path, decoder.spec({ servedPositions: null, embeds: true }))
    return {
      kind: 'decoder',
      name,
      source: decoder.source,
      spec,
      modules: await ggufModules(metadata, spec.isBidirectional ? 'mean' : 'last', decoder.source),
      tokenizer,
    }
  } catch (error) {
    await source.close()
    throw error
  }
}

/** Opens a model at a local path. @throws ModelError that names the file and what was expected */
export async function openTextCheckpoint(path: string): Promise<TextCheckpoint> {
  const local = await localModel(path)
  return (await isFolder(local)) ? openFolder(local) : openFile(local)
}
