"""Train the bi-encoder: a static phase on the embeddings alone, then the whole network.

    python train_embedder.py [--static-steps 3000] [--pairs 60000] [--steps 400]

The embeddings start as the spectral embedding of the lexicon's graph: the leading eigenvectors of its normalised adjacency A,
scaled so that inner products are those of (I/2 + A/2)^8, eight steps of a lazy random walk.
Loss: softmax over the in-batch passages and hard negatives at a temperature, both directions (InfoNCE).
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from tokenizers import Tokenizer
from torch.nn import functional as F

from bags import BagSampler
from check_eval import read_jsonl
from embedder import Encoder, EncoderConfig, save
from lexicon import Lexicon, read_lexicon
from pairs import PairGenerator
from text import STOP_WORDS

HERE = Path(__file__).parent
OUT = HERE / "out"
TEMPERATURE = 0.05
LAZY_STEPS = 4


def spectral_embeddings(lexicon: Lexicon, size: int) -> np.ndarray:
    """Unit rows for the lexicon's words: eigenvectors of the graph, scaled by LAZY_STEPS steps of a lazy random walk. [W, D]"""
    values, vectors = eigsh(lexicon.adjacency, k=size, which="LA", v0=np.ones(len(lexicon.vocabulary)))
    rows = vectors * (0.5 + 0.5 * values) ** LAZY_STEPS
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def initialise(model: Encoder, tokenizer: Tokenizer, lexicon: Lexicon) -> None:
    """Words of the lexicon at their place in the graph, frequent ones lighter; other tokens in random directions."""
    size = model.config.hidden_size
    model.table.weight.data.copy_(F.normalize(torch.randn(model.config.num_rows, size), dim=-1))
    log_weight = model.log_weight.weight.data[:, 0]
    log_weight.fill_(math.log(0.35))
    degree = np.diff(lexicon.adjacency.indptr)
    for i, (word, vector) in enumerate(zip(lexicon.vocabulary, spectral_embeddings(lexicon, size), strict=True)):
        row = model.rows[tokenizer.token_to_id(word)]
        model.table.weight.data[row] = torch.from_numpy(vector).float()
        log_weight[row] = -0.25 * math.log(degree[i])
    for word in STOP_WORDS:
        log_weight[model.rows[tokenizer.token_to_id(word)]] = math.log(0.01)
    for token, id in tokenizer.get_vocab().items():
        if not token.strip("#").isalnum():
            log_weight[model.rows[id]] = math.log(0.01)


def encode(tokenizer: Tokenizer, texts: list[str], max_length: int) -> list[list[int]]:
    return [encoding.ids[:max_length] for encoding in tokenizer.encode_batch(texts)]


def pad(rows: list[list[int]]) -> torch.Tensor:
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


def text_batches(tokenizer: Tokenizer, count: int, seed: int) -> list[tuple[list[int], ...]]:
    """Rendered pairs as token ids: question, passage, hard negative."""
    generator = PairGenerator(seed)
    pairs = [generator.pair() for _ in range(count)]
    columns = (
        encode(tokenizer, [pair.question for pair in pairs], 48),
        encode(tokenizer, [pair.passage for pair in pairs], 96),
        encode(tokenizer, [pair.negative for pair in pairs], 96),
    )
    return list(zip(*columns, strict=True))


def collate(rows: list[tuple[list[int], ...]]) -> tuple[torch.Tensor, ...]:
    return tuple(pad(list(column)) for column in zip(*rows, strict=True))


def contrastive_loss(model: Encoder, batch: tuple[torch.Tensor, ...], static: bool) -> torch.Tensor:
    questions, passages, negatives = (model(ids, ids > 0, static) for ids in batch)
    scores = questions @ torch.cat([passages, negatives]).T / TEMPERATURE
    target = torch.arange(len(questions))
    return F.cross_entropy(scores, target) + 0.5 * F.cross_entropy(scores[:, : len(questions)].T, target)


