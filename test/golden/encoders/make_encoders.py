"""Makes tiny random models that embed or rank texts, and what sentence-transformers and transformers give for them.

    pip install torch transformers==5.24.0 sentence-transformers==6.2.0 gguf==0.19.0
    python test/golden/encoders/make_encoders.py

models/NAME: a folder as sentence-transformers (or, for rankers, transformers) saves it. gguf/NAME.gguf: the same weights and tokenizer as
llama.cpp's converter writes them. expected.json: texts with each embedder's vectors, pairs with each ranker's relevance.
"""

import json
import pathlib
import shutil

import gguf
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
import transformers

HERE = pathlib.Path(__file__).parent
MODELS = HERE / "models"
GGUF = HERE / "gguf"

CORPUS = [
    "The museum opens at nine and closes at five; the shop inside is open until six.",
    "Bread is baked in the old mill by the river every morning, except on Mondays.",
    "yes no yes no yes no yes no: a question is answered with yes or with no.",
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided.",
    "Ein Zug fährt um acht Uhr ab; naïve café, Ünïcödé, 漢字 and 123 numbers.",
]
LONG = " ".join(CORPUS[:2] * 3)
TEXTS = [
    "When does the museum open?",
    "bread",
    "Naïve café: Ünïcödé [SEP] 漢字!",
    LONG,
    "The mill by the river, at 12:30.",
]
QUERY = "When does the museum open?"
DOCUMENTS = ["The museum opens at nine.", "Bread is baked every morning.", LONG]
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=160)


def wordpiece(**extra):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=specials, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_max_length=SIZES["max_position_embeddings"], **extra,
    )


def byte_level(specials, template=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS + ["yes", "no"] * 9, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    if template is not None:
        tokenizer.post_processor = template(tokenizer)
    return tokenizer


def roberta_tokenizer():
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = byte_level(specials, lambda t: processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>"))))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>",
        model_max_length=SIZES["max_position_embeddings"] - 2,
    )


def modernbert_tokenizer():
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    template = lambda t: processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, t.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level(specials, template), unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=SIZES["max_position_embeddings"],
    )


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=specials, unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>",
        model_max_length=SIZES["max_position_embeddings"] - 2,
    )


def gemma_tokenizer():
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    template = lambda t: processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> <bos> $B <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level(specials, template), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=SIZES["max_position_embeddings"],
    )


