"""Searching for the edits of an instruction that hurt a model most: greedy, within a budget of queries.

The search knows words, a way to propose others and a way to score texts. It sees no model: what scores is a callable,
asked for many texts at once, and never twice for the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from robustlm.utils.words import rejoin, split_words

Propose = Callable[[Sequence[str], int], Sequence[str]]
"""Takes words and a position, gives replacements for the word there; what they are made of is the attack's level."""
Score = Callable[[Sequence[str]], Sequence[float]]
"""How well the model does under each of some instructions; higher is better for the model."""
Objective = Literal["likelihood", "accuracy"]
"""What of a model an attack brings down: how likely it finds the true answers, or how many it answers right."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One changed word."""

    position: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Attacked:
    """What a search found."""

    text: str
    """The instruction that hurts most among those tried, within the allowed edits."""
    score: float
    """Under it."""
    clean: float
    """Under the instruction as it was."""
    edits: tuple[Edit, ...]
    """What was changed, in the order it was found."""
    queries: int
    """Texts that were scored; none counts twice."""


class _Queries:
    """Scores of texts, each asked for once, up to a budget."""

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
        """Scores of as many of the texts as the budget allows, the first ones first."""
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

    Words are ranked by how much the score drops without them; then, from the most important one down, each is replaced
    by the proposal that lowers the score most, if any does. Ends when `edits` words are changed, the budget is used up,
    all words were tried, the score is at `stop_at`, or `ended` says so of the instruction found so far.

    Args:
        text: The instruction, whose words are those of `robustlm.utils.words.split_words`.
        propose: Gives replacements.
        score: Of texts; asked in batches.
        edits: Most words changed.
        budget: Most texts scored, the instruction itself among them.
        protected: Positions of words that stay as they are.
        stop_at: A score that is low enough.
        ended: Whether an instruction is bad enough. It is called with the unmodified instruction and after each edit
            that is kept; these calls are not charged to the budget.

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
    """Positions by the drop that leaving the word out causes, the largest first; ties and the unscored in order.

    At most half of the queries go into this, and none where there is nothing to choose.
    """
    if len(free) < 2:
        return list(free)
    without = {at: rejoin(text, [*words[:at], *words[at + 1 :]]) for at in free}
    asked = [without[at] for at in free][: max(queries.left // 2, 0)]
    scored = queries.scored(asked)
    return sorted(free, key=lambda at: scored.get(without[at], clean) - clean)
