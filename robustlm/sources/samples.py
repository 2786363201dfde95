"""Turn the rows of a source into samples.

A shape defines the keys by which it is recognised, and how its rows become `Sample`s. Every task with its own row shape
is also a shape. Add your own with `register_shape`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from robustlm.rows.base import BadRowsError, Row, RowData, RowError, count_reasons
from robustlm.rows.ids import row_id
from robustlm.rows.published import unfolded
from robustlm.rows.readers import iter_rows
from robustlm.rows.writers import write_rows
from robustlm.sample import Sample
from robustlm.sources.drafts import Draft, Drafter, unfillable
from robustlm.sources.unshown import Read, Unshown
from robustlm.tasks import TASKS
from robustlm.tasks.labels import Given, Labels


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows of a source before their labels are known."""

    drafts: dict[str, Draft]
    """Drafts of the samples by id, in the order of the rows."""
    errors: list[RowError]
    """Rows that cannot be used."""
    unshown: str
    """A message that lists the fields of the rows that no prompt shows; empty if all are shown."""
    left_out: list[str]
    """A message for each template of the bank that the rows cannot be asked with."""

    def notes(self) -> list[str]:
        """Messages for the user about the rows, one line each."""
        return row_notes(self.left_out, self.unshown, [id for id, one in self.drafts.items() if has_twins(one)])

    def labels(self) -> dict[str, set[str]]:
        """The labels in the rows' answers, by task; only for tasks with labels."""
        return labels_in(self.drafts.values())

    def settled(self, options: Mapping[str, Sequence[str]] | None = None, dataset: str = "") -> list[Sample]:
        """Build the samples.

        Args:
            options: All labels of each task, in the order in which they are shown; by default the labels in these rows,
                sorted.
            dataset: Data set name for rows without one.
        """
        known = {task: sorted(found) for task, found in self.labels().items()} | dict(options or {})
        return [draft.settled(known.get(labelled_as(draft.task), ()), dataset) for draft in self.drafts.values()]


def row_notes(left_out: Sequence[str], unshown: str, twins: Sequence[str]) -> list[str]:
    """Messages for the user about the rows of a source; `twins`: ids of rows with a choice that occurs twice."""
    found = [*left_out, *([unshown] if unshown else [])]
    if twins:
        listed = ", ".join(twins[:3]) + ", …" * (len(twins) > 3)
        found.append(f"a wrong choice occurs twice in {len(twins)} rows ({listed})")
    return found


def has_twins(draft: Draft) -> bool:
    """Whether a choice of a draft occurs twice."""
    return len(set(draft.read.choices)) < len(draft.read.choices)


def labels_in(drafts: Iterable[Draft]) -> dict[str, set[str]]:
    """The labels in the answers of drafts, by task; only for tasks with labels."""
    found: dict[str, set[str]] = {}
    for draft in drafts:
        if draft.labelled and TASKS[draft.task].labelled:
            found.setdefault(labelled_as(draft.task), set()).update(draft.labels())
    return found


def labelled_as(task: str) -> str:
    """The task that labels are stored under: the task itself or, for a bare form, the task that it is derived from."""
    return TASKS[task].bare_of or task


