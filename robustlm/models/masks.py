"""Attention masks of transformers, made without a look at the values of the padding mask.

transformers reads the padding mask on the host to see whether it can leave the attention mask out; on a GPU, each pass
waits for that. A batch already knows whether it has padding, or that its rows run in one sequence without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

from transformers import AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from robustlm.models.padding_free import RowSequence
from robustlm.models.segments import Segments

_PADDED: ContextVar[bool | RowSequence | Segments | None] = ContextVar("robustlm_padded", default=None)
"""Whether the rows of the pass that is running have padding, or the sequence in which they run without, or the
continuations that they hold; null: not known, so transformers looks."""

_SKIPS = ("allow_is_causal_skip", "allow_is_bidirectional_skip")
"""Arguments that let transformers look for padding, and leave the mask out if there is none."""


@contextmanager
def known_padding(padded: bool | RowSequence | Segments | None) -> Iterator[None]:
    """Inside this context, a model's padding masks have padding, or have none, as `padded` says.

    Without padding, the model gets no padding mask. With padding, it always gets the attention mask. The numbers are
    those that transformers computes when it looks. For a sequence of rows, or for rows with several continuations, the
    model gets a mask that keeps them apart.
    """
    token = _PADDED.set(padded)
    try:
        yield
    finally:
        _PADDED.reset(token)


def _informed(make: Callable[..., object], *, dense: bool) -> Callable[..., object]:
    """A function of transformers that makes masks, which asks `_PADDED` first. `dense`: see `RowSequence.mask`."""

    def made(*args: object, **kwargs: object) -> object:
        padded = _PADDED.get()
        if isinstance(padded, Segments):
            return padded.mask(partial(make, *args), kwargs)
        if isinstance(padded, RowSequence):
            return padded.mask(partial(make, *args), kwargs, dense=dense)
        if kwargs.get("attention_mask") is not None and padded is not None:
            kwargs |= dict.fromkeys(_SKIPS, False) if padded else {"attention_mask": None}
        return make(*args, **kwargs)

    return made


for _name in ("sdpa", "eager", "flash_attention_2"):
    AttentionMaskInterface.register(_name, _informed(ALL_MASK_ATTENTION_FUNCTIONS[_name], dense=_name == "eager"))
