"""Muon and AdamW combined in one optimiser, which torch does not offer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Muon for hidden matrices and AdamW for everything else, as one optimiser.

    Small transformers trained from scratch learn several times faster with Muon, but embeddings, output heads, norms
    and biases need AdamW. Two optimisers would require manual optimisation, two schedulers and two states. This class
    has one list of parameter groups and one state, so schedulers and checkpoints treat it as a usual optimiser.

    Args:
        params: Parameter groups `{"params": [...], "hidden": bool}`. Groups with `hidden: True` contain matrices and
            use Muon, the others use AdamW. A group may set any option of its optimiser.
        lr: Learning rate of hidden groups.
        weight_decay: Decoupled weight decay of hidden groups.
        momentum: Momentum of hidden groups.
        adamw_lr: Learning rate of the other groups.
        adamw_betas: Decay rates of AdamW's two averages.
        adamw_weight_decay: Decoupled weight decay of the other groups.

    Raises:
        ValueError: If a hidden group holds a tensor that is not a matrix, or a value is out of range.
    """

    def __init__(
        self,
        params: Iterable[dict[str, object]],
        lr: float = 0.01,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        adamw_lr: float = 3e-3,
        adamw_betas: tuple[float, float] = (0.9, 0.98),
        adamw_weight_decay: float = 0.0,
    ) -> None:
        # Both constructors need a parameter. The matrix is never used; only the defaults of the optimisers matter.
        self._muon = Muon([torch.zeros(1, 1)], lr=lr, weight_decay=weight_decay, momentum=momentum)
        self._adamw = AdamW([torch.zeros(1, 1)], lr=adamw_lr, betas=adamw_betas, weight_decay=adamw_weight_decay)
        super().__init__(params, {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with the defaults of its optimiser (Muon if `hidden`, else AdamW)."""
        hidden = param_group.setdefault("hidden", False)
        parameters = param_group["params"]
        param_group["params"] = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if hidden and (shapes := [tuple(p.shape) for p in param_group["params"] if p.ndim != 2]):
            raise ValueError(f"groups with `hidden: True`: found the shapes {shapes}; expected matrices only")
        defaults = (self._muon if hidden else self._adamw).defaults
        super().add_param_group({**defaults, **param_group})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of both optimisers.

        Args:
            closure: Recomputes the loss, with gradients.

        Returns:
            The closure's loss, if one was given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for inner, hidden in ((self._muon, True), (self._adamw, False)):
            # Loading a checkpoint replaces groups and state, so they are passed on again at each step.
            inner.param_groups = [group for group in self.param_groups if group["hidden"] is hidden]
            inner.state = self.state
            inner.step()  # type: ignore[no-untyped-call]
        return loss
