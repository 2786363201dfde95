"""Greedy search for the edits of an instruction that hurt a model most, within a budget of queries.

The search works on words, with one callable that proposes replacements and one that scores texts. It does not use a
model itself. The scoring callable gets many texts at once, and never the same text twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from robustlm.utils.words import rejoin, split_words

Propose = Callable[[Sequence[str], int], Sequence[str]]
"""Takes words and a position; returns replacements for the word there, such as misspellings or synonyms."""
Score = Callable[[Sequence[str]], Sequence[float]]
"""Takes instructions; returns the model's score under each of them. Higher is better for the model."""
Objective = Literal["likelihood", "accuracy"]
"""What an attack lowers: the model's likelihood of the true answers, or its share of right answers."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One changed word."""

    position: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Attacked:
    """The result of a search."""

    text: str
    """The instruction after the edits that were kept; without any, the unmodified instruction."""
    score: float
    """Score under `text`."""
    clean: float
    """Score under the unmodified instruction."""
    edits: tuple[Edit, ...]
    """The edits that were kept, in the order they were found."""
    queries: int
    """Number of different texts that were scored."""


class _Queries:
    """Scores texts, each text once, up to a budget."""

    def __init__(self, score: Score, budget: int) -> None:
        self._score = score
        self._budget = budget
        self._known: dict[str, float] = {}

    @property
    def count(self) -> int:
        return len(self._known)

    @property
    def left(self) -> int:
        return self._budget - self.count

    def scored(self, texts: Sequence[str]) -> dict[str, float]:
        """Score as many of the texts as the budget allows, in their order; known scores are free."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known][: max(self.left, 0)]
        if new:
            found = self._score(new)
            if len(found) != len(new):
                raise ValueError(f"{len(new)} texts were scored with {len(found)} numbers; expected one for each")
            self._known |= dict(zip(new, map(float, found), strict=True))
        return {text: self._known[text] for text in texts if text in self._known}


def attack(
    text: str,
    propose: Propose,
    score: Score,
    *,
    edits: int,
    budget: int = 100,
    protected: Collection[int] = (),
    stop_at: float = float("-inf"),
    ended: Callable[[str], bool] | None = None,
) -> Attacked:
    """Search for the edits that lower the score most.

    Words are ranked by how much the score drops without them. Then, starting with the most important one, each word is
    replaced by the proposal that lowers the score most, if any does. The search ends when `edits` words are changed,
    the budget is used up, all words were tried, the score is at most `stop_at`, or `ended` returns true.

    Args:
        text: The instruction, whose words are those of `robustlm.utils.words.split_words`.
        propose: Returns replacements of a word.
        score: Returns the scores of a batch of texts.
        edits: Maximum number of words changed.
        budget: Maximum number of texts scored, including the instruction itself.
        protected: Positions of words that must not change.
        stop_at: The search ends at this score or below.
        ended: Whether the search can end with an instruction. It is called with the unmodified instruction and after
            each edit that is kept; these calls do not count towards the budget.

    Raises:
        ValueError: The budget is below 1, or edits are negative.
    """
    if budget < 1 or edits < 0:
        raise ValueError(f"attack: found budget {budget} and edits {edits}; expected a budget ≥ 1 and edits ≥ 0")
    words = split_words(text)
    queries = _Queries(score, budget)
    clean = best = queries.scored([text])[text]
    free = [at for at in range(len(words)) if at not in protected]
    changes: list[Edit] = []
    current, found = text, list(words)
    enough = not edits or _enough(text, clean, stop_at, ended)
    for at in () if enough else _ranked(text, words, free, queries, clean):
        if len(changes) == edits or queries.left <= 0 or enough:
            break
        options = {
            rejoin(text, [*found[:at], other, *found[at + 1 :]]): other
            for other in propose(found, at)
            if other != found[at]
        }
        scored = queries.scored(list(options))
        if not scored:
            continue
        worst = min(scored, key=scored.__getitem__)
        if scored[worst] < best:
            changes.append(Edit(at, found[at], options[worst]))
            current, best = worst, scored[worst]
            found[at] = options[worst]
            enough = _enough(current, best, stop_at, ended)
    return Attacked(current, best, clean, tuple(changes), queries.count)


def _enough(text: str, score: float, stop_at: float, ended: Callable[[str], bool] | None) -> bool:
    return score <= stop_at or (ended is not None and ended(text))


def _ranked(text: str, words: Sequence[str], free: Sequence[int], queries: _Queries, clean: float) -> list[int]:
    """Positions sorted by how much the score drops without the word, the largest drop first.

    Ties keep their order; a word that is not scored counts as a drop of 0. At most half of the remaining queries are
    used, and none if there are fewer than two positions.
    """
    if len(free) < 2:
        return list(free)
    without = {at: rejoin(text, [*words[:at], *words[at + 1 :]]) for at in free}
    asked = [without[at] for at in free][: max(queries.left // 2, 0)]
    scored = queries.scored(asked)
    return sorted(free, key=lambda at: scored.get(without[at], clean) - clean)
