"""Prompt templates: from a sample and an instruction to the text a model sees, with each piece's origin kept."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from string import Formatter
from typing import Any

from jinja2 import TemplateError

from robustlm.data.limits import TimeLimitError, limited
from robustlm.data.samples import Context, Sample
from robustlm.data.slots import OPTIONS, is_slotted, pieces

log = logging.getLogger(__name__)

PARTS = ("question", "format", "option", "text")
_HEADS = {"question": "Question: ", "format": "Format: ", "option": "Options: ", "text": "Text: "}
"""What stands before a part where a prompt shows more than one."""


class Origin(IntEnum):
    """Where a piece of a prompt comes from."""

    SCAFFOLD = 0
    """Words of the template itself (`Instruction:`, `Answer:`)."""
    INSTRUCTION = 1
    CONTEXT = 2
    SPECIAL = 3
    """Special tokens of the tokenizer."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt."""

    text: str
    spans: tuple[tuple[int, int, Origin], ...]
    """`(start, end, origin)` of every non-scaffold piece, in characters, in order, not overlapping."""
    answer_prefix: str
    """What stands between the prompt and the answer (a space, or nothing)."""
    add_special_tokens: bool = True
    """Whether the tokenizer adds its own special tokens; false where the template wrote them."""
    given: tuple[tuple[int, int], ...] = ()
    """`(start, end)` of every piece that the template did not write: instructions, rows, examples and their answers."""


class _Writer:
    """Builds a prompt piece by piece."""

    def __init__(self) -> None:
        self.text = ""
        self.spans: list[tuple[int, int, Origin]] = []
        self.given: list[tuple[int, int]] = []
        self.solved = False
        """Whether an example is written: its context is no context of the row, and is neither cut nor perturbed."""

    def write(self, piece: str, origin: Origin = Origin.SCAFFOLD, *, given: bool = False) -> None:
        """Write a piece; `given` says that a scaffold is not the template's own (options, answers of examples)."""
        start = len(self.text)
        if piece and (given or origin is not Origin.SCAFFOLD):
            self.given.append((start, start + len(piece)))
        if self.solved and origin is Origin.CONTEXT:
            origin = Origin.SCAFFOLD
        self.text += piece
        if piece and origin is not Origin.SCAFFOLD:
            self.spans.append((start, len(self.text), origin))

    def append(self, other: _Writer) -> None:
        """Write what another has written."""
        offset = len(self.text)
        self.text += other.text
        self.spans += [(start + offset, end + offset, origin) for start, end, origin in other.spans]
        self.given += [(start + offset, end + offset) for start, end in other.given]

    def strip(self) -> None:
        """Take white space off both ends, out of the spans too."""
        start, end = len(self.text) - len(self.text.lstrip()), len(self.text.rstrip())
        self.text = self.text.strip()
        cut = [(max(a, start) - start, min(b, end) - start, origin) for a, b, origin in self.spans]
        self.spans = [(a, b, origin) for a, b, origin in cut if a < b]
        given = [(max(a, start) - start, min(b, end) - start) for a, b in self.given]
        self.given = [(a, b) for a, b in given if a < b]

    def prompt(self, answer_prefix: str, *, add_special_tokens: bool = True) -> Prompt:
        return Prompt(self.text, tuple(self.spans), answer_prefix, add_special_tokens, tuple(self.given))


class Template(ABC):
    """Renders a sample under a given instruction.

    An instruction with slots (`{premise} … {hypothesis}`) for fields of the sample is filled with them. It brings the
    context along then, and the context's parts are not written again.

    A sample's examples come before it, each with its answer: the instruction once, and then what each is applied to.
    Where the instruction brings the context along, or examples have instructions of their own, each is a whole prompt.

    The earlier turns of a chat come first, under their roles. Like examples, they are neither cut nor perturbed.
    """

    parts: tuple[str, ...] = PARTS
    """The parts of a context that it writes."""

    def hides(self, sample: Sample) -> list[str]:
        """The parts of a sample's context that no prompt shows, the answer's format aside."""
        if is_slotted(sample.instruction, dict(sample.fields)):
            return []
        return [part for part in PARTS if part not in ("format", *self.parts) and getattr(sample.context, part)]

    @abstractmethod
    def render(self, sample: Sample, instruction: str) -> Prompt:
        """The prompt for `sample` when asked with `instruction`."""


