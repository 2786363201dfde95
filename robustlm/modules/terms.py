"""What an objective adds to the losses of answers."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from robustlm.modules.passes import Passes


class Term(Protocol):
    """A comparison of raw rows with their variants, as one loss. Settings are its fields; it keeps nothing else."""

    name: ClassVar[str]
    """Of its loss: logged as `train/<name>`, its curves as `<name>/…`."""
    needs_variants: ClassVar[str]
    """The end of "the datamodule makes no variants, which …" in messages."""

    def losses(self, passes: Passes, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this micro-batch, and what is worth a curve.

        Args:
            passes: With the views `raw` and `variant`.
            answers: The answer loss of the step, a scalar.
        """

    def weigh(self, weights: dict[str, float]) -> dict[str, float]:
        """The factors of all named losses with this term among them, given those without it."""
