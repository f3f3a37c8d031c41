/**
 * Gemma 3n and Gemma 4 in GGUF files, which have per-layer embeddings, residual streams, layers of several shapes, and experts beside a dense MLP: their
 * tensors' names, and their metadata as config.json has it.
 */
import type { GgufMetadata } from './gguf-file.ts'
import type { TensorInfo, WeightSource } from './source.ts'

/** By the full name in the file, or by the name inside `blk.N.`. */
const LAYER_INPUTS = {
  'per_layer_token_embd.weight': 'embed_tokens_per_layer.weight',
  'per_layer_model_proj.weight': 'per_layer_model_projection.weight',
  'per_layer_proj_norm.weight': 'per_layer_projection_norm.weight',
  'inp_gate.weight': 'per_layer_input_gate.weight',
  'proj.weight': 'per_layer_projection.weight',
  'post_norm.weight': 'post_per_layer_input_norm.weight',
}

export const GEMMA3N_TENSORS: Readonly<Record<string, string>> = {
  ...LAYER_INPUTS,
  'altup_proj.weight': 'altup_projections',
  'altup_unembd_proj.weight': 'altup_unembed_projections',
  'altup_correct_coef.weight': 'altup.correction_coefs.weight',
  'altup_correct_scale.weight': 'altup.correct_output_scale',
  'altup_predict_coef.weight': 'altup.prediction_coefs.weight',
  'altup_router.weight': 'altup.modality_router.weight',
  'altup_router_norm.weight': 'altup.router_norm.weight',
  'laurel_l.weight': 'laurel.linear_left.weight',
  'laurel_r.weight': 'laurel.linear_right.weight',
  'laurel_post_norm.weight': 'laurel.post_laurel_norm.weight',
}

export const GEMMA4_TENSORS: Readonly<Record<string, string>> = {
  ...LAYER_INPUTS,
  'layer_output_scale.weight': 'layer_scalar',
  'ffn_gate_inp.weight': 'router.proj.weight',
  'ffn_gate_inp.scale': 'router.scale',
  'ffn_gate_up_exps.weight': 'experts.gate_up_proj',
  'ffn_down_exps.weight': 'experts.down_proj',
  'ffn_down_exps.scale': 'router.per_expert_scale',
  'pre_ffw_norm_2.weight': 'pre_feedforward_layernorm_2.weight',
  'post_ffw_norm_1.weight': 'post_feedforward_layernorm_1.weight',
  'post_ffw_norm_2.weight': 'post_feedforward_layernorm_2.weight',
}

/** Tensors [matrices, rows, cols] that checkpoints store as lists of matrices. */
const LISTS = ['model.altup_projections', 'model.altup_unembed_projections']

/** The source with a name of its own for each matrix of these lists. */
export function withLists(source: WeightSource): WeightSource {
  const tensors = new Map(source.tensors)
  const places = new Map<string, { readonly list: string; readonly index: number }>()
  for (const list of LISTS) {
    const info = tensors.get(list)
    const [numMatrices = 0, ...shape] = info?.shape ?? []
    if (info === undefined || shape.length !== 2) continue
    tensors.delete(list)
    for (let index = 0; index < numMatrices; index++) {
      const name = `${list}.${index}.weight`
      tensors.set(name, { ...info, name, shape, bytes: info.bytes / numMatrices })
      places.set(name, { list, index })
    }
  }
  if (places.size === 0) return source
  return {
    ...source,
    tensors,
    read(name) {
      const place = places.get(name)
      return place === undefined ? source.read(name) : source.slice(place.list, place.index)
    },
    rows: (name) => (places.has(name) ? null : source.rows(name)),
  }
}

/** Gemma 3n's number of layers with K and V of their own, for files that do not contain it. */
const GEMMA3N_OWN_LAYERS = 20

/** The fields of config.json that only these families have. @param layerTypes the layers' types as in config.json; undefined: not known */
export function gemmaConfig(
  metadata: GgufMetadata,
  tensors: ReadonlyMap<string, TensorInfo>,
  layerTypes: unknown,
): Record<string, unknown> {
  const own = (key: string): unknown => metadata.own(key)
  const { layers } = metadata
  const kvHeads = metadata.perLayer('attention.head_count_kv')
  const [wide, narrow] = [own('attention.key_length'), own('attention.key_length_swa')]
  const isGemma3n = metadata.architecture === 'gemma3n'
  const types: readonly unknown[] = Array.isArray(layerTypes) ? layerTypes : []
  const shapeOf = (layer: number): Record<string, unknown> => ({
    head_dim: types[layer] === 'sliding_attention' ? (narrow ?? wide) : wide,
    num_key_value_heads: Array.isArray(kvHeads) ? (kvHeads as readonly unknown[])[layer] : kvHeads,
  })
  const has = (layer: number, name: string): boolean => tensors.has(`model.layers.${layer}.self_attn.${name}.weight`)
  return {
    head_dim: narrow ?? wide,
    num_key_value_heads: Array.isArray(kvHeads) ? (kvHeads as readonly unknown[])[0] : kvHeads,
    ...(isGemma3n ? {} : { per_layer_config: Object.fromEntries(layers.map((layer) => [layer, shapeOf(layer)])) }),
    attention_k_eq_v: layers.some((layer) => has(layer, 'k_proj') && !has(layer, 'v_proj')),
    num_kv_shared_layers:
      own('attention.shared_kv_layers') ?? (isGemma3n ? Math.max(0, layers.length - GEMMA3N_OWN_LAYERS) : 0),
    hidden_size_per_layer_input: own('embedding_length_per_layer_input'),
    vocab_size_per_layer_input: tensors.get('model.embed_tokens_per_layer.weight')?.shape[0],
    altup_num_inputs: own('altup.num_inputs'),
    altup_active_idx: own('altup.active_idx'),
    laurel_rank: tensors.get('model.layers.0.laurel.linear_left.weight')?.shape[0],
    activation_sparsity_scale: metadata.perLayer('activation_sparsity_scale'),
    enable_moe_block: tensors.has('model.layers.0.experts.gate_up_proj'),
    num_experts: own('expert_count'),
    top_k_experts: own('expert_used_count'),
    moe_intermediate_size: own('expert_feed_forward_length'),
  }
}
