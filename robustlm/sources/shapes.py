"""Shapes of rows: which fields hold instruction, input and target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from robustlm.instructions.banks import NO_FORMAT
from robustlm.rows.fields import check_choices, elements, lacks, optional, required, shown
from robustlm.sample import SYSTEM_ROLES, Context, Sample, Turn
from robustlm.tasks import TASKS, Task
from robustlm.utils.registry import Registry

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


SHAPES: Registry[Shape] = Registry("shape", "the import path of a function under register_shape", (NO_FORMAT,))
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
    SHAPES.check_free(name, TASKS)

    def add(read: ReadRow) -> ReadRow:
        def recognises(row: Mapping[str, Any]) -> bool:
            return all(key in row for key in needs) and not any(key in row for key in unless)

        def filled(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
            if not isinstance(answer, str) or not lacks(row, answer) or any(key in row for key in unless):
                return None
            return {**row, answer: _FILLER} if all(key in row for key in needs if key != answer) else None

        SHAPES.add(name, Shape(name, ", ".join(needs), recognises, read, answer if callable(answer) else filled))
        return read

    return add


def is_registered(name: str) -> bool:
    """Whether a shape was registered under a name; the shapes of tasks are not."""
    return name in SHAPES


def known_shapes() -> dict[str, Shape]:
    """All shapes by name, those of tasks with a row shape of their own included."""
    own = {name: task_shape(task) for name, task in TASKS.items() if task.keys}
    return own | SHAPES


def resolve_shape(name: str) -> str:
    """The name of a shape: of one called so, or of the function at an import path, which `register_shape` made one.

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


def task_shape(task: Task) -> Shape:
    """The shape of rows that hold a task's own fields."""

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
