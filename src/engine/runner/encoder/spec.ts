/**
 * config.json -> EncoderSpec: what the forward pass of an encoder needs to know of a model. BERT and its kin add learned positions and normalise
 * each block's output; nomic-bert rotates instead; ModernBERT normalises the inputs and looks at a window in most layers.
 */
import type { Activated } from '../../../kernels/ops.ts'
import { computeRope, type RopeParameters, type RopeSpec } from '../rope.ts'
import { ModelError } from '../runner.ts'
import { ConfigReader } from '../config-reader.ts'
import { NAMES } from './names.ts'

export interface EncoderLayerSpec {
  /** Index into EncoderSpec.ropes; null: no rotary embedding. */
  readonly rope: number | null
  /** Tokens to each side that are seen, the own one counted; null: all. */
  readonly window: number | null
}

export interface EncoderSpec {
  readonly modelType: string
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numHeads: number
  readonly headDim: number
  readonly layers: readonly EncoderLayerSpec[]
  readonly ropes: readonly RopeSpec[]
  /** post: x = norm(x + f(x)). pre: x += f(norm(x)). */
  readonly normPlacement: 'pre' | 'post'
  readonly normEps: number
  readonly activation: Activated
  readonly isGated: boolean
  /** Rows of the table of positions, and the row of the first; null: none are added. */
  readonly positions: { readonly count: number; readonly offset: number } | null
  /** Rows of the table of segments; 0: none are added. */
  readonly numSegments: number
  /** Tokens of the longest text. */
  readonly maxTokens: number
  /** Of a classifier: outputs, what its dense layer is followed by, and which row it reads. */
  readonly numLabels: number
  readonly headActivation: 'tanh' | 'gelu' | 'relu'
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

/** nomic-bert's own code names its fields as GPT-2 does. */
const NOMIC_FIELDS: Readonly<Record<string, string>> = {
  n_embd: 'hidden_size',
  n_head: 'num_attention_heads',
  n_layer: 'num_hidden_layers',
  n_inner: 'intermediate_size',
  n_positions: 'max_position_embeddings',
  layer_norm_epsilon: 'layer_norm_eps',
  activation_function: 'hidden_act',
  rotary_emb_base: 'rope_theta',
}

/** DistilBERT has names of its own. */
const DISTILBERT_FIELDS: Readonly<Record<string, string>> = {
  dim: 'hidden_size',
  n_heads: 'num_attention_heads',
  n_layers: 'num_hidden_layers',
  hidden_dim: 'intermediate_size',
  activation: 'hidden_act',
}

function unified(modelType: string, json: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const fields = modelType === 'nomic_bert' ? NOMIC_FIELDS : modelType === 'distilbert' ? DISTILBERT_FIELDS : {}
  const config: Record<string, unknown> = { ...json }
  for (const [theirs, ours] of Object.entries(fields)) config[ours] ??= json[theirs]
  return config
}

/** Whether a config is one of an encoder that is known here. */
export function isEncoder(json: unknown): boolean {
  return typeOf(json) !== null
}

function typeOf(json: unknown): string | null {
  if (typeof json !== 'object' || json === null || !('model_type' in json)) return null
  const { model_type: type } = json
  return typeof type === 'string' && Object.hasOwn(NAMES, type) ? type : null
}

/** The spec of a parsed config.json. Throws ModelError naming the field at fault. */
export function parseEncoderSpec(path: string, json: Readonly<Record<string, unknown>>): EncoderSpec {
  const modelType = typeOf(json)
  if (modelType === null) {
    const found = JSON.stringify(json['model_type']) ?? '(none)'
    throw new ModelError(`${path}: unknown model_type ${found}; known encoders: ${Object.keys(NAMES).join(', ')}`)
  }
  const config: ConfigReader = new ConfigReader(path, unified(modelType, json))
  requirePlain(config)
  const hiddenSize = config.size('hidden_size')
  const numHeads = config.size('num_attention_heads')
  const headDim = config.size('head_dim', hiddenSize / numHeads)
  const numLayers = config.size('num_hidden_layers')
  const isModern = modelType === 'modernbert'
  const isNomic = modelType === 'nomic_bert'
  const isRoberta = modelType === 'roberta' || modelType === 'xlm-roberta' || modelType === 'camembert'
  const positions = config.size('max_position_embeddings', isModern ? 8192 : isNomic ? 2048 : 512)
  const name = config.raw(isModern ? 'hidden_activation' : 'hidden_act') ?? (isNomic ? 'silu' : 'gelu')
  const activation = typeof name === 'string' ? ACTIVATIONS[name] : undefined
  if (activation === undefined) config.fail('hidden_act', Object.keys(ACTIVATIONS).join(', '))
  // RoBERTa numbers positions from the one after the padding token's on.
  const offset = isRoberta ? config.number('pad_token_id', 1) + 1 : 0
  const layers = isModern ? modernLayers(config, numLayers) : Array.from({ length: numLayers }, () => PLAIN[modelType])
  const labels = config.raw('id2label')
  const numLabels = typeof labels === 'object' && labels !== null ? Object.keys(labels).length : 2
  return {
    modelType,
    vocabSize: config.size('vocab_size'),
    hiddenSize,
    intermediateSize: config.size('intermediate_size'),
    numHeads,
    headDim,
    layers: layers.map((layer) => layer ?? { rope: null, window: null }),
    ropes: isModern || isNomic ? ropesOf(config, isModern, headDim, positions) : [],
    normPlacement: isModern ? 'pre' : 'post',
    normEps: config.number(isModern ? 'norm_eps' : 'layer_norm_eps', isModern ? 1e-5 : 1e-12),
    activation,
    isGated: isModern || isNomic,
    positions: isModern || isNomic ? null : { count: positions, offset },
    numSegments: isModern || modelType === 'distilbert' ? 0 : config.number('type_vocab_size', 2),
    maxTokens: positions - offset,
    numLabels: config.size('num_labels', Math.max(1, numLabels)),
    headActivation: isModern ? 'gelu' : modelType === 'distilbert' ? 'relu' : 'tanh',
    headPooling: config.raw('classifier_pooling') === 'mean' ? 'mean' : 'first',
  }
}

const PLAIN: Readonly<Record<string, EncoderLayerSpec>> = { nomic_bert: { rope: 0, window: null } }

/** What these families have in variants that are not served. */
function requirePlain(config: ConfigReader): void {
  const position = config.raw('position_embedding_type') ?? 'absolute'
  if (position !== 'absolute' && position !== 'rope') config.fail('position_embedding_type', 'absolute or rope')
  if (config.number('moe_every_n_layers', 0) > 0)
    config.fail('moe_every_n_layers', '0: encoders with experts are not served')
  if (config.raw('prenorm') === true) config.fail('prenorm', 'false')
  if (config.raw('is_decoder') === true) config.fail('is_decoder', 'false')
  const [hidden, embedding] = [config.raw('hidden_size'), config.raw('embedding_size')]
  if (embedding !== null && embedding !== hidden) config.fail('embedding_size', `hidden_size (${String(hidden)})`)
  if (config.number('rotary_emb_fraction', 1) !== 1) config.fail('rotary_emb_fraction', '1')
  if (config.raw('rotary_emb_interleaved') === true) config.fail('rotary_emb_interleaved', 'false')
}

function modernLayers(config: ConfigReader, numLayers: number): EncoderLayerSpec[] {
  // The config's window is the whole of it; half of it to each side is seen, beside the token itself.
  const window = Math.floor(config.size('local_attention', 128) / 2) + 1
  const period = config.size('global_attn_every_n_layers', 3)
  const types = config.list('layer_types', numLayers)
  return Array.from({ length: numLayers }, (_, i) => {
    const isLocal = types === null ? i % period !== 0 : types[i] === 'sliding_attention'
    return isLocal ? { rope: 1, window } : { rope: 0, window: null }
  })
}

function ropesOf(config: ConfigReader, isModern: boolean, headDim: number, maxPositions: number): RopeSpec[] {
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
  if (!isModern) return [compute(nested, config.number('rope_theta', 1000))]
  const of = (type: string): RopeParameters => {
    const own = nested[type]
    return typeof own === 'object' && own !== null ? (own as RopeParameters) : {}
  }
  const global = config.number('global_rope_theta', 160_000)
  const local = config.optionalNumber('local_rope_theta') ?? 10_000
  return [compute(of('full_attention'), global), compute(of('sliding_attention'), local)]
}
