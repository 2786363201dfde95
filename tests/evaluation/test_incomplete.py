"""Scores estimated from a part of the cells, against other ways to compute them and against the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from benchmarks.budget import Full, measure
from benchmarks.intervals import Setting, table
from robustlm.evaluation import incomplete
from robustlm.evaluation.incomplete import Model, estimated, fits
from robustlm.evaluation.numbers import ESTIMATED, Settings
from robustlm.evaluation.robustness import robustness
from tests.evaluation.test_robustness import answer


@pytest.mark.parametrize("model", ["rasch", "shrunk"])
def test_a_fit_is_the_maximum_that_an_optimiser_finds(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The penalised likelihood, maximised by scipy over all coefficients at once."""
    monkeypatch.setattr(incomplete, "_FACTORS", (1,))
    known = incomplete._Variances(0.8, 0.3, 0.2)
    monkeypatch.setattr(incomplete, "_variances", lambda *_: known)
    random = np.random.default_rng(0)
    scores, present = (random.random((8, 4)) < 0.6).astype(float), random.random((8, 4)) < 0.6

    def loss(x: np.ndarray) -> float:
        linear = (x[:8, None] + x[None, 8:12] + x[12])[present]
        found = scores[present]
        fitted = (
            np.logaddexp(0, linear).sum() - found @ linear
            if model == "rasch"
            else ((found - linear) ** 2).sum() / (2 * known.noise)
        )
        return float(fitted + (x[:8] ** 2).sum() / (2 * known.theta) + (x[8:12] ** 2).sum() / (2 * known.beta))

    wanted = minimize(loss, np.zeros(13), method="BFGS", options={"gtol": 1e-7})
    (one,), weights = fits(scores, present, model)
    assert np.concatenate([one.theta, one.b]) == pytest.approx(wanted.x, abs=2e-3)
    assert weights == pytest.approx([1.0])
    # the covariance is the inverse of the second derivatives (BFGS knows them roughly)
    assert np.sqrt(np.diag(one.covariance)) == pytest.approx(np.sqrt(np.diag(wanted.hess_inv))[8:], rel=0.35)


@pytest.mark.parametrize("model", ["rasch", "shrunk"])
def test_draws_have_the_covariance_of_the_fit(model: Model) -> None:
    random = np.random.default_rng(1)
    scores, present = (random.random((30, 5)) < 0.6).astype(float), random.random((30, 5)) < 0.6
    one = fits(scores, present, model)[0][0]
    theta, b = one.draw(20_000, random)
    assert np.cov(b.T) == pytest.approx(one.covariance, abs=0.03 * one.covariance.max())
    of_theta = 1 / one.precision + np.einsum("ij,jk,ik->i", one.slope, one.covariance, one.slope)
    assert theta.var(0) == pytest.approx(of_theta, rel=0.1)
    assert theta.mean(0) == pytest.approx(one.theta, abs=0.05)


@pytest.mark.parametrize("model", ["rasch", "shrunk"])
def test_estimates_are_nearer_than_means_of_what_was_asked(model: Model) -> None:
    setting = Setting(150, 30, 0.7, 0.5, 0.15)
    found = [
        measure(Full("", table(setting, np.random.default_rng(seed)), setting.scores), 0.1, seed, 100)
        for seed in range(3)
    ]
    for name in ("each", "worst_estimated", "low_estimated"):
        own, plain = (math.sqrt(np.mean([one[m][name] ** 2 for one in found])) for m in (model, "plain"))
        assert own < 0.8 * plain, name
    assert np.mean([one[model]["covered each"] for one in found]) > 0.7


def test_observed_cells_are_kept_as_they_are() -> None:
    """With one cell of 400 missing the estimates are nearly the scores."""
    grid = table(Setting(80, 5, 0.6, 0.5, 0.2), np.random.default_rng(2))
    assert estimated(grid, Settings(0)) is None
    present = grid.present.copy()
    present[0, 0] = False
    thin = replace(grid, present=present, part=grid.part * present, whole=grid.whole * present)
    found = estimated(thin, Settings(50))
    assert found is not None
    for one, score in zip(found.by_instruction.values(), grid.part.mean(0), strict=True):
        assert one.value == pytest.approx(score, abs=1 / 80)
        assert one.low < score < one.high
    assert found.worst == str(int(grid.part.mean(0).argmin()))


def test_a_report_uses_samples_that_miss_an_instruction() -> None:
    random = np.random.default_rng(3)
    rows = [
        answer(str(s), f"i{(s + j) % 5}", "a" if random.random() < 0.7 else "b", dataset=dataset)
        for dataset in "de"
        for s in range(40)
        for j in range(2)
    ]
    found = robustness(rows, Settings(50))
    for one in found:
        assert math.isnan(one.numbers["worst_instruction"].value)
        for name in ESTIMATED:
            number = one.numbers[name]
            assert 0 <= number.low <= number.value <= number.high <= 1
        assert one.numbers["worst_estimated"].value <= one.numbers["median_estimated"].value
    assert found[0].estimated.keys() == {f"i{j}" for j in range(5)}
    assert found[0].worst_estimated in found[0].estimated
    assert found[2].numbers["mean_estimated"].datasets == 2
    assert robustness(rows, Settings(50))[0].estimated == found[0].estimated
    whole = robustness([answer(str(s), i, "a") for s in range(4) for i in "ij"], Settings(0))
    assert not set(ESTIMATED) & set(whole[0].numbers)
