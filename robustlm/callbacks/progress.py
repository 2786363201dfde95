"""The progress bar of an evaluation: one bar over all conditions, with the time left."""

from __future__ import annotations

import sys

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.types import STEP_OUTPUT

from robustlm.datamodules.sampling import EvaluationSampler


class AnswersBar(TQDMProgressBar):
    """Lightning's progress bar, with a single bar over all conditions of a test: answers, answers a second, time left.

    The time left is computed from tokens, since row lengths differ between conditions and long rows come first. With
    several processes the bar counts the rows of the first process. Loaders that an `InstructionDataModule` did not make
    get Lightning's own bars.
    """

    def __init__(self) -> None:
        super().__init__()
        self._samplers: list[EvaluationSampler] = []
        self._batches: list[int] = []
        self._asked = 0
        self._answered = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the rows to be answered, and create the bar."""
        samplers = [getattr(loader, "sampler", None) for loader in _loaders(trainer)]
        found = [sampler for sampler in samplers if isinstance(sampler, EvaluationSampler)]
        self._samplers = found if len(found) == len(samplers) else []
        if not self._samplers:
            super().on_test_start(trainer, pl_module)
            return
        limits = trainer.num_test_batches if trainer.testing else trainer.num_predict_batches
        self._batches = [int(min(limit, len(one))) for one, limit in zip(self._samplers, limits, strict=True)]
        self._asked = sum(sum(s.batch_rows[:n]) for s, n in zip(self._samplers, self._batches, strict=True))
        self._answered = 0
        self.test_progress_bar = Tqdm(
            total=sum(sum(s.batch_tokens[:n]) for s, n in zip(self._samplers, self._batches, strict=True)),
            desc=f"0 of {self._asked:,} answers",
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stdout,
            smoothing=0,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left",
        )

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the bar when another condition starts."""
        if not self._samplers:
            super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance the bar by the rows of the batch."""
        if not self._samplers:
            super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
            return
        bar, sampler = self.test_progress_bar, self._samplers[dataloader_idx]
        self._answered += sampler.batch_rows[batch_idx]
        speed = self._answered / max(float(bar.format_dict["elapsed"]), 1e-9)
        where = getattr(batch, "condition", "")
        bar.set_description_str(
            f"{where}: {self._answered:,} of {self._asked:,} answers, {speed:,.1f} a second", refresh=False
        )
        bar.update(sampler.batch_tokens[batch_idx])

    on_predict_start = on_test_start
    on_predict_batch_start = on_test_batch_start
    on_predict_batch_end = on_test_batch_end

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same as after a test."""
        self.on_test_end(trainer, pl_module)


def _loaders(trainer: Trainer) -> list[object]:
    found = trainer.test_dataloaders if trainer.testing else trainer.predict_dataloaders
    return list(found) if isinstance(found, list | tuple) else [found]
