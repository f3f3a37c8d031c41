"""Makes the tiny random checkpoints and golden values the tests compare with: logits, prompt log-probabilities and greedy tokens from Hugging Face transformers.

    pip install torch transformers==5.17.0 safetensors
    python test/golden/make_golden.py [NAME ...]

For each model: test/golden/models/NAME/{config.json, generation_config.json, model.safetensors (or shards)} and golden.json. The weights are random, scaled
so that logits spread; the seed is the first at which every greedy choice leads its runner-up by a clear margin, so that a correct implementation cannot differ
by rounding. `golden_logits` hold a few full rows; log-probabilities cover every prompt token.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).parent / "models"
VOCAB = 96
PROMPT_TOKENS = 40
GREEDY_TOKENS = 24
MIN_MARGIN = 0.02
MIN_ROUTER_MARGIN = 0.004

BASE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)

GEMMA = dict(head_dim=8, query_pre_attn_scalar=12, sliding_window=7)
GEMMA3_ROPE = dict(
    full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
    sliding_attention=dict(rope_type="default", rope_theta=10000.0),
)
PHI3_LONGROPE = dict(
    type="longrope",
    short_factor=[1.0, 1.1, 1.2, 1.3],
    long_factor=[1.5, 2.5, 4.0, 9.0],
)
OLMO3_ROPE = dict(
    full_attention=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, rope_theta=500000.0),
    sliding_attention=dict(rope_type="default", rope_theta=500000.0),
)
MULTIPLIERS = dict(embedding_multiplier=6.0, residual_multiplier=0.3, attention_multiplier=0.2, logits_scaling=2.0)
HALF_ROTARY = dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)
MINISTRAL_ROPE = dict(
    rope_type="yarn", factor=4.0, original_max_position_embeddings=128, rope_theta=1000000.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
    mscale_all_dim=1.0, llama_4_scaling_beta=0.1,
)
QWEN3_5_ROPE = dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.25, mrope_section=[1, 1, 0], mrope_interleaved=True)
PHI4_ROPE = dict(
    rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75, original_max_position_embeddings=32,
    short_factor=[1.0, 1.05, 1.1, 1.2, 1.25, 1.3], long_factor=[1.0, 1.5, 2.5, 4.0, 6.0, 9.0],
)
HALF = torch.float16

TEXT_VOCAB = 320
SPECIAL_TOKENS = ["<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}"
    "{% if not (loop.last and continue_final_message) %}<|end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TOKENIZER_TEXT = """The river runs past the old mill and the bread is still warm. She said that the train leaves at seven, not at eight.
