"""The cross-encoder: every question token looks at every passage token, and kernels count how well it is matched.

The architecture is the kernel pooling of K-NRM (Xiong et al., SIGIR 2017) as in TK (Hofstätter et al., ECAI 2020), with a
learned weight for each question token and the best match of each token beside the kernels. Inputs are BERT's, one pair a row:
[CLS] question [SEP] passage [SEP], token_type_ids 0 and 1; the output is one logit.
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

KERNELS = torch.linspace(-0.1, 0.9, 11)
KERNEL_WIDTH = 0.08


@dataclass(frozen=True)
class RerankerConfig:
    num_rows: int
    hidden_size: int = 256
    match_size: int = 24


class Reranker(nn.Module):
    def __init__(self, config: RerankerConfig, rows: torch.Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("rows", rows, persistent=False)
        self.table = nn.Embedding(config.num_rows, config.hidden_size)
        self.question_weight = nn.Embedding(config.num_rows, 1)
        self.passage_weight = nn.Embedding(config.num_rows, 1)
        features = len(KERNELS) + 3
        self.match_in = nn.Linear(features, config.match_size)
        self.match_out = nn.Linear(config.match_size, 1)
        self.combine = nn.Linear(3, 1)
        self.register_buffer("kernels", KERNELS.clone(), persistent=False)

    def vectors(self, ids: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.table(self.rows[ids]), dim=-1)

    def score(
        self,
        x: torch.Tensor,  # [B, T, D] unit token vectors
        question_weight: torch.Tensor,  # [B, T] logarithms
        passage_weight: torch.Tensor,  # [B, T] logarithms
        is_question: torch.Tensor,  # [B, T] 1 for a question token
        is_passage: torch.Tensor,  # [B, T] 1 for a passage token
    ) -> torch.Tensor:
        """Logit of every row. [B]"""
        weight = torch.exp(question_weight) * is_question
        share = weight / (weight.sum(dim=1, keepdim=True) + 1e-6)
        passage = torch.exp(passage_weight) * is_passage
        similarity = x @ x.transpose(1, 2)  # [B, T, T]: rows question, columns passage
        visible = is_passage[:, None, :]
        best = (similarity * visible - (1 - visible)).amax(dim=2)
        exact = ((similarity > 0.999).to(x.dtype) * visible).amax(dim=2)
        distance = similarity[..., None] - self.kernels
        counts = (torch.exp(-distance * distance / (2 * KERNEL_WIDTH**2)) * passage[:, None, :, None]).sum(dim=2)
        features = torch.cat([torch.log1p(counts), best[..., None], (best * best.abs())[..., None], exact[..., None]], dim=-1)
        matched = self.match_out(F.relu(self.match_in(features))).squeeze(-1)  # [B, T]
        mean_question = F.normalize((x * weight[..., None]).sum(dim=1), dim=-1)
        mean_passage = F.normalize((x * passage[..., None]).sum(dim=1), dim=-1)
        cosine = (mean_question * mean_passage).sum(dim=-1)
        summary = torch.stack([(matched * share).sum(dim=1), (best * share).sum(dim=1), cosine], dim=-1)
        return self.combine(summary).squeeze(-1)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Logits of the pairs. [B, T] token ids, mask and types -> [B, 1]"""
        real = ((ids > 4) & (mask > 0)).to(torch.float32)
        types = types.to(torch.float32)
        weights = (embedding(self.rows[ids]).squeeze(-1) for embedding in (self.question_weight, self.passage_weight))
        return self.score(self.vectors(ids), *weights, real * (1 - types), real * types)[:, None]


def save(path: str, model: Reranker) -> None:
    torch.save({"config": asdict(model.config), "state": model.state_dict()}, path)


def load(path: str, rows: list[int]) -> Reranker:
    saved = torch.load(path, weights_only=True)
    model = Reranker(RerankerConfig(**saved["config"]), torch.tensor(rows))
    model.load_state_dict(saved["state"])
    return model.eval()
