"""Labelled spans in lists, JSON, tables and prose lines, as models write them in place of the format of span tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from robustlm.rows.fields import squeezed
from robustlm.tasks.final import answered_part, bare, marked, structured
from robustlm.tasks.items import Item
from robustlm.tasks.naming import label_key

_BULLET = re.compile(r"\A\s*(?:[-*•–+]\s+|\(?\d{1,3}[.)]\s+|#+\s+|>\s+)+")
_EMPHASIS = re.compile(r"\*\*|__|`|(?<!\w)\*|\*(?!\w)")
_NOTHING = re.compile(
    r"(?:(?:answer|output|result)\s*:\s*)?(?:none|n/?a|null|nothing|empty|-"
    r"|none (?:found|present|of them)|(?:there (?:is|are|were)|i (?:found|see|could find))? ?no\b[^.\n]*"
    r"|(?:the (?:text|sentence|review) )?(?:contains?|has|mentions?) no\b[^.\n]*)[.!]?",
    re.IGNORECASE,
)
_ARROWS = r"\s*(?:-+>|→|=>|⟶)\s*"
_FIELDS = (r"\s*\|\s*", _ARROWS, r"\s+[-–—]\s+", r"\s*,\s+", r"\s*:\s+", r"\s*,\s*", r"\s*=\s*")
"""What may stand between the parts of an item, in the order in which it is tried."""
_PROSE = frozenset({"note", "notes", "explanation", "reasoning", "text", "output", "input", "answer", "example",
                    "reason", "entities", "relations", "triplets", "result", "format", "summary",
                    "sentence"})  # fmt: skip
_BEFORE_ITEMS = _PROSE | {"label", "labels", "named entities", "ner"}
"""What models write before the first item, as in `Output: PER: Ada`."""
_LONGEST_PIECE = 500
"""Characters of a longer piece of a line are no item."""
_MOST_WORDS = 12
"""A longer text behind an unknown label is a sentence, and no span."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The names under which models write the parts of an item: its label, then each of its spans."""

    parts: tuple[tuple[str, ...], ...]

    def at(self, name: str) -> int | None:
        """The part that a name stands for; null: it is no such name."""
        key = label_key(name)
        return next((at for at, names in enumerate(self.parts) if key in names), None)


def listed_items(text: str, labels: Sequence[str], roles: Roles) -> tuple[Item, ...] | None:
    r"""The items that an answer lists; null if it lists none and does not say that there is none.

    An item with a label that is not among the labels is kept, since leaving it out would hide a mistake.

    Args:
        text: What the model wrote.
        labels: All labels; empty: not known.
        roles: The parts of an item.

    Example:
        >>> roles = Roles((("type",), ("text",)))
        >>> listed_items("Here they are:\n- **PER**: Ada\n- Oslo (loc)", ["PER", "LOC"], roles)
        (('PER', 'Ada'), ('LOC', 'Oslo'))
        >>> listed_items("There are no entities.", ["PER", "LOC"], roles)
        ()
    """
    part = answered_part(text)
    part = marked(part) or part
    return _Reader(labels, roles).read(part) if part else None


