"""Writes the tuned adapter when a fit ends."""

from __future__ import annotations

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from robustlm.adapters.card import TunedModule, model_card
from robustlm.adapters.settings import WritesPrompts, write_prompt
from robustlm.callbacks.folder import run_folder
from robustlm.utils.files import whole_folder
from robustlm.utils.finite import refuse_nonfinite


class AdapterExport(Callback):
    """Saves adapter (or model), tokenizer and a model card at the end of `fit`, for plain transformers and peft.

    Args:
        name: Folder inside the run's folder.
    """

    def __init__(self, name: str = "adapter") -> None:
        self.name = name

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save adapter (or model), tokenizer and model card."""
        target = run_folder(trainer) / self.name  # call this on every rank, since it broadcasts the folder
        module = cast(TunedModule, pl_module)
        gathered = module.backbone.gathered()  # on every rank, since each holds a share of sharded weights
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        if not trainer.global_step:
            raise ValueError(
                f"{target}: not written, because no optimiser step was taken; expected a run of at "
                "least one step (see trainer.max_steps, max_epochs, max_time and limit_train_batches)"
            )
        own = ((name, value) for name, value in pl_module.named_parameters() if value.requires_grad)
        trained = own if gathered is None else iter(gathered.items())
        refuse_nonfinite(trained, f"{target} not written: the trained weights")
        with whole_folder(target) as unfinished:
            backbone = module.backbone
            backbone.model.save_pretrained(unfinished, state_dict=gathered)
            backbone.tokenizer.save_pretrained(unfinished)
            data = getattr(trainer, "datamodule", None)
            prompt = data.prompt() if isinstance(data, WritesPrompts) else None
            write_prompt(unfinished, prompt, backbone.base_name)
            (unfinished / "README.md").write_text(model_card(module, trainer, prompt), encoding="utf-8")
            for file in unfinished.iterdir():
                file.chmod(0o644)  # safetensors lets only the owner read its files
