/**
 * The model families as data. A family is what its config.json does not say: where the norms sit, which projections have biases, how layers
 * differ. `spec.ts` joins a row of this table with a config. Sources: each family's modeling_*.py in Hugging Face transformers.
 */

/** A bias is always there, never, or there when the named config field is true. */
type Presence = boolean | 'attention_bias' | 'attention_out_bias' | 'mlp_bias' | 'use_bias'

/** Names of a layer's tensors inside `layers.N.`. Several names of one matrix: its rows stand in as many tensors. */
export interface LayerNames {
  /** Before the mixer. */
  readonly inputNorm: string
  readonly qkv: readonly [string] | readonly [string, string, string]
  readonly output: string
  readonly gateUp: readonly [string] | readonly [string, string]
  readonly down: string
  readonly qNorm: string
  readonly kNorm: string
  /** Of the mixer's output, where that is normalised. */
  readonly attentionNorm: string
  /** Before the MLP. */
  readonly mlpNorm: string
  /** Of the MLP's output, where that is normalised. */
  readonly feedForwardNorm: string
  /** Of the last layer's output; it stands beside the layers. */
  readonly finalNorm: string
}

const APART: LayerNames = {
  inputNorm: 'input_layernorm',
  qkv: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  output: 'self_attn.o_proj',
  gateUp: ['mlp.gate_proj', 'mlp.up_proj'],
  down: 'mlp.down_proj',
  qNorm: 'self_attn.q_norm',
  kNorm: 'self_attn.k_norm',
  attentionNorm: 'post_attention_layernorm',
  mlpNorm: 'post_attention_layernorm',
  feedForwardNorm: 'post_feedforward_layernorm',
  finalNorm: 'norm',
}

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
  readonly names: LayerNames
  /** Config field with the MLP's width. */
  readonly intermediateField: string
  /** The MLP is two thirds as wide as that field says, rounded up (block_auto_adjust_ff_dim and its companions). */
  readonly roundsMlpWidth: boolean
  /** Rotations turn neighbouring dims; the others turn dim i with dim i + rotaryDim / 2. */
  readonly rotatesNeighbours: boolean
  /** Embeddings are multiplied by sqrt(hidden_size). */
  readonly scalesEmbeddings: boolean
  /** The config scales embeddings, blocks' outputs, attention and logits (Granite's four multipliers). */
  readonly hasMultipliers: boolean
  readonly tiesEmbeddings: boolean
  readonly windows: WindowRule
  /**
   * Layers without rotary embedding. listed: those i with no_rope_layers[i] = 0; without the list, every n-th (no_rope_layer_interval, default 4).
   * global: those that do not slide, in a model where others do. named: all, unless position_embedding_type is rope.
   */
  readonly nope: 'none' | 'listed' | 'global' | 'named'
  /** rope_theta of sliding layers, where they have their own; unscaled: the others' theta without their scaling. null: all layers are alike. */
  readonly localTheta: number | 'unscaled' | null
  readonly theta: number
  readonly normEps: number
  /** Config field with the norms' epsilon. */
  readonly normEpsField: string
  readonly activation: string
  /** Attention's output is multiplied by the sigmoid of a gate (mixers/attention.ts). */
  readonly gatesAttention: boolean
  /** What the layers are that have no attention. */
  readonly mixer: 'none' | 'shortConvolution' | 'gatedDelta' | 'mamba2'
}

const LLAMA: Family = {
  normPlacement: 'pre',
  normAddsOne: false,
  qkNorm: 'none',
  qkvBias: 'attention_bias',
  outputBias: 'attention_bias',
  mlpBias: 'mlp_bias',
  names: APART,
  intermediateField: 'intermediate_size',
  roundsMlpWidth: false,
  rotatesNeighbours: false,
  scalesEmbeddings: false,
  hasMultipliers: false,
  tiesEmbeddings: false,
  windows: { kind: 'never' },
  nope: 'none',
  localTheta: null,
  theta: 10_000,
  normEps: 1e-6,
  normEpsField: 'rms_norm_eps',
  activation: 'silu',
  gatesAttention: false,
  mixer: 'none',
}

const NO_BIASES = { qkvBias: false, outputBias: false, mlpBias: false } as const

