"""Training texts: what the teacher is asked about."""

import json
import random
import re
from collections import defaultdict
from pathlib import Path

OUT = Path(__file__).parent / "out"
#: Headings of navigation, not of content.
FURNITURE = re.compile(r"navigation|contents|next topic|previous topic|this page|show source|search|index", re.I)
NUMBER = re.compile(r"^(chapter|appendix|section)?\s*([\dA-Z]{0,2}(\.\d+)+\.?|\d+\.|[A-Z]\.)\s+", re.I)
SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n\n")


def heading_text(heading: str) -> str:
    """A heading without its number and its anchor's sign."""
    return NUMBER.sub("", heading.replace("¶", "").strip()).strip()


def read_sections() -> list[list[dict]]:
    """Passages by the section they are in."""
    sections: dict[tuple, list[dict]] = defaultdict(list)
    for line in (OUT / "passages.jsonl").open():
        passage = json.loads(line)
        headings = passage["headings"]
        if headings and not FURNITURE.search(headings[-1]) and len(passage["text"]) > 60:
            sections[(passage["id"], *headings)].append(passage)
    return list(sections.values())


def read_entries() -> list[dict]:
    """Entries of dictionaries and packages: {kind, asked, answer}."""
    return [json.loads(line) for line in (OUT / "entries.jsonl").open()]


def _sentences(text: str) -> list[str]:
    return [" ".join(part.split()) for part in SENTENCE_END.split(text)]


def distillation_texts(sections: list[list[dict]], entries: list[dict], num_sentences: int, num_passages: int) -> list[str]:
    """Headings, lines of packages, terms and glosses, sentences of prose, and passages, in random order."""
    headings, sentences, passages = set(), set(), []
    for section in sections:
        for heading in section[0]["headings"][-2:]:
            text = heading_text(heading)
            if 2 <= len(text.split()) <= 14:
                headings.add(text)
        for passage in section:
            passages.append(" > ".join(passage["headings"][-3:]) + "\n" + passage["text"])
            for text in _sentences(passage["text"]):
                letters = sum(c.isalpha() or c == " " for c in text)
                if 6 <= len(text.split()) <= 30 and letters > 0.85 * len(text):
                    sentences.add(text)
    rng = random.Random(0)
    lines, glosses = set(), set()
    for entry in entries:
        first = next(iter(_sentences(entry["answer"])))
        if entry["kind"] == "package":
            lines.add(entry["asked"])
            passages.append(entry["answer"])
        elif entry["kind"] == "term" or rng.random() < 0.3:
            glosses.add(f"{entry['asked']}: {' '.join(first.split()[:30])}")

    def some(texts: set[str] | list[str], count: int) -> list[str]:
        return rng.sample(sorted(texts), min(len(texts), count))

    chosen = some(headings, 14_000) + some(lines, 20_000) + some(glosses, 10_000)
    chosen += some(sentences, num_sentences) + some(passages, num_passages)
    rng.shuffle(chosen)
    return chosen
