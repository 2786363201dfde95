"""Base of prompt templates: prompts that record the origin of each part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from robustlm.batch import Message, messages_in
from robustlm.instructions.slots import OPTIONS, is_slotted, pieces
from robustlm.sample import Context, Sample

PARTS = ("question", "format", "option", "text")
HEADS = {"question": "Question: ", "format": "Format: ", "option": "Options: ", "text": "Text: "}
"""Label before each part if a prompt shows more than one part."""


class Origin(IntEnum):
    """Where a piece of a prompt comes from."""

    SCAFFOLD = 0
    """Words of the template itself (`Instruction:`, `Answer:`)."""
    INSTRUCTION = 1
    CONTEXT = 2
    SPECIAL = 3
    """Special tokens of the tokenizer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as a chat template writes it, after the prompt."""

    text: str
    given: tuple[tuple[int, int], ...]
    """`(start, end)` of the pieces that come from the row."""
    end: str
    """The special token that ends it; empty: the tokenizer's end token."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt."""

    text: str
    spans: tuple[tuple[int, int, Origin], ...]
    """`(start, end, origin)` of every non-scaffold piece, in characters, in order, not overlapping."""
    answer_prefix: str
    """Text between the prompt and the answer (white space, or nothing)."""
    add_special_tokens: bool = True
    """Whether the tokenizer adds its own special tokens; false where the template wrote them."""
    given: tuple[tuple[int, int], ...] = ()
    """`(start, end)` of every piece that the template did not write: instructions, rows, examples and their answers."""
    chat: tuple[tuple[str, int, int], ...] = ()
    """`(role, start, end)` of the content of every message of a chat, in the order in which they were said; empty for
    templates that write no chat."""
    replies: tuple[tuple[int, int], ...] = ()
    """`(start, end)` of the earlier replies of a chat that are trained (`Sample.trains_replies`), each with the token
    that ends it."""

    answer_end: str = ""
    """The special token that ends the answer, as the chat template writes it; empty: the tokenizer's end token."""
    fields: tuple[str, ...] = ()
    """For each message of `chat`, its other fields as JSON, or nothing; empty if no message has any."""
    tools: str = ""
    """The tools that the chat offers, as a JSON list; empty: none."""
    reply: Reply | None = None
    """The answer, where the template writes more than the target's text: calls of tools."""

    @property
    def messages(self) -> list[Message] | None:
        """The messages of a chat as `{role, content, …}`; null for templates that write no chat."""
        return messages_in(self.text, self.chat, self.fields)


class Writer:
    """Builds a prompt piece by piece."""

    def __init__(self) -> None:
        self.text = ""
        self.spans: list[tuple[int, int, Origin]] = []
        self.given: list[tuple[int, int]] = []
        self.chat: list[tuple[str, int, int]] = []
        self.replies: list[tuple[int, int]] = []
        self.solved = False
        """Whether an example is being written. The context of an example is never truncated or perturbed."""

    def write(self, piece: str, origin: Origin = Origin.SCAFFOLD, *, given: bool = False) -> None:
        """Write a piece; `given` marks scaffold text that comes from the row (options, answers of examples)."""
        start = len(self.text)
        if piece and (given or origin is not Origin.SCAFFOLD):
            self.given.append((start, start + len(piece)))
        if self.solved and origin is Origin.CONTEXT:
            origin = Origin.SCAFFOLD
        self.text += piece
        if piece and origin is not Origin.SCAFFOLD:
            self.spans.append((start, len(self.text), origin))

    def end_once(self, cue: str, start: int) -> None:
        """Keep one cue at the end if the template wrote `cue` right after an instruction that itself ends with it.

        Published templates with slots often end with `Answer:`. The prompt then ends like that of an instruction
        without slots, and not with `Answer: Answer:`.

        Args:
            cue: The last word of the template, such as `Answer:`.
            start: Where the prompt of this row begins in the text.
        """
        body = self.text[: -len(cue)].rstrip()
        ends = self.spans and self.spans[-1][1] == len(body) and self.spans[-1][2] is Origin.INSTRUCTION
        if ends and len(body) > start and body.casefold().endswith(cue.casefold()):
            self.text = body

    def append(self, other: Writer) -> None:
        """Append the text and spans of another writer."""
        offset = len(self.text)
        self.text += other.text
        self.spans += [(start + offset, end + offset, origin) for start, end, origin in other.spans]
        self.given += [(start + offset, end + offset) for start, end in other.given]

    def say(self, role: str, message: Writer) -> None:
        """Append a message of a chat."""
        start = len(self.text)
        self.append(message)
        self.chat.append((role, start, len(self.text)))

    def strip(self) -> None:
        """Remove white space from both ends, and adjust the spans."""
        start, end = len(self.text) - len(self.text.lstrip()), len(self.text.rstrip())
        self.text = self.text.strip()
        cut = [(max(a, start) - start, min(b, end) - start, origin) for a, b, origin in self.spans]
        self.spans = [(a, b, origin) for a, b, origin in cut if a < b]
        given = [(max(a, start) - start, min(b, end) - start) for a, b in self.given]
        self.given = [(a, b) for a, b in given if a < b]

    def prompt(self, answer_prefix: str, *, add_special_tokens: bool = True, answer_end: str = "") -> Prompt:
        """The prompt as written so far; `answer_prefix` stands before the answer, `answer_end` after it."""
        return Prompt(
            self.text,
            tuple(self.spans),
            answer_prefix,
            add_special_tokens,
            tuple(self.given),
            tuple(self.chat),
            tuple(self.replies),
            answer_end,
        )


