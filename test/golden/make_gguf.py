"""Makes the GGUF fixtures from the tiny checkpoints of make_golden.py, with gguf-py, in the way llama.cpp's converter writes them.

    pip install gguf==0.19.0 safetensors sentencepiece torch
    python test/golden/make_gguf.py

gguf/NAME.gguf: a checkpoint with its metadata (and tokenizer). gguf/blocks.json: blocks of every quantised type as base64 with gguf-py's dequantised
values. gguf/sentencepiece.json: a SentencePiece vocabulary as GGUF metadata has it, with the ids SentencePiece gives to some texts.
"""

import base64
import io
import json
import pathlib

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).parent
OUT = HERE / "gguf"

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    # LFM2
    "model.embedding_norm": "token_embd_norm",
    "operator_norm": "attn_norm",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
    "conv.conv": "shortconv.conv",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "ffn_norm": "ffn_norm",
    # Qwen3.5
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    # Granite 4
    "mamba.in_proj": "ssm_in",
    "mamba.conv1d": "ssm_conv1d",
    "mamba.norm": "ssm_norm",
    "mamba.out_proj": "ssm_out",
    "shared_mlp.output_linear": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.router.layer": "ffn_gate_inp",
    "feed_forward.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "linear_attn.in_proj_ba": "ssm_ba",
    "shared_mlp.gate_proj": "ffn_gate_shexp",
    "shared_mlp.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "attention_layernorm": "attn_norm",
    "feedforward_layernorm": "ffn_norm",
    "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm",
}
# Whole names whose kind is not their last part.
STATE_NAMES = {
    "self_attn.sinks": "attn_sinks.weight", "mlp.gate.e_score_correction_bias": "exp_probs_b.bias", "mlp.moe_statics.e_score_correction_bias": "exp_probs_b.bias",
    "linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias", "mamba.A_log": "ssm_a", "mamba.D": "ssm_d", "mamba.dt_bias": "ssm_dt.bias",
    "feed_forward.expert_bias": "exp_probs_b.bias", "block_sparse_moe.e_score_correction_bias": "exp_probs_b.bias",
}

# Architectures whose q and k the converter reorders.
STATE_ARCHITECTURES = ("lfm2", "lfm2moe", "qwen35", "qwen35moe", "qwen3next", "granitehybrid")
PERMUTED = ("llama", "granite", "mistral3", "granitehybrid", "granitemoe", "arcee")

EXPERT_MODELS = {
    "qwen3moe": "qwen3moe", "olmoe": "olmoe", "granitemoe": "granitemoe", "gpt-oss": "gpt-oss", "mixtral": "llama", "ernie4_5-moe": "ernie4_5-moe",
    "qwen2moe": "qwen2moe", "minimax-m2": "minimax-m2", "glm4moe": "glm4moe", "arcee": "arcee", "apertus": "apertus", "hunyuan": "hunyuan-dense",
}

# Experts' tensors, which the converter stacks, by the part of their names behind the number of the expert.
EXPERT_NAMES = {
    "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps", "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps",
}


def stack_experts(tensors, arch):
    """As llama.cpp's converter: one tensor [experts, out, in] for all experts' gates, up and down projections."""
    stacked, rest = {}, {}
    for key, value in tensors.items():
        parts = key.split(".")
        base = ".".join(parts[:3]) + "."
        if ".experts." in key and parts[-3].isdigit():
            stacked.setdefault(base + EXPERT_NAMES[parts[-2]] + ".weight", {})[int(parts[-3])] = value
        elif "block_sparse_moe.input_linear" in key:
            gate, up = value.chunk(2, dim=1)
            rest |= {base + "ffn_gate_exps.weight": gate, base + "ffn_up_exps.weight": up}
        elif "block_sparse_moe.output_linear" in key:
            rest[base + "ffn_down_exps.weight"] = value
        elif key.endswith("experts.gate_up_proj") and arch == "qwen35moe":
            gate, up = value.chunk(2, dim=1)
            rest |= {base + "ffn_gate_exps.weight": gate, base + "ffn_up_exps.weight": up}
        elif key.endswith("experts.down_proj") and arch == "qwen35moe":
            rest[base + "ffn_down_exps.weight"] = value
        elif key.endswith("experts.gate_up_proj"):
            turned = value.transpose(-1, -2)
            rest |= {base + "ffn_gate_exps.weight": turned[:, ::2], base + "ffn_up_exps.weight": turned[:, 1::2]}
        elif key.endswith("experts.gate_up_proj_bias"):
            rest |= {base + "ffn_gate_exps.bias": value[:, ::2], base + "ffn_up_exps.bias": value[:, 1::2]}
        elif key.endswith("experts.down_proj"):
            rest[base + "ffn_down_exps.weight"] = value.transpose(-1, -2)
        elif key.endswith("experts.down_proj_bias"):
            rest[base + "ffn_down_exps.bias"] = value
        else:
            rest[key] = value
    return rest | {key: torch.stack([own[i] for i in range(len(own))]).contiguous() for key, own in stacked.items()}


