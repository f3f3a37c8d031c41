"""BM25, for finding hard negatives. What is served and measured is src/rag/bm25.ts."""

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
