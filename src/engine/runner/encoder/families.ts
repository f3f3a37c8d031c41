/** The encoder families as data: everything that their config.json leaves out. Sources: each family's configuration_*.py in transformers. */

export interface EncoderFamily {
  /**
   * How positions are encoded. learned: by rows of a table. afterPadding: the same, from the row after the padding token's id on. rotary: by rotations
   * of q and k. relative: only by what attention adds by distance.
   */
  readonly positions: 'learned' | 'afterPadding' | 'rotary' | 'relative'
  /** What attention adds by distance, if anything: T5's buckets, or DeBERTa's disentangled scores. */
  readonly relative: 'none' | 'buckets' | 'disentangled'
  readonly maxPositions: number
  readonly theta: number
  /** rope_theta of layers with a window (local_attention); null: no layer has a window. */
  readonly localTheta: number | null
  /** position_embedding_type may be alibi (Jina's variants of BERT). */
  readonly allowsAlibi: boolean
  /** embedding_size may differ from hidden_size: a projection follows the embeddings. */
  readonly projectsEmbeddings: boolean
  /** post: x = norm(x + f(x)). pre: x += f(norm(x)). */
  readonly normPlacement: 'pre' | 'post'
  readonly normEps: number
  readonly activation: string
  readonly isGated: boolean
  /** Rows of the table of segments where the config does not give them; 0: the family has no such table. */
  readonly numSegments: number
  readonly headActivation: 'tanh' | 'gelu' | 'relu'
  /** The family's names of config fields, by BERT's names. */
  readonly fields: Readonly<Record<string, string>>
}

const BERT: EncoderFamily = {
  positions: 'learned',
  relative: 'none',
  maxPositions: 512,
  theta: 10_000,
  localTheta: null,
  allowsAlibi: false,
  projectsEmbeddings: false,
  normPlacement: 'post',
  normEps: 1e-12,
  activation: 'gelu',
  isGated: false,
  numSegments: 2,
  headActivation: 'tanh',
  fields: {},
}

const ROBERTA: EncoderFamily = { ...BERT, positions: 'afterPadding' }

/** Under two names: `new` in the code published with the models, `gte` in transformers. */
const GTE: EncoderFamily = {
  ...BERT,
  positions: 'rotary',
  maxPositions: 8192,
  theta: 160_000,
  isGated: true,
  numSegments: 1,
}

/** By the `model_type` of config.json. */
export const ENCODER_FAMILIES: Readonly<Record<string, EncoderFamily>> = {
  bert: { ...BERT, allowsAlibi: true },
  roberta: ROBERTA,
  'xlm-roberta': ROBERTA,
  camembert: ROBERTA,
  electra: { ...BERT, projectsEmbeddings: true, headActivation: 'gelu' },
  distilbert: {
    ...BERT,
    numSegments: 0,
    headActivation: 'relu',
    fields: {
      hidden_size: 'dim',
      num_attention_heads: 'n_heads',
      num_hidden_layers: 'n_layers',
      intermediate_size: 'hidden_dim',
      hidden_act: 'activation',
    },
  },
  mpnet: { ...ROBERTA, relative: 'buckets', numSegments: 0 },
  'deberta-v2': {
    ...BERT,
    positions: 'relative',
    relative: 'disentangled',
    projectsEmbeddings: true,
    numSegments: 0,
    normEps: 1e-7,
  },
  nomic_bert: {
    ...BERT,
    positions: 'rotary',
    maxPositions: 2048,
    theta: 1000,
    activation: 'silu',
    isGated: true,
    fields: {
      hidden_size: 'n_embd',
      num_attention_heads: 'n_head',
      num_hidden_layers: 'n_layer',
      intermediate_size: 'n_inner',
      max_position_embeddings: 'n_positions',
      layer_norm_eps: 'layer_norm_epsilon',
      hidden_act: 'activation_function',
      rope_theta: 'rotary_emb_base',
    },
  },
  gte: GTE,
  new: GTE,
  jina_embeddings_v3: {
    ...BERT,
    positions: 'rotary',
    maxPositions: 8194,
    theta: 20_000,
    normEps: 1e-5,
    numSegments: 1,
  },
  modernbert: {
    ...BERT,
    positions: 'rotary',
    maxPositions: 8192,
    theta: 160_000,
    localTheta: 10_000,
    normPlacement: 'pre',
    normEps: 1e-5,
    isGated: true,
    numSegments: 0,
    headActivation: 'gelu',
    fields: { hidden_act: 'hidden_activation', layer_norm_eps: 'norm_eps', rope_theta: 'global_rope_theta' },
  },
}
