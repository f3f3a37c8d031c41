"""Makes tiny random LoRA adapters over the tiny checkpoints of make_golden.py, and what PEFT computes with them.

    pip install torch transformers==5.17.0 peft==0.21.2 safetensors gguf==0.19.0
    python test/golden/make_adapters.py [NAME ...]

For each adapter: test/golden/adapters/NAME/{adapter_config.json, adapter_model.safetensors} as PEFT saves it, or NAME.gguf as llama.cpp's
convert_lora_to_gguf.py writes it (the rows of q and k of Llama reordered), and NAME.json: logits, prompt log-probabilities and greedy tokens
as make_golden.py has them, beside the model that the adapter is for.
"""

import json
import pathlib
import shutil
import sys

import gguf
import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from make_golden import GREEDY_TOKENS, PROMPT_TOKENS, greedy
from make_gguf import NAMES

HERE = pathlib.Path(__file__).parent
OUT = HERE / "adapters"

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
PATTERNS = dict(
    rank_pattern={"q_proj": 7, r"layers\.1\..*\.down_proj": 2},
    alpha_pattern={"layers.0.self_attn.v_proj": 40, "up_proj": 3},
)

# name -> (model, LoraConfig fields)
ADAPTERS = {
    "llama-all": ("llama", dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP)),
    "llama-patterns": ("llama", dict(r=5, lora_alpha=10, use_rslora=True, target_modules=ATTENTION + MLP, **PATTERNS)),
    "llama-some": ("llama", dict(r=3, lora_alpha=6, target_modules=["v_proj", "down_proj"], layers_to_transform=[1])),
    "tiny-text-a": ("tiny-text", dict(r=4, lora_alpha=16, target_modules=ATTENTION + MLP)),
    "tiny-text-b": ("tiny-text", dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "gate_proj"])),
    "qwen2-biases": ("qwen2-yarn", dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP)),
    "phi3-fused": ("phi3", dict(r=6, lora_alpha=12, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])),
    "gemma3-norms": ("gemma3", dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP)),
    "glm-neighbours": ("glm", dict(r=4, lora_alpha=8, target_modules=ATTENTION + ["gate_up_proj", "down_proj"])),
    "qwen3_5-hybrid": (
        "qwen3_5",
        dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP + ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]),
    ),
    "lfm2-convolutions": (
        "lfm2",
        dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "in_proj", "w1", "w2", "w3"]),
    ),
    "apertus-ungated": ("apertus", dict(r=4, lora_alpha=8, target_modules=ATTENTION + ["up_proj", "down_proj"])),
    "granite4-mamba": ("granite4-hybrid", dict(r=4, lora_alpha=8, target_modules=ATTENTION + ["in_proj", "out_proj", "output_linear"])),
    "qwen3moe-attention": ("qwen3moe", dict(r=4, lora_alpha=8, target_modules=ATTENTION)),
}
# Those that are also written as GGUF: the adapter and ggml's name of its architecture.
GGUF = {"llama-all": "llama", "qwen2-biases": "qwen2"}


def permute(rows, heads):
    """The row order of llama.cpp's converter for q and k."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(name, arch, config):
    folder = OUT / name
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(json.loads((folder / "adapter_config.json").read_text())["lora_alpha"]))
    for tensor, value in sorted(load_file(folder / "adapter_model.safetensors").items()):
        _, layer, rest = tensor.removeprefix("base_model.model.model.").split(".", 2)
        module, factor, _ = rest.rsplit(".", 2)
        rows = value.float().numpy()
        if arch == "llama" and factor == "lora_B" and module in ("self_attn.q_proj", "self_attn.k_proj"):
            rows = permute(rows, config.num_attention_heads if module.endswith("q_proj") else config.num_key_value_heads)
        writer.add_tensor(f"blk.{layer}.{NAMES[module]}.weight.{factor.lower()}", np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(name):
    base, fields = ADAPTERS[name]
    seed = sum(map(ord, name))
    model = AutoModelForCausalLM.from_pretrained(HERE / "models" / base, dtype=torch.float32, attn_implementation="eager").eval()
    torch.manual_seed(seed)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **fields)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                noise = torch.randn(parameter.shape, generator=generator)
                # As they will be stored.
                parameter.copy_((0.4 * noise / parameter.shape[-1] ** 0.5).half().float())
    prompt = [1] + torch.randint(6, model.config.vocab_size, (PROMPT_TOKENS - 1,), generator=generator).tolist()
    tokens, margins, _ = greedy(model, prompt, GREEDY_TOKENS)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0].double()
        with model.disable_adapter():
            plain = model(torch.tensor([prompt + tokens])).logits[0].double()
    logprobs = torch.log_softmax(logits, -1)
    assert float((logits - plain).norm() / plain.norm()) > 0.05, f"{name}: the adapter changes next to nothing"
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.half().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    golden = {
        "model": base,
        "peft": peft.__version__,
        "transformers": transformers.__version__,
        "prompt": prompt,
        "tokens": tokens,
        "margins": [round(m, 6) for m in margins],
        "promptLogprobs": [round(float(logprobs[i, prompt[i + 1]]), 7) for i in range(len(prompt) - 1)],
        "logits": {str(p): [round(float(v), 6) for v in logits[p]] for p in (0, 21, len(prompt) - 1, len(prompt) + len(tokens) - 1)},
    }
    (OUT / f"{name}.json").write_text(json.dumps(golden) + "\n")
    if name in GGUF:
        write_gguf(name, GGUF[name], model.config)
    print(f"{name}: {sum(1 for k in load_file(folder / 'adapter_model.safetensors'))} tensors, tokens {tokens[:8]}", flush=True)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or ADAPTERS:
        make(name)