class PlainTemplate(Template):
    """`Instruction: … Question: … Format: … Option: … Text: … Answer:`; empty parts drop out ([ANIT])."""

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        out = _Writer()
        _write_turns(out, sample)
        whole = _are_whole(sample, instruction)
        if not whole:
            out.write("Instruction: ")
            out.write(instruction, Origin.INSTRUCTION)
            out.write("\n\n")
        for one in (*sample.examples, sample):
            out.solved = one is not sample
            context, blank = one.context, ""
            if whole:
                out.write("Instruction: ")
                context, blank = _write_instruction(out, one, _asked(one, sample, instruction)), " "
            for part in PARTS:
                if value := getattr(context, part):
                    out.write(f"{blank}{part.capitalize()}: ")
                    out.write(value, Origin.CONTEXT)
                    blank = " "
            out.write(f"{blank}Answer:")
            if out.solved:
                out.write(" ")
                out.write(one.target, given=True)
                out.write("\n\n")
        return out.prompt(" ")


class AlpacaTemplate(Template):
    """The headings of Stanford Alpaca, with or without an input section; several parts of an input have names."""

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        out = _Writer()
        whole = _are_whole(sample, instruction)
        out.write(
            "Below is an instruction that describes a task"
            + (
                ", paired with an input that provides further context"
                if _filled(_remaining(sample, instruction))
                else ""
            )
            + ". Write a response that appropriately completes the request.\n\n"
        )
        _write_turns(out, sample, "### {}:\n")
        for i, one in enumerate((*sample.examples, sample)):
            out.solved = one is not sample
            context = one.context
            if whole or i == 0:
                out.write("### Instruction:\n")
                context = _write_instruction(out, one, _asked(one, sample, instruction))
                out.write("\n\n")
            if _filled(context):
                out.write("### Input:\n")
                _write_joined(out, context)
                out.write("\n\n")
            out.write("### Response:\n")
            if out.solved:
                out.write(one.target, given=True)
                out.write("\n\n")
        return out.prompt("")


_MARK = "{{message {}}}"
"""Stands for a message when a chat template is asked what it writes around it."""
_OTHER = "mend chat_template in the tokenizer's folder, or use 'plain', 'alpaca' or a template string"
LONGEST_RENDERING = 10.0
"""Seconds that a chat template may take for one row; usual ones take less than a millisecond."""
_Around = list[tuple[str, int | None]]
"""What a template writes before each message, with the message's number (some put the system message into a later one),
and what after the last, without a number."""
_REWRITTEN = (
    "data.template: the tokenizer's chat template rewrites the user message, so instruction and context cannot be told "
    "apart; use 'plain', 'alpaca' or a template string"
)


