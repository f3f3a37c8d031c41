"""The hand-written lexicon as a graph of words.

A line of lexicon/*.txt is `synonym synonym ... ; related related ...`: the words on the left can stand for one another, those on
the right go with them. An underscore joins the words of a phrase. `python lexicon.py` prints the size of the inventory and fails
when a line looks as if it had been written for an evaluation passage (`leaks`).
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import sparse

from text import STOP_WORDS, content_stems, stem, words

HERE = Path(__file__).parent

# Weight of an edge inside a line: synonym to synonym, synonym to related word, related word to related word.
SYNONYM, RELATED, COMPANION = 1.0, 0.5, 0.12

# A line may have at most this many content words in common with one evaluation passage and its questions.
MAX_SHARED = 5

# Phrases of question grammar rather than of a topic; they may occur anywhere.
GENERIC = frozenset("how_long how_far how_high how_often how_much how_many what_happens many_times ask_for get_rid get_rid_of".split())


@dataclass(frozen=True)
class Concept:
    """One line: words that mean the same, words that go with them, and the file it stands in."""

    domain: str
    synonyms: tuple[str, ...]
    related: tuple[str, ...]


@dataclass
class Lexicon:
    concepts: list[Concept]
    vocabulary: list[str]
    index: dict[str, int] = field(default_factory=dict)
    adjacency: sparse.csr_matrix | None = None


def read_concepts() -> list[Concept]:
    concepts = []
    for path in sorted((HERE / "lexicon").glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            left, separator, right = line.partition(";")
            if not separator or not left.strip():
                raise ValueError(f"{path.name}:{number}: expected 'synonyms ; related', found {line!r}")
            concepts.append(Concept(path.stem, tuple(left.split()), tuple(right.split())))
    return concepts


def content_words(item: str) -> list[str]:
    """Words of an entry that carry meaning; an entry of function words alone keeps them."""
    parts = words(item.replace("_", " "))
    return [word for word in parts if word not in STOP_WORDS] or parts


def read_lexicon() -> Lexicon:
    """Words and the symmetric, degree-normalised matrix of their associations."""
    concepts = read_concepts()
    weights: dict[tuple[str, str], float] = defaultdict(float)
    for concept in concepts:
        entries = [(content_words(item), True) for item in concept.synonyms]
        entries += [(content_words(item), False) for item in concept.related]
        for i, (left, left_is_synonym) in enumerate(entries):
            for right, right_is_synonym in entries[i + 1 :]:
                weight = SYNONYM if left_is_synonym and right_is_synonym else COMPANION
                if left_is_synonym != right_is_synonym:
                    weight = RELATED
                for a in left:
                    for b in right:
                        if a != b:
                            weights[min(a, b), max(a, b)] += weight / (len(left) * len(right))
            for a in left:
                for b in left:
                    if a < b:
                        weights[a, b] += RELATED / len(left)
    vocabulary = sorted({word for pair in weights for word in pair})
    index = {word: i for i, word in enumerate(vocabulary)}
    rows = [index[a] for a, _ in weights] + [index[b] for _, b in weights]
    columns = [index[b] for _, b in weights] + [index[a] for a, _ in weights]
    values = list(weights.values()) * 2
    matrix = sparse.csr_matrix((values, (rows, columns)), shape=(len(vocabulary),) * 2)
    scale = sparse.diags(1 / np.sqrt(np.asarray(matrix.sum(axis=1)).ravel()))
    return Lexicon(concepts, vocabulary, index, (scale @ matrix @ scale).tocsr())


def leaks() -> list[str]:
    """Traces of the evaluation set: a phrase of a question word for word, or a line whose words gather in one passage."""
    read = lambda name: map(json.loads, (HERE / "eval" / name).read_text(encoding="utf-8").splitlines())  # noqa: E731
    material = {document["id"]: set(content_stems(document["text"])) for document in read("documents.jsonl")}
    questions = []
    for question in read("questions.jsonl"):
        questions.append(" " + " ".join(words(question["question"])) + " ")
        material[question["document"]] |= set(content_stems(question["question"]))
    found = []
    for concept in read_concepts():
        items = set(concept.synonyms + concept.related)
        for item in items - GENERIC:
            parts = words(item.replace("_", " ").replace("-", " "))
            if len(parts) > 1 and any(word not in STOP_WORDS for word in parts):
                if any(f" {' '.join(parts)} " in question for question in questions):
                    found.append(f"{concept.domain}: {item} occurs in a question")
        stems = {stem(word) for item in items for word in content_words(item)}
        for id, seen in material.items():
            if len(stems & seen) > MAX_SHARED:
                found.append(f"{concept.domain}: {concept.synonyms[0]} has {sorted(stems & seen)} in common with {id}")
    return sorted(found)


VOWELS = "aeiou"

IRREGULAR = """
begin began begun|break broke broken|bring brought|build built|buy bought|catch caught|choose chose chosen|come came|cut cutting|
dig dug digging|do did done|draw drew drawn|drink drank drunk|drive drove driven|eat ate eaten|fall fell fallen|feed fed|feel felt|
fight fought|find found|fly flew flown flies|forbid forbade forbidden|forget forgot forgotten|freeze froze frozen|get got gotten|give gave given|
go went gone|grow grew grown|hang hung|hear heard|hide hid hidden|hold held|keep kept|know knew known|lay laid|lead led|learn learnt|
leave left|lend lent|lose lost|make made|mean meant|meet met|pay paid|read reading|ride rode ridden|ring rang rung|rise rose risen rising|
run ran running|say said|see saw seen|seek sought|sell sold|send sent|sew sewn|shake shook shaken|shoot shot|show shown|shrink shrank shrunk|
shut shutting|sing sang sung|sink sank sunk|sit sat sitting|sleep slept|speak spoke spoken|spend spent|spin spun spinning|spread spreading|stand stood|
steal stole stolen|stick stuck|strike struck|swear swore sworn|sweep swept|swell swollen|swim swam swum swimming|take took taken|teach taught|
tear tore torn|tell told|think thought|throw threw thrown|understand understood|wake woke woken|wear wore worn|weave wove woven|win won winning|
wind wound|write wrote written writing|man men|woman women|child children|foot feet|tooth teeth|mouse mice|goose geese|leaf leaves|knife knives|
life lives|wolf wolves|shelf shelves|loaf loaves|half halves|thief thieves|ox oxen|louse lice|person people|good better best|bad worse worst|
far farther farthest|little less least|many more most|die dying died|lie lying lain|tie tying tied
"""


def irregular_forms() -> dict[str, str]:
    """Irregular form -> base word."""
    forms = {}
    for group in IRREGULAR.replace("\n", "").split("|"):
        base, *others = group.split()
        forms.update({other: base for other in others})
    return forms


def inflections(word: str) -> list[str]:
    """Regular plural, past and -ing forms, and the agent noun; a form that does not exist costs one unused row."""
    if len(word) < 3 or not word.isalpha() or word.endswith(("ing", "ed", "ly", "ness", "ous", "ful", "less")):
        return []
    if word.endswith(("ion", "ity", "ist", "ism", "ment", "ance", "ence", "ship", "hood", "or", "er")):
        return [word[:-1] + "ies" if word.endswith("y") else word + "s"]
    if word.endswith("e"):
        return [word + "s", word + "d", word[:-1] + "ing", word + "r"]
    if word.endswith("y") and word[-2] not in VOWELS:
        return [word[:-1] + "ies", word[:-1] + "ied", word + "ing", word[:-1] + "ier"]
    plural = word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")
    doubled = word
    vowel_groups = sum(1 for i, c in enumerate(word) if c in VOWELS and (i == 0 or word[i - 1] not in VOWELS))
    if vowel_groups == 1 and word[-1] not in VOWELS + "wxy" and word[-2] in VOWELS and word[-3] not in VOWELS:
        doubled = word + word[-1]
    return [plural, doubled + "ed", doubled + "ing", doubled + "er"]


if __name__ == "__main__":
    lexicon = read_lexicon()
    print(f"{len(lexicon.concepts)} concepts, {len(lexicon.vocabulary)} words, {lexicon.adjacency.nnz // 2} associations")
    found = leaks()
    print("\n".join(found), end="\n" if found else "")
    sys.exit(1 if found else 0)
