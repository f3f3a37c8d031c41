"""Word splitting, stop words and Porter stemming, shared by the evaluation checks, BM25 and the data generator."""

import re
from functools import lru_cache

WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")

# Function words, auxiliaries, question words and the empty verbs of questions. A word in this list carries no topic.
STOP_WORDS = frozenset(
    """
    a about above after again against ago all almost alone along already also although always am among an and another any
    anybody anyone anything are around as at away back be because been before behind being below beside between beyond both
    but by can cannot could did do does doing don done down during each either else enough even ever every everyone
    everything except few for from further get gets getting give given go goes going gone got had has have having he her
    here hers herself him himself his how however i if in inside instead into is it its itself just keep keeps kept know
    least less let lets like made make makes making many may me might mine more most much must my myself near nearly need
    needs neither never next no nobody none nor not nothing now of off often on once one only onto or other others our ours
    out over own per rather same see shall she should since so some somebody someone something still such take taken takes
    than that the their theirs them themselves then there these they thing things this those though through thus to too
    toward towards under until up upon us use used uses using very was way we well were what whatever when where whether
    which while who whoever whole whom whose why will with within without would yes yet you your yours yourself
    s t ll re ve d m two three first
    """.split()
)

VOWEL = "aeiou"


def words(text: str) -> list[str]:
    """Lower-case words of a text; a possessive ending is dropped."""
    return [word.split("'")[0] for word in WORD.findall(text.lower().replace("’", "'"))]


def _is_consonant(word: str, i: int) -> bool:
    if word[i] in VOWEL:
        return False
    return word[i] != "y" or i == 0 or not _is_consonant(word, i - 1)


def _measure(stem: str) -> int:
    """Number of vowel-consonant sequences, the m of Porter (1980)."""
    shape = "".join("c" if _is_consonant(stem, i) else "v" for i in range(len(stem)))
    return len(re.findall("v+c+", shape))


def _has_vowel(stem: str) -> bool:
    return any(not _is_consonant(stem, i) for i in range(len(stem)))


def _double_consonant(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _is_consonant(word, len(word) - 1)


def _cvc(word: str) -> bool:
    n = len(word)
    return (
        n > 2
        and _is_consonant(word, n - 3)
        and not _is_consonant(word, n - 2)
        and _is_consonant(word, n - 1)
        and word[-1] not in "wxy"
    )


STEP_2 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("abli", "able"),
    ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"),
    ("ator", "ate"), ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"),
    ("iviti", "ive"), ("biliti", "ble"),
)  # fmt: skip
STEP_3 = (("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", ""))
STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
)  # fmt: skip


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Porter's algorithm (M. F. Porter, An algorithm for suffix stripping, Program 14 (3), 1980)."""
    if len(word) <= 2:
        return word
    if word.endswith("sses") or word.endswith("ies"):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]

    if word.endswith("eed"):
        if _measure(word[:-3]) > 0:
            word = word[:-1]
    else:
        for suffix in ("ed", "ing"):
            if word.endswith(suffix) and _has_vowel(word[: -len(suffix)]):
                word = word[: -len(suffix)]
                if word.endswith(("at", "bl", "iz")):
                    word += "e"
                elif _double_consonant(word) and word[-1] not in "lsz":
                    word = word[:-1]
                elif _measure(word) == 1 and _cvc(word):
                    word += "e"
                break
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"

    for table in (STEP_2, STEP_3):
        for suffix, replacement in table:
            if word.endswith(suffix):
                if _measure(word[: -len(suffix)]) > 0:
                    word = word[: -len(suffix)] + replacement
                break
    for suffix in sorted(STEP_4, key=len, reverse=True):
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            if _measure(base) > 1 and (suffix != "ion" or base.endswith(("s", "t"))):
                word = base
            break
    if word.endswith("e"):
        base = word[:-1]
        if _measure(base) > 1 or (_measure(base) == 1 and not _cvc(base)):
            word = base
    if _measure(word) > 1 and word.endswith("ll"):
        word = word[:-1]
    return word


def content_stems(text: str) -> list[str]:
    """Stems of the words that are not stop words, in order."""
    return [stem(word) for word in words(text) if word not in STOP_WORDS]
