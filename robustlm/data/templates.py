"""Prompt templates: from a sample and an instruction to the text a model sees, with each piece's origin kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from string import Formatter
from typing import Any

from robustlm.data.samples import Context, Sample
from robustlm.data.slots import OPTIONS, is_slotted, pieces

PARTS = ("question", "format", "option", "text")


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


class _Writer:
    """Builds a prompt piece by piece."""

    def __init__(self) -> None:
        self.text = ""
        self.spans: list[tuple[int, int, Origin]] = []

    def write(self, piece: str, origin: Origin = Origin.SCAFFOLD) -> None:
        start = len(self.text)
        self.text += piece
        if piece and origin is not Origin.SCAFFOLD:
            self.spans.append((start, len(self.text), origin))

    def strip(self) -> None:
        """Take white space off both ends, out of the spans too."""
        start, end = len(self.text) - len(self.text.lstrip()), len(self.text.rstrip())
        self.text = self.text.strip()
        cut = [(max(a, start) - start, min(b, end) - start, origin) for a, b, origin in self.spans]
        self.spans = [(a, b, origin) for a, b, origin in cut if a < b]

    def prompt(self, answer_prefix: str, *, add_special_tokens: bool = True) -> Prompt:
        return Prompt(self.text, tuple(self.spans), answer_prefix, add_special_tokens)


class Template(ABC):
    """Renders a sample under a given instruction.

    An instruction with slots (`{premise} … {hypothesis}`) for fields of the sample is filled with them. It brings the
    context along then, and the context's parts are not written again.
    """

    @abstractmethod
    def render(self, sample: Sample, instruction: str) -> Prompt:
        """The prompt for `sample` when asked with `instruction`."""


class PlainTemplate(Template):
    """`Instruction: … Question: … Format: … Option: … Text: … Answer:`; empty parts drop out ([ANIT])."""

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        out = _Writer()
        out.write("Instruction: ")
        context = _write_instruction(out, sample, instruction)
        for part in PARTS:
            if value := getattr(context, part):
                out.write(f" {part.capitalize()}: ")
                out.write(value, Origin.CONTEXT)
        out.write(" Answer:")
        return out.prompt(" ")


class AlpacaTemplate(Template):
    """The headings of Stanford Alpaca, with or without an input section."""

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        out = _Writer()
        values = _filled(_remaining(sample, instruction))
        out.write(
            "Below is an instruction that describes a task"
            + (", paired with an input that provides further context" if values else "")
            + ". Write a response that appropriately completes the request.\n\n### Instruction:\n"
        )
        _write_instruction(out, sample, instruction)
        if values:
            out.write("\n\n### Input:\n")
            _write_joined(out, values)
        out.write("\n\n### Response:\n")
        return out.prompt("")


_MARK = "{the user message}"
"""Stands for the message when a chat template is asked what it writes around it."""
_REWRITTEN = (
    "data.template: the tokenizer's chat template rewrites the user message, so instruction and context cannot be told "
    "apart; use 'plain', 'alpaca' or a template string"
)


class ChatTemplate(Template):
    """The tokenizer's own chat template, with instruction and context as one user message."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "data.template: 'chat' was asked for, but this tokenizer has no chat template; "
                "use 'plain', 'alpaca' or a template string"
            )
        self._tokenizer = tokenizer
        self._before, found, self._after = self._rendered(_MARK).partition(_MARK)
        if not found:
            raise ValueError(_REWRITTEN)

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        message = _Writer()
        context = _write_instruction(message, sample, instruction.strip())
        # many templates strip the message, so it must have nothing to strip
        message.strip()
        if values := [value for value in (part.strip() for part in _filled(context)) if value]:
            message.write("\n\n" if message.text else "")
            _write_joined(message, values)
        rendered = self._rendered(message.text)
        if rendered != self._before + message.text + self._after:
            raise ValueError(_REWRITTEN)
        offset = len(self._before)
        spans = tuple((start + offset, end + offset, origin) for start, end, origin in message.spans)
        return Prompt(rendered, spans, "", add_special_tokens=False)

    def _rendered(self, content: str) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return text


class StringTemplate(Template):
    """A format string with `{instruction}` and any of `{question}`, `{format}`, `{option}`, `{text}`, `{context}`.

    `{context}` stands for all filled parts, a line each. The prompt ends where the answer starts; white space at the
    template's end is moved into the answer, so that a generated answer begins as a trained one does.
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
        body = template.rstrip()
        self._prefix = template[len(body) :]
        self._fields = list(Formatter().parse(body))

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        out = _Writer()
        context = _remaining(sample, instruction)
        for literal, name, _, _ in self._fields:
            out.write(literal)
            if name == "instruction":
                _write_instruction(out, sample, instruction)
            elif name == "context":
                _write_joined(out, _filled(context))
            elif name is not None:
                out.write(getattr(context, name), Origin.CONTEXT)
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
            out.write(fields[name], Origin.SCAFFOLD if name == OPTIONS else Origin.CONTEXT)
    return _remaining(sample, instruction)


def _filled(context: Context) -> list[str]:
    return [value for part in PARTS if (value := getattr(context, part))]


def _write_joined(out: _Writer, values: list[str]) -> None:
    for i, value in enumerate(values):
        out.write("\n" if i else "")
        out.write(value, Origin.CONTEXT)
