"""Replacements for words of an instruction: from the built-in thesaurus, WordNet, or a user's file."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from robustlm.noise.opposites import CLAUSE_OPENERS

if TYPE_CHECKING:
    import wn

_WORDS_BEFORE_NOUNS = "a an any each every its no of the their this your"
_BEFORE_NOUNS = frozenset(_WORDS_BEFORE_NOUNS.split())
_MORE_DETERMINERS = "all both exactly how it me one only that them these those what which whether whose"
_DETERMINERS = _BEFORE_NOUNS - {"no", "of", "their"} | frozenset(_MORE_DETERMINERS.split())
_PARTICLES = frozenset({"down", "off", "out", "up"})
_MODALS = "to can cannot could do don't i may might must never not should they we will would you"
_BEFORE_VERBS = frozenset(_MODALS.split())


class Thesaurus(ABC):
    """Finds replacements for a word, depending on the words around it."""

    @abstractmethod
    def alternatives(self, words: Sequence[str], cores: Sequence[str], place: int) -> Sequence[str]:
        """Single words, other than the word itself, that may replace the word at `place`.

        Args:
            words: The instruction.
            cores: The words in lower case, without the punctuation around them.
            place: Number of the word.
        """


class Listed(Thesaurus):
    """A list of words and their replacements; it ignores the words around them and knows no inflected forms.

    Args:
        others: Replacements by word in lower case.
    """

    def __init__(self, others: Mapping[str, Sequence[str]]) -> None:
        self._others = others

    def alternatives(self, words: Sequence[str], cores: Sequence[str], place: int) -> Sequence[str]:
        """The listed replacements."""
        return self._others.get(cores[place], ())


class Grouped(Thesaurus):
    """Groups of words with the same meaning, in all forms: singular and plural, -s, -ing, past and participle.

    If a word can be a verb or a noun, its place decides: verbs begin clauses, follow words such as `to`, or have a
    determiner after them. A word has no alternatives if its place indicates a use that the groups do not contain.

    Args:
        verbs: Groups of verbs, each in the infinitive.
        nouns: Groups of nouns, each in the singular.
        others: Groups of words that have one form.
        forms: Irregular forms: -s, -ing, past and participle of a verb, the plural of a noun.
    """

    def __init__(
        self,
        verbs: Iterable[Sequence[str]],
        nouns: Iterable[Sequence[str]],
        others: Iterable[Sequence[str]],
        forms: Mapping[str, Sequence[str]],
    ) -> None:
        conjugated = [[_verb_forms(word, forms) for word in group] for group in verbs]
        self._infinitives = _by_word([[own[:1] for own in group] for group in conjugated])
        self._verbs = _by_word([[own[1:] for own in group] for group in conjugated])
        self._nouns = _by_word([[_noun_forms(word, forms) for word in group] for group in nouns])
        self._singulars = frozenset(word for group in nouns for word in group)
        self._others = _by_word([[(word,) for word in group] for group in others])
        tables = (self._infinitives, self._verbs, self._nouns, self._others)
        self.words = frozenset(word for table in tables for item in table.items() for word in (item[0], *item[1]))
        """Every word in every form."""

    def alternatives(self, words: Sequence[str], cores: Sequence[str], place: int) -> Sequence[str]:
        """Other words of the group, in the same form."""
        core, none = cores[place], ()
        if core not in self.words:
            return none
        before = cores[place - 1] if place else ""
        after = cores[place + 1] if place + 1 < len(words) and words[place][-1].isalpha() else ""
        if after in _PARTICLES:
            return none  # "write down" is another verb
        objects = after in _DETERMINERS
        is_noun = core in self._nouns
        if _is_command(words, cores, place, objects):
            return self._infinitives.get(core) or (none if is_noun else self._others.get(core, none))
        if core in self._others:
            return self._others[core]
        if core in self._verbs and (objects or not is_noun):
            return self._verbs[core]
        if core in self._infinitives and not is_noun:
            return none if before in _BEFORE_NOUNS else self._infinitives[core]
        clauses = before in ("and", "or", "then") or (place > 0 and words[place - 1][-1] == ",")
        if objects or (clauses and core in self._singulars):
            return none  # "that answers the question", "and answer in one word"
        return self._nouns.get(core, none)


WORDNET = "wordnet"
"""Name of the English WordNet; after a colon, a lexicon of the package `wn` (`wordnet:odenet`)."""
_ENGLISH = ("oewn", "omw-en", "ewn")
"""Lexicons that `wordnet` alone stands for: the first of them that is there, in its newest edition."""


class WordNet(Thesaurus):
    """Synonyms from a wordnet, for a word's first sense, which most wordnets give as the most frequent one.

    In English, the word counts as a verb in commands, and else as a noun, adjective or adverb. In other languages, the
    first part of speech that has synonyms counts.

    Args:
        lexicon: A lexicon of the package `wn`, such as `oewn:2024` or `odenet`; empty: English.

    Raises:
        ValueError: The package or the lexicon is not installed; the message says how to get it.
    """

    def __init__(self, lexicon: str = "") -> None:
        try:
            import wn
        except ImportError as error:
            raise ValueError("the package wn is not installed; expected `pip install 'robustlm[wordnet]'`") from error
        # worker threads look words up too; a connection only reads
        wn.config.allow_multithreading = True  # type: ignore[attr-defined]  # public, but not in wn's `__all__`
        wanted = [lexicon] if lexicon else list(_ENGLISH)
        there = [found for name in wanted for found in _lexicons(name if ":" in name else f"{name}:*")]
        if not there:
            asked = f"`python -m wn download {lexicon or 'oewn:2024'}`"
            known = ", ".join(found.specifier() for found in wn.lexicons()) or "none"
            raise ValueError(f"found no lexicon {lexicon or 'of English'} (there: {known}); expected it after {asked}")
        same = [found for found in there if found.id == there[0].id]
        chosen = max(same, key=lambda found: found.version)
        self.lexicon: str = chosen.specifier()
        """Name and edition of the lexicon (`oewn:2024`)."""
        self._english = chosen.language == "en"
        self._net = wn.Wordnet(self.lexicon, expand="")
        self._found = cache(self._lemmas)

    def alternatives(self, words: Sequence[str], cores: Sequence[str], place: int) -> Sequence[str]:
        """Single words of the same sense; forms that are not dictionary entries, such as plurals, have none."""
        command = self._english and _is_command(words, cores, place, objects=False)
        return self._found(cores[place], command)

    def _lemmas(self, word: str, command: bool) -> tuple[str, ...]:
        parts = ("v",) if command else ("n", "a", "s", "r") if self._english else ("n", "v", "a", "s", "r")
        for part in parts:
            for sense in self._net.synsets(word, pos=part):
                names = sense.lemmas()
                if not any(name == word if self._english else name.lower() == word for name in names):
                    continue
                found = (name for name in names if name.isalpha() and name.lower() != word)
                fitting = tuple(name for name in found if name.islower() or not (self._english or name.isupper()))
                if fitting or self._english:
                    return fitting
        return ()


def _lexicons(name: str) -> list[wn.Lexicon]:
    import wn

    try:
        return list(wn.lexicons(lexicon=name))
    except wn.Error:
        return []


@cache
def builtin() -> Grouped:
    """The thesaurus of instruction vocabulary that comes with the package."""
    text = resources.files("robustlm").joinpath("assets", "synonyms.json").read_text(encoding="utf-8")
    return Grouped(**json.loads(text))


@cache
def load_thesaurus(source: str) -> Thesaurus:
    """Load the thesaurus `wordnet` (or `wordnet:LEXICON`), or a JSON file with an object of words and lists of words.

    Raises:
        ValueError: There is no such thesaurus, or it cannot be used; the message says what was found and expected.
    """
    if source.partition(":")[0] == WORDNET:
        return WordNet(source.removeprefix(WORDNET).removeprefix(":"))
    expected = 'expected wordnet, or a JSON file such as {"label": ["tag"]}'
    try:
        data = json.loads(Path(source).read_bytes())
    except OSError as error:
        raise ValueError(f"{source}: cannot be read ({error.strerror}); {expected}") from error
    except ValueError as error:
        raise ValueError(f"{source}: found no UTF-8 JSON ({error}); {expected}") from error
    if not isinstance(data, dict) or not data:
        raise ValueError(f"{source}: found {type(data).__name__}; {expected}")
    return Listed({word.lower(): tuple(_listed(source, word, others)) for word, others in data.items()})


def _listed(source: str, word: str, others: object) -> Iterator[str]:
    if not isinstance(others, list):
        raise ValueError(f"{source}: {word!r}: found {type(others).__name__}; expected a list of words")
    for other in others:
        if not isinstance(other, str) or len(other.split()) != 1 or other != other.strip():
            raise ValueError(f"{source}: {word!r}: found {other!r}; expected single words")
        if other.lower() != word.lower():
            yield other


def _is_command(words: Sequence[str], cores: Sequence[str], place: int, objects: bool) -> bool:
    """Whether a word is used as an infinitive or imperative; after `and`, only if a determiner follows (`objects`)."""
    if place == 0:
        return True
    before, last = cores[place - 1], words[place - 1][-1]
    if last in ".!?:;" or before in _BEFORE_VERBS:
        return True
    if before in ("and", "or") or last == ",":
        return objects
    return before in CLAUSE_OPENERS


def _by_word(groups: Iterable[Sequence[Sequence[str]]]) -> dict[str, tuple[str, ...]]:
    """Replacements for each form of each word; none where they depend on which of several equal forms is meant."""
    found: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for own in group:
            for word in set(own):
                same = [place for place, form in enumerate(own) if form == word]
                fitting = [{other[place] for place in same} for other in group if other is not own]
                others = [forms.pop() for forms in fitting if len(forms) == 1]
                found[word] = tuple(dict.fromkeys(other for other in others if other != word))
    return {word: others for word, others in found.items() if others}


def _verb_forms(verb: str, forms: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Infinitive, -s, -ing, past, participle."""
    if verb in forms:
        return (verb, *forms[verb])
    stem = verb.removesuffix("e")
    past = re.sub(r"(?<=[^aeiou])y$", "i", verb) if stem == verb else stem
    return (verb, _with_s(verb), f"{stem}ing", f"{past}ed", f"{past}ed")


def _noun_forms(noun: str, forms: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Singular, plural."""
    return (noun, forms[noun][0] if noun in forms and len(forms[noun]) == 1 else _with_s(noun))


def _with_s(word: str) -> str:
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"