def qwen_tokenizer(ends):
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    template = (
        (lambda t: processors.TemplateProcessing(single="$A <|endoftext|>", pair="$A $B <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]))
        if ends
        else None
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level(specials, template), eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=131072
    )


def spread(model):
    """Random weights at which rows differ: the default ones leave a model of this size near the mean of its inputs."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        parameter.data = 1 + 0.2 * noise if is_norm else noise * (0.3 if parameter.dim() > 1 else 0.1)
    return model.eval()


def config_of(kind, tokenizer, **extra):
    return getattr(transformers, kind)(
        **{**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **extra}
    )


def save_embedder(name, config, tokenizer, pooling, dense=(), normalize=True, prompts=None, kept=None):
    raw = HERE / "raw"
    spread(AutoModel.from_config(config)).save_pretrained(raw)
    tokenizer.save_pretrained(raw)
    transformer = modules.Transformer(str(raw))
    parts = [transformer, modules.Pooling(SIZES["hidden_size"], pooling_mode=pooling)]
    features = SIZES["hidden_size"]
    for out_features, activation, bias in dense:
        layer = modules.Dense(in_features=features, out_features=out_features, activation_function=activation, bias=bias)
        spread(layer)
        parts.append(layer)
        features = out_features
    if normalize:
        parts.append(modules.Normalize())
    model = SentenceTransformer(modules=parts, prompts=prompts, truncate_dim=kept, device="cpu")
    model.save(str(MODELS / name), create_model_card=False)
    shutil.rmtree(raw)
    loaded = SentenceTransformer(str(MODELS / name), device="cpu")
    found = {"plain": loaded.encode(TEXTS).tolist()}
    if prompts is not None:
        found["query"] = loaded.encode(TEXTS, prompt_name="query").tolist()
    return found


def save_ranker(name, config, tokenizer):
    folder = MODELS / name
    model = spread(AutoModelForSequenceClassification.from_config(config))
    # Logits in the sigmoid's slope.
    getattr(model.classifier, "out_proj", model.classifier).weight.data *= 0.2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return CrossEncoder(str(folder), device="cpu").predict([(QUERY, document) for document in DOCUMENTS]).tolist()


def save_by_hand(name, config, weights, tokenizer, pooling, forward):
    """A folder of a model that transformers has no code for; `forward` gives a text's hidden states for its token ids."""
    folder = MODELS / name
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(weights, folder / "model.safetensors")
    parts = ["Transformer", "Pooling", "Normalize"]
    rows = [
        {"idx": i, "name": str(i), "path": f"{i}_{part}" if i else "", "type": f"sentence_transformers.models.{part}"}
        for i, part in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(rows, indent=2))
    (folder / "1_Pooling").mkdir()
    pooler = {"word_embedding_dimension": config.get("n_embd") or config["hidden_size"], f"pooling_mode_{pooling}_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooler, indent=2))
    found = []
    for text in TEXTS:
        with torch.no_grad():
            rows = forward(torch.tensor(tokenizer(text, truncation=True).input_ids))
        pooled = {"mean": rows.mean(0), "max": rows.max(0).values}[pooling]
        found.append(torch.nn.functional.normalize(pooled, dim=0).tolist())
    return {"plain": found}


def random_weights(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        is_norm = len(shape) == 1 and name.endswith("weight")
        weights[name] = 1 + 0.2 * noise if is_norm else noise * (0.3 if len(shape) > 1 else 0.1)
    return weights


def attend(q, k, v, heads, bias=None):
    """Rows [tokens, hidden] of every head, bidirectional."""
    q, k, v = (x.unflatten(1, (heads, -1)).transpose(0, 1) for x in (q, k, v))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def save_jina_bert(name, tokenizer):
    """BERT with slopes by distance (arXiv 2108.12409) and a gated MLP, as jina-embeddings-v2 (arXiv 2310.19923)."""
    hidden, inner, heads, layers = 48, 64, 6, 2
    config = dict(
        model_type="bert", vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=160, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu",
        position_embedding_type="alibi", feed_forward_type="geglu", pad_token_id=tokenizer.pad_token_id,
    )
    shapes = {
        "embeddings.word_embeddings.weight": (len(tokenizer), hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for i in range(layers):
        at = f"encoder.layer.{i}."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{at}{part}.weight": (hidden, hidden), f"{at}{part}.bias": (hidden,)}
        for part in ("attention.output.LayerNorm", "mlp.layernorm"):
            shapes |= {f"{at}{part}.weight": (hidden,), f"{at}{part}.bias": (hidden,)}
        shapes |= {f"{at}mlp.gated_layers.weight": (2 * inner, hidden), f"{at}mlp.wo.weight": (hidden, inner), f"{at}mlp.wo.bias": (hidden,)}
    w = random_weights(shapes, 7)
    # Of 6 heads, four have the slopes of 4 heads, two those between the slopes of 8.
    slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3])

    def forward(ids):
        places = torch.arange(len(ids))
        bias = -slopes[:, None, None] * (places[:, None] - places[None]).abs()
        linear = lambda x, part: x @ w[f"{part}.weight"].T + w.get(f"{part}.bias", 0)
        norm = lambda x, part: torch.nn.functional.layer_norm(x, (hidden,), w[f"{part}.weight"], w[f"{part}.bias"], 1e-12)
        x = norm(w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for i in range(layers):
            at = f"encoder.layer.{i}."
            q, k, v = (linear(x, f"{at}attention.self.{part}") for part in ("query", "key", "value"))
            x = norm(x + linear(attend(q, k, v, heads, bias), f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
            gate, up = linear(x, f"{at}mlp.gated_layers").chunk(2, -1)
            x = norm(x + linear(torch.nn.functional.gelu(gate) * up, f"{at}mlp.wo"), f"{at}mlp.layernorm")
        return x

    return save_by_hand(name, config, w, tokenizer, "mean", forward)


def save_nomic_experts(name, tokenizer):
    """nomic-bert without a gate, with experts in every second layer, as nomic-embed-text-v2 (arXiv 2502.07972)."""
    hidden, inner, heads, layers, experts = 32, 48, 4, 4, 4
    config = dict(
        model_type="nomic_bert", vocab_size=len(tokenizer), n_embd=hidden, n_layer=layers, n_head=heads, n_inner=inner, n_positions=158,
        type_vocab_size=1, layer_norm_epsilon=1e-5, activation_function="gelu", rotary_emb_base=10000, rotary_emb_fraction=1.0,
        rotary_emb_interleaved=False, prenorm=False, moe_every_n_layers=2, num_experts=experts, moe_top_k=2,
        moe_normalize_expert_weights=False, pad_token_id=tokenizer.pad_token_id,
    )
    shapes = {
        "embeddings.word_embeddings.weight": (len(tokenizer), hidden),
        "embeddings.token_type_embeddings.weight": (1, hidden),
        "emb_ln.weight": (hidden,),
        "emb_ln.bias": (hidden,),
    }
    for i in range(layers):
        at = f"encoder.layers.{i}."
        shapes |= {f"{at}attn.Wqkv.weight": (3 * hidden, hidden), f"{at}attn.Wqkv.bias": (3 * hidden,)}
        shapes |= {f"{at}attn.out_proj.weight": (hidden, hidden), f"{at}attn.out_proj.bias": (hidden,)}
        for part in ("norm1", "norm2"):
            shapes |= {f"{at}{part}.weight": (hidden,), f"{at}{part}.bias": (hidden,)}
        if i % 2 == 1:
            shapes |= {f"{at}mlp.router.layer.weight": (experts, hidden), f"{at}mlp.experts.bias": (hidden,)}
            shapes |= {f"{at}mlp.experts.mlp.{part}": (experts * inner, hidden) for part in ("w1", "w2")}
        else:
            shapes |= {f"{at}mlp.fc1.weight": (inner, hidden), f"{at}mlp.fc1.bias": (inner,)}
            shapes |= {f"{at}mlp.fc2.weight": (hidden, inner), f"{at}mlp.fc2.bias": (hidden,)}
    # A seed with which no row stands so near between two experts that f16 keys decide.
    w = random_weights(shapes, 9)
    # llama.cpp's converter leaves the bias of experts out, so that files are compared without one.
    for i in range(1, layers, 2):
        w[f"encoder.layers.{i}.mlp.experts.bias"].zero_()
    gelu = torch.nn.functional.gelu

    def rotate(x, cos, sin):
        x = x.unflatten(1, (heads, -1))
        a, b = x.chunk(2, -1)
        return (x * cos + torch.cat((-b, a), -1) * sin).flatten(1)

    def forward(ids):
        dim = hidden // heads
        angles = torch.arange(len(ids))[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
        cos, sin = (torch.cat((f(angles), f(angles)), -1)[:, None] for f in (torch.cos, torch.sin))
        linear = lambda x, part: x @ w[f"{part}.weight"].T + w[f"{part}.bias"]
        norm = lambda x, part: torch.nn.functional.layer_norm(x, (hidden,), w[f"{part}.weight"], w[f"{part}.bias"], 1e-5)
        x = norm(w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0], "emb_ln")
        for i in range(layers):
            at = f"encoder.layers.{i}."
            q, k, v = linear(x, f"{at}attn.Wqkv").chunk(3, -1)
            x = norm(x + linear(attend(rotate(q, cos, sin), rotate(k, cos, sin), v, heads), f"{at}attn.out_proj"), f"{at}norm1")
            if i % 2 == 0:
                y = linear(gelu(linear(x, f"{at}mlp.fc1")), f"{at}mlp.fc2")
            else:
                scores = (x @ w[f"{at}mlp.router.layer.weight"].T).softmax(-1)
                first, second = (w[f"{at}mlp.experts.mlp.{part}"].unflatten(0, (experts, inner)) for part in ("w1", "w2"))
                y = w[f"{at}mlp.experts.bias"].expand_as(x).clone()
                for row in range(len(x)):
                    for expert in scores[row].topk(2).indices:
                        y[row] += scores[row, expert] * (gelu(x[row] @ first[expert].T) @ second[expert])
            x = norm(x + y, f"{at}norm2")
        return x

    return save_by_hand(name, config, w, tokenizer, "mean", forward)


RANK_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
RANK_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
TASK = "Given a web search query, retrieve relevant passages that answer the query"


def save_qwen_ranker(name, config, tokenizer):
    """As the model card of Qwen3-Reranker computes it."""
    folder = MODELS / name
    model = spread(AutoModelForCausalLM.from_config(config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    yes, no = tokenizer.convert_tokens_to_ids("yes"), tokenizer.convert_tokens_to_ids("no")
    assert None not in (yes, no)
    scores = []
    for document in DOCUMENTS:
        text = f"{RANK_BEFORE}<Instruct>: {TASK}\n<Query>: {QUERY}\n<Document>: {document}{RANK_AFTER}"
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        scores.append(torch.softmax(logits[[no, yes]], 0)[1].item())
    return scores


# -- GGUF ---------------------------------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
}
BERT_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "embeddings.tok_embeddings": "token_embd",
    "embeddings.norm": "token_embd_norm",
    "final_norm": "output_norm",
    "classifier.dense": "cls",
    "classifier.out_proj": "cls.output",
}
LAYER_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.out_proj": "attn_output",
    "norm1": "attn_output_norm",
    "norm2": "layer_output_norm",
    "mlp.fc11": "ffn_up",
    "mlp.fc12": "ffn_gate",
    "mlp.fc2": "ffn_down",
    "attn.Wo": "attn_output",
    "attn_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "attention.output.LayerNorm": "attn_output_norm",
    "mlp.wo": "ffn_down",
    "mlp.layernorm": "layer_output_norm",
    "mlp.fc1": "ffn_up",
    "mlp.router.layer": "ffn_gate_inp",
    "mixer.Wqkv": "attn_qkv",
    "mixer.out_proj": "attn_output",
    "mlp.Wi": "ffn_up",
    "mlp.Wo": "ffn_down",
}


def gguf_name(name):
    for prefix in ("roberta.", "bert.", "model."):
        name = name.removeprefix(prefix)
    stem, kind = name.rsplit(".", 1)
    parts = stem.split(".")
    if "layer" in parts or "layers" in parts:
        at = parts.index("layers") if "layers" in parts else parts.index("layer")
        rest = ".".join(parts[at + 2 :])
        return f"blk.{parts[at + 1]}.{LAYER_NAMES[rest]}.{kind}"
    if stem == "emb_ln":
        stem = "embeddings.LayerNorm"
    return f"{BERT_NAMES[stem]}.{kind}" if stem in BERT_NAMES else None


def add_tokenizer(writer, name):
    folder = MODELS / name
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    model = tokenizer["model"]
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    if model["type"] == "Unigram":
        writer.add_tokenizer_model("t5")
        writer.add_tokenizer_pre("default")
        tokens = [text for text, _ in model["vocab"]]
        writer.add_token_scores([score for _, score in model["vocab"]])
        writer.add_add_space_prefix(True)
        writer.add_remove_extra_whitespaces(True)
    else:
        tokens = [text for text, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    types = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokens))]
    if model["type"] == "WordPiece":
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("default")
        # Beginnings of words are marked instead of their ends.
        tokens = [t if i in special else t[2:] if t.startswith("##") else "\u2581" + t for i, t in enumerate(tokens)]
    elif model["type"] == "BPE":
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    ids = {text: i for i, text in special.items()}
    if "[CLS]" in ids:
        writer.add_sep_token_id(ids["[SEP]"])
        writer.add_bos_token_id(ids["[CLS]"])
        writer.add_eos_token_id(ids["[SEP]"])
        writer.add_unk_token_id(ids["[UNK]"])
        writer.add_pad_token_id(ids["[PAD]"])
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(True)
    elif "<s>" in ids:
        writer.add_bos_token_id(ids["<s>"])
        writer.add_eos_token_id(ids["</s>"])
        writer.add_unk_token_id(ids["<unk>"])
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(True)
    elif "<bos>" in ids:
        writer.add_bos_token_id(ids["<bos>"])
        writer.add_eos_token_id(ids["<eos>"])
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(True)
    else:
        writer.add_eos_token_id(ids["<|endoftext|>"])
        writer.add_add_eos_token(True)


def converted(stored, tensor, config):
    """Names and values of what the converter makes of a tensor; as it stands where it makes nothing else of it."""
    experts, inner = config.get("num_experts", 0), config.get("n_inner", 0)
    layer = stored.split(".")[2] if stored.startswith("encoder.") else ""
    if stored.endswith("mlp.experts.mlp.w1"):
        return [(f"blk.{layer}.ffn_up_exps.weight", tensor.unflatten(0, (experts, inner)))]
    if stored.endswith("mlp.experts.mlp.w2"):
        return [(f"blk.{layer}.ffn_down_exps.weight", tensor.unflatten(0, (experts, inner)).transpose(1, 2).contiguous())]
    if stored.endswith("mlp.experts.bias"):
        return []
    if stored.endswith("mlp.gated_layers.weight"):
        gate, up = tensor.chunk(2)
        return [(f"blk.{layer}.ffn_gate.weight", gate.contiguous()), (f"blk.{layer}.ffn_up.weight", up.contiguous())]
    return [(gguf_name(stored), tensor)]


def write_encoder(name, arch, pooling):
    folder = MODELS / name
    config = json.loads((folder / "config.json").read_text())
    for ours, theirs in PUBLISHED.items():
        config.setdefault(ours, config.get(theirs))
    writer = gguf.GGUFWriter(GGUF / f"{name}.gguf", arch)
    writer.add_name(name)
    writer.add_block_count(config["num_hidden_layers"])
    is_xlmr = config["model_type"] in ("roberta", "xlm-roberta")
    writer.add_context_length(config["max_position_embeddings"] - (2 if is_xlmr else 0))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config.get("layer_norm_eps") or config.get("norm_eps"))
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    if arch in ("nomic-bert", "jina-bert-v3"):
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if arch == "nomic-bert-moe":
        writer.add_rope_freq_base(config["rotary_emb_base"])
        writer.add_moe_every_n_layers(config["moe_every_n_layers"])
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["moe_top_k"])
    if arch == "modern-bert":
        ropes = config["rope_parameters"]
        writer.add_rope_freq_base(ropes["full_attention"]["rope_theta"])
        writer.add_rope_freq_base_swa(ropes["sliding_attention"]["rope_theta"])
        writer.add_sliding_window(config["local_attention"])
        writer.add_sliding_window_pattern(3)
    add_tokenizer(writer, name)
    for stored, tensor in load_file(folder / "model.safetensors").items():
        for target, values in converted(stored, tensor, config):
            if target is None:
                continue
            data = values.float().numpy()
            if is_xlmr and target == "position_embd.weight":
                data = data[2:]
            writer.add_tensor(target, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


QWEN_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


GEMMA_NAMES = {
    **QWEN_NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_decoder(name, arch, pooling):
    folder = MODELS / name
    config = json.loads((folder / "config.json").read_text())
    is_gemma = arch == "gemma-embedding"
    names = GEMMA_NAMES if is_gemma else QWEN_NAMES
    writer = gguf.GGUFWriter(GGUF / f"{name}.gguf", arch)
    writer.add_name(name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    ropes = config["rope_parameters"]
    writer.add_rope_freq_base(ropes.get("full_attention", ropes)["rope_theta"])
    writer.add_pooling_type(pooling)
    if is_gemma:
        # The window of config.json, before transformers halves it.
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
        for number, part in ((2, "2_Dense"), (3, "3_Dense")):
            weight = load_file(folder / part / "model.safetensors")["linear.weight"]
            writer.add_dense_features_dims(f"dense_{number}", weight.shape[1], weight.shape[0])
            writer.add_tensor(f"dense_{number}.weight", weight.float().numpy())
    add_tokenizer(writer, name)
    for stored, tensor in load_file(folder / "model.safetensors").items():
        stem, kind = stored.removeprefix("model.").rsplit(".", 1)
        top = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(stem)
        if top is None:
            _, layer, part = stem.split(".", 2)
            top = f"blk.{layer}.{names[part]}"
        # The converter adds Gemma's 1 to norms.
        values = tensor.float() + 1 if is_gemma and tensor.dim() == 1 else tensor.float()
        writer.add_tensor(f"{top}.{kind}", values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    torch.manual_seed(1)
    for folder in (MODELS, GGUF):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    words, bytes_, pieces = wordpiece(), roberta_tokenizer(), unigram()
    segmented = wordpiece(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    modern = modernbert_tokenizer()
    embedders = {
        "bert": save_embedder("bert", config_of("BertConfig", words, hidden_act="gelu"), words, "mean"),
        "roberta": save_embedder("roberta", config_of("RobertaConfig", bytes_, type_vocab_size=1), bytes_, "cls", normalize=False),
        "xlm-roberta": save_embedder("xlm-roberta", config_of("XLMRobertaConfig", pieces, type_vocab_size=1), pieces, "cls"),
        "distilbert": save_embedder(
            "distilbert",
            transformers.DistilBertConfig(
                vocab_size=len(words), dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=160, pad_token_id=0
            ),
            words,
            "mean",
            dense=[(24, torch.nn.Tanh(), True)],
        ),
        "nomic": save_embedder(
            "nomic",
            config_of("NomicBertConfig", words),
            words,
            "mean",
            prompts={"query": "search query: ", "document": "search document: "},
        ),
        "modernbert": save_embedder(
            "modernbert",
            config_of("ModernBertConfig", modern, num_hidden_layers=4, local_attention=16, hidden_activation="gelu"),
            modern,
            "mean",
        ),
        "qwen3": save_embedder(
            "qwen3",
            config_of("Qwen3Config", qwen_tokenizer(True), num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, max_position_embeddings=512),
            qwen_tokenizer(True),
            "lasttoken",
            prompts={"query": f"Instruct: {TASK}\nQuery:", "document": ""},
        ),
    }
    gemma = gemma_tokenizer()
    embedders |= {
        "mpnet": save_embedder("mpnet", config_of("MPNetConfig", bytes_), bytes_, "max", kept=20),
        "gte": save_embedder("gte", config_of("GteConfig", words), words, "weightedmean"),
        "jina-v3": save_embedder("jina-v3", config_of("JinaEmbeddingsV3Config", pieces), pieces, "mean_sqrt_len_tokens"),
        "embedding-gemma": save_embedder(
            "embedding-gemma",
            config_of(
                "Gemma3TextConfig", gemma, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, sliding_window=16, num_hidden_layers=3,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"], use_bidirectional_attention=True,
            ),
            gemma,
            "mean",
            dense=[(48, torch.nn.Identity(), False), (32, torch.nn.Identity(), False)],
            prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
        ),
        "eurobert": save_embedder("eurobert", config_of("EuroBertConfig", modern), modern, "mean"),
        "jina-v2": save_jina_bert("jina-v2", words),
        "nomic-experts": save_nomic_experts("nomic-experts", pieces),
    }
    one = dict(num_labels=1)
    rankers = {
        "bert-ranker": save_ranker("bert-ranker", config_of("BertConfig", words, **one), segmented),
        "xlm-roberta-ranker": save_ranker("xlm-roberta-ranker", config_of("XLMRobertaConfig", pieces, type_vocab_size=1, **one), pieces),
        "modernbert-ranker": save_ranker(
            "modernbert-ranker",
            config_of("ModernBertConfig", modern, num_hidden_layers=4, local_attention=16, classifier_pooling="mean", **one),
            modern,
        ),
        "electra-ranker": save_ranker("electra-ranker", config_of("ElectraConfig", words, embedding_size=16, **one), segmented),
        "deberta-ranker": save_ranker(
            "deberta-ranker",
            config_of(
                "DebertaV2Config", modern, position_buckets=24, max_relative_positions=-1, norm_rel_ebd="layer_norm", share_att_key=True,
                relative_attention=True, position_biased_input=False, pos_att_type=["p2c", "c2p"], **one,
            ),
            modern,
        ),
        "deberta-apart-ranker": save_ranker(
            "deberta-apart-ranker",
            config_of(
                "DebertaV2Config", modern, max_relative_positions=40, relative_attention=True, position_biased_input=True,
                pos_att_type=["p2c", "c2p"], type_vocab_size=2, **one,
            ),
            modern,
        ),
        "qwen3-ranker": save_qwen_ranker(
            "qwen3-ranker",
            config_of("Qwen3Config", qwen_tokenizer(False), num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, max_position_embeddings=1024),
            qwen_tokenizer(False),
        ),
    }
    kinds = gguf.PoolingType
    for name, arch, pooling in [
        ("bert", "bert", kinds.MEAN),
        ("xlm-roberta", "bert", kinds.CLS),
        ("nomic", "nomic-bert", kinds.MEAN),
        ("modernbert", "modern-bert", kinds.MEAN),
        ("xlm-roberta-ranker", "bert", kinds.RANK),
        ("jina-v2", "jina-bert-v2", kinds.MEAN),
        ("nomic-experts", "nomic-bert-moe", kinds.MEAN),
    ]:
        write_encoder(name, arch, pooling)
    write_decoder("qwen3", "qwen3", kinds.LAST)
    write_decoder("embedding-gemma", "gemma-embedding", kinds.MEAN)
    write_decoder("eurobert", "eurobert", kinds.MEAN)
    expected = {"texts": TEXTS, "embedders": embedders, "query": QUERY, "documents": DOCUMENTS, "rankers": rankers}
    rounded = json.loads(json.dumps(expected), parse_float=lambda text: round(float(text), 6))
    (HERE / "expected.json").write_text(json.dumps(rounded))


main()
