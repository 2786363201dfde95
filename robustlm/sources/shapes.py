"""Shapes of rows: which fields contain instruction, input and target."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from robustlm.instructions.banks import NO_FORMAT
from robustlm.rows.base import RowData
from robustlm.rows.fields import check_choices, elements, lacks, optional, required, shown
from robustlm.sample import SYSTEM_ROLES, Context, Sample, Turn, answer_of
from robustlm.sources.chats import ROLES, TOOL, is_chat, messages_of, reply_of, tools_of
from robustlm.tasks import TASKS, Task
from robustlm.utils.registry import Registry
from robustlm.utils.tool_calls import message_of

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
    return {**row, "messages": [*turns, _REPLY]} if turns[-1].get("role") in ("user", TOOL) else None


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
        since=_since_of(row),
        tools=tools_of(row),
        reply=reply_of(row),
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
        "tools": json.loads(sample.tools or "[]"),
        "turns": [message_of(*turn) for turn in sample.turns],
        "since": [message_of(*turn) for turn in sample.since],
        "reply": json.loads(sample.reply or "{}"),
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
    """A chat: the last reply is the target, the last turn of the user is the instruction, the rest are its turns.

    The first message may have the role `system` or `developer`; it is ignored if it is empty. After it, user and
    assistant must alternate. Between them, the assistant may call tools (`tool_calls`), each time with messages of the
    role `tool` after it; `tools` of the row lists the tools that the chat offers.
    """
    said = messages_of(row, "messages")
    chat = said[1:] if said and said[0][0] in SYSTEM_ROLES else said
    if not chat or chat[-1][0] != "assistant" or not is_chat(chat):
        found = ", ".join(turn[0] for turn in chat) or "no turns"
        alone = " (`robustlm predict` also takes chats that end with the user)"
        alone = alone if chat and chat[-1][0] == "user" and is_chat(chat) else ""
        raise ValueError(f"wrong roles: found {found}; expected {ROLES}, the assistant last{alone}")
    *before, reply = said
    asked = max(at for at, turn in enumerate(before) if turn[0] == "user")
    calls = reply[2] if len(reply) > 2 else ""
    return Sample(
        id,
        instruction=before[asked][1],
        target=answer_of(reply),
        task="tool_calls" if calls else "generation",
        turns=tuple(before[:asked]),
        since=tuple(before[asked + 1 :]),
        tools=tools_of(row),
        reply=calls,
    )


def _turns_of(row: RowData) -> tuple[Turn, ...]:
    """The turns before the instruction of a row of the shape `robustlm`."""
    if row.get("turns") is None:
        return ()
    said = messages_of(row, "turns")
    chat = said[1:] if said and said[0][0] in SYSTEM_ROLES else said
    if chat and (chat[-1][0] != "assistant" or not is_chat(chat) or len(chat[-1]) > 2):
        found = ", ".join(turn[0] for turn in chat)
        expected = f"{ROLES}, the assistant last, as the instruction is the user's next turn"
        raise ValueError(f"wrong roles in turns: found {found}; expected {expected}")
    return tuple(said)


def _since_of(row: RowData) -> tuple[Turn, ...]:
    """The turns after the instruction of a row of the shape `robustlm`."""
    if row.get("since") is None:
        return ()
    said = messages_of(row, "since")
    if said and (said[-1][0] != TOOL or not is_chat([("user", ""), *said])):
        found = ", ".join(turn[0] for turn in said)
        raise ValueError(f"wrong roles in since: found {found}; expected an assistant that calls tools, then tool, …")
    return tuple(said)


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
