"""Prompts that use the chat template of a tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from robustlm.prompts.base import (
    PARTS,
    Prompt,
    Template,
    Writer,
    are_whole,
    asked_of,
    filled,
    write_instruction,
    write_joined,
)
from robustlm.sample import Sample
from robustlm.utils.limits import TimeLimitError, limited

log = logging.getLogger(__name__)


_MARK = "{{message {}}}"
"""Placeholder for a message, to find out what a chat template writes around messages."""
_OTHER = "mend chat_template in the tokenizer's folder, or use 'plain', 'alpaca' or a template string"
LONGEST_RENDERING = 10.0
"""Seconds that a chat template may take for one row; usual ones take less than a millisecond."""
_Around = list[tuple[str, int | None]]
"""Text that a template writes before each message, with the message's number, and text after the last message, with
None. Some templates put the system message into a later one, so numbers may be out of order."""
_REWRITTEN = (
    "data.template: the tokenizer's chat template rewrites the user message, so instruction and context cannot be told "
    "apart; use 'plain', 'alpaca' or a template string"
)


class ChatTemplate(Template):
    """The tokenizer's own chat template, with instruction and context as one user message.

    If a context has several parts, each is written with its name (`Options: …`). The earlier turns of a chat keep their
    roles. Examples come before them: each is a user turn, with its answer as an assistant turn. If the template takes
    no system message, its text is put at the start of the first user message. If the template takes no earlier turns,
    everything is one user message, in which answers of examples follow `Answer:` and turns of a chat follow their
    roles.
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
        out = Writer()
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

    def _dialogue(self, sample: Sample, instruction: str) -> tuple[list[str], list[Writer]]:
        """Roles and texts of all messages: system, examples, earlier turns, and the sample itself."""
        roles: list[str] = []
        messages: list[Writer] = []

        def say(role: str, message: Writer) -> None:
            roles.append(role)
            messages.append(message)

        whole = are_whole(sample, instruction)
        for role, text in sample.system:
            say(role, _given(text))
        for i, one in enumerate((*sample.examples, sample)):
            for role, text in one.history:
                say(role, _given(text))
            opening = asked_of(one, sample, instruction) if whole or i == 0 else ""
            say("user", _message(one, opening, solved=one is not sample))
            if one is not sample:
                say("assistant", _given(one.target))
        return roles, messages

    def _warn(self, what: str, level: int = logging.WARNING) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.log(level, "data.template: the tokenizer's chat template %s", what)

    def _around(self, roles: Sequence[str]) -> _Around:
        """Text that the template writes before, between and after messages of these roles; empty if it changes them."""
        key = tuple(roles)
        if key not in self._arounds:
            marks = [_MARK.format(i) for i in range(len(key))]
            text = self._rendered(marks, key) if len(key) == 1 else self._tried(marks, key)
            self._arounds[key] = _between(text, marks)
        return self._arounds[key]

    def _tried(self, contents: Sequence[str], roles: Sequence[str]) -> str:
        try:
            return self._rendered(contents, roles)
        except TemplateError:  # raised by a template that rejects a dialogue
            return ""

    def _rendered(self, contents: Sequence[str], roles: Sequence[str]) -> str:
        """Render a dialogue of these messages; the last one is the user's."""
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
    """Error message for a template that fails, with the line if it is known."""
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
    """The text before each mark and after the last one; empty unless each mark occurs exactly once, in any order."""
    if any(text.count(mark) != 1 for mark in marks):
        return []
    found: _Around = []
    for at in sorted(range(len(marks)), key=lambda i: text.index(marks[i])):
        before, _, text = text.partition(marks[at])
        found.append((before, at))
    return [*found, (text, None)]


def _message(sample: Sample, instruction: str, *, solved: bool) -> Writer:
    """The user's message for a row: instruction and context.

    The message is stripped, because many templates strip messages.
    """
    message = Writer()
    message.solved = solved
    context = write_instruction(message, sample, instruction)
    message.strip()
    context = replace(context, **{part: getattr(context, part).strip() for part in PARTS})
    if filled(context):
        message.write("\n\n" if message.text else "")
        write_joined(message, context)
    return message


def _given(text: str) -> Writer:
    """A message of a row, stripped, since many templates strip messages."""
    message = Writer()
    message.write(text.strip(), given=True)
    return message


def _joined(messages: Sequence[Writer]) -> Writer:
    """Join messages into one, with blank lines between them."""
    out = Writer()
    for i, message in enumerate(messages):
        out.write("\n\n" if i else "")
        out.append(message)
    return out


def _as_one(messages: Sequence[Writer], roles: Sequence[str]) -> Writer:
    """Join a dialogue that ends with a question into one user message, with the roles if they are given."""
    out = Writer()
    for i, message in enumerate(messages):
        if roles:
            out.write(("\n\n" if i else "") + f"{roles[i].capitalize()}: ")
        else:
            out.write("" if i == 0 else "\nAnswer: " if i % 2 else "\n\n")
        out.append(message)
    out.write("\n\nAssistant:" if roles else "\nAnswer:")
    return out
