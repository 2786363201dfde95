"""Computes every number of one grid from weighted sums over samples and instructions.

A bootstrap draw is a row of weights, so all draws of a dataset are computed with a few matrix products.
"""

from __future__ import annotations

import numpy as np

from robustlm.evaluation.grid import Bools, Floats, Grid, Ints, ratio
from robustlm.evaluation.numbers import VOTE, Sampled


class Features:
    """Arrays of a grid whose weighted sums give its numbers.

    Weights are `w [D, n]` of samples and `v [D or 1, k]` of instructions. Numbers that compare instructions use only
    complete samples. With other samples, differences between instructions could come from different samples.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.whole_samples = grid.complete.astype(np.float64)
        keep = grid.complete[:, None]
        self.part, self.whole = grid.part * keep, grid.whole * keep
        self.cells = grid.cells * keep
        self.left, self.right = np.triu_indices(len(grid.instructions), 1)
        self.agree = (grid.answers[:, self.left] == grid.answers[:, self.right]) * keep
        self.differ = np.abs(self.cells[:, self.left] - self.cells[:, self.right])
        self.shift, self.shifted = _likelihood_shifts(grid, self.left, self.right)
        # from the worst answer of a sample to its best; equally bad ones are sorted by `whole`, the largest first
        self.order = np.lexsort((-grid.whole, grid.cells))

    def numbers(self, w: Floats, v: Floats) -> Sampled:
        """Every number except the drop, `[D]` each."""
        grid = self.grid
        asked = _bilinear(w, v, grid.present)
        full = w @ self.whole_samples
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "mean": _score(_bilinear(w, v, grid.part), _bilinear(w, v, grid.whole), asked),
                **self._instructions(w, v, full),
                "worst_case": self._worst_case(w, v, full),
                "consistency": self._pairs(w, v, self.agree, full),
                "sensitivity": self._pairs(w, v, self.differ, full),
                "posix": self._pairs(w, v, self.shift, w @ self.shifted),
                "all_correct": self._all_correct(w, v, full),
                **self._shares(w, v, full),
                **self._vote(w, v, asked),
                "unparseable": np.where(asked > 0, _bilinear(w, v, grid.unparseable) / asked, np.nan),
            }

    def _instructions(self, w: Floats, v: Floats, full: Floats) -> Sampled:
        scores = np.where(full[:, None] > 0, ratio(w @ self.part, w @ self.whole), np.nan)  # [D, k]
        k = scores.shape[1]
        low = np.where(v > 0, scores, np.inf).min(1)
        high = np.where(v > 0, scores, -np.inf).max(1)
        middle = (v * scores).sum(1, keepdims=True) / k
        std = np.sqrt((v * (scores - middle) ** 2).sum(1) / k)
        several = np.where((full > 0) & (k > 1), 1.0, np.nan)
        low, high = np.where(full > 0, low, np.nan), np.where(full > 0, high, np.nan)
        return {
            "worst_instruction": low,
            "std": std * several,
            "spread": (high - low) * several,
            "_sum": (v * scores).sum(1) * several,
            "_squares": (v * scores**2).sum(1) * several,
            "_count": np.full(len(w), float(k)),
        }

    def _worst_case(self, w: Floats, v: Floats, full: Floats) -> Floats:
        drawn = (v > 0)[:, self.order]  # [D or 1, n, k], from worst to best
        first = drawn.argmax(2)
        at = self.order[np.arange(len(self.order)), first]  # [D or 1, n]
        rows = np.arange(len(self.order))
        return _score(_linear(w, self.part[rows, at]), _linear(w, self.whole[rows, at]), full)

    def _all_correct(self, w: Floats, v: Floats, full: Floats) -> Floats:
        wrong = (v > 0).astype(np.float64) @ (~self.grid.correct).T.astype(np.float64)
        return np.where(full > 0, _linear(w, (wrong == 0) * self.whole_samples) / full, np.nan)

    def _vote(self, w: Floats, v: Floats, asked: Floats) -> Sampled:
        draws = self.grid.draws
        if draws is None:
            return {}
        return {VOTE: _score(_bilinear(w, v, draws.part), _bilinear(w, v, draws.whole), asked)}

    def _pairs(self, w: Floats, v: Floats, values: Floats, samples: Floats) -> Floats:
        """Mean over samples and pairs of instructions; an instruction drawn twice is not paired with itself."""
        pairs = v[:, self.left] * v[:, self.right]
        whole = samples * pairs.sum(1)
        return np.where(whole > 0, _bilinear(w, pairs, values) / whole, np.nan)

    def _shares(self, w: Floats, v: Floats, full: Floats) -> Sampled:
        """Sums of squares of a two-way analysis of variance of complete samples' scores, divided by their total."""
        k = v.sum(1)
        by_sample = v @ self.cells.T / k[:, None]  # [D or 1, n]
        by_instruction = w @ self.cells / full[:, None]  # [D, k]
        grand = _linear(w, by_sample) / full
        total = _bilinear(w, v, self.cells**2) - full * k * grand**2
        samples = k * (_linear(w, by_sample**2) - full * grand**2)
        phrasing = full * (v * (by_instruction - grand[:, None]) ** 2).sum(1)
        varied = (total > 1e-12 * full * k) & (len(self.grid.instructions) > 1)
        total = np.where(varied, total, np.nan)
        return {
            "share_phrasing": phrasing / total,
            "share_samples": np.maximum(samples, 0) / total,
            "share_interaction": np.maximum(total - samples - phrasing, 0) / total,
        }


