"""From rows to samples: the shapes that rows come in, and the one function that loads a source.

A shape says by which keys it is recognised and how a row of it becomes a `Sample`. Every task with a row
shape of its own is a shape too. Add your own with `register_shape`.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from robustlm.checks.texts import shortened
from robustlm.data.fields import check_choices, elements, lacks, optional, required, shown
from robustlm.data.instructions import NO_FORMAT, InstructionBank, known_banks
from robustlm.data.labels import Given, Labels, quoted
from robustlm.data.lookup import imported
from robustlm.data.published import unfolded
from robustlm.data.rows import (
    READABLE,
    BadRowsError,
    Row,
    RowError,
    count_reasons,
    iter_rows,
    write_rows,
)
from robustlm.data.samples import SYSTEM_ROLES, Context, Sample, Turn
from robustlm.data.slots import OPTIONS, is_slotted, option_lines
from robustlm.data.tasks import TASKS, Task, resolve_task
from robustlm.data.unshown import Read, Unshown

ReadRow = Callable[[Mapping[str, Any], str], Sample]
"""Makes a sample of a row and the id it shall have; raises `ValueError` for a row that it cannot use."""


FillRow = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""Makes a readable row of one that lacks its answer; null where the row is another one."""
_FILLER = "-"
"""Answer that stands for the missing one of a row while it is read."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One way in which rows hold samples."""

    name: str
    """Key in `SHAPES`, and what `format=` takes."""
    keys: str
    """The keys that make it up, for people to read."""
    recognises: Callable[[Mapping[str, Any]], bool]
    """Whether a row has this shape, judged by its keys."""
    read: ReadRow
    """Turns a row into a sample."""
    filled: FillRow = lambda row: None
    """Puts some answer into a row of this shape that lacks one; null for other rows."""


SHAPES: dict[str, Shape] = {}
"""Shapes by name, besides those of `TASKS`; `register_shape` adds to them."""


