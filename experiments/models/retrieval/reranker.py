"""The cross-encoder: every question token looks at every passage token, and kernels count how well it is matched.

The architecture is the kernel pooling of K-NRM (Xiong et al., SIGIR 2017) as in TK (Hofstätter et al., ECAI 2020), with a
learned weight for each question token and the best match of each token beside the kernels. Inputs are BERT's, one pair a row:
[CLS] question [SEP] passage [SEP], token_type_ids 0 and 1; the output is one logit.
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from embedder import NUM_SPECIAL

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
        question: torch.Tensor,  # [B, Q, D] unit token vectors
        passage: torch.Tensor,  # [B, P, D] unit token vectors
        question_weight: torch.Tensor,  # [B, Q], 0 for what is not a question token
        passage_weight: torch.Tensor,  # [B, P], 0 for what is not a passage token
    ) -> torch.Tensor:
        """Logit of every row. [B]"""
        share = question_weight / (question_weight.sum(dim=1, keepdim=True) + 1e-6)
        similarity = question @ passage.transpose(1, 2)  # [B, Q, P]
        visible = (passage_weight > 0).to(question.dtype)[:, None, :]
        best = (similarity * visible - (1 - visible)).amax(dim=2)
        exact = ((similarity > 0.999).to(question.dtype) * visible).amax(dim=2)
        distance = similarity[..., None] - self.kernels
        counts = (torch.exp(-distance * distance / (2 * KERNEL_WIDTH**2)) * passage_weight[:, None, :, None]).sum(dim=2)
        features = torch.cat([torch.log1p(counts), best[..., None], (best * best.abs())[..., None], exact[..., None]], dim=-1)
        matched = self.match_out(F.relu(self.match_in(features))).squeeze(-1)  # [B, Q]
        mean_question = F.normalize((question * question_weight[..., None]).sum(dim=1), dim=-1)
        mean_passage = F.normalize((passage * passage_weight[..., None]).sum(dim=1), dim=-1)
        cosine = (mean_question * mean_passage).sum(dim=-1)
        summary = torch.stack([(matched * share).sum(dim=1), (best * share).sum(dim=1), cosine], dim=-1)
        return self.combine(summary).squeeze(-1)

    def weights(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positive weight of each token in a question and in a passage. [B, T]"""
        rows = self.rows[ids]
        real = (ids >= NUM_SPECIAL).to(torch.float32)
        return tuple(torch.exp(table(rows).squeeze(-1)) * real for table in (self.question_weight, self.passage_weight))

    def compare(self, questions: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        """Logits of token ids [B, Q] against token ids [B, P], row by row. [B]"""
        weights = self.weights(questions)[0], self.weights(passages)[1]
        return self.score(self.vectors(questions), self.vectors(passages), *weights)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Logits of the pairs. [B, T] token ids, mask and types -> [B, 1]"""
        x, types = self.vectors(ids), types.to(torch.float32)
        question_weight, passage_weight = (weight * mask for weight in self.weights(ids))
        return self.score(x, x, question_weight * (1 - types), passage_weight * types)[:, None]


def save(path: str, model: Reranker) -> None:
    torch.save({"config": asdict(model.config), "state": model.state_dict()}, path)


def load(path: str, rows: list[int]) -> Reranker:
    saved = torch.load(path, weights_only=True)
    model = Reranker(RerankerConfig(**saved["config"]), torch.tensor(rows))
    model.load_state_dict(saved["state"])
    return model.eval()
