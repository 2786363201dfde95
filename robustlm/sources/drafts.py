"""Turn a row into a draft of its sample: shape, labels, bank and slots are resolved, options are still unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from robustlm.instructions.banks import NO_FORMAT, known_banks, load_bank
from robustlm.instructions.slots import CASED, CASES, CONTENT, OPTIONS, is_slotted, option_lines, slots
from robustlm.rows.base import RowData
from robustlm.rows.fields import optional, required, shown
from robustlm.sample import Sample
from robustlm.sources.recognition import shape_of
from robustlm.sources.shapes import Shape, known_shapes, resolve_shape
from robustlm.sources.unshown import Read
from robustlm.tasks import TASKS, resolve_task
from robustlm.tasks.labels import Labels, quoted

_LETTERED = re.compile(r"choice([A-Z])")
"""A slot for one choice, as InstructionEval's templates name it (`{choiceA}`)."""
_LATER = "\0"
"""Placeholder for options that are known only after all rows are read; no text field can have this value."""


@dataclass(slots=True)
class Draft:
    """A row's sample before the labels of its source are known.

    `settled` builds the sample from it, once. The fields other than `read` are the fields of `Sample` that a source's
    settings may change.
    """

    read: Sample
    """The sample as the row's shape reads it."""
    task: str
    target: str
    variant: str | None
    bank: str
    instruction: str
    fields: tuple[tuple[str, str], ...]
    """See `Sample.fields`; a placeholder stands for options that are not yet known."""
    topic: str
    format: str
    """See `Context.format`."""
    labelled: bool
    """Whether the row has a task's own shape. It then still lacks options, choices and bank."""
    lacking: dict[str, str]
    """Placeholders of the bank that the row has no text for, and why the row is bad if another row has one."""

    def labels(self) -> set[str]:
        """The labels in its answer; empty if its task has no labels."""
        task = TASKS[self.task]
        return {item[0] for item in task.parse(self.target).items} if self.labelled and task.labelled else set()

    def settled(self, labels: Sequence[str], dataset: str) -> Sample:
        """Build the sample.

        Args:
            labels: All labels of its task, in the order in which they are shown.
            dataset: Data set name for rows without one.
        """
        task, context, choices, bank = TASKS[self.task], self.read.context, self.read.choices, self.bank
        if self.format != context.format:
            context = replace(context, format=self.format)
        if self.labelled:
            if task.labelled:
                context = replace(context, option=", ".join(map(quoted, labels)))
                if task.score == "accuracy":
                    choices = tuple(task.format([(label,)]) for label in labels)
            bank = bank if self.instruction or bank else task.bank(context, labels)
        fields = self.fields
        if (OPTIONS, _LATER) in fields:
            lines = option_lines(choices)
            fields = tuple((name, lines if text == _LATER else text) for name, text in fields)
        return replace(
            self.read,
            task=self.task,
            target=self.target,
            context=context,
            variant=self.variant,
            bank=bank,
            instruction=self.instruction,
            fields=fields,
            topic=self.topic,
            choices=choices,
            dataset=self.read.dataset or dataset,
        )


