"""Score BM25, the embedder, the reranker and their fusion on a question set.

    python evaluate.py dev                # compares fusion settings on the dev split
    python evaluate.py eval               # the published table: out of results.json
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


def systems(split: str, settings: dict) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Rank of the right passage for every question under every system."""
    documents, questions = load_split(split)
    texts = [document["text"] for document in documents]
    where = {document["id"]: i for i, document in enumerate(documents)}
    bm25 = Bm25(texts)
    encoder, cross = SentenceEncoder(MODELS / "mini-embedder"), CrossEncoder(MODELS / "mini-reranker")
    cosine = encoder.encode([question["question"] for question in questions]) @ encoder.encode(texts).T
    names = ["BM25", "embed", "embed + rerank", "BM25 + embed", "all fused"]
    found = {name: np.empty(len(questions)) for name in names}
    for i, question in enumerate(questions):
        target = where[question["document"]]
        lexical, dense = ranks(bm25.scores(question["question"]), drop_zero=True), ranks(cosine[i])
        hybrid = fuse([lexical, dense], [settings["w_bm25"], settings["w_embed"]], settings["k"])
        pairs = cross.score(question["question"], texts)
        # A question that shares no word with any passage has no BM25 ranking: its target counts as last.
        found["BM25"][i] = min(lexical[target], len(texts))
        found["embed"][i] = dense[target]
        pure = settings | {"w_search": 0.0, "w_rerank": 1.0}
        found["embed + rerank"][i] = ranks(rerank(cosine[i], pairs, pure))[target]
        found["BM25 + embed"][i] = ranks(hybrid)[target]
        found["all fused"][i] = ranks(rerank(hybrid, pairs, settings))[target]
    return questions, found


DEFAULTS = {"k": 60, "w_bm25": 1.0, "w_embed": 1.0, "k_rerank": 60, "w_search": 1.0, "w_rerank": 1.0}


def table(questions: list[dict], found: dict[str, np.ndarray]) -> dict:
    kinds = np.array([question["kind"] for question in questions])
    return {
        kind: {name: measures(values[kinds == kind]) for name, values in found.items()} for kind in ("lexical", "paraphrased")
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
    parser.add_argument("--print-only", action="store_true")
    arguments = parser.parse_args()
    path = HERE / "results.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    settings = saved.get("settings", DEFAULTS)
    questions, found = systems(arguments.split, settings)
    results = table(questions, found)
    show(results)
    if not arguments.print_only:
        saved["settings"] = settings
        saved[arguments.split] = {"passages": len(load_split(arguments.split)[0]), "questions": len(questions), "results": results}
        path.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
