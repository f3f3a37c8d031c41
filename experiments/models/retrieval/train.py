"""Fits the token vectors by least squares: the mean of a text's vectors, scaled to length 1, shall be what the teacher makes of the text, for
all texts at once. A linear problem for given lengths, which are those of the round before; solved by conjugate gradients in seconds.

    python train.py      writes out/embedder.npy, [tokens, 256] f32: a text is the sum of its rows, scaled to length 1
"""

import json

import numpy as np
import scipy.sparse as sp
from tokenizers import Tokenizer

from texts import OUT

DIMENSIONS = 256
#: a of a / (a + p), the weight that a token with the probability p starts with (SIF).
SIF = 3e-4
#: What holds a token's vector to where it started, as a share of what the texts that have it say.
RIDGE = 0.1
ROUNDS, STEPS = 2, 10


def bags_of(texts: list[str]) -> sp.csr_matrix:
    """Texts as sparse rows of token counts."""
    tokenizer = Tokenizer.from_file(str(OUT / "tokenizer.json"))
    ids = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    rows = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
    columns = np.concatenate([np.asarray(row, int) for row in ids])
    shape = (len(ids), tokenizer.get_vocab_size())
    bags = sp.csr_matrix((np.ones(len(columns), np.float32), (rows, columns)), shape=shape)
    bags.sum_duplicates()
    return bags


def initial(tokens: np.ndarray, components: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The teacher's token vectors in the components, times the tokens' SIF weights."""
    rows = (tokens - tokens.mean(axis=0)) @ components
    rows /= np.linalg.norm(rows, axis=1).mean()
    probability = (counts + 1) / (counts.sum() + len(tokens))
    return (rows * (SIF / (SIF + probability))[:, None]).astype(np.float32)


def least_squares(bags: sp.csr_matrix, wanted: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Rows [tokens, dimensions] whose sums, scaled to length 1, are nearest to `wanted` [texts, dimensions]."""
    rows = start
    for _ in range(ROUNDS):
        lengths = np.maximum(np.linalg.norm(bags @ rows, axis=1), 1e-3)
        scaled = sp.diags(1 / lengths) @ bags
        counts = np.asarray((scaled.multiply(scaled)).sum(0)).ravel()[:, None]
        # Tokens that no text has stay where they are; rare ones go from there.
        ridge = RIDGE * (counts + counts[counts > 0].mean() * 0.1)
        residual = scaled.T @ (wanted - scaled @ rows) + ridge * (start - rows)
        # Preconditioned by the diagonal: tokens differ in frequency by five orders.
        scale = 1 / (counts + ridge)
        preconditioned = scale * residual
        direction = preconditioned.copy()
        product = (residual * preconditioned).sum(0)
        rows = rows.copy()
        for _ in range(STEPS):
            image = scaled.T @ (scaled @ direction) + ridge * direction
            step = product / np.maximum((direction * image).sum(0), 1e-12)
            rows += step * direction
            residual -= step * image
            preconditioned = scale * residual
            following = (residual * preconditioned).sum(0)
            direction = preconditioned + (following / np.maximum(product, 1e-12)) * direction
            product = following
        given = bags @ rows
        given /= np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1e-6)
        print(f"mean cosine with the teacher: {(given * wanted).sum(1).mean():.3f}", flush=True)
    return rows.astype(np.float32)


def main() -> None:
    taught = np.load(OUT / "vectors.npy").astype(np.float32)
    known = np.nonzero(taught.any(axis=1))[0]
    texts = [json.loads(line) for line in (OUT / "texts.jsonl").open()]
    bags, taught = bags_of([texts[row] for row in known]), taught[known]
    print(f"{len(known)} texts")
    # The components of the texts' vectors about zero, not about their mean: it is their cosines that are to be kept.
    _, vectors = np.linalg.eigh(taught.T @ taught)
    components = vectors[:, ::-1][:, :DIMENSIONS].astype(np.float32)
    wanted = taught @ components
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    start = initial(np.load(OUT / "tokens.npy"), components, np.asarray(bags.sum(0)).ravel())
    np.save(OUT / "embedder.npy", least_squares(bags, wanted, start))


if __name__ == "__main__":
    main()
