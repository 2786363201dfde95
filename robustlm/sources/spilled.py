"""Read large sources into Arrow files, in several processes; memory holds a few chunks of rows."""

from __future__ import annotations

import json
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from robustlm.rows.arrow import ArrowRows, ArrowWriter, RecordBatch
from robustlm.rows.base import Row, RowError, where_of
from robustlm.rows.readers import iter_rows
from robustlm.sample import Sample
from robustlm.sources.drafts import Draft, Drafter, unfillable
from robustlm.sources.samples import drafts_of, duplicate, has_twins, labelled_as, labels_in, row_notes
from robustlm.sources.stored import sample_columns, sample_values, samples_in
from robustlm.sources.unshown import Unshown
from robustlm.utils.parallel import in_order
from robustlm.utils.random import drawn

CHUNK = 1000
"""Rows in a chunk of work, which becomes a record batch."""

_Dropped = frozenset[tuple[int, int]]
"""Drafts of a chunk that are left out, by number of the row and of the draft."""


@cache
def _schema() -> Any:
    import pyarrow as pa

    more = [pa.field("form", pa.string()), pa.field("labelled", pa.bool_()), pa.field("lacking", pa.string())]
    return pa.schema([*sample_columns(), *more, pa.field("line", pa.int64())])


def _as_sample(draft: Draft) -> Sample:
    """The fields of a draft that are fields of a sample; the draft can be made from it again."""
    return replace(
        draft.read,
        task=draft.task,
        target=draft.target,
        variant=draft.variant,
        bank=draft.bank,
        instruction=draft.instruction,
        fields=draft.fields,
        topic=draft.topic,
    )


def drafts_in(batch: RecordBatch) -> list[Draft]:
    """The drafts of a record batch of `Spilled.rows`."""
    more = zip(*(batch.column(name).to_pylist() for name in ("form", "labelled", "lacking")), strict=True)
    return [
        Draft(
            read=one,
            task=one.task,
            target=one.target,
            variant=one.variant,
            bank=one.bank,
            instruction=one.instruction,
            fields=one.fields,
            topic=one.topic,
            format=form,
            labelled=labelled,
            lacking=json.loads(lacking) if lacking else {},
        )
        for one, (form, labelled, lacking) in zip(samples_in(batch), more, strict=True)
    ]


@dataclass
class _Drafted:
    """What became of a chunk of rows."""

    batch: RecordBatch
    """A record batch, one row for each draft."""
    ids: list[tuple[int, int, str]]
    """Number of the row, number of the draft and id of each draft."""
    errors: list[RowError]
    unshown: Unshown
    labels: dict[str, set[str]]
    unfilled: set[str] | None
    """Placeholders that all drafts lack; null if there are no drafts."""
    twins: list[str]


def _drafted(rows: Sequence[Row], drafter: Drafter, dropped: _Dropped = frozenset()) -> _Drafted:
    import pyarrow as pa

    errors: list[RowError] = []
    unshown = Unshown()
    drafts: list[Draft] = []
    ids: list[tuple[int, int, str]] = []
    lines: list[int] = []
    for at, row in enumerate(rows):
        for number, (draft, data) in enumerate(drafts_of(row, drafter, errors)):
            if (at, number) in dropped:
                continue
            ids.append((at, number, draft.read.id))
            drafts.append(draft)
            lines.append(row.line)
            unshown.add(data, draft.read.context, draft.fields, slotted=drafter.slotted(draft))
    lacking = [draft.lacking for draft in drafts]
    values = [
        *sample_values([_as_sample(draft) for draft in drafts]),
        pa.array([draft.format for draft in drafts], pa.string()),
        pa.array([draft.labelled for draft in drafts], pa.bool_()),
        pa.array([json.dumps(one) if one else None for one in lacking], pa.string()),
        pa.array(lines, pa.int64()),
    ]
    return _Drafted(
        pa.record_batch(values, schema=_schema()),
        ids,
        errors,
        unshown,
        labels_in(drafts),
        set.intersection(*map(set, lacking)) if lacking else None,
        [draft.read.id for draft in drafts if has_twins(draft)],
    )


