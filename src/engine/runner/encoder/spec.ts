/** config.json -> EncoderSpec: everything that the forward pass of an encoder depends on. */
import type { Activated } from '../../../kernels/ops.ts'
import { computeRope, type RopeParameters, type RopeSpec } from '../rope.ts'
import { ModelError } from '../runner.ts'
import { ConfigReader } from '../config-reader.ts'
import { ENCODER_FAMILIES, type EncoderFamily } from './families.ts'

export interface EncoderLayerSpec {
  /** Index into EncoderSpec.ropes; null: no rotary embedding. */
  readonly rope: number | null
  /** Tokens that a token attends to on each side, itself included; null: all. */
  readonly window: number | null
  readonly hasExperts: boolean
}

/** What attention adds to its scores by the distance between two tokens (relative.ts). */
export type RelativeSpec =
  /** One value per bucket and head, the same in all layers (arXiv 1910.10683). */
  | { readonly kind: 'buckets'; readonly numBuckets: number; readonly maxDistance: number }
  /** Each head's scores fall linearly with the distance, by a slope of its own (arXiv 2108.12409). */
  | { readonly kind: 'slopes' }
  /** Products of queries and keys with vectors that depend on the distance's bucket (arXiv 2006.03654). */
  | {
      readonly kind: 'disentangled'
      /** Half the number of buckets. */
      readonly span: number
      /** Beyond half the span, buckets are logarithmic up to this distance; null: each distance has its own bucket. */
      readonly maxDistance: number | null
      readonly isNormed: boolean
      /** The layer's projections of queries and keys also make the vectors. */
      readonly sharesKeys: boolean
    }

export interface EncoderSpec {
  readonly modelType: string
  readonly vocabSize: number
  readonly hiddenSize: number
  /** Columns of the tables of tokens, positions and segments. A projection follows them where this is not the hidden size. */
  readonly embeddingSize: number
  /** The projection's output is normalised (DeBERTa), otherwise its input (ELECTRA). */
  readonly normsProjection: boolean
  readonly intermediateSize: number
  readonly numHeads: number
  readonly headDim: number
  readonly layers: readonly EncoderLayerSpec[]
  readonly ropes: readonly RopeSpec[]
  /** Terms that attention adds by distance; null: none. */
  readonly relative: RelativeSpec | null
  /** The number of experts in layers with experts, and how many of them a row goes through; null: no layer has experts. */
  readonly experts: { readonly count: number; readonly topK: number; readonly normalizes: boolean } | null
  readonly normPlacement: 'pre' | 'post'
  readonly normEps: number
  readonly activation: Activated
  readonly isGated: boolean
  /** Rows of the table of positions, and the row of position 0; null: there is no such table. */
  readonly positions: { readonly count: number; readonly offset: number } | null
  /** Rows of the table of segments; 0: there is no such table. */
  readonly numSegments: number
  /** The most tokens that a text can have. */
  readonly maxTokens: number
  /** Outputs of the classifier. */
  readonly numLabels: number
  /** Activation after the classifier's dense layer. */
  readonly headActivation: 'tanh' | 'gelu' | 'relu'
  /** Pooling before the classifier. */
  readonly headPooling: 'first' | 'mean'
}

const ACTIVATIONS: Readonly<Record<string, Activated>> = {
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  gelu_python: 'gelu',
  silu: 'silu',
  swiglu: 'silu',
  geglu: 'gelu',
}

/** Whether a config belongs to a known encoder family. */
export function isEncoder(json: unknown): boolean {
  return typeOf(json) !== null
}

function typeOf(json: unknown): string | null {
  if (typeof json !== 'object' || json === null || !('model_type' in json)) return null
  const { model_type: type } = json
  return typeof type === 'string' && Object.hasOwn(ENCODER_FAMILIES, type) ? type : null
}