class _Reader:
    """Reads the items of one answer."""

    def __init__(self, labels: Sequence[str], roles: Roles) -> None:
        self._by_key = {label_key(label): label for label in labels}
        self._roles = roles
        self._spans = len(roles.parts) - 1

    def read(self, text: str) -> tuple[Item, ...] | None:
        if _NOTHING.fullmatch(bare(text)) or _NOTHING.fullmatch(text.strip()):
            return ()
        values = structured(text)
        if values:
            found = tuple(item for value in values for item in self._from_value(value))
            return found if found or _is_empty(values) else None
        found = tuple(self._lines(text))
        return found or None

    def _label(self, text: str) -> str | None:
        return self._by_key.get(label_key(bare(text)))

    # --- JSON ---------------------------------------------------------------------------------------------------

    def _from_value(self, value: object) -> Iterator[Item]:
        if isinstance(value, Mapping):
            yield from self._from_object(value)
        elif isinstance(value, list | tuple):
            texts = [part for part in value if isinstance(part, str)]
            if len(texts) == len(value) == self._spans + 1 and (item := self._ordered(texts)) is not None:
                yield item
                return
            for part in value:
                if isinstance(part, str):
                    yield from self._pieces(part, None)
                else:
                    yield from self._from_value(part)

    def _from_object(self, value: Mapping[object, object]) -> Iterator[Item]:
        known = {at: one for name, one in value.items() if (at := self._roles.at(str(name))) is not None}
        if set(known) == set(range(self._spans + 1)) and all(isinstance(one, str) for one in known.values()):
            label = str(known[0])
            yield self._made(self._label(label) or label, [str(known[at]) for at in range(1, self._spans + 1)])
            return
        for name, one in value.items():
            named = self._label(str(name))
            if named is None:
                if isinstance(one, list | tuple | Mapping):
                    yield from self._from_value(one)
            else:
                for part in one if isinstance(one, list | tuple) else [one]:
                    yield from self._under(named, part)

    def _under(self, label: str, value: object) -> Iterator[Item]:
        """Spans that stand under a label."""
        spans: list[object]
        if isinstance(value, Mapping):
            known = {at: one for name, one in value.items() if (at := self._roles.at(str(name)))}
            spans = [known.get(at) for at in range(1, self._spans + 1)]
        elif isinstance(value, list | tuple):
            spans = list(value)
        else:
            spans = [value] if self._spans == 1 else [*str(value).split(",")]
        texts = [span for span in spans if isinstance(span, str) and not _NOTHING.fullmatch(bare(span))]
        if len(texts) == len(spans) == self._spans and all(bare(span) for span in texts):
            yield self._made(label, texts)

    # --- lines --------------------------------------------------------------------------------------------------

    def _lines(self, text: str) -> Iterator[Item]:
        header: str | None = None
        held: dict[int, str] = {}
        for raw in text.splitlines():
            bulleted = _BULLET.match(raw) is not None
            line = _EMPHASIS.sub("", _BULLET.sub("", raw)).strip()
            if not line or line.startswith("```") or re.fullmatch(r"[|\s:-]+", line):
                continue
            if (label := self._label(line.rstrip(":").strip())) is not None:
                header = label
                continue
            if roles := self._role_values(line):
                for at, value in roles:
                    held[at] = value
                    if len(held) == self._spans + 1:
                        label = self._label(held[0]) or held[0]
                        yield self._made(label, [held[i] for i in range(1, self._spans + 1)])
                        held = {}
                continue
            yield from self._pieces(line, header if bulleted else None)

    def _role_values(self, line: str) -> list[tuple[int, str]]:
        """`Aspect: food, Opinion: great` as pairs of a part and its value; empty if a name is no part of an item."""
        parts = re.split(r"\s*[,;|]\s*(?=[\w ]+:)", line.strip("()"))
        pairs = [part.partition(":") for part in parts]
        found = [(at, bare(value)) for name, _, value in pairs if (at := self._roles.at(name)) is not None]
        full = len(found) == len(parts) and all(value for _, value in found)
        return found if full and not any(self._label(name) for name, _, _ in pairs) else []

    def _pieces(self, line: str, header: str | None) -> Iterator[Item]:
        line = line.strip("|").strip() if line.startswith("|") else line
        for piece in re.split(r"(?<!\\);|(?<=[)>])\s*,\s*(?=[(<])", line):
            found = list(self._piece(piece.strip().rstrip(",")))
            if not found and header is not None and piece.strip():
                found = list(self._under(header, bare(piece)))
            yield from found

    def _piece(self, piece: str) -> Iterator[Item]:
        """The items of a piece of a line, in any of the usual forms."""
        name, colon, rest = piece.partition(":")
        if colon and ":" in rest and self._label(name) is None and label_key(bare(name)) in _BEFORE_ITEMS:
            name, colon, rest = (piece := rest.strip()).partition(":")
        if not piece or len(piece) > _LONGEST_PIECE:
            return
        label = self._label(name) if colon else None
        if label is not None and rest.strip():
            yield from self._labelled(label, rest)
        elif (item := self._called(piece) or self._split(piece)) is not None:
            yield item
        elif colon and self._is_item(name, rest):
            yield from self._labelled(bare(name), rest)

    def _labelled(self, label: str, rest: str) -> Iterator[Item]:
        """What follows `label:`: one span, several in quotes or in a list, or two spans."""
        if self._spans == 1:
            values = structured(rest.strip())
            quoted = re.fullmatch(r"\s*\"[^\"]+\"(?:\s*,\s*\"[^\"]+\")+[.]?\s*", rest)
            if values and isinstance(values[0], list) and all(isinstance(one, str) for one in values[0]):
                spans = [str(one) for one in values[0]]
            else:
                spans = re.findall(r'"([^"]+)"', rest) if quoted else [rest]
            for span in spans:
                yield from self._under(label, span)
            return
        inner = rest.strip().removeprefix("(").removesuffix(")")
        for separator in (r"(?<!\\),", *_FIELDS):
            parts = [part for part in re.split(separator, inner) if part.strip()]
            if len(parts) == self._spans:
                yield self._made(label, parts)
                return

    def _called(self, piece: str) -> Item | None:
        """`label(span, span)` or `span (label)`."""
        found = re.fullmatch(r"(.+?)\s*[(\[](.+)[)\]][.]?", piece)
        if found is None:
            return None
        if self._spans == 1:
            label = self._label(found[2])
            return None if label is None else self._made(label, [found[1]])
        label, parts = self._label(found[1]), found[2].split(",")
        return self._made(label, parts) if label is not None and len(parts) == self._spans else None

    def _split(self, piece: str) -> Item | None:
        """Parts between bars, arrows, dashes or commas, exactly one of which is a label."""
        inner = re.sub(r"\A[(<]|[)>][.]?\Z", "", piece) if piece.startswith(("(", "<")) else piece
        for separator in _FIELDS:
            parts = [part for part in re.split(separator, inner) if part.strip()]
            if len(parts) == self._spans + 1 and (item := self._ordered(parts)) is not None:
                return item
        return None

    def _ordered(self, parts: Sequence[str]) -> Item | None:
        labels = [at for at, part in enumerate(parts) if self._label(part) is not None]
        if len(labels) != 1:
            return None
        label = self._label(parts[labels[0]])
        assert label is not None
        return self._made(label, [part for at, part in enumerate(parts) if at != labels[0]])

    def _is_item(self, name: str, rest: str) -> bool:
        """Whether `name: rest` is an item with an unknown label, and not a sentence about the answer."""
        words = label_key(bare(name)).split()
        return (
            0 < len(words) <= 3
            and not _PROSE & set(words)
            and 0 < len(rest.split()) <= _MOST_WORDS
            and (self._spans == 1 or "," in rest)
        )

    @staticmethod
    def _made(label: str, spans: Sequence[str]) -> Item:
        return (squeezed(label), *(squeezed(_span(span)) for span in spans))


def _span(text: str) -> str:
    """A span without quotes and Markdown around it; a full stop stays after an abbreviation."""
    text = text.strip()
    plain = bare(text)
    after = text.strip("*_`\"' ")
    return (
        after
        if after == f"{plain}." and re.search(r"(?:\b[A-Z]|[Ii]nc|[Cc]orp|[Cc]o|[Ll]td|[JS]r|St)\Z", plain)
        else plain or text
    )


def _is_empty(values: Sequence[object]) -> bool:
    """Whether JSON values hold nothing but empty lists and objects."""
    for value in values:
        if isinstance(value, Mapping):
            value = list(value.values())
        if not (isinstance(value, list) and _is_empty(value)):
            return False
    return True
