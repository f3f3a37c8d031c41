"""The exported models under onnxruntime, called as the product calls them."""

from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class _Session:
    def __init__(self, folder: Path, max_length: int) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(max_length)
        self.tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"), options)

    def run(self, texts: list) -> tuple[np.ndarray, np.ndarray]:
        encodings = self.tokenizer.encode_batch(texts)
        feeds = {
            "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
            "token_type_ids": np.array([e.type_ids for e in encodings], dtype=np.int64),
        }
        return self.session.run(None, feeds)[0], feeds["attention_mask"]


class SentenceEncoder(_Session):
    def __init__(self, folder: Path, max_length: int = 256) -> None:
        super().__init__(folder, max_length)

    def encode(self, texts: list[str]) -> np.ndarray:
        """Normalised mean of the last hidden state. [N, D] f32"""
        hidden, mask = self.run(texts)
        pooled = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


class CrossEncoder(_Session):
    def __init__(self, folder: Path, max_length: int = 256) -> None:
        super().__init__(folder, max_length)

    def score(self, question: str, passages: list[str]) -> np.ndarray:
        """One logit a passage. [N] f32"""
        return self.run([(question, passage) for passage in passages])[0][:, 0]
