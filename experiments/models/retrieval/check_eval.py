"""Check the evaluation set: counts, sizes, ids, and that a paraphrased question shares no content word with its passage.

    python check_eval.py

Two words count as the same when their Porter stems are equal or one stem begins with the other (five letters or more),
so that "hunter" and "hunting" or "water" and "watering" are caught too. Exits with 1 and one line for every violation.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from text import content_stems, words

EVAL = Path(__file__).parent / "eval"
MIN_QUESTIONS = 100
PASSAGE_WORDS = (40, 100)
MIN_SHARED_LEXICAL = 2


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def shared_words(question: str, passage: str) -> set[str]:
    """Stems of the question that occur in the passage."""
    stems = set(content_stems(passage))
    return {
        mine
        for mine in content_stems(question)
        if any(
            mine == other or (min(len(mine), len(other)) >= 5 and (mine.startswith(other) or other.startswith(mine)))
            for other in stems
        )
    }


def violations() -> list[str]:
    documents = read_jsonl(EVAL / "documents.jsonl")
    questions = read_jsonl(EVAL / "questions.jsonl")
    found = []
    passages = {document["id"]: document["text"] for document in documents}
    if len(passages) != len(documents) or len(set(passages.values())) != len(documents):
        found.append("documents.jsonl: an id or a passage occurs twice")
    if len({question["id"] for question in questions}) != len(questions):
        found.append("questions.jsonl: an id occurs twice")
    for id, text in passages.items():
        size = len(words(text))
        if not PASSAGE_WORDS[0] <= size <= PASSAGE_WORDS[1]:
            found.append(f"{id}: {size} words, expected {PASSAGE_WORDS[0]} to {PASSAGE_WORDS[1]}")
    kinds = Counter(question["kind"] for question in questions)
    for kind in ("lexical", "paraphrased"):
        if kinds[kind] < MIN_QUESTIONS:
            found.append(f"{kinds[kind]} {kind} questions, expected at least {MIN_QUESTIONS}")
    for question in questions:
        shared = shared_words(question["question"], passages[question["document"]])
        if question["kind"] == "paraphrased" and shared:
            found.append(f"{question['id']}: shares {sorted(shared)} with its passage")
        if question["kind"] == "lexical" and len(shared) < MIN_SHARED_LEXICAL:
            found.append(f"{question['id']}: shares only {sorted(shared)} with its passage")
    if not found:
        print(f"{len(documents)} passages, {kinds['lexical']} lexical and {kinds['paraphrased']} paraphrased questions")
    return found


if __name__ == "__main__":
    lines = violations()
    print("\n".join(lines), end="\n" if lines else "")
    sys.exit(1 if lines else 0)
