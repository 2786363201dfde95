"""Additional losses of an objective, besides those of the answers."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from robustlm.modules.passes import Passes


class Term(Protocol):
    """A loss that compares raw rows with their variants. Its fields are its settings; it has no other state."""

    name: ClassVar[str]
    """Name of its loss. The loss is logged as `train/<name>`, its other values as `<name>/…`."""
    needs_variants: ClassVar[str]
    """A clause that names what needs variants. Messages put it after "makes no variants, which"."""

    def losses(self, passes: Passes, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this micro-batch, and values to log.

        Args:
            passes: With the views `raw` and `variant`.
            answers: The answer loss of the step, a scalar.
        """

    def weigh(self, weights: dict[str, float]) -> dict[str, float]:
        """The factors of all named losses including this term. `weights`: the factors without it."""
