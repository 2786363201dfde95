"""`Sample`: the common form that every row is converted to when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

Turn = tuple[str, str]
"""Role and text of a message of a chat."""
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
    """Earlier turns of a chat: a system message, if any, and turns of `user` and `assistant`. The instruction is the
    user's last turn."""
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
        """The input of the instruction: context, fields and earlier turns; empty where all of these are empty."""
        parts: tuple[object, ...] = self.context, self.fields, self.turns
        return () if parts == (Context(), (), ()) else parts

    @property
    def system(self) -> tuple[Turn, ...]:
        """The system message of a chat, or nothing."""
        return self.turns[:1] if self.turns and self.turns[0][0] in SYSTEM_ROLES else ()

    @property
    def history(self) -> tuple[Turn, ...]:
        """The earlier turns of a chat without its system message: `user` and `assistant` in turn, or nothing."""
        return self.turns[len(self.system) :]


def each_reply(sample: Sample) -> list[Sample]:
    """A sample for every reply of a chat: those of its earlier turns, in order, and the sample itself.

    An earlier reply is the target of the user's turn before it, after the turns before that one. The new samples are
    free text, without bank and group; the id of reply n is `<id>#<n>`.
    """
    found = []
    for at in range(0, len(sample.history), 2):
        (_, asked), (_, reply) = sample.history[at : at + 2]
        turns = (*sample.system, *sample.history[:at])
        one = Sample(
            f"{sample.id}#{at // 2 + 1}", asked, reply, dataset=sample.dataset, topic=sample.topic, turns=turns
        )
        found.append(one)
    return [*found, sample]


def is_request(sample: Sample) -> bool:
    """Whether the instruction alone states the whole request, and the answer is free text.

    True for chats, prompts with completions and Alpaca rows. False for rows with a bank, placeholders, choices, options
    or an answer format, and for tasks other than `generation`.
    """
    context = sample.context
    told = sample.bank or sample.fields or sample.choices or context.format or context.option
    return sample.task == "generation" and not told
