"""Which cells a budget leaves, and that they are the ones that are asked."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from robustlm.datamodules.budget import balanced_cells
from tests.datamodules.test_robustness import cells, files, ready

__all__ = ["files"]


@pytest.mark.parametrize("share", [0.001, 0.05, 0.1, 0.37, 0.9, 1.0])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (40, 10), (5, 20)])
def test_cells_are_balanced(n: int, k: int, share: float) -> None:
    samples, instructions = [f"s{i}" for i in range(n)], [f"i{j}" for j in range(k)]
    found = balanced_cells(samples, instructions, share, 0)
    assert len(found) == min(n * k, max(math.ceil(share * n * k - 1e-9), k))
    for at, names, most in ((0, samples, 1), (1, instructions, 2)):
        counts = Counter(cell[at] for cell in found)
        assert max(counts[name] for name in names) - min(counts[name] for name in names) <= most
    assert all(sample in samples and instruction in instructions for sample, instruction in found)


def test_cells_depend_on_seed_and_ids_alone() -> None:
    samples, instructions = [f"s{i}" for i in range(30)], [f"i{j}" for j in range(8)]
    found = balanced_cells(samples, instructions, 0.2, 0)
    assert balanced_cells(samples[::-1], instructions[::-1], 0.2, 0) == found
    assert balanced_cells(samples, instructions, 0.2, 1) != found
    # samples of one instruction are asked under many others: scores of instructions stay comparable
    shared = {i: {j for s, j in found if (s, i) in found} for i in instructions}
    assert min(map(len, shared.values())) >= 3  # itself and two others


def test_a_budget_leaves_the_same_cells_under_every_condition(llama: str, files: list[str]) -> None:
    whole, thin = ready(llama, files), ready(llama, files, budget=0.5)
    for condition in ("clean", "random_typos@0.4", "unseen"):
        all_, some = cells(whole, condition), cells(thin, condition)
        assert Counter(dataset for dataset, _, _ in some) == {"films": 9, "news": 8}
        assert all(all_[key].instruction == sample.instruction for key, sample in some.items())
    assert cells(thin, "clean").keys() == cells(thin, "random_typos@0.4").keys()
    assert cells(ready(llama, files, budget=1.0), "clean").keys() == cells(whole, "clean").keys()


@pytest.mark.parametrize("budget", [0, -0.1, 1.5])
def test_a_budget_is_a_share(budget: float, tmp_path: Path) -> None:
    from robustlm.datamodules import RobustnessDataModule

    with pytest.raises(ValueError, match=r"data\.budget: found"):
        RobustnessDataModule(test=str(tmp_path / "rows.jsonl"), budget=budget)
