"""What a module does under mixed precision, and how it says in which precision it runs."""

from __future__ import annotations

import logging

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from robustlm.models.base import LanguageModel

log = logging.getLogger(__name__)

_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Mixed(LightningModule):
    """Keeps trained weights in float32 under mixed precision, and casts frozen ones once (`loading.cast_once`).

    Casts are kept where every process holds all weights. Other strategies (FSDP, DeepSpeed) cast weights themselves.
    """

    backbone: LanguageModel
    """The model."""

    def configure_model(self) -> None:
        """Load the weights. Under mixed precision, trained weights of 16 bits become float32."""
        self.backbone.load()
        narrow = [p for p in self.backbone.trained if p.dtype in _TYPES.values()]
        if narrow and self._mixed is not None:
            log.warning(
                "%d trained weights were loaded with 16 bits; they are trained in float32, since small steps would be "
                "lost otherwise (trainer.precision bf16-true trains them as they are)", sum(p.numel() for p in narrow),
            )  # fmt: skip
            for p in narrow:
                p.data = p.data.float()

    def on_fit_start(self) -> None:
        """Cast frozen weights once the weights are on the device.

        Raises:
            ValueError: Processes run in different precisions.
        """
        super().on_fit_start()
        if self.trainer.world_size > 1:
            own, strategy = str(self.trainer.precision), self.trainer.strategy
            first = strategy.broadcast(own)
            if not strategy.reduce_boolean_decision(first == own):
                raise ValueError(
                    f"trainer.precision: found {first} in process 0 and {own} in process {self.global_rank}, and some "
                    "differ; expected the same in all. Name it, instead of `auto`, where machines differ"
                )
        self._keep_casts()

    def on_validation_model_eval(self) -> None:
        """As `on_fit_start`, for a run that only validates."""
        super().on_validation_model_eval()
        if self.trainer.validating:
            self._keep_casts()

    def on_test_model_eval(self) -> None:
        """As `on_fit_start`; this is Lightning's first hook of a test after weights are on the device."""
        super().on_test_model_eval()
        self._keep_casts()

    def on_predict_model_eval(self) -> None:
        """As `on_test_model_eval`."""
        super().on_predict_model_eval()
        self._keep_casts()

    def teardown(self, stage: str) -> None:
        """Remove the casts, so that the model is what it was before the run."""
        super().teardown(stage)
        self.backbone.drop_casts()

    @property
    def _mixed(self) -> torch.dtype | None:
        """The lower type of mixed precision; null in other precisions."""
        plugin = None if self._trainer is None else self._trainer.precision_plugin
        return _TYPES.get(plugin.precision) if isinstance(plugin, MixedPrecision) else None

    @property
    def loss_scale(self) -> float:
        """Factor on losses for backward passes within a step: the `GradScaler`'s scale under fp16, otherwise 1."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None) if self._trainer else None
        return 1.0 if scaler is None else float(scaler.get_scale())

    def _keep_casts(self) -> None:
        if self._mixed is not None and isinstance(self.trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            self.backbone.keep_casts(self._mixed)
