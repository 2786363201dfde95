"""From rows to samples: the shapes that rows come in, and the one function that loads a source.

A shape says by which keys it is recognised and how a row of it becomes a `Sample`. Every task with a row
shape of its own is a shape too. Add your own with `register_shape`.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from robustlm.checks.texts import shortened
from robustlm.instructions.banks import NO_FORMAT, InstructionBank, known_banks
from robustlm.instructions.slots import OPTIONS, is_slotted, option_lines
from robustlm.rows.base import READABLE, BadRowsError, Row, RowError, count_reasons
from robustlm.rows.fields import optional, required, shown
from robustlm.rows.published import unfolded
from robustlm.rows.readers import iter_rows
from robustlm.rows.writers import write_rows
from robustlm.sample import Sample
from robustlm.sources.shapes import Shape, is_registered, known_shapes, resolve_shape
from robustlm.sources.unshown import Read, Unshown
from robustlm.tasks import TASKS, resolve_task
from robustlm.tasks.labels import Given, Labels, quoted

# ------------------------------------------------------------------------------------------ loading


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows of a source, before they are told all labels there are."""

    samples: dict[str, Sample]
    """By id, in the order of the rows; those of a task's own shape still lack options, choices and bank."""
    labelled: tuple[str, ...]
    """Ids of the samples of a task's own shape."""
    errors: list[RowError]
    """Rows that cannot be used."""
    unshown: str
    """Which fields of the rows no prompt shows, as a line for people; empty where all are shown."""

    def notes(self) -> list[str]:
        """What a user should know of the rows, a line each."""
        found = [self.unshown] if self.unshown else []
        if twice := [id for id, one in self.samples.items() if len(set(one.choices)) < len(one.choices)]:
            found.append(
                f"a wrong choice occurs twice in {len(twice)} rows ({', '.join(twice[:3])}{', …' * (len(twice) > 3)})"
            )
        return found

    def labels(self) -> dict[str, set[str]]:
        """The labels in the answers of the rows of each task whose answers have labels."""
        found: dict[str, set[str]] = {}
        for id in self.labelled:
            sample = self.samples[id]
            task = TASKS[sample.task]
            if task.labelled:
                items = task.parse(sample.target).items
                found.setdefault(task.bare_of or task.name, set()).update(item[0] for item in items)
        return found

    def settled(self, options: Mapping[str, Sequence[str]] | None = None) -> list[Sample]:
        """The samples, whole.

        Args:
            options: All labels of each task, in the order in which they are shown; those of these rows, sorted, where
                not given.
        """
        known = {task: sorted(found) for task, found in self.labels().items()} | dict(options or {})
        samples = dict(self.samples)
        for id in self.labelled:
            task = TASKS[samples[id].task]
            samples[id] = _labelled(samples[id], known.get(task.bare_of or task.name, ()))
        _fill_options(samples)
        return list(samples.values())


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
    """Read a source whole, check every row, and make samples.

    A row's id is its `id` field, or `folder/stem:line` (`conll03/train:17`). Rows of a task's own shape get
    their instruction from a bank (`Sample.bank`), unless they bring one. Labels are known once all rows are
    read: they then become `Context.option`, and the `choices` of classification. `robustlm.sources.loading` reads
    several sources, whose rows share their labels.

    Args:
        source: A file, folder or hub dataset, as `iter_rows` takes it.
        format: The rows' shape, by name or by the import path of its function; recognised by each row's keys when
            left out. `none` recognises it too, and leaves out what rows of tasks are told of the answer's format.
        task: Which task's answers the rows hold, for rows that do not say so themselves; by name or by the import
            path of its class.
        split: Split of a folder or hub dataset.
        limit: How many samples to return; all rows are read and checked nevertheless.
        on_bad_row: `strict` raises when there is any bad row; `skip` leaves bad rows out and warns.
        rejected: JSONL file for the rows left out and why (`file`, `line`, `problem`, `found`).
        bank: Bank that all rows take their phrasings from, in place of banks and instructions of their own. Slots of
            its phrasings become the samples' `fields`: `{name}` is the row's `name`, `{options_}` its choices.
        fields: Keys of the rows for the slots that have other names.
        topic: Key of the rows that says what they are about; its text becomes the samples' `topic`.
        labels: Names of all labels, or names by what rows hold; the options are these, in this order.
        round_to: Step that labels which are numbers are rounded to, before they get names.

    Raises:
        SourceError: There is nothing to read, or the file is damaged.
        BadRowsError: Rows are bad and `on_bad_row` is `strict`, or no row is good.
        ValueError: `format`, `task`, `limit`, `bank`, `fields` or `labels` is none that there is.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: found {limit}; expected at least 1")
    named = named_labels(labels, round_to)
    loaded = read_samples(
        source, format=format, task=task, split=split, bank=bank, fields=fields, topic=topic, labels=named
    )
    settle_errors(source, loaded, on_bad_row, rejected)
    options = {name: TASKS[name].options(named.names) for name in loaded.labels()} if named and named.names else {}
    return loaded.settled(options)[:limit]


def named_labels(labels: Given | None, round_to: float | None = None) -> Labels | None:
    """Labels as a source gives them, checked; null where it gives none.

    Raises:
        ValueError: They are none; begins with `labels: ` or `round_to: `.
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
) -> Loaded:
    """Read a source whole and check every row, as `load_samples` does; what it finds is not yet settled.

    With `answered` false, rows may lack their answer, and their samples then have an empty target.
    """
    task = task and resolve_task(task)
    stated = format == NO_FORMAT
    format = None if stated else format and resolve_shape(format)
    slots = bank_slots(bank, fields) if bank else []
    shapes = known_shapes()
    samples: dict[str, Sample] = {}
    places: dict[str, str] = {}
    errors: list[RowError] = []
    task_shaped: list[str] = []
    unshown = Unshown()
    for row in iter_rows(source, split, on_bad=errors.append):
        for part in _parts(row, task, errors):
            try:
                shape, filled = _shape_of(part.data, shapes, format, task, answered=answered)
                data = Read(part.data if filled else _named(part.data, shape, labels))
                sample = shape.read(_Filled(data, filled) if filled else data, part.id)
                sample = _checked(replace(sample, target="") if filled else sample, task)
                if sample.variant is None:
                    sample = replace(sample, variant=optional(data, "variant") or None)
                if bank:
                    sample = _asked_by(sample, bank, slots, data, fields or {}, shape)
                elif sample.bank:
                    _check_own_bank(sample.bank)
                    sample = _asked_by_its_own(sample, data, shape)
                if stated or (sample.bank and not sample.instruction and _known_bank(sample.bank).states_format):
                    sample = _without_format(sample, shape)
                if topic:
                    sample = replace(sample, topic=required(data, topic).strip())
                if not (sample.instruction or sample.bank or shape.name in TASKS):
                    raise ValueError("empty instruction: found no text; expected some, or a `bank` to take it from")
                if sample.id in samples:
                    raise ValueError(f"duplicate id: found {sample.id!r}, already used at {places[sample.id]}")
            except ValueError as error:
                errors.append(row.error(str(error)))
                continue
            samples[sample.id], places[sample.id] = sample, row.where
            if shape.name in TASKS:
                task_shaped.append(sample.id)
            unshown.add(data, sample, slotted=_slotted(sample, fields or {}))
    return Loaded(samples, tuple(task_shaped), errors, str(unshown))