const GEMMA2: Family = {
  ...LLAMA,
  normPlacement: 'sandwich',
  normAddsOne: true,
  mlpBias: false,
  names: { ...APART, mlpNorm: 'pre_feedforward_layernorm' },
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

const MISTRAL: Family = { ...LLAMA, ...NO_BIASES, windows: { kind: 'always' } }

const OLMO2: Family = { ...LLAMA, mlpBias: false, normPlacement: 'post', qkNorm: 'full', normEps: 1e-5 }

const GRANITE: Family = { ...LLAMA, hasMultipliers: true }

const FUSED_GATE_UP = { ...APART, gateUp: ['mlp.gate_up_proj'] } as const

const GLM: Family = {
  ...LLAMA,
  outputBias: false,
  mlpBias: false,
  names: FUSED_GATE_UP,
  rotatesNeighbours: true,
  normEps: 1.5625e-7,
}

/** Text part. Positions of its rope are the same in all three sections where there are no images. */
const QWEN3_5: Family = {
  ...LLAMA,
  mlpBias: false,
  normAddsOne: true,
  qkNorm: 'head',
  gatesAttention: true,
  mixer: 'gatedDelta',
}

const LFM2: Family = {
  ...LLAMA,
  ...NO_BIASES,
  qkNorm: 'head',
  names: {
    ...APART,
    inputNorm: 'operator_norm',
    output: 'self_attn.out_proj',
    qNorm: 'self_attn.q_layernorm',
    kNorm: 'self_attn.k_layernorm',
    gateUp: ['feed_forward.w1', 'feed_forward.w3'],
    down: 'feed_forward.w2',
    mlpNorm: 'ffn_norm',
    finalNorm: 'embedding_norm',
  },
  roundsMlpWidth: true,
  tiesEmbeddings: true,
  theta: 1_000_000,
  normEps: 1e-5,
  normEpsField: 'norm_eps',
  mixer: 'shortConvolution',
}

/** By the entry of config.json's `architectures`. */
export const FAMILIES: Readonly<Record<string, Family>> = {
  LlamaForCausalLM: LLAMA,
  MistralForCausalLM: MISTRAL,
  Ministral3ForCausalLM: MISTRAL,
  // The text part of the image-and-text models of Mistral; its config is nested under text_config.
  Mistral3ForConditionalGeneration: MISTRAL,
  Qwen2ForCausalLM: { ...LLAMA, ...NO_BIASES, qkvBias: true, windows: { kind: 'upper' } },
  Qwen3ForCausalLM: { ...LLAMA, mlpBias: false, qkNorm: 'head', windows: { kind: 'upper' } },
  SmolLM3ForCausalLM: { ...LLAMA, tiesEmbeddings: true, nope: 'listed', theta: 2_000_000 },
  Gemma2ForCausalLM: GEMMA2,
  Gemma3ForCausalLM: GEMMA3,
  // As with Mistral's.
  Gemma3ForConditionalGeneration: GEMMA3,
  Phi3ForCausalLM: {
    ...LLAMA,
    ...NO_BIASES,
    names: { ...FUSED_GATE_UP, qkv: ['self_attn.qkv_proj'] },
    windows: { kind: 'always' },
    normEps: 1e-5,
  },
  Olmo2ForCausalLM: OLMO2,
  Olmo3ForCausalLM: { ...OLMO2, windows: { kind: 'pattern', period: 4 }, theta: 500_000, localTheta: 'unscaled' },
  GraniteForCausalLM: GRANITE,
  GraniteMoeHybridForCausalLM: {
    ...GRANITE,
    mlpBias: false,
    names: { ...APART, gateUp: ['shared_mlp.input_linear'], down: 'shared_mlp.output_linear' },
    intermediateField: 'shared_intermediate_size',
    nope: 'named',
    mixer: 'mamba2',
  },
  GlmForCausalLM: GLM,
  Glm4ForCausalLM: {
    ...GLM,
    normPlacement: 'sandwich',
    names: { ...FUSED_GATE_UP, attentionNorm: 'post_self_attn_layernorm', feedForwardNorm: 'post_mlp_layernorm' },
  },
  Exaone4ForCausalLM: {
    ...LLAMA,
    ...NO_BIASES,
    normPlacement: 'post',
    qkNorm: 'head',
    windows: { kind: 'pattern', period: 4 },
    nope: 'global',
    normEps: 1e-5,
  },
  Ernie4_5ForCausalLM: {
    ...LLAMA,
    qkvBias: 'use_bias',
    outputBias: 'use_bias',
    mlpBias: 'use_bias',
    rotatesNeighbours: true,
    tiesEmbeddings: true,
    theta: 500_000,
    normEps: 1e-5,
  },
  Qwen3_5ForCausalLM: QWEN3_5,
  Qwen3_5ForConditionalGeneration: QWEN3_5,
  Lfm2ForCausalLM: LFM2,
  SeedOssForCausalLM: { ...LLAMA, outputBias: 'attention_out_bias' },
}
