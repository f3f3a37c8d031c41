/**
 * The model families as data. A family is what its config.json does not say: where the norms sit, which projections have biases, how layers
 * differ. `spec.ts` joins a row of this table with a config. Sources: each family's modeling_*.py in Hugging Face transformers.
 */

/** A bias is always there, never, or there when the named config field is true. */
type Presence = boolean | 'attention_bias' | 'mlp_bias'

/** Which layers slide, where the config has no `layer_types`. */
export type WindowRule =
  | { readonly kind: 'never' }
  /** Every layer, when sliding_window is set. */
  | { readonly kind: 'always' }
  /** Layers from max_window_layers on, when use_sliding_window. */
  | { readonly kind: 'upper' }
  /** All but every n-th layer; n is sliding_window_pattern or the default here. */
  | { readonly kind: 'pattern'; readonly period: number }

export interface Family {
  /**
   * pre: x += f(norm(x)). post: x += norm(f(x)). sandwich: x += norm(f(norm(x))).
   */
  readonly normPlacement: 'pre' | 'post' | 'sandwich'
  /** RMSNorm multiplies by 1 + weight instead of weight. */
  readonly normAddsOne: boolean
  readonly qkNorm: 'none' | 'head' | 'full'
  readonly qkvBias: Presence
  readonly outputBias: Presence
  readonly mlpBias: Presence
  /** q, k and v (and gate and up) are stored as one matrix. */
  readonly isFused: boolean
  /** Embeddings are multiplied by sqrt(hidden_size). */
  readonly scalesEmbeddings: boolean
  readonly tiesEmbeddings: boolean
  readonly windows: WindowRule
  /** Layers i with no_rope_layers[i] = 0 have no rotary embedding; without the list, every n-th (no_rope_layer_interval, default 4). */
  readonly hasNopeLayers: boolean
  /** rope_theta of sliding layers, where they have their own; of the others, where the config gives none. */
  readonly localTheta: number | null
  readonly theta: number
  readonly normEps: number
  readonly activation: string
}

const LLAMA: Family = {
  normPlacement: 'pre',
  normAddsOne: false,
  qkNorm: 'none',
  qkvBias: 'attention_bias',
  outputBias: 'attention_bias',
  mlpBias: 'mlp_bias',
  isFused: false,
  scalesEmbeddings: false,
  tiesEmbeddings: false,
  windows: { kind: 'never' },
  hasNopeLayers: false,
  localTheta: null,
  theta: 10_000,
  normEps: 1e-6,
  activation: 'silu',
}

const NO_BIASES = { qkvBias: false, outputBias: false, mlpBias: false } as const

const GEMMA2: Family = {
  ...LLAMA,
  normPlacement: 'sandwich',
  normAddsOne: true,
  mlpBias: false,
  scalesEmbeddings: true,
  tiesEmbeddings: true,
  windows: { kind: 'pattern', period: 2 },
  activation: 'gelu_pytorch_tanh',
}

const GEMMA3: Family = {
  ...GEMMA2,
  qkNorm: 'head',
  windows: { kind: 'pattern', period: 6 },
  theta: 1_000_000,
  localTheta: 10_000,
}

/** By the entry of config.json's `architectures`. */
export const FAMILIES: Readonly<Record<string, Family>> = {
  LlamaForCausalLM: LLAMA,
  MistralForCausalLM: { ...LLAMA, ...NO_BIASES, windows: { kind: 'always' } },
  Qwen2ForCausalLM: { ...LLAMA, ...NO_BIASES, qkvBias: true, windows: { kind: 'upper' } },
  Qwen3ForCausalLM: { ...LLAMA, mlpBias: false, qkNorm: 'head', windows: { kind: 'upper' } },
  SmolLM3ForCausalLM: { ...LLAMA, tiesEmbeddings: true, hasNopeLayers: true, theta: 2_000_000 },
  Gemma2ForCausalLM: GEMMA2,
  Gemma3ForCausalLM: GEMMA3,
  // The text part of the image-and-text model; its config is nested under text_config.
  Gemma3ForConditionalGeneration: GEMMA3,
  Phi3ForCausalLM: { ...LLAMA, ...NO_BIASES, isFused: true, windows: { kind: 'always' }, normEps: 1e-5 },
  Olmo2ForCausalLM: { ...LLAMA, mlpBias: false, normPlacement: 'post', qkNorm: 'full', normEps: 1e-5 },
}