@dataclass(frozen=True, slots=True)
class _Part:
    """A row that becomes one sample."""

    id: str
    data: Mapping[str, Any]


def _parts(row: Row, task: str | None, errors: list[RowError]) -> list[_Part]:
    """The rows that a row stands for: one, or the sentences of a published document."""
    try:
        id = row_id(row)
        return [_Part(id + suffix, data) for suffix, data in unfolded(row.data, task)]
    except ValueError as error:
        errors.append(row.error(str(error)))
        return []


def _without_format(sample: Sample, shape: Shape) -> Sample:
    """A sample whose instruction says how to answer: its prompt does not, and its answer has no form of its own."""
    task = TASKS.get(shape.name)
    if task is None:
        if sample.context.format:
            found = f"a row of the shape {shape.name!r} with a format of its own ({shown(sample.context.format)})"
            raise ValueError(f"format none: found {found}; expected rows without, or leave `format: none` out")
        return sample
    if not task.bare:
        form = f"a row of the task {task.name!r}, whose answers can only be read in the form {sample.context.format!r}"
        raise ValueError(f"format none: found {form}; leave `format: none` out, so that prompts state it")
    bare = TASKS[task.bare]
    answer = bare.format(task.parse(sample.target).items) if sample.target else ""
    return replace(sample, task=bare.name, target=answer, context=replace(sample.context, format=""))


