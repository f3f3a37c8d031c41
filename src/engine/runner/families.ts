/**
 * The model families as data. A family is what its config.json does not say: where the norms sit, which projections have biases, how layers
 * differ. `spec.ts` joins a row of this table with a config. Sources: each family's modeling_*.py in Hugging Face transformers.
 */

import type { QkNormKind } from '../../kernels/ops.ts'

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

/** Names of a layer's tensors where it has experts. * stands for an expert's number; without it a tensor has all experts' matrices. */
export interface ExpertNames {
  readonly router: string
  /** The parameter added to scores while experts are chosen, its whole name. */
  readonly choiceBias: string
  readonly gateUp: readonly [string] | readonly [string, string]
  /** Where both stand in one parameter, as newer checkpoints have them. */
  readonly fusedGateUp: string
  readonly down: string
  /** Rows of gate and up take turns in the fused parameter. */
  readonly alternates: boolean
  /** Bare parameters stand as [experts, inputs, outputs]. */
  readonly transposes: boolean
  readonly sharedGateUp: readonly [string] | readonly [string, string]
  readonly sharedDown: string
  /** One row: how much of the shared expert counts. */
  readonly sharedGate: string
}

const EXPERTS_APART: ExpertNames = {
  router: 'mlp.gate',
  choiceBias: 'mlp.gate.e_score_correction_bias',
  gateUp: ['mlp.experts.*.gate_proj', 'mlp.experts.*.up_proj'],
  fusedGateUp: 'mlp.experts.gate_up_proj',
  down: 'mlp.experts.*.down_proj',
  alternates: false,
  transposes: false,
  sharedGateUp: ['mlp.shared_experts.gate_proj', 'mlp.shared_experts.up_proj'],
  sharedDown: 'mlp.shared_experts.down_proj',
  sharedGate: 'mlp.shared_expert_gate',
}

/** What a family's config.json does not say of its experts. */
export interface ExpertsFamily {
  /** Config fields: the number of experts, of a row's, an expert's width. */
  readonly countField: string
  /** Models of the family may have none. */
  readonly isOptional: boolean
  readonly topKField: string
  readonly widthField: string
  /** Config field with the number of experts that all rows go through, each as wide as a chosen one; null: there are none. */
  readonly sharedCountField: string | null
  /** Config field with the width of an expert that all rows go through; null: there is none, or sharedCountField tells. */
  readonly sharedWidthField: string | null
  /** The shared expert is multiplied by the sigmoid of a gate. */
  readonly gatesShared: boolean
  readonly scores: 'softmax' | 'sigmoid'
  /** A row's weights sum to one: always, or where norm_topk_prob (by default this) says so. */
  readonly normalizes: 'always' | { readonly byDefault: boolean }
  readonly hasChoiceBias: boolean | { readonly field: 'use_expert_bias' }
  readonly hasBias: boolean
  readonly glu: 'silu' | 'silu_clamped'
  /**
   * Layers with experts. leading: all but the first first_k_dense_replace or num_dense_layers. sparse: every decoder_sparse_step-th that is not in mlp_only_layers.
   * interval: every moe_layer_interval-th from moe_layer_start_index to moe_layer_end_index.
   */
  readonly layers: 'all' | 'leading' | 'sparse' | 'interval'
  readonly names: ExpertNames
}

const QWEN_EXPERTS: ExpertsFamily = {
  countField: 'num_experts',
  isOptional: false,
  topKField: 'num_experts_per_tok',
  widthField: 'moe_intermediate_size',
  sharedCountField: null,
  sharedWidthField: null,
  gatesShared: false,
  scores: 'softmax',
  normalizes: { byDefault: false },
  hasChoiceBias: false,
  hasBias: false,
  glu: 'silu',
  layers: 'sparse',
  names: EXPERTS_APART,
}

const LOCAL_EXPERTS: ExpertsFamily = {
  ...QWEN_EXPERTS,
  countField: 'num_local_experts',
  widthField: 'intermediate_size',
  normalizes: 'always',
  layers: 'all',
}

