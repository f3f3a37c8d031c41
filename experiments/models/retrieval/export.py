"""Static embeddings from training to models/mini-embedder, in model2vec's layout: int8 rows, a weight for each token, the tokenizer.

    python export.py       reads out/embedder.npy (train.py) and out/tokenizer.json (vocabulary.py)
"""

import json
from pathlib import Path
from shutil import copyfile

import numpy as np
from safetensors.numpy import save_file

from teacher import TEACHER

HERE = Path(__file__).parent
MODEL = HERE.parents[2] / "models" / "mini-embedder"
MAX_TOKENS = 512


def quantized(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [tokens, dimensions] f32 as int8 with a scale for each, which is the token's weight in the mean."""
    scale = np.maximum(np.abs(rows).max(axis=1), 1e-12) / 127
    return np.round(rows / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def main() -> None:
    embeddings, weights = quantized(np.load(HERE / "out" / "embedder.npy"))
    MODEL.mkdir(parents=True, exist_ok=True)
    save_file({"embeddings": embeddings, "weights": weights}, MODEL / "model.safetensors")
    copyfile(HERE / "out" / "tokenizer.json", MODEL / "tokenizer.json")
    config = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "tokenizer_name": TEACHER,
        "hidden_dim": embeddings.shape[1],
        "seq_length": MAX_TOKENS,
        "normalize": True,
    }
    (MODEL / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
