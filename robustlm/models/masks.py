"""Attention masks of transformers, made without a look at the values of the padding mask.

transformers reads the padding mask on the host to see whether it can leave the attention mask out; on a GPU, each pass
waits for that. A batch already knows whether it has padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from transformers import AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

_PADDED: ContextVar[bool | None] = ContextVar("robustlm_padded", default=None)
"""Whether the rows of the pass that is running have padding; null: not known, so transformers looks."""

_SKIPS = ("allow_is_causal_skip", "allow_is_bidirectional_skip")
"""Arguments that let transformers look for padding, and leave the mask out if there is none."""


@contextmanager
def known_padding(padded: bool) -> Iterator[None]:
    """Inside this context, a model's padding masks have padding, or have none, as `padded` says.

    Without padding, the model gets no padding mask. With padding, it always gets the attention mask. The numbers are
    those that transformers computes when it looks.
    """
    token = _PADDED.set(padded)
    try:
        yield
    finally:
        _PADDED.reset(token)


def _informed(make: Callable[..., object]) -> Callable[..., object]:
    """A function of transformers that makes masks, which asks `_PADDED` first."""

    def made(*args: object, **kwargs: object) -> object:
        padded = _PADDED.get()
        if kwargs.get("attention_mask") is not None and padded is not None:
            kwargs |= dict.fromkeys(_SKIPS, False) if padded else {"attention_mask": None}
        return make(*args, **kwargs)

    return made


for _name in ("sdpa", "eager", "flash_attention_2"):
    AttentionMaskInterface.register(_name, _informed(ALL_MASK_ATTENTION_FUNCTIONS[_name]))