class ChatTemplate(Template):
    """The tokenizer's own chat template, with instruction and context as one user message.

    Parts of a context have their names (`Options: …`) where there are several. The earlier turns of a chat keep their
    roles. Examples are turns before these, their answers the assistant's. A template that takes no system message gets
    its text at the start of the first user message. One that takes no turns gets one message, in which the answers of
    examples follow `Answer:`, and the turns of a chat their roles.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "data.template: 'chat' was asked for, but this tokenizer has no chat template; "
                "use 'plain', 'alpaca' or a template string"
            )
        self._tokenizer = tokenizer
        self._arounds: dict[tuple[str, ...], _Around] = {}
        self._warned: set[str] = set()
        try:
            known = self._around(["user"])
        except TemplateError as error:
            raise ValueError(_failed(error, _MARK.format(0))) from error
        if not known:
            raise ValueError(_REWRITTEN)

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        roles, messages = self._dialogue(sample, instruction.strip())
        around = self._around(roles)
        takes_system = bool(sample.system and self._around([roles[0], "user"]))
        if not around and sample.system and not takes_system and (around := self._around(roles[1:])):
            self._warn("takes no system message; it stands at the start of the first user message")
            messages[:2] = [_joined(messages[:2])]
            roles = roles[1:]
        if not around:
            if sample.turns:
                self._warn("takes no earlier turns; they are part of the user message, under their roles")
            else:
                self._warn("takes no earlier turns; examples are part of the message", logging.INFO)
            kept = int(takes_system)
            named = bool(sample.history) or roles[kept] != "user"
            messages[kept:] = [_as_one(messages[kept:], roles[kept:] if named else [])]
            roles = [*roles[:kept], "user"]
            around = self._around(roles)
        out = _Writer()
        for before, at in around:
            out.write(before)
            if at is not None:
                out.append(messages[at])
        contents = [message.text for message in messages]
        try:
            rendered = self._rendered(contents, roles)
        except TemplateError as error:
            raise ValueError(f"{sample.id}: {_failed(error, contents[0])}") from error
        if rendered != out.text:
            raise ValueError(_REWRITTEN)
        return out.prompt("", add_special_tokens=False)

    def _dialogue(self, sample: Sample, instruction: str) -> tuple[list[str], list[_Writer]]:
        """Roles and texts of all messages: system, examples, earlier turns, and the sample itself."""
        roles: list[str] = []
        messages: list[_Writer] = []

        def say(role: str, message: _Writer) -> None:
            roles.append(role)
            messages.append(message)

        whole = _are_whole(sample, instruction)
        for role, text in sample.system:
            say(role, _given(text))
        for i, one in enumerate((*sample.examples, sample)):
            for role, text in one.history:
                say(role, _given(text))
            opening = _asked(one, sample, instruction) if whole or i == 0 else ""
            say("user", _message(one, opening, solved=one is not sample))
            if one is not sample:
                say("assistant", _given(one.target))
        return roles, messages

    def _warn(self, what: str, level: int = logging.WARNING) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.log(level, "data.template: the tokenizer's chat template %s", what)

    def _around(self, roles: Sequence[str]) -> _Around:
        """What the template writes before, between and after messages of these roles; nothing where it changes them."""
        key = tuple(roles)
        if key not in self._arounds:
            marks = [_MARK.format(i) for i in range(len(key))]
            text = self._rendered(marks, key) if len(key) == 1 else self._tried(marks, key)
            self._arounds[key] = _between(text, marks)
        return self._arounds[key]

    def _tried(self, contents: Sequence[str], roles: Sequence[str]) -> str:
        try:
            return self._rendered(contents, roles)
        except TemplateError:  # what a template raises that refuses a dialogue
            return ""

    def _rendered(self, contents: Sequence[str], roles: Sequence[str]) -> str:
        """The dialogue of these messages, of which the last is the user's."""
        dialogue = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            text = limited(
                LONGEST_RENDERING,
                lambda: self._tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True),
            )
        except TemplateError:
            raise
        except TimeLimitError as error:
            raise ValueError(
                f"data.template: the tokenizer's chat template did not end within {LONGEST_RENDERING} s on the message "
                f"{_start(contents[0])}; {_OTHER}"
            ) from error
        except Exception as error:  # whatever the template's own code raises
            raise ValueError(_failed(error, contents[0])) from error
        if not isinstance(text, str):
            raise ValueError(f"data.template: the chat template gave {type(text).__name__}; expected text. {_OTHER}")
        return text


def _failed(error: Exception, content: str) -> str:
    """A template's error, with the line where the template has one."""
    line = getattr(error, "lineno", None)
    place = f", line {line}" if line else ""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return (
        f"data.template: the tokenizer's chat template{place} fails on the message {_start(content)}: "
        f"{type(error).__name__}: {reason}; {_OTHER}"
    )


