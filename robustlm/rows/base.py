"""Rows of a data source, and the errors that rows and sources can have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from robustlm.checks.texts import shortened

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
"""The file kinds that can be read and written."""
READABLE = (*SUFFIXES, ".tsv", ".tsv.gz", ".txt", ".txt.gz")
"""The file kinds that can be read; a line of text is a row with the key `text`."""
RowData = Mapping[str, object]
"""Keys and values of a row as in its file. Values are plain data of any type, so code that reads one checks its
type."""
LISTED = 20
LONGEST_NAME = 60
"""Messages show at most this many characters of a column's name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source and its position."""

    file: str
    """The path of the file as given, or `name/split` of a Hugging Face dataset."""
    line: int
    """Line where the row starts, from 1; the row's number where a source has no lines (JSON lists, Parquet, hub)."""
    data: dict[str, Any]
    """The row's fields."""
    item: bool = False
    """Whether the row is an item of a JSON list; `line` is then the item's number."""

    @property
    def where(self) -> str:
        """`file:line`, as editors understand it; `file item 3` in a JSON list."""
        return where_of(self.file, self.line, self.item)

    def error(self, problem: str) -> RowError:
        """Make a `RowError` for this row."""
        return RowError(self.file, self.line, problem, self.data, self.item)


@dataclass(frozen=True, slots=True)
class RowError:
    """One row that cannot be used."""

    file: str
    """As in `Row`."""
    line: int
    """As in `Row`."""
    problem: str
    """What is wrong. Bad rows are counted by the words before the first colon."""
    found: Any = None
    """The row's fields, or its text where it could not be read."""
    item: bool = False
    """As in `Row`."""

    @property
    def reason(self) -> str:
        """The kind of problem, without this row's particulars."""
        return self.problem.partition(":")[0]

    def __str__(self) -> str:
        return f"{where_of(self.file, self.line, self.item)}: {self.problem}"


def where_of(file: str, number: int, item: bool) -> str:
    """Position of a row: `rows.jsonl:3`, or `rows.json item 3`."""
    return f"{file} item {number}" if item else f"{file}:{number}"


class SourceError(ValueError):
    """A source that cannot be read as a whole: missing, empty, damaged, or of an unknown kind."""


class BadRowsError(ValueError):
    """Rows that cannot be used; the message lists the first 20 problems with their rows, and counts rows by reason."""

    def __init__(self, source: str, errors: list[RowError], rows: int, hint: str = "") -> None:
        self.errors = errors
        alike: dict[tuple[str, str], list[RowError]] = {}
        for error in errors:
            alike.setdefault((error.file, error.problem), []).append(error)
        listed = list(alike.values())[:LISTED]
        shown = []
        for first, *others in listed:
            more = shortened(", ".join(str(error.line) for error in others), 60)
            kind = "item" if first.item else "line"
            same = f" (the same in {len(others)} more: {kind}{'s' * (len(others) > 1)} {more})" if others else ""
            shown.append(f"  {first}{same}")
        if (rest := len(errors) - sum(map(len, listed))) > 0:
            shown.append(f"  … and {rest} more")
        head = f"{source}: {len(errors)} of {rows} rows cannot be used ({count_reasons(errors)})"
        super().__init__("\n".join([head, *shown, *([hint] if hint else [])]))


def count_reasons(errors: Iterable[RowError]) -> str:
    """Say how often each reason occurs, most frequent first: `broken JSON: 3; empty target: 1`."""
    return "; ".join(f"{reason}: {n}" for reason, n in Counter(e.reason for e in errors).most_common())


def kinds_of() -> str:
    """The endings of files that hold rows, for messages."""
    return ", ".join(SUFFIXES)


def suffix_of(path: str, known: tuple[str, ...] = SUFFIXES) -> str:
    """Which of the known endings a path has. Raises `SourceError` for any other ending."""
    for suffix in known:
        if path.lower().endswith(suffix):
            return suffix
    raise SourceError(f"{path}: unknown kind of file; expected a name ending in one of {', '.join(known)}")
