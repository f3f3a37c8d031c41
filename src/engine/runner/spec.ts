/**
 * config.json -> DecoderSpec: everything that the forward pass depends on, as plain data. Both dialects are read: `rope_theta`, `rope_scaling` and
 * `torch_dtype` (transformers 4), `rope_parameters` and `dtype` (transformers 5).
 */
import { join } from 'node:path'
import { isJsonObject, type Json, readJsonObject } from '../weights/json-file.ts'
import { ConfigReader } from './config-reader.ts'
import type { DecoderSpec, LayerSpec } from './decoder-spec.ts'
import { FAMILIES } from './families.ts'
import type { Family } from './family.ts'
import { attentionsOf } from './mixers/attention-config.ts'
import { stateMixersOf } from './mixers/config.ts'
import { layerInputsOf } from './layer-inputs.ts'
import { mlpsOf } from './mlps/config.ts'
import { computeRope, type RopeParameters, type RopeSpec } from './rope.ts'
import { ModelError } from './runner.ts'
import { streamsOf } from './streams.ts'

/** The frequency tables: one for all layers, or [of layers without a window, of layers with one]. */
function ropesOf(
  config: ConfigReader,
  family: Family,
  { headDim, globalHeadDim }: { readonly headDim: number; readonly globalHeadDim: number },
  maxPositions: number,
  servedPositions: number,
): RopeSpec[] {
  const nested = config.object('rope_parameters')
  const isPerType = nested !== null && typeof nested['full_attention'] === 'object' && nested['full_attention'] !== null
  const global =
    (isPerType ? (nested['full_attention'] as RopeParameters) : nested) ?? config.object('rope_scaling') ?? {}
  const compute = (parameters: RopeParameters, theta: number, headDim: number): RopeSpec => {
    const own = parameters['rope_theta'] ?? theta
    // MiniMax's configs give the number of rotated dims instead of a share.
    const wholly = config.raw('rotary_dim') === null ? 1 : config.size('rotary_dim') / headDim
    const partial = parameters['partial_rotary_factor'] ?? config.number('partial_rotary_factor', wholly)
    if (typeof own !== 'number' || own <= 1) config.fail('rope_theta', 'a number above 1', own)
    if (typeof partial !== 'number' || partial <= 0 || partial > 1)
      config.fail('partial_rotary_factor', 'between 0 and 1', partial)
    const rotaryDim = parameters['rope_type'] === 'proportional' ? headDim : Math.floor(headDim * partial)
    if (rotaryDim % 2 !== 0 || rotaryDim === 0)
      config.fail('partial_rotary_factor', `such that an even number of the ${headDim} head dims is rotated`, partial)
    return computeRope({
      path: config.path,
      parameters,
      theta: own,
      rotaryDim,
      maxPositions,
      originalMaxPositions: config.optionalNumber('original_max_position_embeddings'),
      servedPositions,
    })
  }
  const ropes = [compute(global, config.number('rope_theta', family.theta), globalHeadDim)]
  if (family.localTheta !== null) {
    const local = isPerType ? ((nested['sliding_attention'] as RopeParameters | undefined) ?? {}) : {}
    const shared = global['rope_theta'] ?? config.number('rope_theta', family.theta)
    const theta = family.localTheta === 'unscaled' ? shared : config.number('rope_local_base_freq', family.localTheta)
    ropes.push(compute(local, typeof theta === 'number' ? theta : family.theta, headDim))
  }
  return ropes
}

/**
 * Positions that can be served. Ministral 3 scales queries beyond its original context (llama_4_scaling_beta). Attention here does not do that, so the
 * model is served up to its original context.
 */
function positionsOf(config: ConfigReader): number {
  const positions = config.size('max_position_embeddings')
  const rope = config.object('rope_parameters') ?? {}
  const { llama_4_scaling_beta: beta, original_max_position_embeddings: original } = rope
  return typeof beta === 'number' && beta !== 0 && typeof original === 'number'
    ? Math.min(positions, original)
    : positions
}

function qkNormOf(config: ConfigReader, { qkNorm }: Family): DecoderSpec['qkNorm'] {
  if (typeof qkNorm === 'string') return qkNorm
  return config.flag(qkNorm.field, false) ? 'head' : 'none'
}

interface Multipliers {
  readonly embedding: number
  readonly residual: number
  readonly attention: number
  /** Divides the logits. */
  readonly logits: number
}

function multipliersOf(config: ConfigReader): Multipliers {
  const positive = (key: string): number => {
    const value = config.number(key, 1)
    return value > 0 ? value : config.fail(key, 'a number above 0')
  }
  return {
    embedding: positive('embedding_multiplier'),
    residual: positive('residual_multiplier'),
    attention: positive('attention_multiplier'),
    logits: positive('logits_scaling'),
  }
}

export interface SpecOptions {
  /** Positions that will be served. They decide between longrope's two tables. null: the model's own number. */
  readonly servedPositions: number | null
  /** The model will embed or rank texts, so that its attention may be bidirectional. */
  readonly embeds?: boolean
}

/**
 * The spec of a parsed config.json and generation_config.json (null: there is none).
 * @throws ModelError that names the field at fault, or an unknown architecture with the list of known ones
 */
