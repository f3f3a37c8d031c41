"""The bi-encoder: a vector and a weight for each token.

The network has BERT's inputs and output (input_ids, attention_mask, token_type_ids -> last_hidden_state). Each row of
last_hidden_state is the token's vector times its weight, so mean pooling followed by normalisation gives the weighted mean, in
which "the" or "how" counts little. There is no layer between the embeddings and the output: README.md says what was tried.
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

NUM_SPECIAL = 5


@dataclass(frozen=True)
class EmbedderConfig:
    num_rows: int
    hidden_size: int = 256


class Embedder(nn.Module):
    """Tokens that inflect one word share a row: rows[token] is its index in the tables."""

    def __init__(self, config: EmbedderConfig, rows: torch.Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("rows", rows, persistent=False)
        self.table = nn.Embedding(config.num_rows, config.hidden_size)
        self.log_weight = nn.Embedding(config.num_rows, 1)
        nn.init.zeros_(self.log_weight.weight)

    def weigh(self, ids: torch.Tensor) -> torch.Tensor:
        """Positive weight of each token; the special tokens have none. [B, T]"""
        return torch.exp(self.log_weight(self.rows[ids]).squeeze(-1)) * (ids >= NUM_SPECIAL)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Normalised sentence vectors. [B, T] -> [B, D]"""
        pooled = F.embedding_bag(self.rows[ids], self.table.weight, mode="sum", per_sample_weights=self.weigh(ids))
        return F.normalize(pooled, dim=-1)


def save(path: str, model: Embedder) -> None:
    torch.save({"config": asdict(model.config), "state": model.state_dict()}, path)


def load(path: str, rows: list[int]) -> Embedder:
    saved = torch.load(path, weights_only=True)
    model = Embedder(EmbedderConfig(**saved["config"]), torch.tensor(rows))
    model.load_state_dict(saved["state"])
    return model.eval()