def _slotted(sample: Sample, keys: Mapping[str, str]) -> set[str] | None:
    """The keys that fill placeholders, where every phrasing that a sample is asked with has some."""
    names = tuple(name for name, _ in sample.fields)
    if sample.instruction or not (sample.bank and names and _all_slotted(sample.bank, names)):
        return None
    return {keys.get(name, name) for name in names}


@lru_cache
def _all_slotted(bank: str, names: tuple[str, ...]) -> bool:
    return all(is_slotted(instruction.text, names) for instruction in _known_bank(bank).instructions)


def _named(row: Mapping[str, Any], shape: Shape, labels: Labels | None) -> Mapping[str, Any]:
    """A row in which labels have their names."""
    if labels is None:
        return row
    if shape.name not in TASKS:
        found = f"found them for a row of the shape {shape.name!r}, which brings its answers as they are"
        raise ValueError(f"labels: {found}; expected rows of a task's own shape, or none")
    return TASKS[shape.name].named(row, labels)


@lru_cache
def _known_bank(name: str) -> InstructionBank:
    return InstructionBank.load(name)


@lru_cache
def _check_own_bank(name: str) -> None:
    """Refuse a file where a row names its bank: data does not decide which files are opened. Raises `ValueError`."""
    if ".json" in name or name not in known_banks():
        raise ValueError(
            f"bank: found {shown(name)}; a row names a packaged bank ({', '.join(known_banks())}), and a file is named "
            "by a config: data.bank, or the bank of a source"
        )


def bank_slots(bank: str, fields: Mapping[str, str] | None) -> list[str]:
    """The slots in a bank's phrasings.

    Raises:
        ValueError: There is no such bank, or `fields` names a slot that it does not have.
    """
    slots = _known_bank(bank).slots
    if unknown := [name for name in fields or {} if name not in slots]:
        known = ", ".join(slots) or "none, as its phrasings have no {placeholders}"
        raise ValueError(f"fields: found {unknown[0]!r}; expected placeholders of the bank {bank}: {known}")
    return slots


_LATER = "\0"
"""Stands for options that are known once all rows are read; no text field can be this."""


def _asked_by(
    sample: Sample, bank: str, slots: Sequence[str], row: Mapping[str, Any], keys: Mapping[str, str], shape: Shape
) -> Sample:
    """The sample, to be asked by phrasings of a bank, with the fields that these need."""
    filled = {slot: _slot(slot, sample, row, keys, shape) for slot in slots}
    return replace(sample, bank=bank, instruction="", fields=tuple(filled.items()))


def _asked_by_its_own(sample: Sample, row: Mapping[str, Any], shape: Shape) -> Sample:
    """The same for a bank that the row names: braces that no field is for are text, unless another one has a field."""
    slots = _known_bank(sample.bank).slots
    if sample.instruction or not any(slot in dict(sample.fields) or slot in row for slot in slots):
        return sample
    return _asked_by(sample, sample.bank, slots, row, {}, shape)


