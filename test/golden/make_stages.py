"""Makes tokenizer-stages.json: normalizers and pre-tokenizers put into tiny-text's tokenizer.json, with the ids that the `tokenizers` package gives to some texts.

    pip install tokenizers
    python test/golden/make_stages.py
"""

import json
import pathlib

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

HERE = pathlib.Path(__file__).parent
BEHAVIORS = ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")
TEXTS = [
    "", "The river runs past the old mill.", "1234567 and 0.25", "----==__--", "a <mask> b|c $5+~`^", "word,word;;word", "ΑΣ Σ ς", "Naïve café e\u0301",
    "  two  spaces ", "line\nbreak\ttab\r\n x", "\u0939\u093f\u0928\u094d\u0926\u0940", "東京 🙂 don't",
]
# Puts a space before each piece, so that ids show where the text was cut.
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)


def cases():
    for behavior in BEHAVIORS:
        yield None, pre_tokenizers.Punctuation(behavior)
        yield None, pre_tokenizers.Split("e", behavior)
        yield None, pre_tokenizers.Split(Regex(r"\d|[,;\-]|\s+"), behavior)
    yield None, pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+"), "removed", invert=True)
    yield None, pre_tokenizers.Digits(individual_digits=True)
    yield normalizers.NFD(), pre_tokenizers.Whitespace()
    yield normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    yield normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]), pre_tokenizers.BertPreTokenizer()
    yield normalizers.BertNormalizer(lowercase=True), pre_tokenizers.Whitespace()


def main():
    out = []
    for normalizer, split in cases():
        tokenizer = Tokenizer.from_file(str(HERE / "models" / "tiny-text" / "tokenizer.json"))
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, BYTES])
        stages = json.loads(tokenizer.to_str())
        out.append(dict(normalizer=stages["normalizer"], pre_tokenizer=stages["pre_tokenizer"], ids=[tokenizer.encode(text).ids for text in TEXTS]))
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in out)
    (HERE / "tokenizer-stages.json").write_text(f'{{"texts": {json.dumps(TEXTS, ensure_ascii=False)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
