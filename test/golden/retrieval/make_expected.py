"""What the bundled retrieval models compute for a few texts, by PyTorch from the weights that export.py reads.

    python test/golden/retrieval/make_expected.py      # after training; writes expected.json

The ONNX files store their tables as int8: expect agreement to about 1e-2 on cosines and 0.1 on logits.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

HERE = Path(__file__).parent
RETRIEVAL = HERE.parents[2] / "experiments" / "models" / "retrieval"
sys.path.insert(0, str(RETRIEVAL))

import embedder  # noqa: E402
import reranker  # noqa: E402

TEXTS = [
    "How do I restart the server after a crash?",
    "When the process dies, it is launched again within a second.",
    "The bridge over the river was built of stone in 1412.",
    "Zanzibari fjords, naïve café: 42 % of them — unknown words.",
    "the",
]
QUESTION = TEXTS[0]


def main() -> None:
    out = RETRIEVAL / "out"
    rows = json.loads((out / "rows.json").read_text())
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    bi, cross = embedder.load(str(out / "embedder.pt"), rows), reranker.load(str(out / "reranker.pt"), rows)
    with torch.no_grad():
        vectors = [bi(torch.tensor([tokenizer.encode(text).ids]))[0] for text in TEXTS]
        logits = []
        for passage in TEXTS[1:]:
            encoded = tokenizer.encode(QUESTION, passage)
            ids, types = torch.tensor([encoded.ids]), torch.tensor([encoded.type_ids])
            logits.append(float(cross(ids, torch.ones_like(ids), types)))
    expected = {
        "texts": TEXTS,
        "ids": [tokenizer.encode(text).ids for text in TEXTS],
        "vectors": [[round(float(x), 5) for x in vector] for vector in vectors],
        "pairs": [[QUESTION, passage] for passage in TEXTS[1:]],
        "logits": [round(logit, 4) for logit in logits],
    }
    (HERE / "expected.json").write_text(json.dumps(expected, separators=(",", ":"), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
