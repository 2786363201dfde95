"""Makes every checkpoint describe the end of an optimiser step, so that resuming is exact."""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


def inside_step(trainer: Trainer) -> bool:
    """Whether training is inside an optimiser step: one of its micro-batches has begun, and the step has not ended.

    Weights, optimiser, schedule and loss scale change only at the end of a step. Counters, the position in the rows and
    an adversary's state change with each micro-batch.
    """
    loop = trainer.fit_loop.epoch_loop
    progress = loop.batch_progress
    current: Any = progress.current
    if current.ready != current.processed:
        return True
    last = progress.is_last_batch or current.ready == trainer.num_training_batches
    return bool(current.ready % trainer.accumulate_grad_batches) and not last


class StepBoundary(Callback):
    """Makes checkpoints describe the last finished optimiser step.

    Lightning may save inside a step: after a validation between its micro-batches, on an exception, on a signal. Such a
    checkpoint lacks the gradients accumulated so far, so a resumed run would train on a part of the step. This callback
    copies Lightning's counters at the end of each step and puts them into the checkpoint. After resuming, the
    micro-batches of the unfinished step run again. Validations within the step run again too, so their changes to
    callbacks (`EarlyStopping`) are reverted. The state of `ModelCheckpoint` is kept, since the files that it lists
    exist.

    `InstructionTuning` adds this callback to every trainer.
    """

    def __init__(self) -> None:
        self._loops: dict[str, Any] | None = None
        self._data: dict[str, Any] | None = None
        self._callbacks: tuple[int, dict[str, Any]] = -1, {}
        self._validating = False
        self._counted = False
        self._cut_short = False
        self._between = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Use the loaded checkpoint as the end of the last step, until another step ends."""
        self._between = _end_epoch(checkpoint["loops"]["fit_loop"])
        self._loops = copy.deepcopy(checkpoint["loops"]["fit_loop"])
        self._data = copy.deepcopy(checkpoint.get(_data_key(trainer)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Correct the restored counters. Without a checkpoint, count the start of training as the end of a step."""
        self._validating = self._counted = self._cut_short = False
        if self._loops is None:
            self._keep(trainer)
            return
        if self._between:
            return
        # with another number of processes, batch size or accumulation, an epoch has another number of batches
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        place = {} if data is None else data.state_dict()
        progress = trainer.fit_loop.epoch_loop.batch_progress
        current: Any = progress.current
        if "batches" in place and place["batches"] != current.processed and self._stands_in(trainer, place["epoch"]):
            current.completed += place["batches"] - current.processed
            current.ready = current.started = current.processed = place["batches"]
            progress.is_last_batch = place["batches"] >= trainer.num_training_batches
        epoch: Any = trainer.fit_loop.epoch_progress.current
        if trainer.fit_loop.restarted_mid_epoch and epoch.ready == epoch.processed:
            # The checkpoint describes an epoch's last batch. Lightning would then not count the beginning of the next
            # epoch. It would treat a checkpoint within that epoch as one of its end, and count one batch too few in
            # the run after that.
            trainer.fit_loop.reset_restart_stage()

    def _stands_in(self, trainer: Trainer, epoch: int) -> bool:
        """Whether the loaded counters belong to this epoch."""
        progress: Any = trainer.fit_loop.epoch_progress.current
        return bool(progress.ready == epoch + 1)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """At the first micro-batch of a step, copy the callback states that validations within the step may change.

        Raises:
            RuntimeError: After a restart, Lightning and the loader are at different batches.
        """
        if not self._counted:
            self._counted = True
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            place = {} if data is None else data.state_dict()
            if place.get("batches", batch_idx + 1) != batch_idx + 1:
                raise RuntimeError(
                    f"resuming: the loader is at batch {place['batches']} of epoch {place['epoch']}, Lightning at "
                    f"batch {batch_idx + 1}; training would not continue exactly; expected another checkpoint"
                )
        if batch_idx % trainer.accumulate_grad_batches == 0:
            states = {
                callback.state_key: copy.deepcopy(callback.state_dict())
                for callback in trainer.callbacks  # type: ignore[attr-defined]
                if not isinstance(callback, Checkpoint)
            }
            self._callbacks = trainer.global_step, states

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """At the end of a step, copy the counters."""
        self._keep_ended(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Record that a validation has begun: if it is interrupted, it runs again from its beginning."""
        if batch_idx == dataloader_idx == 0 and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validating = True
            self._keep_ended(trainer)
            if self._loops is not None and not inside_step(trainer):
                # mark the first batch as running: Lightning then sees an unfinished validation
                progress = self._loops["epoch_loop.val_loop.batch_progress"]
                for tracker in (progress["total"], progress["current"]):
                    tracker["started"] = tracker["ready"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that the validation has ended: it does not run again."""
        self._validating = False
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._keep_ended(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the counters at the end of an epoch, so that its last hooks do not run again.

        If `max_steps` or a callback ends a run in the middle of an epoch, Lightning counts the epoch as done. A resumed
        run would skip the remaining rows, so checkpoints then keep the counters of the last step.
        """
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        self._cut_short = not progress.is_last_batch and progress.current.ready < trainer.num_training_batches
        if not self._cut_short:
            self._keep_ended(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Replace the counters in a checkpoint by those at the end of the last step, if it is written later."""
        inside = inside_step(trainer)
        if self._loops is None or not (inside or self._validating or self._cut_short):
            return
        checkpoint["loops"]["fit_loop"] = copy.deepcopy(self._loops)
        checkpoint["epoch"] = self._loops["epoch_progress"]["current"]["processed"]
        if self._data is not None:
            checkpoint[_data_key(trainer)] = copy.deepcopy(self._data)
        step, states = self._callbacks
        if inside and step == trainer.global_step:  # otherwise the copy belongs to another step
            known = checkpoint["callbacks"]
            known |= {name: copy.deepcopy(state) for name, state in states.items() if name in known}

    def _keep_ended(self, trainer: Trainer) -> None:
        if not inside_step(trainer):
            self._keep(trainer)

    def _keep(self, trainer: Trainer) -> None:
        self._loops = trainer.fit_loop.state_dict()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._data = None if data is None else copy.deepcopy(data.state_dict())


def _end_epoch(loops: dict[str, Any]) -> bool:
    """Count an epoch as done if only the hooks at its end are missing; returns whether that was the case.

    A checkpoint at the end of an epoch is written in these hooks. With `max_steps`, Lightning would resume that epoch,
    find no batches left, count one more, and never train on the rows of the next epoch.
    """
    progress, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    for counted in (progress["current"], progress["total"]):
        same = counted["ready"] == counted["started"] == counted["processed"] == counted["completed"] + 1
        if not (same and batches.get("is_last_batch")):
            return False
    for counted in (progress["current"], progress["total"]):
        counted["completed"] = counted["processed"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
    return True


def _data_key(trainer: Trainer) -> str:
    """The key of the datamodule's state in Lightning's checkpoints."""
    return type(trainer.datamodule).__qualname__  # type: ignore[attr-defined]
