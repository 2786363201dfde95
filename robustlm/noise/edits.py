"""What noise did to an instruction, word by word: a list of edits that can be looked at, stored and replayed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import Levenshtein

from robustlm.instructions.slots import Skeleton
from robustlm.utils.words import split_words


class Edit(NamedTuple):
    """One edited word; edits of a text are in the order of their places."""

    place: int
    """Number of the word in the raw text, as `split_words` counts; what is inserted comes before it."""
    before: str
    """The word; empty where words are inserted."""
    after: str
    """One word or more in its place; empty where the word is removed."""


Edits = tuple[Edit, ...]
"""All edits of a text; empty where it was left as it is."""


def word_edits(words: Sequence[str], noisy: Sequence[str], in_place: bool = False) -> Edits:
    """Find edits that lead from some words to others.

    Lists of one length are compared place by place, which is what kinds that work in place did; otherwise the edits are
    as few as can be.

    Args:
        words: The words.
        noisy: The others, at least as many where they are `in_place`.
        in_place: Compare longer lists place by place too; what follows the last word's place was appended.
    """
    if len(words) == len(noisy) or in_place:
        pairs = enumerate(zip(words, noisy, strict=False))
        replaced = [Edit(place, before, after) for place, (before, after) in pairs if before != after]
        appended = noisy[len(words) :]
        return (*replaced, Edit(len(words), "", " ".join(appended))) if appended else tuple(replaced)
    found: list[Edit] = []
    for action, place, source in Levenshtein.editops(list(words), list(noisy)):
        if action != "insert":
            found.append(Edit(place, words[place], noisy[source] if action == "replace" else ""))
        elif found and found[-1].place == place and not found[-1].before:
            found[-1] = found[-1]._replace(after=f"{found[-1].after} {noisy[source]}")
        else:
            found.append(Edit(place, "", noisy[source]))
    return tuple(found)


def edited(words: Sequence[str], edits: Iterable[Edit]) -> list[str]:
    """Apply edits to the words that they were made for.

    Raises:
        ValueError: They are edits of other words.
    """
    out: list[str] = []
    at = 0
    for place, before, after in edits:
        if not at <= place <= len(words) or (before and words[place : place + 1] != [before]):
            found = words[place] if at <= place < len(words) else "nothing"
            raise ValueError(f"edits of another text: word {place} is {found!r}; expected {before!r}")
        out += words[at:place]
        at = place + bool(before)
        if after:
            out += after.split()
    return [*out, *words[at:]]


def replay(text: str, edits: Collection[Edit | Sequence[int | str]], slots: Collection[str] = ()) -> str:
    """Make the noisy text from the raw text and its edits.

    Args:
        text: The raw text.
        edits: Its edits; lists `[place, before, after]`, as JSON has them, will do.
        slots: Names of the sample's fields, as noise was told.

    Raises:
        ValueError: They are edits of another text.
    """
    if not edits:
        return text
    given = [Edit(int(place), str(before), str(after)) for place, before, after in edits]
    return Skeleton(text, slots).joined(edited(split_words(text), given))