export function parseSpec(
  path: string,
  json: Json,
  generationJson: Json | null,
  options: SpecOptions = { servedPositions: null },
): DecoderSpec {
  const architectures = json['architectures']
  const architecture: unknown = Array.isArray(architectures) ? architectures[0] : undefined
  const family =
    typeof architecture === 'string' && Object.hasOwn(FAMILIES, architecture) ? FAMILIES[architecture] : undefined
  if (family === undefined) {
    throw new ModelError(
      `${path}: unknown architecture ${JSON.stringify(architecture) ?? '(none)'}${EMBEDS.test(String(architecture)) ? ' (models that embed or rank texts are --embedding-model or --reranker-model)' : ''}; known: ${Object.keys(FAMILIES).join(', ')}`,
    )
  }
  const config: ConfigReader = new ConfigReader(
    path,
    isJsonObject(json['text_config']) ? { ...json, ...json['text_config'] } : json,
  )
  const generation = new ConfigReader(path.replace(/config\.json$/, 'generation_config.json'), generationJson ?? {})

  const hiddenSize = config.size('hidden_size')
  const numLayers = config.numLayers()
  const numHeads = config.size('num_attention_heads')
  const numKvHeads = config.size('num_key_value_heads', numHeads)
  const headDim = config.size('head_dim', hiddenSize / numHeads)
  if (numHeads % numKvHeads !== 0) config.fail('num_key_value_heads', `a divisor of num_attention_heads (${numHeads})`)
  const maxPositions = positionsOf(config)
  const directions = config.raw('use_bidirectional_attention')
  const isBidirectional = directions === true
  if (directions === 'all' || (isBidirectional && options.embeds !== true))
    config.fail(
      'use_bidirectional_attention',
      'null or vision: a bidirectional model generates no text (serve it as --embedding-model)',
    )
  const isPresent = (presence: Family['qkvBias']): boolean =>
    typeof presence === 'string' ? config.flag(presence, false) : presence
  const heads = { numHeads, numKvHeads, headDim }
  const attentions = attentionsOf(config, family, numLayers, heads, isBidirectional)
  const states = stateMixersOf(config, family, numLayers)
  const sharesKv = attentions.map(({ sharesWith }) => sharesWith !== null)
  const mlps = mlpsOf(config, family, sharesKv, isPresent(family.mlpBias))
  const layers = attentions.map((attention, i): LayerSpec => ({ mixer: states[i] ?? attention, mlp: mlps[i]! }))
  const globalHeadDim = attentions.find(({ window }) => window === null)?.headDim ?? headDim
  // Either file may name an end token that the other lacks: the end of a text or of a turn.
  const eos = [...new Set([...config.tokenIds('eos_token_id'), ...generation.tokenIds('eos_token_id')])]
  const queryScalar = config.optionalNumber('query_pre_attn_scalar')
  const multipliers = family.hasMultipliers ? multipliersOf(config) : null
  // The model multiplies blocks' outputs by r before it adds them. Dividing the stream by r instead is the same, because each block starts with a norm,
  // which ignores a factor in all but its epsilon.
  const residual = multipliers?.residual ?? 1
  return {
    architecture: architecture as string,
    isBidirectional,
    vocabSize: config.size('vocab_size'),
    hiddenSize,
    numHeads,
    layers,
    ropes: ropesOf(config, family, { headDim, globalHeadDim }, maxPositions, options.servedPositions ?? maxPositions),
    normEps: config.number(family.normEpsField, family.normEps) / residual ** 2,
    normPlacement: family.normPlacement,
    normAddsOne: family.normAddsOne,
    qkNorm: qkNormOf(config, family),
    hasQkvBias: isPresent(family.qkvBias),
    hasOutputBias: isPresent(family.outputBias),
    names: family.names,
    rotatesNeighbours: family.rotatesNeighbours,
    tiesEmbeddings: config.flag('tie_word_embeddings', config.flag('tie_embedding', family.tiesEmbeddings)),
    embeddingScale: (family.scalesEmbeddings ? Math.sqrt(hiddenSize) : (multipliers?.embedding ?? 1)) / residual,
    layerInputs: layerInputsOf(config, family),
    hasLayerScale: family.hasLayerScale,
    streams: streamsOf(config, family),
    logitScale: 1 / (multipliers?.logits ?? 1),
    attentionScale: family.attentionScale ?? multipliers?.attention ?? 1 / Math.sqrt(queryScalar ?? headDim),
    attentionSoftcap: config.optionalNumber('attn_logit_softcapping'),
    logitSoftcap: config.optionalNumber('final_logit_softcapping'),
    maxPositions,
    bosTokenId: config.tokenIds('bos_token_id')[0] ?? null,
    eosTokenIds: eos,
  }
}

/** Architectures that generate no text, such as BertModel and DebertaV2ForSequenceClassification. */
const EMBEDS = /(?:Model|ForSequenceClassification|ForMaskedLM)$/

/** Reads the spec of a checkpoint folder. @throws ModelError */
export async function readSpec(folder: string, options?: SpecOptions): Promise<DecoderSpec> {
  const path = join(folder, 'config.json')
  const config = await readJsonObject(path)
  if (config === null)
    throw new ModelError(
      `${path} not found. Expected a folder in Hugging Face layout (config.json, *.safetensors, tokenizer.json) or a .gguf file.`,
    )
  return parseSpec(path, config, await readJsonObject(join(folder, 'generation_config.json')), options)
}

/** `quantization_config` of a checkpoint folder's config.json; null: the weights are not quantised. @throws ModelError */
export async function readQuantization(folder: string): Promise<Json | null> {
  const quantization = (await readJsonObject(join(folder, 'config.json')))?.['quantization_config']
  return isJsonObject(quantization) ? quantization : null
}
