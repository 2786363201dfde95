"""Prompt templates: render a sample and an instruction as text, and record the origin of each piece."""

from __future__ import annotations

import logging
from string import Formatter
from typing import Any

from robustlm.prompts.base import (
    PARTS,
    Origin,
    Prompt,
    Template,
    Writer,
    are_whole,
    asked_of,
    filled,
    remaining,
    write_instruction,
    write_joined,
    write_turns,
)
from robustlm.prompts.chat import ChatTemplate
from robustlm.prompts.hosted import EndpointTemplate
from robustlm.prompts.variables import SETTING, Variables
from robustlm.sample import Sample

log = logging.getLogger(__name__)

_CUE = "Answer:"
"""Ends the prompt; an instruction with slots may end with it too, and then it is written once."""


class PlainTemplate(Template):
    """`Instruction: … Question: … Format: … Option: … Text: … Answer:`; empty parts are left out ([ANIT])."""

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        out = Writer()
        write_turns(out, sample)
        whole = are_whole(sample, instruction)
        if not whole:
            out.write("Instruction: ")
            out.write(instruction, Origin.INSTRUCTION)
            out.write("\n\n")
        for one in (*sample.examples, sample):
            out.solved = one is not sample
            start = len(out.text)
            context, blank = one.context, ""
            if whole:
                out.write("Instruction: ")
                context, blank = write_instruction(out, one, asked_of(one, sample, instruction)), " "
            for part in PARTS:
                if value := getattr(context, part):
                    out.write(f"{blank}{part.capitalize()}: ")
                    out.write(value, Origin.CONTEXT)
                    blank = " "
            out.write(f"{blank}{_CUE}")
            out.end_once(_CUE, start)
            if out.solved:
                out.write(" ")
                out.write(one.target, given=True)
                out.write("\n\n")
        return out.prompt(" ")


class AlpacaTemplate(Template):
    """The headings of Stanford Alpaca, with or without an input section; several parts of an input are named."""

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        out = Writer()
        whole = are_whole(sample, instruction)
        out.write(
            "Below is an instruction that describes a task"
            + (", paired with an input that provides further context" if filled(remaining(sample, instruction)) else "")
            + ". Write a response that appropriately completes the request.\n\n"
        )
        write_turns(out, sample, "### {}:\n")
        for i, one in enumerate((*sample.examples, sample)):
            out.solved = one is not sample
            context = one.context
            if whole or i == 0:
                out.write("### Instruction:\n")
                context = write_instruction(out, one, asked_of(one, sample, instruction))
                out.write("\n\n")
            if filled(context):
                out.write("### Input:\n")
                write_joined(out, context)
                out.write("\n\n")
            out.write("### Response:\n")
            if out.solved:
                out.write(one.target, given=True)
                out.write("\n\n")
        return out.prompt("")


class StringTemplate(Template):
    """A format string with `{instruction}` and any of `{question}`, `{format}`, `{option}`, `{text}`, `{context}`.

    `{context}` stands for all non-empty parts, one per line, with their names if there are several. White space at the
    template's end is moved into the answer, so that a generated answer begins as a trained one does. Each example is a
    whole prompt, because the instruction may stand anywhere in the string.
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
        self._cue = _CUE if self._fields[-1][1] is None and self._fields[-1][0].endswith(_CUE) else ""

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        out = Writer()
        write_turns(out, sample)
        for one in (*sample.examples, sample):
            out.solved = one is not sample
            start = len(out.text)
            asked = asked_of(one, sample, instruction)
            context = remaining(one, asked)
            for literal, name, _, _ in self._fields:
                out.write(literal)
                if name == "instruction":
                    write_instruction(out, one, asked)
                elif name == "context":
                    write_joined(out, context)
                elif name is not None:
                    out.write(getattr(context, name), Origin.CONTEXT)
            if self._cue:
                out.end_once(self._cue, start)
            if out.solved:
                out.write(self._prefix)
                out.write(one.target, given=True)
                out.write("\n\n")
        return out.prompt(self._prefix)


def make_template(name: str, tokenizer: Any, variables: Variables | None = None) -> Template:
    """The template called `name`: `plain`, `alpaca`, `chat`, or else a format string.

    Args:
        name: The value of `data.template`.
        tokenizer: The model's tokenizer; `chat` is its own template.
        variables: Values of the chat template's variables (`data.chat_template_kwargs`).

    Raises:
        ValueError: The string is not a valid template, `name` is `chat` and the tokenizer has no chat template, or
            there are variables and no chat template of the tokenizer that reads them.
    """
    hosted = bool(getattr(tokenizer, "takes_messages", False))
    if variables and (name != "chat" or hosted):
        why = (
            "the endpoint itself writes the chat template; model.hosting.body sends them: {chat_template_kwargs: {…}}"
            if name == "chat"
            else f"data.template is {name!r}"
        )
        raise ValueError(f"{SETTING}: found {dict(variables)!r}, but {why}; expected null")
    if name == "plain":
        return PlainTemplate()
    if name == "alpaca":
        return AlpacaTemplate()
    if name == "chat":
        return EndpointTemplate() if hosted else ChatTemplate(tokenizer, variables)
    return StringTemplate(name)
