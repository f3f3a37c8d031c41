"""Write the trained models as ONNX folders in the layout that transformers.js loads, under models/.

    python export.py

Token tables are stored as int8 with one scale a row and widened to float32 inside the graph, so every operator computes in
float32 and runs on any execution provider. Opset 17, IR version 8.
"""

import json
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.nn import functional as F

import embedder
import reranker

HERE = Path(__file__).parent
OUT = HERE / "out"
MODELS = HERE.parents[2] / "models"
OPSET, IR_VERSION = 17, 8
MAX_LENGTH = 256
MAX_BYTES = 8_000_000


class QuantizedTable(nn.Module):
    """Rows of int8 with a scale each: row = int8 * scale."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("rows", (weight / scale).round().to(torch.int8))

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.rows[index].to(torch.float32) * self.scale[index]


class EmbedderGraph(nn.Module):
    """BERT's inputs -> last_hidden_state [B, T, D]: every token's vector times its weight."""

    def __init__(self, model: embedder.Embedder) -> None:
        super().__init__()
        self.model = model
        self.table = QuantizedTable(model.table.weight.data)
        self.register_buffer("rows", model.rows.to(torch.int32))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        rows = self.rows[input_ids].to(torch.int64)
        real = ((input_ids >= embedder.NUM_SPECIAL) & (attention_mask > 0)).to(torch.float32)
        # BERT's graph has token_type_ids; a sentence alone has type 0 throughout, so that the last factor is 1.
        weight = torch.exp(self.model.log_weight.weight[rows].squeeze(-1)) * real * (1 - token_type_ids.to(torch.float32))
        return self.table(rows) * weight[..., None]


class RerankerGraph(nn.Module):
    """BERT's inputs for a pair -> logits [B, 1]."""

    def __init__(self, model: reranker.Reranker) -> None:
        super().__init__()
        self.model = model
        self.table = QuantizedTable(model.table.weight.data)
        self.register_buffer("rows", model.rows.to(torch.int32))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        rows = self.rows[input_ids].to(torch.int64)
        real = ((input_ids >= embedder.NUM_SPECIAL) & (attention_mask > 0)).to(torch.float32)
        types = token_type_ids.to(torch.float32)
        x = F.normalize(self.table(rows), dim=-1)
        question_weight, passage_weight = (
            torch.exp(table.weight[rows].squeeze(-1)) * real for table in (self.model.question_weight, self.model.passage_weight)
        )
        return self.model.score(x, x, question_weight * (1 - types), passage_weight * types)[:, None]


def export(module: nn.Module, folder: Path, output: str, axes: dict[int, str]) -> None:
    path = folder / "onnx" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = torch.tensor([[2, 5, 6, 7, 3, 8, 9, 3], [2, 5, 6, 3, 8, 3, 0, 0]])
    types = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0]])
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        module.eval(),
        (ids, (ids > 0).long(), types),
        str(path),
        input_names=names,
        output_names=[output],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names} | {output: axes},
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnx.load(str(path))
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "miniserve", ""
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"{folder}: {size} bytes, expected at most {MAX_BYTES}")
    print(f"{folder.name}: {size:,} bytes")


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((OUT / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": MAX_LENGTH,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_config(folder: Path, model: nn.Module, architecture: str, **extra: object) -> None:
    # model_type bert: the class by which transformers.js feeds input_ids, attention_mask and token_type_ids.
    config = {
        "model_type": "bert",
        "architectures": [architecture],
        "vocab_size": len(model.rows),
        "hidden_size": model.config.hidden_size,
        "max_position_embeddings": MAX_LENGTH,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config | extra, indent=2) + "\n")


def main() -> None:
    rows = json.loads((OUT / "rows.json").read_text())
    bi = embedder.load(str(OUT / "embedder.pt"), rows)
    folder = MODELS / "mini-embedder"
    write_tokenizer(folder)
    write_config(folder, bi, "BertModel", num_hidden_layers=0)
    export(EmbedderGraph(bi), folder, "last_hidden_state", {0: "batch", 1: "sequence"})
    cross = reranker.load(str(OUT / "reranker.pt"), rows)
    folder = MODELS / "mini-reranker"
    write_tokenizer(folder)
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    write_config(folder, cross, "BertForSequenceClassification", num_hidden_layers=0, **labels)
    export(RerankerGraph(cross), folder, "logits", {0: "batch"})


if __name__ == "__main__":
    main()