How many birds are there on the roof? There are twelve of them, and one more in the tree. A good answer is short and clear.
We measured the light in the morning, then in the evening; the numbers were 0.25, 1.5 and 340. Naïve café, größer, 東京, 🙂.
""" * 4


def save_tokenizer(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_VOCAB, special_tokens=SPECIAL_TOKENS, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator([TOKENIZER_TEXT], trainer)
    assert tokenizer.get_vocab_size() == TEXT_VOCAB, tokenizer.get_vocab_size()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = dict(
        add_bos_token=True, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>", chat_template=CHAT_TEMPLATE,
        model_max_length=512, tokenizer_class="PreTrainedTokenizerFast",
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


EXPERTS = dict(num_experts_per_tok=2, intermediate_size=24, num_local_experts=8)
QWEN3_5_EXPERTS = dict(
    num_experts_per_tok=3, moe_intermediate_size=24, shared_expert_intermediate_size=40, num_experts=8, linear_num_key_heads=2, linear_num_value_heads=4,
    linear_key_head_dim=16, linear_value_head_dim=16,
)
QWEN_EXPERTS = dict(num_experts_per_tok=3, moe_intermediate_size=24, num_experts=8, decoder_sparse_step=1, norm_topk_prob=True)
# A third of the layers see the whole context; the last half have no K and V of their own.
GEMMA_MIX = dict(hidden_size=32, num_hidden_layers=6, layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2, sliding_window=7, head_dim=8)
LAYER_INPUTS = dict(hidden_size_per_layer_input=16, vocab_size_per_layer_input=VOCAB, num_kv_shared_layers=3)
GEMMA4_ROPE = dict(
    full_attention=dict(rope_type="proportional", partial_rotary_factor=0.5, rope_theta=1000000.0),
    sliding_attention=dict(rope_type="default", rope_theta=10000.0),
)
GEMMA4_WIDE = GEMMA_MIX | dict(
    num_hidden_layers=3, layer_types=GEMMA_MIX["layer_types"][:3], global_head_dim=16, num_global_key_value_heads=1, attention_k_eq_v=True,
    hidden_size_per_layer_input=0, final_logit_softcapping=20.0, rope_parameters=GEMMA4_ROPE,
)
GPT_OSS_ROPE = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, rope_theta=150000.0, beta_fast=32.0, beta_slow=1.0, truncate=False)

# name -> (model_type, config fields, options). Options: dtype of the stored weights, dialect of config.json (4: rope_theta and torch_dtype, 5: rope_parameters
# and dtype), shards, drop (config fields left out, as old configs do), layer_names (other names of kinds of layers), tokenizer.
MODELS = {
    "llama": ("llama", BASE | dict(rope_theta=10000.0), dict(dialect=4)),
    "llama-bf16": ("llama", BASE | dict(rope_theta=500000.0, rope_scaling=LLAMA3_ROPE, tie_word_embeddings=True, eos_token_id=[2, 5]), dict(dtype=torch.bfloat16, dialect=5)),
    "llama-sharded": ("llama", BASE | dict(attention_bias=True, mlp_bias=True, num_key_value_heads=4, head_dim=16, rope_scaling=dict(rope_type="linear", factor=2.5)), dict(dtype=torch.float16, dialect=5, shards=3)),
    # With a tokenizer and a chat template, for tests that go from text to text.
    "tiny-text": ("llama", BASE | dict(vocab_size=TEXT_VOCAB, max_position_embeddings=512, rope_theta=10000.0), dict(dtype=HALF, tokenizer=True)),
    "hybrid-text": ("qwen3_5_text", BASE | dict(vocab_size=TEXT_VOCAB, max_position_embeddings=512, num_hidden_layers=3, head_dim=16, rope_parameters=QWEN3_5_ROPE, layer_types=["linear_attention", "full_attention", "linear_attention"], linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=16, linear_value_head_dim=16, tie_word_embeddings=True), dict(dtype=HALF, tokenizer=True)),
    "mistral": ("mistral", BASE | dict(sliding_window=11, head_dim=8), dict(dtype=HALF)),
    "qwen2": ("qwen2", BASE | dict(use_sliding_window=True, sliding_window=9, max_window_layers=1, tie_word_embeddings=True), dict(dtype=torch.bfloat16, dialect=4)),
    "qwen2-yarn": ("qwen2", BASE | dict(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)), dict(dtype=HALF, dialect=4)),
    "qwen3": ("qwen3", BASE | dict(head_dim=16), dict(dtype=HALF)),
    "smollm3": ("smollm3", BASE | dict(num_hidden_layers=4, no_rope_layer_interval=2), dict(dtype=torch.bfloat16)),
    "gemma2": ("gemma2", BASE | GEMMA | dict(num_hidden_layers=6, hidden_size=24, attn_logit_softcapping=5.0, final_logit_softcapping=8.0), dict(dtype=HALF, dialect=4)),
    "gemma3": ("gemma3_text", BASE | GEMMA | dict(num_hidden_layers=6, hidden_size=24, rope_parameters=GEMMA3_ROPE, layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2), dict(dtype=torch.bfloat16)),
    "gemma3-old": ("gemma3_text", BASE | GEMMA | dict(num_hidden_layers=6, hidden_size=24, query_pre_attn_scalar=8, rope_parameters=GEMMA3_ROPE, final_logit_softcapping=10.0), dict(dtype=HALF, dialect=4, drop=["layer_types"])),
    "phi3": ("phi3", BASE | dict(hidden_size=64, intermediate_size=40, rope_parameters=dict(rope_theta=10000.0, partial_rotary_factor=0.75, rope_type="default"), sliding_window=23), dict(dtype=HALF)),
    "phi3-longrope": ("phi3", BASE | dict(num_key_value_heads=4, max_position_embeddings=256, original_max_position_embeddings=16, rope_scaling=PHI3_LONGROPE), dict(dtype=torch.bfloat16, dialect=4)),
    "olmo2": ("olmo2", BASE, dict(dtype=HALF)),
    "olmo3": ("olmo3", BASE | dict(num_hidden_layers=4, sliding_window=7, rope_parameters=OLMO3_ROPE), dict(dtype=HALF)),
    "granite": ("granite", BASE | MULTIPLIERS, dict(dtype=torch.bfloat16)),
    "granite4": ("granitemoehybrid", BASE | MULTIPLIERS | dict(layer_types=["full_attention"] * 2, num_local_experts=0, shared_intermediate_size=48, mamba_n_heads=4, mamba_d_head=16, position_embedding_type="rope"), dict(dtype=HALF)),
    "granite4-nope": ("granitemoehybrid", BASE | MULTIPLIERS | dict(layer_types=["full_attention"] * 2, num_local_experts=0, shared_intermediate_size=48, mamba_n_heads=4, mamba_d_head=16), dict(dtype=HALF)),
    "glm": ("glm", BASE | dict(head_dim=8, attention_bias=True, rope_parameters=HALF_ROTARY), dict(dtype=HALF)),
    "glm4": ("glm4", BASE | dict(head_dim=8, attention_bias=True, rope_parameters=HALF_ROTARY), dict(dtype=torch.bfloat16)),
    "exaone4": ("exaone4", BASE | dict(num_hidden_layers=4, sliding_window=7, sliding_window_pattern=4), dict(dtype=HALF)),
    "exaone4-full": ("exaone4", BASE | dict(sliding_window=None, layer_types=["full_attention"] * 2), dict(dtype=HALF)),
    "ernie4_5": ("ernie4_5", BASE | dict(head_dim=8, use_bias=True, tie_word_embeddings=True), dict(dtype=HALF)),
    "seed_oss": ("seed_oss", BASE | dict(head_dim=8, attention_bias=True, attention_out_bias=False), dict(dtype=HALF)),
    "ministral3": ("ministral3", BASE | dict(head_dim=8, rope_parameters=MINISTRAL_ROPE), dict(dtype=HALF)),
    # Layers with a state of their own beside layers with attention.
    "lfm2": ("lfm2", BASE | dict(num_hidden_layers=5, layer_types=["conv", "conv", "full_attention", "conv", "full_attention"], intermediate_size=60, block_multiple_of=16), dict(dtype=HALF)),
    "lfm2-bias": ("lfm2", BASE | dict(num_hidden_layers=3, full_attn_idxs=[1], conv_bias=True, conv_L_cache=4, block_auto_adjust_ff_dim=False), dict(dtype=torch.bfloat16, drop=["layer_types"])),
    "qwen3_5": ("qwen3_5_text", BASE | dict(num_hidden_layers=4, head_dim=16, rope_parameters=QWEN3_5_ROPE, layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16), dict(dtype=HALF)),
    "granite4-hybrid": ("granitemoehybrid", BASE | MULTIPLIERS | dict(num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"], num_local_experts=0, shared_intermediate_size=48, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=16, mamba_n_groups=2, mamba_proj_bias=False), dict(dtype=HALF, layer_names=dict(linear_attention="mamba", full_attention="attention"))),
    # Phi-4-mini's shape of rope: three quarters of the dims, longrope, tied.
    "phi4-mini": ("phi3", BASE | dict(hidden_size=64, num_key_value_heads=2, original_max_position_embeddings=32, tie_word_embeddings=True, rope_parameters=PHI4_ROPE), dict(dtype=torch.bfloat16)),
    "qwen3_5-moe": ("qwen3_5_moe_text", BASE | QWEN3_5_EXPERTS | dict(num_hidden_layers=3, head_dim=16, rope_parameters=QWEN3_5_ROPE, layer_types=["linear_attention", "full_attention", "linear_attention"]), dict(dtype=HALF)),
    "qwen3-next": ("qwen3_next", BASE | QWEN3_5_EXPERTS | dict(num_hidden_layers=3, head_dim=16, rope_parameters=HALF_ROTARY, decoder_sparse_step=1, mlp_only_layers=[1], norm_topk_prob=True, layer_types=["linear_attention", "full_attention", "linear_attention"]), dict(dtype=HALF)),
    "lfm2-moe": ("lfm2_moe", BASE | dict(num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, num_dense_layers=1), dict(dtype=HALF)),
    "granite4-moe": ("granitemoehybrid", BASE | EXPERTS | MULTIPLIERS | dict(layer_types=["linear_attention", "full_attention"], shared_intermediate_size=40, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=16), dict(dtype=HALF, layer_names=dict(linear_attention="mamba", full_attention="attention"))),
    "qwen3moe": ("qwen3_moe", BASE | QWEN_EXPERTS | dict(num_hidden_layers=3, head_dim=16, mlp_only_layers=[1]), dict(dtype=HALF)),
    "olmoe": ("olmoe", BASE | EXPERTS | dict(num_experts=8), dict(dtype=HALF)),
    "granitemoe": ("granitemoe", BASE | EXPERTS | MULTIPLIERS, dict(dtype=torch.bfloat16)),
    "gpt-oss": ("gpt_oss", BASE | EXPERTS | dict(head_dim=8, intermediate_size=32, sliding_window=9, rope_parameters=GPT_OSS_ROPE, layer_types=["sliding_attention", "full_attention"]), dict(dtype=HALF)),
    "gpt-oss-mxfp4": ("gpt_oss", BASE | EXPERTS | dict(num_local_experts=2, hidden_size=64, head_dim=8, intermediate_size=32, sliding_window=9, rope_parameters=GPT_OSS_ROPE, layer_types=["sliding_attention", "full_attention"]), dict(dtype=torch.bfloat16, mxfp4=True)),
    "mixtral": ("mixtral", BASE | EXPERTS, dict(dtype=HALF)),
    "ernie4_5-moe": ("ernie4_5_moe", BASE | dict(num_hidden_layers=3, moe_intermediate_size=24, moe_k=3, moe_num_experts=8, moe_num_shared_experts=1, moe_layer_start_index=1, moe_layer_interval=1, use_bias=False, tie_word_embeddings=True), dict(dtype=torch.bfloat16)),
    "glm4moe": ("glm4_moe", BASE | dict(num_hidden_layers=3, head_dim=8, moe_intermediate_size=24, num_experts_per_tok=3, n_routed_experts=8, n_shared_experts=1, n_group=4, topk_group=2, first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=1.5, use_qk_norm=True, attention_bias=True, rope_parameters=HALF_ROTARY), dict(dtype=HALF)),
    "gemma3n": ("gemma3n_text", BASE | GEMMA_MIX | LAYER_INPUTS | dict(laurel_rank=8, intermediate_size=[48] * 6, activation_sparsity_pattern=[0.8, 0.9, 0.0, 0.5, 0.0, 0.0], final_logit_softcapping=30.0), dict(dtype=HALF)),
    # As the E models, the dense one and the one with experts; configs as transformers writes them, and as the hub has them.
    "gemma4": ("gemma4_text", BASE | GEMMA_MIX | LAYER_INPUTS | dict(global_head_dim=16, use_double_wide_mlp=True, final_logit_softcapping=30.0, rope_parameters=GEMMA4_ROPE), dict(dtype=HALF)),
    "gemma4-dense": ("gemma4_text", BASE | GEMMA4_WIDE, dict(dtype=torch.bfloat16, drop=["per_layer_config"], add=dict(global_head_dim=16, num_global_key_value_heads=1))),
    "gemma4-moe": ("gemma4_text", BASE | GEMMA4_WIDE | dict(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"], enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=24), dict(dtype=HALF, drop=["per_layer_config"], add=dict(global_head_dim=16, num_global_key_value_heads=1), embedding=0.12)),
    "gemma": ("gemma", BASE | dict(head_dim=16), dict(dtype=HALF)),
    "ministral": ("ministral", BASE | dict(head_dim=8, num_hidden_layers=4, sliding_window=9, layer_types=["full_attention", "sliding_attention"] * 2), dict(dtype=HALF)),
    "llama-dynamic": ("llama", BASE | dict(rope_scaling=dict(rope_type="dynamic", factor=4.0)), dict(dialect=4)),
    "qwen2moe": ("qwen2_moe", BASE | dict(num_hidden_layers=3, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, shared_expert_intermediate_size=40, mlp_only_layers=[1]), dict(dtype=HALF)),
    "minimax-m2": ("minimax_m2", BASE | dict(head_dim=16, intermediate_size=24, num_local_experts=8, num_experts_per_tok=3, rope_parameters=HALF_ROTARY), dict(dtype=HALF, dialect=4, drop=["partial_rotary_factor"], add=dict(rotary_dim=8))),
    "arcee": ("arcee", BASE, dict(dtype=HALF)),
    "apertus": ("apertus", BASE | dict(hidden_act="xielu", rope_parameters=dict(rope_type="default", rope_theta=12000000.0)), dict(dtype=HALF)),
    "hunyuan": ("hunyuan_v1_dense", BASE | dict(head_dim=16, rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, alpha=50.0, factor=1.0)), dict(dtype=HALF)),
}


def build(model_type, fields, seed, embedding=None):
    config = AutoConfig.for_model(model_type, **fields)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                # Some families store w with 1 + w meant; either way the effective weight is around 1 and every channel differs.
                parameter.copy_(0.3 * noise + (0.0 if float(parameter.mean().abs()) < 0.5 else 1.0))
            elif name.endswith(("layernorm_1.weight", "layernorm_2.weight", "router.scale", "per_expert_scale", "correct_output_scale")):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("A_log"):
                # Rates from a slow decay to one within a token.
                parameter.copy_(noise)
            elif name.endswith("mamba.D"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("sinks") or name.endswith("alpha_p") or name.endswith("alpha_n"):
                parameter.copy_(noise)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                # Gemma scales embeddings by sqrt(hidden): smaller ones keep the layers audible and the soft cap unsaturated.
                parameter.copy_((embedding or (0.25 if model_type.startswith("gemma") else 0.7)) * noise)
            else:
                parameter.copy_(1.6 * noise / parameter.shape[-1] ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.copy_(0.8 + 0.2 * torch.rand(buffer.shape, generator=generator))
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    return model


def mxfp4(weight):
    """Blocks [experts, out, in / 32, 16] and exponents [experts, out, in / 32] of experts' matrices [experts, in, out], and the values that they stand for."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    groups = weight.transpose(1, 2).unflatten(-1, (-1, 32))
    exponents = torch.floor(torch.log2(groups.abs().amax(-1, keepdim=True))) - 2
    codes = (groups / 2 ** exponents).unsqueeze(-1).sub(values).abs().argmin(-1)
    blocks = (codes[..., 0::2] | (codes[..., 1::2] << 4)).to(torch.uint8)
    stored = (values[codes] * 2 ** exponents).flatten(-2).transpose(1, 2)
    return blocks, (exponents.squeeze(-1) + 127).to(torch.uint8), stored