def register_shape(
    name: str, needs: tuple[str, ...], unless: tuple[str, ...] = (), answer: str | FillRow | None = None
) -> Callable[[ReadRow], ReadRow]:
    """Decorator: make a function that reads rows known as a shape.

    Args:
        name: What `format=` takes.
        needs: Keys that a row must have to be recognised.
        unless: Keys of which it must have none.
        answer: Which of `needs` is the answer, so that `robustlm predict` takes rows without it; or what puts some
            answer into a row that lacks one. Null: every row has to bring an answer.

    Raises:
        ValueError: The name is taken.

    Example:
        >>> @register_shape("dialogue", needs=("ask", "reply"), answer="reply")
        ... def read_dialogue(row, id):
        ...     return Sample(id, instruction=row["ask"], target=row["reply"])
        >>> read_dialogue({"ask": "Greet me.", "reply": "Hello."}, "greetings:1").target
        'Hello.'
    """
    if name in SHAPES or name in TASKS or name == NO_FORMAT:
        raise ValueError(f"found a second shape named {name!r}; expected another name")

    def add(read: ReadRow) -> ReadRow:
        def recognises(row: Mapping[str, Any]) -> bool:
            return all(key in row for key in needs) and not any(key in row for key in unless)

        def filled(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
            if not isinstance(answer, str) or not lacks(row, answer) or any(key in row for key in unless):
                return None
            return {**row, answer: _FILLER} if all(key in row for key in needs if key != answer) else None

        SHAPES[name] = Shape(name, ", ".join(needs), recognises, read, answer if callable(answer) else filled)
        return read

    return add


def known_shapes() -> dict[str, Shape]:
    """All shapes by name, those of tasks with a row shape of their own included."""
    own = {name: _task_shape(task) for name, task in TASKS.items() if task.keys}
    return own | SHAPES


def resolve_shape(name: str) -> str:
    """The name of a shape: of one called so, or of the function at an import path, which `register_shape` made one.

    Raises:
        ValueError: There is no such shape.
    """
    if name in known_shapes():
        return name
    found = imported(name)
    for shape in SHAPES.values():
        if shape.read is found:
            return shape.name
    known = ", ".join(known_shapes())
    raise ValueError(
        f"format: found {name!r}; expected one of {known}, or the import path of a function under register_shape"
    )


# ------------------------------------------------------------------------------------------ the shapes


def _filled_robustlm(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "instruction" not in row or not lacks(row, "target") or {"input", "output", "adv_instruction"} & set(row):
        return None
    choices = row.get("choices")
    return {**row, "target": choices[0] if isinstance(choices, list | tuple) and choices else _FILLER}


def _filled_alpaca(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "instruction" not in row or not lacks(row, "output") or {"adv_instruction", "target"} & set(row):
        return None
    return {**row, "output": _FILLER} if {"input", "output"} & set(row) else None


def _filled_messages(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    turns = row.get("messages")
    if not isinstance(turns, list | tuple) or not turns or not isinstance(turns[-1], Mapping):
        return None
    return {**row, "messages": [*turns, _REPLY]} if turns[-1].get("role") == "user" else None


_REPLY = {"role": "assistant", "content": _FILLER}


@register_shape("robustlm", needs=("instruction", "target"), answer=_filled_robustlm)
def read_robustlm(row: Mapping[str, Any], id: str) -> Sample:
    """Fields named as in `Sample`; the context an object, a string (its text), or its parts as fields."""
    sample = Sample(
        id,
        instruction=optional(row, "instruction").strip(),
        target=required(row, "target").strip(),
        context=_context_of(row),
        task=optional(row, "task") or "generation",
        bank=optional(row, "bank"),
        variant=optional(row, "variant").strip() or None,
        dataset=_name_in(row, "dataset"),
        fields=_fields_of(row),
        group=_name_in(row, "group"),
        turns=_turns_of(row),
    )
    if row.get("choices") is None:
        return sample
    choices = tuple(choice.strip() for choice in elements(row, "choices", str, "a list of strings"))
    if sample.target not in choices:
        raise ValueError(f"target not among choices: found {sample.target!r}; expected one of {choices!r}")
    check_choices(choices, sample.target)
    return replace(sample, choices=choices)


def _name_in(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return str(value) if isinstance(value, int) else optional(row, key).strip()


def _fields_of(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    given = row.get("fields")
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise ValueError(f"fields is no object: found {shown(given)}; expected an object of texts by name")
    if unusable := [name for name in given if not str(name).isidentifier()]:
        raise ValueError(f"unusable field: found the name {unusable[0]!r}; expected letters, digits and _")
    # Parquet fills in the fields that other rows have
    return tuple((str(name), optional(given, name)) for name, text in given.items() if text is not None)


def robustlm_row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of the `robustlm` shape, from which `read_robustlm` makes the same sample.

    Only `instruction_id` is left out: the row's instruction is its own from now on.
    """
    context = {part: text for part in _PARTS if (text := getattr(sample.context, part))}
    row: dict[str, Any] = {"id": sample.id, "instruction": sample.instruction}
    optional_parts = {
        "turns": [{"role": role, "content": text} for role, text in sample.turns],
        "variant": sample.variant,
        "context": context,
        "fields": dict(sample.fields),
        "choices": list(sample.choices),
    }
    row |= {key: value for key, value in optional_parts.items() if value}
    row |= {"target": sample.target, "task": sample.task}
    names = {"dataset": sample.dataset, "bank": sample.bank, "group": sample.group}
    return row | {key: value for key, value in names.items() if value}


_PARTS = tuple(part.name for part in fields(Context))


def _context_of(row: Mapping[str, Any]) -> Context:
    context = row.get("context")
    flat = [key for key in _PARTS if row.get(key) is not None]
    if context is None:
        return Context(**{key: optional(row, key) for key in flat})
    if flat:
        found = f"context and {', '.join(flat)} beside it"
        raise ValueError(f"two contexts: found {found}; expected either `context` or its parts")
    if isinstance(context, str):
        return Context(text=context)
    if not isinstance(context, Mapping):
        raise ValueError(f"context is no object: found {shown(context)}; expected a string or an object")
    if unknown := sorted(set(context) - set(_PARTS)):
        raise ValueError(f"unknown part of context: found {', '.join(unknown)}; expected {', '.join(_PARTS)}")
    return Context(**{key: optional(context, key) for key in context})


@register_shape("anit", needs=("instruction", "adv_instruction", "output"), answer="output")
def read_anit(row: Mapping[str, Any], id: str) -> Sample:
    """Rows as released with [ANIT]; the noisy instruction that comes with a row is its variant."""
    parts = {key: optional(row, key) for key in ("question", "format", "option")}
    return Sample(
        id,
        instruction=required(row, "instruction").strip(),
        target=required(row, "output").strip(),
        context=Context(**parts, text=optional(row, "input")),
        variant=optional(row, "adv_instruction").strip() or None,
    )


@register_shape("alpaca", needs=("instruction", "output"), unless=("adv_instruction",), answer=_filled_alpaca)
def read_alpaca(row: Mapping[str, Any], id: str) -> Sample:
    """Alpaca rows; `input` may be empty or missing."""
    return Sample(
        id,
        instruction=required(row, "instruction").strip(),
        target=required(row, "output").strip(),
        context=Context(text=optional(row, "input")),
    )


@register_shape("completion", needs=("prompt", "completion"), answer="completion")
def read_completion(row: Mapping[str, Any], id: str) -> Sample:
    """A prompt, taken as the instruction, and its completion."""
    return Sample(
        id,
        instruction=required(row, "prompt").strip(),
        target=required(row, "completion").strip(),
    )


@register_shape("coin", needs=("original_instruction", "paraphrased_instruction", "targets"), answer="targets")
def read_coin(row: Mapping[str, Any], id: str) -> Sample:
    """Rows as released with [CoIN]: two whole prompts that differ in the phrasing of the instruction alone."""
    return Sample(
        id,
        instruction=required(row, "original_instruction").strip(),
        target=required(row, "targets").strip(),
        variant=required(row, "paraphrased_instruction").strip(),
    )


@register_shape("messages", needs=("messages",), answer=_filled_messages)
def read_messages(row: Mapping[str, Any], id: str) -> Sample:
    """A chat: the last reply is the target, the user's turn before it the instruction, all before that its turns.

    A message of the role `system` or `developer` may come first; an empty one counts as none. After it, user and
    assistant must take turns.
    """
    said = _said(row, "messages")
    chat = said[1:] if said and said[0][0] in SYSTEM_ROLES else said
    if not chat or len(chat) % 2 or not _alternate(chat):
        found = ", ".join(role for role, _ in chat) or "no turns"
        alone = " (`robustlm predict` also takes chats that end with the user)" if chat and len(chat) % 2 else ""
        raise ValueError(f"wrong roles: found {found}; expected user, assistant in turns, the assistant last{alone}")
    *turns, (_, question), (_, reply) = said
    return Sample(id, instruction=question, target=reply, turns=tuple(turns))


def _turns_of(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """What was said before the instruction of a row of robustlm's own shape."""
    if row.get("turns") is None:
        return ()
    said = _said(row, "turns")
    chat = said[1:] if said and said[0][0] in SYSTEM_ROLES else said
    if len(chat) % 2 or not _alternate(chat):
        found = ", ".join(role for role, _ in chat)
        expected = "user, assistant in turns, the assistant last, as the instruction is the user's next turn"
        raise ValueError(f"wrong roles in turns: found {found}; expected {expected}")
    return tuple(said)


def _said(row: Mapping[str, Any], key: str) -> list[Turn]:
    """Role and text of each message, without empty system messages."""
    said = []
    for turn in elements(row, key, Mapping, "a list of objects {role, content}"):
        role = required(turn, "role")
        text = (optional if role in SYSTEM_ROLES else required)(turn, "content").strip()
        if text or role not in SYSTEM_ROLES:
            said.append((role, text))
    return said


def _alternate(chat: Sequence[Turn]) -> bool:
    return all(role == ("user", "assistant")[i % 2] for i, (role, _) in enumerate(chat))


def _task_shape(task: Task) -> Shape:
    def read(row: Mapping[str, Any], id: str) -> Sample:
        context, items, choices = task.read(row)
        return Sample(
            id,
            instruction=optional(row, "instruction").strip(),
            target=task.format(items),
            context=context,
            task=task.name,
            bank=optional(row, "bank"),
            variant=optional(row, "variant").strip() or None,
            choices=choices,
        )

    return Shape(task.name, task.keys, task.recognises, read, task.filled)


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
    read: they then become `Context.option`, and the `choices` of classification. `robustlm.data.sources` reads several
    sources, whose rows share their labels.

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
    own = [name for name in fillable if name in SHAPES and task not in fillable] or list(fillable)
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