/** Of Qwen3.5 and Qwen3-Next. */
const QWEN_SHARED_EXPERTS: ExpertsFamily = {
  ...QWEN_EXPERTS,
  sharedWidthField: 'shared_expert_intermediate_size',
  gatesShared: true,
  normalizes: { byDefault: true },
  names: {
    ...EXPERTS_APART,
    sharedGateUp: ['mlp.shared_expert.gate_proj', 'mlp.shared_expert.up_proj'],
    sharedDown: 'mlp.shared_expert.down_proj',
  },
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
  /** Of queries and keys: over each head, over all heads; or over each head where the named config field is true. */
  readonly qkNorm: 'none' | QkNormKind | { readonly field: 'use_qk_norm' }
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
  /** Each head attends to a logit of its own beside the tokens (attention sinks). */
  readonly hasSinks: boolean
  /** The MLP has no gate: W_down act(W_up x). */
  readonly hasPlainMlp: boolean
  readonly experts: ExpertsFamily | null
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
  hasSinks: false,
  hasPlainMlp: false,
  experts: null,
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

const ERNIE: Family = {
  ...LLAMA,
  qkvBias: 'use_bias',
  outputBias: 'use_bias',
  mlpBias: 'use_bias',
  rotatesNeighbours: true,
  tiesEmbeddings: true,
  theta: 500_000,
  normEps: 1e-5,
}

const GRANITE_EXPERTS: ExpertsFamily = {
  ...LOCAL_EXPERTS,
  names: {
    ...EXPERTS_APART,
    router: 'block_sparse_moe.router.layer',
    gateUp: ['block_sparse_moe.experts.*.gate_proj', 'block_sparse_moe.experts.*.up_proj'],
    fusedGateUp: 'block_sparse_moe.input_linear',
    down: 'block_sparse_moe.output_linear',
  },
}

const QWEN3_5_MOE: Family = {
  ...QWEN3_5,
  experts: { ...QWEN_SHARED_EXPERTS, normalizes: 'always', layers: 'all' },
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
    // Beside the MLP that models without experts have alone.
    experts: {
      ...GRANITE_EXPERTS,
      isOptional: true,
      sharedWidthField: 'shared_intermediate_size',
      names: {
        ...GRANITE_EXPERTS.names,
        sharedGateUp: ['shared_mlp.input_linear'],
        sharedDown: 'shared_mlp.output_linear',
      },
    },
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
  Ernie4_5ForCausalLM: ERNIE,
  Qwen3_5ForCausalLM: QWEN3_5,
  Qwen3_5ForConditionalGeneration: QWEN3_5,
  Qwen3_5MoeForCausalLM: QWEN3_5_MOE,
  Qwen3_5MoeForConditionalGeneration: QWEN3_5_MOE,
  Qwen3NextForCausalLM: { ...QWEN3_5, experts: QWEN_SHARED_EXPERTS },
  Lfm2ForCausalLM: LFM2,
  Lfm2MoeForCausalLM: {
    ...LFM2,
    roundsMlpWidth: false,
    experts: {
      ...QWEN_EXPERTS,
      scores: 'sigmoid',
      normalizes: { byDefault: true },
      hasChoiceBias: { field: 'use_expert_bias' },
      layers: 'leading',
      names: {
        ...EXPERTS_APART,
        router: 'feed_forward.gate',
        choiceBias: 'feed_forward.expert_bias',
        gateUp: ['feed_forward.experts.*.w1', 'feed_forward.experts.*.w3'],
        fusedGateUp: 'feed_forward.experts.gate_up_proj',
        down: 'feed_forward.experts.*.w2',
      },
    },
  },
  SeedOssForCausalLM: { ...LLAMA, outputBias: 'attention_out_bias' },
  ArceeForCausalLM: {
    ...LLAMA,
    names: { ...APART, gateUp: ['mlp.up_proj'] },
    hasPlainMlp: true,
    normEps: 1e-5,
    activation: 'relu2',
  },
  ApertusForCausalLM: {
    ...LLAMA,
    mlpBias: false,
    qkNorm: 'head',
    names: {
      ...APART,
      gateUp: ['mlp.up_proj'],
      inputNorm: 'attention_layernorm',
      mlpNorm: 'feedforward_layernorm',
    },
    hasPlainMlp: true,
    theta: 12_000_000,
    normEps: 1e-5,
    activation: 'xielu',
  },
  HunYuanDenseV1ForCausalLM: {
    ...LLAMA,
    mlpBias: false,
    qkNorm: 'rotatedHead',
    names: { ...APART, qNorm: 'self_attn.query_layernorm', kNorm: 'self_attn.key_layernorm' },
    normEps: 1e-5,
  },
  MixtralForCausalLM: {
    ...MISTRAL,
    theta: 1_000_000,
    normEps: 1e-5,
    experts: {
      ...LOCAL_EXPERTS,
      names: {
        ...EXPERTS_APART,
        router: 'block_sparse_moe.gate',
        gateUp: ['block_sparse_moe.experts.*.w1', 'block_sparse_moe.experts.*.w3'],
        down: 'block_sparse_moe.experts.*.w2',
      },
    },
  },
  Qwen3MoeForCausalLM: {
    ...LLAMA,
    mlpBias: false,
    qkNorm: 'head',
    windows: { kind: 'upper' },
    experts: QWEN_EXPERTS,
  },
  OlmoeForCausalLM: {
    ...LLAMA,
    mlpBias: false,
    qkNorm: 'full',
    normEps: 1e-5,
    experts: { ...LOCAL_EXPERTS, countField: 'num_experts', normalizes: { byDefault: false } },
  },
  GraniteMoeForCausalLM: { ...GRANITE, experts: GRANITE_EXPERTS },
  GptOssForCausalLM: {
    ...LLAMA,
    windows: { kind: 'pattern', period: 2 },
    theta: 150_000,
    normEps: 1e-5,
    hasSinks: true,
    experts: {
      ...LOCAL_EXPERTS,
      hasBias: true,
      glu: 'silu_clamped',
      names: { ...EXPERTS_APART, router: 'mlp.router', alternates: true, transposes: true },
    },
  },
  Ernie4_5_MoeForCausalLM: {
    ...ERNIE,
    experts: {
      ...QWEN_EXPERTS,
      countField: 'moe_num_experts',
      topKField: 'moe_k',
      sharedCountField: 'moe_num_shared_experts',
      normalizes: 'always',
      hasChoiceBias: true,
      layers: 'interval',
      names: { ...EXPERTS_APART, choiceBias: 'mlp.moe_statics.e_score_correction_bias' },
    },
  },
  Glm4MoeForCausalLM: {
    ...LLAMA,
    outputBias: false,
    mlpBias: false,
    normEps: 1e-5,
    qkNorm: { field: 'use_qk_norm' },
    experts: {
      ...QWEN_EXPERTS,
      countField: 'n_routed_experts',
      sharedCountField: 'n_shared_experts',
      scores: 'sigmoid',
      normalizes: { byDefault: true },
      hasChoiceBias: true,
      layers: 'leading',
    },
  },
}
