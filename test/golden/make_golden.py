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

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).parent / "models"
VOCAB = 96
PROMPT_TOKENS = 40
GREEDY_TOKENS = 24
MIN_MARGIN = 0.02

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

# name -> (model_type, config fields, options). Options: dtype of the stored weights, dialect of config.json (4: rope_theta and torch_dtype, 5: rope_parameters
# and dtype), shards.
MODELS = {
    "llama": ("llama", BASE | dict(rope_theta=10000.0), dict(dialect=4)),
    "llama-bf16": ("llama", BASE | dict(rope_theta=500000.0, rope_scaling=LLAMA3_ROPE, tie_word_embeddings=True, eos_token_id=[2, 5]), dict(dtype=torch.bfloat16, dialect=5)),
    "llama-sharded": ("llama", BASE | dict(attention_bias=True, mlp_bias=True, num_key_value_heads=4, head_dim=12, rope_scaling=dict(rope_type="linear", factor=2.5)), dict(dtype=torch.float16, dialect=5, shards=3)),
}


def build(model_type, fields, seed):
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
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(0.7 * noise)
            else:
                parameter.copy_(1.6 * noise / parameter.shape[-1] ** 0.5)
    return model


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
        "no_rope_layers", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "original_max_position_embeddings",
        "num_key_value_heads", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "rms_norm_eps")}
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(dtype).removeprefix("torch.")
    if options.get("dialect", 5) == 4:
        config = to_old_dialect(config)
    config |= options.get("config", {})
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    eos = model.config.eos_token_id
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": eos}) + "\n")
    tied = model.config.tie_word_embeddings
    state = {k: v.detach().to(dtype).contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
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
    for seed in range(1000):
        model = build(model_type, fields, seed)
        dtype = options.get("dtype", torch.float32)
        # The stored weights are the model: what is computed from them is exact f32. Parameters only: model.to() would round the rope frequencies too.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype).float()
        generator = torch.Generator().manual_seed(seed)
        prompt = [1] + torch.randint(6, VOCAB, (PROMPT_TOKENS - 1,), generator=generator).tolist()
        tokens, margins, rows = greedy(model, prompt, GREEDY_TOKENS)
        if min(margins) > MIN_MARGIN and len(set(tokens)) >= 6:
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
