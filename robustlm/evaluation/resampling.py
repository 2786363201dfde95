"""Bootstrap draws: how often each sample and instruction of a grid counts in each draw."""

from __future__ import annotations

import hashlib

import numpy as np

from robustlm.evaluation.grid import Floats, Grid
from robustlm.evaluation.numbers import (
    Sampled,
    Settings,
)
from robustlm.evaluation.weighted import Features, drop

_BLOCK = 20_000_000
"""Maximum number of cells of an array: draws × samples × instructions."""


def sample_weights(name: str, n: int, settings: Settings) -> Floats:
    """How often each of a dataset's n samples counts in each draw, `[1 + draws, n]`; once each in the first row."""
    drawn = seeded(settings, name, "samples").multinomial(n, np.full(n, 1 / n), settings.draws)
    return np.concatenate([np.ones((1, n)), drawn])


def seeded(settings: Settings, *what: str) -> np.random.Generator:
    """A random generator that depends on the seed and on the names in `what`."""
    digest = hashlib.sha256("\0".join(what).encode()).digest()
    return np.random.default_rng((settings.seed, *digest))


class Weights:
    """How often each sample and instruction counts in each draw; once each in the first row."""

    def __init__(self, name: str, grid: Grid, settings: Settings) -> None:
        self._name = name
        self._settings = settings
        self._samples = sample_weights(name, len(grid.samples), settings)

    def _instructions(self, names: tuple[str, ...]) -> Floats:
        """Weights `[1 + draws, k]`, or `[1, k]` if instructions are fixed.

        Conditions with the same instructions share draws.
        """
        k = len(names)
        if self._settings.resample == "samples":
            return np.ones((1, k))
        random = seeded(self._settings, self._name, "instructions", *names)
        drawn = random.multinomial(k, np.full(k, 1 / k), self._settings.draws)
        return np.concatenate([np.ones((1, k)), drawn])

    def apply(self, grid: Grid, clean: Grid | None) -> Sampled:
        """All numbers of a grid. Arrays whose names begin with `_` are used to compute pooled numbers."""
        features = Features(grid)
        own = self._instructions(grid.instructions)
        other = None if clean is None else self._instructions(clean.instructions)
        block = max(1, _BLOCK // max(1, grid.present.size))
        found = []
        for at in range(0, len(self._samples), block):
            w = self._samples[at : at + block]
            v = own if len(own) == 1 else own[at : at + block]
            numbers = features.numbers(w, v)
            if clean is not None and other is not None:
                u = other if len(other) == 1 else other[at : at + block]
                numbers |= drop(grid, clean, w, v, u)
            found.append(numbers)
        return {key: np.concatenate([numbers[key] for numbers in found]) for key in found[0]}
