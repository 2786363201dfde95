"""Chats for models behind an endpoint, which writes its own chat template around the messages."""

from __future__ import annotations

from robustlm.prompts.base import Prompt, Template, Writer
from robustlm.prompts.dialogue import dialogue
from robustlm.sample import Sample


class EndpointTemplate(Template):
    """The messages of a chat, as an endpoint takes them: `Prompt.messages`.

    The text of such a prompt is for tables and for people: each message stands under its role. A single message of the
    user has no role above it.
    """

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        chat = dialogue(sample, instruction.strip())
        out = Writer()
        for i, (role, message) in enumerate(zip(chat.roles, chat.messages, strict=True)):
            if len(chat.roles) > 1:
                out.write(("\n\n" if i else "") + f"{role.capitalize()}: ")
            out.say(role, message)
        return out.prompt("")
