"""Character-level noise: misspelled words, after DeepWordBug (Gao et al. 2018) and TextBugger (Li et al. 2019).

k = ⌈ω·n⌉ words are misspelled, or fewer if not enough words can be. Each of them gets one edit of its letters; its
punctuation stays. All edits that a word allows are equally likely.
"""

from __future__ import annotations

from collections.abc import Callable

from robustlm.noise.base import register_kind, word_budget
from robustlm.noise.pools import Pools
from robustlm.utils.random import Stream
from robustlm.utils.words import is_unspaced, split_words

_Edit = Callable[[str, int, Stream], str]
"""Takes a word, a place in it and a random stream; returns the edited word."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_LOOKALIKES = dict(zip("abceghiloqstz", "@6(39#1109$+2", strict=True))


@register_kind("deepwordbug")
def deepwordbug(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Misspell k words as DeepWordBug does: swap two adjacent letters, substitute, delete or insert a random one.

    As in the paper, first and last letters may be edited too. The only letter of a word is never deleted.
    """
    return _misspelled(words, omega, rng, _deepwordbug_edits)


@register_kind("textbugger")
def textbugger(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Misspell k words as TextBugger's character bugs do.

    A bug puts a space into the word, deletes a letter, swaps two adjacent letters, or replaces a letter by a character
    that looks like it or by the key beside it. The word's first and last letter are never deleted or swapped (as in the
    paper).
    """
    return _misspelled(words, omega, rng, _textbugger_edits)


def deepwordbugs(word: str, rng: Stream) -> list[list[str]]:
    """All misspellings of a word by `deepwordbug`: for each edit, a list with one per place, in random order."""
    return _misspellings(word, rng, _deepwordbug_edits)


def textbugs(word: str, rng: Stream) -> list[list[str]]:
    """All misspellings of a word by `textbugger`, as `deepwordbugs` lists them."""
    return _misspellings(word, rng, _textbugger_edits)


def _misspellings(word: str, rng: Stream, edits_of: Callable[[str], list[tuple[_Edit, list[int]]]]) -> list[list[str]]:
    return [
        [edit(word, places[at], rng) for at in rng.sample(len(places), len(places))] for edit, places in edits_of(word)
    ]


def _misspelled(
    words: list[str], omega: float, rng: Stream, edits_of: Callable[[str], list[tuple[_Edit, list[int]]]]
) -> list[str]:
    noisy = words.copy()
    left = word_budget(len(words), omega)
    for place in rng.sample(len(words), len(words)) if left else ():
        if edits := edits_of(words[place]):
            edit, places = edits[rng.below(len(edits))]
            noisy[place] = edit(words[place], places[rng.below(len(places))], rng)
            left -= 1
        if not left:
            break
    return noisy


def _deepwordbug_edits(word: str) -> list[tuple[_Edit, list[int]]]:
    letters = _letters(word)
    several = letters if len(letters) > 1 else []
    edits: list[tuple[_Edit, list[int]]] = [
        (_swap, _swappable(word, letters)),
        (_substitute, letters),
        (_delete, several),
        (_insert, [*letters, letters[-1] + 1] if letters else []),
    ]
    return [(edit, places) for edit, places in edits if places]


def _textbugger_edits(word: str) -> list[tuple[_Edit, list[int]]]:
    letters = _letters(word)
    edits: list[tuple[_Edit, list[int]]] = [
        (_space, [] if is_unspaced(word) else letters[1:]),
        (_delete, letters[1:-1]),
        (_swap, _swappable(word, letters[1:-1])),
        (_look_alike, [place for place in letters if word[place].lower() in _LOOKALIKES]),
        (_miss, [place for place in letters if word[place].lower() in NEIGHBOURS]),
    ]
    return [(edit, places) for edit, places in edits if places]


def _letters(word: str) -> list[int]:
    return [place for place, char in enumerate(word) if char.isalpha()]


def _swappable(word: str, letters: list[int]) -> list[int]:
    """Places of letters that are followed by a different letter."""
    known = set(letters)
    return [place for place in letters if place + 1 in known and word[place] != word[place + 1]]


def _swap(word: str, place: int, rng: Stream) -> str:
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _delete(word: str, place: int, rng: Stream) -> str:
    return word[:place] + word[place + 1 :]


def _space(word: str, place: int, rng: Stream) -> str:
    return f"{word[:place]} {word[place:]}"


def _insert(word: str, place: int, rng: Stream) -> str:
    return word[:place] + _ALPHABET[rng.below(26)] + word[place:]


def _substitute(word: str, place: int, rng: Stream) -> str:
    others = _ALPHABET.replace(word[place].lower(), "")
    return _replaced(word, place, others[rng.below(len(others))])


def _look_alike(word: str, place: int, rng: Stream) -> str:
    return _replaced(word, place, _LOOKALIKES[word[place].lower()])


def _miss(word: str, place: int, rng: Stream) -> str:
    keys = NEIGHBOURS[word[place].lower()]
    return _replaced(word, place, keys[rng.below(len(keys))])


def _replaced(word: str, place: int, char: str) -> str:
    return word[:place] + (char.upper() if word[place].isupper() else char) + word[place + 1 :]


NEIGHBOURS = {
    key: row[max(i - 1, 0) : i] + row[i + 1 : i + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890")
    for i, key in enumerate(row)
}
"""The neighbours of each key in its keyboard row."""


@register_kind("random_typos")
def random_typos(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Mistype k words, one edit each: swap two characters, drop one, double one or hit the key beside it.

    A character of a script without blanks is doubled, because the other edits do not apply to one character.
    """
    noisy = words.copy()
    for position in rng.sample(len(words), word_budget(len(words), omega)):
        noisy[position] = _mistype(words[position], rng)
    return noisy


def _mistype(word: str, rng: Stream) -> str:
    edit, i = rng.below(4), rng.below(len(word))
    char, rest = word[i], word[i + 1 :]
    if is_unspaced(word) and len(split_words(word)) == 1:
        return word + word
    if edit == 0 and rest and rest[0] != char:
        return word[:i] + rest[0] + char + rest[1:]
    if edit == 1 and len(word) > 1:
        return word[:i] + rest
    if edit == 2 and (keys := NEIGHBOURS.get(char.lower())):
        key = keys[rng.below(len(keys))]
        return word[:i] + (key.upper() if char.isupper() else key) + rest
    # doubling works on every word, so it replaces a drawn edit that would change nothing
    return word[:i] + char + char + rest
