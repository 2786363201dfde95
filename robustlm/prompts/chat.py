"""Prompts that use the chat template of a tokenizer."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, TypedDict, cast

from jinja2 import TemplateError

from robustlm.prompts.base import Prompt, Template, Writer
from robustlm.prompts.dialogue import Dialogue, dialogue
from robustlm.prompts.specials import Specials
from robustlm.prompts.variables import Variables, check_variables, source_of, variables_of
from robustlm.sample import SYSTEM_ROLES, Sample
from robustlm.utils.limits import TimeLimitError, limited

log = logging.getLogger(__name__)

_MARK = "{{message {}}}"
"""Placeholder for a message, to find out what a chat template writes around messages."""
_OTHER = "correct chat_template in the tokenizer's folder, or use 'plain', 'alpaca' or a template string"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
"""The mark by which a template says which text a model writes itself."""
LONGEST_RENDERING = 10.0
"""Seconds that a chat template may take for one row; usual ones take less than a millisecond."""
_Around = list[tuple[str, int | None]]
"""Text that a template writes before each message, with the message's number, and text after the last message, with
None. Some templates put the system message into a later one, so numbers may be out of order."""
_REWRITTEN = (
    "data.template: the tokenizer's chat template rewrites the user message, so instruction and context cannot be told "
    "apart; use 'plain', 'alpaca' or a template string"
)


class _Masked(TypedDict):
    """A tokenised chat, with what the template marks as written by the model."""

    offset_mapping: list[tuple[int, int]]
    assistant_masks: list[int]


class ChatTemplate(Template):
    """The tokenizer's own chat template, with instruction and context as one user message.

    If a context has several parts, each is written with its name (`Options: …`). The earlier turns of a chat keep their
    roles. Examples come before them: each is a user turn, with its answer as an assistant turn. If the template takes
    no system message, its text is put at the start of the first user message. If the template takes no earlier turns,
    everything is one user message, in which answers of examples follow `Answer:` and turns of a chat follow their
    roles. If the template changes earlier replies (it may leave out their thoughts), they are as it writes them.

    Args:
        tokenizer: A tokenizer with a chat template.
        variables: Values of the template's own variables, such as `{"enable_thinking": False}`.

    Raises:
        ValueError: There is no chat template, it cannot be used, or it reads no variable of that name.
    """

    def __init__(self, tokenizer: Any, variables: Variables | None = None) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "data.template: 'chat' was asked for, but this tokenizer has no chat template; "
                "use 'plain', 'alpaca' or a template string"
            )
        self._tokenizer = tokenizer
        self._source = source_of(tokenizer.chat_template)
        self._variables = dict(variables or {})
        check_variables(self._variables, self._source)
        self._specials = Specials(tokenizer)
        self._arounds: dict[tuple[str, ...], _Around] = {}
        self._warned: set[str] = set()
        try:
            known = self._around(["user"])
        except TemplateError as error:
            raise ValueError(_failed(error, _MARK.format(0))) from error
        if not known:
            raise ValueError(_REWRITTEN)
        self._blank, self._end, thoughts = self._reply(known[-1][0])
        self.notes = [*thoughts, *self._dates()]

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`.

        Raises:
            ValueError: The template fails on the row, or changes the user's message. Or `sample.trains_replies` is set,
                and the template does not write an earlier reply as it writes the same reply when it is the last one.
        """
        chat, around = self._taken(sample, instruction.strip())
        out = _written(chat, around)
        try:
            rendered = self._rendered(chat.contents, chat.roles)
        except TemplateError as error:
            raise ValueError(f"{sample.id}: {_failed(error, chat.contents[0])}") from error
        if rendered != out.text:
            given = chat.contents
            chat = self._as_shown(chat, around)
            out = _written(chat, around)
            if rendered != out.text:
                raise ValueError(_REWRITTEN)
            chat.said = given
        if sample.trains_replies and sample.history:
            out.replies = self._replies(sample.id, chat, out)
        return out.prompt(self._blank, add_special_tokens=False, answer_end=self._end)

    def _as_shown(self, chat: Dialogue, around: _Around) -> Dialogue:
        """The chat with each earlier reply as the template writes it there; a reply that cannot be found stays."""
        found = list(chat.messages)
        marks = [_MARK.format(i) for i in range(len(found))]
        for i, role in enumerate(chat.roles):
            if role in ("user", *SYSTEM_ROLES):
                continue
            text = self._tried([*marks[:i], found[i].text, *marks[i + 1 :]], chat.roles)
            pieces = _between(text, [*marks[:i], *marks[i + 1 :]])
            order = [at for _, at in around]
            place = order.index(i)
            before, after = around[place][0], around[place + 1][0]
            if not pieces:
                continue
            piece = pieces[place][0]  # the texts before and after this message are one piece now
            if piece.startswith(before) and piece.endswith(after) and len(piece) >= len(before) + len(after):
                shown = Writer()
                shown.write(piece[len(before) : len(piece) - len(after)], given=True)
                found[i] = shown
        if any(one.text != other.text for one, other in zip(found, chat.messages, strict=True)):
            self._warn("changes earlier replies of chats; prompts hold them as it writes them", logging.INFO)
        return Dialogue(chat.roles, found, chat.earlier)

    def _replies(self, name: str, chat: Dialogue, out: Writer) -> list[tuple[int, int]]:
        """Start and end of each earlier reply in a prompt, with the token that ends it.

        A reply counts if the template marks it (`{% generation %}`), or, where it marks nothing, from the end of the
        prompt that would ask for it to its end-of-turn token. In both cases the prompt must begin with the text of the
        chat up to and including this reply: then the model is trained on what it would be given and would write.
        """
        places = [i for i in chat.earlier if chat.roles[i] == "assistant"]
        if not places:
            raise ValueError(
                f"{name}: data.assistant_turns: found all, but the tokenizer's chat template takes no earlier turns; "
                "expected last, or each (a row for every reply)"
            )
        contents = chat.said or chat.contents
        marked = self._marked(contents, chat.roles) if _GENERATION.search(self._source) else None
        found = []
        for i in places:
            _, start, stop = out.chat[i]
            end = self._specials.after(out.text, stop)
            asked = self._tried(contents[:i], chat.roles[:i])
            alone = self._tried(contents[: i + 1], chat.roles[: i + 1], asks=False)
            begins = bool(asked) and out.text.startswith(asked) and not out.text[len(asked) : start].strip()
            if not begins or alone[:end] != out.text[:end]:
                alone_tail = alone[len(asked) :] if asked and alone.startswith(asked) else alone[-80:]
                raise ValueError(
                    f"{name}: data.assistant_turns: found all, but the tokenizer's chat template writes reply "
                    f"{places.index(i) + 1} in another way when the chat goes on: found {_start(out.text[start:end])}, "
                    f"expected {_start(alone_tail)} as when it is the last one. So one row cannot train every reply as "
                    "it is asked for; expected data.assistant_turns each (a row for every reply) or last"
                )
            if marked is None:
                found.append((len(asked), end))
            else:
                found += [(a, b) for a, b in marked if a < end and start < b]
        if not found:
            self._warn("marks no earlier reply by {% generation %}; of each chat, only the last reply is trained")
        return found

    def _marked(self, contents: Sequence[str], roles: Sequence[str]) -> list[tuple[int, int]]:
        """Start and end of what the template marks as written by the model, in characters."""
        called = self._called(
            contents,
            roles,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True},
        )
        found = cast(_Masked, called)
        spans: list[tuple[int, int]] = []
        fresh = True
        for (start, end), own in zip(found["offset_mapping"], found["assistant_masks"], strict=True):
            if own and fresh:
                spans.append((start, end))
            elif own:
                spans[-1] = (spans[-1][0], end)
            fresh = not own
        return spans

    def _reply(self, closing: str) -> tuple[str, str, list[str]]:
        """White space that the template writes before a reply, the token that ends it, and notes on how it does so.

        The token is empty if it is the tokenizer's end token, or if the template ends a reply by other text.

        A prompt ends before this white space, which then belongs to the answer: so a prompt with its answer has the
        tokens of the chat with this reply.

        Args:
            closing: What the template writes after the user's only message.
        """
        marks = [_MARK.format(i) for i in range(2)]
        try:
            around = _between(self._tried(marks, ["user", "assistant"], asks=False), marks)
        except ValueError:  # a template that fails on replies is refused for rows that have some
            return "", "", []
        if [at for _, at in around] != [0, 1, None]:
            return "", "", []
        said, tail = around[1][0], around[2][0]
        end = tail[: self._specials.after(tail, 0)].strip()
        own = getattr(self._tokenizer, "eos_token", end)
        if end and end != own:
            log.info(
                "data.template: trained answers end with %r, as the tokenizer's chat template ends a reply, and not "
                "with the tokenizer's end token %r",
                end, own,
            )  # fmt: skip
        end = end if end != own else ""
        if said.startswith(closing) and not said[len(closing) :].strip():
            return said[len(closing) :], end, []
        if said.strip() == closing.strip():
            return "", end, []
        switches = [name for name in variables_of(self._source) if "think" in name or "reason" in name]
        known = f" (it reads {', '.join(switches)})" if switches else ""
        note = (
            f"data.template: the tokenizer's chat template ends a prompt by {closing!r}, but writes {said!r} before a "
            f"reply that it is given. If answers hold no thoughts, data.chat_template_kwargs may switch them off{known}"
        )
        return "", end, [note]

    def _dates(self) -> list[str]:
        """A note where the template writes today's date."""
        if "strftime_now" not in self._source or any("date" in name for name in self._variables):
            return []
        switches = [name for name in variables_of(self._source) if "date" in name]
        known = f", e.g. {switches[0]}" if switches else ""
        return [
            "data.template: the tokenizer's chat template may write the date of the day, so prompts differ from day to "
            f"day; data.chat_template_kwargs sets it where the template reads one{known}"
        ]

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

    def _tried(self, contents: Sequence[str], roles: Sequence[str], *, asks: bool = True) -> str:
        try:
            return self._rendered(contents, roles, asks=asks)
        except TemplateError:  # raised by a template that rejects a dialogue
            return ""

    def _rendered(self, contents: Sequence[str], roles: Sequence[str], *, asks: bool = True) -> str:
        """Render a dialogue of these messages. With `asks`, the last one is the user's, and a reply is asked for."""
        text = self._called(contents, roles, tokenize=False, asks=asks)
        if not isinstance(text, str):
            raise ValueError(f"data.template: the chat template gave {type(text).__name__}; expected text. {_OTHER}")
        return text

    def _called(self, contents: Sequence[str], roles: Sequence[str], *, asks: bool = True, **more: object) -> object:
        """The result of the tokenizer's `apply_chat_template`, under a time limit."""
        dialogue = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        settings = {"add_generation_prompt": asks, **more, **self._variables}
        try:
            return limited(LONGEST_RENDERING, lambda: self._tokenizer.apply_chat_template(dialogue, **settings))
        except TemplateError:
            raise
        except TimeLimitError as error:
            raise ValueError(
                f"data.template: the tokenizer's chat template did not end within {LONGEST_RENDERING} s on the message "
                f"{_start(contents[0])}; {_OTHER}"
            ) from error
        except Exception as error:  # whatever the template's own code raises
            raise ValueError(_failed(error, contents[0])) from error


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