def _slot(slot: str, sample: Sample, row: Mapping[str, Any], keys: Mapping[str, str], shape: Shape) -> str:
    key = keys.get(slot, slot)
    context = row.get("context")
    places = [dict(sample.fields), row, context if isinstance(context, Mapping) else {}]
    value = next((place[key] for place in places if place.get(key) is not None), None)
    if value is None and slot == OPTIONS and slot not in keys:
        if sample.choices:
            return option_lines(sample.choices)
        task = TASKS.get(shape.name)
        if task is not None and task.labelled and task.score == "accuracy":
            return _LATER
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return option_lines(value) if slot == OPTIONS else " ".join(value)
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return str(value).strip()
    if value is not None:
        raise ValueError(f"{key} is no text: found {shown(value)}; expected text for the placeholder {{{slot}}}")
    found = f"found keys {', '.join(map(str, row))}"
    if slot == OPTIONS and slot not in keys:
        raise ValueError(
            f"no field for {{{slot}}}: {found}, and no choices; expected choices, or a key named by `fields`"
        )
    raise ValueError(
        f"no field for {{{slot}}}: {found}; expected {key!r} among them, or another key named by `fields` of the source"
    )


def _fill_options(samples: dict[str, Sample]) -> None:
    """Give samples the options that were left for later."""
    for id, sample in samples.items():
        if (OPTIONS, _LATER) in sample.fields:
            lines = option_lines(sample.choices)
            fields = tuple((name, lines if text == _LATER else text) for name, text in sample.fields)
            samples[id] = replace(sample, fields=fields)


class _Filled(Read):
    """A row with an answer put into it; which of its own keys were read, the row itself is told."""

    def __init__(self, row: Read, filled: Mapping[str, Any]) -> None:
        super().__init__(filled)
        self.read = row.read


def _shape_of(
    data: Mapping[str, Any], shapes: Mapping[str, Shape], format: str | None, task: str | None, *, answered: bool
) -> tuple[Shape, Mapping[str, Any] | None]:
    """A row's shape and, of a row without an answer, the row with one put into it.

    Raises:
        ValueError: The row has no shape that is known, or several; or it lacks its answer.
    """
    fillable = {name: filled for name, shape in shapes.items() if (filled := shape.filled(data)) is not None}
    if format:
        return shapes[format], None if answered else fillable.get(format)
    if any(shape.recognises(data) and name not in fillable for name, shape in shapes.items()):
        return _recognised(data, {name: shape for name, shape in shapes.items() if name not in fillable}, task), None
    # a row that brings its instruction is not taken for a row of a task, unless that is said
    own = [name for name in fillable if is_registered(name) and task not in fillable] or list(fillable)
    if answered or not own:
        if own and not any(shape.recognises(data) for shape in shapes.values()):
            found = f"found keys {shortened(', '.join(map(str, data)), 300)}"
            expected = "; or ".join(f"{name} ({shapes[name].keys})" for name in own)
            raise ValueError(
                f"no answer: {found}; expected those of {expected}. Only `robustlm predict` takes rows without answers"
            )
        return _recognised(data, shapes, task), None
    shape = _recognised(data, {name: shapes[name] for name in own}, task, among=own)
    return shape, fillable[shape.name]


def _recognised(
    data: Mapping[str, Any], shapes: Mapping[str, Shape], task: str | None, among: Sequence[str] = ()
) -> Shape:
    fitting = [shape for shape in shapes.values() if shape.name in among or shape.recognises(data)]
    # a row may hold answers of several tasks; the one that is asked for decides
    fitting = [shape for shape in fitting if shape.name == task] or fitting
    if len(fitting) == 1:
        return fitting[0]
    keys = shortened(", ".join(map(str, data)), 300) or "none"
    if fitting:
        names = " and ".join(shape.name for shape in fitting)
        raise ValueError(f"ambiguous keys: found {keys}, which fit {names}; name the shape with format=…")
    known = "; ".join(f"{shape.name} ({shape.keys})" for shape in shapes.values())
    raise ValueError(f"unknown keys: found {keys}; expected those of one of these shapes: {known}")


