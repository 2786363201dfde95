"""Batches that datamodules pass to the model: samples as padded tensors, and prompts as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, pairwise
from typing import Literal, Required, TypedDict, TypeVar, cast

import torch
from torch import Tensor, nn

from robustlm.utils.tool_calls import message_of

IGNORE = -100
"""Label of positions without an answer token; transformers leaves these positions out of the loss."""

Scope = Literal["prompt", "instruction", "all"]
"""Which positions an adversary may perturb."""

Measure = Literal["options", "acc", "acc_norm", "acc_bytes"]
"""How the likeliest option is chosen. `options`: log-likelihood per token, with end of sequence. The others are
those of lm-evaluation-harness, without end of sequence: the sum, and the sum per character or byte of the option."""


class Message(TypedDict, total=False):
    """A message of a chat, as endpoints and chat templates take it."""

    role: Required[str]
    content: str
    tool_calls: list[object]
    tool_call_id: str
    name: str


T = TypeVar("T", bound="_Movable")


def messages_in(text: str, chat: Sequence[tuple[str, int, int]], fields: Sequence[str] = ()) -> list[Message] | None:
    """The messages of a chat that a text holds; null if the text is no chat.

    Args:
        text: A prompt.
        chat: Role, start and end of each message in it, in characters.
        fields: For each message, its other fields as JSON, or nothing; empty: no message has any.
    """
    more = fields or [""] * len(chat)
    found = [message_of(role, text[start:end], own) for (role, start, end), own in zip(chat, more, strict=True)]
    return cast(list[Message], found) or None


@dataclass(slots=True)
class Encoded:
    """One tokenised row, not yet padded."""

    prompt_ids: list[int]
    instruction: list[bool]
    """For each prompt token, whether it belongs to the instruction."""
    context: list[bool]
    """For each prompt token, whether it belongs to the context."""
    answer_ids: list[int]
    """Token ids of the target, with the end-of-sequence token."""
    text: str = ""
    """The prompt as text, without the special tokens that the tokenizer adds at its ends."""
    offsets: Sequence[int] = ()
    """Where each prompt token starts and ends in `text`: two numbers for each token."""
    chat: Sequence[tuple[str, int, int]] = ()
    """Role, start and end in `text` of each message of a chat; empty if the prompt is no chat."""
    replies: Sequence[bool] = ()
    """For each prompt token, whether it belongs to an earlier reply that is trained; empty if none is."""
    fields: Sequence[str] = ()
    """For each message of `chat`, its other fields as JSON, or nothing; empty if no message has any."""
    tools: str = ""
    """The tools that the chat offers, as a JSON list; empty: none."""

    @property
    def trained(self) -> int:
        """Number of tokens that are trained: the answer, and earlier replies."""
        return len(self.answer_ids) + sum(self.replies)

    @property
    def reply_ids(self) -> list[int]:
        """Token ids of the earlier replies that are trained."""
        return [token for token, own in zip(self.prompt_ids, self.replies, strict=False) if own]

    @property
    def messages(self) -> list[Message] | None:
        """The prompt as messages of a chat, as they are after truncation; null if the prompt is no chat."""
        return messages_in(self.text, self.chat, self.fields)

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


class _Movable:
    """Moves the tensors of a dataclass between devices."""

    def to(self: T, device: torch.device | str, non_blocking: bool | None = None) -> T:
        """The same object with its tensors on `device`.

        Args:
            device: Where to.
            non_blocking: Whether the host goes on while the copy runs; null: unless the copy goes to the CPU, where
                the values could be read too early. Lightning moves batches without this argument.
        """
        beside = torch.device(device).type != "cpu" if non_blocking is None else non_blocking
        return self._map(lambda value: value.to(device, non_blocking=beside))

    def pin_memory(self: T) -> T:
        """The same object with its tensors in pinned memory."""
        return self._map(lambda value: value.pin_memory())

    def _map(self: T, move: object) -> T:
        kept = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor | _Movable) and not item.metadata.get("stays"):
                value = move(value)  # type: ignore[operator]
            kept[item.name] = value
        return type(self)(**kept)


@dataclass(frozen=True)
class Layout(_Movable):
    """Where the n answer tokens and all N tokens of a view with R rows stand, row by row, in the order of the row.

    It is made on the CPU, where the batch is made. So a step on a GPU knows every shape in advance, and never waits for
    the device to count tokens. A model that runs rows without their padding reads from it which position belongs to
    which row.
    """

    targets: Tensor
    """Int64 `[n]`: the answer tokens."""
    rows: Tensor
    """Int64 `[n]`: the row of each."""
    columns: Tensor
    """Int64 `[n]`: the column of each in `View.labels`."""
    counts: tuple[int, ...]
    """The number of answer tokens of each row; R numbers."""
    tokens: tuple[int, ...]
    """`targets` as plain numbers, which can be compared without the device."""
    lengths: tuple[int, ...]
    """The number of tokens of each row in `View.input_ids`, without padding; R numbers. Empty, as `kept`, `within` and
    `starts`, if only the device knows which rows were chosen (`View.one_of`)."""
    kept: Tensor
    """Int64 `[N]`: the place of each token in `View.input_ids`, as row · T + column."""
    within: Tensor
    """Int64 `[N]`: the number of each token in its row, from 0."""
    starts: Tensor
    """Int64 `[R + 1]`: how many tokens stand before each row; the last one is N."""
    width: int
    """T, the number of columns of `View.input_ids`."""
    leading: bool
    """Whether a row has an answer token at column 0, which a decoder cannot predict."""

    @classmethod
    def of(cls, labels: Tensor, attention_mask: Tensor) -> Layout:
        """Read the layout from `View.labels` and `View.attention_mask`; on a GPU, the host waits for it."""
        answered = labels != IGNORE
        rows, columns = (one.contiguous() for one in answered.nonzero().unbind(1))
        targets = labels[rows, columns]
        counts, tokens = tuple(answered.sum(1).tolist()), tuple(targets.tolist())
        read = attention_mask != 0
        lengths, kept = tuple(read.sum(1).tolist()), read.flatten().nonzero()[:, 0]
        within = (read.cumsum(1) - 1).flatten()[kept]
        starts, width = nn.functional.pad(read.sum(1).cumsum(0), (1, 0)), attention_mask.shape[1]
        leading = bool(answered[:, :1].any())
        return cls(targets, rows, columns, counts, tokens, lengths, kept, within, starts, width, leading)

    @property
    def padded(self) -> bool:
        """Whether any row has padding; true if it is not known."""
        return len(self.kept) < len(self.counts) * self.width

    def part(self, at: slice) -> Layout:
        """The layout of a range of rows."""
        start, stop, _ = at.indices(len(self.counts))
        own = slice(sum(self.counts[:start]), sum(self.counts[:stop]))
        read = slice(sum(self.lengths[:start]), sum(self.lengths[:stop]))
        return Layout(
            self.targets[own],
            self.rows[own] - start,
            self.columns[own],
            self.counts[at],
            self.tokens[own],
            self.lengths[at],
            self.kept[read] - start * self.width,
            self.within[read],
            self.starts[start : stop + 1] - read.start,
            self.width,
            self.leading,
        )

    def one_of(self, many: int, which: Tensor) -> Layout:
        """The layout of one row of each group, where the groups are known and the choice is on the device.

        Args:
            many: K; rows `g·K … g·K + K − 1` are group g. They have the same answer tokens.
            which: Int64 `[R / K]`: the place of the chosen row in its group.

        Raises:
            ValueError: Rows of a group have other answers.
        """
        ends = list(accumulate(self.counts, initial=0))
        own = [self.tokens[start:stop] for start, stop in pairwise(ends)]
        first, counts = own[::many], self.counts[::many]
        if any(own[row] != first[row // many] for row in range(len(own))):
            raise ValueError(
                f"rows of a group of {many} have other answer tokens; expected {many} variants of the same sample"
            )
        groups = [group for group, count in enumerate(counts) for _ in range(count)]
        begins = [ends[group * many] + within for group, count in enumerate(counts) for within in range(count)]
        each, sizes, at = (
            torch.tensor(one, dtype=torch.long).to(self.columns.device, non_blocking=True)
            for one in (groups, [counts[group] for group in groups], begins)
        )
        columns = self.columns.index_select(0, at + which.index_select(0, each) * sizes)
        empty = self.kept[:0]
        tokens = tuple(token for row in first for token in row)
        return Layout(
            self.targets.index_select(0, at),
            each,
            columns,
            counts,
            tokens,
            (),
            empty,
            empty,
            empty,
            self.width,
            self.leading,
        )


@dataclass
class View(_Movable):
    """Tokenised samples as padded tensors: R rows of T positions.

    Decoder-only models get prompt and answer in one sequence. It is padded on the left, so all rows end together: the
    last token is at position −1, and a row and its variants have their answers at the same last positions. Earlier
    replies of a chat that are trained too have labels within the prompt; they stand at other positions in a variant
    whose prompt has another length.
    Encoder–decoder models get the prompt in the encoder and the answer in `labels`. The prompt is padded on the right,
    because BART-like models use absolute positions.
    """

    input_ids: Tensor
    """Int64 `[R, T]`."""
    attention_mask: Tensor
    """Int64 `[R, T]`, 0 at padding."""
    labels: Tensor
    """Int64, `IGNORE` where there is no answer: `[R, T]` for decoder-only models, `[R, A]` for encoder–decoders."""
    instruction_mask: Tensor
    """Bool `[R, T]`: tokens of the instruction."""
    context_mask: Tensor
    """Bool `[R, T]`: tokens of question, format, options and text."""
    texts: tuple[str, ...] = ()
    """The R prompts as text, in views without answers; empty in others."""
    messages: tuple[list[Message] | None, ...] = ()
    """The R prompts as messages of a chat, in views without answers; null for a prompt that is no chat. Empty in
    others."""
    tools: tuple[str, ...] = ()
    """For each of the R prompts, the tools that its chat offers as a JSON list, or an empty text; in views without
    answers."""
    keys: tuple[int, ...] = ()
    """In views of an evaluation without answers: a hash of what each row is asked (sample, condition, instruction) and
    of its draw, for random numbers that depend on nothing else. Empty in others, as is the next field."""
    draws: tuple[int, ...] = ()
    """Number of each row's answer among those drawn for the same question, from 0."""

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        if name in ("labels", "attention_mask"):
            self.__dict__.pop("_layout", None)

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if self._kept is not None:  # a copy counts its changes anew
            self._keep(self._kept[0])

    @property
    def layout(self) -> Layout:
        """Where the answer tokens stand. It is made once, and again after a change of `labels` or `attention_mask`."""
        kept = self._kept
        if kept is not None and kept[1] == self._versions():
            return kept[0]
        found = Layout.of(self.labels, self.attention_mask)
        self._keep(found)
        return found

    @property
    def _kept(self) -> tuple[Layout, tuple[int, int]] | None:
        """The layout, and the versions of the tensors that it describes. `dataclasses.replace` does not copy it."""
        found: tuple[Layout, tuple[int, int]] | None = self.__dict__.get("_layout")
        return found

    def _keep(self, layout: Layout) -> None:
        self.__dict__["_layout"] = layout, self._versions()

    def _versions(self) -> tuple[int, int]:
        """How often each tensor was changed in place; tensors made under inference mode do not count it."""
        first, second = (0 if one.is_inference() else one._version for one in (self.labels, self.attention_mask))
        return first, second

    def _map(self, move: object) -> View:
        moved = super()._map(move)
        if self.labels.device.type == "cpu" or self._kept is not None:
            moved._keep(self.layout._map(move))
        return moved

    def part(self, at: slice) -> View:
        """A range of rows, with all columns."""
        found = View(
            self.input_ids[at],
            self.attention_mask[at],
            self.labels[at],
            self.instruction_mask[at],
            self.context_mask[at],
            self.texts[at],
            self.messages[at],
            self.tools[at],
        )
        found._keep(self.layout.part(at))
        return found

    def one_of(self, many: int, which: Tensor, *, measured: bool = False) -> View:
        """One row of each group of `many` rows, with all columns. The host does not wait for the choice.

        Args:
            many: K; rows `g·K … g·K + K − 1` are variants of one sample.
            which: Int64 `[R / K]`: the place of the chosen row in its group.
            measured: Let the host wait for the choice, so that the layout also has the lengths of the rows. A model
                that runs rows without their padding needs them.

        Raises:
            ValueError: Rows of a group have other answers.
        """
        rows = torch.arange(0, len(self), many, device=which.device) + which
        found = View(
            self.input_ids.index_select(0, rows),
            self.attention_mask.index_select(0, rows),
            self.labels.index_select(0, rows),
            self.instruction_mask.index_select(0, rows),
            self.context_mask.index_select(0, rows),
        )
        chosen = self.layout.one_of(many, which)
        found._keep(Layout.of(found.labels, found.attention_mask) if measured else chosen)
        return found

    def perturbable(self, scope: Scope) -> Tensor:
        """Mask of the positions that an adversary may perturb: bool `[R, T]`.

        `prompt` means instruction and context, `instruction` the instruction alone; both exclude padding, special
        tokens, template words and the answer. `all` means every position of the sequence except padding (published code
        of [ANIT]).
        """
        if scope == "instruction":
            return self.instruction_mask
        if scope == "prompt":
            return self.instruction_mask | self.context_mask
        return self.attention_mask.bool()

    def select(self, rows: Tensor, *, encoder_decoder: bool = False) -> View:
        """Select rows (int64 `[n]`, in this order), without columns that are padding in all of them."""
        attended, labels = self.attention_mask[rows], self.labels[rows]
        kept = attended.bool().any(0)
        answered = (labels != IGNORE).any(0) if encoder_decoder else kept
        return View(
            self.input_ids[rows][:, kept],
            attended[:, kept],
            labels[:, answered],
            self.instruction_mask[rows][:, kept],
            self.context_mask[rows][:, kept],
            tuple(self.texts[row] for row in rows.tolist()) if self.texts else (),
            tuple(self.messages[row] for row in rows.tolist()) if self.messages else (),
            tuple(self.tools[row] for row in rows.tolist()) if self.tools else (),
            tuple(self.keys[row] for row in rows.tolist()) if self.keys else (),
            tuple(self.draws[row] for row in rows.tolist()) if self.draws else (),
        )


