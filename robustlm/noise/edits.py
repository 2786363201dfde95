"""Edits that noise made to the words of an instruction; they can be inspected, stored and replayed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import Levenshtein

from robustlm.instructions.slots import Skeleton
from robustlm.utils.words import split_words


class Edit(NamedTuple):
    """One edited word; edits of a text are in the order of their places."""

    place: int
    """Number of the word in the raw text, counted as in `split_words`; inserted words come before it."""
    before: str
    """The original word; empty for an insertion."""
    after: str
    """One or more words that replace it; empty for a removal."""


Edits = tuple[Edit, ...]
"""All edits of a text; empty if the text is unchanged."""


def word_edits(words: Sequence[str], noisy: Sequence[str], in_place: bool = False) -> Edits:
    """Find the edits that turn words into noisy words.

    Lists of equal length are compared place by place, as for kinds that work in place. Otherwise the number of edits is
    the smallest possible.

    Args:
        words: The original words.
        noisy: The noisy words; at least as many as `words` if `in_place`.
        in_place: Compare a longer `noisy` place by place too; words after the last place count as appended.
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
        ValueError: The edits were made for other words.
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
        edits: Its edits, or lists `[place, before, after]` as read from JSON.
        slots: Names of the sample's fields, as passed to `Noise.apply`.

    Raises:
        ValueError: The edits were made for another text.
    """
    if not edits:
        return text
    given = [Edit(int(place), str(before), str(after)) for place, before, after in edits]
    return Skeleton(text, slots).joined(edited(split_words(text), given))
