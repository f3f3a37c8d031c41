"""Training pairs rendered from the lexicon: a passage of several facts, a question about one of them, a hard negative.

A fact is a word and some of its neighbours in the lexicon. The question names the fact by *other* neighbours of its words, of
which none occurs in the passage (a paraphrased question), by the words themselves (a lexical one), or by both. The hard
negative is either a passage on the same subject with other facts, or a passage on another subject that contains words of the
question (a lexical decoy).
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lexicon import Lexicon, inflections, irregular_forms, read_lexicon
from text import STOP_WORDS, stem

HERE = Path(__file__).parent
PARAPHRASED, MIXED = 0.6, 0.2  # the rest is lexical
NOISE_IN_PASSAGE, NOISE_IN_QUESTION = 0.22, 0.3
NAME_SHARE = 0.2


@dataclass(frozen=True)
class Pair:
    question: str
    passage: str
    negative: str


class PairGenerator:
    """Renders pairs; the same seed gives the same pairs."""

    def __init__(self, seed: int, lexicon: Lexicon | None = None) -> None:
        self.random = random.Random(seed)
        self.lexicon = lexicon or read_lexicon()
        words = self.lexicon.vocabulary
        matrix = self.lexicon.adjacency
        self.neighbours: list[list[int]] = []
        self.weights: list[list[float]] = []
        for i in range(len(words)):
            row = slice(matrix.indptr[i], matrix.indptr[i + 1])
            self.neighbours.append(matrix.indices[row].tolist())
            self.weights.append(matrix.data[row].tolist())
        self.degree = np.diff(matrix.indptr)
        self.cumulative = np.cumsum(self.degree**0.75).tolist()
        self.stems = [stem(word) for word in words]
        irregular: dict[str, list[str]] = {}
        for form, base in irregular_forms().items():
            irregular.setdefault(base, []).append(form)
        self.forms = [
            [word, word, *irregular.get(word, [] if word in STOP_WORDS else inflections(word)[:3])] for word in words
        ]
        lines = (HERE / "templates.txt").read_text(encoding="utf-8").splitlines()
        self.passage_frames = [line[2:].split() for line in lines if line.startswith("p ")]
        self.question_frames = [line[1:].split() for line in lines if line[:1] == "q"]

    def word(self) -> int:
        """A random word, frequent ones more often."""
        return self.random.choices(range(len(self.stems)), cum_weights=self.cumulative)[0]

    def step(self, node: int) -> int:
        return self.random.choices(self.neighbours[node], self.weights[node])[0]

    def name(self) -> str:
        pick = self.random.choice
        return "".join(pick("bdfghklmnprstvw") + pick("aeiou") + pick(["", "", "n", "r", "l", "s"]) for _ in range(pick([2, 2, 3])))

    def fact(self, subject: int) -> list[int]:
        """An anchor near the subject and words near the anchor."""
        anchor = self.step(subject) if self.random.random() < 0.7 else self.step(self.step(subject))
        chosen = [anchor]
        for _ in range(self.random.randint(2, 4)):
            chosen.append(self.step(self.random.choice(chosen)))
        return list(dict.fromkeys(chosen))

    def facts(self, subject: int) -> list[list[int]]:
        return [self.fact(subject) for _ in range(self.random.randint(2, 6))]

    def render(self, facts: list[list[int]], extra: list[str]) -> str:
        """The words of each fact, mixed with noise, in sentence frames."""
        queue = [self.random.choice(self.forms[node]) for fact in facts for node in fact]
        queue += extra
        if self.random.random() < 0.5:
            self.random.shuffle(queue)
        text: list[str] = []
        while queue:
            for part in self.random.choice(self.passage_frames):
                if part != "_":
                    text.append(part)
                elif queue and self.random.random() > NOISE_IN_PASSAGE:
                    text.append(queue.pop())
                else:
                    text.append(self.random.choice(self.forms[self.word()]))
        return " ".join(text)

    def question(self, fact: list[int], subject: int, passage: set[str], kind: float, names: list[str]) -> str | None:
        chosen: list[int] = []
        sources = self.random.sample(fact, min(len(fact), self.random.randint(2, 4)))
        if self.random.random() < 0.5:
            sources.append(subject)
        for source in sources:
            lexical = kind >= PARAPHRASED + MIXED or (kind >= PARAPHRASED and self.random.random() < 0.5)
            if lexical and source is not subject:
                chosen.append(source)
                continue
            for _ in range(4):
                node = self.step(source)
                if self.stems[node] not in passage:
                    chosen.append(node)
                    break
        chosen = list(dict.fromkeys(chosen))
        if len(chosen) < 2:
            return None
        content = [self.random.choice(self.forms[node]) for node in chosen]
        if kind >= PARAPHRASED and names:
            content.append(names[0])
        if self.random.random() < NOISE_IN_QUESTION:
            content.append(self.random.choice(self.forms[self.word()]))
        self.random.shuffle(content)
        frame = [content.pop() if part == "_" and content else part for part in self.random.choice(self.question_frames)]
        glue = ["", "", "", "the", "a", "of", "of the", "in", "to", "with", "and", "for the", "from", "my", "is", "on"]
        for part in content:
            frame += [self.random.choice(glue), part]
        return " ".join(part for part in frame if part and part != "_") + "?"

    def pair(self) -> Pair:
        while True:
            subject = self.word()
            facts = self.facts(subject)
            names = [self.name()] if self.random.random() < NAME_SHARE else []
            passage = self.render(facts, names)
            stems = {stem(part) for part in passage.split()}
            question = self.question(self.random.choice(facts), subject, stems, self.random.random(), names)
            if question is None:
                continue
            if self.random.random() < 0.5:
                negative = self.render(self.facts(subject), [])
            else:
                decoys = [part for part in question.rstrip("?").split() if len(part) > 3]
                negative = self.render(self.facts(self.word()), self.random.sample(decoys, min(2, len(decoys))))
            return Pair(question, passage, negative)


if __name__ == "__main__":
    generator = PairGenerator(0)
    for _ in range(5):
        print(generator.pair())
