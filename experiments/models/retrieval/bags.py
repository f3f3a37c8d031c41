"""Endless batches of word bags drawn from the lexicon's graph, for the static phase: no text, no order, never the same twice."""

import numpy as np
import torch
from tokenizers import Tokenizer

from lexicon import Lexicon, inflections, irregular_forms
from text import STOP_WORDS

FACTS, FACT_WORDS = 5, 4
PASSAGE_NOISE, PASSAGE_FUNCTION, PASSAGE_PIECES = 10, 16, 4
QUESTION_WORDS, QUESTION_FUNCTION = 4, 4
PAD = 0


class BagSampler:
    def __init__(self, lexicon: Lexicon, tokenizer: Tokenizer, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        matrix = lexicon.adjacency
        self.indices = matrix.indices
        size = len(lexicon.vocabulary)
        sums = np.asarray(matrix.sum(axis=1)).ravel()
        row_of = np.repeat(np.arange(size), np.diff(matrix.indptr))
        within = np.cumsum(matrix.data / sums[row_of])
        starts = np.concatenate([[0.0], within])[matrix.indptr[:-1]]
        # Strictly increasing over the whole matrix: row i covers (i, i + 1].
        self.cumulative = row_of + np.clip(within - starts[row_of], 0, 1)
        self.row_end = matrix.indptr[1:] - 1
        degree = np.diff(matrix.indptr) ** 0.75
        self.frequency = np.cumsum(degree / degree.sum())
        self.function = np.array([tokenizer.token_to_id(word) for word in sorted(STOP_WORDS)])
        known = set(lexicon.vocabulary) | STOP_WORDS
        vocab = tokenizer.get_vocab()
        self.pieces = np.array([id for token, id in vocab.items() if token.startswith("##") or len(token) <= 3 and token not in known])
        irregular: dict[str, list[str]] = {}
        for form, base in irregular_forms().items():
            irregular.setdefault(base, []).append(form)
        forms = [
            [word, word, *irregular.get(word, [] if word in STOP_WORDS else inflections(word)[:3])] for word in lexicon.vocabulary
        ]
        self.num_forms = np.array([len(row) for row in forms])
        self.forms = np.zeros((size, self.num_forms.max()), dtype=np.int64)
        for i, row in enumerate(forms):
            self.forms[i, : len(row)] = [vocab[form] for form in row]

    def words(self, shape: tuple[int, ...]) -> np.ndarray:
        """Random words, frequent ones more often."""
        return np.minimum(np.searchsorted(self.frequency, self.random.random(shape)), len(self.num_forms) - 1)

    def step(self, nodes: np.ndarray) -> np.ndarray:
        """One step of a weighted random walk from every node."""
        found = np.searchsorted(self.cumulative, nodes + self.random.random(nodes.shape))
        return self.indices[np.minimum(found, self.row_end[nodes])]

    def tokens(self, nodes: np.ndarray) -> np.ndarray:
        """A random inflection of every word."""
        pick = (self.random.random(nodes.shape) * self.num_forms[nodes]).astype(np.int64)
        return self.forms[nodes, pick]

    def drop(self, ids: np.ndarray, share: float) -> np.ndarray:
        return np.where(self.random.random(ids.shape) < share, PAD, ids)

    def passage(self, subject: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Words of the facts [B, FACTS, FACT_WORDS] and token ids [B, T]."""
        batch = len(subject)
        anchors = self.step(np.repeat(subject[:, None], FACTS, axis=1))
        wander = self.random.random(anchors.shape) < 0.4
        anchors = np.where(wander, self.step(anchors), anchors)
        facts = [anchors]
        for _ in range(FACT_WORDS - 1):
            source = np.where(self.random.random(anchors.shape) < 0.6, anchors, facts[-1])
            facts.append(self.step(source))
        words = np.stack(facts, axis=2)
        tokens = self.tokens(words)
        absent = self.random.integers(0, FACTS - 1, size=batch)[:, None] > np.arange(FACTS)[None]  # leading facts missing
        tokens = np.where(absent[..., None], PAD, tokens)
        noise = self.drop(self.tokens(self.words((batch, PASSAGE_NOISE))), self.random.random())
        function = self.random.choice(self.function, (batch, PASSAGE_FUNCTION))
        pieces = self.drop(self.random.choice(self.pieces, (batch, PASSAGE_PIECES)), 0.6)
        return words, np.concatenate([tokens.reshape(batch, -1), noise, function, pieces], axis=1)

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids of questions, their passages and hard negatives on the same subject, each [B, T]."""
        subject = self.words((size,))
        words, passage = self.passage(subject)
        fact = words[:, -1]  # the last fact is never missing
        sources = np.take_along_axis(fact, self.random.integers(0, FACT_WORDS, size=(size, QUESTION_WORDS)), axis=1)
        asked = self.step(sources)
        farther = self.random.random(asked.shape)
        asked = np.where(farther < 0.5, self.step(asked), asked)
        asked = np.where(farther < 0.2, self.step(asked), asked)
        again = (asked[:, :, None] == words.reshape(size, 1, -1)).any(axis=2)
        asked = np.where(again, self.step(sources), asked)
        again = (asked[:, :, None] == words.reshape(size, 1, -1)).any(axis=2)
        kind = self.random.random((size, 1))
        lexical = self.random.random(asked.shape) < np.where(kind < 0.6, 0.0, np.where(kind < 0.8, 0.5, 0.9))
        ids = self.drop(np.where(again & ~lexical & (kind < 0.6), PAD, self.tokens(np.where(lexical, sources, asked))), 0.15)
        theme = self.drop(self.tokens(self.step(subject))[:, None], 0.5)
        noise = self.drop(self.tokens(self.words((size, 2))), 0.75)
        function = self.random.choice(self.function, (size, QUESTION_FUNCTION))
        named = np.where(kind > 0.7, passage[:, -PASSAGE_PIECES:], PAD)
        question = np.concatenate([ids, theme, noise, function, named], axis=1)
        _, negative = self.passage(subject)
        decoy = self.random.random((size, 1)) < 0.3
        other = np.roll(passage, 1, axis=0).copy()
        other[:, :2] = question[:, :2]
        negative = np.where(decoy, other, negative)
        return tuple(torch.from_numpy(np.ascontiguousarray(ids)) for ids in (question, passage, negative))