class Drafter:
    """Makes drafts from the rows of a source.

    Args:
        format: See `robustlm.sources.samples.load_samples`.
        task: See `load_samples`.
        bank: See `load_samples`.
        fields: See `load_samples`.
        topic: See `load_samples`.
        labels: Names of the labels; null: the rows contain the names.
        answered: Whether to refuse rows without an answer; if false, their drafts have an empty target.

    Raises:
        ValueError: `format`, `task`, `bank` or `fields` is unknown.
    """

    def __init__(
        self,
        *,
        format: str | None = None,
        task: str | None = None,
        bank: str | None = None,
        fields: Mapping[str, str] | None = None,
        topic: str | None = None,
        labels: Labels | None = None,
        answered: bool = True,
    ) -> None:
        self.task = task and resolve_task(task)
        self._stated = format == NO_FORMAT
        self._format = None if self._stated else format and resolve_shape(format)
        self._bank = bank
        self._slots = bank_slots(bank, fields) if bank else []
        if bank and labels is None and load_bank(bank).has_answers:
            raise ValueError(
                f"labels: found none; expected all labels of the rows in the order of the published dataset (such as "
                f"[not_duplicate, duplicate]), as the templates of {bank} name their answers by the labels' numbers"
            )
        self._keys = fields or {}
        self._topic = topic
        self._labels = labels
        self._answered = answered
        self._shapes = known_shapes()

    def draft(self, row: RowData, id: str) -> tuple[Draft, Read]:
        """The draft of a row, and the row as a `Read`, which records the keys that were read.

        Raises:
            ValueError: The row cannot be used; the message says what was found and what was expected.
        """
        shape, filled = shape_of(row, self._shapes, self._format, self.task, answered=self._answered)
        data = Read(row if filled else _named(row, shape, self._labels))
        sample = shape.read(_Filled(data, filled) if filled else data, id)
        task, target = self._checked(sample, "" if filled else sample.target)
        variant = sample.variant if sample.variant is not None else optional(data, "variant") or None
        lacking: dict[str, str] = {}
        bank, instruction, fields = self._asked(sample, data, shape, lacking)
        form = sample.context.format
        if self._stated or (bank and not instruction and load_bank(bank).states_format):
            task, target, form = _without_format(sample, task, target, shape)
        topic = required(data, self._topic).strip() if self._topic else sample.topic
        if not (instruction or bank or shape.name in TASKS):
            raise ValueError("empty instruction: found no text; expected some, or a `bank` to take it from")
        labelled = shape.name in TASKS
        return Draft(sample, task, target, variant, bank, instruction, fields, topic, form, labelled, lacking), data

    def slotted(self, draft: Draft) -> set[str] | None:
        """The keys that fill placeholders, if every possible phrasing for the row has placeholders; null otherwise."""
        names = tuple(name for name, _ in draft.fields)
        if draft.instruction or not (draft.bank and names and _all_slotted(draft.bank, names)):
            return None
        return {self._keys.get(name, name) for name in names}

    def left_out(self, unfilled: set[str]) -> tuple[list[str], set[str]]:
        """Leave out the bank's templates that no row has the texts for, if the bank has others.

        Args:
            unfilled: Placeholders that no row of the source can fill.

        Returns:
            A message for each template that is left out, and the placeholders of those templates. A row that lacks a
            text for another placeholder is bad, see `unfillable`.
        """
        known = load_bank(self._bank).instructions if self._bank and unfilled else ()
        left_out = [(one, name) for one in known if (name := next((n for n in slots(one.text) if n in unfilled), None))]
        if len(left_out) == len(known):
            return [], set()
        notes = [
            f"left out the template {one.id} of {self._bank}, as no row has a text for its placeholder {{{name}}} "
            f"({shown(one.text)})"
            for one, name in left_out
        ]
        return notes, unfilled

    def _checked(self, sample: Sample, target: str) -> tuple[str, str]:
        """Task and target of a sample. Raises `ValueError` if the task cannot read its answers."""
        if self.task is not None and sample.task not in (self.task, "generation"):
            raise ValueError(f"another task: found a row of task {sample.task!r}; expected {self.task!r}, as asked for")
        task = self.task or sample.task
        if task not in TASKS:
            raise ValueError(f"unknown task: found {task!r}; expected one of {', '.join(TASKS)}")
        for what, text in (("target", target), *(("choice", choice) for choice in sample.choices)):
            if (text or what == "choice") and not TASKS[task].parse(text).parsed:
                found = f"found {shown(text)}; expected an answer that the task {task!r} can read"
                bare = TASKS[task].bare
                if bare and TASKS[bare].parse(text).parsed:
                    found += f", or the task {bare!r}, which reads this one"
                raise ValueError(f"unreadable {what}: {found}")
        return task, target

    def _asked(
        self, sample: Sample, row: RowData, shape: Shape, lacking: dict[str, str]
    ) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """Bank, instruction and fields for the prompts of a sample; adds the placeholders without a text to `lacking`.

        If the row itself names its bank, braces in the phrasings are literal text, unless the row has a field for one
        of them.
        """
        bank, slots, keys = self._bank, self._slots, self._keys
        if not bank:
            bank, keys = sample.bank, {}
            if bank:
                _check_own_bank(bank)
                slots = load_bank(bank).slots
            if not bank or sample.instruction or not any(slot in dict(sample.fields) or slot in row for slot in slots):
                return bank, sample.instruction, sample.fields
        fields = []
        for slot in slots:
            try:
                fields.append((slot, _slot(slot, sample, row, keys, shape)))
            except _NoTextError as error:
                lacking[slot] = str(error)
        return bank, "", tuple(fields)


def unfillable(lacking: Mapping[str, str], unfilled: set[str]) -> str | None:
    """The problem of a row that lacks texts for placeholders (`Draft.lacking`); null if all those are `unfilled`."""
    return next((why for name, why in lacking.items() if name not in unfilled), None)