def reciprocal_rank(model: Encoder, batch: tuple[torch.Tensor, ...], static: bool) -> float:
    """Mean reciprocal rank of the right passage among all passages and negatives of the batch."""
    with torch.no_grad():
        questions, passages, negatives = (model(ids, ids > 0, static) for ids in batch)
        scores = questions @ torch.cat([passages, negatives]).T
        better = (scores > scores.diagonal()[:, None]).sum(dim=1)
        return float((1 / (1 + better)).mean())


def dev_ranks(model: Encoder, tokenizer: Tokenizer, static: bool) -> dict[str, float]:
    """Mean reciprocal rank on the dev split, for each kind of question."""
    documents, questions = (read_jsonl(HERE / "dev" / f"{name}.jsonl") for name in ("documents", "questions"))
    with torch.no_grad():
        ids = pad(encode(tokenizer, [document["text"] for document in documents], 200))
        passages = model(ids, ids > 0, static)
        ids = pad(encode(tokenizer, [question["question"] for question in questions], 64))
        scores = model(ids, ids > 0, static) @ passages.T
    result = {}
    for kind in ("lexical", "paraphrased"):
        rows = [i for i, question in enumerate(questions) if question["kind"] == kind]
        target = [[document["id"] for document in documents].index(questions[i]["document"]) for i in rows]
        better = (scores[rows] > scores[rows, target][:, None]).sum(dim=1)
        result[kind] = round(float((1 / (1 + better)).mean()), 3)
    return result


def train(
    model: Encoder, next_batch: Callable, held_out: tuple, tokenizer: Tokenizer, steps: int, rates: dict[str, float], static: bool
) -> None:
    groups = [
        {"params": [p for n, p in model.named_parameters() if n.startswith("table")], "lr": rates["table"]},
        {"params": [p for n, p in model.named_parameters() if n.startswith("log_weight")], "lr": rates["weight"]},
        {"params": [*model.layers.parameters(), *model.position.parameters()], "lr": rates["layers"]},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (0.02 + 0.98 * (1 - step / steps))
    )
    started, running = time.monotonic(), 0.0
    for step in range(steps):
        loss = contrastive_loss(model, next_batch(), static)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if (step + 1) % 100 == 0:
            shown = reciprocal_rank(model, held_out, static)
            dev = dev_ranks(model, tokenizer, static)
            print(
                f"step {step + 1} loss {running / 100:.4f} held-out MRR {shown:.4f} dev MRR {dev} "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
            running = 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--static-steps", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=60_000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--table-rate", type=float, default=1e-4)
    parser.add_argument("--weight-rate", type=float, default=5e-3)
    parser.add_argument("--out", default=str(OUT / "embedder.pt"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(OUT / "tokenizer.json"))
    rows = torch.tensor(json.loads((OUT / "rows.json").read_text()))
    lexicon = read_lexicon()
    model = Encoder(EncoderConfig(num_rows=int(rows.max()) + 1), rows)
    initialise(model, tokenizer, lexicon)
    sampler = BagSampler(lexicon, tokenizer, seed=1)
    held_out = BagSampler(lexicon, tokenizer, seed=2).batch(512)
    start = reciprocal_rank(model, held_out, True)
    print(f"graph embeddings: held-out MRR {start:.4f} dev MRR {dev_ranks(model, tokenizer, True)}", flush=True)
    rates = {"table": arguments.table_rate, "weight": arguments.weight_rate, "layers": 0.0}
    if arguments.static_steps:
        train(model, lambda: sampler.batch(512), held_out, tokenizer, arguments.static_steps, rates, static=True)
    save(str(OUT / "embedder-static.pt"), model)
    if arguments.steps:
        data, text_held_out = text_batches(tokenizer, arguments.pairs, seed=3), text_batches(tokenizer, 256, seed=4)
        order = np.random.default_rng(5)

        def next_batch() -> tuple[torch.Tensor, ...]:
            return collate([data[i] for i in order.integers(len(data), size=128)])

        rates = {"table": 1e-4, "weight": 1e-3, "layers": 5e-4}
        train(model, next_batch, collate(text_held_out), tokenizer, arguments.steps, rates, static=False)
    save(arguments.out, model)


if __name__ == "__main__":
    main()
