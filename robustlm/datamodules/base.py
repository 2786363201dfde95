"""Base of all datamodules: settings, conditions and loaders. The rows come from `reading`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, cast

from torch.utils.data import DataLoader

from robustlm.batch import InstructionBatch
from robustlm.checks.choices import check_choice
from robustlm.checks.numbers import check_number, check_seed
from robustlm.conditions.condition import Condition, parse_conditions
from robustlm.conditions.surface import resurfaced
from robustlm.datamodules.batches import EncodedSamples, TrainDataset
from robustlm.datamodules.caching import DEFAULT_CACHE
from robustlm.datamodules.connection import ModelHolder
from robustlm.datamodules.loaders import (
    EvaluationLoaders,
    TrainingPosition,
    batch_loader,
    check_workers,
    limited,
    spare_workers,
)
from robustlm.datamodules.phrasing import Phraser
from robustlm.datamodules.preparation import Scoring, check_askable, check_scoring, under_each
from robustlm.datamodules.reading import UNCONNECTED, Reading
from robustlm.datamodules.replay import Replay, ReplayFiles, replay_length
from robustlm.datamodules.sampling import BatchKey, Order, ResumableLoader, StepSampler
from robustlm.datamodules.streaming import (
    StreamedWindows,
    StreamLoader,
    StreamSettings,
    check_stream,
    check_trainer,
    stream_loader,
)
from robustlm.datamodules.token_batches import TokenBatches
from robustlm.datamodules.turns import AssistantTurns, NoisyTurns, check_turns, with_noisy_turns
from robustlm.datamodules.unlabelled import Unlabelled
from robustlm.evaluation.session import EvaluationSession
from robustlm.instructions.banks import NO_FORMAT, Version
from robustlm.instructions.phrasings import Phrasings
from robustlm.prompts.variables import check_values
from robustlm.sample import Sample
from robustlm.sources.source import Role, Source, Sources, listed
from robustlm.sources.streams import RowStream
from robustlm.utils.serialization import to_plain

log = logging.getLogger(__name__)


class InstructionDataModule(Reading):
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
        unlabelled: Take training rows without an answer, for `model.agreement`, which answers them by a vote over
            phrasings; null: such rows are refused.
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
    takes_unlabelled: ClassVar[bool] = False
    """Whether training rows may lack an answer: the datamodule asks them under variants."""
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
        unlabelled: Unlabelled | None = None,
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
        check_number("data.max_length", max_length, least=2, whole=True)
        check_number(
            "data.batch_tokens", batch_tokens, least=2, below=2**31, whole=True, or_null="for batch_size rows a batch"
        )
        check_number("data.cache_above", cache_above, least=0)
        check_choice("data.phrasing", phrasing, ("fixed", "fresh"))
        check_workers(num_workers)
        check_seed("data.seed", seed)
        check_stream(stream, rejected=rejected)
        self._check_unlabelled(unlabelled, stream)
        check_turns(system, assistant_turns, noisy_turns, bank)
        check_values(chat_template_kwargs)
        check_scoring(scoring, draws)
        if unseen_share is not None and not 0 <= unseen_share <= 1:
            raise ValueError(f"data.unseen_share: found {unseen_share}; expected a share in [0, 1], or null")
        if format not in (None, NO_FORMAT):
            raise ValueError(
                f"data.format: found {format!r}; expected none or null. A source names the shape of its rows itself: "
                "{path: …, format: …}"
            )
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
        self.conditions = parse_conditions(conditions)
        if not self.asks_all and (other := [c.name for c in self.conditions if c.attack or c.paraphrased]):
            raise ValueError(
                f"data.conditions: {other[0]!r} needs all samples to be asked with the same instructions, which "
                f"{type(self).__name__} does not do; expected RobustnessDataModule (-c robustness)"
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
        self._replayed: ReplayFiles | None = None
        self.unlabelled = unlabelled
        self.on_bad_row: Literal["strict", "skip"] = on_bad_row
        self.rejected = Path(rejected) if rejected else None
        self.scoring: Scoring = scoring
        self.draws = draws
        self.phraser = Phraser(instructions, bank, unseen_share, paraphrases, seed)
        """Decides which instruction each sample is asked with."""
        self.session = EvaluationSession()
        """The current evaluation; `setup` begins a new one for each test."""
        self._windows: StreamedWindows | None = None
        self._position = TrainingPosition()
        self._evaluation: EvaluationLoaders | None = None

    def _check_unlabelled(self, unlabelled: Unlabelled | None, stream: int | None) -> None:
        if unlabelled is not None and stream is not None:
            raise ValueError(
                "data.unlabelled: found it with data.stream, whose rows must bring answers; expected one of them to be "
                "null"
            )
        if unlabelled is not None and not self.takes_unlabelled:
            why = "which groups rows by their answers" if "variant" in self.views else "which makes no variants"
            raise ValueError(
                f"data.unlabelled: found it with {type(self).__name__}, {why}; expected NoisyInstructionDataModule or "
                "ParaphraseDataModule, or null"
            )

    def prompt(self) -> dict[str, object]:
        """The settings that decide how training prompts are written, by name, as plain data."""
        found = {name: to_plain(getattr(self, name)) for name in self.prompt_settings}
        stated = [isinstance(source, Source) and source.format == NO_FORMAT for source in self.sources["train"]]
        if stated and all(stated):
            found["format"] = NO_FORMAT
        return {name: value for name, value in found.items() if value is not None or name not in self.prompt_files}

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
            raise RuntimeError(f"setup outside a Trainer: {UNCONNECTED}")
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

    # --- streams -----------------------------------------------------------------------------------------------

    def in_windows(self) -> list[str]:
        """What is done within the windows of a stream, since all rows are not known; subclasses add to it."""
        return ["shuffling", *(["batches of rows of similar length"] if self.group_by_length else [])]

    def read(self, role: Role) -> EncodedSamples:
        """See `Reading.read`; for training rows that are streamed, those of the first window."""
        if role == "train" and self.stream is not None:
            return self._first_rows(self._sources_of(role))
        return super().read(role)

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

    @property
    def runs_model(self) -> bool:
        """Whether training batches are made with the model, which worker processes cannot run."""
        return False

    # --- conditions --------------------------------------------------------------------------------------------

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

    def held_out_batches(self) -> list[InstructionBatch]:
        """This rank's rows without an answer that are kept from training, with their variants of epoch 0."""
        rows = self.watched
        if rows is None or not len(rows):
            return []
        dataset, trainer = self.train_dataset(rows), self.trainer
        dataset.prepare(0)
        own = range(trainer.global_rank if trainer else 0, len(rows), trainer.world_size if trainer else 1)
        return [
            dataset[BatchKey(0, tuple(own[start : start + self.batch_size]))]
            for start in range(0, len(own), self.batch_size)
        ]

    def train_dataloader(self) -> DataLoader[InstructionBatch]:
        """Training batches. Their order depends only on the seed and the epoch."""
        if self._windows is not None:
            return self._stream_loader(self._windows)
        rows, trainer = self.rows["train"], self.trainer
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
            limit=lambda count: limited(count, trainer),
            reshuffle=not (trainer and trainer.overfit_batches),  # type: ignore[attr-defined]
            order=order,
        )
        if len(sampler) == 0:
            raise ValueError(f"data.train: {len(rows)} rows are fewer than the processes to train on")
        loader = batch_loader(dataset, sampler, ResumableLoader, self.num_workers, trainer)
        assert isinstance(loader, ResumableLoader)
        self._position.begin(loader)
        for line in dataset.facts(sampler.epoch):
            log.info("data.train: %s", line)
        return loader

    def _stream_loader(self, windows: StreamedWindows) -> StreamLoader:
        trainer = self.trainer
        steps = trainer.max_steps if trainer else 1
        spare = spare_workers(trainer)
        loader = stream_loader(windows, steps, self.num_workers, spare=spare, runs_model=self.runs_model)
        first = self.replaying(self.train_dataset(self.rows["train"]))  # text is tokenised before workers start
        for line in first.facts(0):
            log.info("data.train, first window: %s", line)
        self._position.begin(loader)
        return loader

    @property
    def replay_length(self) -> int:
        """Tokens of a row of replayed text."""
        return replay_length(self.replay, self.backbone, self.max_length)

    def replaying(self, dataset: TrainDataset) -> TrainDataset:
        """Let a dataset add rows of text to its batches, as `replay` says.

        Raises:
            SourceError: There is no text, or too little.
            ValueError: The model has an encoder.
        """
        if self.replay is not None:
            if self._replayed is None or self._replayed.model is not self.backbone:  # once for all windows of a stream
                self._replayed = ReplayFiles(self.replay, self.backbone, self.max_length, self.cache_dir)
            self._replayed.join(dataset, self.seed)
        return dataset

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
        """Position of training within its epoch."""
        return self._position.state()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue a resumed `fit` at that position."""
        if self.trainer is not None and self.trainer.training and state:
            self._position.restore(state)

    def val_dataloader(self) -> list[DataLoader[InstructionBatch]]:
        """The validation rows, if there are any."""
        rows = self.rows.get("validation")
        return [] if rows is None else self._evaluation_loaders(EvaluationSession(), draws=1).loaders({"clean": rows})

    def test_dataloader(self) -> list[DataLoader[InstructionBatch]]:
        """One loader for each condition."""
        self._evaluation = self._evaluation_loaders(self.session, draws=self.draws)
        return self._evaluation.loaders(self.conditioned, [name for name in self.conditioned if self.is_pending(name)])

    def predict_dataloader(self) -> list[DataLoader[InstructionBatch]]:
        """The same loaders as for a test."""
        return self.test_dataloader()

    def _evaluation_loaders(self, session: EvaluationSession, *, draws: int) -> EvaluationLoaders:
        return EvaluationLoaders(
            self.encoder,
            session,
            batch_size=self.eval_batch_size,
            draws=draws,
            num_workers=self.num_workers,
            trainer=self.trainer,
        )

    def is_pending(self, condition: str) -> bool:
        """Whether the rows under a condition are not known when its loader is made; `settle` sets them later."""
        return False

    def settle(self, found: Mapping[str, EncodedSamples]) -> None:
        """Set the rows of loaders whose rows were not known when they were made, by condition."""
        assert self._evaluation is not None, "no loader was made"
        self._evaluation.settle(found)
