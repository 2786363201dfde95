"""The token by which a chat template ends a reply, which need not be the tokenizer's end token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from robustlm.utils.limits import TimeLimitError, limited

_ASKED, _SAID = "{{message 0}}", "{{message 1}}"
_LONGEST = 10.0
"""Seconds that a chat template may take; usual ones take less than a millisecond."""


class Speaking(Protocol):
    """A tokenizer, as far as its chat template is needed."""

    chat_template: object

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], *, tokenize: bool) -> object:
        """The text of a conversation."""


def end_of_turn(tokenizer: Speaking, specials: Iterable[str]) -> str:
    """The special token that the tokenizer's chat template writes after a reply, as Gemma's `<end_of_turn>`.

    Args:
        tokenizer: A tokenizer of transformers.
        specials: Texts of its special tokens.

    Returns:
        The text of the token. Empty if there is no chat template, if it fails, or if it ends a reply by other text.
    """
    if not getattr(tokenizer, "chat_template", None):
        return ""
    chat = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}]
    try:
        text = limited(_LONGEST, lambda: tokenizer.apply_chat_template(chat, tokenize=False))
    except (Exception, TimeLimitError):  # whatever the template's own code raises; `data.template: chat` reports it
        return ""
    return first_special(text.rpartition(_SAID)[2], specials) if isinstance(text, str) and _SAID in text else ""


def first_special(text: str, specials: Iterable[str]) -> str:
    """The special token at the start of a text, after blanks; empty if there is none."""
    text = text.lstrip()
    return max((one for one in specials if one and text.startswith(one)), key=len, default="")
