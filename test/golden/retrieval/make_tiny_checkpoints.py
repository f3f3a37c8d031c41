"""Tiny checkpoints with random weights in the shapes of all-MiniLM-L6-v2 and ms-marco-MiniLM-L-6-v2.

    python test/golden/retrieval/make_tiny_checkpoints.py

They have the configuration keys, tokenizer files, input and output names of those two models (a BertModel behind mean pooling,
a BertForSequenceClassification with one label) at a width of 32, so that --embedding-model and --reranker-model can be tested
against real BERT graphs. expected-tiny.json holds what PyTorch computes with them.
"""

import json
from pathlib import Path

import onnx
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel

HERE = Path(__file__).parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "the a of to is in it how what when server cache token prompt river stone bread water night train model query".split()
TEXTS = ["how is the bread in the river?", "a server, a cache", "Unseen words become pieces: Zanzibar 42"]
PAIRS = [["what is a token", "the token is in the prompt"], ["what is a token", "water of the night train"]]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
}


def tiny_tokenizer() -> Tokenizer:
    letters = [prefix + c for c in "abcdefghijklmnopqrstuvwxyz0123456789" for prefix in ("", "##")]
    vocab = {token: id for id, token in enumerate([*SPECIAL, *".,:?!-", *letters, *(w for w in WORDS if len(w) > 1)])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def write(name: str, model: torch.nn.Module, tokenizer: Tokenizer, output: str, axes: dict[int, str]) -> None:
    folder = HERE / name
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    config.pop("transformers_version", None)
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "do_basic_tokenize": True,
        "never_split": None,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
        "model_max_length": SIZES["max_position_embeddings"],
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.tensor([[2, 11, 12, 13, 3], [2, 14, 3, 0, 0]])
    path = folder / "onnx" / "model.onnx"
    torch.onnx.export(
        Flat(model, output).eval(),
        (ids, (ids > 0).long(), torch.zeros_like(ids)),
        str(path),
        input_names=names,
        output_names=[output],
        dynamic_axes={key: {0: "batch", 1: "sequence"} for key in names} | {output: axes},
        opset_version=14,
        dynamo=False,
    )
    graph = onnx.load(str(path))
    graph.ir_version = 7
    for node in graph.graph.node:
        node.doc_string = ""
    onnx.save(graph, str(path))


class Flat(torch.nn.Module):
    """The model with the one output that its ONNX graph has."""

    def __init__(self, model: torch.nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return getattr(result, self.output)


def feeds(tokenizer: Tokenizer, texts: list) -> dict[str, torch.Tensor]:
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(texts)
    tokenizer.no_padding()
    return {
        "input_ids": torch.tensor([e.ids for e in encodings]),
        "attention_mask": torch.tensor([e.attention_mask for e in encodings]),
        "token_type_ids": torch.tensor([e.type_ids for e in encodings]),
    }


def main() -> None:
    torch.manual_seed(7)
    tokenizer = tiny_tokenizer()
    shared = SIZES | {"vocab_size": tokenizer.get_vocab_size(), "attn_implementation": "eager", "initializer_range": 0.3}
    encoder = BertModel(BertConfig(**shared)).eval()
    write("tiny-minilm-embedder", encoder, tokenizer, "last_hidden_state", {0: "batch", 1: "sequence"})
    cross = BertForSequenceClassification(BertConfig(**shared, num_labels=1)).eval()
    write("tiny-minilm-reranker", cross, tokenizer, "logits", {0: "batch"})
    with torch.no_grad():
        batch = feeds(tokenizer, TEXTS)
        hidden = encoder(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        vectors = torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)
        logits = cross(**feeds(tokenizer, [tuple(pair) for pair in PAIRS])).logits[:, 0]
    expected = {
        "texts": TEXTS,
        "ids": [tokenizer.encode(text).ids for text in TEXTS],
        "vectors": [[round(float(x), 6) for x in row] for row in vectors],
        "pairs": PAIRS,
        "logits": [round(float(x), 6) for x in logits],
    }
    (HERE / "expected-tiny.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
