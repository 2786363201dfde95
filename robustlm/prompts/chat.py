"""Prompts that use the chat template of a tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from robustlm.prompts.base import Prompt, Template, Writer
from robustlm.prompts.dialogue import Dialogue, dialogue
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
        chat, around = self._taken(sample, instruction.strip())
        out = _written(chat, around)
        try:
            rendered = self._rendered(chat.contents, chat.roles)
        except TemplateError as error:
            raise ValueError(f"{sample.id}: {_failed(error, chat.contents[0])}") from error
        if rendered != out.text:
            raise ValueError(_REWRITTEN)
        return out.prompt("", add_special_tokens=False)

    def _taken(self, sample: Sample, instruction: str) -> tuple[Dialogue, _Around]:
        """The chat in a form that the template takes, and what the template writes around its messages."""
        chat = dialogue(sample, instruction)
        around = self._around(chat.roles)
        takes_system = bool(sample.system and self._around([chat.roles[0], "user"]))
        if not around and sample.system and not takes_system and (around := self._around(chat.roles[1:])):
            self._warn("takes no system message; it stands at the start of the first user message")
            chat = chat.with_system_in_the_question()
        if not around:
            if sample.turns:
                self._warn("takes no earlier turns; they are part of the user message, under their roles")
            else:
                self._warn("takes no earlier turns; examples are part of the message", logging.INFO)
            kept = int(takes_system)
            chat = chat.as_one(kept, named=bool(sample.history) or chat.roles[kept] != "user")
            around = self._around(chat.roles)
        return chat, around

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


def _written(chat: Dialogue, around: _Around) -> Writer:
    """The text of a chat: its messages, and what the template writes around them."""
    out = Writer()
    for before, at in around:
        out.write(before)
        if at is not None:
            out.say(chat.roles[at], chat.messages[at])
    places = dict(zip((at for _, at in around if at is not None), out.chat, strict=True))
    out.chat = [places[at] for at in sorted(places)]
    return out
