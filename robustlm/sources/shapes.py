"""Shapes of rows: which fields contain instruction, input and target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from robustlm.instructions.banks import NO_FORMAT
from robustlm.rows.base import RowData
from robustlm.rows.fields import check_choices, elements, lacks, optional, required, shown
from robustlm.sample import SYSTEM_ROLES, Context, Sample, Turn
from robustlm.tasks import TASKS, Task
from robustlm.utils.registry import Registry

ReadRow = Callable[[RowData, str], Sample]
"""Makes a sample from a row and the sample's id; raises `ValueError` for an unusable row."""


FillRow = Callable[[RowData], RowData | None]
"""Adds a filler answer to a row without one, so that the row can be read; returns null for other rows."""
_FILLER = "-"
"""Filler for the missing answer while a row is read."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One layout of rows."""

    name: str
    """Key in `SHAPES`, and value for `format=`."""
    keys: str
    """The keys of this shape, as text for messages."""
    recognises: Callable[[RowData], bool]
    """Whether a row has this shape, judged by its keys."""
    read: ReadRow
    """Turns a row into a sample."""
    filled: FillRow = lambda row: None
    """Adds a filler answer to a row of this shape without one; returns null for other rows."""


SHAPES: Registry[Shape] = Registry("shape", "the import path of a function under register_shape", (NO_FORMAT,))
"""Registered shapes by name, without the shapes of `TASKS`; `register_shape` adds to them."""


def register_shape(
    name: str, needs: tuple[str, ...], unless: tuple[str, ...] = (), answer: str | FillRow | None = None
) -> Callable[[ReadRow], ReadRow]:
    """Decorator: register a function that reads rows as a shape.

    Args:
        name: Value for `format=`.
        needs: Keys that a row must have to be recognised.
        unless: Keys that a row must not have.
        answer: The key in `needs` that is the answer, so that `robustlm predict` accepts rows without it. Or a function
            that adds a filler answer to a row without one. Null: every row must have an answer.

    Raises:
        ValueError: The name is taken.

    Example:
        >>> @register_shape("dialogue", needs=("ask", "reply"), answer="reply")
        ... def read_dialogue(row, id):
        ...     return Sample(id, instruction=row["ask"], target=row["reply"])
        >>> read_dialogue({"ask": "Greet me.", "reply": "Hello."}, "greetings:1").target
        'Hello.'
    """
    SHAPES.check_free(name, TASKS)

    def add(read: ReadRow) -> ReadRow:
        def recognises(row: RowData) -> bool:
            return all(key in row for key in needs) and not any(key in row for key in unless)

        def filled(row: RowData) -> RowData | None:
            if not isinstance(answer, str) or not lacks(row, answer) or any(key in row for key in unless):
                return None
            return {**row, answer: _FILLER} if all(key in row for key in needs if key != answer) else None

        SHAPES.add(name, Shape(name, ", ".join(needs), recognises, read, answer if callable(answer) else filled))
        return read

    return add


def is_registered(name: str) -> bool:
    """Whether `register_shape` added a shape with this name; shapes of tasks do not count."""
    return name in SHAPES


def known_shapes() -> dict[str, Shape]:
    """All shapes by name, including those of tasks with their own row shape."""
    own = {name: task_shape(task) for name, task in TASKS.items() if task.keys}
    return own | SHAPES


def resolve_shape(name: str) -> str:
    """The name of a shape, given its name or the import path of a function registered by `register_shape`.

    Raises:
        ValueError: There is no such shape.
    """
    if name in known_shapes():
        return name
    found = SHAPES.found(name)
    for shape in SHAPES.values():
        if shape.read is found:
            return shape.name
    raise ValueError(f"format: found {name!r}; expected {SHAPES.expected(name, known_shapes())}")


# ------------------------------------------------------------------------------------------ the shapes


def _filled_robustlm(row: RowData) -> RowData | None:
    if "instruction" not in row or not lacks(row, "target") or {"input", "output", "adv_instruction"} & set(row):
        return None
    choices = row.get("choices")
    return {**row, "target": choices[0] if isinstance(choices, list | tuple) and choices else _FILLER}


def _filled_alpaca(row: RowData) -> RowData | None:
    if "instruction" not in row or not lacks(row, "output") or {"adv_instruction", "target"} & set(row):
        return None
    return {**row, "output": _FILLER} if {"input", "output"} & set(row) else None


def _filled_messages(row: RowData) -> RowData | None:
    turns = row.get("messages")
    if not isinstance(turns, list | tuple) or not turns or not isinstance(turns[-1], Mapping):
        return None
    return {**row, "messages": [*turns, _REPLY]} if turns[-1].get("role") == "user" else None


_REPLY = {"role": "assistant", "content": _FILLER}


@register_shape("robustlm", needs=("instruction", "target"), answer=_filled_robustlm)
def read_robustlm(row: RowData, id: str) -> Sample:
    """Rows with fields as in `Sample`; the context is an object, a string (its text), or separate fields."""
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


