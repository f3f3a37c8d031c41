"""Train the cross-encoder on top of the bi-encoder's embeddings.

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
from embedder import Embedder
from embedder import load as load_embedder
from lexicon import read_lexicon
from reranker import Reranker, RerankerConfig, save

HERE = Path(__file__).parent
OUT = HERE / "out"
NEGATIVES = 6


def listwise(model: Reranker, embedder: Embedder, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Logits of each question against its passage (first), its hard negative and its hardest in-batch negatives."""
    questions, passages, negatives = batch
    with torch.no_grad():
        scores = embedder(questions) @ embedder(passages).T
        scores.fill_diagonal_(-2)
        hardest = scores.topk(NEGATIVES, dim=1).indices
    rows = torch.cat([passages[:, None], negatives[:, None], passages[hardest]], dim=1)  # [B, N, P]
    repeated = questions.repeat_interleave(rows.shape[1], dim=0)
    return model.compare(repeated, rows.flatten(0, 1)).reshape(len(questions), -1)


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
    parser.add_argument("--weight-rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", default=str(OUT / "reranker.pt"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(OUT / "tokenizer.json"))
    rows = json.loads((OUT / "rows.json").read_text())
    embedder = load_embedder(str(OUT / "embedder.pt"), rows)
    model = Reranker(RerankerConfig(num_rows=max(rows) + 1), torch.tensor(rows))
    model.table.weight.data.copy_(embedder.table.weight)
    model.question_weight.weight.data.copy_(embedder.log_weight.weight)
    model.passage_weight.weight.data.copy_(embedder.log_weight.weight)
    model.combine.weight.data.copy_(torch.tensor([[1.0, 5.0, 10.0]]))
    model.table.weight.requires_grad_(False)
    sampler = BagSampler(read_lexicon(), tokenizer, seed=11)
    held_out = BagSampler(read_lexicon(), tokenizer, seed=12).batch(256)
    optimizer = torch.optim.AdamW(
        [
            {"params": [model.question_weight.weight, model.passage_weight.weight], "lr": arguments.weight_rate},
            {"params": [p for name, p in model.named_parameters() if name.startswith(("match", "combine"))], "lr": 3e-3},
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
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if (step + 1) % 50 == 0:
            with torch.no_grad():
                logits = listwise(model, embedder, held_out)
            right = float((logits.argmax(dim=1) == 0).float().mean())
            seconds = time.monotonic() - started
            print(
                f"step {step + 1} loss {running / 50:.4f} held-out accuracy {right:.3f} dev MRR {dev_ranks(model, tokenizer)} "
                f"{seconds:.0f} s",
                flush=True,
            )
            running = 0.0
    save(arguments.out, model)


if __name__ == "__main__":
    main()