def row_id(row: Row) -> str:
    """A row's own `id`, or `folder/stem:line`: what draws for a row depend on, wherever they are made.

    The number is that of the item in a JSON list, and of the row where a source has no lines (Parquet, hub).

    Raises:
        ValueError: The row has an `id` that cannot serve as one.
    """
    own = row.data.get("id")
    if own is None:
        return f"{_stem(row.file)}:{row.line}"
    if isinstance(own, bool) or not isinstance(own, str | int) or not str(own).strip():
        raise ValueError(f"unusable id: found {shown(own)}; expected a non-empty string or a number")
    return str(own)


def _stem(file: str) -> str:
    """Folder and name without ending: telling, and the same wherever the program is started from."""
    ending = next((suffix for suffix in READABLE if file.lower().endswith(suffix)), "")
    if ending:
        file = os.path.abspath(file)[: -len(ending)]
    return "/".join(Path(file).parts[-2:])


def _checked(sample: Sample, task: str | None) -> Sample:
    if task is not None and sample.task not in (task, "generation"):
        raise ValueError(f"another task: found a row of task {sample.task!r}; expected {task!r}, as asked for")
    sample = replace(sample, task=task or sample.task)
    if sample.task not in TASKS:
        raise ValueError(f"unknown task: found {sample.task!r}; expected one of {', '.join(TASKS)}")
    if sample.target and not TASKS[sample.task].parse(sample.target).parsed:
        found = f"found {shown(sample.target)}; expected an answer that the task {sample.task!r} can read"
        raise ValueError(f"unreadable target: {found}")
    for choice in sample.choices:
        if not TASKS[sample.task].parse(choice).parsed:
            found = f"found {shown(choice)}; expected an answer that the task {sample.task!r} can read"
            raise ValueError(f"unreadable choice: {found}")
    return sample


def settle_errors(source: str, loaded: Loaded, on_bad_row: str, rejected: Path | None) -> None:
    """Stop at the bad rows of a source, or leave them out with a warning, and list them in a file if there is one.

    Raises:
        BadRowsError: `on_bad_row` is `strict`, or no row is good.
    """
    errors = loaded.errors
    if not errors:
        return
    rows = len(loaded.samples) + len(errors)
    if on_bad_row == "strict" or not loaded.samples:
        raise BadRowsError(source, errors, rows, hint="Mend the rows, or leave them out with on_bad_row=skip.")
    if rejected is not None:
        write_rows(rejected, map(_as_rejected, errors))
    listed = f"; they are listed in {rejected}" if rejected is not None else ""
    counted = f"{len(errors)} of {rows} rows ({count_reasons(errors)})"
    warnings.warn(f"{source}: left out {counted}{listed}", UserWarning, stacklevel=3)


def _as_rejected(error: RowError) -> dict[str, Any]:
    place = {"item" if error.item else "line": error.line}
    return {"file": error.file, **place, "problem": error.problem, "found": _plain(error.found)}


def _plain(found: object) -> object:
    """Parquet rows hold values that JSON has no words for."""
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError):
        return repr(found)
    return found


def _labelled(sample: Sample, labels: Sequence[str]) -> Sample:
    task = TASKS[sample.task]
    context, choices = sample.context, sample.choices
    if task.labelled:
        context = replace(context, option=", ".join(map(quoted, labels)))
        if task.score == "accuracy":
            choices = tuple(task.format([(label,)]) for label in labels)
    bank = sample.bank if sample.instruction or sample.bank else task.bank(context, labels)
    return replace(sample, context=context, choices=choices, bank=bank)
