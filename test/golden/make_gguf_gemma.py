"""Makes the GGUF fixtures of Gemma 3n and Gemma 4 from the tiny checkpoints of make_golden.py, in the way llama.cpp's converter writes them.

    pip install gguf==0.19.0 safetensors torch
    python test/golden/make_gguf_gemma.py
"""

import json
import statistics

import gguf
import numpy as np
import torch
from make_gguf import HERE, OUT
from safetensors.torch import load_file

TOP = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "embed_tokens_per_layer": "per_layer_token_embd",
    "per_layer_model_projection": "per_layer_model_proj",
    "per_layer_projection_norm": "per_layer_proj_norm",
}
LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "per_layer_input_gate.weight": "inp_gate.weight",
    "per_layer_projection.weight": "proj.weight",
    "post_per_layer_input_norm.weight": "post_norm.weight",
    "layer_scalar": "layer_output_scale.weight",
    "altup.correction_coefs.weight": "altup_correct_coef.weight",
    "altup.correct_output_scale": "altup_correct_scale.weight",
    "altup.prediction_coefs.weight": "altup_predict_coef.weight",
    "altup.modality_router.weight": "altup_router.weight",
    "altup.router_norm.weight": "altup_router_norm.weight",
    "laurel.linear_left.weight": "laurel_l.weight",
    "laurel.linear_right.weight": "laurel_r.weight",
    "laurel.post_laurel_norm.weight": "laurel_post_norm.weight",
    "router.proj.weight": "ffn_gate_inp.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
    "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
    "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
    "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
}
SMALL = ("norm", "altup_correct_scale", "altup_predict_coef", "altup_correct_coef", "output_scale", ".scale", "altup_router")


def stack_projections(tensors):
    """The converter writes each of these lists as one tensor."""
    for name, stored in (("altup_projections", "altup_proj"), ("altup_unembed_projections", "altup_unembd_proj")):
        parts = [tensors.pop(f"model.{name}.{i}.weight") for i in range(3) if f"model.{name}.{i}.weight" in tensors]
        if parts:
            yield f"{stored}.weight", torch.stack(parts)


def tensor_name(name):
    if name.startswith("model.layers."):
        _, _, layer, part = name.split(".", 3)
        return f"blk.{layer}.{LAYER[part]}"
    stem, kind = name.removeprefix("model.").rsplit(".", 1)
    return f"{TOP[stem]}.{kind}"


def add_shapes(writer, arch, config):
    """Sizes that differ between layers: those of the sliding ones have names of their own."""
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern(sliding)
    writer.add_shared_kv_layers(config["num_kv_shared_layers"])
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    head_dim = config["head_dim"]
    if arch == "gemma3n":
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_feed_forward_length(config["intermediate_size"])
        return
    overrides = config.get("per_layer_config", {}).values()
    wide = config.get("global_head_dim") or next(own["head_dim"] for own in overrides)
    global_heads = config.get("num_global_key_value_heads") or config["num_key_value_heads"]
    writer.add_head_count_kv([config["num_key_value_heads"] if slides else global_heads for slides in sliding])
    writer.add_key_length(wide)
    writer.add_value_length(wide)
    writer.add_key_length_swa(head_dim)
    writer.add_value_length_swa(head_dim)
    writer.add_rope_dimension_count(wide)
    writer.add_rope_dimension_count_swa(head_dim)
    own = len(sliding) - config["num_kv_shared_layers"]
    factor = 2 if config["use_double_wide_mlp"] else 1
    width = config["intermediate_size"]
    writer.add_feed_forward_length([width if layer < own else factor * width for layer in range(len(sliding))])
    # One divisor per frequency: those of dims that do not turn are as good as infinite.
    turned = int(wide * rope["full_attention"]["partial_rotary_factor"] / 2)
    writer.add_tensor("rope_freqs.weight", np.array([1.0] * turned + [1e30] * (wide // 2 - turned), dtype=np.float32))


def write_model(name, arch):
    folder = HERE / "models" / name
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", arch)
    writer.add_name(name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_embedding_length_per_layer_input(config["hidden_size_per_layer_input"])
    add_shapes(writer, arch, config)
    if arch == "gemma3n":
        writer.add_altup_num_inputs(config["altup_num_inputs"])
        writer.add_altup_active_idx(config["altup_active_idx"])
        normal = statistics.NormalDist()
        writer.add_activation_sparsity_scale([normal.inv_cdf(share) if share > 0 else float("-inf") for share in config["activation_sparsity_pattern"]])
    else:
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config.get("num_experts"):
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["top_k_experts"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    tensors = load_file(folder / "model.safetensors")
    stacked = dict(stack_projections(tensors))
    for stored, value in [*stacked.items(), *((tensor_name(key), value) for key, value in tensors.items())]:
        data = value.float().numpy()
        is_small = value.ndim == 1 or any(part in stored for part in SMALL)
        if not is_small and value.dtype == torch.bfloat16:
            writer.add_tensor(stored, gguf.quants.quantize(data, gguf.GGMLQuantizationType.BF16), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(stored, data if is_small else data.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write_model("gemma3n", "gemma3n")
    for name in ("gemma4", "gemma4-dense", "gemma4-moe"):
        write_model(name, "gemma4")
