"""The WordPiece tokenizer: the lexicon's words and their inflections as whole tokens, pieces for every other word.

    python tokenizer.py        # writes out/tokenizer.json and out/rows.json

rows.json maps each token to the row of its embedding: "leaking" and "leaked" share the row of "leak".
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lexicon import inflections, irregular_forms, read_lexicon
from text import STOP_WORDS

OUT = Path(__file__).parent / "out"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PUNCTUATION = list(".,;:!?'\"()[]{}<>-_/\\|@#$%^&*+=~`°€£–—’“”…")
NUM_PIECES = 2200


def word_pieces(vocabulary: list[str]) -> list[str]:
    """Frequent pieces of the lexicon's words, for the words outside it."""
    trainer = trainers.WordPieceTrainer(vocab_size=NUM_PIECES, show_progress=False, continuing_subword_prefix="##")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(vocabulary, trainer)
    return sorted(tokenizer.get_vocab())


def build() -> tuple[Tokenizer, list[int]]:
    lexicon = read_lexicon()
    base_of: dict[str, str] = {}
    for word in [*lexicon.vocabulary, *sorted(STOP_WORDS)]:
        base_of.setdefault(word, word)
    for form, base in irregular_forms().items():
        base_of.setdefault(form, base)
        base_of.setdefault(base, base)
    for word in lexicon.vocabulary:
        for form in [] if word in STOP_WORDS else inflections(word):
            base_of.setdefault(form, word)
    letters = [prefix + c for c in "abcdefghijklmnopqrstuvwxyz0123456789" for prefix in ("", "##")]
    numbers = [str(n) for n in range(101)]
    tokens = list(dict.fromkeys([*SPECIAL, *PUNCTUATION, *letters, *numbers, *base_of, *word_pieces(lexicon.vocabulary)]))
    vocab = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=None, clean_text=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.add_special_tokens(SPECIAL)
    rows = {base: row for row, base in enumerate(dict.fromkeys(base_of.get(token, token) for token in tokens))}
    return tokenizer, [rows[base_of.get(token, token)] for token in tokens]


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    tokenizer, rows = build()
    tokenizer.save(str(OUT / "tokenizer.json"))
    (OUT / "rows.json").write_text(json.dumps(rows))
    print(f"{tokenizer.get_vocab_size()} tokens, {max(rows) + 1} rows")
