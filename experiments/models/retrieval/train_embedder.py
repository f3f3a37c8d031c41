"""Make the bi-encoder: the lexicon's graph gives the vectors, contrastive training the weights.

    python train_embedder.py [--steps 300] [--table-rate 0] [--weight-rate 5e-3]

The vectors are the spectral embedding of the lexicon's graph: the leading eigenvectors of its normalised adjacency A, scaled so
that inner products are those of (I/2 + A/2)^8, eight steps of a lazy random walk. Training then compares each question with
its passage, the other passages of the batch and the hard negatives (InfoNCE, both directions).
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from tokenizers import Tokenizer
from torch.nn import functional as F

from bags import BagSampler
from check_eval import read_jsonl
from embedder import Embedder, EmbedderConfig, save
from lexicon import Lexicon, read_lexicon
from text import STOP_WORDS

HERE = Path(__file__).parent
OUT = HERE / "out"
LAZY_STEPS = 4
BATCH = 256
TEMPERATURE = 0.05
# Weights before training: a function word or punctuation mark, a piece of an unknown word.
FUNCTION_WEIGHT, PIECE_WEIGHT = 0.01, 0.35


def spectral_embeddings(lexicon: Lexicon, size: int) -> np.ndarray:
    """Unit rows for the lexicon's words. Kept in out/, since the decomposition takes minutes. [W, D]"""
    cached = OUT / "spectral.npz"
    if cached.exists():
        saved = np.load(cached)
        if saved["words"].tolist() == lexicon.vocabulary and saved["nnz"] == lexicon.adjacency.nnz:
            return saved["rows"]
    values, vectors = eigsh(lexicon.adjacency, k=size, which="LA", v0=np.ones(len(lexicon.vocabulary)))
    rows = vectors * (0.5 + 0.5 * values) ** LAZY_STEPS
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    np.savez(cached, words=lexicon.vocabulary, nnz=lexicon.adjacency.nnz, rows=rows)
    return rows


def initialise(model: Embedder, tokenizer: Tokenizer, lexicon: Lexicon) -> None:
    """Words of the lexicon at their place in the graph, frequent ones lighter; other tokens in random directions."""
    size = model.config.hidden_size
    model.table.weight.data.copy_(F.normalize(torch.randn(model.config.num_rows, size), dim=-1))
    log_weight = model.log_weight.weight.data[:, 0]
    log_weight.fill_(math.log(PIECE_WEIGHT))
    degree = np.diff(lexicon.adjacency.indptr)
    for i, (word, vector) in enumerate(zip(lexicon.vocabulary, spectral_embeddings(lexicon, size), strict=True)):
        row = model.rows[tokenizer.token_to_id(word)]
        model.table.weight.data[row] = torch.from_numpy(vector).float()
        log_weight[row] = -0.25 * math.log(degree[i])
    for token, id in tokenizer.get_vocab().items():
        if token in STOP_WORDS or not token.strip("#").isalnum():
            log_weight[model.rows[id]] = math.log(FUNCTION_WEIGHT)


def pad(rows: list[list[int]]) -> torch.Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def contrastive_loss(model: Embedder, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    questions, passages, negatives = (model(ids) for ids in batch)
    scores = questions @ torch.cat([passages, negatives]).T / TEMPERATURE
    target = torch.arange(len(questions))
    return F.cross_entropy(scores, target) + 0.5 * F.cross_entropy(scores[:, : len(questions)].T, target)


def reciprocal_rank(model: Embedder, batch: tuple[torch.Tensor, ...]) -> float:
    """Mean reciprocal rank of the right passage among all passages and negatives of the batch."""
    with torch.no_grad():
        questions, passages, negatives = (model(ids) for ids in batch)
        scores = questions @ torch.cat([passages, negatives]).T
        better = (scores > scores.diagonal()[:, None]).sum(dim=1)
        return float((1 / (1 + better)).mean())


def dev_ranks(model: Embedder, tokenizer: Tokenizer) -> dict[str, float]:
    """Mean reciprocal rank on the dev split, for each kind of question."""
    documents, questions = (read_jsonl(HERE / "dev" / f"{name}.jsonl") for name in ("documents", "questions"))
    with torch.no_grad():
        passages = model(pad([e.ids for e in tokenizer.encode_batch([document["text"] for document in documents])]))
        asked = model(pad([e.ids for e in tokenizer.encode_batch([question["question"] for question in questions])]))
    scores = asked @ passages.T
    order = [document["id"] for document in documents]
    target = torch.tensor([order.index(question["document"]) for question in questions])
    reciprocal = 1 / (1 + (scores > scores.gather(1, target[:, None])).sum(dim=1))
    return {
        kind: round(float(reciprocal[[question["kind"] == kind for question in questions]].mean()), 3)
        for kind in ("lexical", "paraphrased")
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--table-rate", type=float, default=0.0)
    parser.add_argument("--weight-rate", type=float, default=5e-3)
    parser.add_argument("--out", default=str(OUT / "embedder.pt"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(OUT / "tokenizer.json"))
    rows = torch.tensor(json.loads((OUT / "rows.json").read_text()))
    lexicon = read_lexicon()
    model = Embedder(EmbedderConfig(num_rows=int(rows.max()) + 1), rows)
    initialise(model, tokenizer, lexicon)
    sampler = BagSampler(lexicon, tokenizer, seed=1)
    held_out = BagSampler(lexicon, tokenizer, seed=2).batch(512)
    print(f"step 0 held-out MRR {reciprocal_rank(model, held_out):.4f} dev MRR {dev_ranks(model, tokenizer)}", flush=True)
    model.table.weight.requires_grad_(arguments.table_rate > 0)
    groups = [{"params": [model.log_weight.weight], "lr": arguments.weight_rate}]
    if arguments.table_rate > 0:
        groups.append({"params": [model.table.weight], "lr": arguments.table_rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, foreach=True)
    started, running = time.monotonic(), 0.0
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group.setdefault("peak", group["lr"])
            group["lr"] = group["peak"] * min(1, (step + 1) / 50) * (1 - step / arguments.steps)
        loss = contrastive_loss(model, sampler.batch(BATCH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
        if (step + 1) % 50 == 0:
            print(
                f"step {step + 1} loss {running / 50:.4f} held-out MRR {reciprocal_rank(model, held_out):.4f} "
                f"dev MRR {dev_ranks(model, tokenizer)} {time.monotonic() - started:.0f} s",
                flush=True,
            )
            running = 0.0
    save(arguments.out, model)


if __name__ == "__main__":
    main()