class Template(ABC):
    """Renders a sample under a given instruction.

    If the instruction has slots (`{premise} … {hypothesis}`) for fields of the sample, they are filled. The context is
    then part of the instruction and is not written again.

    A sample's examples come before it, each with its answer. The instruction is written once, followed by the input of
    each example. If the instruction has slots, or examples have instructions of their own, each example is a whole
    prompt.

    The earlier turns of a chat come first, each with its role. Like examples, they are never truncated or perturbed.
    A template that can tell where a model's own tokens stand in earlier replies gives `Prompt.replies`.
    """

    parts: tuple[str, ...] = PARTS
    """The parts of a context that this template writes."""
    notes: Sequence[str] = ()
    """What a user should know about the prompts that this template writes, a line each."""

    def hides(self, sample: Sample) -> list[str]:
        """The non-empty parts of a sample's context, other than `format`, that this template leaves out."""
        if is_slotted(sample.instruction, dict(sample.fields)):
            return []
        return [part for part in PARTS if part not in ("format", *self.parts) and getattr(sample.context, part)]

    @abstractmethod
    def render(self, sample: Sample, instruction: str) -> Prompt:
        """The prompt for `sample` when asked with `instruction`."""


def asked_of(one: Sample, sample: Sample, instruction: str) -> str:
    """The instruction for `one`, which is the sample itself or one of its examples."""
    return one.instruction if one is not sample and one.instruction else instruction


def are_whole(sample: Sample, instruction: str) -> bool:
    """Whether each example has an instruction of its own in the prompt; true for samples without examples."""
    if not sample.examples or any(example.instruction for example in sample.examples):
        return True
    return is_slotted(instruction, dict(sample.fields))


def remaining(sample: Sample, instruction: str) -> Context:
    """The context to write after an instruction: all of it, or none if the instruction has slots."""
    return Context() if is_slotted(instruction, dict(sample.fields)) else sample.context


def write_instruction(out: Writer, sample: Sample, instruction: str) -> Context:
    """Write an instruction with filled slots, and return the context that remains to be written."""
    fields = dict(sample.fields)
    for literal, name in pieces(instruction, fields):
        out.write(literal, Origin.INSTRUCTION)
        if name is not None:
            # options are never truncated or perturbed
            out.write(fields[name], Origin.SCAFFOLD if name == OPTIONS else Origin.CONTEXT, given=True)
    return remaining(sample, instruction)


def write_turns(out: Writer, sample: Sample, head: str = "{}: ") -> None:
    """Write the earlier turns of a chat, each after its role.

    Raises:
        ValueError: The chat has to do with tools, which only chat templates write.
    """
    if sample.uses_tools or any(one.uses_tools for one in sample.examples):
        raise ValueError(
            f"{sample.id}: data.template: found a template that writes no chat, for a chat with tools; expected chat"
        )
    for role, text, *_ in sample.turns:
        out.write(head.format(role.capitalize()))
        out.write(text, given=True)
        out.write("\n\n")


def filled(context: Context) -> list[str]:
    """The parts of a context that are not empty."""
    return [value for part in PARTS if (value := getattr(context, part))]


def write_joined(out: Writer, context: Context) -> None:
    """Write the non-empty parts of a context, one per line, with their names if there are several."""
    named = len(filled(context)) > 1
    blank = ""
    for part in PARTS:
        if value := getattr(context, part):
            out.write(blank + (HEADS[part] if named else ""))
            out.write(value, Origin.CONTEXT)
            blank = "\n"
