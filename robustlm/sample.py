"""`Sample`: the common form that every row is converted to when it is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from robustlm.utils.tool_calls import as_text

Turn = tuple[str, str] | tuple[str, str, str]
"""Role and text of a message of a chat. A message with further fields (`tool_calls`, `tool_call_id`, `name`) has them
as a third text, as JSON; see `robustlm.utils.tool_calls.message_of`."""
SYSTEM_ROLES = ("system", "developer")
"""Roles of the message that may open a chat."""


@dataclass(frozen=True, slots=True)
class Context:
    """The input of an instruction; prompts leave out empty parts ([ANIT] rendering)."""

    question: str = ""
    """A question or statement besides the text."""
    format: str = ""
    """How the answer must look."""
    option: str = ""
    """The admissible labels, as one string."""
    text: str = ""
    """The text to work on."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One example: an instruction, its context and the target answer."""

    id: str
    """Stable and unique within a run: names the source and the row's number (`conll03/train:17`)."""
    instruction: str
    """The instruction as the row gives it; empty where a bank supplies it (see `bank`)."""
    target: str
    """The correct answer, for training and scoring, without the end-of-sequence token. Empty only in rows without an
    answer, which `predict` reads."""
    context: Context = field(default_factory=Context)
    """Question, format, options and text."""
    task: str = "generation"
    """Key of `robustlm.tasks.TASKS`; that task formats, parses and scores the answer."""
    bank: str = ""
    """Name of the instruction bank that supplies phrasings; empty: the sample has only its own instruction."""
    instruction_id: str = ""
    """Id of the bank's phrasing that `instruction` holds (`ner/concise/seen/0`)."""
    variant: str | None = None
    """A noisy or paraphrased instruction that came with the row (released ANIT rows: `adv_instruction`)."""
    dataset: str = ""
    """Name of the dataset whose score includes this row (`conll03`); empty: the task's name is used."""
    choices: tuple[str, ...] = ()
    """The admissible targets of a classification or multiple-choice row; empty for free text."""
    fields: tuple[tuple[str, str], ...] = ()
    """Name and text of each field that fills a placeholder of the instruction (`{premise} … {hypothesis}`); empty if
    instructions have no placeholders."""
    group: str = ""
    """Rows with the same group are put into one batch, in their order (a sample and its hard negatives); empty: no
    group."""
    topic: str = ""
    """Topic of the row (MMLU: its subject). Its few-shot examples have the same topic. Empty: no topic."""
    examples: tuple[Sample, ...] = ()
    """Solved rows that the prompt shows before this row, in this order. Examples without an instruction use this
    row's."""

    turns: tuple[Turn, ...] = ()
    """Earlier turns of a chat: a system message, if any, and turns of `user`, `assistant` and `tool`. The instruction
    is the user's last turn."""
    since: tuple[Turn, ...] = ()
    """Turns after the instruction: calls of tools by the assistant, and what the tools returned; the answer follows."""
    tools: str = ""
    """The tools that the chat offers, as a JSON list; empty: none."""
    reply: str = ""
    """The fields of the answer's message as JSON if it calls tools, in the form of the row; the target is its text."""
    trains_replies: bool = False
    """Whether training counts the assistant's earlier turns as answers too, besides the target."""
    wording: str = ""
    """The instruction before noise or an attack changed it; empty: neither has changed it."""
    draw: int | None = None
    """In evaluation: number of the answer among those drawn for this question; null: the only one."""
    answer_words: tuple[tuple[str, str], ...] = ()
    """Where the instruction asks for answers of its own instead of the labels: each answer and the label that it
    stands for, in the order of the labels. Target and choices are these answers."""

    def reworded(self, instruction: str) -> Sample:
        """The sample with an instruction that noise or an attack made; `wording` keeps the one before any change."""
        return replace(self, instruction=instruction, wording=self.wording or self.instruction)

    @property
    def applied_to(self) -> tuple[object, ...]:
        """The input of the instruction: context, fields, the other turns and tools; empty where all are empty."""
        parts: tuple[object, ...] = self.context, self.fields, self.turns
        if parts == (Context(), (), ()) and not self.since and not self.tools:
            return ()
        return (*parts, self.since, self.tools) if self.since or self.tools else parts

    @property
    def system(self) -> tuple[Turn, ...]:
        """The system message of a chat, or nothing."""
        return self.turns[:1] if self.turns and self.turns[0][0] in SYSTEM_ROLES else ()

    @property
    def history(self) -> tuple[Turn, ...]:
        """The earlier turns of a chat without its system message, from a user's turn on; or nothing."""
        return self.turns[len(self.system) :]

    @property
    def uses_tools(self) -> bool:
        """Whether the chat offers tools, or a message of it has to do with them."""
        return bool(self.tools or self.reply or self.since) or any(len(turn) > 2 for turn in self.turns)

    @property
    def trains_earlier(self) -> bool:
        """Whether there are earlier replies, and training counts them."""
        return self.trains_replies and any(turn[0] == "assistant" for turn in (*self.turns, *self.since))


def each_reply(sample: Sample) -> list[Sample]:
    """A sample for every reply of a chat: those of its earlier turns, in order, and the sample itself.

    An earlier reply is the target of the user's turn before it, after the turns before that one; calls of tools between
    the two are `since`. The new samples are free text or calls of tools, without bank and group; the id of reply n is
    `<id>#<n>`.
    """
    found: list[Sample] = []
    asked = 0
    turns: tuple[Turn, ...] = (*sample.turns, ("user", sample.instruction), *sample.since)
    for at, turn in enumerate(turns):
        if turn[0] == "user":
            asked = at
        elif turn[0] == "assistant":
            id = f"{sample.id}#{len(found) + 1}"
            found.append(_replying(id, turns[:at], asked, turn, sample))
    return [*found, sample]


def _replying(id: str, turns: tuple[Turn, ...], asked: int, reply: Turn, whole: Sample) -> Sample:
    """The sample whose answer is the reply after these turns; the user's turn at `asked` is its instruction."""
    more = reply[2] if len(reply) > 2 else ""
    return Sample(
        id,
        turns[asked][1],
        answer_of(reply),
        task="tool_calls" if more else "generation",
        dataset=whole.dataset,
        topic=whole.topic,
        turns=turns[:asked],
        since=turns[asked + 1 :],
        tools=whole.tools,
        reply=more,
    )


def answer_of(turn: Turn) -> str:
    """A reply as the text of an answer: its text, and the tools that it calls."""
    if len(turn) < 3:
        return turn[1]
    return as_text(json.loads(turn[2]).get("tool_calls") or [], turn[1])


def is_request(sample: Sample) -> bool:
    """Whether the instruction alone states the whole request, and the answer is free text or calls tools.

    True for chats, prompts with completions and Alpaca rows. False for rows with a bank, placeholders, choices, options
    or an answer format, and for tasks other than `generation` and `tool_calls`.
    """
    context = sample.context
    told = sample.bank or sample.fields or sample.choices or context.format or context.option
    return sample.task in ("generation", "tool_calls") and not told
