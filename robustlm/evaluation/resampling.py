"""Bootstrap draws: how often each sample and instruction of a grid counts in each of them."""

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
"""Cells of the largest array at a time: draws × samples × instructions."""


def sample_weights(name: str, n: int, settings: Settings) -> Floats:
    """How often each of a dataset's n samples counts in each draw, `[1 + draws, n]`; the first row counts all once."""
    drawn = seeded(settings, name, "samples").multinomial(n, np.full(n, 1 / n), settings.draws)
    return np.concatenate([np.ones((1, n)), drawn])


def seeded(settings: Settings, *what: str) -> np.random.Generator:
    """Random numbers that depend on the seed and on what they are for."""
    digest = hashlib.sha256("\0".join(what).encode()).digest()
    return np.random.default_rng((settings.seed, *digest))


class Weights:
    """How often each sample and instruction counts in each draw; the first row counts all once."""

    def __init__(self, name: str, grid: Grid, settings: Settings) -> None:
        self._name = name
        self._settings = settings
        self._samples = sample_weights(name, len(grid.samples), settings)

    def _instructions(self, names: tuple[str, ...]) -> Floats:
        """`[1 + draws, k]`, or `[1, k]` where instructions are fixed. Conditions with the same ones share draws."""
        k = len(names)
        if self._settings.resample == "samples":
            return np.ones((1, k))
        random = seeded(self._settings, self._name, "instructions", *names)
        drawn = random.multinomial(k, np.full(k, 1 / k), self._settings.draws)
        return np.concatenate([np.ones((1, k)), drawn])

    def apply(self, grid: Grid, clean: Grid | None) -> Sampled:
        """All numbers of a grid. Keys with a leading `_` are what pooled numbers are made of."""
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
