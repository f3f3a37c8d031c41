/** What the mixtures of experts of the families have in common, as data. Sources: as in `families.ts`. */

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

/** Of Qwen3.5 and Qwen3-Next. */
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