/** The spec of a parsed config.json. @throws ModelError naming the field at fault */
export function parseEncoderSpec(path: string, json: Readonly<Record<string, unknown>>): EncoderSpec {
  const modelType = typeOf(json)
  const family = modelType === null ? undefined : ENCODER_FAMILIES[modelType]
  if (modelType === null || family === undefined) {
    const found = JSON.stringify(json['model_type']) ?? '(none)'
    const known = Object.keys(ENCODER_FAMILIES).join(', ')
    throw new ModelError(`${path}: unknown model_type ${found}; known encoders: ${known}`)
  }
  const unified: Record<string, unknown> = { ...json }
  for (const [ours, theirs] of Object.entries(family.fields)) unified[ours] ??= json[theirs]
  const config: ConfigReader = new ConfigReader(path, unified)
  requirePlain(config, family)
  const hiddenSize = config.size('hidden_size')
  const numHeads = config.size('num_attention_heads')
  const headDim = config.size('head_dim', hiddenSize / numHeads)
  const numLayers = config.numLayers()
  const positions = config.size('max_position_embeddings', family.maxPositions)
  const name = config.raw('hidden_act') ?? family.activation
  const activation = typeof name === 'string' && Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined
  if (activation === undefined) config.fail('hidden_act', Object.keys(ACTIVATIONS).join(', '))
  // Jina's variant of BERT has a gate, and ALiBi's slopes instead of a table of positions.
  const isAlibi = config.raw('position_embedding_type') === 'alibi'
  const isAfterPadding = family.positions === 'afterPadding'
  const offset = isAfterPadding ? config.number('pad_token_id', 1) + 1 : 0
  const hasTable =
    family.positions === 'relative'
      ? config.flag('position_biased_input', true)
      : family.positions !== 'rotary' && !isAlibi
  const labels = config.raw('id2label')
  const numLabels = typeof labels === 'object' && labels !== null ? Object.keys(labels).length : 2
  return {
    modelType,
    vocabSize: config.size('vocab_size'),
    hiddenSize,
    embeddingSize: config.size('embedding_size', hiddenSize),
    normsProjection: family.relative === 'disentangled',
    intermediateSize: config.size('intermediate_size'),
    numHeads,
    headDim,
    layers: layersOf(config, family, numLayers),
    ropes: family.positions === 'rotary' ? ropesOf(config, family, headDim, positions) : [],
    relative: isAlibi ? { kind: 'slopes' } : relativeOf(config, family, positions),
    experts: expertsOf(config),
    normPlacement: family.normPlacement,
    normEps: config.number('layer_norm_eps', family.normEps),
    activation,
    isGated: isGated(config, family, isAlibi),
    positions: hasTable ? { count: positions, offset } : null,
    numSegments: config.number('type_vocab_size', family.numSegments),
    maxTokens: positions - offset,
    numLabels: config.size('num_labels', Math.max(1, numLabels)),
    headActivation: headActivationOf(config, family),
    headPooling: config.raw('classifier_pooling') === 'mean' ? 'mean' : 'first',
  }
}

/** Whether MLPs have a gate. nomic-bert's configs tell it by the name of the activation, Jina's BERT by feed_forward_type. */
function isGated(config: ConfigReader, family: EncoderFamily, isAlibi: boolean): boolean {
  if (isAlibi) {
    const kind = config.raw('feed_forward_type') ?? 'geglu'
    if (kind !== 'geglu' && kind !== 'original') config.fail('feed_forward_type', 'geglu or original')
    return kind === 'geglu'
  }
  const published = config.raw('activation_function')
  return typeof published === 'string' ? published.endsWith('glu') : family.isGated
}

function headActivationOf(config: ConfigReader, family: EncoderFamily): EncoderSpec['headActivation'] {
  if (family.relative !== 'disentangled') return family.headActivation
  const name = config.raw('pooler_hidden_act') ?? 'gelu'
  if (name === 'gelu' || name === 'tanh' || name === 'relu') return name
  return config.fail('pooler_hidden_act', 'gelu, tanh or relu')
}

function expertsOf(config: ConfigReader): EncoderSpec['experts'] {
  if (config.number('moe_every_n_layers', 0) === 0) return null
  return {
    count: config.size('num_experts'),
    topK: config.size('moe_top_k', 1),
    normalizes: config.flag('moe_normalize_expert_weights', false),
  }
}

function relativeOf(config: ConfigReader, { relative }: EncoderFamily, positions: number): RelativeSpec | null {
  if (relative === 'none') return null
  if (relative === 'buckets')
    return { kind: 'buckets', numBuckets: config.size('relative_attention_num_buckets', 32), maxDistance: 128 }
  const longest = config.number('max_relative_positions', -1)
  const maxDistance = longest > 0 ? longest : positions
  const buckets = config.number('position_buckets', -1)
  const norms = config.raw('norm_rel_ebd') ?? 'none'
  return {
    kind: 'disentangled',
    span: buckets > 0 ? buckets : maxDistance,
    maxDistance: buckets > 0 ? maxDistance : null,
    isNormed: typeof norms === 'string' && norms.includes('layer_norm'),
    sharesKeys: config.flag('share_att_key', false),
  }
}

