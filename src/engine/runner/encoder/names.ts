/**
 * One naming for the tensors of all encoder families: `tokens`, `positions`, `segments`, `embedding_norm`, `layers.N.{q, k, v | qkv,
 * output, attention_norm, gate, up | gate_up | up_gate, down, mlp_norm, router, experts.up, experts.down, relative_k, relative_q}`, `final_norm`,
 * `embedding_projection`, `relative_bias`, `relative`, `relative_norm`, and of classifiers `pooler`, `dense`, `dense_norm`, `classifier`.
 * Sources: each family's modeling_*.py in Hugging Face transformers, the published checkpoints, and gguf-py's tensor names.
 */
import type { TensorInfo, WeightSource } from '../../weights/source.ts'

interface FamilyNames {
  /** Prefixes of all names in models with a head. */
  readonly prefixes: readonly string[]
  readonly top: Readonly<Record<string, string>>
  /** The text before a layer's number. */
  readonly layers: string
  readonly layer: Readonly<Record<string, string>>
}

const BERT: FamilyNames = {
  prefixes: ['bert.', 'roberta.', 'electra.'],
  top: {
    'embeddings.word_embeddings': 'tokens',
    'embeddings.position_embeddings': 'positions',
    'embeddings.token_type_embeddings': 'segments',
    'embeddings.LayerNorm': 'embedding_norm',
    'pooler.dense': 'pooler',
    'classifier.dense': 'dense',
    'classifier.out_proj': 'classifier',
    classifier: 'classifier',
  },
  layers: 'encoder.layer.',
  layer: {
    'attention.self.query': 'q',
    'attention.self.key': 'k',
    'attention.self.value': 'v',
    'attention.output.dense': 'output',
    'attention.output.LayerNorm': 'attention_norm',
    'intermediate.dense': 'up',
    'output.dense': 'down',
    'output.LayerNorm': 'mlp_norm',
  },
}

/** Jina's variants of BERT, whose MLPs have a gate. */
const JINA_BERT: FamilyNames = {
  ...BERT,
  layer: {
    ...BERT.layer,
    'mlp.gated_layers': 'gate_up',
    'mlp.wo': 'down',
    'mlp.layernorm': 'mlp_norm',
    'attention.self.layer_norm_q': 'q_norm',
  },
}

const ELECTRA: FamilyNames = { ...BERT, top: { ...BERT.top, embeddings_project: 'embedding_projection' } }

const MPNET: FamilyNames = {
  prefixes: ['mpnet.'],
  top: { ...BERT.top, 'encoder.relative_attention_bias': 'relative_bias' },
  layers: BERT.layers,
  layer: {
    'attention.attn.q': 'q',
    'attention.attn.k': 'k',
    'attention.attn.v': 'v',
    'attention.attn.o': 'output',
    'attention.LayerNorm': 'attention_norm',
    'intermediate.dense': 'up',
    'output.dense': 'down',
    'output.LayerNorm': 'mlp_norm',
  },
}

const DEBERTA: FamilyNames = {
  prefixes: ['deberta.'],
  top: {
    ...BERT.top,
    'embeddings.embed_proj': 'embedding_projection',
    'encoder.rel_embeddings': 'relative',
    'encoder.LayerNorm': 'relative_norm',
  },
  layers: BERT.layers,
  layer: {
    ...BERT.layer,
    'attention.self.query_proj': 'q',
    'attention.self.key_proj': 'k',
    'attention.self.value_proj': 'v',
    'attention.self.pos_key_proj': 'relative_k',
    'attention.self.pos_query_proj': 'relative_q',
  },
}

const DISTILBERT: FamilyNames = {
  prefixes: ['distilbert.'],
  top: { ...BERT.top, pre_classifier: 'dense' },
  layers: 'transformer.layer.',
  layer: {
    'attention.q_lin': 'q',
    'attention.k_lin': 'k',
    'attention.v_lin': 'v',
    'attention.out_lin': 'output',
    sa_layer_norm: 'attention_norm',
    'ffn.lin1': 'up',
    'ffn.lin2': 'down',
    output_layer_norm: 'mlp_norm',
  },
}

