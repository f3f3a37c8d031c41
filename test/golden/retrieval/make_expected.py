"""What the bundled embedding model gives for a few texts, by numpy and the tokenizers library from the model's own files.

    python test/golden/retrieval/make_expected.py      # after a change of models/mini-embedder; writes expected.json
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

HERE = Path(__file__).parent
MODEL = HERE.parents[2] / "models" / "mini-embedder"
TEXTS = [
    "How do I restart the server after a crash?",
    "When the process dies, it is launched again within a second.",
    "Zanzibari fjords, naïve café: 42 % of them — unknown words.",
    "snake_case, C++ and /etc/passwd; it’s “quoted” [link](x)",
    "Ünïcödé 日本語 текст\u200b soft\u00adhyphen\ttab \ufffd e\u0301",
    "x" * 120 + " 🦊 ½ ① don't",
    "",
]


def main() -> None:
    tensors = load_file(MODEL / "model.safetensors")
    rows = tensors["embeddings"].astype(np.float32) * tensors["weights"][:, None]
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    vectors = []
    for tokens in ids:
        vector = rows[tokens].sum(axis=0)
        vectors.append(vector / max(float(np.linalg.norm(vector)), 1e-12))
    expected = {"texts": TEXTS, "ids": ids, "vectors": [[round(float(x), 5) for x in vector] for vector in vectors]}
    (HERE / "expected.json").write_text(json.dumps(expected, separators=(",", ":"), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
