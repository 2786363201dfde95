"""Base of all datamodules: reads sources and makes batches."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, cast, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from robustlm.batch import InstructionBatch
from robustlm.checks.numbers import check_number, check_seed
from robustlm.conditions.condition import Condition, parse_condition
from robustlm.conditions.surface import resurfaced
from robustlm.datamodules.batches import EncodedSamples, EvaluationDataset, TrainDataset
from robustlm.datamodules.caching import DEFAULT_CACHE, RowCache, digests, settings_of, users_code, write_large
from robustlm.datamodules.connection import ConnectedModel, ModelHolder, longest_row
from robustlm.datamodules.phrasing import Phraser
from robustlm.datamodules.preparation import Preparation, Scoring, Tokenised, check_askable, under_each
from robustlm.datamodules.replay import Replay, ReplayedText
from robustlm.datamodules.sampling import EvaluationSampler, LateLoader, Order, ResumableLoader, StepSampler
from robustlm.datamodules.streaming import StreamedWindows, StreamLoader, StreamSettings, check_trainer
from robustlm.datamodules.text_files import TextFiles
from robustlm.datamodules.text_rows import TextRows
from robustlm.datamodules.token_batches import TokenBatches
from robustlm.datamodules.turns import with_noisy_turns
from robustlm.evaluation.record import Key
from robustlm.evaluation.session import EvaluationSession
from robustlm.instructions.banks import NO_FORMAT, Version
from robustlm.instructions.phrasings import Phrasings
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.prompts.variables import check_values
from robustlm.sample import Sample, each_reply
from robustlm.sources.large import LargeSources, unpacked_size
from robustlm.sources.loading import KnownLabels, as_source, load_all, rejected_files
from robustlm.sources.source import BUILTIN, Role, Source, Sources, asked_by, formatted_by, listed, named_by_path
from robustlm.sources.streams import RowStream
from robustlm.utils.parallel import sensible_processes, usable_cores
from robustlm.utils.serialization import to_plain

log = logging.getLogger(__name__)

AssistantTurns = Literal["last", "all", "each"]
"""Which replies of a chat are trained."""
NoisyTurns = Literal["last", "all"]
"""Which user turns of a chat get noise and paraphrases."""

_UNCONNECTED = "call `connect(model)` first"

_MOST_ANSWERS = 10_000
"""Maximum of `draws`; guards against a typing error that would ask for days."""
_MOST_WORKERS = 4096
"""Maximum of `num_workers`; guards against a typing error that would start too many processes."""


_ENOUGH_WORKERS = 4
"""Maximum of `num_workers: auto`."""


class InstructionDataModule(LightningDataModule):
    """Rows from any source, one loader to train from and one test loader for each instruction condition.

    Args:
        train: Rows to train on: a path, or a list of paths and sources.
        validation: Rows whose loss is watched while training.
        test: Rows to score, under every condition.
        template: How prompts are written: `plain`, `alpaca`, `chat` (the tokenizer's own), or a format string with
            `{instruction}`, `{question}`, `{format}`, `{option}`, `{text}`, `{context}`.
        instructions: Which phrasings of an instruction bank are used: `concise`, `detailed` or `both`. Rows with an
            instruction of their own keep it.
        bank: A bank (name, JSON file, or `file.json#name`) whose instructions replace those of the rows, for sources
            that do not name a bank.
        unseen_share: For a bank that is a plain list (`file.json#name`): share of its templates, the last ones, that
            are kept from training as `unseen`. 0: none; 1: all; null: a quarter, rounded up, if there are four or more.
        format: `none` leaves out the line on the answer's format for sources that name no format, as `format: none` of
            a source does; null leaves it to the sources.
        phrasing: `fixed` asks a row with one phrasing in all epochs, `fresh` with another one every epoch (PAFT).
        paraphrases: File of paraphrases (JSONL, `{"instruction": …, "paraphrases": […]}`): more phrasings for rows that
            bring their own instructions.
        conditions: Instruction conditions of a test: `clean`, `unseen` (phrasings kept from training),
            `list:<name>` (a list of the bank), `<noise kind>@<omega>`, or `incorrect`, `negated`, `nonsensical`; for a
            `RobustnessDataModule` also `paraphrased` and `attack:<recipe>@<omega>`. Some can be joined by `+`.
        batch_size: Rows in a training batch on one device.
        eval_batch_size: Rows in an evaluation batch; null: twice `batch_size`.
        max_length: Maximum length of a row in tokens. The context is cut to fit; instruction and target never are.
        group_by_length: Train on batches of rows of similar length.
        batch_tokens: Train on batches of as many rows as fit this number of tokens, instead of `batch_size` rows.
            Padding counts, unless the model runs without (`model.loading.padding_free`). Tokens are those of the rows
            under their own instructions, in one view. A contrast has fewer candidates in batches of longer rows.
        replays: Number of times that each training batch is served, one after another (what `FreeAT` needs).
        num_workers: Processes that prepare batches; 0 prepares them in the training process. `auto`: 0 for rows in
            memory; for training rows in the cache, one less than the cores of this process, and 4 at most. Batches do
            not depend on it.
        seed: Seed of the order of rows, of phrasings and of noise.
        on_bad_row: `strict` finds all bad rows, then raises an error; `skip` leaves them out.
        rejected: File for the rows that `skip` leaves out, with reasons (JSONL).
        scoring: How evaluation finds answers: `generation`, or the likeliest of a row's choices (for rows without
            choices, answers are generated): per token with end of sequence (`options`), or as lm-evaluation-harness
            takes it (`acc`: the sum, `acc_norm`: per character, `acc_bytes`: per byte).
        system: A system message for rows that bring none; null: such rows have none.
        chat_template_kwargs: Values of the variables that the tokenizer's chat template reads, such as
            `{enable_thinking: false}`; null: the template's own defaults. Needs `template: chat`.
        assistant_turns: Which replies of a chat are trained: the `last` one; `all` of them in one row, by the chat
            template's own marks or by comparing prefixes; or `each` one, in a row of its own.
        noisy_turns: Which user turns of a chat get noise and paraphrases: the `last` one, which is the instruction, or
            `all` of them.
        draws: Number of answers to each question of a test, each drawn anew. More than 1 needs `scoring: generation`,
            and a temperature (`model.generation`; `model.hosting` for hosted models and vLLM).
        cache_dir: Folder for training and validation rows that are too large for memory. They are read and tokenised
            once, and used again by later runs with the same files, settings and tokenizer; null: all rows stay in
            memory.
        cache_above: Size of all training files (or of all validation files), unpacked, in megabytes (10⁶ bytes), above
            which their rows go to `cache_dir`.
        stream: Read training rows while training goes on, in windows of this number of rows; nothing is kept in memory
            or on a disk. Rows are shuffled, grouped and compared within a window. Needs `trainer.max_steps`. Null: all
            rows are read before training.
        replay: Running text that is trained beside the rows, so that a model keeps what it learnt from text: a path, or
            a path with the share of such rows; null: none. `model.replay_weight` weighs its loss.
    """

    views: ClassVar[tuple[str, ...]] = ("raw",)
    """The views that training batches hold."""
    prompt_settings: ClassVar[tuple[str, ...]] = (
        "template",
        "instructions",
        "bank",
        "unseen_share",
        "format",
        "system",
        "chat_template_kwargs",
        "max_length",
    )
    """Arguments that decide how a row is written as a prompt. Each is stored in an attribute of the same name.

    Checkpoints and adapters store them, and a test of a checkpoint or adapter reads them from there. A subclass with
    such arguments of its own adds them: `prompt_settings = (*InstructionDataModule.prompt_settings, "mine")`.
    """
    prompt_files: ClassVar[tuple[str, ...]] = ("bank",)
    """Those of `prompt_settings` that may name a file. A file that a checkpoint names is used only if the user names it
    too. Null is not stored, since it leaves the choice to the rows."""
    asks_all: ClassVar[bool] = False
    """Whether all samples of a dataset are asked with the same instructions, which attacks and paraphrases need."""

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise `ValueError`: a checkpoint stores how prompts are written, but no data sources."""
        raise ValueError(
            f"{cls.__name__}.load_from_checkpoint: a checkpoint holds no data sources; make the "
            "datamodule from its arguments or from the run's config.yaml"
        )

    def __init__(
        self,
        train: Sources = None,
        validation: Sources = None,
        test: Sources = None,
        template: str = "plain",
        instructions: Version = "both",
        bank: str | None = None,
        phrasing: Literal["fixed", "fresh"] = "fixed",
        paraphrases: str | None = None,
        conditions: list[str] = ["clean"],  # noqa: B006 - read only
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        max_length: int = 512,
        group_by_length: bool = True,
        replays: int = 1,
        num_workers: int | Literal["auto"] = "auto",
        seed: int = 0,
        on_bad_row: Literal["strict", "skip"] = "strict",
        rejected: str | None = None,
        scoring: Scoring = "generation",
        unseen_share: float | None = None,
        format: Literal["none"] | None = None,
        system: str | None = None,
        chat_template_kwargs: dict[str, bool | int | float | str] | None = None,
        assistant_turns: AssistantTurns = "last",
        noisy_turns: NoisyTurns = "last",
        draws: int = 1,
        batch_tokens: int | None = None,
        cache_dir: str | None = DEFAULT_CACHE,
        cache_above: float = 10.0,
        replay: str | Replay | None = None,
        stream: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size), ("replays", replays)):
            check_number(
                f"data.{name}",
                value,
                least=1,
                below=2**31,
                whole=True,
                or_null="for twice batch_size" if name == "eval_batch_size" else "",
            )
        if phrasing not in ("fixed", "fresh"):
            raise ValueError(f"data.phrasing: found {phrasing!r}; expected fixed or fresh")
        if unseen_share is not None and not 0 <= unseen_share <= 1:
            raise ValueError(f"data.unseen_share: found {unseen_share}; expected a share in [0, 1], or null")
        if num_workers != "auto":
            check_number("data.num_workers", num_workers, least=0, most=_MOST_WORKERS, whole=True)
        check_number("data.cache_above", cache_above, least=0)
        check_number("data.max_length", max_length, least=2, whole=True)
        check_number(
            "data.batch_tokens", batch_tokens, least=2, below=2**31, whole=True, or_null="for batch_size rows a batch"
        )
        check_seed("data.seed", seed)
        check_number("data.stream", stream, least=1, below=2**31, whole=True, or_null="to read all rows first")
        if stream is not None and rejected:
            raise ValueError(
                f"data.rejected: found {rejected!r} with data.stream, which names the rows that it leaves out in the "
                "log; expected null"
            )
        if system is not None and not (isinstance(system, str) and system.strip()):
            raise ValueError(f"data.system: found {system!r}; expected the text of a system message, or null")
        if assistant_turns not in get_args(AssistantTurns):
            known = ", ".join(get_args(AssistantTurns))
            raise ValueError(f"data.assistant_turns: found {assistant_turns!r}; expected one of {known}")
        if noisy_turns not in get_args(NoisyTurns):
            known = ", ".join(get_args(NoisyTurns))
            raise ValueError(f"data.noisy_turns: found {noisy_turns!r}; expected one of {known}")
        if noisy_turns == "all" and bank:
            raise ValueError(
                f"data.noisy_turns: found all with data.bank {bank!r}, whose phrasings replace the last user turn "
                "alone; expected last, or no data.bank"
            )
        check_number("data.draws", draws, least=1, most=_MOST_ANSWERS, whole=True)
        if draws > 1 and scoring != "generation":
            raise ValueError(
                f"data.draws: found {draws} with data.scoring {scoring!r}, whose likelihoods are the same each time; "
                "expected 1, or data.scoring generation"
            )
        check_values(chat_template_kwargs)
        if not conditions:
            raise ValueError("data.conditions: found none; expected at least one, such as clean")
        if format not in (None, NO_FORMAT):
            raise ValueError(
                f"data.format: found {format!r}; expected none or null. A source names the shape of its rows itself: "
                "{path: …, format: …}"
            )
        if scoring not in get_args(Scoring):
            raise ValueError(f"data.scoring: found {scoring!r}; expected one of {', '.join(get_args(Scoring))}")
        self.sources: dict[Role, list[str | Source]] = {
            "train": listed(train),
            "validation": listed(validation),
            "test": listed(test),
        }
        self.template = template
        self.system = system
        self.chat_template_kwargs = chat_template_kwargs or None
        self.assistant_turns: AssistantTurns = assistant_turns
        self.noisy_turns: NoisyTurns = noisy_turns
        self.instructions: Version = instructions
        self.bank = bank
        self.unseen_share = unseen_share
        self.format = format
        self.phrasing: Literal["fixed", "fresh"] = phrasing
        self.paraphrases = paraphrases
        self.conditions = [parse_condition(text) for text in conditions]
        if not self.asks_all and (other := [c.name for c in self.conditions if c.attack or c.paraphrased]):
            raise ValueError(
                f"data.conditions: {other[0]!r} needs all samples to be asked with the same instructions, which "
                f"{type(self).__name__} does not do; expected RobustnessDataModule (-c robustness)"
            )
        if len({condition.name for condition in self.conditions}) < len(self.conditions):
            raise ValueError(f"data.conditions: {conditions} contains a condition twice")
        alike = [replace(condition, name="") for condition in self.conditions]
        for at, condition in enumerate(self.conditions):
            if (first := alike.index(alike[at])) < at:
                raise ValueError(
                    f"data.conditions: {condition.name!r} asks the same as {self.conditions[first].name!r}; expected "
                    "one of them"
                )
        self.named: Collection[str] | None = None
        """Conditions that the user named; null: all. Conditions not in it may be left out, see `under_all`."""
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.eval_batch_size = eval_batch_size or 2 * batch_size
        self.max_length = max_length
        self.group_by_length = group_by_length
        self.replays = replays
        self.num_workers: int | Literal["auto"] = num_workers
        self.cache_dir = cache_dir
        self.cache_above = cache_above
        self.stream = stream
        self.seed = seed
        self.replay = Replay(replay) if isinstance(replay, str) else replay
        self._text: tuple[TextFiles, TextRows] | None = None
        self.on_bad_row: Literal["strict", "skip"] = on_bad_row
        self.rejected = Path(rejected) if rejected else None
        self.scoring: Scoring = scoring
        self.draws = draws
        self.phraser = Phraser(instructions, bank, unseen_share, paraphrases, seed)
        """Decides which instruction each sample is asked with."""
        self.rows: dict[Role, EncodedSamples] = {}
        self.conditioned: dict[str, EncodedSamples] = {}
        self.session = EvaluationSession()
        """The current evaluation; `setup` begins a new one for each test."""
        self.notes: list[str] = []
        """Lines about the rows that were read; `setup` logs them, `check` prints them."""
        self._model: ConnectedModel | None = None
        self._preparation: Preparation | None = None
        self._labels: KnownLabels | None = None
        self._caches: dict[Role, RowCache] = {}
        self._evaluated: dict[str, tuple[EvaluationDataset, EvaluationSampler]] = {}
        """Dataset and sampler of each condition's loader."""
        self._answered = True
        """Whether test rows must have answers; rows of `predict` may lack them."""
        self.samples_rows = False
        """Whether `read` reads a part of the rows of large sources, which `check` looks at."""
        self._every = 1
        self._train_loader: ResumableLoader | None = None
        self._windows: StreamedWindows | None = None
        self._position: dict[str, int] | None = None

    def prompt(self) -> dict[str, object]:
        """The settings that decide how training prompts are written, by name, as plain data."""
        found = {name: to_plain(getattr(self, name)) for name in self.prompt_settings}
        stated = [isinstance(source, Source) and source.format == NO_FORMAT for source in self.sources["train"]]
        if stated and all(stated):
            found["format"] = NO_FORMAT
        return {name: value for name, value in found.items() if value is not None or name not in self.prompt_files}

    # --- reading -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read, check and tokenise the rows that a stage needs."""
        known = len(self.notes)
        if self.trainer is not None:
            module = self.trainer.lightning_module
            check = getattr(module, "check_data", None)
            if stage == "fit" and callable(check):
                check(self)
            self.connect(cast(ModelHolder, module).backbone)
        elif self._model is None:
            raise RuntimeError(f"setup outside a Trainer: {_UNCONNECTED}")
        roles: dict[str, tuple[Role, ...]] = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": ("test",),
        }
        if "test" in roles[stage]:
            self.check_draws()
            self.session = EvaluationSession()
        self._answered = stage != "predict"
        if self._answered and "test" in self.rows and not all(sample.target for sample in self.rows["test"].samples):
            del self.rows["test"]  # read for an earlier `predict`; when read again, rows without answers are refused
            self.conditioned.clear()
        for role in roles[stage]:
            if role not in self.rows and (self.sources[role] or role != "validation"):
                self.rows[role] = self.read(role)
        for note in self.notes[known:]:
            log.warning(note)
        if "test" in roles[stage] and not self.conditioned:
            self.conditioned = self.under_all(self.rows["test"])

    def check_draws(self) -> None:
        """Raise `ValueError` if several answers are asked for and the model gives the same one each time."""
        why = getattr(self._model, "why_alike", None)
        if self.draws > 1 and why:
            raise ValueError(
                f"data.draws: found {self.draws}, but {why}, so all draws would be one answer; expected 1, or a "
                "temperature above 0 (model.generation.temperature for a local model, else model.hosting.temperature)"
            )

    def connect(self, model: ConnectedModel) -> None:
        """Take tokenizer and length limit from a model; rows that were tokenised for another model are read again.

        A `Trainer` does this itself; call it to use a datamodule without one.

        Raises:
            ValueError: The template does not suit the tokenizer, or there is no bank `data.bank`.
        """
        if model is self._model:
            return
        self._model, self._preparation, self._text = model, None, None
        self.rows.clear()
        self.conditioned.clear()
        if self.bank:
            try:
                self.phraser.bank_named(self.bank)
            except ValueError as error:
                raise ValueError(f"data.bank: {error}") from error
        template = make_template(self.template, model.tokenizer, self.chat_template_kwargs)
        self.notes += template.notes
        length = longest_row(model, self.max_length)
        encoder = Encoder(model.tokenizer, template, length, encoder_decoder=model.is_encoder_decoder)
        self._preparation = Preparation(
            encoder, scoring=self.scoring, on_bad_row=self.on_bad_row, rejected=self.rejected
        )

    @property
    def backbone(self) -> ConnectedModel:
        """The model that rows are tokenised for. Raises `RuntimeError` before `connect`."""
        if self._model is None:
            raise RuntimeError(_UNCONNECTED)
        return self._model

    @property
    def preparation(self) -> Preparation:
        """Encodes samples as rows. Raises `RuntimeError` before `connect`."""
        if self._preparation is None:
            raise RuntimeError(_UNCONNECTED)
        return self._preparation

    @property
    def encoder(self) -> Encoder:
        """Writes prompts and tokenises them. Raises `RuntimeError` before `connect`."""
        return self.preparation.encoder

    def read(self, role: Role) -> EncodedSamples:
        """Read the samples of a role, give each its instruction, and tokenise them.

        Raises:
            SourceError: No source is named for the role, or there is nothing to read.
            BadRowsError: Rows are bad, or too long.
        """
        sources = self.sources[role]
        if not sources:
            raise ValueError(f"data.{role}: no source is named; expected a path, e.g. --data.{role} rows.jsonl")
        if self.bank:
            sources = [asked_by(source, self.bank) for source in sources]
        sources = [formatted_by(source, self.format) for source in sources]
        if role == "train" and self.stream is not None:
            return self._first_rows(sources)
        self._every = 1
        if self.samples_rows and self.cache_dir is not None:
            size = sum(unpacked_size(source, role) for source in sources)
            self._every = max(1, math.ceil(size / (max(self.cache_above, 0.001) * 1e6)))
        elif role in ("train", "validation") and self._is_large(sources, role):
            return self._stored(sources, role)
        if self._every > 1:
            self.notes.append(
                f"data.{role}: only 1 of {self._every} rows was checked, and labels are those of these rows, since the "
                f"files have {size / 1e6:,.0f} MB (data.cache_above); --whole true checks all rows"
            )
        samples = self.loaded(sources, role)
        self.phraser.say_divisions(samples, role)
        asked = [self.phraser.asked(sample, role) for sample in self.selected(samples, role)]
        self.notes += self.preparation.hidden(asked, role)
        rows = self.preparation.tokenised(asked, role)
        return self.preparation.with_options(rows, role) if role == "validation" else rows

    def loaded(self, sources: Sequence[str | Source], role: Role) -> list[Sample]:
        """Read samples from sources. Samples of one dataset and task have the same options in all roles."""
        samples = load_all(
            sources,
            role,
            on_bad_row=self.on_bad_row,
            rejected=self.rejected,
            known=self.known_labels,
            seed=self.seed,
            say=self.notes.append,
            answered=self._answered or role != "test",
            every=self._every,
        )
        found = self._with_turns(samples, role)
        if len(found) > len(samples):
            log.info("data.%s: %d chats are %d rows, one for each reply", role, len(samples), len(found))
        return found

    @property
    def known_labels(self) -> KnownLabels:
        """The labels of all sources."""
        if self._labels is None:
            self._labels = KnownLabels(self.all_sources())
            for number in range(len(self.sources["train"]) if self.stream is not None else 0):
                self._labels.remember("train", number, {})  # a stream is not read for its labels; sources name them
        return self._labels

    def _with_turns(self, samples: list[Sample], role: Role) -> list[Sample]:
        """The samples with the system message of `system`, and with the replies that `assistant_turns` trains."""
        if self.system is not None:
            opening = (("system", self.system.strip()),)
            samples = [s if s.system else replace(s, turns=(*opening, *s.turns)) for s in samples]
        if role not in ("train", "validation") or self.assistant_turns == "last":
            return samples
        if self.assistant_turns == "all":
            return [replace(sample, trains_replies=bool(sample.history or sample.since)) for sample in samples]
        return [one for sample in samples for one in each_reply(sample)]

    # --- large files -------------------------------------------------------------------------------------------

    def _is_large(self, sources: Sequence[str | Source], role: Role) -> bool:
        """Whether the rows of a role go to the cache."""
        if self.cache_dir is None:
            return False
        size = sum(unpacked_size(source, role) for source in sources)
        if size <= self.cache_above * 1e6:
            return False
        why = self._takes_all()
        if role == "train" and self.noisy_turns == "all":
            why = "data.noisy_turns: all varies the turns of all chats at once"
        if role == "validation" and self.scoring != "generation":
            why = f"data.scoring: {self.scoring} also tokenises the choices of each row"
        if why:
            log.warning(
                "data.cache_dir: the rows of data.%s (%.0f MB) stay in memory, because %s; expect 10 kB a row",
                role, size / 1e6, why,
            )  # fmt: skip
        return not why

    def _takes_all(self) -> str:
        """Which method of a user's class takes all rows at once; empty: none."""
        for name in ("loaded", "selected"):
            own = getattr(type(self), name) is not getattr(InstructionDataModule, name)
            if own and not type(self).__module__.startswith("robustlm."):
                return f"{type(self).__name__}.{name} takes all rows at once"
        return ""

    def _stored(self, given: Sequence[str | Source], role: Role) -> EncodedSamples:
        """The rows of a role in the cache; they are made first if they are not there."""
        assert self.cache_dir is not None
        sources = [as_source(source) for source in given]
        encoder = self.encoder
        others = [
            (other, source)
            for mine in sources
            if mine.path != BUILTIN
            for other, _, source in self.known_labels.others(role, named_by_path(mine, role))
        ]
        read = [*((role, source) for source in sources), *others]
        settings = settings_of(self, sources, encoder) | {
            "role": role,
            "others": [[role, asdict(one)] for role, one in others],
        }
        cache = RowCache(
            role,
            Path(self.cache_dir).expanduser(),
            settings,
            users_code(self, [source for _, source in read], encoder),
        )
        notes: list[str] = []

        def make(folder: Path) -> dict[str, object]:
            found = write_large(
                folder,
                lambda drafts, processes: LargeSources(
                    sources,
                    role,
                    drafts,
                    on_bad_row=self.on_bad_row,
                    rejected=self.rejected,
                    known=self.known_labels,
                    seed=self.seed,
                    say=notes.append,
                    processes=processes,
                ),
                partial(self._asked_as, role),
                self.preparation,
                role,
                several=len(sources) > 1,
            )
            return found | {"notes": notes}

        copies = [file for file in rejected_files(self.rejected, role, len(sources)) if file]
        rows, said = cache.rows(lambda: digests(read, self.bank), make, copies)
        self._caches[role] = cache  # a cache for this run alone ends with it
        for text in said["warnings"]:
            warnings.warn(text, UserWarning, stacklevel=2)
        for number, labels in said["labels"].items():
            self.known_labels.remember(role, int(number), {task: set(own) for task, own in labels.items()})
        self.phraser.say_divisions(rows.banked(), role)
        self.notes += [*said["notes"], *said["hidden"]]
        self.preparation.say_tokenised(Tokenised(**said["tokenised"]), role)
        return rows

    def _asked_as(self, role: Role, samples: list[Sample]) -> list[Sample]:
        return [self.phraser.asked(one, role) for one in self._with_turns(samples, role)]

    # --- streams -----------------------------------------------------------------------------------------------

    def in_windows(self) -> list[str]:
        """What is done within the windows of a stream, since all rows are not known; subclasses add to it."""
        return ["shuffling", *(["batches of rows of similar length"] if self.group_by_length else [])]

    def _first_rows(self, sources: Sequence[str | Source]) -> EncodedSamples:
        """The rows of the first window, which stand for all rows of a stream before training starts."""
        if why := self._takes_all():
            raise ValueError(f"data.stream: {why}; expected null, or a class without this method")
        if self.trainer is not None:
            check_trainer(self.trainer, validates=bool(self.sources["validation"]))
        self._windows = self._windowed(sources)
        rows = self._windows.first()
        self.phraser.say_divisions(rows.samples, "train")
        self.notes += self.preparation.hidden(rows.samples, "train")
        self.notes.append(
            f"data.stream: all rows are never known, so these are done within windows of "
            f"{self._windows.settings.window:,} rows: {', '.join(self.in_windows())}; rows that follow each other "
            "should differ"
        )
        return rows

    def _windowed(self, sources: Sequence[str | Source]) -> StreamedWindows:
        trainer = self.trainer
        assert self.stream is not None
        settings = StreamSettings(
            window=self.stream,
            batch_size=self.batch_size if self.batch_tokens is None else 1,
            seed=self.seed,
            world=trainer.world_size if trainer else 1,
            accumulate=trainer.accumulate_grad_batches if trainer else 1,
            replays=self.replays,
            group_by_length=self.group_by_length,
            batch_tokens=self.batch_tokens or 0,
        )
        stream = RowStream(sources, "train", on_bad_row=self.on_bad_row)
        rank = trainer.global_rank if trainer else 0
        return StreamedWindows(stream, settings, rank, self, partial(self._asked_as, "train"), self.preparation)

    def _stream_loader(self, windows: StreamedWindows) -> StreamLoader:
        trainer = self.trainer
        steps = trainer.max_steps if trainer else 1
        workers = self._workers() if self.num_workers == "auto" else self.num_workers
        if not sensible_processes() > 1 or self.runs_model:
            if self.num_workers not in (0, "auto"):
                why = "data.distortion runs the model" if self.runs_model else "processes cannot be forked here"
                raise ValueError(f"data.num_workers: found {workers} with data.stream, but {why}; expected 0 or auto")
            workers = 0
        batches = steps * windows.settings.accumulate
        loader = StreamLoader(windows, batches, workers=workers, pinned=torch.cuda.is_available())
        first = self.replaying(self.train_dataset(self.rows["train"]))  # text is tokenised before workers start
        for line in first.facts(0):
            log.info("data.train, first window: %s", line)
        return loader

    @property
    def runs_model(self) -> bool:
        """Whether training batches are made with the model, which worker processes cannot run."""
        return False

    # --- sources and conditions --------------------------------------------------------------------------------

    def all_sources(self) -> dict[Role, list[str | Source]]:
        """All sources by role."""
        return dict(self.sources)

    def selected(self, samples: list[Sample], role: Role) -> list[Sample]:
        """Select the samples of a role that are used: here all of them; subclasses may select fewer."""
        return samples

    def under_all(self, rows: EncodedSamples) -> dict[str, EncodedSamples]:
        """The rows under every condition, by its name.

        A condition is removed from `conditions` if it is not in `named` and the rows cannot be asked under it. One line
        of the log names all removed conditions and the reasons.

        Raises:
            LackingError: The rows lack what a condition in `named` needs, or what every condition needs.
        """
        found = under_each(self.conditions, lambda condition: self.under(condition, rows), self.named)
        self.conditions = [condition for condition in self.conditions if condition.name in found]
        return found

    def under(self, condition: Condition, rows: EncodedSamples) -> EncodedSamples:
        """The rows with their instructions as a condition puts them."""
        check_askable(condition, rows.samples, self.phraser.bank_of)
        asked = self.asked_under(condition, rows.samples)
        if condition.noise is not None and self.noisy_turns == "all":
            asked = with_noisy_turns(asked, condition.noise, self.seed)
        asked = resurfaced(asked, condition, self.seed)
        return self.preparation.ready(asked, condition)

    def asked_under(self, condition: Condition, samples: Sequence[Sample]) -> list[Sample]:
        """Give test samples the instructions of a condition; subclasses may give each sample several."""
        return self.phraser.asked_under(condition, samples)

    # --- loaders -----------------------------------------------------------------------------------------------

    def train_dataset(self, rows: EncodedSamples) -> TrainDataset:
        """Make the dataset that training batches come from; subclasses add views."""
        return TrainDataset(rows, self.encoder, self.phrasings(rows) if self.phrasing == "fresh" else None)

    def phrasings(self, rows: EncodedSamples, *, variants: bool = False) -> Phrasings:
        """All phrasings of training rows. With `variants`, also the variants that rows bring, which may be noisy."""
        return self.phraser.phrasings(rows.samples, variants=variants)

    def train_order(self, dataset: TrainDataset) -> Order | None:
        """Order of the rows in an epoch; null: shuffled, and grouped by length where `group_by_length` is set."""
        return None

    def train_dataloader(self) -> DataLoader[InstructionBatch]:
        """Training batches. Their order depends only on the seed and the epoch."""
        rows, trainer = self.rows["train"], self.trainer
        if self._windows is not None:
            return self._resumed(self._stream_loader(self._windows))
        dataset = self.replaying(self.train_dataset(rows))
        world = trainer.world_size if trainer else 1
        order = self.step_order(rows, dataset, world)
        if isinstance(order, TokenBatches):
            log.info(
                "data.train: %d rows in %d batches of at most %d tokens, %s padding; in the mean %.1f rows of %.0f "
                "tokens", len(rows), len(order), self.batch_tokens, "with" if self._padded else "without",
                len(rows) / len(order), sum(rows.lengths) / len(rows),
            )  # fmt: skip
        sampler = StepSampler(
            rows.lengths,
            rows.answer_tokens,
            batch_size=self.batch_size if self.batch_tokens is None else 1,  # an order of whole batches
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world=world,
            accumulate=lambda: trainer.accumulate_grad_batches if trainer else 1,
            group_by_length=self.group_by_length,
            replays=self.replays,
            limit=lambda count: _limited(count, trainer.limit_train_batches if trainer else None),
            reshuffle=not (trainer and trainer.overfit_batches),  # type: ignore[attr-defined]
            order=order,
        )
        if len(sampler) == 0:
            raise ValueError(f"data.train: {len(rows)} rows are fewer than the processes to train on")
        loader = self._loader(dataset, sampler, ResumableLoader)
        assert isinstance(loader, ResumableLoader)
        self._resumed(loader)
        for line in dataset.facts(sampler.epoch):
            log.info("data.train: %s", line)
        return loader

    def _resumed(self, loader: ResumableLoader) -> ResumableLoader:
        """The loader at the position of the checkpoint that training goes on from, if there is one."""
        if self._position is not None:
            loader.load_state_dict(self._position)
            self._position = None
        self._train_loader = loader
        return loader

    @property
    def replay_length(self) -> int:
        """Tokens of a row of replayed text."""
        length = self.replay.length if self.replay else None
        return longest_row(self.backbone, length or self.max_length, "data.replay.length" if length else "")

    def replaying(self, dataset: TrainDataset) -> TrainDataset:
        """Let a dataset add rows of text to its batches, as `replay` says.

        Raises:
            SourceError: There is no text, or too little.
            ValueError: The model has an encoder.
        """
        if self.replay is not None:
            dataset.beside = ReplayedText(self._replayed(self.replay), self.replay.share, self.seed, dataset)
        return dataset

    def _replayed(self, replay: Replay) -> TextRows:
        """The rows of text; read once, also for the many windows of a stream."""
        if self._text is None:
            length = self.replay_length
            files = TextFiles(replay.paths, self.backbone, length, self.cache_dir)
            rows, _ = files.rows(replay.held_out, name="data.replay.held_out", width=512)
            log.info("data.replay: %d rows of %d tokens of text; %g for each row", len(rows), length, replay.share)
            self._text = files, rows  # a cache for this run alone ends with its files
        return self._text[1]

    def step_order(self, rows: EncodedSamples, dataset: TrainDataset, micro_batches: int) -> Order | None:
        """The order of rows that are served in steps of so many micro-batches; null: see `train_order`."""
        order = self.train_order(dataset)
        if self.batch_tokens is None:
            return order
        return TokenBatches(
            rows.lengths,
            self.batch_tokens,
            padded=self._padded,
            seed=self.seed,
            world=micro_batches,
            group_by_length=self.group_by_length,
            order=order,
        )

    @property
    def _padded(self) -> bool:
        return not getattr(self.backbone, "padding_free", False)

    def state_dict(self) -> dict[str, int]:
        """Position of training within its epoch.

        Lightning restores the state of a loader only if the loader is made after the optimiser. These loaders are made
        before, since the schedule needs the number of steps. So the datamodule keeps the position itself.
        """
        return {} if self._train_loader is None else dict(self._train_loader.state_dict())

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue a resumed `fit` at that position."""
        if self.trainer is None or not self.trainer.training or not state:
            return
        self._position = dict(state)
        if self._train_loader is not None:  # some strategies restore the state after the loader is made
            self._train_loader.load_state_dict(self._position)

    def val_dataloader(self) -> list[DataLoader[InstructionBatch]]:
        """The validation rows, if there are any."""
        rows = self.rows.get("validation")
        return [] if rows is None else [self._evaluation_loader(rows, "clean")]

    def test_dataloader(self) -> list[DataLoader[InstructionBatch]]:
        """One loader for each condition."""
        self._evaluated.clear()
        loaders = [self._evaluation_loader(rows.drawn(self.draws), name) for name, rows in self.conditioned.items()]
        if loaders and not any(len(loader.sampler) for loader in loaders):  # type: ignore[arg-type]
            # all rows are answered already; without a batch, Lightning would not call the hooks that write the table
            name, rows = next(iter(self.conditioned.items()))
            loaders[0] = self._evaluation_loader(rows.drawn(self.draws), name, again=True)
        return loaders

    def predict_dataloader(self) -> list[DataLoader[InstructionBatch]]:
        """The same loaders as for a test."""
        return self.test_dataloader()

    def _evaluation_loader(
        self, rows: EncodedSamples, condition: str, *, again: bool = False
    ) -> DataLoader[InstructionBatch]:
        trainer = self.trainer
        pending = self.is_pending(condition)
        sampler = EvaluationSampler(
            rows.lengths,
            batch_size=self.eval_batch_size,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
            groups=rows.datasets(),
            done=self._done(condition, rows),
            again=again,
            pending=pending,
        )
        self._note_skipped(condition, rows, sampler)
        dataset = EvaluationDataset(rows, self.encoder, condition, self.eval_batch_size)
        self._evaluated[condition] = dataset, sampler
        return self._loader(dataset, sampler, LateLoader if pending else DataLoader)

    def is_pending(self, condition: str) -> bool:
        """Whether the rows under a condition are not known when its loader is made; `settle` sets them later."""
        return False

    def settle(self, found: Mapping[str, EncodedSamples]) -> None:
        """Set the rows of loaders whose rows were not known when they were made, by condition."""
        asked = {condition: rows.drawn(self.draws) for condition, rows in found.items()}
        for condition, rows in asked.items():
            self._settle(condition, rows)
        if asked and not any(len(sampler) for _, sampler in self._evaluated.values()):
            self._settle(*next(iter(asked.items())), again=True)  # see `test_dataloader`

    def _settle(self, condition: str, rows: EncodedSamples, *, again: bool = False) -> None:
        dataset, sampler = self._evaluated[condition]
        dataset.rows = rows
        sampler.settle(rows.lengths, groups=rows.datasets(), done=self._done(condition, rows), again=again)
        self._note_skipped(condition, rows, sampler)

    def _done(self, condition: str, rows: EncodedSamples) -> set[int]:
        """Which rows an interrupted evaluation has answered."""
        done = self.session.done
        return {i for i, key in enumerate(_keys(condition, rows)) if key in done} if done else set()

    def _note_skipped(self, condition: str, rows: EncodedSamples, sampler: EvaluationSampler) -> None:
        keys = _keys(condition, rows) if sampler.skipped else []
        self.session.skip(condition, {keys[row] for row in sampler.skipped})

    def _loader(
        self,
        dataset: Dataset[InstructionBatch],
        sampler: Sampler[int],
        kind: type[DataLoader[InstructionBatch]],
    ) -> DataLoader[InstructionBatch]:
        stored = isinstance(dataset, TrainDataset) and dataset.rows.stored
        workers = self._workers() if stored and self.num_workers == "auto" else self.num_workers
        workers = 0 if workers == "auto" else workers
        return kind(
            dataset,
            batch_size=None,  # a key is a batch already
            sampler=sampler,
            num_workers=workers,
            # rows in memory are sent to new workers in each epoch, with the variants of that epoch
            persistent_workers=workers > 0 and stored,
            pin_memory=torch.cuda.is_available(),
        )

    def _workers(self) -> int:
        """`num_workers: auto` for rows in the cache: the cores that other processes of this machine leave."""
        ranks = getattr(self.trainer, "num_devices", 1) if self.trainer else 1
        return max(0, min(usable_cores() // max(ranks, 1) - 1, _ENOUGH_WORKERS))


def _keys(condition: str, rows: EncodedSamples) -> list[Key]:
    return [(condition, s.dataset or s.task, s.id, s.instruction_id, s.draw or 0) for s in rows.samples]


def _limited(count: int, limit: int | float | None) -> int:
    if limit is None:
        return count
    return min(count, limit) if isinstance(limit, int) else math.floor(count * limit)
