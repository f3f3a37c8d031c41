"""What the teacher makes of tokens and of texts: out/tokens.npy, out/texts.jsonl, out/vectors.npy.

    python distil.py [--sentences 16000] [--passages 2000] [--minutes 60]      goes on where it stopped; train.py uses what there is
"""

import argparse
import json
import random
import time

import numpy as np
from tokenizers import Tokenizer

from teacher import Teacher
from texts import OUT, distillation_texts, read_entries, read_sections

BATCH = 32
MAX_TOKENS = 112
SAVE_SECONDS = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sentences", type=int, default=16_000)
    parser.add_argument("--passages", type=int, default=2_000)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    teacher = Teacher()
    if not (OUT / "tokens.npy").exists():
        tokenizer = Tokenizer.from_file(str(OUT / "tokenizer.json"))
        np.save(OUT / "tokens.npy", teacher.token_vectors([tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]))
    if not (OUT / "texts.jsonl").exists():
        texts = distillation_texts(read_sections(), read_entries(), options.sentences, options.passages)
        (OUT / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    texts = [json.loads(line) for line in (OUT / "texts.jsonl").open()]
    path = OUT / "vectors.npy"
    vectors = np.load(path) if path.exists() else np.zeros((len(texts), 384), np.float16)
    # Batches of like lengths, in an order that leaves a fair sample when the time is over.
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    random.Random(1).shuffle(batches)
    saved = time.monotonic()
    for rows in batches:
        if time.process_time() > options.minutes * 60:
            break
        todo = [row for row in rows if not vectors[row].any()]
        if todo:
            vectors[todo] = teacher.encode([texts[row] for row in todo], MAX_TOKENS)
        if time.monotonic() - saved > SAVE_SECONDS:
            np.save(path, vectors)
            saved = time.monotonic()
    np.save(path, vectors)
    print(f"{int(vectors.any(axis=1).sum())} of {len(texts)} texts")


if __name__ == "__main__":
    main()
