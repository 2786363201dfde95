"""Merging of an adapter into the weights of its base model, for programs that cannot load adapters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer

from robustlm.adapters.card import merged_card
from robustlm.adapters.settings import read_prompt, write_prompt
from robustlm.checks.numbers import check_number
from robustlm.models.backbone import Backbone
from robustlm.runs import adapter_in
from robustlm.utils.files import whole_folder
from robustlm.utils.finite import refuse_nonfinite

_PROBE = "Name the sentiment of the text. Text: a fine day. Answer: good"
_WIDEST = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest allowed difference of logits by dtype, relative to their norm; merging rounds weights to that dtype."""
_WIDEST_ROUNDED = 0.05
"""The same limit for 16-bit dtypes."""


def merge(run: str, output: str | None, share: float = 1.0) -> Path:
    """Merge an adapter into its base model, and save the merged model with tokenizer, card and prompt settings.

    Args:
        run: Folder of a run, or of an adapter.
        output: Folder for the model, new or empty. Default: `merged` beside the adapter; `merged-SHARE` for a share
            below 1.
        share: α in W = W_base + α · (W_tuned − W_base), for all weights (Wortsman et al., CVPR 2022). 1 is the tuned
            model, 0 the base model. Below 1, only for adapters whose change of the weights is the product of their two
            matrices: LoRA without DoRA, trained biases or trained copies of layers.

    Returns:
        The folder of the merged model.

    Raises:
        ValueError: There is no adapter, it cannot be merged, or the merged model's logits differ from the adapter's.
    """
    check_number("share", share, least=0, most=1)
    folder = adapter_in(Path(run))
    name = "merged" if share == 1 else f"merged-{share:g}"
    target = Path(output) if output is not None else folder.parent / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"output: {target} exists already; expected a new or an empty folder")
    backbone = Backbone(str(folder))
    backbone.load()
    model: Any = backbone.model.eval()  # peft adds attributes that no type shows
    config = model.active_peft_config
    kind = config.peft_type.value
    if config.is_prompt_learning or not hasattr(model, "merge_and_unload"):
        raise ValueError(
            f"{folder}: found an adapter of the kind {kind}, which holds states that are put before a prompt and "
            "changes no weights; expected one that changes weights, such as LORA. Use this one with peft"
        )
    if share != 1:
        _scale(model.modules(), config, share, folder)
    wanted = _logits(model, backbone)
    merged = model.merge_and_unload(safe_merge=True)
    refuse_nonfinite(merged.named_parameters(), f"{target} not written: the merged weights")
    found = _logits(merged, backbone)
    apart = float((found - wanted).norm() / wanted.norm())
    if not apart <= _WIDEST.get(merged.dtype, _WIDEST_ROUNDED):
        raise ValueError(
            f"{folder}: the merged model gives other logits than the adapter (by {apart:.1%} of their size), so "
            "nothing is written; an adapter of the embeddings or the head cannot be merged if both share weights"
        )
    prompt = read_prompt(folder)
    with whole_folder(target) as unfinished:
        merged.save_pretrained(unfinished)
        backbone.tokenizer.save_pretrained(unfinished)
        write_prompt(unfinished, prompt, backbone.base_name)
        (unfinished / "README.md").write_text(merged_card(backbone, str(kind), prompt, share), encoding="utf-8")
        for file in unfinished.iterdir():
            file.chmod(0o644)  # only the owner can read files that safetensors writes
    return target


def _scale(layers: Iterable[object], config: PeftConfig, share: float, folder: Path) -> None:
    """Multiply the change that a LoRA adapter makes to each weight by `share`.

    Raises:
        ValueError: The adapter changes weights in other ways too.
    """
    why = None
    if not isinstance(config, LoraConfig):
        why = f"an adapter of the kind {config.peft_type}"
    elif config.use_dora:
        why = "DoRA, whose change is no multiple of its matrices"
    elif config.modules_to_save:
        why = f"trained copies of layers ({', '.join(config.modules_to_save)})"
    elif config.bias != "none":
        why = "trained biases"
    if why is not None:
        raise ValueError(f"share: found {share:g} for {folder}, which has {why}; expected 1, or plain LoRA")
    for layer in layers:
        if isinstance(layer, LoraLayer):
            for name in layer.scaling:
                layer.scaling[name] *= share


@torch.no_grad()
def _logits(model: Any, backbone: Backbone) -> torch.Tensor:
    """Logits of the probe text, float32 `[T, V]`."""
    ids = backbone.tokenizer(_PROBE, return_tensors="pt")["input_ids"].to(model.device)
    more = {"labels": ids} if backbone.is_encoder_decoder else {}
    found: torch.Tensor = model(input_ids=ids, **more).logits[0].float()
    return found
