"""Additional losses of an objective, besides those of the answers."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from robustlm.modules.passes import Passes


class Term(Protocol):
    """A loss besides those of the answers. Its fields are its settings; it has no other state."""

    name: ClassVar[str]
    """Name of its loss. The loss is logged as `train/<name>`, its other values as `<name>/…`."""

    @property
    def needs_variants(self) -> str | None:
        """A clause that names what needs variants; null: nothing. Messages put it after "makes no variants, which"."""

    def losses(self, passes: Passes, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this micro-batch, and values to log.

        Args:
            passes: With the view `raw`, and with `variant` if the term needs variants.
            answers: The answer loss of the step, a scalar.
        """

    def weigh(self, weights: dict[str, float]) -> dict[str, float]:
        """The factors of all named losses including this term. `weights`: the factors without it."""