def load_samples(
    source: str,
    *,
    format: str | None = None,
    task: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    on_bad_row: Literal["strict", "skip"] = "strict",
    rejected: Path | None = None,
    bank: str | None = None,
    fields: Mapping[str, str] | None = None,
    topic: str | None = None,
    labels: Given | None = None,
    round_to: float | None = None,
) -> list[Sample]:
    """Read all rows of a source, check every row, and make samples.

    A row's id is its `id` field, or `folder/stem:line` (`conll03/train:17`). Rows of a task's own shape get their
    instruction from a bank (`Sample.bank`), unless they contain one. Labels are known after all rows are read. They
    then become `Context.option`, and the `choices` of classification. `robustlm.sources.loading` reads several
    sources, whose rows share their labels.

    Args:
        source: A file, folder or hub dataset, as for `iter_rows`.
        format: The rows' shape, by name or by the import path of its function; by default it is recognised by each
            row's keys. `none` also recognises it, and omits the answer's format from prompts of tasks.
        task: The task of rows that do not name their task; by name or by the import path of its class.
        split: Split of a folder or hub dataset.
        limit: How many samples to return; all rows are read and checked anyway.
        on_bad_row: `strict` raises if any row is bad; `skip` skips bad rows and warns.
        rejected: JSONL file for the skipped rows, with reasons (`file`, `line`, `problem`, `found`).
        bank: Bank of phrasings for all rows; replaces the rows' own banks and instructions. Its placeholders become the
            samples' `fields`: `{name}` is the row's `name`, `{options_}` its choices.
        fields: Maps placeholders to the rows' keys where the names differ.
        topic: Key of the rows' topic; its text becomes the samples' `topic`.
        labels: Names of all labels, or a mapping from the rows' values to names. These are the options, in this order.
        round_to: Numeric labels are rounded to multiples of this step, before they get names.

    Raises:
        SourceError: The source is empty or missing, or the file is damaged.
        BadRowsError: Rows are bad and `on_bad_row` is `strict`, or no row is good.
        ValueError: `format`, `task`, `limit`, `bank`, `fields` or `labels` is unknown or unusable.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: found {limit}; expected at least 1")
    named = named_labels(labels, round_to)
    loaded = read_samples(
        source, format=format, task=task, split=split, bank=bank, fields=fields, topic=topic, labels=named
    )
    settle_errors(source, loaded.errors, len(loaded.drafts), on_bad_row, rejected)
    options = {name: TASKS[name].options(named.names) for name in loaded.labels()} if named and named.names else {}
    return loaded.settled(options)[:limit]


def named_labels(labels: Given | None, round_to: float | None = None) -> Labels | None:
    """The checked labels of a source; null if it has neither `labels` nor `round_to`.

    Raises:
        ValueError: A setting is invalid; the message begins with `labels: ` or `round_to: `.
    """
    return None if labels is None and round_to is None else Labels(labels, round_to)


def read_samples(
    source: str,
    *,
    format: str | None = None,
    task: str | None = None,
    split: str | None = None,
    bank: str | None = None,
    fields: Mapping[str, str] | None = None,
    topic: str | None = None,
    labels: Labels | None = None,
    answered: bool = True,
    every: int = 1,
) -> Loaded:
    """Read all rows of a source and check them, as `load_samples` does, but return drafts instead of samples.

    If `answered` is false, rows may have no answer; their samples then have an empty target. With `every`, only each
    `every`-th row is used; the others are read, but not checked.
    """
    drafter = Drafter(format=format, task=task, bank=bank, fields=fields, topic=topic, labels=labels, answered=answered)
    drafts: dict[str, Draft] = {}
    places: dict[str, str] = {}
    origins: dict[str, Row] = {}
    errors: list[RowError] = []
    unshown = Unshown()
    for row in islice(iter_rows(source, split, on_bad=errors.append), 0, None, every):
        for draft, data in drafts_of(row, drafter, errors):
            id = draft.read.id
            if id in drafts:
                errors.append(row.error(duplicate(id, places[id])))
                continue
            if draft.lacking:
                origins[id] = row
            drafts[id], places[id] = draft, row.where
            unshown.add(data, draft.read.context, draft.fields, slotted=drafter.slotted(draft))
    lacking = {id: draft.lacking for id, draft in drafts.items() if draft.lacking}
    unfilled = set.intersection(*map(set, lacking.values())) if lacking and len(lacking) == len(drafts) else set()
    left_out, unfilled = drafter.left_out(unfilled)
    bad = {id: problem for id, own in lacking.items() if (problem := unfillable(own, unfilled))}
    for id, problem in bad.items():
        del drafts[id]
        errors.append(origins[id].error(problem))
    if bad:
        errors.sort(key=lambda error: error.line)
    return Loaded(drafts, errors, str(unshown), left_out)


def drafts_of(row: Row, drafter: Drafter, errors: list[RowError]) -> Iterator[tuple[Draft, Read]]:
    """The drafts of a row, most often one; appends to `errors` why there are fewer."""
    for part in _parts(row, drafter.task, errors):
        try:
            found = drafter.draft(part.data, part.id)
        except ValueError as error:
            errors.append(row.error(str(error)))
        else:
            yield found


def duplicate(id: str, place: str) -> str:
    """The problem of a row whose id another row has."""
    return f"duplicate id: found {id!r}, already used at {place}"


def labels_of(source: str, split: str | None, drafter: Drafter) -> dict[str, set[str]] | None:
    """The labels in the rows of a source, by task; memory holds one row. Null: no row is good, or all rows decide it.

    Args:
        source: As for `iter_rows`.
        split: Split of a folder or hub dataset.
        drafter: Makes drafts of the rows.
    """
    found: dict[str, set[str]] = {}
    good = 0
    for row in iter_rows(source, split, on_bad=lambda error: None):
        for draft, _ in drafts_of(row, drafter, []):
            if draft.lacking:
                return None
            good += 1
            for task, labels in labels_in([draft]).items():
                found.setdefault(task, set()).update(labels)
    return found if good else None


@dataclass(frozen=True, slots=True)
class _Part:
    """A row, or a part of a row, that becomes one sample."""

    id: str
    data: RowData


def _parts(row: Row, task: str | None, errors: list[RowError]) -> list[_Part]:
    """Split a row into the parts that become samples: the row itself, or the sentences of a published document."""
    try:
        id = row_id(row)
        return [_Part(id + suffix, data) for suffix, data in unfolded(row.data, task)]
    except ValueError as error:
        errors.append(row.error(str(error)))
        return []


def settle_errors(source: str, errors: Sequence[RowError], good: int, on_bad_row: str, rejected: Path | None) -> None:
    """Raise for bad rows, or skip them with a warning and list them in the file `rejected`, if given.

    Args:
        source: The source.
        errors: Its bad rows.
        good: Number of the other rows.
        on_bad_row: `strict` or `skip`.
        rejected: File for the skipped rows; null: none.

    Raises:
        BadRowsError: `on_bad_row` is `strict`, or no row is good.
    """
    if not errors:
        return
    rows = good + len(errors)
    if on_bad_row == "strict" or not good:
        raise BadRowsError(source, list(errors), rows, hint="Correct the rows, or leave them out with on_bad_row=skip.")
    if rejected is not None:
        write_rows(rejected, map(_as_rejected, errors))
    listed = f"; they are listed in {rejected}" if rejected is not None else ""
    counted = f"{len(errors)} of {rows} rows ({count_reasons(errors)})"
    warnings.warn(f"{source}: left out {counted}{listed}", UserWarning, stacklevel=3)


def _as_rejected(error: RowError) -> dict[str, Any]:
    place = {"item" if error.item else "line": error.line}
    return {"file": error.file, **place, "problem": error.problem, "found": _plain(error.found)}


def _plain(found: object) -> object:
    """Turn values that JSON cannot express, which Parquet rows may contain, into text."""
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError):
        return repr(found)
    return found
