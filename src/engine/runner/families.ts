/**
 * The model families as data. A family is what its config.json leaves out: where the norms are, which projections have biases, how layers differ.
 * `spec.ts` combines a row of this table with a config. Sources: each family's modeling_*.py in Hugging Face transformers.
 */

import {
  EXPERTS_APART,
  GRANITE_EXPERTS,
  LOCAL_EXPERTS,
  MIXTRAL_NAMES,
  QWEN_EXPERTS,
  QWEN_SHARED_EXPERTS,
} from './expert-families.ts'
import type { Family, LayerNames } from './family.ts'

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
  hasParallelExperts: false,
  hasGlobalHeads: false,
  sharesKv: false,
  hasVNorm: false,
  attentionScale: null,
  hasLayerInputs: false,
  hasLayerScale: false,
  hasStreams: false,
  mixer: 'none',
}

const NO_BIASES = { qkvBias: false, outputBias: false, mlpBias: false } as const

const GEMMA: Family = {
  ...LLAMA,
  normAddsOne: true,
  mlpBias: false,
  scalesEmbeddings: true,
  tiesEmbeddings: true,
  activation: 'gelu_pytorch_tanh',
}

const GEMMA2: Family = {
  ...GEMMA,
  normPlacement: 'sandwich',
  names: { ...APART, mlpNorm: 'pre_feedforward_layernorm' },
  windows: { kind: 'pattern', period: 2 },
}

const GEMMA3: Family = {
  ...GEMMA2,
  qkNorm: 'head',
  windows: { kind: 'pattern', period: 6 },
  theta: 1_000_000,
  localTheta: 10_000,
}

const GEMMA3N: Family = {
  ...GEMMA3,
  normAddsOne: false,
  windows: { kind: 'pattern', period: 5 },
  sharesKv: true,
  hasVNorm: true,
  attentionScale: 1,
  hasLayerInputs: true,
  hasStreams: true,
}

const GEMMA4: Family = {
  ...GEMMA3N,
  windows: { kind: 'pattern', period: 6 },
  hasParallelExperts: true,
  hasGlobalHeads: true,
  hasLayerScale: true,
  hasStreams: false,
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

/** The text part. Without images, the three sections of its rotary embedding have the same positions. */
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

const QWEN3_5_MOE: Family = {
  ...QWEN3_5,
  experts: { ...QWEN_SHARED_EXPERTS, normalizes: 'always', layers: 'all' },
}

/** By the first entry of `architectures` in config.json. */
export const FAMILIES: Readonly<Record<string, Family>> = {
  LlamaForCausalLM: LLAMA,
  MistralForCausalLM: MISTRAL,
  MinistralForCausalLM: { ...MISTRAL, windows: { kind: 'listed' } },
  Ministral3ForCausalLM: MISTRAL,
  // The text part of a model for images and text. Its config is nested under text_config.
  Mistral3ForConditionalGeneration: MISTRAL,
  Qwen2ForCausalLM: { ...LLAMA, ...NO_BIASES, qkvBias: true, windows: { kind: 'upper' } },
  Qwen3ForCausalLM: { ...LLAMA, mlpBias: false, qkNorm: 'head', windows: { kind: 'upper' } },
  SmolLM3ForCausalLM: { ...LLAMA, tiesEmbeddings: true, nope: 'listed', theta: 2_000_000 },
  GemmaForCausalLM: GEMMA,
  Gemma2ForCausalLM: GEMMA2,
  Gemma3ForCausalLM: GEMMA3,
  // The text part, as with Mistral's.
  Gemma3ForConditionalGeneration: GEMMA3,
  Gemma3nForCausalLM: GEMMA3N,
  Gemma3nForConditionalGeneration: GEMMA3N,
  Gemma4ForCausalLM: GEMMA4,
  Gemma4ForConditionalGeneration: GEMMA4,
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
    // The shared expert is the MLP that models without experts have.
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
      names: MIXTRAL_NAMES,
    },
  },
  Qwen3MoeForCausalLM: {
    ...LLAMA,
    mlpBias: false,
    qkNorm: 'head',
    windows: { kind: 'upper' },
    experts: QWEN_EXPERTS,
  },
  Qwen2MoeForCausalLM: {
    ...LLAMA,
    ...NO_BIASES,
    qkvBias: true,
    windows: { kind: 'upper' },
    experts: { ...QWEN_SHARED_EXPERTS, normalizes: { byDefault: false } },
  },
  OlmoeForCausalLM: {
    ...LLAMA,
    mlpBias: false,
    qkNorm: 'full',
    normEps: 1e-5,
    experts: { ...LOCAL_EXPERTS, countField: 'num_experts', normalizes: { byDefault: false } },
  },
  MiniMaxM2ForCausalLM: {
    ...LLAMA,
    ...NO_BIASES,
    qkNorm: 'full',
    theta: 5_000_000,
    experts: {
      ...LOCAL_EXPERTS,
      scores: 'sigmoid',
      hasChoiceBias: true,
      names: MIXTRAL_NAMES,
    },
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
