"""Rows of sources that are read while training goes on, for data that fits neither into memory nor on a disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from robustlm.rows.base import BadRowsError, Row, RowError, SourceError
from robustlm.rows.readers import iter_rows
from robustlm.sample import Sample
from robustlm.sources.drafts import Draft, Drafter, unfillable
from robustlm.sources.loading import as_source, check_bank, place_of
from robustlm.sources.samples import drafts_of, duplicate, labelled_as, named_labels
from robustlm.sources.source import BUILTIN, Role, Source, named_by_path
from robustlm.tasks import TASKS

Entry = tuple[int, Row | RowError]
"""Number of a source, and a row of it, or why it has no row there."""
_HINT = "Correct the rows, or leave them out with on_bad_row=skip."


@dataclass(frozen=True)
class Window:
    """Rows of a stream that follow each other."""

    samples: list[Sample]
    """The samples that they become."""
    errors: list[RowError]
    """Rows that cannot be used."""


class RowStream:
    """The rows of sources, which take turns row by row; a source that ends leaves its turns to the others.

    What needs all rows of a source is refused: shares and random draws of rows, and options of tasks that are the
    labels of all rows.

    Args:
        sources: What to read.
        role: Whose split to read of folders and hub data sets.
        on_bad_row: `strict` raises if rows are bad; `skip` leaves them out.

    Raises:
        SourceError: A source or a setting of it does not suit a stream.
    """

    def __init__(self, sources: Sequence[str | Source], role: Role, *, on_bad_row: Literal["strict", "skip"]) -> None:
        self._sources = [as_source(source) for source in sources]
        self._role = role
        self._on_bad_row = on_bad_row
        self._places: list[tuple[str, str | None]] = []
        self._drafters: list[Drafter] = []
        for source in self._sources:
            self._check(source)
            check_bank(source, role)
            self._places.append(place_of(source, role))
            self._drafters.append(
                Drafter(
                    format=source.format,
                    task=source.task,
                    bank=source.bank,
                    fields=source.fields,
                    topic=source.topic,
                    labels=named_labels(source.labels, source.round_to),
                )
            )

    def _check(self, source: Source) -> None:
        where = f"data.{self._role}: {source.path}"
        if source.path == BUILTIN:
            raise SourceError(f"{where}: found the built-in corpus; expected rows to read, or no data.stream")
        if isinstance(source.limit, float) or source.sampling == "random":
            found = "a random draw" if source.sampling == "random" else f"the share {source.limit}"
            raise SourceError(
                f"{where}: limit: found {found}, which needs the number of all rows; expected a number of rows from "
                "the start, or no data.stream"
            )

    def rows(self) -> Iterator[Entry]:
        """All rows, from the first one.

        Raises:
            SourceError: There is nothing to read, or a file is damaged.
        """
        waiting = [self._source(i) for i in range(len(self._sources))]
        while waiting:
            going = []
            for entries in waiting:
                entry = next(entries, None)
                if entry is not None:
                    yield entry
                    going.append(entries)
            waiting = going

    def _source(self, i: int) -> Iterator[Entry]:
        bad: list[RowError] = []
        rows = iter_rows(*self._places[i], on_bad=bad.append, streaming=True)
        limit = self._sources[i].limit
        for row in rows if limit is None else islice(rows, int(limit)):
            yield from ((i, error) for error in bad)
            bad.clear()
            yield i, row
        yield from ((i, error) for error in bad)

    def window(self, rows: Iterable[Entry]) -> Window:
        """The samples of some rows. Ids are compared within these rows.

        Raises:
            BadRowsError: With `strict`, there are bad rows; all of them are listed.
            SourceError: A task's options are the labels of all rows.
        """
        found: dict[str, Sample] = {}
        places: dict[str, str] = {}
        errors: list[RowError] = []
        count = 0
        for i, row in rows:
            count += 1
            if isinstance(row, RowError):
                errors.append(row)
                continue
            for draft, _ in drafts_of(row, self._drafters[i], errors):
                id = draft.read.id
                problem = unfillable(draft.lacking, set())
                if id in found:
                    problem = duplicate(id, places[id])
                if problem:
                    errors.append(row.error(problem))
                    continue
                try:
                    found[id], places[id] = self._settled(draft, i, row), row.where
                except ValueError as error:
                    if isinstance(error, SourceError):
                        raise
                    errors.append(row.error(str(error)))
        if errors and self._on_bad_row == "strict":
            raise BadRowsError(f"data.{self._role}", errors, count, hint=_HINT)
        return Window(list(found.values()), errors)

    def _settled(self, draft: Draft, i: int, row: Row) -> Sample:
        source = self._sources[i]
        options: tuple[str, ...] = ()
        if draft.labelled and TASKS[draft.task].labelled:
            named = named_labels(source.labels)
            if named is None or not named.names:
                raise SourceError(
                    f"{row.where}: the options of a row of {draft.task} are the labels of all rows, which a stream "
                    "does not know; expected all of them by `labels` of the source, such as "
                    f"{{path: {source.path}, labels: [positive, negative]}}"
                )
            options = TASKS[labelled_as(draft.task)].options(named.names)
            if unknown := sorted(draft.labels() - set(options)):
                raise ValueError(
                    f"unknown label: found {unknown[0]!r}; expected one that `labels` of the source names: "
                    f"{', '.join(options)}"
                )
        return draft.settled(options, named_by_path(source, self._role))
