"""What a module keeps in a checkpoint, and how it is loaded from one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import IO, Any, Self

from lightning.fabric.utilities.types import _MAP_LOCATION_TYPE, _PATH
from lightning.pytorch import LightningModule
from torch import Tensor

from robustlm.adapters.settings import WritesPrompts
from robustlm.checkpoints.trust import allow_paths, allow_stored, file_settings, stored_settings
from robustlm.checks.texts import shortened
from robustlm.utils.finite import refuse_nonfinite
from robustlm.utils.serialization import to_plain

log = logging.getLogger(__name__)


class Checkpointed(LightningModule):
    """Stores trained weights, plain settings and the progress of training; loads them after checks.

    A subclass calls `keep_plain_hyperparameters` in its constructor, right after Lightning's `save_hyperparameters`.
    A subclass whose next step depends on more than weights extends `progress` and `resume`.
    """

    def progress(self) -> dict[str, object]:
        """What the next training step depends on, besides weights and optimiser, as plain data and tensors."""
        return {}

    def resume(self, progress: dict[str, Any]) -> None:
        """Take back what `progress` gave; called when a checkpoint's training is resumed, and only then."""

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: _PATH | IO[bytes],
        map_location: _MAP_LOCATION_TYPE = None,
        hparams_file: _PATH | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Load a module with the settings and weights of a checkpoint, as far as these are safe to take from a file.

        Classes must belong to this package or be imported already. The model must be packaged, a folder, or a hub model
        that this machine has loaded before. Other models, hosted models and code that comes with a model must be named
        in the arguments.

        Args:
            checkpoint_path: The file, or an open one.
            map_location: Device for the weights.
            hparams_file: Settings that replace the checkpoint's.
            strict: Not used: all trained weights must always be present.
            weights_only: Refuse files with anything but weights and plain data.
            kwargs: Arguments that replace stored ones, such as `backbone="openai:gpt-4o-mini"`.

        Raises:
            ValueError: The checkpoint names a class or a model that needs your consent.
        """
        settings = stored_settings(checkpoint_path) if hparams_file is None else file_settings(hparams_file)
        allow_stored(str(checkpoint_path), settings, cls, kwargs)
        found: Self = super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs
        )
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save only the trained weights, and everything else that the next step depends on."""
        progress = self.progress()
        trained = self._trained_names()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}
        refuse_nonfinite(checkpoint["state_dict"], "checkpoint not written: the trained weights")
        data = getattr(self._trainer, "datamodule", None)
        prompt = data.prompt() if isinstance(data, WritesPrompts) else None
        precision = None if self._trainer is None else str(self._trainer.precision)
        checkpoint["robustlm"] = {**progress, "prompt": prompt, "precision": precision}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` saved."""
        if "robustlm" not in checkpoint:
            raise ValueError("this checkpoint was not written by robustlm: it lacks the entry 'robustlm'")
        if self._trainer is not None and self._trainer.training:  # else weights are loaded for another use
            self.resume(checkpoint["robustlm"])
            folders = [str(one.dirpath) for one in self.trainer.checkpoint_callbacks if hasattr(one, "dirpath")]
            allow_paths(checkpoint.get("callbacks"), folders)
        stored = checkpoint["robustlm"].get("precision")
        if self._trainer is not None and isinstance(stored, str) and stored != self._trainer.precision:
            log.warning(
                "trainer.precision: the checkpoint was trained in %s, and this run is in %s%s",
                shortened(stored, 40), self._trainer.precision,
                ", so its steps are not those that the first run would have taken" if self._trainer.training else "",
            )  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> object:
        """Load trained weights. The frozen ones are already in the model.

        Raises:
            ValueError: A trained weight is missing, a weight is unknown, or shapes differ.
        """
        self.check_weights(state_dict)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def check_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """Raise `ValueError` unless these are this model's trained weights, whole and finite."""
        own = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers(remove_duplicate=False))
        missing = sorted(self._trained_names() - set(state_dict))
        unexpected = sorted(set(state_dict) - set(own))
        shapes = [
            f"{name}: {tuple(state_dict[name].shape)} instead of {tuple(own[name].shape)}"
            for name in sorted(set(state_dict) & set(own))
            if state_dict[name].shape != own[name].shape
        ]
        if missing or unexpected or shapes:
            raise ValueError(
                "the checkpoint does not fit this model; was it trained with another backbone or tuning?"
                + _listed("missing trained weights", missing)
                + _listed("unknown weights", unexpected)
                + _listed("other shapes", shapes)
            )
        refuse_nonfinite(state_dict, "the checkpoint's weights")

    def _trained_names(self) -> set[str]:
        return {name for name, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}

    def keep_plain_hyperparameters(self) -> None:
        """Store the arguments as plain data. From the command line, Lightning has already stored the config."""
        if "_instantiator" in self.hparams:
            return
        plain = {}
        for name, value in self.hparams.items():
            try:
                plain[name] = to_plain(value)
            except TypeError as error:
                raise TypeError(f"{type(self).__name__}: argument {name!r}: {error}") from error
        self.save_hyperparameters({**plain, "_instantiator": "lightning.pytorch.cli.instantiate_module"})


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = "; ".join(names[:3])
    return f"\n  {what} ({len(names)}): {shown}{' …' if len(names) > 3 else ''}"