def router_margin(model, ids):
    """The least lead of a chosen expert's logit over the best that was left out, in standard deviations: below some, rounding chooses."""
    margins = []

    def hook(module, _, output):
        logits = output[0] if isinstance(output, tuple) else output
        is_gemma = type(module).__name__ == "Gemma4TextRouter"
        top_k = module.config.top_k_experts if is_gemma else module.top_k
        best = torch.sort((logits.log() if is_gemma else logits).detach().double(), dim=-1, descending=True).values
        margins.append(1.0 if best.shape[-1] == top_k else float(((best[:, top_k - 1] - best[:, top_k]) / best.std(dim=-1)).min()))

    hooks = [m.register_forward_hook(hook) for m in model.modules() if type(m).__name__.endswith(("TopKRouter", "TopkRouter", "Gemma4TextRouter"))]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for handle in hooks:
        handle.remove()
    return min(margins, default=1.0)


def stored_state(model):
    """The tensors under the names that checkpoints have: experts apart where the family stores them so."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(pathlib.Path(folder) / "model.safetensors")


def greedy(model, prompt, count):
    ids, margins, rows = list(prompt), [], []
    for _ in range(count):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        top = torch.topk(logits, 2)
        margins.append(float(top.values[0] - top.values[1]))
        rows.append(logits)
        ids.append(int(top.indices[0]))
    return ids[len(prompt):], margins, rows


def to_old_dialect(config):
    """The fields of transformers 4 instead of rope_parameters and dtype."""
    rope = config.pop("rope_parameters", None)
    config["torch_dtype"] = config.pop("dtype", "float32")
    if rope is None:
        return config
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    rope = dict(rope)
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    return config


def save(name, model, options):
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    dtype = options.get("dtype", torch.float32)
    config = json.loads(model.config.to_json_string(use_diff=False))
    config = {k: v for k, v in config.items() if not k.startswith("_") and k in json.loads(model.config.to_json_string(use_diff=True)) or k in (
        "architectures", "vocab_size", "hidden_size", "tie_word_embeddings", "head_dim", "rope_parameters", "sliding_window", "layer_types",
        "no_rope_layers", "norm_eps", "conv_L_cache", "conv_bias", "block_multiple_of", "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "full_attn_idxs", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim",
        "mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_expand", "mamba_d_conv", "mamba_conv_bias", "mamba_proj_bias",
        "query_pre_attn_scalar", "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling",
        "shared_intermediate_size", "num_local_experts", "position_embedding_type", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "mlp_only_layers",
        "decoder_sparse_step", "shared_expert_intermediate_size", "num_dense_layers", "use_expert_bias", "moe_k", "moe_num_experts", "moe_num_shared_experts", "moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval",
        "n_routed_experts", "n_shared_experts", "n_group", "topk_group", "first_k_dense_replace", "routed_scaling_factor", "use_qk_norm",
        "swiglu_limit", "swiglu_alpha", "hidden_act", "attention_bias", "attention_out_bias", "use_bias", "mlp_bias", "attn_logit_softcapping", "final_logit_softcapping", "original_max_position_embeddings",
        "hidden_size_per_layer_input", "vocab_size_per_layer_input", "num_kv_shared_layers", "altup_num_inputs", "altup_active_idx", "altup_correct_scale", "laurel_rank",
        "activation_sparsity_pattern", "attention_k_eq_v", "enable_moe_block", "use_double_wide_mlp", "top_k_experts", "per_layer_config",
        "num_key_value_heads", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "rms_norm_eps")}
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(dtype).removeprefix("torch.")
    if options.get("dialect", 5) == 4:
        config = to_old_dialect(config)
    # As the checkpoints on the hub have them, not as transformers writes them.
    names = options.get("layer_names", {})
    if "layer_types" in config:
        config["layer_types"] = [names.get(kind, kind) for kind in config["layer_types"]]
    for field in options.get("drop", []):
        config.pop(field, None)
    config |= options.get("add", {}) | ({"quantization_config": {"quant_method": "mxfp4"}} if options.get("mxfp4") else {})
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    eos = model.config.eos_token_id
    if options.get("tokenizer"):
        save_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": eos}) + "\n")
    tied = model.config.tie_word_embeddings
    state = {k: v.detach().to(dtype).contiguous() for k, v in stored_state(model).items() if not (tied and k == "lm_head.weight")}
    for key in [k for k in state if options.get("mxfp4") and k.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        state[f"{key}_blocks"], state[f"{key}_scales"], _ = mxfp4(state.pop(key).float())
    shards = options.get("shards", 1)
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(state)
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {k: state[k] for k in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= {k: file for k in part}
    total = sum(v.numel() * v.element_size() for v in state.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=0) + "\n")


def make(name):
    model_type, fields, options = MODELS[name]
    for seed in range(250):
        model = build(model_type, fields, seed, options.get("embedding"))
        dtype = options.get("dtype", torch.float32)
        # The stored weights are the model: what is computed from them is exact f32. Parameters only: model.to() would round the rope frequencies too.
        for parameter in [*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith(("e_score_correction_bias", "layer_scalar")))]:
            parameter.data = parameter.data.to(dtype).float()
        for key, parameter in model.named_parameters():
            if options.get("mxfp4") and key.endswith(("experts.gate_up_proj", "experts.down_proj")):
                parameter.data = mxfp4(parameter.data)[2].contiguous()
        generator = torch.Generator().manual_seed(seed)
        prompt = [1] + torch.randint(6, fields["vocab_size"], (PROMPT_TOKENS - 1,), generator=generator).tolist()
        tokens, margins, rows = greedy(model, prompt, GREEDY_TOKENS)
        if min(margins) > MIN_MARGIN and len(set(tokens)) >= 5 and router_margin(model, prompt + tokens) > MIN_ROUTER_MARGIN:
            break
    else:
        raise SystemExit(f"{name}: no seed with clear margins")
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0].double()
    logprobs = torch.log_softmax(logits, -1)
    prompt_logprobs = [float(logprobs[i, prompt[i + 1]]) for i in range(len(prompt) - 1)]
    save(name, model, options)
    golden = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "seed": seed,
        "prompt": prompt,
        "tokens": tokens,
        "margins": [round(m, 6) for m in margins],
        "promptLogprobs": [round(p, 7) for p in prompt_logprobs],
        # Positions 0, the middle of the prompt, its end and the last token.
        "logits": {str(p): [round(float(v), 6) for v in logits[p]] for p in (0, 21, len(prompt) - 1, len(prompt) + len(tokens) - 1)},
    }
    (ROOT / name / "golden.json").write_text(json.dumps(golden) + "\n")
    print(f"{name}: seed {seed}, least margin {min(margins):.3f}, tokens {tokens[:8]}", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        make(name)
