/** What a decoder-only model is, as plain data: everything that its forward pass depends on. `spec.ts` makes it from a config.json. */
import type { QkNormKind } from '../../kernels/attention-options.ts'
import type { Activated, Glu, KvShape, RouteOptions } from '../../kernels/ops.ts'
import type { ExpertNames } from './expert-families.ts'
import type { Family, LayerNames } from './family.ts'
import type { RopeSpec } from './rope.ts'

/** Attention over the paged K and V of a sequence (mixers/attention.ts). */
export interface AttentionSpec extends KvShape {
  readonly kind: 'attention'
  /** Index into DecoderSpec.ropes; null: this layer has no rotary embedding. */
  readonly rope: number | null
  /** Sliding window in tokens; null: the whole context. */
  readonly window: number | null
  /** The output is multiplied by the sigmoid of a gate. In q_proj, each head's gate rows follow its query rows. */
  readonly isGated: boolean
  /** Each head has a learned logit that takes part in its softmax beside the tokens (attention sinks). */
  readonly hasSinks: boolean
  /** Index of the layer whose K and V this layer reads; null: it has its own. */
  readonly sharesWith: number | null
  /** Each head of v is divided by its root mean square. */
  readonly hasVNorm: boolean
  /** There is no v_proj: the output of k_proj is used as v too. */
  readonly isValueKey: boolean
}

/** B, C, x = W_in h; y = W_out (C * conv(B * x)). LFM2 (mixers/short-convolution.ts). */
export interface ShortConvolutionSpec {
  readonly kind: 'shortConvolution'
  /** Tokens that an output depends on. */
  readonly kernel: number
  readonly hasBias: boolean
}

/** q, k, v = silu(conv(W_qkv h)); y = W_out (norm(delta rule(q, k, v)) silu(W_z h)). Qwen3.5 and Qwen3-Next (mixers/gated-delta.ts). */
export interface GatedDeltaSpec {
  readonly kind: 'gatedDelta'
  /** Tokens that an output of the convolution depends on. */
  readonly kernel: number
  readonly numKeyHeads: number
  readonly numValueHeads: number
  readonly keyDim: number
  readonly valueDim: number
  readonly normEps: number
  /** Value head h uses key head h % numKeyHeads, as in GGUF files; otherwise neighbouring value heads share a key head. */
  readonly tilesKeyHeads: boolean
}

/** z, xBC, dt = W_in h; x, B, C = silu(conv(xBC)); y = W_out norm(scan(x, B, C, dt) silu(z)). Granite 4 (mixers/mamba2.ts). */
export interface Mamba2Spec {
  readonly kind: 'mamba2'
  /** Tokens that an output of the convolution depends on. */
  readonly kernel: number
  readonly hasConvBias: boolean
  /** W_in and W_out have biases. */
  readonly hasBias: boolean
  readonly numHeads: number
  readonly headDim: number
  /** Heads of one group share B and C. */
  readonly numGroups: number
  readonly stateDim: number
  readonly normEps: number
}

/** What mixes the tokens of a sequence in a layer. */
export type MixerSpec = AttentionSpec | ShortConvolutionSpec | GatedDeltaSpec | Mamba2Spec

/** x += W_down (act(W_gate x) * W_up x); without a gate, x += W_down act(W_up x). */
export interface DenseMlpSpec {
  readonly kind: 'dense'
  readonly width: number
  readonly isGated: boolean
  /** xIELU occurs only without a gate. */
  readonly activation: Activated | XieluSpec
  readonly hasBias: boolean
}

/** xIELU (arXiv 2411.13010) with its trained parameters; null: they are tensors, under the layer's `mlp.act_fn`. */
export interface XieluSpec {
  readonly kind: 'xielu'
  readonly stored: { readonly alphaP: number; readonly alphaN: number; readonly beta: number } | null
}

/** A mixture of experts, with or without a shared expert (mlps/experts.ts). */
export interface ExpertsSpec {
  readonly kind: 'experts'
  readonly numExperts: number
  /** Experts per row. */
  readonly topK: number
  /** Width of an expert's inner activations. */
  readonly width: number
  readonly glu: Glu
  /** Router and experts have biases. */
  readonly hasBias: boolean
  readonly route: Omit<RouteOptions, 'bias'>
  /** A bias is added to the scores while experts are chosen, and only then. */
  readonly hasChoiceBias: boolean
  /** Width of the shared expert, which every row goes through; null: there is none. */
  readonly sharedWidth: number | null
  /** The shared expert is multiplied by the sigmoid of a gate. */
  readonly gatesShared: boolean
  readonly names: ExpertNames
}

/**
 * x += norm(W_down (gelu(max(0, g - cutoff)) * W_up x)) with g = W_gate x. The cutoff is the mean of g plus `deviations` standard deviations
 * (Gemma 3n's activation sparsity).
 */
export interface SparseMlpSpec {
  readonly kind: 'sparse'
  readonly width: number
  readonly deviations: number
}

/** x += norm(norm_1(mlp(x)) + norm_2(experts(x))). Gemma 4's 26B (mlps/parallel.ts). */
export interface ParallelMlpSpec {
  readonly kind: 'parallel'
  /** Width of the dense MLP's inner activations. */
  readonly width: number
  readonly numExperts: number
  readonly topK: number
  readonly expertWidth: number
}

/** What follows the mixer in a layer. */
export type MlpSpec = DenseMlpSpec | ExpertsSpec | SparseMlpSpec | ParallelMlpSpec

export interface LayerSpec {
  readonly mixer: MixerSpec
  readonly mlp: MlpSpec
}

/** Per-layer embeddings (layer-inputs.ts). */
export interface LayerInputsSpec {
  /** Width of one layer's input. */
  readonly width: number
  /** Rows of the second embedding table. Larger token ids use its first row. */
  readonly vocabSize: number
}

/** Several residual streams (streams.ts). */
export interface StreamsSpec {
  readonly numStreams: number
  /** Index of the stream that layers compute. */
  readonly active: number
  readonly laurelRank: number
}

export interface DecoderSpec {
  readonly architecture: string
  /** Rows see later rows too. Such a model embeds texts and generates none. */
  readonly isBidirectional: boolean
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly numHeads: number
  readonly layers: readonly LayerSpec[]
  readonly ropes: readonly RopeSpec[]
  readonly normEps: number
  readonly normPlacement: Family['normPlacement']
  readonly normAddsOne: boolean
  readonly qkNorm: 'none' | QkNormKind
  readonly hasQkvBias: boolean
  readonly hasOutputBias: boolean
  readonly names: LayerNames
  /** The checkpoint's rows of q and k are in the order of rotations that pair neighbouring dims. */
  readonly rotatesNeighbours: boolean
  readonly tiesEmbeddings: boolean
  readonly embeddingScale: number
  readonly layerInputs: LayerInputsSpec | null
  /** Each layer's output is multiplied by its `layer_scalar`. */
  readonly hasLayerScale: boolean
  readonly streams: StreamsSpec | null
  /** Multiplies the logits. */
  readonly logitScale: number
  /** Multiplies attention scores. */
  readonly attentionScale: number
  readonly attentionSoftcap: number | null
  readonly logitSoftcap: number | null
  /** Positions that the model was made for. */
  readonly maxPositions: number
  readonly bosTokenId: number | null
  readonly eosTokenIds: readonly number[]
}
