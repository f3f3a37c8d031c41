"""Question-passage pairs from text: sentences of this project's documents and generated prose, with BM25's own mistakes as negatives.

A passage loses one sentence, which becomes the question (the inverse cloze task, Lee, Chang and Toutanova, ACL 2019), or its
heading does; most of the question's words are then exchanged for synonyms of the lexicon, so that the match cannot be lexical.
The hard negative of a pair is another passage that BM25 ranks among the best for the question as it was. Nothing of dev/ or eval/
is read.
"""

import random
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lexicon import content_words, read_concepts
from ranking import Bm25
from text import STOP_WORDS, content_stems, words

ROOT = Path(__file__).parents[3]
PROSE_FOLDER = ROOT / "experiments" / "models" / "lm"
EXCHANGED = 0.7
MIN_WORDS, MAX_WORDS = 12, 160
HARD_RANKS = 10


@dataclass(frozen=True)
class Pair:
    question: str
    passage: str
    negative: str


def sections() -> list[tuple[str, list[str]]]:
    """Heading and sentences of every section of the project's Markdown, tables and code left out."""
    paths = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "experiments").rglob("README.md"))]
    found = []
    for path in paths:
        text = re.sub(r"```.*?```", " ", path.read_text(encoding="utf-8"), flags=re.S)
        for part in re.split(r"^#+ ", text, flags=re.M):
            heading, _, body = part.partition("\n")
            lines = [line for line in body.splitlines() if not line.lstrip().startswith("|")]
            sentences = re.split(r"(?<=[.!?:])\s+", " ".join(" ".join(lines).split()))
            for start in range(0, len(sentences), 5):
                found.append((heading.strip(), sentences[start : start + 5]))
    return found


def prose(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Paragraphs of the generated prose that the language model is trained on."""
    sys.path.insert(0, str(PROSE_FOLDER))
    # The two experiments each have a module `lexicon`.
    own = sys.modules.pop("lexicon")
    try:
        import lexicon as names
        from prose import paragraph

        sampler = names.Lex(random.Random(seed))
        paragraphs = [paragraph(sampler) for _ in range(count)]
    finally:
        sys.modules["lexicon"] = own
        sys.path.remove(str(PROSE_FOLDER))
    return [("", re.split(r"(?<=[.!?])\s+", text if isinstance(text, str) else " ".join(text))) for text in paragraphs]


class Synonyms:
    def __init__(self) -> None:
        self.by_stem: dict[str, list[str]] = {}
        for concept in read_concepts():
            for item in concept.synonyms:
                parts = content_words(item)
                if len(parts) != 1:
                    continue
                others = [other.replace("_", " ") for other in concept.synonyms if other != item]
                for key in content_stems(parts[0]):
                    self.by_stem.setdefault(key, []).extend(others)

    def exchange(self, sentence: str, random_state: random.Random) -> str:
        """The sentence with most of its known words exchanged for synonyms."""
        out = []
        for word in words(sentence):
            key = content_stems(word)
            choices = self.by_stem.get(key[0], []) if key else []
            out.append(random_state.choice(choices) if choices and random_state.random() < EXCHANGED else word)
        return " ".join(out)


def build(num_prose: int, seed: int) -> list[Pair]:
    random_state = random.Random(seed)
    synonyms = Synonyms()
    drafts: list[tuple[str, str]] = []
    for heading, sentences in [*sections(), *prose(num_prose, seed)]:
        kept = [sentence for sentence in sentences if len(words(sentence)) >= 4]
        for i, sentence in enumerate(kept):
            rest = " ".join(kept[:i] + kept[i + 1 :])
            if MIN_WORDS <= len(words(rest)) <= MAX_WORDS:
                drafts.append((sentence, rest))
        whole = " ".join(kept)
        if heading and MIN_WORDS <= len(words(whole)) <= MAX_WORDS:
            drafts.append((heading, whole))
    passages = list(dict.fromkeys(passage for _, passage in drafts))
    index = Bm25(passages)
    pairs = []
    for question, passage in drafts:
        order = np.argsort(-index.scores(question), kind="stable")[: HARD_RANKS + 1]
        own = Counter(words(passage))
        # Passages of the same paragraph differ in one sentence: they are no negatives.
        others = [passages[i] for i in order if (own & Counter(words(passages[i]))).total() < 0.5 * own.total()]
        negative = random_state.choice(others) if others else random_state.choice(passages)
        asked = synonyms.exchange(question, random_state)
        if any(word not in STOP_WORDS for word in words(asked)):
            pairs.append(Pair(asked, passage, negative))
    random_state.shuffle(pairs)
    return pairs


if __name__ == "__main__":
    made = build(num_prose=300, seed=1)
    print(len(made), "pairs")
    for pair in made[:6]:
        print(pair, end="\n\n")
