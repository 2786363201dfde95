"""Sentence-level noise: append a text that does not change the meaning.

After CheckList (Ribeiro et al. 2020) and the stress tests of Naik et al. (2018).

For every ω > 0, exactly one such text is appended.
"""

from __future__ import annotations

from robustlm.noise.base import register_kind, word_budget
from robustlm.noise.pools import Pools
from robustlm.utils.random import Stream

_ALPHANUMERICS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 10

TAUTOLOGIES = (
    "and true is true",
    "and false is not true",
    "and what is so is so",
    "and one is equal to one",
    "and every word is a word",
    "and nothing is both itself and not itself",
    "and today is not yesterday",
    "and true is true and true is true and true is true",
)
"""Statements that are always true: plain ones, negations, and one with repetitions."""


@register_kind("checklist")
def checklist(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Append a random string of ten letters and digits, such as the end of a URL or a handle."""
    if not word_budget(len(words), omega):
        return words.copy()
    return [*words, "".join(_ALPHANUMERICS[rng.below(len(_ALPHANUMERICS))] for _ in range(_LENGTH))]


@register_kind("stresstest")
def stresstest(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Append a tautology, as a separate sentence if the instruction ends in a full stop or a similar mark."""
    if not word_budget(len(words), omega):
        return words.copy()
    text = TAUTOLOGIES[rng.below(len(TAUTOLOGIES))]
    if words[-1].rstrip("\"'”’)")[-1:] in (".", "?", "!"):
        text = f"{text[0].upper()}{text[1:]}."
    return [*words, *text.split()]
