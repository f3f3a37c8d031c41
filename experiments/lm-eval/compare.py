"""Scores of lm-evaluation-harness through the server, and through transformers on the same file: one log-likelihood per answer.

    pip install "lm-eval[api,hf]" gguf
    node dist/main.js --model MODEL.gguf --device reference --port 8000
    python experiments/lm-eval/compare.py --gguf MODEL.gguf --base-url http://127.0.0.1:8000

The client tokenizes (with the file's own tokenizer, and a begin token, which Gemma needs) and sends token ids, as
`lm_eval --model local-completions` does. Writes results.json beside itself.
"""

import argparse
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import lm_eval
import requests
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent


def scores(model: str, arguments: dict) -> tuple[list[float], float]:
    """The log-likelihood of each answer, in order, and the accuracy."""
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=["facts"],
        task_manager=TaskManager(include_path=str(HERE), include_defaults=False),
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["facts"], key=lambda sample: sample["doc_id"])
    likelihoods = [float(answer[0]) for sample in samples for answer in sample["filtered_resps"]]
    return likelihoods, found["results"]["facts"]["acc,none"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", required=True, type=lambda path: Path(path).resolve())
    parser.add_argument("--base-url", default="http://127.0.0.1:8000")
    options = parser.parse_args()
    os.chdir(HERE)
    models = requests.get(f"{options.base_url}/v1/models", timeout=10).json()["data"]
    with tempfile.TemporaryDirectory() as tokenizer:
        AutoTokenizer.from_pretrained(options.gguf.parent, gguf_file=options.gguf.name).save_pretrained(tokenizer)
        url = f"{options.base_url}/v1/completions"
        shared = {"tokenizer": tokenizer, "add_bos_token": True}
        server, accuracy = scores("local-completions", {"model": models[0]["id"], "base_url": url, **shared})
    file = {"pretrained": str(options.gguf.parent), "gguf_file": options.gguf.name}
    transformers, expected = scores("hf", {**file, "dtype": "float32", "add_bos_token": True, "device": "cpu"})
    differences = [abs(a - b) for a, b in zip(server, transformers, strict=True)]
    results = {
        "model": options.gguf.name,
        "lm_eval": version("lm-eval"),
        "transformers": version("transformers"),
        "answers": len(server),
        "accuracy": {"server": accuracy, "transformers": expected},
        "difference": {"max": max(differences), "mean": sum(differences) / len(differences)},
        "log_likelihoods": {"server": server, "transformers": transformers},
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps({key: results[key] for key in ("answers", "accuracy", "difference")}, indent=2))


if __name__ == "__main__":
    main()
