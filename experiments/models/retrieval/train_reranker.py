"""Train the cross-encoder on top of the bi-encoder's static embeddings.

    python train_reranker.py [--steps 600]

Each question is scored against its passage, a hard negative, and the passages that the bi-encoder itself ranks highest among
the batch's other passages: the mistakes the reranker will be shown. Loss: softmax over them.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from bags import BagSampler
from check_eval import read_jsonl
from embedder import Encoder
from embedder import load as load_embedder
from lexicon import read_lexicon
from reranker import Reranker, RerankerConfig, save

HERE = Path(__file__).parent
OUT = HERE / "out"
NEGATIVES = 6


def pair_ids(questions: torch.Tensor, passages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Questions [B, Q] and passages [B, N, P] as rows [B * N, Q + P] with their types."""
    count = passages.shape[1]
    questions = questions[:, None].expand(-1, count, -1)
    ids = torch.cat([questions, passages], dim=2).flatten(0, 1)
    types = torch.zeros_like(ids)
    types[:, questions.shape[2] :] = 1
    return ids, types


def listwise(model: Reranker, embedder: Encoder, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Logits of each question against its passage (first), its hard negative and its hardest in-batch negatives."""
    questions, passages, negatives = batch
    with torch.no_grad():
        scores = embedder(questions, questions > 0, True) @ embedder(passages, passages > 0, True).T
        scores.fill_diagonal_(-2)
        hardest = scores.topk(NEGATIVES, dim=1).indices
    ids, types = pair_ids(questions, torch.cat([passages[:, None], negatives[:, None], passages[hardest]], dim=1))
    return model(ids, (ids > 0).float(), types).reshape(len(questions), -1)


def dev_ranks(model: Reranker, tokenizer: Tokenizer) -> dict[str, float]:
    """Mean reciprocal rank on the dev split when every passage is scored."""
    documents, questions = (read_jsonl(HERE / "dev" / f"{name}.jsonl") for name in ("documents", "questions"))
    ranks: dict[str, list[float]] = {"lexical": [], "paraphrased": []}
    tokenizer.enable_padding()
    with torch.no_grad():
        for question in questions:
            encoded = tokenizer.encode_batch([(question["question"], document["text"]) for document in documents])
            ids, types = (torch.tensor([getattr(e, name) for e in encoded]) for name in ("ids", "type_ids"))
            scores = model(ids, (ids > 0).float(), types).squeeze(-1)
            target = [document["id"] for document in documents].index(question["document"])
            ranks[question["kind"]].append(1 / (1 + float((scores > scores[target]).sum())))
    return {kind: round(sum(values) / len(values), 3) for kind, values in ranks.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(OUT / "tokenizer.json"))
    rows = json.loads((OUT / "rows.json").read_text())
    embedder = load_embedder(str(OUT / "embedder-static.pt"), rows)
    model = Reranker(RerankerConfig(num_rows=max(rows) + 1), torch.tensor(rows))
    model.table.weight.data.copy_(embedder.table.weight)
    model.question_weight.weight.data.copy_(embedder.log_weight.weight)
    model.passage_weight.weight.data.copy_(embedder.log_weight.weight)
    model.combine.weight.data.copy_(torch.tensor([[1.0, 5.0, 10.0]]))
    sampler = BagSampler(read_lexicon(), tokenizer, seed=11)
    held_out = BagSampler(read_lexicon(), tokenizer, seed=12).batch(256)
    optimizer = torch.optim.AdamW(
        [
            {"params": [model.table.weight], "lr": 2e-4},
            {"params": [model.question_weight.weight, model.passage_weight.weight], "lr": 1e-2},
            {"params": [p for name, p in model.named_parameters() if name.startswith(("match", "combine"))], "lr": 5e-3},
        ],
        weight_decay=0.0,
        foreach=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 30) * (0.02 + 0.98 * (1 - step / max(1, arguments.steps)))
    )
    started, running = time.monotonic(), 0.0
    print(f"step 0 dev MRR {dev_ranks(model, tokenizer)}", flush=True)
    for step in range(arguments.steps):
        logits = listwise(model, embedder, sampler.batch(arguments.batch))
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if (step + 1) % 100 == 0:
            with torch.no_grad():
                logits = listwise(model, embedder, held_out)
            right = float((logits.argmax(dim=1) == 0).float().mean())
            seconds = time.monotonic() - started
            print(
                f"step {step + 1} loss {running / 100:.4f} held-out accuracy {right:.3f} dev MRR {dev_ranks(model, tokenizer)} "
                f"{seconds:.0f} s",
                flush=True,
            )
            running = 0.0
    save(str(OUT / "reranker.pt"), model)


if __name__ == "__main__":
    main()
