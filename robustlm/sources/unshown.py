"""Finds fields of rows that no prompt shows. Without it, fields that no shape reads would be lost without a message."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from robustlm.instructions.slots import OPTIONS
from robustlm.rows.base import RowData
from robustlm.rows.fields import squeezed
from robustlm.sample import Context

_ANSWERS = {"label", "target", "output", "answer", "completion", "choice", "class", "gold", "score"}
"""Words in keys of answers, which prompts must not show."""
_NO_TEXT = {"id", "idx", "index", "guid", "uid", "uuid", "hash", "url", "split", "version", "license", "tag", "parse"}
"""Words in keys that name or annotate a row."""
_OWN = {"noise_kind", "distortion"}
"""Keys that `robustlm noise` adds."""
_ASKED = {"instruction", "adv_instruction", "variant", "task", "bank", "dataset", "group", "format", "option"}
"""Keys that shapes read, but not as context."""
_FEW = 3
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


class Read(dict[str, Any]):
    """A row that records which of its keys were read.

    Args:
        row: The row.
    """

    def __init__(self, row: RowData) -> None:
        super().__init__(row)
        self.read: set[str] = set()
        """Keys whose values were read."""

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """See `dict.get`."""
        self.read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        # without this method, `dict(row)` and `{**row}` would copy values without marking them as read
        return super().__iter__()

    def keys(self) -> Any:
        """See `dict.keys`."""
        return super().keys()

    def items(self) -> Any:
        """See `dict.items`; marks all keys as read."""
        self.read.update(self)
        return super().items()

    def values(self) -> Any:
        """See `dict.values`; marks all keys as read."""
        self.read.update(self)
        return super().values()


class Unshown:
    """Counts the fields that no prompt shows, over the rows of a source.

    A field counts if its value is text, or a list of texts, and no prompt shows it: either its key was not read for the
    sample, or all possible phrasings for the row have placeholders, but none for this field. It does not count if

    - a word of the key shows that it names or annotates the row (`id`, `idx`, `url`, `split`, `version`, `tags`, …),
    - a word of the key shows that it is an answer (`label`, `answer`, …), and a key with that word was read,
    - its value is the same in all rows and has at most three words (for example, the name of a corpus).
    """

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._first: dict[str, str] = {}
        self._varying: set[str] = set()
        self._count = 0

    def add(
        self, row: Read, context: Context, fields: Sequence[tuple[str, str]], *, slotted: Collection[str] | None
    ) -> None:
        """Count the fields of a row.

        Args:
            row: The row, after the sample has been made from it.
            context: Context of that sample.
            fields: Fields of that sample.
            slotted: Keys that fill placeholders, if every phrasing has placeholders; null: a prompt shows the context.
        """
        self._count += 1
        used = {word for key in row.read & set(row) for word in _words(key)} & _ANSWERS
        for key in row:
            text = _text(dict.get(row, key))
            words = _words(key)
            if not text or key in _OWN or words & _NO_TEXT or words & used:
                continue
            if key in row.read and (
                slotted is None or {key} & {*slotted, *_ASKED} or not _is_context(text, context, fields)
            ):
                continue
            self._rows[key] = self._rows.get(key, 0) + 1
            if self._first.setdefault(key, text) != text:
                self._varying.add(key)

    def merge(self, later: Unshown) -> None:
        """Add the counts of rows that follow those counted here."""
        for key, rows in later._rows.items():
            self._rows[key] = self._rows.get(key, 0) + rows
            if self._first.setdefault(key, later._first[key]) != later._first[key]:
                self._varying.add(key)
        self._varying |= later._varying
        self._count += later._count

    @property
    def found(self) -> dict[str, int]:
        """The number of rows with each field."""
        return {
            key: rows
            for key, rows in self._rows.items()
            if key in self._varying or rows < self._count or rows == 1 or len(self._first[key].split()) > _FEW
        }

    def __str__(self) -> str:
        """A message that lists the fields; empty if everything is shown."""
        if not self.found:
            return ""
        listed = ", ".join(f"`{key}` ({rows:,})" for key, rows in self.found.items())
        example = next(iter(self.found))
        return (
            f"no prompt shows these fields of {self._count:,} rows (number of rows with it): {listed}; a bank with "
            f"placeholders would show them ({{{example}}}, or another name and `fields` of the source)"
        )


@lru_cache(maxsize=4096)
def _words(key: str) -> frozenset[str]:
    """The words of a key, in the singular: `answer_letters` and `answerLetters` give answer and letter."""
    found = (word.lower() for word in _WORDS.findall(str(key)))
    singular = (word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word for word in found)
    return frozenset(singular)


def _text(value: object) -> str:
    if isinstance(value, str):
        return squeezed(value)
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return squeezed(" ".join(value))
    return ""


def _is_context(text: str, context: Context, fields: Sequence[tuple[str, str]]) -> bool:
    """Whether a field was read into the context, which phrasings with placeholders do not show."""
    shown = " ".join(squeezed(value) for name, value in fields if name != OPTIONS)
    given = squeezed(f"{context.question} {context.text}")
    return text in given and text not in shown
