"""Measures what a run costs: time, passes of the model, memory."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robustlm.callbacks.folder import run_folder
from robustlm.utils.files import write_text

FILE = "cost.json"
"""Name of the file in the folder of a run."""

_SUMS = ("seconds", "cpu_seconds", "forward", "backward")


class _Base(Protocol):
    """What is asked of a transformer: the stacks of layers that its passes go through."""

    def get_decoder(self) -> nn.Module:
        """The layers below the head."""

    def get_encoder(self) -> nn.Module:
        """The encoder of an encoder-decoder."""


class _Tuned(Protocol):
    """What is asked of a module's backbone."""

    @property
    def base(self) -> _Base:
        """The transformer, without an adapter around it."""

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the transformer has an encoder of its own."""


class Cost(Callback):
    """Writes `cost.json` at the end of a fit or a test.

    Of a fit it counts training batches, with the time that waits for rows; validation is left out. A fit that is
    resumed goes on counting from its checkpoint. Add it to any run with
    `--trainer.callbacks+=robustlm.callbacks.cost.Cost`.

    The file holds `steps` (optimiser steps), `seconds` (wall clock), `cpu_seconds` (of all threads of the process),
    `forward` and `backward` (positions, rows × length, that the model has run in either direction, padding included),
    `first` (the same four of the first step, which warms up), and `peak_bytes` (the highest memory of the device; on
    a CPU that of the process, also what it held before; null: not known).
    """

    def __init__(self) -> None:
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._first: dict[str, float] | None = None
        self._mark = (0.0, 0.0)
        self._hooks: list[RemovableHandle] = []
        self._validates = False

    def state_dict(self) -> dict[str, object]:
        """The counts, for a checkpoint."""
        return {"sums": dict(self._sums), "first": self._first}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Go on from the counts of a checkpoint."""
        sums, first = cast(dict[str, float], state_dict["sums"]), state_dict["first"]
        self._sums = {name: float(sums[name]) for name in _SUMS}
        self._first = cast(dict[str, float] | None, first)

    # --- training ------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        backbone = cast(_Tuned, pl_module.backbone)
        # not at the head: with a hook there, logits are computed in another way
        stacks = [backbone.base.get_decoder()]
        if backbone.is_encoder_decoder:
            stacks.append(backbone.base.get_encoder())
        self._hooks = [stack.register_forward_hook(self._count) for stack in stacks]
        _reset_peak(pl_module.device)
        self._begin()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out the passes of a validation."""
        self._validates = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out the time of a validation."""
        self._validates = False
        self._begin()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Add the time since the last batch."""
        self._add()
        if self._first is None and trainer.global_step:
            self._first = dict(self._sums)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting passes."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        self._write(trainer, pl_module, {"steps": trainer.global_step, "first": self._first})

    def _count(self, module: nn.Module, args: object, output: object) -> None:
        """Count a pass forward, and the pass backward when its final states get a gradient."""
        states = getattr(output, "last_hidden_state", None)
        states = output[0] if states is None and isinstance(output, tuple) else states
        if not isinstance(states, Tensor):
            raise TypeError(f"cost: {type(module).__name__} gives no final states, so its passes cannot be counted")
        if self._validates or not (module.training or torch.is_grad_enabled()):
            return
        positions = float(states.shape[0] * states.shape[1])
        self._sums["forward"] += positions
        if states.requires_grad:
            states.register_hook(lambda _: self._count_backward(positions))  # type: ignore[no-untyped-call]

    def _count_backward(self, positions: float) -> None:
        self._sums["backward"] += positions

    # --- tests -----------------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure a test."""
        self._sums = dict.fromkeys(_SUMS, 0.0)
        _reset_peak(pl_module.device)
        self._begin()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file of a test."""
        self._add()
        self._write(trainer, pl_module, {})

    # ---------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._mark = (time.monotonic(), time.process_time())

    def _add(self) -> None:
        now = (time.monotonic(), time.process_time())
        for name, since, at in zip(("seconds", "cpu_seconds"), self._mark, now, strict=True):
            self._sums[name] += at - since
        self._mark = now

    def _write(self, trainer: Trainer, pl_module: LightningModule, more: Mapping[str, object]) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            found = {**self._sums, **more, "peak_bytes": _peak(pl_module.device)}
            write_text(folder / FILE, json.dumps(found, indent=1))


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak begins anew


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
    return None
