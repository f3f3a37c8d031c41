"""BM25, reciprocal rank fusion, and the two measures with their bootstrap intervals."""

import math
from collections import Counter

import numpy as np

from text import content_stems

K1, B = 1.2, 0.75


class Bm25:
    """Okapi BM25 over stemmed content words, idf = ln(1 + (N - n + 0.5) / (n + 0.5))."""

    def __init__(self, texts: list[str]) -> None:
        self.counts = [Counter(content_stems(text)) for text in texts]
        self.lengths = np.array([sum(counts.values()) for counts in self.counts])
        frequency = Counter(term for counts in self.counts for term in counts)
        self.idf = {term: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for term, n in frequency.items()}

    def scores(self, query: str) -> np.ndarray:
        norm = K1 * (1 - B + B * self.lengths / self.lengths.mean())
        total = np.zeros(len(self.counts))
        for term in content_stems(query):
            if term in self.idf:
                tf = np.array([counts[term] for counts in self.counts])
                total += self.idf[term] * tf * (K1 + 1) / (tf + norm)
        return total


def ranks(scores: np.ndarray, drop_zero: bool = False) -> np.ndarray:
    """Rank of every document, 1 for the best; equal scores keep document order. A dropped document has rank infinity."""
    order = np.argsort(-scores, kind="stable")
    result = np.empty(len(scores))
    result[order] = np.arange(1, len(scores) + 1)
    if drop_zero:
        result[scores <= 0] = np.inf
    return result


def fuse(rankings: list[np.ndarray], weights: list[float], k: float) -> np.ndarray:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009), with a weight for each ranking."""
    return sum(weight / (k + ranking) for ranking, weight in zip(rankings, weights, strict=True))


def measures(found_ranks: np.ndarray, resamples: int = 10_000, seed: int = 0) -> dict[str, list[float]]:
    """recall@5 and mean reciprocal rank as [value, low, high]; percentile bootstrap over questions, 95 %."""
    samples = np.random.default_rng(seed).integers(len(found_ranks), size=(resamples, len(found_ranks)))
    result = {}
    for name, values in (("recall@5", (found_ranks <= 5).astype(float)), ("mrr", 1 / found_ranks)):
        means = values[samples].mean(axis=1)
        result[name] = [round(float(x), 4) for x in (values.mean(), *np.percentile(means, [2.5, 97.5]))]
    return result
