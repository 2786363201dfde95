"""Several continuations of a prompt in the prompt's own row: each reads the prompt and itself, and no other one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Segments:
    """Which continuation each position of R rows belongs to."""

    numbers: Tensor
    """Int64 `[R, C + T]`, over the positions in the cache and the T new ones. 0: all later positions of the row may
    attend to it; otherwise the number of the continuation, which alone attends to it."""
    asked: bool = False
    """Whether a model has asked for the mask."""

    def mask(self, make: Callable[..., object], arguments: dict[str, object]) -> Tensor:
        """The attention mask `[R, 1, T, C + T]`, in place of the one that a function of transformers makes.

        Args:
            make: The function.
            arguments: Its arguments, for the rows as they are.

        Raises:
            ValueError: The model keeps other keys than those of the cache and the new positions.
        """
        self.asked = True
        queries, keys = arguments["q_length"], arguments["kv_length"]
        assert isinstance(queries, int)
        if keys != self.numbers.shape[1]:
            raise ValueError(f"found a mask over {keys} positions; expected {self.numbers.shape[1]}")
        own = make(**{**arguments, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
        assert isinstance(own, Tensor)
        read = self.numbers[:, None, :]
        apart = ((read != 0) & (read != self.numbers[:, -queries:, None]))[:, None]
        return own & ~apart if own.dtype == torch.bool else own.masked_fill(apart, torch.finfo(own.dtype).min)


@dataclass
class SegmentCheck:
    """What was found out about a loaded model and continuations in one row."""

    kept_apart: bool | None = None
    """Whether the model keeps them apart; null: it was not asked yet."""
