/** What a model family is, as data: all that its config.json does not say. */

import type { QkNormKind } from '../../kernels/attention-options.ts'
import type { ExpertsFamily } from './expert-families.ts'

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

/** Which layers slide, where the config has no `layer_types`. */
type WindowRule =
  | { readonly kind: 'never' }
  /** Every layer, when sliding_window is set. */
  | { readonly kind: 'always' }
  /** By layer_types alone: without them, every layer. */
  | { readonly kind: 'listed' }
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
  /** Where enable_moe_block says so, each MLP has experts beside it (mlps/parallel.ts). */
  readonly hasParallelExperts: boolean
  /** Layers that do not slide have head sizes of their own: global_head_dim, num_global_key_value_heads, attention_k_eq_v. */
  readonly hasGlobalHeads: boolean
  /** The last num_kv_shared_layers have no K and V of their own. */
  readonly sharesKv: boolean
  /** Heads of v are divided by their root mean square. */
  readonly hasVNorm: boolean
  /** What scores are multiplied by; null: by query_pre_attn_scalar or the head's size. */
  readonly attentionScale: number | null
  /** Each layer has an embedding of its own (layer-inputs.ts). */
  readonly hasLayerInputs: boolean
  /** A layer's output is multiplied by its `layer_scalar`. */
  readonly hasLayerScale: boolean
  /** There are several residual streams (streams.ts). */
  readonly hasStreams: boolean
  /** What the layers are that have no attention. */
  readonly mixer: 'none' | 'shortConvolution' | 'gatedDelta' | 'mamba2'
}
