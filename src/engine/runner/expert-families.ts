/** The mixtures of experts of the model families, as data. Sources: as in `families.ts`. */

/** Names of the tensors of a layer with experts. In a name, * stands for an expert's number; a tensor without * holds all experts' matrices. */
export interface ExpertNames {
  readonly router: string
  /** Full name of the parameter that is added to the scores while experts are chosen. */
  readonly choiceBias: string
  readonly gateUp: readonly [string] | readonly [string, string]
  /** The parameter that holds both, as in newer checkpoints. */
  readonly fusedGateUp: string
  readonly down: string
  /** Gate and up rows alternate in the fused parameter. */
  readonly alternates: boolean
  /** Parameters that are not named `.weight` are stored as [experts, inputs, outputs]. */
  readonly transposes: boolean
  readonly sharedGateUp: readonly [string] | readonly [string, string]
  readonly sharedDown: string
  /** [1, hidden]: its product with a row gates the shared expert. */
  readonly sharedGate: string
}

export const EXPERTS_APART: ExpertNames = {
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

/** Mixtral and MiniMax. */
export const MIXTRAL_NAMES: ExpertNames = {
  ...EXPERTS_APART,
  router: 'block_sparse_moe.gate',
  choiceBias: 'block_sparse_moe.e_score_correction_bias',
  gateUp: ['block_sparse_moe.experts.*.w1', 'block_sparse_moe.experts.*.w3'],
  down: 'block_sparse_moe.experts.*.w2',
}

/** What a family's config.json leaves out about its experts. */
export interface ExpertsFamily {
  /** Config field with the number of experts. */
  readonly countField: string
  /** Models of the family may have no experts. */
  readonly isOptional: boolean
  /** Config field with the number of experts per row. */
  readonly topKField: string
  /** Config field with an expert's width. */
  readonly widthField: string
  /** Config field with the number of shared experts, each as wide as the others; null: there are none. */
  readonly sharedCountField: string | null
  /** Config field with the width of the shared expert; null: there is none, or its width follows from sharedCountField. */
  readonly sharedWidthField: string | null
  /** The shared expert is multiplied by the sigmoid of a gate. */
  readonly gatesShared: boolean
  readonly scores: 'softmax' | 'sigmoid'
  /** The weights of a row's experts are scaled to sum to one: always, or if norm_topk_prob (with this default) is true. */
  readonly normalizes: 'always' | { readonly byDefault: boolean }
  readonly hasChoiceBias: boolean | { readonly field: 'use_expert_bias' }
  readonly hasBias: boolean
  readonly glu: 'silu' | 'silu_clamped'
  /**
   * Which layers have experts. leading: all but the first first_k_dense_replace (or num_dense_layers). sparse: every decoder_sparse_step-th layer that
   * mlp_only_layers does not list. interval: every moe_layer_interval-th layer from moe_layer_start_index to moe_layer_end_index.
   */
  readonly layers: 'all' | 'leading' | 'sparse' | 'interval'
  readonly names: ExpertNames
}

export const QWEN_EXPERTS: ExpertsFamily = {
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

export const LOCAL_EXPERTS: ExpertsFamily = {
  ...QWEN_EXPERTS,
  countField: 'num_local_experts',
  widthField: 'intermediate_size',
  normalizes: 'always',
  layers: 'all',
}

/** Qwen3.5 and Qwen3-Next. */
export const QWEN_SHARED_EXPERTS: ExpertsFamily = {
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

export const GRANITE_EXPERTS: ExpertsFamily = {
  ...LOCAL_EXPERTS,
  names: {
    ...EXPERTS_APART,
    router: 'block_sparse_moe.router.layer',
    gateUp: ['block_sparse_moe.experts.*.gate_proj', 'block_sparse_moe.experts.*.up_proj'],
    fusedGateUp: 'block_sparse_moe.input_linear',
    down: 'block_sparse_moe.output_linear',
  },
}