def add_expert_parameters(writer, arch, config):
    count = next((config[key] for key in ("num_local_experts", "num_experts", "moe_num_experts", "n_routed_experts") if key in config), None)
    writer.add_expert_count(count)
    if count == 0:
        return
    writer.add_expert_used_count(config.get("moe_k") or config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if arch == "lfm2moe":
        writer.add_leading_dense_block_count(config["num_dense_layers"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch == "minimax-m2":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch == "gpt-oss":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_expert_feed_forward_length(config["intermediate_size"])
    if arch == "ernie4_5-moe":
        writer.add_interleave_moe_layer_step(config["moe_layer_interval"])
        writer.add_leading_dense_block_count(config["moe_layer_start_index"])
        writer.add_expert_shared_count(config["moe_num_shared_experts"])
    if arch == "glm4moe":
        writer.add_leading_dense_block_count(config["first_k_dense_replace"])
        writer.add_expert_shared_count(config["n_shared_experts"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_expert_weights_scale(config["routed_scaling_factor"])
        writer.add_expert_weights_norm(config["norm_topk_prob"])
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])


def tensor_name(name, arch):
    _, _, layer, part = (name.split(".", 3) + [""] * 4)[:4]
    if part in STATE_NAMES:
        return f"blk.{layer}.{STATE_NAMES[part]}"
    stem, kind = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    if part in EXPERT_NAMES.values():
        return name.replace("model.layers", "blk")
    if part == "post_attention_layernorm":
        part = "post_attention_norm" if arch in ("gemma3", "olmo2", "exaone4", "qwen35", "qwen35moe", "qwen3next", "gpt-oss", "glm4moe") else "ffn_norm"
    else:
        part = NAMES[part]
    return f"blk.{layer}.{part}.{kind}"


def permute(weights, heads):
    """As llama.cpp's converter: rotations of neighbouring pairs instead of halves."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def tile_heads(values, dim, config, head_dim):
    """As llama.cpp's converter: value heads that share a key head stand num_key_heads apart instead of side by side."""
    key_heads, value_heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    shape = values.shape
    split = values.reshape(*shape[:dim], key_heads, value_heads // key_heads, head_dim, *shape[dim + 1 :])
    return split.transpose(dim, dim + 1).reshape(shape)


def split_qkvz(value, config):
    """As the converter: key head after key head of q, k, v and z become q, k, v, and z."""
    key_heads, key_dim = config["linear_num_key_heads"], config["linear_key_head_dim"]
    rows = config["linear_num_value_heads"] // key_heads * config["linear_value_head_dim"]
    parts = value.reshape(key_heads, -1, value.shape[1]).split([key_dim, key_dim, rows, rows], dim=1)
    q, k, v, z = (part.reshape(-1, value.shape[1]) for part in parts)
    return torch.cat([q, k, v]), z


def convert_state(key, value, config):
    """What the converter does to the tensors of layers without attention."""
    if key.endswith("A_log"):
        value = -torch.exp(value.float())
    if "conv1d.weight" in key or "conv.conv.weight" in key:
        value = value.squeeze(1)
    if "linear_attn." in key and not config["architectures"][0].startswith("Qwen3Next"):
        key_width = 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"]
        head_dim = config["linear_value_head_dim"]
        if "in_proj_qkv" in key or "conv1d" in key:
            value = torch.cat([value[:key_width], tile_heads(value[key_width:], 0, config, head_dim)])
        elif "in_proj_z" in key:
            value = tile_heads(value, 0, config, head_dim)
        elif "out_proj" in key:
            value = tile_heads(value, 1, config, head_dim)
        elif "in_proj_" in key or "A_log" in key or "dt_bias" in key:
            value = tile_heads(value, 0, config, 1)
    if key.endswith(("mamba.A_log", "mamba.D")):
        value = value.reshape(-1, 1)
    if key.endswith("mamba.norm.weight"):
        value = value.reshape(config["mamba_n_groups"], -1)
    return value


def add_state_parameters(writer, arch, config):
    # 0 where a layer has no attention.
    def kv_heads(kinds):
        return [config["num_key_value_heads"] if kind in kinds else 0 for kind in config["layer_types"]]

    if arch in ("lfm2", "lfm2moe"):
        writer.add_head_count_kv(kv_heads(("full_attention",)))
        writer.add_shortconv_l_cache(config["conv_L_cache"])
    if arch in ("qwen35", "qwen35moe", "qwen3next"):
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        writer.add_ssm_state_size(config["linear_key_head_dim"])
        writer.add_ssm_group_count(config["linear_num_key_heads"])
        writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
        writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
        writer.add_full_attention_interval(1 + config["layer_types"].index("full_attention"))
        writer.add_rope_dimension_sections([1, 1, 0, 0])
    if arch == "granitehybrid":
        writer.add_head_count_kv(kv_heads(("attention",)))
        writer.add_ssm_conv_kernel(config["mamba_d_conv"])
        writer.add_ssm_state_size(config["mamba_d_state"])
        writer.add_ssm_group_count(config["mamba_n_groups"])
        writer.add_ssm_inner_size(config["mamba_expand"] * config["hidden_size"])
        writer.add_ssm_time_step_rank(config["mamba_n_heads"])
        writer.add_rope_scaling_finetuned(False)
        writer.add_expert_shared_feed_forward_length(config["shared_intermediate_size"])


def write_model(name, arch, tokenizer=False):
    folder = HERE / "models" / name
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", arch)
    writer.add_name(name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    # LFM2's is two thirds of what its config says, rounded up.
    width = config.get("intermediate_size") or config["moe_intermediate_size"]
    if config.get("block_auto_adjust_ff_dim"):
        width = -(-int(2 * width / 3) // config["block_multiple_of"]) * config["block_multiple_of"]
    writer.add_feed_forward_length(width)
    writer.add_head_count(config["num_attention_heads"])
    if arch in STATE_ARCHITECTURES:
        add_state_parameters(writer, arch, config)
    else:
        writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["norm_eps"] if arch.startswith("lfm2") else config["rms_norm_eps"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config["vocab_size"])
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"], **(config.get("rope_scaling") or {})}
    if "full_attention" in rope:
        rope = rope["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", config.get("rotary_dim", head_dim) / head_dim)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "dynamic":
        # The converter stretches the base.
        writer.kv_data[-1].pop(f"{arch}.rope.freq_base")
        writer.add_rope_freq_base(rope["rope_theta"] * rope["alpha"] ** (head_dim / (head_dim - 2)))
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "mscale_all_dim" in rope:
            writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
        if "llama_4_scaling_beta" in rope:
            writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    if kind == "longrope":
        original = config["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        factor = config["max_position_embeddings"] / original
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(factor) / np.log(original))))
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], dtype=np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], dtype=np.float32))
    if kind == "llama3":
        # The converter works the scaling out into one divisor a frequency.
        half = head_dim // 2
        wavelengths = 2 * np.pi * rope["rope_theta"] ** (np.arange(half) / half)
        low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
        smooth = (original / wavelengths - low) / (high - low)
        blended = 1 / ((1 - smooth) / rope["factor"] + smooth)
        factors = np.where(wavelengths < original / high, 1, np.where(wavelengths > original / low, rope["factor"], blended))
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    if arch in ("gemma3", "phi3") and config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if arch in ("olmo2", "exaone4") and config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([t == "sliding_attention" for t in config["layer_types"]])
    if config.get("num_experts_per_tok") or config.get("moe_k"):
        add_expert_parameters(writer, arch, config)
    if arch in ("granite", "granitehybrid", "granitemoe"):
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if arch == "gemma3":
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if tokenizer:
        add_tokenizer(writer, folder)
    tensors = stack_experts(load_file(folder / "model.safetensors"), arch)
    if arch == "apertus":
        # One number a layer, as trained; beside the tensors.
        layers = range(config["num_hidden_layers"])
        for field in ("alpha_p", "alpha_n", "beta", "eps"):
            values = [float(tensors.pop(f"model.layers.{i}.mlp.act_fn.{field}").reshape(())) for i in layers]
            getattr(writer, f"add_xielu_{field}")(values)
    for key in [key for key in tensors if "shared_mlp.input_linear" in key]:
        gate, up = tensors.pop(key).chunk(2)
        base = key.removesuffix("shared_mlp.input_linear.weight")
        # Beside experts it is the shared one.
        part = "shared_mlp" if config.get("num_local_experts") else "mlp"
        tensors |= {f"{base}{part}.gate_proj.weight": gate.contiguous(), f"{base}{part}.up_proj.weight": up.contiguous()}
    for key in [key for key in tensors if "in_proj_qkvz" in key]:
        base = key.removesuffix("in_proj_qkvz.weight")
        tensors |= dict(zip((f"{base}in_proj_qkv.weight", f"{base}in_proj_z.weight"), split_qkvz(tensors.pop(key), config)))
    for key, value in tensors.items():
        if "shared_mlp.output_linear" in key and config.get("num_local_experts"):
            key = key.replace("shared_mlp.output_linear", "mlp.shared_expert.down_proj")
        if "shared_expert_gate" in key:
            value = value.squeeze(0)
        if arch in PERMUTED and ("q_proj" in key or "k_proj" in key):
            value = permute(value, config["num_attention_heads" if "q_proj" in key else "num_key_value_heads"])
        value = convert_state(key, value, config)
        # Those of layers with a state the converter keeps in full.
        is_vector = value.ndim == 1 or key.endswith("bias") or any(part in key for part in ("conv1d", "conv.conv", ".A_log", "mamba.D", "mamba.norm"))
        if key.endswith("norm.weight") and (arch.startswith("gemma") or arch in ("qwen35", "qwen35moe", "qwen3next") and "linear_attn" not in key):
            value = value.float() + 1
        data = value.float().numpy()
        if not is_vector and value.dtype == torch.bfloat16:
            writer.add_tensor(tensor_name(key, arch), gguf.quants.quantize(data, gguf.GGMLQuantizationType.BF16), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(tensor_name(key, arch), data if is_vector or value.dtype == torch.float32 else data.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer, folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    added = {t["id"]: t for t in tokenizer["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if i in added else gguf.TokenType.NORMAL for i in range(len(tokens))])
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in tokenizer["model"]["merges"]])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    writer.add_add_bos_token(True)
    writer.add_chat_template(config["chat_template"])


# Types that gguf-py cannot quantise to, or only slowly: random codes are as good. Bytes of a block of 256 (MXFP4, IQ4_NL: 32) values and where its
# f16 factors stand.
RANDOM_BLOCKS = {
    "Q2_K": (84, [80, 82]), "Q3_K": (110, [108]), "Q4_K": (144, [0, 2]), "Q5_K": (176, [0, 2]), "Q6_K": (210, [208]),
    "IQ4_NL": (18, [0]), "IQ4_XS": (136, [0]), "MXFP4": (17, []), "IQ2_XXS": (66, [0]), "IQ2_XS": (74, [0]), "IQ2_S": (82, [0]),
    "IQ3_XXS": (98, [0]), "IQ3_S": (110, [0]), "IQ1_S": (50, [0]), "IQ1_M": (56, []),
}


def write_blocks():
    rng = np.random.default_rng(7)
    kinds = gguf.GGMLQuantizationType
    out = {}
    for kind in (kinds.F16, kinds.BF16, kinds.Q8_0, kinds.Q4_0, kinds.Q4_1, kinds.Q5_0, kinds.Q5_1, kinds.Q4_K, kinds.Q5_K, kinds.Q6_K,
                 kinds.Q2_K, kinds.Q3_K, kinds.IQ4_NL, kinds.IQ4_XS, kinds.TQ1_0, kinds.TQ2_0, kinds.MXFP4,
                 kinds.IQ2_XXS, kinds.IQ2_XS, kinds.IQ2_S, kinds.IQ3_XXS, kinds.IQ3_S, kinds.IQ1_S, kinds.IQ1_M):
        values = rng.normal(size=(2, 512)).astype(np.float32)
        if kind.name in RANDOM_BLOCKS:
            size, factors = RANDOM_BLOCKS[kind.name]
            count = 1024 // gguf.GGML_QUANT_SIZES[kind][0]
            blocks = rng.integers(0, 256, size=(count, size), dtype=np.uint8)
            if kind == kinds.IQ1_M:
                # The upper nibbles of four words are an f16: an ordinary number, not an infinity.
                blocks[:, 55] = (blocks[:, 55] & 15) | 0x20
            if kind == kinds.MXFP4:
                blocks[:, 0] = rng.integers(110, 140, size=count)
            for at in factors:
                blocks[:, at : at + 2] = rng.normal(size=(count, 1)).astype(np.float16).view(np.uint8)
            data = blocks.reshape(2, -1)
        else:
            data = gguf.quants.quantize(values, kind)
        dequantised = gguf.quants.dequantize(data, kind).astype(np.float32)
        assert dequantised.shape == (2, 512)
        out[kind.name] = {"type": int(kind), "bytes": base64.b64encode(data.tobytes()).decode(), "values": base64.b64encode(dequantised.tobytes()).decode()}
    (OUT / "blocks.json").write_text(json.dumps(out, indent=0) + "\n")


TEXTS = [
    "", "a", " ", "  two  spaces ", "The river runs past the old mill.", "the train leaves at seven", "Naïve café", "größer",
    "東京 🙂", "numbers: 0.25, 1.5 and 340!", "line\nbreak\ttab", "antidisestablishmentarianism", "▁", "aaaaaaaaaa", "How many birds?",
]


def write_sentencepiece():
    import sentencepiece

    import make_golden

    out = {}
    for name, prefix in (("prefix", True), ("plain", False)):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(make_golden.TOKENIZER_TEXT.split("\n")), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True,
            character_coverage=0.99, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix, minloglevel=2,
            user_defined_symbols=["<|tool|>"],
        )
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        ids = range(processor.get_piece_size())
        # Types as in GGUF: 1 normal, 2 unknown, 3 control, 4 user defined, 6 byte.
        kind = lambda i: 2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 4 if processor.id_to_piece(i) == "<|tool|>" else 1
        out[name] = {
            "metadata": {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
                "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
                "tokenizer.ggml.token_type": [kind(i) for i in ids],
                "tokenizer.ggml.bos_token_id": 1,
                "tokenizer.ggml.eos_token_id": 2,
                "tokenizer.ggml.unknown_token_id": 0,
                "tokenizer.ggml.add_space_prefix": prefix,
                "tokenizer.ggml.add_bos_token": True,
            },
            "texts": [{"text": text, "ids": processor.encode(text)} for text in TEXTS],
        }
    (OUT / "sentencepiece.json").write_text(json.dumps(out, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    write_blocks()
    write_sentencepiece()
    write_model("tiny-text", "llama", tokenizer=True)
    write_model("llama-bf16", "llama")
    write_model("qwen2-yarn", "qwen2")
    write_model("gemma", "gemma")
    write_model("gemma3-old", "gemma3")
    write_model("phi3-longrope", "phi3")
    write_model("olmo2", "olmo2")
    write_model("olmo3", "olmo2")
    write_model("granite", "granite")
    write_model("ministral3", "mistral3")
    write_model("glm4", "glm4")
    write_model("exaone4", "exaone4")
    write_model("ernie4_5", "ernie4_5")
    write_model("seed_oss", "seed_oss")
    write_model("lfm2", "lfm2")
    write_model("qwen3_5", "qwen35")
    write_model("granite4-hybrid", "granitehybrid")
    write_model("qwen3_5-moe", "qwen35moe")
    write_model("qwen3-next", "qwen3next")
    write_model("lfm2-moe", "lfm2moe")
    write_model("granite4-moe", "granitehybrid")
    for name, arch in EXPERT_MODELS.items():
        write_model(name, arch)
