"""The student's vocabulary: out/tokenizer.json. The teacher's, and the words of the training texts that the teacher reads in
pieces: a table has a vector for each token, and `netstat` is one thing, not `nets` and `tat`.

    python vocabulary.py [--words 5000]
"""

import argparse
import json
import re
from collections import Counter

from teacher import TEACHER_FOLDER
from texts import OUT, read_entries, read_sections

WORD = re.compile(r"[A-Za-z][A-Za-z0-9]+")
MIN_COUNT = 12
#: A word counts once for each text, and is in several documents, so that one long page does not bring its identifiers.
MIN_DOCUMENTS = 4
MAX_WORD = 24


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--words", type=int, default=5_000)
    words = parser.parse_args().words
    tokenizer = json.loads((TEACHER_FOLDER / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    counts: Counter[str] = Counter()
    documents: dict[str, set[str]] = {}
    texts = [(p["id"], p["text"]) for section in read_sections() for p in section]
    texts += [(entry["kind"] + entry["asked"], entry["asked"] + " " + entry["answer"]) for entry in read_entries()]
    for source, text in texts:
        for word in {w.lower() for w in WORD.findall(text)}:
            if word not in vocabulary and len(word) <= MAX_WORD:
                counts[word] += 1
                if len(sources := documents.setdefault(word, set())) < MIN_DOCUMENTS:
                    sources.add(source)
    added = [w for w, n in counts.most_common() if n >= MIN_COUNT and len(documents[w]) >= MIN_DOCUMENTS][:words]
    kept = [token for token in sorted(vocabulary, key=vocabulary.get) if not token.startswith("[unused")]
    tokenizer["model"]["vocab"] = {token: i for i, token in enumerate(kept + added)}
    for token in tokenizer["added_tokens"]:
        token["id"] = tokenizer["model"]["vocab"][token["content"]]
    tokenizer.update(truncation=None, padding=None, post_processor=None)
    (OUT / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{len(kept)} kept of {len(vocabulary)}, {len(added)} added: {' '.join(added[:40])} … {' '.join(added[-40:])}")


if __name__ == "__main__":
    main()
