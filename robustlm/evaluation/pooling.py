"""The numbers over all datasets, from those of each dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from robustlm.evaluation import intervals
from robustlm.evaluation.estimates import drop_limits, estimate, with_width
from robustlm.evaluation.grid import Floats
from robustlm.evaluation.intervals import NONE
from robustlm.evaluation.numbers import (
    DEBIASED,
    DRAWN,
    NUMBERS,
    SHARES,
    SPLIT,
    Drawn,
    Estimate,
    Sampled,
    Settings,
)
from robustlm.evaluation.weighted import drop_rate


def pool(parts: Sequence[Drawn], settings: Settings) -> Drawn:
    """Numbers over datasets. Each is the mean over the datasets that have it, except `std_pooled`, `pdr`, `cochran_p`.

    For shares and for numbers with a debiased version, the intervals are computed from those of the datasets, which are
    independent of each other.
    """
    drawn = [part.numbers for part in parts]
    shared = [name for name in drawn[0] if name in NUMBERS and name != "pdr" and all(name in one for one in drawn)]
    numbers = {name: _mean([one[name] for one in drawn]) for name in shared}
    numbers["std_within"] = numbers.pop("std")
    found = {name: estimate(values, settings.level) for name, values in numbers.items()}
    only_drawn = [name for name in DRAWN if all(name in part.estimates for part in parts)]
    for name in dict.fromkeys((*SHARES, *SPLIT, *DEBIASED, *DEBIASED.values(), *only_drawn)):
        own = [part.estimates[name] for part in parts if not math.isnan(part.estimates[name].value)]
        from_ = [part.estimates[DEBIASED.get(name, name)].value for part in parts]
        middle = [value for value in from_ if not math.isnan(value)]
        mean = float(np.mean([one.value for one in own])) if own else math.nan
        limits = intervals.average(middle, [(one.low, one.high) for one in own]) if len(middle) == len(own) else NONE
        found["std_within" if name == "std" else name] = Estimate(mean, *limits)
    numbers["std_pooled"] = _std_pooled(drawn)
    found["std_pooled"] = estimate(numbers["std_pooled"], settings.level)
    dropped = [part for part in parts if "_clean" in part.numbers and not np.isnan(part.numbers["_clean"][0])]
    moments = math.nan, math.nan, math.nan
    if dropped:
        mine, clean = (np.mean([part.numbers[name] for part in dropped], 0) for name in ("_condition", "_clean"))
        numbers |= {"pdr": drop_rate(mine, clean), "_condition": mine, "_clean": clean}
        first, second, both = (sum(part.dropped[at] for part in dropped) / len(dropped) ** 2 for at in range(3))
        moments = first, second, both
        # only the drop of `clean` from itself has an interval without width
        if any(part.estimates["pdr"].low == part.estimates["pdr"].high for part in dropped):
            found["pdr"] = estimate(numbers["pdr"], settings.level)
        else:
            found["pdr"] = Estimate(float(numbers["pdr"][0]), *drop_limits(mine, clean, moments, settings))
    for name in ("posix", "std_pooled"):
        found[name] = with_width(found[name])
    q, freedom = (sum(part.cochran[at] for part in parts) for at in (0, 1))
    found["cochran_p"] = Estimate(intervals.chi2_tail(q, int(freedom)) if freedom else math.nan, *NONE)
    return Drawn(numbers, {name: found[name] for name in NUMBERS if name in found}, {}, moments)


def _std_pooled(drawn: Sequence[Sampled]) -> Floats:
    varied = [part for part in drawn if not np.isnan(part["std"][0])]
    if not varied:
        return np.full(len(drawn[0]["mean"]), np.nan)
    total, squares, count = (np.sum([part[name] for part in varied], 0) for name in ("_sum", "_squares", "_count"))
    found: Floats = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
    return found


def _mean(values: Sequence[Floats]) -> Floats:
    defined = [value for value in values if not np.isnan(value[0])]
    return np.mean(defined, 0) if defined else np.full(len(values[0]), np.nan)
