"""What attacks on an instruction may write in a word's stead: one recipe for each published attack.

A recipe is a plain function `(words, place, rng) -> lists of words`, a list for each kind of edit, the ones to be tried
first in front. It says what is possible; which of them hurts is for the search to find (`robustlm.conditions.search`).
The edits are those of the blind kinds of noise of the same names, so that attacks and noise compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest
from typing import cast

from robustlm.noise.character import deepwordbugs, textbugs
from robustlm.noise.thesaurus import Thesaurus, builtin, load_thesaurus
from robustlm.noise.word import others
from robustlm.utils.random import Stream, key_of
from robustlm.utils.registry import Registry

Recipe = Callable[[Sequence[str], int, Stream], Sequence[Sequence[str]]]
"""Takes the words of the raw instruction, the number of one, and draws."""


def deepwordbug(words: Sequence[str], place: int, rng: Stream) -> list[list[str]]:
    """Misspellings by one edit, after Gao et al. (2018): swap, substitution, deletion, insertion."""
    return deepwordbugs(words[place], rng)


def textbugger(thesaurus: Thesaurus) -> Recipe:
    """The five bugs of Li et al. (2019): four misspellings and, in place of word vectors, words of the same meaning."""

    def propose(words: Sequence[str], place: int, rng: Stream) -> list[list[str]]:
        return [others(words, place, thesaurus), *textbugs(words[place], rng)]

    return propose


def textfooler(thesaurus: Thesaurus) -> Recipe:
    """Words of the same meaning and form, after Jin et al. (2020), from a thesaurus in place of word vectors."""

    def propose(words: Sequence[str], place: int, rng: Stream) -> list[list[str]]:
        return [others(words, place, thesaurus)]

    return propose


def _by_thesaurus(recipe: Callable[[Thesaurus], Recipe]) -> Callable[[str], Recipe]:
    """Takes the thesaurus named after a colon, as in `textfooler:wordnet`, or the packaged one where none is named."""
    return lambda source: recipe(load_thesaurus(source) if source else builtin())


RECIPES: Registry[Recipe] = Registry("attack", "an import path like my.module.fn")
"""Recipes by name."""
RECIPES.add("deepwordbug", deepwordbug)
RECIPES.add_family("textbugger", _by_thesaurus(textbugger))
RECIPES.add_family("textfooler", _by_thesaurus(textfooler))


@lru_cache
def resolve_recipe(name: str) -> Recipe:
    """Look a recipe up by its name, with a thesaurus where it takes one, or by its import path.

    Raises:
        ValueError: There is no such recipe or thesaurus.
    """
    found = RECIPES.found(name)
    if not callable(found):
        raise ValueError(f"unknown attack {name!r}: expected {RECIPES.expected(name)}")
    return cast(Recipe, found)


@dataclass(frozen=True, slots=True)
class Attack:
    """Edits of an instruction that are searched for on a model."""

    recipe: str
    """Name of what may stand in a word's place."""
    omega: float = 0.2
    """ω: share of the words that may change, of those that are not protected, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.omega <= 1:
            raise ValueError(f"attack: expected a share of words from 0 to 1, found {self.omega}")
        resolve_recipe(self.recipe)

    def candidates(self, words: Sequence[str], place: int, *, seed: int, most: int) -> list[str]:
        """What may be tried at a place, a function of the words, the place and the seed alone.

        Args:
            words: Of the raw instruction.
            place: Number of the word.
            seed: Of the run.
            most: How many to give; the kinds of edit take turns.

        Returns:
            Distinct texts other than the word, of one word or more; none where the recipe knows nothing.
        """
        stream = Stream(key_of(seed, "attack", self.recipe, place, words[place]))
        found = resolve_recipe(self.recipe)(words, place, stream)
        turns = chain.from_iterable(zip_longest(*found))
        return [one for one in dict.fromkeys(turns) if one and one.strip() and one != words[place]][:most]