class SeenIds:
    """The ids of samples, as hashes of 64 bits, which take a third of the memory."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}

    def add(self, id: str, line: int = 0) -> int | None:
        """Add an id. Returns the line of the row that has it already, or null."""
        key = hash(id)
        if key in self._places:
            return self._places[key]
        self._places[key] = line
        return None


@dataclass
class Spilled:
    """The rows of a source in an Arrow file, before their labels are known; as `Loaded`."""

    path: Path
    """The file; its batches are read by `drafts_in`."""
    count: int
    """Number of drafts in the file, bad ones among them."""
    errors: list[RowError]
    """Rows that cannot be used."""
    unshown: str
    """See `Loaded.unshown`."""
    left_out: list[str]
    """See `Loaded.left_out`."""
    twins: list[str]
    """Ids of rows with a choice that occurs twice."""
    found: dict[str, set[str]]
    """The labels in the rows' answers, by task."""
    unfilled: set[str]
    """Placeholders of templates that are left out."""
    bad: set[str]
    """Ids of drafts in the file that are not used."""

    @property
    def good(self) -> int:
        """Number of samples."""
        return self.count - len(self.bad)

    def notes(self) -> list[str]:
        """See `Loaded.notes`."""
        return row_notes(self.left_out, self.unshown, self.twins)

    def settled(self, batch: RecordBatch, options: Mapping[str, Sequence[str]], dataset: str) -> list[Sample]:
        """The samples of a record batch of the file; see `Loaded.settled`."""
        drafts = (draft for draft in drafts_in(batch) if draft.read.id not in self.bad)
        return [draft.settled(options.get(labelled_as(draft.task), ()), dataset) for draft in drafts]


def spill(
    source: str,
    split: str | None,
    drafter: Drafter,
    path: Path,
    *,
    processes: int = 1,
) -> Spilled:
    """Read all rows of a source, check them, and write their drafts to a file.

    Args:
        source: As for `iter_rows`.
        split: Split of a folder or hub dataset.
        drafter: Makes drafts of the source's rows.
        path: File for the drafts.
        processes: Number of processes.

    Raises:
        SourceError: There is nothing to read, or the file is damaged.
    """
    errors: list[RowError] = []
    read: deque[list[Row]] = deque()
    unshown, labels, twins = Unshown(), dict[str, set[str]](), list[str]()
    unfilled: set[str] | None = None
    own = SeenIds()
    with (
        ArrowWriter(path, _schema()) as writer,
        tqdm(desc=f"reading {source}", unit=" rows", disable=None) as bar,
    ):
        rows = _kept(_chunks(iter_rows(source, split, on_bad=errors.append)), read)
        for part in in_order(lambda chunk: _drafted(chunk, drafter), rows, processes):
            chunk = read.popleft()
            twice: set[tuple[int, int]] = set()
            for at, number, id in part.ids:
                before = own.add(id, chunk[at].line)
                if before is not None:
                    place = where_of(chunk[at].file, before, chunk[at].item)
                    errors.append(chunk[at].error(duplicate(id, place)))
                    twice.add((at, number))
            if twice:
                part = _drafted(chunk, drafter, frozenset(twice))
            errors += part.errors
            unshown.merge(part.unshown)
            twins += part.twins
            for task, found in part.labels.items():
                labels.setdefault(task, set()).update(found)
            if part.unfilled is not None:
                unfilled = part.unfilled if unfilled is None else unfilled & part.unfilled
            writer.write(part.batch)
            bar.update(len(chunk))
    left_out, unfilled = drafter.left_out(unfilled or set())
    bad = _lacking(path, unfilled, source, split, errors)
    errors.sort(key=lambda error: error.line)
    return Spilled(path, writer.rows, errors, str(unshown), left_out, twins, labels, unfilled, bad)


def _kept(chunks: Iterable[list[Row]], kept: deque[list[Row]]) -> Iterator[list[Row]]:
    for chunk in chunks:
        kept.append(chunk)
        yield chunk


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def _lacking(path: Path, unfilled: set[str], source: str, split: str | None, errors: list[RowError]) -> set[str]:
    """The ids of rows that lack texts for placeholders that other rows have; adds their errors."""
    problems: dict[int, list[str]] = {}
    ids: set[str] = set()
    for batch in ArrowRows(path).batches:
        column = batch.column("lacking")
        if column.null_count == batch.num_rows:
            continue
        values = (batch.column(name).to_pylist() for name in ("id", "line", "lacking"))
        for id, line, lacking in zip(*values, strict=True):
            if lacking and (problem := unfillable(json.loads(lacking), unfilled)):
                problems.setdefault(line, []).append(problem)
                ids.add(id)
    if problems:  # the rows are read again, since only errors need them
        for row in iter_rows(source, split, on_bad=lambda error: None):
            errors += [row.error(problem) for problem in problems.get(row.line, ())]
    return ids


def limit_by_id(rows: ArrowRows, bad: set[str], count: int, seed: int) -> NDArray[np.bool_]:
    """Draw samples of a file by seed and id, as `sampling: random` does: a mask of the rows that are kept."""
    keys, kept = array("Q"), np.zeros(len(rows), bool)
    places = array("q")
    for at, id in enumerate(rows.texts("id")):
        if id not in bad:
            keys.append(drawn(seed, "limit", id))
            places.append(at)
    order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable")[:count]
    kept[np.frombuffer(places, np.int64)[order]] = True
    return kept