@dataclass
class Unanswered(_Movable):
    """The rows of a training batch that bring no answer, and what its views are made of once one is chosen.

    Everything but `options` stays on the host: choosing answers of other lengths changes the shapes of the views.
    """

    rows: list[int]
    """Numbers of the U rows without an answer among the B raw rows."""
    answers: list[list[list[int]]]
    """Token ids of each option of these rows."""
    held: list[int]
    """For each of these rows, the option that the views hold until one is chosen: the longest one."""
    truths: list[int | None]
    """For each of these rows, the true option, where the answer is known and hidden; null where it is not known."""
    classes: list[tuple[str, tuple[str, ...]]]
    """For each of these rows, its dataset and the names of its options; see `OpenRow.classes`."""
    raw: list[Encoded]
    """The B raw rows."""
    variant: list[Encoded]
    """The B·K variants."""
    options: View
    """One row for each phrasing and option of each of these rows: phrasings are the raw one, then the K variants."""
    asked: Tensor = field(metadata={"stays": True})
    """Int64: for each row of `options`, the number of its prompt, u·(K + 1) + phrasing."""
    pad_id: int = 0
    encoder_decoder: bool = False

    def answered(self, chosen: Sequence[int]) -> tuple[View, View]:
        """The views `raw` and `variant` in which these rows have the chosen options as answers, on the host."""
        ids = {row: own[at] for row, own, at in zip(self.rows, self.answers, chosen, strict=True)}
        many = len(self.variant) // len(self.raw)
        raw = [replace(one, answer_ids=ids.get(at, one.answer_ids)) for at, one in enumerate(self.raw)]
        variant = [replace(one, answer_ids=ids.get(at // many, one.answer_ids)) for at, one in enumerate(self.variant)]
        first, second = (
            collate(rows, pad_id=self.pad_id, encoder_decoder=self.encoder_decoder) for rows in (raw, variant)
        )
        return first, second


@dataclass
class InstructionBatch(_Movable):
    """The batch that every datamodule yields: samples under one or more phrasings."""

    raw: View
    """B rows: each sample under its own instruction."""
    ids: list[str]
    """Sample ids, B of them."""
    variant: View | None = None
    """Noisy or paraphrased rows, K for each sample, sample by sample (`B·K` rows)."""
    negative: View | None = None
    """Rows with the same instruction and another input and target."""
    beta: Tensor | None = None
    """Semantic distortion of each variant row in [0, 1], fp32 `[B·K]`."""
    keys: Tensor | None = None
    """Int64 `[B]`: equal for samples that ask the same thing, in any phrasing, and have the same target."""
    negative_keys: Tensor | None = None
    """Int64: the same for the rows of `negative`."""
    touched: Tensor | None = None
    """Bool `[B·K, T]`: the tokens of its raw row that each of several variants changes; null with one variant each."""
    seeds: Tensor | None = field(default=None, metadata={"stays": True})
    """Int64 `[B·K]`, on the CPU: hash of (run seed, epoch, sample, variant), for random draws that must not depend on
    batching, rank or padding."""
    step_tokens: float | None = None
    """Answer tokens of raw rows in the whole optimiser step, divided by the number of micro-batches in it (over ranks
    and accumulation). Dividing summed losses by it makes the step's gradient a mean over all its answer tokens."""
    replay: View | None = None
    """Rows of running text that are trained beside the others; all their tokens but the first are targets."""
    replay_tokens: float | None = None
    """As `step_tokens`, for the targets of `replay`: their expected number, since each row of the step brings a row of
    text with some probability. Null: no text is replayed."""
    unanswered: Unanswered | None = None
    """In training: the rows without an answer; null: every row has one."""
    weights: Tensor | None = None
    """Weight of each row's answer losses, fp32 `[B]`; its variants have the same. Null: 1 for all."""
    prompt: View | None = None
    """In evaluation: the raw rows without answers, the input of `generate`."""
    condition: str = "clean"
    """In evaluation: name of the instruction condition."""
    instruction_ids: list[str] = field(default_factory=list)
    """In evaluation: id of the phrasing of each raw row."""
    draws: list[int | None] = field(default_factory=list)
    """In evaluation: number of each row's answer among those drawn for the same question; null: the only one."""
    instructions: list[str] = field(default_factory=list)
    """In evaluation: the instruction of each raw row as it is asked, with its slots unfilled."""
    wordings: list[str] = field(default_factory=list)
    """In evaluation: the instruction of each raw row before noise or an attack."""
    targets: list[str] = field(default_factory=list)
    """In evaluation: target texts."""
    tasks: list[str] = field(default_factory=list)
    """In evaluation: task names."""
    groups: list[str] = field(default_factory=list)
    """In evaluation: for each row, the dataset whose score includes it."""
    labels: list[tuple[str, ...]] = field(default_factory=list)
    """In evaluation: the labels or options that the prompt of each raw row shows; empty for free text."""
    answer_words: list[tuple[tuple[str, str], ...]] = field(default_factory=list)
    """In evaluation: `Sample.answer_words` of each row; an empty list if no row has any."""
    choices: list[tuple[str, ...]] = field(default_factory=list)
    """If options are scored: the allowed targets of each raw row; empty for rows whose answer is generated."""
    options: View | None = None
    """One row for each choice of each raw row: the raw row's prompt with the choice as the answer."""
    option_rows: Tensor | None = None
    """Int64: for each row of `options`, the number of its raw row, in ascending order."""
    measure: Measure = "options"
    """How the likeliest option is chosen."""
    pass_rows: int | None = None
    """Largest number of rows in one forward pass over options: prompts with all their options, or single options."""

    def __len__(self) -> int:
        return len(self.ids)


def collate(rows: Sequence[Encoded], *, pad_id: int, encoder_decoder: bool = False, with_answer: bool = True) -> View:
    """Pad tokenised rows into a view.

    Args:
        rows: At least one row.
        pad_id: Token id of padding.
        encoder_decoder: Whether the model is an encoder–decoder: answers go to `labels` only.
        with_answer: False leaves answers out of `input_ids` (for generation); all labels are then `IGNORE`, and the
            view also holds the prompts as text.

    Returns:
        A view of `len(rows)` rows.
    """
    inline = with_answer and not encoder_decoder
    widths = [len(row) if inline else len(row.prompt_ids) for row in rows]
    count, width = len(rows), max(widths)
    ids = torch.full((count, width), pad_id, dtype=torch.long)
    attention = torch.zeros(count, width, dtype=torch.long)
    instruction = torch.zeros(count, width, dtype=torch.bool)
    context = torch.zeros(count, width, dtype=torch.bool)
    labels = torch.full((count, width), IGNORE, dtype=torch.long)
    for i, (row, length) in enumerate(zip(rows, widths, strict=True)):
        start = 0 if encoder_decoder else width - length
        prompt = slice(start, start + len(row.prompt_ids))
        ids[i, prompt] = torch.tensor(row.prompt_ids)
        instruction[i, prompt] = torch.tensor(row.instruction)
        context[i, prompt] = torch.tensor(row.context)
        attention[i, start : start + length] = 1
        if inline:
            ids[i, prompt.stop :] = labels[i, prompt.stop :] = torch.tensor(row.answer_ids)
            if any(row.replies):
                said = torch.tensor(row.replies)
                labels[i, prompt][said] = ids[i, prompt][said]
    if encoder_decoder:
        labels = torch.full((count, max(len(row.answer_ids) for row in rows)), IGNORE, dtype=torch.long)
        for i, row in enumerate(rows):
            labels[i, : len(row.answer_ids)] = torch.tensor(row.answer_ids)
    view = View(ids, attention, labels, instruction, context)
    if not with_answer:
        view.texts = tuple(row.text for row in rows)
        view.messages = tuple(row.messages for row in rows)
        view.tools = tuple(row.tools for row in rows)
    _ = view.layout  # made here, in a worker process, and not in the step
    return view