/** The names in published checkpoints, which bring their own code. */
const NOMIC: FamilyNames = {
  prefixes: ['bert.', 'model.'],
  top: { ...BERT.top, emb_ln: 'embedding_norm' },
  layers: 'encoder.layers.',
  layer: {
    'attn.Wqkv': 'qkv',
    'attn.out_proj': 'output',
    norm1: 'attention_norm',
    'mlp.fc12': 'gate',
    'mlp.fc11': 'up',
    'mlp.fc2': 'down',
    norm2: 'mlp_norm',
    // The variant without a gate, and its experts.
    'mlp.fc1': 'up',
    'mlp.router.layer': 'router',
    'mlp.experts.mlp.w1': 'experts.up',
    'mlp.experts.mlp.w2': 'experts.down',
    'mlp.experts': 'experts',
  },
}

/** The names in transformers 5. */
const NOMIC_NATIVE: FamilyNames = {
  prefixes: ['nomic_bert.', 'model.'],
  top: BERT.top,
  layers: 'layers.',
  layer: {
    'self_attn.q_proj': 'q',
    'self_attn.k_proj': 'k',
    'self_attn.v_proj': 'v',
    'self_attn.o_proj': 'output',
    post_attention_layernorm: 'attention_norm',
    'mlp.gate_proj': 'gate',
    'mlp.up_proj': 'up',
    'mlp.down_proj': 'down',
    post_mlp_layernorm: 'mlp_norm',
  },
}

/** The names in published checkpoints of GTE and of models derived from it. */
const GTE: FamilyNames = {
  prefixes: ['new.'],
  top: BERT.top,
  layers: BERT.layers,
  layer: {
    'attention.qkv_proj': 'qkv',
    'attention.o_proj': 'output',
    attn_ln: 'attention_norm',
    'mlp.up_gate_proj': 'up_gate',
    'mlp.down_proj': 'down',
    mlp_ln: 'mlp_norm',
  },
}

const GTE_NATIVE: FamilyNames = { ...NOMIC_NATIVE, prefixes: ['gte.', 'new.'] }

const JINA3: FamilyNames = {
  ...NOMIC_NATIVE,
  prefixes: ['roberta.', 'jina_embeddings_v3.'],
  top: { ...BERT.top, emb_ln: 'embedding_norm' },
  layer: { ...NOMIC_NATIVE.layer, 'mlp.fc1': 'up', 'mlp.fc2': 'down' },
}

/** The names of the published code, which transformers writes too. */
const JINA3_PUBLISHED: FamilyNames = {
  ...JINA3,
  layers: NOMIC.layers,
  layer: { ...NOMIC.layer, 'mixer.Wqkv': 'qkv', 'mixer.out_proj': 'output' },
}

const MODERNBERT: FamilyNames = {
  prefixes: ['model.'],
  top: {
    'embeddings.tok_embeddings': 'tokens',
    'embeddings.norm': 'embedding_norm',
    final_norm: 'final_norm',
    'head.dense': 'dense',
    'head.norm': 'dense_norm',
    classifier: 'classifier',
  },
  layers: 'layers.',
  layer: {
    attn_norm: 'attention_norm',
    'attn.Wqkv': 'qkv',
    'attn.Wo': 'output',
    mlp_norm: 'mlp_norm',
    'mlp.Wi': 'gate_up',
    'mlp.Wo': 'down',
  },
}

