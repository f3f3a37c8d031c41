"""Trains the token vectors: distillation of the teacher's similarities, and contrast of queries with passages. Plain numpy and sparse
matrices, with the gradients by hand: a step takes a tenth of a second.

    python train.py [--steps 500]      writes out/embedder.npy, [tokens, 256] f32: a text is the sum of its rows, scaled to length 1
"""

import argparse
import json

import numpy as np
import scipy.sparse as sp
from tokenizers import Tokenizer

from teacher import TEACHER_FOLDER
from texts import OUT, pairs, read_sections

DIMENSIONS = 256
#: a of a / (a + p), the weight of a token with the probability p.
SIF = 3e-4
BATCH = 512
TEMPERATURE = 0.05
#: Share of the words that query and passage have in common which the query loses.
DROPPED = 0.5
DISTILLATION, CONTRAST = 2.0, 0.25
LEARNING_RATE = 6e-3
WARM_UP = 20
MAX_PASSAGE_TOKENS = 256


class Bags:
    """Texts as sparse rows of token counts."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_file(str(TEACHER_FOLDER / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.size = self.tokenizer.get_vocab_size()

    def of(self, texts: list[str], max_tokens: int = 10_000) -> sp.csr_matrix:
        ids = [e.ids[:max_tokens] for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        rows = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
        columns = np.concatenate([np.asarray(row, int) for row in ids])
        bags = sp.csr_matrix((np.ones(len(columns), np.float32), (rows, columns)), shape=(len(ids), self.size))
        bags.sum_duplicates()
        return bags


def initial(tokens: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Principal components of the teacher's token vectors, times the tokens' SIF weights."""
    centred = tokens - tokens.mean(axis=0)
    sample = centred[np.random.RandomState(0).permutation(len(tokens))[:12_000]]
    _, _, components = np.linalg.svd(sample, full_matrices=False)
    rows = centred @ components[:DIMENSIONS].T
    rows /= np.linalg.norm(rows, axis=1).mean()
    probability = (counts + 1) / (counts.sum() + len(tokens))
    return (rows * (SIF / (SIF + probability))[:, None]).astype(np.float32)


def forward(bags: sp.csr_matrix, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of texts, and the lengths before."""
    sums = bags @ rows
    lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    return sums / lengths, lengths


def backward(gradient: np.ndarray, vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Through the scaling to length 1."""
    return (gradient - (gradient * vectors).sum(1, keepdims=True) * vectors) / lengths


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def without_shared(queries: sp.csr_matrix, passages: sp.csr_matrix, rng: np.random.RandomState) -> sp.csr_matrix:
    """Queries without some of the tokens that their passages have; those that would have fewer than two left stay."""
    shared = queries.multiply(passages > 0).tocsr()
    shared.data = (rng.rand(len(shared.data)) < DROPPED).astype(np.float32) * shared.data
    fewer = (queries - shared).tocsr()
    is_long = (np.asarray(fewer.sum(1)).ravel() >= 2).astype(np.float32)
    return (sp.diags(is_long) @ fewer + sp.diags(1 - is_long) @ queries).tocsr()


def contrast(queries: sp.csr_matrix, passages: sp.csr_matrix, rows: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and gradient [tokens, dimensions]: each query shall find its passage among all of the batch, and the other way round."""
    asked, asked_lengths = forward(queries, rows)
    found, found_lengths = forward(passages, rows)
    scores = asked @ found.T / TEMPERATURE
    by_query, by_passage = softmax(scores), softmax(scores.T).T
    loss = float(-np.log(np.diag(by_query) + 1e-9).mean())
    slope = (by_query + by_passage - 2 * np.eye(len(scores), dtype=np.float32)) / (2 * len(scores) * TEMPERATURE)
    gradient = queries.T @ backward(slope @ found, asked, asked_lengths)
    gradient += passages.T @ backward(slope.T @ asked, found, found_lengths)
    return loss, gradient


def distillation(bags: sp.csr_matrix, teacher: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and gradient: the similarities of each text to the others of the batch spread as the teacher's do."""
    vectors, lengths = forward(bags, rows)
    wanted, scores = teacher @ teacher.T / TEMPERATURE, vectors @ vectors.T / TEMPERATURE
    for matrix in (wanted, scores):
        np.fill_diagonal(matrix, -1e4)
    wanted, given = softmax(wanted), softmax(scores)
    loss = float((wanted * (np.log(wanted + 1e-9) - np.log(given + 1e-9))).sum(1).mean())
    slope = (given - wanted) / (len(wanted) * TEMPERATURE)
    return loss, bags.T @ backward((slope + slope.T) @ vectors, vectors, lengths)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=500)
    steps = parser.parse_args().steps
    rng = np.random.RandomState(0)
    bags = Bags()
    asked, answers = zip(*pairs(read_sections()))
    queries, passages = bags.of(list(asked)), bags.of(list(answers), MAX_PASSAGE_TOKENS)
    taught = np.load(OUT / "vectors.npy").astype(np.float32)
    known = np.nonzero(taught.any(axis=1))[0]
    texts = [json.loads(line) for line in (OUT / "texts.jsonl").open()]
    learned, taught = bags.of([texts[row] for row in known]), taught[known]
    rows = initial(np.load(OUT / "tokens.npy"), np.asarray(passages.sum(0)).ravel())
    mean, square = np.zeros_like(rows), np.zeros(len(rows), np.float32)
    print(f"{queries.shape[0]} pairs, {len(known)} texts")
    for step in range(steps):
        pair = rng.choice(queries.shape[0], BATCH, replace=False)
        text = rng.choice(len(known), BATCH, replace=False)
        shorter = without_shared(queries[pair], passages[pair], rng)
        contrast_loss, by_contrast = contrast(shorter, passages[pair], rows)
        distillation_loss, by_teacher = distillation(learned[text], taught[text], rows)
        gradient = CONTRAST * by_contrast + DISTILLATION * by_teacher
        # Adam with one second moment for each row, of the rows that the batch has.
        touched = np.nonzero(np.abs(gradient).sum(1))[0]
        gradient = gradient[touched]
        mean[touched] = 0.9 * mean[touched] + 0.1 * gradient
        square[touched] = 0.99 * square[touched] + 0.01 * (gradient * gradient).mean(1)
        rate = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 - step / steps)
        rows[touched] -= rate * mean[touched] / (np.sqrt(square[touched])[:, None] + 1e-8)
        if step % 50 == 49:
            print(f"{step + 1}: contrast {contrast_loss:.3f}, distillation {distillation_loss:.3f}", flush=True)
    np.save(OUT / "embedder.npy", rows)


if __name__ == "__main__":
    main()
