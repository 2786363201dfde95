"""The one shape every row takes before anything else happens to it."""

from __future__ import annotations

from dataclasses import dataclass, field

Turn = tuple[str, str]
"""Role and text of a message of a chat."""
SYSTEM_ROLES = ("system", "developer")
"""Roles of the message that may open a chat."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the instruction is applied to; empty parts drop out of the prompt ([ANIT] rendering)."""

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
    """An instruction, a context and a target: one thing to be done, in one phrasing."""

    id: str
    """Stable and unique within a run: names the source and the row's number (`conll03/train:17`)."""
    instruction: str
    """The instruction as the row gives it; empty where a bank supplies it (see `bank`)."""
    target: str
    """The answer to be trained and compared with, without end-of-sequence token; empty in rows that are asked alone
    (`predict`), as no row with an answer has an empty one."""
    context: Context = field(default_factory=Context)
    """Question, format, options and text."""
    task: str = "generation"
    """Key of `robustlm.tasks.TASKS`: who formats, parses and scores the answer."""
    bank: str = ""
    """Name of the instruction bank this sample's phrasings come from; empty: it has only its own."""
    instruction_id: str = ""
    """Which phrasing of the bank `instruction` is (`ner/concise/seen/0`)."""
    variant: str | None = None
    """A noisy or paraphrased instruction that came with the row (released ANIT rows: `adv_instruction`)."""
    dataset: str = ""
    """Whose score the row counts in (`conll03`); the task's where empty."""
    choices: tuple[str, ...] = ()
    """The admissible targets of a classification or multiple-choice row; empty for free text."""
    fields: tuple[tuple[str, str], ...] = ()
    """Name and text of each field that an instruction with placeholders (`{premise} … {hypothesis}`) shows; empty where
    instructions have none."""
    group: str = ""
    """Rows of one group are in one batch, in the rows' order (a sample and its hard negatives); empty: free."""
    topic: str = ""
    """What the row is about, as few-shot examples of it must be too (MMLU: its subject); empty: they may be any."""
    examples: tuple[Sample, ...] = ()
    """Solved rows that are shown before this one, in this order; those without an instruction share this row's."""

    turns: tuple[Turn, ...] = ()
    """Earlier turns of a chat: a system message, if any, and turns of `user` and `assistant`. The instruction is the
    user's last turn."""

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


def is_request(sample: Sample) -> bool:
    """Whether the instruction alone says what is asked, as in free text that answers an instruction of its own.

    So it is in chats, prompts with completions and Alpaca rows. A row with a bank, with placeholders, choices, options
    or a format for its answer is asked for more than its instruction says.
    """
    context = sample.context
    told = sample.bank or sample.fields or sample.choices or context.format or context.option
    return sample.task == "generation" and not told
