"""Entries that say in other words what something is: out/entries.jsonl, {kind, asked, answer} a line.

    python entries.py [--root FOLDER]      the packages of README.md, installed or unpacked below FOLDER

Debian's package descriptions (a line, and a text about the same), WordNet (words, and what they mean), the Free On-line Dictionary of
Computing and the Jargon File (a term, and what it is).
"""

import argparse
import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from texts import OUT

Entry = tuple[str, str, str]
MAX_WORDS = 120
#: What is said of every package of a kind, and of none in particular.
FURNITURE = re.compile(r"^This (dummy |meta|is a (dummy|transitional))|^This package (contains|provides|includes|is)\b[^.]*\.$")
VARIANT = re.compile(r"\s*[-(]+\s*(development (files|headers)|documentation|shared librar\w+|debug\w* symbols|data files|header files).*$", re.I)


def _short(text: str) -> str:
    return " ".join(text.split()[:MAX_WORDS])


def packages() -> Iterator[Entry]:
    """The line and the text of each package's description, of apt's lists (Translation-en)."""
    listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^Package: (\S+)", listed, re.M)
    shown = subprocess.run(["xargs", "apt-cache", "show", "--no-all-versions"], input="\n".join(names), capture_output=True, text=True).stdout
    seen = set()
    for stanza in shown.split("\n\n"):
        found = re.search(r"^Description-en: (.*(?:\n .*)*)", stanza, re.M)
        if not found:
            continue
        line, *rest = found.group(1).split("\n")
        paragraphs = "\n".join("" if part == " ." else part.strip() for part in rest).split("\n\n")
        text = " ".join(p.replace("\n", " ") for p in paragraphs if not FURNITURE.search(p.replace("\n", " ")))
        asked = VARIANT.sub("", line.strip())
        if len(asked.split()) < 2 or len(text.split()) < 8 or asked in seen or text[:80] in seen:
            continue
        seen.update((asked, text[:80]))
        yield "package", asked, _short(text)


def wordnet(root: str) -> Iterator[Entry]:
    """The words of each set of synonyms, and their gloss."""
    for part in ("noun", "verb", "adj", "adv"):
        path = Path(f"{root}/usr/share/wordnet/data.{part}")
        if not path.exists():
            continue
        for line in path.read_text().splitlines():
            if line.startswith(" "):
                continue
            head, gloss = line.split(" | ", 1)
            fields = head.split()
            count = int(fields[3], 16)
            words = [re.sub(r"\(.*\)", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
            if words[0][0].isupper():
                continue
            yield "word", ", ".join(words), gloss.strip()


def dictionary(root: str, name: str) -> Iterator[Entry]:
    """The headwords and texts of a dictionary in dictd's format: an index of headword, offset and length in base 64."""
    digits = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}

    def number(text: str) -> int:
        value = 0
        for c in text:
            value = value * 64 + digits[c]
        return value

    folder = Path(f"{root}/usr/share/dictd")
    if not (folder / f"{name}.index").exists():
        return
    data = gzip.decompress((folder / f"{name}.dict.dz").read_bytes())
    for line in (folder / f"{name}.index").read_text().splitlines():
        word, at, size = line.split("\t")[:3]
        if word.startswith("00"):
            continue
        text = data[number(at) : number(at) + number(size)].decode(errors="replace")
        text = re.sub(r"[{}]|<[^>]*>|\(\d{4}-\d\d-\d\d\)|^\s*\d\.\s", " ", text.split("\n", 1)[-1])
        if len(text.split()) >= 6:
            yield "term", word, _short(text)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default="")
    root = parser.parse_args().root
    counts: dict[str, int] = {}
    OUT.mkdir(exist_ok=True)
    with (OUT / "entries.jsonl").open("w") as file:
        for source in (packages(), wordnet(root), dictionary(root, "foldoc"), dictionary(root, "jargon")):
            for kind, asked, answer in source:
                counts[kind] = counts.get(kind, 0) + 1
                file.write(json.dumps({"kind": kind, "asked": asked, "answer": answer}) + "\n")
    print(counts)


if __name__ == "__main__":
    main()
