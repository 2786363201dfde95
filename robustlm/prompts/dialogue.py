"""A sample as a chat: the roles and texts of its messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustlm.prompts.base import (
    PARTS,
    Writer,
    are_whole,
    asked_of,
    filled,
    write_instruction,
    write_joined,
)
from robustlm.sample import Sample


@dataclass
class Dialogue:
    """The messages of a sample's prompt, in order; the last one asks, so it is the user's."""

    roles: list[str]
    messages: list[Writer]
    earlier: range
    """The indices of the messages that are the sample's own earlier turns."""
    said: list[str] | None = None
    """The texts of the messages as they were given, if `messages` are as a template shows them."""

    @property
    def contents(self) -> list[str]:
        """The texts of the messages."""
        return [message.text for message in self.messages]

    def with_system_in_the_question(self) -> Dialogue:
        """The same chat with the system message at the start of the message after it."""
        shifted = range(max(self.earlier.start - 1, 0), max(self.earlier.stop - 1, 0))
        return Dialogue(self.roles[1:], [_joined(self.messages[:2]), *self.messages[2:]], shifted)

    def as_one(self, kept: int, *, named: bool) -> Dialogue:
        """The same chat as one user message, behind the first `kept` messages.

        Args:
            kept: Number of messages that stay as they are.
            named: Whether the messages are written under their roles; otherwise they are examples and a question.
        """
        message = _as_one(self.messages[kept:], self.roles[kept:] if named else [])
        return Dialogue([*self.roles[:kept], "user"], [*self.messages[:kept], message], range(0))


def dialogue(sample: Sample, instruction: str) -> Dialogue:
    """The messages of a sample's prompt: system, examples as turns, earlier turns, and the sample itself."""
    roles: list[str] = []
    messages: list[Writer] = []

    def say(role: str, message: Writer) -> None:
        roles.append(role)
        messages.append(message)

    whole = are_whole(sample, instruction)
    for role, text in sample.system:
        say(role, _given(text))
    first = len(roles)
    for i, one in enumerate((*sample.examples, sample)):
        first = len(roles)
        for role, text in one.history:
            say(role, _given(text))
        opening = asked_of(one, sample, instruction) if whole or i == 0 else ""
        say("user", _message(one, opening, solved=one is not sample))
        if one is not sample:
            say("assistant", _given(one.target))
    return Dialogue(roles, messages, range(first, len(roles) - 1))


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