/** Refuses variants of the families that are not served. */
function requirePlain(config: ConfigReader, { allowsAlibi, projectsEmbeddings, relative }: EncoderFamily): void {
  const position = config.raw('position_embedding_type') ?? 'absolute'
  const isKnown = position === 'absolute' || position === 'rope' || (position === 'alibi' && allowsAlibi)
  if (!isKnown) config.fail('position_embedding_type', 'absolute or rope')
  if (config.raw('prenorm') === true) config.fail('prenorm', 'false')
  if (config.raw('is_decoder') === true) config.fail('is_decoder', 'false')
  const [hidden, embedding] = [config.raw('hidden_size'), config.raw('embedding_size')]
  if (embedding !== null && embedding !== hidden && !projectsEmbeddings)
    config.fail('embedding_size', `hidden_size (${String(hidden)})`)
  if (config.number('rotary_emb_fraction', 1) !== 1) config.fail('rotary_emb_fraction', '1')
  if (config.raw('rotary_emb_interleaved') === true) config.fail('rotary_emb_interleaved', 'false')
  const norm = config.raw('layer_norm_type') ?? 'layer_norm'
  if (norm !== 'layer_norm') config.fail('layer_norm_type', 'layer_norm')
  if (relative !== 'disentangled') return
  if (config.raw('relative_attention') !== true) config.fail('relative_attention', 'true')
  if (config.number('conv_kernel_size', 0) > 0) config.fail('conv_kernel_size', '0: convolutions are not served')
  const kinds = config.raw('pos_att_type')
  const list = typeof kinds === 'string' ? kinds.split('|').map((kind) => kind.trim()) : kinds
  if (!Array.isArray(list) || !['c2p', 'p2c'].every((kind) => list.includes(kind)))
    config.fail('pos_att_type', 'c2p and p2c')
}

function layersOf(
  config: ConfigReader,
  { positions, localTheta }: EncoderFamily,
  numLayers: number,
): EncoderLayerSpec[] {
  const rope = positions === 'rotary' ? 0 : null
  const every = config.number('moe_every_n_layers', 0)
  if (localTheta === null)
    return Array.from({ length: numLayers }, (_, i) => ({
      rope,
      window: null,
      hasExperts: every > 0 && i % every === 1,
    }))
  // local_attention counts both sides. Here a window counts one side and the token itself.
  const window = Math.floor(config.size('local_attention', 128) / 2) + 1
  const period = config.size('global_attn_every_n_layers', 3)
  const types = config.list('layer_types', numLayers)
  return Array.from({ length: numLayers }, (_, i) => {
    const isLocal = types === null ? i % period !== 0 : types[i] === 'sliding_attention'
    return isLocal ? { rope: 1, window, hasExperts: false } : { rope: 0, window: null, hasExperts: false }
  })
}

function ropesOf(
  config: ConfigReader,
  { theta: defaultTheta, localTheta }: EncoderFamily,
  headDim: number,
  maxPositions: number,
): RopeSpec[] {
  const compute = (parameters: RopeParameters, fallback: number): RopeSpec => {
    const theta = parameters['rope_theta'] ?? fallback
    if (typeof theta !== 'number' || theta <= 1) config.fail('rope_theta', 'a number above 1')
    return computeRope({
      path: config.path,
      parameters,
      theta,
      rotaryDim: headDim,
      maxPositions,
      originalMaxPositions: null,
      servedPositions: maxPositions,
    })
  }
  const nested = config.object('rope_parameters') ?? {}
  const theta = config.number('rope_theta', defaultTheta)
  if (localTheta === null) return [compute({ ...config.object('rope_scaling'), ...nested }, theta)]
  const of = (type: string): RopeParameters => {
    const own = nested[type]
    return typeof own === 'object' && own !== null ? (own as RopeParameters) : {}
  }
  const local = config.optionalNumber('local_rope_theta') ?? localTheta
  return [compute(of('full_attention'), theta), compute(of('sliding_attention'), local)]
}
