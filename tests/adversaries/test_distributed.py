"""Two gloo processes against one: the controller, and adversaries inside DDP's forward pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from robustlm.adversaries import FGM, NRM, Adversary, FreeLB

from .toy import Toy, problem

SHARES = ([0, 1], [2, 3])


def attackers() -> dict[str, Adversary]:
    return {
        "fgm": FGM(),
        "freelb": FreeLB(),
        "nrm": NRM(),
        "nrm_clean": NRM(ascent="clean"),
        "nrm_tokens": NRM(ascent="clean", token_share=0.3, scale_start_by_beta=False, scale_radius_by_beta=True),
        "nrm_gap": NRM(target_gap=0.1, gap_rate=0.5),
    }


class Step(nn.Module):
    """A training step as a forward pass, as DDP wants it."""

    def __init__(self, adversary: Adversary, idle: bool) -> None:
        super().__init__()
        self.model = Toy(tied=True)
        self.adversary = adversary
        if idle:
            self.idle = nn.Parameter(torch.ones(2))

    def forward(self, rows: list[int]) -> Tensor:
        at = problem(self.model, rows=rows, train_table=True, beta=[0.1 * row for row in rows])
        outcome = self.adversary.attack(replace(at, parameters=list(self.parameters())))
        clean = 0 if outcome.clean is None else outcome.clean.mean()
        return clean + outcome.adversarial.mean()


def steps(step: nn.Module, shares: list[list[int]]) -> dict[str, Tensor]:
    """Two optimiser steps over the given shares of rows, losses averaged; the gradients of the second."""
    optimizer = torch.optim.SGD(step.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        for rows in shares:
            (step(rows) / len(shares)).backward()
        optimizer.step()
    return {n.removeprefix("module."): p.grad for n, p in step.named_parameters() if p.grad is not None}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for name, adversary in attackers().items():
        for idle in (False, True):
            step = nn.parallel.DistributedDataParallel(Step(adversary, idle), find_unused_parameters=idle)
            found[name, idle] = steps(step, [SHARES[rank]])
    gap = NRM(target_gap=0.2, gap_rate=0.1)
    states = []
    for _ in range(5):
        gap.attack(problem(Toy(), rows=SHARES[rank]))
        states.append(gap.state_dict()["controller"])
    torch.save((found, states), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    (ours, states), (theirs, other_states) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for a, b in zip(states, other_states, strict=True):
        assert torch.equal(a, b)
    joint = NRM(target_gap=0.2, gap_rate=0.1)
    for state in states:
        joint.attack(problem(Toy()))
        assert torch.allclose(joint.state_dict()["controller"], state, atol=1e-6)

    for name, adversary in attackers().items():
        for idle in (False, True):
            if name == "nrm_gap":  # the whole batch at once, as the controller sees it
                single = steps(Step(adversary, idle), [[0, 1, 2, 3]])
            else:
                single = steps(Step(adversary, idle), list(SHARES))
            for key, gradient in single.items():
                assert torch.equal(ours[name, idle][key], theirs[name, idle][key]), (name, key)
                assert torch.allclose(ours[name, idle][key], gradient, rtol=0, atol=1e-6), (name, key)
