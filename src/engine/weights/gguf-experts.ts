/** Mixtures of experts in GGUF files: their tensors' names, and their metadata as config.json has it. */
import type { ExpertsFamily } from '../runner/expert-families.ts'
import type { GgufMetadata } from './gguf-file.ts'

const stacked = (name: string): string => name.replace('.*', '')

/** Names inside `blk.N.`, and their names in Hugging Face checkpoints. In GGUF files one tensor holds all experts' matrices. */
export function expertNames({ names }: ExpertsFamily): Readonly<Record<string, string>> {
  const [gate, up = gate] = names.gateUp
  const [sharedGate, sharedUp = sharedGate] = names.sharedGateUp
  return {
    ffn_gate_inp: names.router,
    ffn_gate_exps: stacked(gate),
    ffn_up_exps: stacked(up),
    ffn_down_exps: stacked(names.down),
    ffn_gate_shexp: sharedGate,
    ffn_up_shexp: sharedUp,
    ffn_down_shexp: names.sharedDown,
    ffn_gate_inp_shexp: names.sharedGate,
  }
}

/** The fields of config.json about experts. @param names the file's tensors by their names in checkpoints */
export function expertConfig(
  metadata: GgufMetadata,
  family: ExpertsFamily,
  names: ReadonlySet<string>,
): Record<string, unknown> {
  const own = (key: string): unknown => metadata.own(key)
  const scale = own('expert_weights_scale')
  return {
    [family.countField]: own('expert_count'),
    [family.topKField]: own('expert_used_count'),
    [family.widthField]: own('expert_feed_forward_length') ?? own('feed_forward_length'),
    ...(family.sharedCountField === null ? {} : { [family.sharedCountField]: own('expert_shared_count') }),
    ...(family.sharedWidthField === null
      ? {}
      : { [family.sharedWidthField]: own('expert_shared_feed_forward_length') }),
    norm_topk_prob: own('expert_weights_norm'),
    routed_scaling_factor: scale === 0 ? undefined : scale,
    n_group: own('expert_group_count'),
    topk_group: own('expert_group_used_count'),
    first_k_dense_replace: own('leading_dense_block_count'),
    moe_layer_start_index: own('leading_dense_block_count'),
    moe_layer_interval: own('interleave_moe_layer_step'),
    mlp_only_layers: metadata.layers.filter(
      (layer) => !names.has(`model.layers.${layer}.${family.names.router}.weight`),
    ),
  }
}
