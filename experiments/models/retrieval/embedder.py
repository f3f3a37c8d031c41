"""The bi-encoder: token embeddings, one transformer layer, a learned weight for each token.

The network has BERT's inputs and output (input_ids, attention_mask, token_type_ids -> last_hidden_state), so that mean pooling
followed by normalisation gives the sentence vector. Each row of last_hidden_state is the token's vector times its weight:
mean pooling over them is, after normalisation, the weighted mean, in which "the" or "how" counts little.
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class EncoderConfig:
    num_rows: int
    hidden_size: int = 256
    num_layers: int = 1
    num_heads: int = 4
    intermediate_size: int = 512
    max_positions: int = 256


class Layer(nn.Module):
    """Pre-norm transformer layer whose two outputs start at zero: training begins from the embeddings alone."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.attention_out = nn.Linear(size, size)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp_in = nn.Linear(size, config.intermediate_size)
        self.mlp_out = nn.Linear(config.intermediate_size, size)
        for linear in (self.attention_out, self.mlp_out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:  # [B, T, D], bias [B, 1, 1 or T, T]
        batch, length, size = x.shape
        split = (batch, length, self.num_heads, size // self.num_heads)
        q, k, v = (part.reshape(split).transpose(1, 2) for part in self.qkv(self.attention_norm(x)).split(size, dim=-1))
        scores = q @ k.transpose(-1, -2) * (size // self.num_heads) ** -0.5 + bias
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, length, size)
        x = x + self.attention_out(mixed)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh"))


class Encoder(nn.Module):
    """Token vectors and token weights. Tokens that inflect one word share a row: rows[token] is its index in the tables."""

    def __init__(self, config: EncoderConfig, rows: torch.Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("rows", rows, persistent=False)
        self.table = nn.Embedding(config.num_rows, config.hidden_size)
        self.log_weight = nn.Embedding(config.num_rows, 1)
        self.position = nn.Embedding(config.max_positions, config.hidden_size)
        nn.init.zeros_(self.log_weight.weight)
        nn.init.zeros_(self.position.weight)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))

    def weigh(self, ids: torch.Tensor) -> torch.Tensor:
        """Positive weight of each token; the special tokens have none."""
        return torch.exp(self.log_weight(self.rows[ids]).squeeze(-1)) * (ids > 4)

    def contextualise(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        bias = (mask[:, None, None, :] - 1.0) * 1e4
        x = x + self.position(torch.arange(x.shape[1]))
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, static: bool = False) -> torch.Tensor:
        """Normalised sentence vectors. [B, T] -> [B, D]. Static: of the embeddings alone, without the layers."""
        mask = mask.to(torch.float32)
        if static:
            pooled = F.embedding_bag(
                self.rows[ids], self.table.weight, mode="sum", per_sample_weights=self.weigh(ids) * mask
            )
            return F.normalize(pooled, dim=-1)
        hidden = self.contextualise(self.table(self.rows[ids]), mask)
        pooled = (hidden * (self.weigh(ids) * mask)[..., None]).sum(dim=1)
        return F.normalize(pooled, dim=-1)


def save(path: str, model: Encoder) -> None:
    torch.save({"config": asdict(model.config), "state": model.state_dict()}, path)


def load(path: str, rows: list[int]) -> Encoder:
    saved = torch.load(path, weights_only=True)
    model = Encoder(EncoderConfig(**saved["config"]), torch.tensor(rows))
    model.load_state_dict(saved["state"])
    return model.eval()
