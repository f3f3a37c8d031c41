/** What a model family is, as data: everything that its config.json leaves out. */

import type { QkNormKind } from '../../kernels/attention-options.ts'
import type { ExpertsFamily } from './expert-families.ts'

/** Whether there are biases: always, never, or when the named config field is true. */
type Presence = boolean | 'attention_bias' | 'attention_out_bias' | 'mlp_bias' | 'use_bias'

/** Names of a layer's tensors inside `layers.N.`. Where a matrix has several names, its rows are spread over as many tensors. */
export interface LayerNames {
  /** The norm before the mixer. */
  readonly inputNorm: string
  readonly qkv: readonly [string] | readonly [string, string, string]
  readonly output: string
  readonly gateUp: readonly [string] | readonly [string, string]
  readonly down: string
  readonly qNorm: string
  readonly kNorm: string
  /** The norm of the mixer's output, where there is one. */
  readonly attentionNorm: string
  /** The norm before the MLP. */
  readonly mlpNorm: string
  /** The norm of the MLP's output, where there is one. */
  readonly feedForwardNorm: string
  /** The norm of the last layer's output. Its tensor is not inside a layer. */
  readonly finalNorm: string
}

/** Which layers have a sliding window, where the config has no `layer_types`. */
type WindowRule =
  | { readonly kind: 'never' }
  /** Every layer, if sliding_window is set. */
  | { readonly kind: 'always' }
  /** As layer_types says; without it, every layer. */
  | { readonly kind: 'listed' }
  /** Layers from max_window_layers on, if use_sliding_window is true. */
  | { readonly kind: 'upper' }
  /** All but every n-th layer, where n is sliding_window_pattern, by default `period`. */
  | { readonly kind: 'pattern'; readonly period: number }

export interface Family {
  /** pre: x += f(norm(x)). post: x += norm(f(x)). sandwich: x += norm(f(norm(x))). */
  readonly normPlacement: 'pre' | 'post' | 'sandwich'
  /** RMSNorm multiplies by 1 + weight instead of by weight. */
  readonly normAddsOne: boolean
  /** How queries and keys are normalised: over each head, over all heads, or over each head if the named config field is true. */
  readonly qkNorm: 'none' | QkNormKind | { readonly field: 'use_qk_norm' }
  readonly qkvBias: Presence
  readonly outputBias: Presence
  readonly mlpBias: Presence
  readonly names: LayerNames
  /** Config field with the MLP's width. */
  readonly intermediateField: string
  /** The MLP's width is two thirds of that field, rounded up, unless block_auto_adjust_ff_dim is false. */
  readonly roundsMlpWidth: boolean
  /** Rotary embedding pairs neighbouring dims; otherwise it pairs dim i with dim i + rotaryDim / 2. */
  readonly rotatesNeighbours: boolean
  /** Embeddings are multiplied by sqrt(hidden_size). */
  readonly scalesEmbeddings: boolean
  /** The config has multipliers for embeddings, blocks' outputs, attention and logits (Granite). */
  readonly hasMultipliers: boolean
  readonly tiesEmbeddings: boolean
  readonly windows: WindowRule
  /**
   * Which layers have no rotary embedding. listed: layer i where no_rope_layers[i] is 0; without that list, every n-th with n = no_rope_layer_interval
   * (default 4). global: layers without a window, in a model where other layers have one. named: all, unless position_embedding_type is rope.
   */
  readonly nope: 'none' | 'listed' | 'global' | 'named'
  /** rope_theta of layers with a window, where it differs; unscaled: the same theta without rope scaling; null: all layers use one table. */
  readonly localTheta: number | 'unscaled' | null
  readonly theta: number
  readonly normEps: number
  /** Config field with the norms' epsilon. */
  readonly normEpsField: string
  readonly activation: string
  /** The output of attention is multiplied by the sigmoid of a gate (mixers/attention.ts). */
  readonly gatesAttention: boolean
  /** Each head has a learned logit that takes part in its softmax beside the tokens (attention sinks). */
  readonly hasSinks: boolean
  /** The MLP has no gate: W_down act(W_up x). */
  readonly hasPlainMlp: boolean
  readonly experts: ExpertsFamily | null
  /** If enable_moe_block is true, each layer has experts beside its dense MLP (mlps/parallel.ts). */
  readonly hasParallelExperts: boolean
  /** Layers without a window have their own head sizes: global_head_dim, num_global_key_value_heads, attention_k_eq_v. */
  readonly hasGlobalHeads: boolean
  /** The last num_kv_shared_layers layers read K and V of earlier layers. */
  readonly sharesKv: boolean
  /** Each head of v is divided by its root mean square. */
  readonly hasVNorm: boolean
  /** Multiplies attention scores; null: 1 / sqrt(query_pre_attn_scalar), by default 1 / sqrt(head_dim). */
  readonly attentionScale: number | null
  /** Each layer has its own small embedding (layer-inputs.ts). */
  readonly hasLayerInputs: boolean
  /** A layer's output is multiplied by its `layer_scalar`. */
  readonly hasLayerScale: boolean
  /** There are several residual streams (streams.ts). */
  readonly hasStreams: boolean
  /** The kind of layers that have no attention. */
  readonly mixer: 'none' | 'shortConvolution' | 'gatedDelta' | 'mamba2'
}
