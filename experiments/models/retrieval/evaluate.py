"""Score BM25, the embedder, the reranker and their fusion on a question set.

    python evaluate.py dev                # the split that tune_fusion.py chooses by
    python evaluate.py eval               # the published table, kept in results.json
    python evaluate.py eval --print-only

The models are the exported ONNX files, run with onnxruntime.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from check_eval import read_jsonl
from onnx_models import CrossEncoder, SentenceEncoder
from ranking import Bm25, fuse, measures, ranks

HERE = Path(__file__).parent
MODELS = HERE.parents[2] / "models"
CANDIDATES = 20


def load_split(split: str) -> tuple[list[dict], list[dict]]:
    return read_jsonl(HERE / split / "documents.jsonl"), read_jsonl(HERE / split / "questions.jsonl")


def rerank(order_scores: np.ndarray, pair_scores: np.ndarray, settings: dict) -> np.ndarray:
    """Scores after reranking the best CANDIDATES of `order_scores`; the others keep their order below them."""
    before = ranks(order_scores)
    final = -before
    top = np.flatnonzero(before <= CANDIDATES)
    reranked = ranks(pair_scores[top])
    final[top] = 1e3 + 1e3 * fuse([before[top], reranked], [settings["w_search"], settings["w_rerank"]], settings["k_rerank"])
    return final


def load_signals(split: str, distractors: bool = False) -> tuple[list[dict], list[dict]]:
    """Questions, and for each the target's index and the scores of every passage under BM25, embedder and reranker."""
    documents, questions = load_split(split)
    if distractors:
        documents = documents + load_split("eval" if split == "dev" else "dev")[0]
    texts = [document["text"] for document in documents]
    where = {document["id"]: i for i, document in enumerate(documents)}
    bm25 = Bm25(texts)
    encoder, cross = SentenceEncoder(MODELS / "mini-embedder"), CrossEncoder(MODELS / "mini-reranker")
    cosine = encoder.encode([question["question"] for question in questions]) @ encoder.encode(texts).T
    return questions, [
        {
            "target": where[question["document"]],
            "bm25": ranks(bm25.scores(question["question"]), drop_zero=True),
            "embed": ranks(cosine[i]),
            "pairs": cross.score(question["question"], texts),
        }
        for i, question in enumerate(questions)
    ]


def ranking_of(name: str, signals: list[dict], settings: dict) -> np.ndarray:
    """Rank of the right passage for every question under one system."""
    found = np.empty(len(signals))
    for i, signal in enumerate(signals):
        hybrid = fuse([signal["bm25"], signal["embed"]], [settings["w_bm25"], settings["w_embed"]], settings["k"])
        match name:
            case "BM25":
                order = signal["bm25"]
            case "embed":
                order = signal["embed"]
            case "embed + rerank":
                alone = settings | {"w_search": 0.0, "w_rerank": 1.0}
                order = ranks(rerank(-signal["embed"], signal["pairs"], alone))
            case "BM25 + embed":
                order = ranks(hybrid)
            case "all fused":
                order = ranks(rerank(hybrid, signal["pairs"], settings))
            case _:
                raise ValueError(f"unknown system {name}")
        # A passage without a BM25 rank (no word in common with the question) counts as last.
        found[i] = min(order[signal["target"]], len(order))
    return found


SYSTEMS = ["BM25", "embed", "embed + rerank", "BM25 + embed", "all fused"]
DEFAULTS = {"k": 60, "w_bm25": 1.0, "w_embed": 1.0, "k_rerank": 60, "w_search": 1.0, "w_rerank": 1.0}


def table(questions: list[dict], found: dict[str, np.ndarray], resamples: int = 10_000) -> dict:
    kinds = np.array([question["kind"] for question in questions])
    return {
        kind: {name: measures(values[kinds == kind], resamples) for name, values in found.items()} for kind in ("lexical", "paraphrased")
    }


def show(results: dict) -> None:
    for kind, rows in results.items():
        print(f"\n{kind}\n{'':16}  recall@5               MRR")
        for name, row in rows.items():
            cells = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in row.values()]
            print(f"{name:16}  " + "   ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("split", choices=["dev", "eval"])
    parser.add_argument("--distractors", action="store_true", help="search the passages of both splits")
    parser.add_argument("--print-only", action="store_true")
    arguments = parser.parse_args()
    path = HERE / "results.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    settings = saved.get("settings", DEFAULTS)
    questions, signals = load_signals(arguments.split, arguments.distractors)
    results = table(questions, {name: ranking_of(name, signals, settings) for name in SYSTEMS})
    show(results)
    if not arguments.print_only:
        saved["settings"] = settings
        numbers = {"passages": len(signals[0]["embed"]), "questions": len(questions), "results": results}
        saved[arguments.split + (" with distractors" if arguments.distractors else "")] = numbers
        path.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
