"""Word-level noise: synonym swaps as in TextFooler (Jin et al. 2020), by a thesaurus instead of a model.

TextFooler takes candidates from word vectors and keeps the swap that hurts a model most. Here candidates come from a
thesaurus and are drawn at random: the swaps need no model, are the same for all models, and can be looked up.
"""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.noise.base import KINDS, Kind, register_kind, word_budget
from robustlm.noise.opposites import PUNCTUATION, replace_core
from robustlm.noise.pools import Pools
from robustlm.noise.thesaurus import Thesaurus, builtin, load_thesaurus
from robustlm.utils.random import Stream

_VOWELS = "aeiou"
_CONSONANT_SOUNDS = ("uni", "use", "usual", "util", "eu", "one", "once")
_SILENT_H = ("hour", "honest", "honour", "honor", "heir")


@register_kind("synonyms")
def synonyms(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Replace k words by synonyms from the built-in thesaurus, or fewer if it does not know k of the words.

    Case and punctuation stay; `a` and `an` before a replaced word are adapted to it, which does not count towards k.
    """
    return _swapped(words, omega, rng, builtin())


def synonyms_of(source: str) -> Kind:
    """The kind `synonyms` with another thesaurus.

    Args:
        source: `wordnet`, `wordnet:LEXICON`, or a JSON file of words and lists of replacements.

    Raises:
        ValueError: There is no such thesaurus, or it cannot be used.
    """
    thesaurus = load_thesaurus(source)

    def swap(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
        return _swapped(words, omega, rng, thesaurus)

    return swap


KINDS.add_family("synonyms", synonyms_of)


def others(words: Sequence[str], place: int, thesaurus: Thesaurus) -> list[str]:
    """All replacements for a word, in its case and punctuation, that do not need another article before them.

    Args:
        words: The instruction.
        place: Number of the word.
        thesaurus: Where replacements come from.
    """
    cores = [word.strip(PUNCTUATION) for word in words]
    if not cores[place]:
        return []
    lowered = [core.lower() for core in cores]
    found = thesaurus.alternatives(words, lowered, place)
    if place and lowered[place - 1] in ("a", "an"):
        found = [other for other in found if _article(other) == lowered[place - 1]]
    return [replace_core(words[place], _cased(other, cores[place])) for other in found]


def _swapped(words: list[str], omega: float, rng: Stream, thesaurus: Thesaurus) -> list[str]:
    noisy = words.copy()
    cores = [word.strip(PUNCTUATION) for word in words]
    lowered = [core.lower() for core in cores]
    left = word_budget(len(words), omega)
    for place in rng.sample(len(words), len(words)) if left else ():
        if cores[place] and (known := thesaurus.alternatives(words, lowered, place)):
            other = known[rng.below(len(known))]
            noisy[place] = replace_core(words[place], _cased(other, cores[place]))
            if place and lowered[place - 1] in ("a", "an"):
                noisy[place - 1] = replace_core(words[place - 1], _cased(_article(other), cores[place - 1]))
            left -= 1
        if not left:
            break
    return noisy


def _cased(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if like[0].isupper() else word


def _article(word: str) -> str:
    """The article before a word, by its sound as far as its spelling tells."""
    lowered = word.lower()
    vowel = lowered[0] in _VOWELS and not lowered.startswith(_CONSONANT_SOUNDS)
    return "an" if vowel or lowered.startswith(_SILENT_H) else "a"
