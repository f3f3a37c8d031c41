"""Does contrastive training improve the spectral embedding? Four sets of parameters, trained on pairs from text and from the graph.

    python tune_embedder.py [--steps 300]          # embedder-tuning.json: dev MRR before and after, with the interval of the difference

Every arm starts from out/embedder.pt (train_embedder.py --steps 0) and is stopped where its loss on held-out pairs is lowest, not
where dev is: dev is what the arms are compared on.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from bags import BagSampler
from check_eval import read_jsonl
from embedder import Embedder, load
from lexicon import read_lexicon
from pairs import build
from train_embedder import TEMPERATURE, pad

HERE = Path(__file__).parent
OUT = HERE / "out"
BATCH = 128
HELD_OUT = 256
EVERY = 25

# Learning rates of: a scale for each dimension, the token weights, a linear map added to the identity, the token vectors.
ARMS = {
    "dimension scales": {"scale": 1e-2},
    "token weights": {"weight": 5e-3},
    "dimension scales + token weights": {"scale": 1e-2, "weight": 5e-3},
    "linear map": {"map": 3e-4},
    "token vectors": {"table": 3e-5},
}


class Tuned(nn.Module):
    """The embedder with a scale for each dimension and a linear map: both could be folded into its table."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = copy.deepcopy(embedder)
        size = embedder.config.hidden_size
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.map = nn.Parameter(torch.zeros(size, size))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        weights = self.embedder.weigh(ids)
        rows = self.embedder.rows[ids]
        pooled = F.embedding_bag(rows, self.embedder.table.weight, mode="sum", per_sample_weights=weights)
        pooled = pooled * torch.exp(self.log_scale)
        return F.normalize(pooled + pooled @ self.map, dim=-1)


def loss_of(model: Tuned, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    questions, passages, negatives = (model(ids) for ids in batch)
    scores = questions @ torch.cat([passages, negatives]).T / TEMPERATURE
    return F.cross_entropy(scores, torch.arange(len(questions)))


def dev_reciprocal_ranks(model: Tuned, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """1 / rank of each dev question's passage, by kind of question."""
    documents, questions = (read_jsonl(HERE / "dev" / f"{name}.jsonl") for name in ("documents", "questions"))
    encode = lambda texts: pad([e.ids for e in tokenizer.encode_batch(texts)])  # noqa: E731
    with torch.no_grad():
        scores = model(encode([q["question"] for q in questions])) @ model(encode([d["text"] for d in documents])).T
    order = [document["id"] for document in documents]
    target = torch.tensor([order.index(question["document"]) for question in questions])
    reciprocal = (1 / (1 + (scores > scores.gather(1, target[:, None])).sum(dim=1))).numpy()
    kinds = np.array([question["kind"] for question in questions])
    return {kind: reciprocal[kinds == kind] for kind in ("lexical", "paraphrased")}


def difference_interval(after: np.ndarray, before: np.ndarray) -> list[float]:
    """Mean of the paired differences with its 95 % bootstrap interval."""
    difference = after - before
    random_state = np.random.default_rng(0)
    means = difference[random_state.integers(0, len(difference), (10_000, len(difference)))].mean(axis=1)
    return [round(float(v), 4) for v in (difference.mean(), *np.quantile(means, [0.025, 0.975]))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(OUT / "tokenizer.json"))
    start = load(str(OUT / "embedder.pt"), json.loads((OUT / "rows.json").read_text()))
    made = build(num_prose=600, seed=1)
    ids = [[tokenizer.encode(text).ids for text in (pair.question, pair.passage, pair.negative)] for pair in made]
    text_held_out = tuple(pad([row[i] for row in ids[:HELD_OUT]]) for i in range(3))
    ids = ids[HELD_OUT:]
    lexicon = read_lexicon()
    bag_held_out = BagSampler(lexicon, tokenizer, seed=2).batch(HELD_OUT)
    before = dev_reciprocal_ranks(Tuned(start), tokenizer)
    report: dict = {
        "pairs": len(ids),
        "before": {kind: round(float(values.mean()), 4) for kind, values in before.items()},
        "arms": {},
    }
    print(report, flush=True)
    for source in ("text", "text and graph"):
        for name, rates in ARMS.items():
            torch.manual_seed(0)
            random_state = np.random.default_rng(0)
            model = Tuned(start)
            parameters = {
                "scale": model.log_scale,
                "weight": model.embedder.log_weight.weight,
                "map": model.map,
                "table": model.embedder.table.weight,
            }
            for key, parameter in parameters.items():
                parameter.requires_grad_(key in rates)
            optimizer = torch.optim.AdamW([{"params": [parameters[key]], "lr": rate} for key, rate in rates.items()], weight_decay=0.0)
            sampler = BagSampler(lexicon, tokenizer, seed=1)

            def held_out_loss(model: Tuned = model, source: str = source) -> float:
                with torch.no_grad():
                    loss = loss_of(model, text_held_out)
                    return float(loss if source == "text" else loss + loss_of(model, bag_held_out))

            first = held_out_loss()
            best, best_step, kept = first, 0, copy.deepcopy(model.state_dict())
            started = time.monotonic()
            for step in range(1, arguments.steps + 1):
                picked = [ids[i] for i in random_state.integers(0, len(ids), BATCH)]
                loss = loss_of(model, tuple(pad([row[i] for row in picked]) for i in range(3)))
                if source != "text":
                    loss = loss + loss_of(model, sampler.batch(BATCH))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % EVERY == 0:
                    now = held_out_loss()
                    if now < best:
                        best, best_step, kept = now, step, copy.deepcopy(model.state_dict())
            model.load_state_dict(kept)
            after = dev_reciprocal_ranks(model, tokenizer)
            result = {
                "steps": best_step,
                "held-out loss": [round(first, 3), round(best, 3)],
                "seconds": round(time.monotonic() - started),
                **{
                    kind: {"mrr": round(float(values.mean()), 4), "difference": difference_interval(values, before[kind])}
                    for kind, values in after.items()
                },
            }
            report["arms"][f"{name}, {source}"] = result
            print(name, source, result, flush=True)
            (HERE / "embedder-tuning.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
