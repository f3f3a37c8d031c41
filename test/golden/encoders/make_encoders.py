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
from safetensors.torch import load_file
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


def save_embedder(name, config, tokenizer, pooling, dense=None, normalize=True, prompts=None):
    raw = HERE / "raw"
    spread(AutoModel.from_config(config)).save_pretrained(raw)
    tokenizer.save_pretrained(raw)
    transformer = modules.Transformer(str(raw))
    parts = [transformer, modules.Pooling(SIZES["hidden_size"], pooling_mode=pooling)]
    if dense is not None:
        layer = modules.Dense(in_features=SIZES["hidden_size"], out_features=dense, activation_function=torch.nn.Tanh())
        spread(layer)
        parts.append(layer)
    if normalize:
        parts.append(modules.Normalize())
    model = SentenceTransformer(modules=parts, prompts=prompts, device="cpu")
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
    "mlp.Wi": "ffn_up",
    "mlp.Wo": "ffn_down",
}


def gguf_name(name):
    for prefix in ("roberta.", "bert.", "model."):
        name = name.removeprefix(prefix)
    stem, kind = name.rsplit(".", 1)
    parts = stem.split(".")
    if "layer" in parts or "layers" in parts:
        at = parts.index("layer") if "layer" in parts else parts.index("layers")
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
    else:
        writer.add_eos_token_id(ids["<|endoftext|>"])
        writer.add_add_eos_token(True)


def write_encoder(name, arch, pooling):
    folder = MODELS / name
    config = json.loads((folder / "config.json").read_text())
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
    if arch == "nomic-bert":
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if arch == "modern-bert":
        ropes = config["rope_parameters"]
        writer.add_rope_freq_base(ropes["full_attention"]["rope_theta"])
        writer.add_rope_freq_base_swa(ropes["sliding_attention"]["rope_theta"])
        writer.add_sliding_window(config["local_attention"])
        writer.add_sliding_window_pattern(3)
    add_tokenizer(writer, name)
    for stored, tensor in load_file(folder / "model.safetensors").items():
        target = gguf_name(stored)
        if target is None:
            continue
        data = tensor.float().numpy()
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


def write_qwen(name):
    folder = MODELS / name
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(GGUF / f"{name}.gguf", "qwen3")
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
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_pooling_type(gguf.PoolingType.LAST)
    add_tokenizer(writer, name)
    for stored, tensor in load_file(folder / "model.safetensors").items():
        stem, kind = stored.removeprefix("model.").rsplit(".", 1)
        top = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(stem)
        if top is None:
            _, layer, part = stem.split(".", 2)
            top = f"blk.{layer}.{QWEN_NAMES[part]}"
        writer.add_tensor(f"{top}.{kind}", tensor.float().numpy())
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
            dense=24,
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
    one = dict(num_labels=1)
    rankers = {
        "bert-ranker": save_ranker("bert-ranker", config_of("BertConfig", words, **one), segmented),
        "xlm-roberta-ranker": save_ranker("xlm-roberta-ranker", config_of("XLMRobertaConfig", pieces, type_vocab_size=1, **one), pieces),
        "modernbert-ranker": save_ranker(
            "modernbert-ranker",
            config_of("ModernBertConfig", modern, num_hidden_layers=4, local_attention=16, classifier_pooling="mean", **one),
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
    ]:
        write_encoder(name, arch, pooling)
    write_qwen("qwen3")
    expected = {"texts": TEXTS, "embedders": embedders, "query": QUERY, "documents": DOCUMENTS, "rankers": rankers}
    rounded = json.loads(json.dumps(expected), parse_float=lambda text: round(float(text), 6))
    (HERE / "expected.json").write_text(json.dumps(rounded))


main()
