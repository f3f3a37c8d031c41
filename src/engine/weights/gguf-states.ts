/** Layers without attention in GGUF files: their tensors' names, and their metadata as config.json has it. */
import type { LayerSpec } from '../runner/decoder-spec.ts'
import type { GgufMetadata } from './gguf-file.ts'

export const SHORT_CONVOLUTION = {
  'shortconv.in_proj.weight': 'conv.in_proj.weight',
  'shortconv.in_proj.bias': 'conv.in_proj.bias',
  'shortconv.out_proj.weight': 'conv.out_proj.weight',
  'shortconv.out_proj.bias': 'conv.out_proj.bias',
  'shortconv.conv.weight': 'conv.conv.weight',
  'shortconv.conv.bias': 'conv.conv.bias',
}

export const GATED_DELTA = {
  'attn_qkv.weight': 'linear_attn.in_proj_qkv.weight',
  'attn_gate.weight': 'linear_attn.in_proj_z.weight',
  'ssm_beta.weight': 'linear_attn.in_proj_b.weight',
  'ssm_alpha.weight': 'linear_attn.in_proj_a.weight',
  // Qwen3-Next's.
  'ssm_ba.weight': 'linear_attn.in_proj_ba.weight',
  'ssm_in.weight': 'linear_attn.in_proj_qkvz.weight',
  'ssm_out.weight': 'linear_attn.out_proj.weight',
  'ssm_conv1d.weight': 'linear_attn.conv1d.weight',
  'ssm_dt.bias': 'linear_attn.dt_bias',
  'ssm_norm.weight': 'linear_attn.norm.weight',
  ssm_a: 'linear_attn.A',
}

export const MAMBA2 = {
  'ssm_in.weight': 'mamba.in_proj.weight',
  'ssm_out.weight': 'mamba.out_proj.weight',
  'ssm_conv1d.weight': 'mamba.conv1d.weight',
  'ssm_conv1d.bias': 'mamba.conv1d.bias',
  'ssm_dt.bias': 'mamba.dt_bias',
  'ssm_norm.weight': 'mamba.norm.weight',
  ssm_a: 'mamba.A',
  ssm_d: 'mamba.D',
}

/** Whether a tensor is a vector that GGUF files store by groups of channels. */
export const isStateVector = (name: string): boolean => name.endsWith('norm.weight')

/** The fields of config.json that only models with such layers have. A layer has no attention if the file has state tensors for it. */
export function stateConfig(
  metadata: GgufMetadata,
  stateNames: Readonly<Record<string, string>>,
  names: ReadonlySet<string>,
): Record<string, unknown> {
  const own = (key: string): unknown => metadata.own(key)
  const stateful = new Set<string>()
  const state = Object.values(stateNames)
  for (const name of names) {
    const [, layer = '', part = ''] = /^model\.layers\.(\d+)\.(.+)$/.exec(name) ?? []
    if (state.includes(part)) stateful.add(layer)
  }
  const hasAny = (part: string): boolean => [...stateful].some((layer) => names.has(`model.layers.${layer}.${part}`))
  const [inner, heads, hidden] = [own('ssm.inner_size'), own('ssm.time_step_rank'), own('embedding_length')]
  const valueDim = typeof inner === 'number' && typeof heads === 'number' ? inner / heads : undefined
  return {
    layer_types: metadata.layers.map((layer) => (stateful.has(String(layer)) ? 'linear_attention' : 'full_attention')),
    norm_eps: own('attention.layer_norm_rms_epsilon'),
    conv_L_cache: own('shortconv.l_cache'),
    conv_bias: hasAny('conv.in_proj.bias'),
    // The file's width is the real one.
    block_auto_adjust_ff_dim: false,
    linear_conv_kernel_dim: own('ssm.conv_kernel'),
    linear_num_key_heads: own('ssm.group_count'),
    linear_num_value_heads: heads,
    linear_key_head_dim: own('ssm.state_size'),
    linear_value_head_dim: valueDim,
    mamba_d_conv: own('ssm.conv_kernel'),
    mamba_n_groups: own('ssm.group_count'),
    mamba_n_heads: heads,
    mamba_d_head: valueDim,
    mamba_d_state: own('ssm.state_size'),
    mamba_expand: typeof inner === 'number' && typeof hidden === 'number' ? inner / hidden : undefined,
    mamba_conv_bias: hasAny('mamba.conv1d.bias'),
    mamba_proj_bias: hasAny('mamba.in_proj.bias'),
    shared_intermediate_size: own('expert_shared_feed_forward_length') ?? own('feed_forward_length'),
    position_embedding_type: own('rope.scaling.finetuned') === true ? 'rope' : 'nope',
  }
}

/** The layer with value heads in the order of Qwen3.5's converter: heads that share a key head are numKeyHeads apart. */
export function tiling(layer: LayerSpec): LayerSpec {
  const { mixer } = layer
  return mixer.kind === 'gatedDelta' ? { ...layer, mixer: { ...mixer, tilesKeyHeads: true } } : layer
}