def _name_in(row: RowData, key: str) -> str:
    value = row.get(key)
    return str(value) if isinstance(value, int) else optional(row, key).strip()


def _fields_of(row: RowData) -> tuple[tuple[str, str], ...]:
    given = row.get("fields")
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise ValueError(f"fields is no object: found {shown(given)}; expected an object of texts by name")
    if unusable := [name for name in given if not str(name).isidentifier()]:
        raise ValueError(f"unusable field: found the name {unusable[0]!r}; expected letters, digits and _")
    # Parquet adds empty values for fields that only other rows have
    return tuple((str(name), optional(given, name)) for name, text in given.items() if text is not None)


def robustlm_row(sample: Sample) -> dict[str, Any]:
    """A sample as a row of the `robustlm` shape, from which `read_robustlm` makes the same sample.

    Only `instruction_id` is omitted, because the instruction now belongs to the row.
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


def _context_of(row: RowData) -> Context:
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
def read_anit(row: RowData, id: str) -> Sample:
    """Rows in the format of the [ANIT] release; the noisy instruction in a row becomes its variant."""
    parts = {key: optional(row, key) for key in ("question", "format", "option")}
    return Sample(
        id,
        instruction=required(row, "instruction").strip(),
        target=required(row, "output").strip(),
        context=Context(**parts, text=optional(row, "input")),
        variant=optional(row, "adv_instruction").strip() or None,
    )


@register_shape("alpaca", needs=("instruction", "output"), unless=("adv_instruction",), answer=_filled_alpaca)
def read_alpaca(row: RowData, id: str) -> Sample:
    """Alpaca rows; `input` may be empty or missing."""
    return Sample(
        id,
        instruction=required(row, "instruction").strip(),
        target=required(row, "output").strip(),
        context=Context(text=optional(row, "input")),
    )


@register_shape("completion", needs=("prompt", "completion"), answer="completion")
def read_completion(row: RowData, id: str) -> Sample:
    """A prompt, which becomes the instruction, and its completion."""
    return Sample(
        id,
        instruction=required(row, "prompt").strip(),
        target=required(row, "completion").strip(),
    )


@register_shape("coin", needs=("original_instruction", "paraphrased_instruction", "targets"), answer="targets")
def read_coin(row: RowData, id: str) -> Sample:
    """Rows in the format of the [CoIN] release: two whole prompts that differ only in the instruction's phrasing."""
    return Sample(
        id,
        instruction=required(row, "original_instruction").strip(),
        target=required(row, "targets").strip(),
        variant=required(row, "paraphrased_instruction").strip(),
    )


@register_shape("messages", needs=("messages",), answer=_filled_messages)
def read_messages(row: RowData, id: str) -> Sample:
    """A chat: the last reply is the target, the user's turn before it is the instruction, the rest are its turns.

    The first message may have the role `system` or `developer`; it is ignored if it is empty. After it, user and
    assistant must alternate.
    """
    said = _said(row, "messages")
    chat = said[1:] if said and said[0][0] in SYSTEM_ROLES else said
    if not chat or len(chat) % 2 or not _alternate(chat):
        found = ", ".join(role for role, _ in chat) or "no turns"
        alone = " (`robustlm predict` also takes chats that end with the user)" if chat and len(chat) % 2 else ""
        raise ValueError(f"wrong roles: found {found}; expected user, assistant in turns, the assistant last{alone}")
    *turns, (_, question), (_, reply) = said
    return Sample(id, instruction=question, target=reply, turns=tuple(turns))


def _turns_of(row: RowData) -> tuple[Turn, ...]:
    """The turns before the instruction of a row of the shape `robustlm`."""
    if row.get("turns") is None:
        return ()
    said = _said(row, "turns")
    chat = said[1:] if said and said[0][0] in SYSTEM_ROLES else said
    if len(chat) % 2 or not _alternate(chat):
        found = ", ".join(role for role, _ in chat)
        expected = "user, assistant in turns, the assistant last, as the instruction is the user's next turn"
        raise ValueError(f"wrong roles in turns: found {found}; expected {expected}")
    return tuple(said)


def _said(row: RowData, key: str) -> list[Turn]:
    """Role and text of each message, without empty system messages."""
    said = []
    turns = elements(row, key, Mapping, "a list of objects {role, content}")  # type: ignore[type-abstract]  # isinstance takes it
    for turn in turns:
        role = required(turn, "role")
        if turn.get("tool_calls"):
            found = f"tool_calls in a message of {shown(role)}"
            raise ValueError(f"calls of tools: found {found}; expected messages of text alone")
        text = (optional if role in SYSTEM_ROLES else required)(turn, "content").strip()
        if text or role not in SYSTEM_ROLES:
            said.append((role, text))
    return said


def _alternate(chat: Sequence[Turn]) -> bool:
    return all(role == ("user", "assistant")[i % 2] for i, (role, _) in enumerate(chat))


def task_shape(task: Task) -> Shape:
    """The shape of rows with a task's own fields."""

    def read(row: RowData, id: str) -> Sample:
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
