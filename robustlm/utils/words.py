"""Split texts of any script into words; also a list of everyday words for use without a training text.

Noise, distortion, protection, edits and attacks all use this split. White space separates words, except in scripts that
are written without blanks (Chinese, Japanese, Thai, Lao, Khmer, Myanmar and others): there each character, with its
combining marks, is a word. `rejoin` puts the words of a text together again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

# for named scripts and grapheme clusters, which the standard library's `re` does not support
import regex  # type: ignore[import-untyped]

UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Tangut}\p{Nushu}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}"
    r"\p{Javanese}\p{Balinese}"
    # their punctuation, which is not part of a single script: 、。「」 and full-width ，！？
    r"\u3001-\u303f\u30fb\u30fc\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
"""Characters that each form a word: the inside of a character class of the package `regex`."""

_ANY = regex.compile(rf"[{UNSPACED}]")
# fast first check: except two marks, none of them is below Thai, in general punctuation and symbols, or in Hangul
_MAYBE = re.compile("[\u02ea\u02eb\u0e00-\u1fff\u2e80-\uabff\ud7b0-\U0010ffff]")
# the zero-width space, which may separate words in Khmer and Thai texts, counts as white space
_PIECE = regex.compile(rf"(?=[{UNSPACED}])\X|(?:\{{[^\W\d]\w*\}}|[^{UNSPACED}\s\u200b])+")
_ENDS = regex.compile(rf"[{UNSPACED}]\p{{M}}*\Z")
_MARK = regex.compile(r"[^\p{L}\p{N}]*")


def is_unspaced(text: str) -> bool:
    """Whether a text has characters of a script that is written without blanks."""
    return not text.isascii() and _MAYBE.search(text) is not None and _ANY.search(text) is not None


def split_words(text: str) -> list[str]:
    """The words of a text.

    Args:
        text: Any string.

    Returns:
        The parts between white space. In scripts without blanks, each character with its combining marks is a word
        (`请把text分类。` → 请, 把, text, 分, 类, 。). Slots (`{name}`) are never split.
    """
    if not is_unspaced(text):
        return text.split()
    # split at white space first, as the standard library defines it
    return [word for chunk in text.split() for word in _PIECE.findall(chunk)]


def rejoin(text: str, words: Sequence[str]) -> str:
    """Join the noisy words of a text.

    If the text has no scripts without blanks, a single space separates the words. Otherwise, words that were neighbours
    in the raw text keep the white space that was between them, so `rejoin(text, split_words(text))` is `text` without
    the white space around it. New neighbours get no space if one of them is of a script without blanks, else one space.

    Args:
        text: The raw text.
        words: Noisy words, in order. An item may contain several words, separated by spaces.

    Returns:
        The noisy text.
    """
    line = " ".join(words)
    if not (is_unspaced(text) or is_unspaced(line)):
        return line
    own, gaps = with_gaps(text)
    new = line.split()
    parts = new[:1]
    last = -1
    for number, (word, place) in enumerate(zip(new, _places(own, new), strict=True)):
        passed = () if place is None else range(last + 1, place + 1)
        at = next((at for at in passed if gaps[at]), None)
        last = last if place is None else place
        if number:
            kept = at is not None and (gaps[at].strip(" ") or _apart(own[at - 1], own[at], new[number - 1], word))
            parts += [gaps[at] if at is not None and kept else _glue(new[number - 1], word), word]
    return "".join(parts)


def with_gaps(text: str) -> tuple[list[str], list[str]]:
    """The words of a text, and the white space before each word; the entry of the first word is empty."""
    words = split_words(text)
    gaps: list[str] = []
    end = 0
    for word in words:
        start = text.index(word, end)
        gaps.append(text[end:start] if gaps else "")
        end = start + len(word)
    return words, gaps


def _places(own: Sequence[str], new: Sequence[str]) -> list[int | None]:
    """For each new word, the index of the word that it equals or replaces; None if it was inserted."""
    if len(own) == len(new):
        return list(range(len(new)))
    import Levenshtein  # imported here: splitting prompts works on machines without it

    places: list[int | None] = [None] * len(new)
    for action, start, end, at, _ in Levenshtein.opcodes(list(own), list(new)):
        if action in ("equal", "replace"):
            places[at : at + end - start] = range(start, end)
    return places


@lru_cache(maxsize=1 << 16)
def _edges(word: str) -> tuple[bool, bool]:
    """Whether a word starts and ends with a character of a script without blanks."""
    return _ANY.match(word) is not None, _ENDS.search(word) is not None


def _glue(before: str, after: str) -> str:
    return "" if _edges(before)[1] or _edges(after)[0] else " "


def _apart(own_before: str, own_after: str, before: str, after: str) -> bool:
    """Whether blanks between two words may stay between two others: not if they would newly separate characters."""
    parts = _edges(before)[1] and _edges(after)[0]
    return not parts or (_edges(own_before)[1] and _edges(own_after)[0])


def is_mark(word: str) -> bool:
    """Whether a word is punctuation of a script without blanks."""
    return is_unspaced(word) and _MARK.fullmatch(word) is not None


_WORDS = """
    able above across actor after again agree allow almost alone along animal answer apple area arm around
    art autumn away baby back bag ball bank basket beach bear bell bench bicycle bird black blanket blue
    board boat body book border bottle bottom box branch bread bridge bright bring brother brown brush build
    busy button cake camera candle captain card carry castle cat center chair change cheap circle city clean
    clock cloud coast coffee cold color common cook copper corner cotton country cousin cover cross crowd
    cup curtain daily dance dark daughter deep desk dinner doctor door double dream dress drink drive dust
    early earth east easy edge eight empty engine evening exact eye face fair family farm fast father
    feather field finger fire fish flag flat floor flower fly fold forest fork fresh friend fruit garden
    gate gentle ghost glass glove gold grain grass gray green ground guest guitar half hammer hand happy
    harbor hat heavy hill honey horse hotel house hungry ice inch iron island jacket journey juice jump key
    kitchen knife ladder lake lamp large leaf leather left lemon letter library light line lion liquid lock
    lucky lunch machine map market meadow metal middle milk minute mirror money monkey month moon morning
    mother mountain mouse music narrow neck needle nest night noise north number ocean office old onion open
    orange oven paint pair paper park pencil people pepper picture pillow plant plate pocket poem pond
    potato price quick quiet rabbit rain river road rock roof room rope round salt sand school season seed
    seven shadow sharp sheep ship shirt shoe silver simple sister sky sleep slow small smile smoke snow soft
    song south spoon spring square star station stone storm story street strong sugar summer sun table tall
    tea tiger time tooth tower town train tree turn uncle under valley village violet visit voice walk wall
    warm watch water wave west wheel white wide wild wind window winter wonder wood yard yellow young
"""

FALLBACK_WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""The words: distinct, in lower case, without punctuation."""
