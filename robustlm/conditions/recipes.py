"""Replacements of a word that an attack may try: one recipe for each published attack.

A recipe is a plain function `(words, place, rng) -> lists of words`. It returns one list for each kind of edit, with
the words to be tried first at the front. The search (`robustlm.conditions.search`) finds which replacements hurt. The
edits are the same as in the noise kinds of the same names, so that attacks and noise can be compared.
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
"""Takes the words of the raw instruction, the index of the word to replace, and a random stream."""


def deepwordbug(words: Sequence[str], place: int, rng: Stream) -> list[list[str]]:
    """Misspellings with one edit, after Gao et al. (2018): swap, substitution, deletion, insertion."""
    return deepwordbugs(words[place], rng)


def textbugger(thesaurus: Thesaurus) -> Recipe:
    """The five bugs of Li et al. (2019): four misspellings, and synonyms, from a thesaurus instead of word vectors."""

    def propose(words: Sequence[str], place: int, rng: Stream) -> list[list[str]]:
        return [others(words, place, thesaurus), *textbugs(words[place], rng)]

    return propose


def textfooler(thesaurus: Thesaurus) -> Recipe:
    """Synonyms in the same form, after Jin et al. (2020), from a thesaurus instead of word vectors."""

    def propose(words: Sequence[str], place: int, rng: Stream) -> list[list[str]]:
        return [others(words, place, thesaurus)]

    return propose


def _by_thesaurus(recipe: Callable[[Thesaurus], Recipe]) -> Callable[[str], Recipe]:
    """Use the thesaurus named after a colon, as in `textfooler:wordnet`; without a name, the packaged one."""
    return lambda source: recipe(load_thesaurus(source) if source else builtin())


RECIPES: Registry[Recipe] = Registry("attack", "an import path like my.module.fn")
"""Recipes by name."""
RECIPES.add("deepwordbug", deepwordbug)
RECIPES.add_family("textbugger", _by_thesaurus(textbugger))
RECIPES.add_family("textfooler", _by_thesaurus(textfooler))


@lru_cache
def resolve_recipe(name: str) -> Recipe:
    """Look up a recipe by its name, which may include a thesaurus, or by its import path.

    Raises:
        ValueError: There is no such recipe or thesaurus.
    """
    found = RECIPES.found(name)
    if not callable(found):
        raise ValueError(f"unknown attack {name!r}: expected {RECIPES.expected(name)}")
    return cast(Recipe, found)


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack on instructions: a recipe, and the share of words that may change."""

    recipe: str
    """Name of the recipe, which gives the replacements of a word."""
    omega: float = 0.2
    """ω: share of the unprotected words that may change, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.omega <= 1:
            raise ValueError(f"attack: expected a share of words from 0 to 1, found {self.omega}")
        resolve_recipe(self.recipe)

    def candidates(self, words: Sequence[str], place: int, *, seed: int, most: int) -> list[str]:
        """Replacements to try for a word. They depend only on the words, the place and the seed.

        Args:
            words: Words of the raw instruction.
            place: Index of the word.
            seed: Seed of the run.
            most: Maximum number of replacements; the kinds of edit take turns.

        Returns:
            Distinct texts of one or more words, all different from the word; empty if the recipe gives none.
        """
        stream = Stream(key_of(seed, "attack", self.recipe, place, words[place]))
        found = resolve_recipe(self.recipe)(words, place, stream)
        turns = chain.from_iterable(zip_longest(*found))
        return [one for one in dict.fromkeys(turns) if one and one.strip() and one != words[place]][:most]
