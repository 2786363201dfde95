r"""The common answer format of span tasks, `label: words; label: words`, and its escapes.

In each part, a backslash is written before `;` and before a backslash; in a label also before `:`; and in a span also
before `,` if items have two spans. Everything else is written unchanged, so ordinary answers contain no escapes.
A label with a comma may be in quotes, as in lists of options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from robustlm.rows.base import RowData
from robustlm.rows.fields import elements, present, required, squeezed
from robustlm.tasks.base import Answer, Task
from robustlm.tasks.items import Item
from robustlm.tasks.labels import Labels, answered, listed, unquoted
from robustlm.tasks.listed import Roles, listed_items

NOTHING = "None"
"""The answer if there are no items."""

_MARKED = re.compile(r"\*\*|`|\A\s*[-*•\[{(]")
"""Markdown and brackets that the format does not have."""

_ESCAPED = re.compile(r"\\([\\;:,])")


class SpanTask(Task):
    """A task whose answer is a list of labelled spans, or `None`."""

    score = "f1"
    labelled = True
    spans: ClassVar[int]
    """How many spans an item has after its label: 1 or 2."""
    roles: ClassVar[Roles]
    """Names under which models write the label and the spans of an item, in JSON and in lists."""

    def format(self, items: Sequence[Item]) -> str:
        """Write items as `label: span; …` or `label: span, span; …`; without items, write `None`."""
        return "; ".join(self._piece(item) for item in items) or NOTHING

    def _piece(self, item: Item) -> str:
        if len(item) != 1 + self.spans or any(not part or part != squeezed(part) for part in item):
            expected = f"{1 + self.spans} parts, none empty, with single spaces only"
            raise ValueError(f"{self.name}: found item {item!r}; expected {expected}")
        label, *spans = item
        separators = "\\;" if self.spans == 1 else "\\;,"
        return _escape(answered(label), "\\;:") + ": " + ", ".join(_escape(span, separators) for span in spans)

    def parse(self, text: str) -> Answer:
        """Read `label: span; …`; pieces of another form and empty pieces are malformed."""
        if text.strip() == NOTHING:
            return Answer(())
        items = [self._item(piece) for piece in _split(text, ";")]
        good = tuple(item for item in items if item is not None)
        return Answer(good, len(items) - len(good))

    def shown_labels(self, choices: Sequence[str], option: str) -> tuple[str, ...]:
        """The labels in the list of options that the prompt shows."""
        return listed(option)

    def lenient(self, text: str, labels: Sequence[str] = ()) -> tuple[Item, ...] | None:
        """The items that an answer lists, by the rules of `robustlm.tasks.listed`.

        A line in the format with known labels is read as `parse` reads it. An item in another form is read as well, and
        text around the items is ignored; if no item is found, those that `parse` found among unreadable pieces count.
        """
        answer = self.parse(text)
        plain = answer.parsed and len(text.strip().splitlines()) == 1 and not _MARKED.search(text)
        if plain and all(not labels or item[0] in labels for item in answer.items):
            return answer.items
        found = listed_items(text, labels, self.roles)
        return found if found is not None else (answer.items if not answer.parsed else ()) or None

    def _item(self, piece: str) -> Item | None:
        label, *rest = _split(piece, ":", at_most=1)
        if not rest:
            return None
        spans = rest if self.spans == 1 else _split(rest[0], ",")
        name, *words = (squeezed(_ESCAPED.sub(r"\1", part)) for part in (label, *spans))
        item = (squeezed(unquoted(name)), *words)
        return item if len(item) == 1 + self.spans and all(item) else None


def read_item(values: RowData, *keys: str) -> Item:
    """The values of these keys as an item; each is a non-empty string with single spaces."""
    return tuple(squeezed(required(values, key)) for key in keys)


def named_items(row: RowData, key: str, label: str, labels: Labels) -> list[dict[str, Any]]:
    """A row's list of items, with each label replaced by its name."""
    items = elements(row, key, Mapping, "a list of objects")  # type: ignore[type-abstract]  # isinstance takes it
    return [{**item, label: labels.name(present(item, label))} for item in items]


def _escape(text: str, characters: str) -> str:
    return re.sub(f"[{re.escape(characters)}]", r"\\\g<0>", text)


def _split(text: str, separator: str, at_most: int = -1) -> list[str]:
    """Split at separators that are not escaped by a backslash; the parts keep their escapes."""
    parts: list[str] = []
    start = 0
    # escaped characters match as pairs, so the second backslash of a pair does not escape the next character
    for match in re.finditer(rf"{_ESCAPED.pattern}|{separator}", text):
        if match[0] == separator and len(parts) != at_most:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]
