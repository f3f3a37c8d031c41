"""Passages of documentation as training texts: headings, sentences, and pairs of what is asked with the passage that answers."""

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


def _sentences(text: str) -> list[str]:
    return [" ".join(part.split()) for part in SENTENCE_END.split(text)]


def distillation_texts(sections: list[list[dict]], count: int, num_passages: int) -> list[str]:
    """All headings, sentences of prose up to `count` of both, and passages below their headings, in random order."""
    headings, sentences = set(), set()
    for section in sections:
        for heading in section[0]["headings"][-2:]:
            text = heading_text(heading)
            if 2 <= len(text.split()) <= 14:
                headings.add(text)
        for passage in section:
            for text in _sentences(passage["text"]):
                letters = sum(c.isalpha() or c == " " for c in text)
                if 6 <= len(text.split()) <= 35 and letters > 0.85 * len(text):
                    sentences.add(text)
    rng = random.Random(0)
    chosen = sorted(headings)
    chosen += rng.sample(sorted(sentences), min(len(sentences), max(0, count - len(chosen))))
    passages = [" > ".join(p["headings"][-3:]) + "\n" + p["text"] for section in sections for p in section]
    chosen += rng.sample(passages, min(len(passages), num_passages))
    rng.shuffle(chosen)
    return chosen


def pairs(sections: list[list[dict]]) -> list[tuple[str, str]]:
    """(query, passage): a heading and a passage below it; a sentence and the rest of its passage."""
    rng = random.Random(0)
    found = []
    for section in sections:
        above = [heading_text(heading) for heading in section[0]["headings"]]
        if len(above[-1]) > 3 and len(above[-1].split()) <= 14:
            for passage in section[:3]:
                context = " > ".join(above[:-1]) + "\n" if len(above) > 1 and rng.random() < 0.5 else ""
                found.append((above[-1], context + passage["text"]))
        for passage in section[:4]:
            sentences = [s for s in SENTENCE_END.split(passage["text"]) if 5 <= len(s.split()) <= 40]
            if len(sentences) >= 3:
                sentence = rng.choice(sentences)
                context = " > ".join(above) + "\n" if rng.random() < 0.6 else ""
                found.append((sentence, context + passage["text"].replace(sentence, " ")))
    return found