/** llama.cpp's names, for all families. */
const GGUF: FamilyNames = {
  prefixes: [],
  top: {
    token_embd: 'tokens',
    position_embd: 'positions',
    token_types: 'segments',
    token_embd_norm: 'embedding_norm',
    output_norm: 'final_norm',
    cls: 'dense',
    'cls.norm': 'dense_norm',
    'cls.output': 'classifier',
  },
  layers: 'blk.',
  layer: {
    attn_q: 'q',
    attn_k: 'k',
    attn_v: 'v',
    attn_qkv: 'qkv',
    attn_output: 'output',
    attn_norm: 'attention_norm',
    attn_q_norm: 'q_norm',
    attn_output_norm: 'attention_norm',
    ffn_gate: 'gate',
    ffn_up: 'up',
    ffn_down: 'down',
    ffn_norm: 'mlp_norm',
    layer_output_norm: 'mlp_norm',
    ffn_gate_inp: 'router',
    ffn_up_exps: 'experts.up',
    ffn_down_exps: 'experts.down',
  },
}

/** By the `model_type` of config.json. Checkpoints of one family may have different names. */
const NAMES: Readonly<Record<string, readonly FamilyNames[]>> = {
  bert: [BERT, JINA_BERT],
  roberta: [BERT],
  'xlm-roberta': [BERT],
  camembert: [BERT],
  electra: [ELECTRA],
  mpnet: [MPNET],
  'deberta-v2': [DEBERTA],
  distilbert: [DISTILBERT],
  nomic_bert: [NOMIC, NOMIC_NATIVE],
  gte: [GTE, GTE_NATIVE],
  new: [GTE, GTE_NATIVE],
  jina_embeddings_v3: [JINA3, JINA3_PUBLISHED],
  modernbert: [MODERNBERT],
}

/** The `model_type` of each GGUF architecture. */
export const GGUF_TYPES: Readonly<Record<string, string>> = {
  bert: 'bert',
  'nomic-bert': 'nomic_bert',
  'nomic-bert-moe': 'nomic_bert',
  'jina-bert-v2': 'bert',
  'jina-bert-v3': 'jina_embeddings_v3',
  'modern-bert': 'modernbert',
}

/** The uniform name of a stored tensor; null: encoders do not use it. */
function canonical(name: string, { prefixes, top, layers, layer }: FamilyNames): string | null {
  // Published names of experts' parameters, which lack the ending .weight.
  if (/\.w[12]$/.test(name)) return canonical(`${name}.weight`, { prefixes, top, layers, layer })
  const dot = name.lastIndexOf('.')
  // Norms in old checkpoints have gamma and beta for weight and bias.
  const kind = { gamma: 'weight', beta: 'bias' }[name.slice(dot + 1)] ?? name.slice(dot + 1)
  if (kind !== 'weight' && kind !== 'bias') return null
  let part = name.slice(0, dot)
  const prefix = prefixes.find((candidate) => part.startsWith(candidate))
  if (prefix !== undefined) part = part.slice(prefix.length)
  if (!part.startsWith(layers)) return Object.hasOwn(top, part) ? `${top[part]}.${kind}` : null
  const [, index = '', rest = ''] = /^(\d+)\.(.+)$/.exec(part.slice(layers.length)) ?? []
  return Object.hasOwn(layer, rest) ? `layers.${index}.${layer[rest]}.${kind}` : null
}

/** The source with uniform tensor names. Tensors that encoders do not use are left out. */
export function renamed(source: WeightSource, modelType: string, isGguf: boolean): WeightSource {
  const tensors = new Map<string, TensorInfo>()
  const stored = new Map<string, string>()
  for (const names of isGguf ? [GGUF] : (NAMES[modelType] ?? [])) {
    for (const info of source.tensors.values()) {
      const name = canonical(info.name, names)
      if (name === null || tensors.has(name)) continue
      tensors.set(name, { ...info, name })
      stored.set(name, info.name)
    }
  }
  const storedAs = (name: string): string => stored.get(name) ?? name
  return {
    ...source,
    tensors,
    read: (name) => source.read(storedAs(name)),
    rows: (name) => source.rows(storedAs(name)),
    slice: (name, index) => source.slice(storedAs(name), index),
  }
}
