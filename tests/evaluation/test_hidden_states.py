"""Distances and projections of states against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustlm.evaluation.hidden_states import between_sums, degradation, distances, pair_sums, project


def test_distances_are_exact_also_for_states_that_nearly_coincide() -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(7, 16)) * 100
    others = np.concatenate([random.normal(size=(4, 16)), states[:2] + 1e-9, states[2:3]])
    wanted = [[math.dist(a, b) for b in others] for a in states]
    assert np.allclose(distances(states, others), wanted, rtol=1e-9, atol=0)


def test_sums_within_and_between_samples() -> None:
    random = np.random.default_rng(1)
    states = random.normal(size=(6, 3))
    samples, phrasings = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 2])
    within = [math.dist(states[i], states[i + 1]) for i in (0, 2, 4)]
    between = [math.dist(states[i], states[j]) for i, j in ((0, 2), (0, 4), (2, 4), (1, 3))]
    sums, counts = pair_sums(states, samples, samples)
    assert np.allclose(sums, within)
    assert counts.tolist() == [1, 1, 1]
    total, count = between_sums(states, samples, phrasings)
    assert total == pytest.approx(sum(between))
    assert count == 4
    assert between_sums(states[:2], samples[:2], phrasings[:2]) == (0, 0)


def test_degradation_over_distance() -> None:
    distance = np.array([0.0, 1.0, 2.0, 3.0])
    assert degradation(distance, 5 - 2 * distance) == (pytest.approx(-2), pytest.approx(-1))
    slope, rank = degradation(distance, np.array([4.0, 3.0, 3.0, 0.0]))
    assert slope < 0
    assert rank == pytest.approx(np.corrcoef([1, 2, 3, 4], [4, 2.5, 2.5, 1])[0, 1])
    assert all(map(math.isnan, degradation(np.ones(3), np.arange(3.0))))
    assert math.isnan(degradation(distance, np.ones(4))[1])


def test_pca_keeps_the_two_widest_directions() -> None:
    random = np.random.default_rng(2)
    flat = random.normal(size=(50, 2)) * [5, 2]
    turn, _ = np.linalg.qr(random.normal(size=(8, 8)))
    states = np.pad(flat, ((0, 0), (0, 6))) @ turn.T
    found = project(states)
    assert np.allclose(distances(found, found), distances(flat, flat))
    assert found[:, 0].std() > found[:, 1].std()
    assert np.allclose(project(np.roll(states, 3, axis=0)), np.roll(found, 3, axis=0))
    assert project(states[:, :1]).shape == (50, 2)
    with pytest.raises(ValueError, match="at least three"):
        project(states[:2])


def test_a_missing_library_is_named() -> None:
    pytest.importorskip("numpy")
    try:
        import umap  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="needs umap-learn"):
            project(np.eye(4), "umap")
