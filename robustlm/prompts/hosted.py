"""Chats for models behind an endpoint, which writes its own chat template around the messages."""

from __future__ import annotations

from dataclasses import replace

from robustlm.prompts.base import Prompt, Template, Writer
from robustlm.prompts.dialogue import dialogue
from robustlm.sample import Sample, answer_of


class EndpointTemplate(Template):
    """The messages of a chat, as an endpoint takes them: `Prompt.messages`.

    The text of such a prompt is for tables and for people: each message stands under its role. A single message of the
    user has no role above it. Tools stand above all messages, and calls of tools after the text of their message.
    """

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        chat = dialogue(sample, instruction.strip())
        out = Writer()
        if chat.tools:
            out.write("Tools: ")
            out.write(chat.tools, given=True)
            out.write("\n\n")
        for i, (role, message) in enumerate(zip(chat.roles, chat.messages, strict=True)):
            if len(chat.roles) > 1 or chat.tools:
                out.write(("\n\n" if i else "") + f"{role.capitalize()}: ")
            out.say(role, message)
            if chat.frame.calls(i):
                calls = answer_of((role, "", chat.fields[i]))
                out.write("\n" if message.text else "")
                out.write(calls, given=True)
        return replace(out.prompt(""), fields=tuple(chat.fields), tools=chat.tools)
