"""Prompts that use the chat template of a tokenizer."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict, cast

from jinja2 import TemplateError

from robustlm.prompts.base import Prompt, Reply, Template, Writer
from robustlm.prompts.dialogue import Dialogue, Frame, dialogue
from robustlm.prompts.probe import probe_of
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
_NO_SYSTEM = "takes no system message; it stands at the start of the first user message"
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
        self._probed: dict[Frame, str] = {}
        self._warned: set[str] = set()
        try:
            known = self._around(_frame("user"))
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
        out = self._written(chat, around)
        try:
            rendered = self._rendered(chat.contents, chat.frame)
        except TemplateError as error:
            raise ValueError(f"{sample.id}: {_failed(error, chat.contents[0])}") from error
        if rendered != out.text:
            given = chat.contents
            chat = self._as_shown(chat, around)
            out = self._written(chat, around)
            if rendered != out.text:
                raise ValueError(_REWRITTEN if chat.frame.plain else f"{sample.id}: {_REWRITTEN}")
            chat.said = given
        if sample.trains_earlier:
            out.replies = self._replies(sample.id, chat, out)
        found = out.prompt(self._blank, add_special_tokens=False, answer_end=self._end)
        if chat.frame.plain:
            return found
        reply = self._calling(sample, chat, rendered) if sample.reply else None
        return replace(found, fields=chat.frame.fields, tools=chat.tools, reply=reply)

    def _calling(self, sample: Sample, chat: Dialogue, asked: str) -> Reply:
        """The answer of a sample that calls tools, as the template writes it after the prompt `asked`."""
        frame = chat.frame.plus("assistant", sample.reply)
        _, covered, (start, end) = self._ended([*(chat.said or chat.contents), ""], frame, len(asked))
        text, given = self._specials.uncovered(covered[len(asked) : start])
        own = getattr(self._tokenizer, "eos_token", None)
        token = covered[start:end].strip()
        return Reply(text, tuple(given), "" if token == own else token)

    def _ended(self, contents: Sequence[str], frame: Frame, start: int) -> tuple[str, str, tuple[int, int]]:
        """A chat that ends with a reply, and the place of the token that ends it.

        Args:
            contents: The texts of the messages, with the reply.
            frame: Their frame.
            start: Where the reply begins.

        Returns:
            The text, the text with stand-ins for special tokens of the row, and start and end of the token: the first
            one by which the template ends replies, otherwise the last special token; empty at the end of the text if
            the reply has none.
        """
        text = self._tried(contents, frame, asks=False)
        covered = self._tried([self._specials.covered(one) for one in contents], self._covered(frame), asks=False)
        if self._specials.uncovered(covered)[0] != text:
            raise ValueError(_REWRITTEN)
        token = self._end or getattr(self._tokenizer, "eos_token", None) or ""
        at = covered.find(token, start) if token else -1
        place = (at, at + len(token)) if at >= 0 else self._specials.last(covered, start)
        return text, covered, place or (len(text.rstrip()), len(text.rstrip()))

    def _covered(self, frame: Frame) -> Frame:
        """The frame with stand-ins for special tokens in tools and calls, which come from the row."""
        cover = self._specials.covered
        return Frame(frame.roles, tuple(map(cover, frame.fields)), cover(frame.tools))

    def _problem(self, frame: Frame, *, asks: bool = True) -> str:
        """Why the template cannot write a chat with tools, by a probe with tools of its own; empty if it can."""
        probe = probe_of(frame)
        key = probe.frame.plus("asks") if asks else probe.frame
        if key not in self._probed:
            try:
                text = self._rendered(probe.contents, probe.frame, asks=asks)
                problem = probe.missing(text)
            except TemplateError as error:
                problem = f"fails on a chat with tools ({str(error).strip()})"
            hint = "expected a template that takes tools, or rows without them"
            self._probed[key] = problem and f"data.template: the tokenizer's chat template {problem}; {hint}"
        return self._probed[key]

    def _written(self, chat: Dialogue, around: _Around) -> Writer:
        """The text of a chat: its messages, and what the template writes around them."""
        out = Writer()
        for before, at in around:
            text, given = self._specials.uncovered(before)
            out.write(text)
            out.given += [(len(out.text) - len(text) + a, len(out.text) - len(text) + b) for a, b in given]
            if at is not None:
                out.say(chat.roles[at], chat.messages[at])
        places = dict(zip((at for _, at in around if at is not None), out.chat, strict=True))
        out.chat = [places.get(at, (role, 0, 0)) for at, role in enumerate(chat.roles)]
        return out

    def _as_shown(self, chat: Dialogue, around: _Around) -> Dialogue:
        """The chat with each earlier reply as the template writes it there; a reply that cannot be found stays."""
        found = list(chat.messages)
        order = [at for _, at in around]
        marks = [_MARK.format(i) if i in order else "" for i in range(len(found))]
        frame = self._covered(chat.frame)
        for i, role in enumerate(chat.roles):
            if role in ("user", *SYSTEM_ROLES) or i not in order:
                continue
            text = self._tried([*marks[:i], found[i].text, *marks[i + 1 :]], frame)
            pieces = _between(text, [*marks[:i], "", *marks[i + 1 :]])
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
        return Dialogue(chat.roles, found, chat.earlier, chat.fields, chat.tools)

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
        contents, frame = chat.said or chat.contents, chat.frame
        marked = self._marked(contents, frame) if _GENERATION.search(self._source) else None
        found = []
        for i in places:
            asked = self._tried(contents[:i], frame.upto(i))
            if frame.calls(i):
                start = len(asked)
                alone, _, (_, end) = self._ended(contents[: i + 1], frame.upto(i + 1), start)
            else:
                _, start, stop = out.chat[i]
                end = self._specials.after(out.text, stop)
                alone = self._tried(contents[: i + 1], frame.upto(i + 1), asks=False)
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

    def _marked(self, contents: Sequence[str], frame: Frame) -> list[tuple[int, int]]:
        """Start and end of what the template marks as written by the model, in characters."""
        called = self._called(
            contents,
            frame,
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
            around = _between(self._tried(marks, _frame("user", "assistant"), asks=False), marks)
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
        if not chat.frame.plain:
            return self._taken_with_tools(sample, chat)
        around = self._around(chat.frame)
        takes_system = bool(sample.system and self._around(_frame(chat.roles[0], "user")))
        if not around and sample.system and not takes_system and (around := self._around(_frame(*chat.roles[1:]))):
            self._warn(_NO_SYSTEM)
            chat = chat.with_system_in_the_question()
        if not around:
            if sample.turns:
                self._warn("takes no earlier turns; they are part of the user message, under their roles")
            else:
                self._warn("takes no earlier turns; examples are part of the message", logging.INFO)
            kept = int(takes_system)
            chat = chat.as_one(kept, named=bool(sample.history) or chat.roles[kept] != "user")
            around = self._around(chat.frame)
        return chat, around

    def _taken_with_tools(self, sample: Sample, chat: Dialogue) -> tuple[Dialogue, _Around]:
        """As `_taken`, for a chat with tools, whose turns are never put into one message."""
        problems = []
        for one in [chat, *([chat.with_system_in_the_question()] if sample.system else [])]:
            problem, around = self._placed(one)
            problem = problem or self._unanswerable(sample, one)
            if not problem:
                if one is not chat:
                    self._warn(_NO_SYSTEM)
                return one, around
            problems.append(problem)
        raise ValueError(f"{sample.id}: {problems[0]}")

    def _placed(self, chat: Dialogue) -> tuple[str, _Around]:
        """Why the template cannot write a chat with tools, or an empty text; and what it writes around its messages."""
        if problem := self._problem(chat.frame):
            return problem, []
        marks = [_MARK.format(i) if text else "" for i, text in enumerate(chat.contents)]
        frame = self._covered(chat.frame)
        text = self._tried(marks, frame)
        for i, mark in enumerate(marks):
            if mark and frame.calls(i) and mark not in text:
                self._warn("leaves out the text of replies that call tools")
                marks[i] = ""
        around = _between(self._tried(marks, frame), marks)
        return ("" if around else _REWRITTEN), around

    def _unanswerable(self, sample: Sample, chat: Dialogue) -> str:
        """Why the template cannot write an answer that calls tools; empty if it can, or if the answer is a text."""
        if not sample.reply:
            return ""
        frame = chat.frame.plus("assistant", sample.reply)
        if problem := self._problem(frame, asks=False):
            return problem
        asked, alone = self._tried(chat.contents, chat.frame), self._tried([*chat.contents, ""], frame, asks=False)
        if asked and alone.startswith(asked):
            return ""
        pairs = zip(asked, alone, strict=False)
        at = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(asked), len(alone)))
        return (
            "data.template: the tokenizer's chat template writes a reply that calls tools in another way than the "
            f"prompt for it: found {_near(alone, at)}, expected {_near(asked, at)}. If answers hold no thoughts, "
            "data.chat_template_kwargs may switch them off"
        )

    def _warn(self, what: str, level: int = logging.WARNING) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.log(level, "data.template: the tokenizer's chat template %s", what)

    def _around(self, frame: Frame) -> _Around:
        """Text that the template writes before, between and after messages of these roles; empty if it changes them."""
        key = frame.roles
        if key not in self._arounds:
            marks = [_MARK.format(i) for i in range(len(key))]
            text = self._rendered(marks, frame) if len(key) == 1 else self._tried(marks, frame)
            self._arounds[key] = _between(text, marks)
        return self._arounds[key]

    def _tried(self, contents: Sequence[str], frame: Frame, *, asks: bool = True) -> str:
        try:
            return self._rendered(contents, frame, asks=asks)
        except TemplateError:  # raised by a template that rejects a dialogue
            return ""

    def _rendered(self, contents: Sequence[str], frame: Frame, *, asks: bool = True) -> str:
        """Render a chat of these messages. With `asks`, a reply is asked for after the last one."""
        text = self._called(contents, frame, tokenize=False, asks=asks)
        if not isinstance(text, str):
            raise ValueError(f"data.template: the chat template gave {type(text).__name__}; expected text. {_OTHER}")
        return text

    def _called(self, contents: Sequence[str], frame: Frame, *, asks: bool = True, **more: object) -> object:
        """The result of the tokenizer's `apply_chat_template`, under a time limit."""
        messages = frame.messages(contents)
        tools: dict[str, object] = {"tools": json.loads(frame.tools)} if frame.tools else {}
        settings = {"add_generation_prompt": asks, **tools, **more, **self._variables}
        try:
            return limited(LONGEST_RENDERING, lambda: self._tokenizer.apply_chat_template(messages, **settings))
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
    """The text before each mark and after the last one; empty unless each mark occurs exactly once, in any order.

    An empty mark stands for a message without text, which has no place.
    """
    if not text or any(mark and text.count(mark) != 1 for mark in marks):
        return []
    found: _Around = []
    for at in sorted((i for i, mark in enumerate(marks) if mark), key=lambda i: text.index(marks[i])):
        before, _, text = text.partition(marks[at])
        found.append((before, at))
    return [*found, (text, None)]


def _near(text: str, at: int) -> str:
    """A text around a place, for messages."""
    return repr(f"…{text[max(at - 30, 0) : at + 30]}…")


def _frame(*roles: str) -> Frame:
    return Frame(roles)
