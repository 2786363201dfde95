"""A sample as a chat: the roles and texts of its messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from robustlm.prompts.base import (
    PARTS,
    Writer,
    are_whole,
    asked_of,
    filled,
    write_instruction,
    write_joined,
)
from robustlm.sample import Sample, Turn
from robustlm.utils.tool_calls import message_of, with_objects

TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Frame:
    """A chat without the texts of its messages: their roles, their other fields, and the tools that it offers."""

    roles: tuple[str, ...]
    fields: tuple[str, ...] = ()
    """As in `Dialogue`."""
    tools: str = ""

    def upto(self, stop: int) -> Frame:
        """The frame of the first messages."""
        return Frame(self.roles[:stop], self.fields[:stop], self.tools)

    def plus(self, role: str, more: str = "") -> Frame:
        """The frame with one more message."""
        fields = (*(self.fields or ("",) * len(self.roles)), more) if self.fields or more else ()
        return Frame((*self.roles, role), fields, self.tools)

    @property
    def plain(self) -> bool:
        """Whether the chat has nothing to do with tools."""
        return not self.fields and not self.tools

    def calls(self, at: int) -> bool:
        """Whether a message calls tools."""
        return bool(self.fields) and bool(self.fields[at]) and self.roles[at] != TOOL

    def messages(self, contents: Sequence[str]) -> list[dict[str, object]]:
        """The messages with these texts, as a chat template takes them."""
        fields = self.fields or ("",) * len(self.roles)
        told = zip(self.roles, contents, fields, strict=True)
        return [with_objects(message_of(role, text, more)) for role, text, more in told]


@dataclass
class Dialogue:
    """The messages of a sample's prompt, in order.

    The last one asks, so it is the user's; or it is the result of a tool, which the assistant called since.
    """

    roles: list[str]
    messages: list[Writer]
    earlier: list[int]
    """The indices of the messages that are the sample's own turns, other than its question."""
    fields: list[str] = field(default_factory=list)
    """For each message, its other fields as JSON, or nothing; empty if the chat has to do with no tools."""
    tools: str = ""
    """The tools that the chat offers, as a JSON list; empty: none."""
    said: list[str] | None = None
    """The texts of the messages as they were given, if `messages` are as a template shows them."""

    @property
    def frame(self) -> Frame:
        """The chat without the texts of its messages."""
        return Frame(tuple(self.roles), tuple(self.fields), self.tools)

    @property
    def contents(self) -> list[str]:
        """The texts of the messages."""
        return [message.text for message in self.messages]

    def with_system_in_the_question(self) -> Dialogue:
        """The same chat with the system message at the start of the message after it."""
        shifted = [at - 1 for at in self.earlier]
        messages = [_joined(self.messages[:2]), *self.messages[2:]]
        return Dialogue(self.roles[1:], messages, shifted, self.fields[1:], self.tools)

    def as_one(self, kept: int, *, named: bool) -> Dialogue:
        """The same chat as one user message, behind the first `kept` messages.

        Args:
            kept: Number of messages that stay as they are.
            named: Whether the messages are written under their roles; otherwise they are examples and a question.
        """
        message = _as_one(self.messages[kept:], self.roles[kept:] if named else [])
        return Dialogue([*self.roles[:kept], "user"], [*self.messages[:kept], message], [])


def dialogue(sample: Sample, instruction: str) -> Dialogue:
    """The messages of a sample's prompt: system, examples as turns, the sample's turns and the sample itself."""
    chat = Dialogue([], [], [], tools=sample.tools)

    def say(role: str, message: Writer, more: str = "") -> None:
        chat.roles.append(role)
        chat.messages.append(message)
        chat.fields.append(more)

    def say_all(turns: Sequence[Turn], *, own: bool) -> None:
        for role, text, *more in turns:
            if own:
                chat.earlier.append(len(chat.roles))
            say(role, _given(text, stripped=role != TOOL), *more)

    whole = are_whole(sample, instruction)
    say_all(sample.system, own=False)
    for i, one in enumerate((*sample.examples, sample)):
        say_all(one.history, own=one is sample)
        opening = asked_of(one, sample, instruction) if whole or i == 0 else ""
        say("user", _message(one, opening, solved=one is not sample))
        say_all(one.since, own=one is sample)
        if one is not sample:
            say("assistant", _given("" if one.reply else one.target), one.reply)
    if not sample.uses_tools and not any(chat.fields):
        chat.fields = []
    return chat


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


def _given(text: str, *, stripped: bool = True) -> Writer:
    """A message of a row, stripped, since many templates strip messages; results of tools are kept as they are."""
    message = Writer()
    message.write(text.strip() if stripped else text, given=True)
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