def _start(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _between(text: str, marks: Sequence[str]) -> _Around:
    """What is before each mark, and after the last; nothing unless each is there once, in whatever order."""
    if any(text.count(mark) != 1 for mark in marks):
        return []
    found: _Around = []
    for at in sorted(range(len(marks)), key=lambda i: text.index(marks[i])):
        before, _, text = text.partition(marks[at])
        found.append((before, at))
    return [*found, (text, None)]


def _message(sample: Sample, instruction: str, *, solved: bool) -> _Writer:
    """What the user says of a row: instruction and context.

    Many templates strip the message, so it has nothing to strip.
    """
    message = _Writer()
    message.solved = solved
    context = _write_instruction(message, sample, instruction)
    message.strip()
    context = replace(context, **{part: getattr(context, part).strip() for part in PARTS})
    if _filled(context):
        message.write("\n\n" if message.text else "")
        _write_joined(message, context)
    return message


def _given(text: str) -> _Writer:
    """A message that a row brings as it is; many templates strip it, so it has nothing to strip."""
    message = _Writer()
    message.write(text.strip(), given=True)
    return message


def _joined(messages: Sequence[_Writer]) -> _Writer:
    """Messages as one, a blank line between them."""
    out = _Writer()
    for i, message in enumerate(messages):
        out.write("\n\n" if i else "")
        out.append(message)
    return out


def _as_one(messages: Sequence[_Writer], roles: Sequence[str]) -> _Writer:
    """A dialogue that ends with a question, as one message of the user, with the roles named if there are any."""
    out = _Writer()
    for i, message in enumerate(messages):
        if roles:
            out.write(("\n\n" if i else "") + f"{roles[i].capitalize()}: ")
        else:
            out.write("" if i == 0 else "\nAnswer: " if i % 2 else "\n\n")
        out.append(message)
    out.write("\n\nAssistant:" if roles else "\nAnswer:")
    return out


class StringTemplate(Template):
    """A format string with `{instruction}` and any of `{question}`, `{format}`, `{option}`, `{text}`, `{context}`.

    `{context}` stands for all filled parts, a line each, with their names where there are several. The prompt ends
    where the answer starts; white space at the template's end is moved into the answer, so that a generated answer
    begins as a trained one does. Examples are whole prompts, as the instruction may stand anywhere in the string.
    """

    def __init__(self, template: str) -> None:
        known = ("instruction", "context", *PARTS)
        try:
            fields = list(Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"data.template: {template!r} is not a format string: {error}") from error
        names = [name for _, name, _, _ in fields if name is not None]
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(f"data.template: {template!r} holds unknown fields {unknown}; known: {', '.join(known)}")
        if any(spec or conversion for _, _, spec, conversion in fields):
            raise ValueError(
                f"data.template: {template!r} holds a conversion or format (`!r`, `:>9`); expected plain names"
            )
        if names.count("instruction") != 1:
            raise ValueError(
                f"data.template: {template!r} must hold {{instruction}} exactly once; the named templates are "
                "'plain', 'alpaca' and 'chat'"
            )
        self.parts = PARTS if "context" in names else tuple(part for part in PARTS if part in names)
        body = template.rstrip()
        self._prefix = template[len(body) :]
        self._fields = list(Formatter().parse(body))

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        out = _Writer()
        _write_turns(out, sample)
        for one in (*sample.examples, sample):
            out.solved = one is not sample
            asked = _asked(one, sample, instruction)
            context = _remaining(one, asked)
            for literal, name, _, _ in self._fields:
                out.write(literal)
                if name == "instruction":
                    _write_instruction(out, one, asked)
                elif name == "context":
                    _write_joined(out, context)
                elif name is not None:
                    out.write(getattr(context, name), Origin.CONTEXT)
            if out.solved:
                out.write(self._prefix)
                out.write(one.target, given=True)
                out.write("\n\n")
        return out.prompt(self._prefix)


def make_template(name: str, tokenizer: Any) -> Template:
    """The template called `name`: `plain`, `alpaca`, `chat`, or else a format string.

    Raises:
        ValueError: The string is no template, or `chat` meets a tokenizer without one.
    """
    if name == "plain":
        return PlainTemplate()
    if name == "alpaca":
        return AlpacaTemplate()
    if name == "chat":
        return ChatTemplate(tokenizer)
    return StringTemplate(name)


def _asked(one: Sample, sample: Sample, instruction: str) -> str:
    """What a sample, or one of its examples, is asked with."""
    return one.instruction if one is not sample and one.instruction else instruction


def _are_whole(sample: Sample, instruction: str) -> bool:
    """Whether each example is a whole prompt, with an instruction; the sample is, if there are none."""
    if not sample.examples or any(example.instruction for example in sample.examples):
        return True
    return is_slotted(instruction, dict(sample.fields))


def _remaining(sample: Sample, instruction: str) -> Context:
    """The context that an instruction leaves to be written: all of it, or nothing where slots bring it."""
    return Context() if is_slotted(instruction, dict(sample.fields)) else sample.context


def _write_instruction(out: _Writer, sample: Sample, instruction: str) -> Context:
    """Write an instruction, slots filled, and return the context that is still to be written."""
    fields = dict(sample.fields)
    for literal, name in pieces(instruction, fields):
        out.write(literal, Origin.INSTRUCTION)
        if name is not None:
            # the options an answer is taken from stay whole: neither cut nor perturbed
            out.write(fields[name], Origin.SCAFFOLD if name == OPTIONS else Origin.CONTEXT, given=True)
    return _remaining(sample, instruction)


def _write_turns(out: _Writer, sample: Sample, head: str = "{}: ") -> None:
    """Write what was said before a sample, each turn under its role."""
    for role, text in sample.turns:
        out.write(head.format(role.capitalize()))
        out.write(text, given=True)
        out.write("\n\n")


def _filled(context: Context) -> list[str]:
    return [value for part in PARTS if (value := getattr(context, part))]


def _write_joined(out: _Writer, context: Context) -> None:
    """Write the filled parts of a context, a line each; with their names where there are several."""
    named = len(_filled(context)) > 1
    blank = ""
    for part in PARTS:
        if value := getattr(context, part):
            out.write(blank + (_HEADS[part] if named else ""))
            out.write(value, Origin.CONTEXT)
            blank = "\n"