def _likelihood_shifts(grid: Grid, left: Ints, right: Ints) -> tuple[Floats, Floats]:
    """Shifts `[n, pairs]` of log-likelihood between instructions, and 1 or 0 `[n]` for samples with or without them.

    For instructions i and j with answers y_i and y_j, a shift is the mean of |log P(y_j|x_i) − log P(y_j|x_j)| / |y_j|
    and the same with i and j exchanged. A sample has shifts if all values are known and finite under every instruction.
    """
    nothing = np.zeros((len(grid.samples), len(left)))
    options = grid.options
    if options is None or not len(left):
        return nothing, np.zeros(len(grid.samples))
    n, k = grid.present.shape
    at = np.maximum(options.chosen, 0)
    rows = np.arange(n)[:, None, None]
    scores = options.scores[rows, np.arange(k)[None, :, None], at[:, None, :]]  # [n, i, j]: y_j under x_i
    tokens = np.take_along_axis(options.tokens, at[:, :, None], 2)[:, None, :, 0]
    own = np.diagonal(scores, axis1=1, axis2=2)[:, None, :]
    with np.errstate(invalid="ignore"):
        shifts = np.abs(scores - own) / tokens
    both = (shifts[:, left, right] + shifts[:, right, left]) / 2
    known: Bools = np.isfinite(both).all(1) & (options.chosen >= 0).all(1) & grid.complete
    return np.where(known[:, None], both, 0.0), known.astype(np.float64)


def drop(grid: Grid, clean: Grid, w: Floats, v: Floats, u: Floats) -> Sampled:
    """1 − M/M(clean) over the samples asked under both conditions."""
    both = w * (grid.asked & clean.asked)
    mine, other = (
        _score(_bilinear(both, x, one.part), _bilinear(both, x, one.whole), _bilinear(both, x, one.present))
        for one, x in ((grid, v), (clean, u))
    )
    return {"pdr": drop_rate(mine, other), "_condition": mine, "_clean": other}


def drop_rate(mine: Floats, clean: Floats) -> Floats:
    """The lost share of the clean score; NaN if the clean score is 0."""
    usable = clean > 0
    return np.where(usable, 1 - mine / np.where(usable, clean, 1), np.nan)


def _linear(w: Floats, values: Floats) -> Floats:
    """Weighted sum over samples of values `[D or 1, n]`, in each draw."""
    found: Floats = w @ values[0] if len(values) == 1 else np.einsum("di,di->d", w, values)
    return found


def _bilinear(w: Floats, v: Floats, values: Floats | Bools) -> Floats:
    """Weighted sum over samples and instructions (or pairs of instructions) of values `[n, k]`, in each draw."""
    found: Floats = ((w @ values) * v).sum(1)
    return found


def _score(part: Floats, whole: Floats, rows: Floats) -> Floats:
    return np.where(rows > 0, ratio(part, whole), np.nan)
