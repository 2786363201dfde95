"""Shows that a model keeps rows apart when they run in one sequence."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import PretrainedConfig

from robustlm.batch import IGNORE, View
from robustlm.models.answers import answers
from robustlm.models.loaded import LoadedModel
from robustlm.models.probing import tolerance

_SETTING = "loading.padding_free: found true"
_LENGTHS = (9, 5)
"""Lengths of the two rows that are run."""


def check_config(config: PretrainedConfig, name: str) -> None:
    """Raise `ValueError` for a model that cannot run rows in one sequence, before its weights are read."""
    if config.is_encoder_decoder:
        raise ValueError(
            f"{_SETTING} with {name!r}, an encoder–decoder ({config.model_type}): its encoder and its attention to "
            "prompts have no rows in one sequence; expected false"
        )


def check_separation(loaded: LoadedModel, name: str) -> None:
    """Run two rows alone and in one sequence, without dropout, and compare the results.

    Recurrent layers carry a state from row to row, and some models count positions themselves. No list of models would
    be complete, so the model itself is asked.

    Raises:
        ValueError: A row's answer depends on the row before it, or is not that of the row alone; or the model cannot
            run rows in one sequence.
    """
    if not loaded.takes_positions:
        raise ValueError(f"{_SETTING} with {name!r}, which counts positions itself; expected false")
    padded = replace(loaded, padding_free=False)
    first, second, other = (_row(loaded, *one) for one in ((_LENGTHS[0], 3), (_LENGTHS[1], 40), (_LENGTHS[0], 71)))
    with loaded.evaluating(), torch.no_grad(), torch.autocast(loaded.device.type, enabled=False):
        alone = torch.cat([_run(padded, [row]) for row in (first, second)])
        try:
            found, beside = _run(loaded, [first, second]), _run(loaded, [other, second])
        except Exception as error:  # code of any model; it says in many ways that it cannot read such a mask
            raise ValueError(
                f"{_SETTING}, but {name!r} cannot run rows in one sequence ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''}); expected false"
            ) from error
    limit = tolerance(alone.dtype)
    if (distance := _distance(found[1:], beside[1:])) > limit:
        raise ValueError(
            f"{_SETTING}, but in {name!r} a row changes with the row before it (by {distance:.2g} of its length, "
            f"expected at most {limit:g}), as in models with recurrent layers; expected false"
        )
    if (distance := _distance(found, alone)) > limit:
        raise ValueError(
            f"{_SETTING}, but {name!r} gives a row another result in a sequence than alone (by {distance:.2g} of its "
            f"length, expected at most {limit:g}); expected false"
        )


def _row(loaded: LoadedModel, length: int, start: int) -> Tensor:
    """Int64 `[length]`: a row of the first tokens of the vocabulary."""
    size: int = loaded.base.get_input_embeddings().weight.shape[0]
    return (torch.arange(length, device=loaded.device) * 7 + start) % size


def _run(loaded: LoadedModel, rows: list[Tensor]) -> Tensor:
    """The final state of each row's last token, `[R, H]`."""
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(row), (width - len(row), 0)) for row in rows])
    labels = ids.masked_fill(torch.arange(width, device=ids.device) < width - 1, IGNORE)
    view = View(ids, mask, labels, mask.bool(), mask.bool())
    return answers(loaded, view, loaded.embed(ids), "last").state


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest distance of two rows, as a share of the second one's length."""
    lengths = theirs.double().norm(dim=1)
    return float(((ours.double() - theirs.double()).norm(dim=1) / lengths).max())