class _Filled(Read):
    """A row with a filler answer added. Keys read here count as read in the original row."""

    def __init__(self, row: Read, filled: RowData) -> None:
        super().__init__(filled)
        self.read = row.read


def _without_format(sample: Sample, name: str, target: str, shape: Shape) -> tuple[str, str, str]:
    """Task, target and format of a sample whose instruction states the answer's format: the answer is bare."""
    task = TASKS.get(shape.name)
    if task is None:
        if sample.context.format:
            found = f"a row of the shape {shape.name!r} with a format of its own ({shown(sample.context.format)})"
            raise ValueError(f"format none: found {found}; expected rows without one, or leave `format: none` out")
        return name, target, ""
    if not task.bare:
        form = f"a row of the task {task.name!r}, whose answers can only be read in the form {sample.context.format!r}"
        raise ValueError(f"format none: found {form}; leave `format: none` out, so that prompts state it")
    bare = TASKS[task.bare]
    return bare.name, bare.format(task.parse(target).items) if target else "", ""


@lru_cache
def _all_slotted(bank: str, names: tuple[str, ...]) -> bool:
    return all(is_slotted(instruction.text, names) for instruction in load_bank(bank).instructions)


def _named(row: RowData, shape: Shape, labels: Labels | None) -> RowData:
    """The row with label values replaced by their names."""
    if labels is None:
        return row
    if shape.name not in TASKS:
        found = f"found them for a row of the shape {shape.name!r}, whose answers are used as they are"
        raise ValueError(f"labels: {found}; expected rows of a task's own shape, or none")
    return TASKS[shape.name].named(row, labels)


@lru_cache
def _check_own_bank(name: str) -> None:
    """Raise `ValueError` if a row names a file as its bank, since data must not decide which files are opened."""
    if ".json" in name or name not in known_banks():
        raise ValueError(
            f"bank: found {shown(name)}; a row names a packaged bank ({', '.join(known_banks())}), and a file is named "
            "by a config: data.bank, or the bank of a source"
        )


def bank_slots(bank: str, fields: Mapping[str, str] | None) -> list[str]:
    """The placeholders in a bank's phrasings.

    Raises:
        ValueError: The bank does not exist, or `fields` names a placeholder that it does not have.
    """
    slots = load_bank(bank).slots
    if unknown := [name for name in fields or {} if name not in slots]:
        known = ", ".join(slots) or "none, as its phrasings have no {placeholders}"
        raise ValueError(f"fields: found {unknown[0]!r}; expected placeholders of the bank {bank}: {known}")
    return slots


class _NoTextError(ValueError):
    """A row has no text for a placeholder."""


def _slot(slot: str, sample: Sample, row: RowData, keys: Mapping[str, str], shape: Shape) -> str:
    base, _, case = slot.rpartition(CASED)
    if base and case in CASES and slot not in keys and slot not in row:
        return CASES[case](_slot(base, sample, row, keys, shape))
    key = keys.get(slot, slot)
    inner = [part for name in ("context", "target") if isinstance(part := row.get(name), Mapping)]
    places = [dict(sample.fields), row, *inner]
    value = next((place[key] for place in places if place.get(key) is not None), None)
    if value is None and slot == OPTIONS and slot not in keys:
        if sample.choices:
            return option_lines(sample.choices)
        task = TASKS.get(shape.name)
        if task is not None and task.labelled and task.score == "accuracy":
            return _LATER
    if value is None and slot not in keys and (lettered := _LETTERED.fullmatch(slot)):
        at = ord(lettered[1]) - ord("A")
        value = sample.choices[at] if at < len(sample.choices) else None
    if value is None and slot == CONTENT and slot not in keys:
        value = "\n".join(part for part in (sample.context.question, sample.context.text) if part) or None
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return option_lines(value) if slot == OPTIONS else " ".join(value)
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return str(value).strip()
    if value is not None:
        raise ValueError(f"{key} is no text: found {shown(value)}; expected text for the placeholder {{{slot}}}")
    found = f"found keys {', '.join(map(str, row))}"
    if slot == OPTIONS and slot not in keys:
        raise _NoTextError(
            f"no field for {{{slot}}}: {found}, and no choices; expected choices, or a key named by `fields`"
        )
    raise _NoTextError(
        f"no field for {{{slot}}}: {found}; expected {key!r} among them, or another key named by `fields` of the source"
    )
