"""Fields of rows that no prompt shows: what a shape does not read is lost without a word otherwise."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from robustlm.instructions.slots import OPTIONS
from robustlm.rows.fields import squeezed
from robustlm.sample import Context

_ANSWERS = {"label", "target", "output", "answer", "completion", "choice", "class", "gold", "score"}
"""Words of keys that hold answers. Not to show those is right."""
_NO_TEXT = {"id", "idx", "index", "guid", "uid", "uuid", "hash", "url", "split", "version", "license", "tag", "parse"}
"""Words of keys that name or annotate a row."""
_OWN = {"noise_kind", "distortion"}
"""What `robustlm noise` adds."""
_ASKED = {"instruction", "adv_instruction", "variant", "task", "bank", "dataset", "group", "format", "option"}
"""Keys that shapes read as something else than context."""
_FEW = 3
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


class Read(dict[str, Any]):
    """A row that knows which of its keys were read.

    Args:
        row: The row.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.read: set[str] = set()
        """Keys whose values were asked for."""

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """See `dict.get`."""
        self.read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        # makes `dict(row)` and `{**row}` ask for each value, as one that copies a row may read any of them
        return super().__iter__()

    def keys(self) -> Any:
        """See `dict.keys`."""
        return super().keys()

    def items(self) -> Any:
        """See `dict.items`; whoever takes them all may read any of them."""
        self.read.update(self)
        return super().items()

    def values(self) -> Any:
        """See `dict.values`."""
        self.read.update(self)
        return super().values()


class Unshown:
    """Counts, over the rows of a source, the fields that no prompt shows.

    A field counts where its value is text, or a list of texts, and its key was not read for the sample; or was read,
    but all phrasings that the row is asked with have placeholders, and none is for it. It does not count where

    - a word of the key says that it names or annotates the row (`id`, `idx`, `url`, `split`, `version`, `tags`, …),
    - a word of the key says that it holds an answer (`label`, `answer`, …), and a key with that word was read,
    - all rows have the same three words or fewer there (the name of a corpus, say).
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
            row: After all has been read of it that makes the sample.
            context: Context of the sample that it became.
            fields: Fields of that sample.
            slotted: Keys that fill placeholders, where every phrasing has some; null: a prompt shows the context.
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

    @property
    def found(self) -> dict[str, int]:
        """In how many rows each field is."""
        return {
            key: rows
            for key, rows in self._rows.items()
            if key in self._varying or rows < self._count or rows == 1 or len(self._first[key].split()) > _FEW
        }

    def __str__(self) -> str:
        """A line for people; empty where everything is shown."""
        if not self.found:
            return ""
        listed = ", ".join(f"`{key}` ({rows:,})" for key, rows in self.found.items())
        example = next(iter(self.found))
        return (
            f"no prompt shows these fields of {self._count:,} rows (in how many): {listed}; a bank with placeholders "
            f"would show them ({{{example}}}, or another name and `fields` of the source)"
        )


def _words(key: str) -> set[str]:
    """The words of a key, in singular: `answer_letters` and `answerLetters` are answer and letter."""
    found = (word.lower() for word in _WORDS.findall(str(key)))
    return {word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word for word in found}


def _text(value: object) -> str:
    if isinstance(value, str):
        return squeezed(value)
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return squeezed(" ".join(value))
    return ""


def _is_context(text: str, context: Context, fields: Sequence[tuple[str, str]]) -> bool:
    """Whether a read field is part of the context, which phrasings with placeholders do not write."""
    shown = " ".join(squeezed(value) for name, value in fields if name != OPTIONS)
    given = squeezed(f"{context.question} {context.text}")
    return text in given and text not in shown
