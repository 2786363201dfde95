"""Averages the trained weights over a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypedDict, cast, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor
from torch.nn import Parameter
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from robustlm.checks.numbers import check_number

Kind = Literal["mean", "ema"]
"""How weights are averaged."""


class _Kept(TypedDict):
    """What a checkpoint holds besides the average as its weights."""

    count: int
    raw: dict[str, Tensor]
    average: dict[str, Tensor]


class AverageWeights(Callback):
    """Averages the trained weights over the optimiser steps of a fit, and uses the average for everything after them.

    Validations, the `state_dict` of checkpoints and the exported adapter hold the average. So does the module after the
    fit. Training itself goes on from the weights as the optimiser left them; a checkpoint holds these too, so a resumed
    run is exact. With LoRA, the adapter's two matrices are averaged, each on its own.

    Only trained weights are averaged and stored. Lightning's `WeightAveraging` copies the whole model and writes it
    into every checkpoint, and cannot resume from checkpoints that hold trained weights alone; it is refused here.

    Args:
        kind: `mean`: the mean of the weights after each step (as in stochastic weight averaging, Izmailov et al.,
            2018); `ema`: an exponential moving average.
        start: The first step whose weights are averaged; below 1, a share of the run. Before it, the average is the
            weights of the last step.
        decay: Decay of `ema` for each step; no effect on `mean`.
    """

    def __init__(self, kind: Kind = "mean", start: float = 0.5, decay: float = 0.99) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"AverageWeights.kind: found {kind!r}; expected one of {', '.join(get_args(Kind))}")
        check_number("AverageWeights.start", start, least=0, why="steps, or a share of the run below 1")
        check_number("AverageWeights.decay", decay, least=0, below=1)
        self.kind: Kind = kind
        self.start = start
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None
        self._steps = 0
        self._count = 0

    # --- averaging -----------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier fit."""
        if stage == "fit":
            self._average, self._raw, self._steps, self._count = {}, None, 0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what does not work with this callback.

        Raises:
            ValueError: Another callback averages weights, or weights are divided among devices.
        """
        others = (WeightAveraging, StochasticWeightAveraging)
        for one in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(one, others) or (isinstance(one, AverageWeights) and one is not self):
                raise ValueError(
                    f"trainer.callbacks: found {type(one).__name__} beside AverageWeights; expected one of them"
                )
        if getattr(pl_module, "_device_mesh", None) is not None:
            raise ValueError(
                "trainer.callbacks: found AverageWeights with weights that are divided among devices (FSDP2); expected "
                "trainer.strategy ddp, or no AverageWeights"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights themselves, or go on with the average of a checkpoint."""
        own = dict(_trained(pl_module))
        if self._average.keys() - own.keys() or (self._average and own.keys() - self._average.keys()):
            raise ValueError("ckpt_path: the averaged weights of this checkpoint belong to another model or tuning")
        for name, weight in own.items():
            found = self._average.get(name, weight)
            if found.shape != weight.shape:
                raise ValueError(
                    f"ckpt_path: found an average of the shape {tuple(found.shape)} for {name}; expected "
                    f"{tuple(weight.shape)}"
                )
            self._average[name] = found.detach().to(weight.device, _wide(weight.dtype), copy=True)
        if self._raw is not None:  # the checkpoint's weights are the average; training goes on from its others
            for name, weight in own.items():
                weight.data.copy_(self._raw[name])
            self._raw = None
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Add the weights to the average, once for each optimiser step."""
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        own = dict(_trained(pl_module))
        if self._steps <= self._first(trainer):
            self._count = 0
        averages = [self._average[name] for name in own]
        values = [weight.detach().to(_wide(weight.dtype)) for weight in own.values()]
        if not self._count:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)
        elif self.kind == "ema":
            get_ema_multi_avg_fn(self.decay)(averages, values, self._count)  # type: ignore[no-untyped-call]
        else:
            get_swa_multi_avg_fn()(averages, values, self._count)  # type: ignore[no-untyped-call]
        self._count += 1

    def _first(self, trainer: Trainer) -> int:
        """The number of the first step whose weights count."""
        if self.start >= 1:
            return int(self.start)
        return int(self.start * int(trainer.estimated_stepping_batches))

    # --- using the average ---------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if trainer.state.fn == "fit" and self._average and not trainer.sanity_checking:
            self._put(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the weights of training."""
        self._take_back(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module: checkpoints and adapters that are written later hold it."""
        self._put(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Go back to the weights of training, if a validation was interrupted."""
        self._take_back(pl_module)

    @torch.no_grad()
    def _put(self, module: LightningModule) -> None:
        if self._raw is None:
            own = dict(_trained(module))
            self._raw = {name: weight.detach().clone() for name, weight in own.items()}
            for name, weight in own.items():
                weight.data.copy_(self._average[name])

    @torch.no_grad()
    def _take_back(self, module: LightningModule) -> None:
        if self._raw is not None:
            for name, weight in _trained(module):
                weight.data.copy_(self._raw[name])
            self._raw = None

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Write the average as the weights, and the weights of training beside it."""
        if not self._average:
            return
        weights = dict(_trained(pl_module))
        raw = {name: weight.detach() for name, weight in weights.items()} if self._raw is None else self._raw
        checkpoint["averaged"] = {
            "count": self._count,
            "raw": {name: value.cpu().clone() for name, value in raw.items()},
            "average": {name: value.cpu().clone() for name, value in self._average.items()},
        }
        state = cast(dict[str, Tensor], checkpoint["state_dict"])
        average = {id(weight): self._average[name] for name, weight in weights.items()}
        for name, weight in pl_module.named_parameters(remove_duplicate=False):  # tied weights have several names
            if id(weight) in average:
                state[name] = average[id(weight)].to(weight.dtype, copy=True)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Take back what `on_save_checkpoint` wrote.

        Raises:
            ValueError: The checkpoint is resumed, and its run averaged no weights.
        """
        if trainer.state.fn != "fit":
            return
        found = cast(_Kept | None, checkpoint.get("averaged"))
        if found is None:
            raise ValueError(
                "ckpt_path: this checkpoint's run averaged no weights, so its average is not known; expected a "
                "checkpoint of a run with AverageWeights, or no AverageWeights in trainer.callbacks"
            )
        self._count = int(found["count"])
        self._average = dict(found["average"])
        self._raw = dict(found["raw"])


def _trained(module: LightningModule) -> Iterator[tuple[str, Parameter]]:
    """The trained weights of a module by name; weights with several names once."""
    return ((name, weight) for name, weight in module.named_parameters() if weight.requires_grad)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type of the average: fp32 for half precision, otherwise the weights' own."""
    return torch.promote_types(dtype, torch.float32)
