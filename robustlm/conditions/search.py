"""Search for the edits of an instruction that hurt a model most, within a budget of queries.

A search works on words, with one callable that proposes replacements and one that scores texts. It does not use a
model itself. The scoring callable gets many texts at once, and never the same text twice. All random draws come from a
stream, so the same seed and the same scores give the same result on any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
from typing import Literal, get_args

from robustlm.conditions.surrogate import Surrogate
from robustlm.utils.random import Stream, key_of
from robustlm.utils.words import rejoin, split_words

Propose = Callable[[Sequence[str], int], Sequence[str]]
"""Takes words and a position; returns replacements for the word there, such as misspellings or synonyms."""
Score = Callable[[Sequence[str]], Sequence[float]]
"""Takes instructions; returns the model's score under each of them. Higher is better for the model."""
Objective = Literal["likelihood", "accuracy"]
"""What an attack lowers: the model's likelihood of the true answers, or its share of right answers."""
Search = Literal["bayesian", "greedy", "random"]
"""How an attack chooses the texts that it tries; see `attack`."""

# Chosen on tables of all texts within reach of seven attacks on the shipped model and two tuned ones, and on the rugged
# objectives of tests/conditions/test_search.py; results depend little on them.
_FIRST = 0.2
"""Share of the budget that a Bayesian search begins with: random texts."""
_FEWEST = 16
"""Minimum number of random texts that a Bayesian search begins with."""
_BEST = 5
"""Number of worst texts whose variations are considered beside random texts."""
_POOL = 1000
"""Number of draws of texts that a round chooses from."""
_ROUND = 4
"""Number of new texts in a round."""
_ATTEMPTS = 50
"""Draws for each text of a batch: a drawn text may be known already, or not allowed."""
_LISTED = 20_000
"""Maximum number of texts that are listed to find those that were not tried yet."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One changed word."""

    position: int
    before: str
    after: str


Edits = tuple[Edit, ...]
"""Edits of different words of one instruction."""


@dataclass(frozen=True, slots=True)
class Attacked:
    """The result of a search."""

    text: str
    """The instruction with the lowest score; if none is below that of the unmodified instruction, this one."""
    score: float
    """Score under `text`."""
    clean: float
    """Score under the unmodified instruction."""
    edits: Edits
    """The edits that make `text`."""
    queries: int
    """Number of different texts that were scored."""


class Space:
    """The texts that an attack may try: sets of edits, each of another word.

    Args:
        text: The instruction.
        propose: Returns replacements of a word.
        most: Maximum number of edits.
        protected: Positions of words that must not change.
        allowed: Whether the words of an edited instruction may be tried.
    """

    def __init__(
        self,
        text: str,
        propose: Propose,
        most: int,
        protected: Collection[int] = (),
        allowed: Callable[[Sequence[str]], bool] = lambda words: True,
    ) -> None:
        self.text = text
        self.words = split_words(text)
        self.free = [at for at in range(len(self.words)) if at not in protected]
        self._propose = propose
        self._allowed = allowed
        found = {at: self.edits_at(at) for at in self.free} if most else {}
        self.options = {at: edits for at, edits in found.items() if edits}
        """Edits by position, without positions that have none."""
        self.most = min(most, len(self.options))
        """Maximum number of edits of a text."""

    def edits_at(self, at: int, edits: Edits = ()) -> list[Edit]:
        """Edits of the word at a position, for the text after other edits."""
        words = self._edited(edits)
        tried = [Edit(at, self.words[at], other) for other in self._propose(words, at) if other != words[at]]
        return [edit for edit in dict.fromkeys(tried) if self.allows((*edits, edit))]

    def written(self, edits: Edits) -> str:
        """The instruction after edits."""
        return rejoin(self.text, self._edited(edits)) if edits else self.text

    def without(self, at: int) -> str:
        """The instruction without a word."""
        return rejoin(self.text, [*self.words[:at], *self.words[at + 1 :]])

    def allows(self, edits: Edits) -> bool:
        """Whether the text after edits may be tried."""
        return self._allowed(self._edited(edits))

    def holds(self, edits: Edits) -> bool:
        """Whether edits from elsewhere are edits of this text that may be tried; their words need no proposal."""
        places = {edit.position for edit in edits}
        known = all(edit.position in self.free and self.words[edit.position] == edit.before for edit in edits)
        return 0 < len(edits) == len(places) <= self.most and known and self.allows(edits)

    @property
    def size(self) -> int:
        """Number of sets of 1 to `most` edits."""
        counts = [1] + [0] * self.most  # by number of edits
        for edits in self.options.values():
            counts = [count + len(edits) * (counts[n - 1] if n else 0) for n, count in enumerate(counts)]
        return sum(counts[1:])

    def every(self) -> Iterator[Edits]:
        """All sets of edits, the largest first."""
        for count in range(self.most, 0, -1):
            for places in combinations(self.options, count):
                yield from filter(self.allows, product(*(self.options[at] for at in places)))

    def drawn(self, rng: Stream) -> Edits:
        """A random set of `most` edits: positions first, then an edit of each."""
        places = list(self.options)
        return self._chosen([places[i] for i in rng.sample(len(places), self.most)], rng)

    def varied(self, edits: Edits, rng: Stream) -> Edits:
        """Change one edit: to another replacement of its word, or to an edit of another word."""
        gone = rng.below(len(edits))
        kept = [edit for i, edit in enumerate(edits) if i != gone]
        own = [edit for edit in self.options.get(edits[gone].position, ()) if edit != edits[gone]]
        taken = {edit.position for edit in edits}
        others = [at for at in self.options if at not in taken]
        if own and (not others or rng.below(2)):
            return _sorted([*kept, own[rng.below(len(own))]])
        return _sorted([*kept, *self._chosen([others[rng.below(len(others))]] if others else [], rng)])

    def _chosen(self, places: Iterable[int], rng: Stream) -> Edits:
        return _sorted(self.options[at][rng.below(len(self.options[at]))] for at in places)

    def _edited(self, edits: Edits) -> list[str]:
        words = list(self.words)
        for edit in edits:
            words[edit.position] = edit.after
        return words


def _sorted(edits: Iterable[Edit]) -> Edits:
    return tuple(sorted(edits, key=lambda edit: edit.position))


class Trials:
    """Scores texts within a budget, each text once, and keeps the worst.

    Args:
        space: The texts that may be tried.
        score: Returns the scores of a batch of texts.
        budget: Maximum number of texts scored, including the instruction itself.
        stop_at: The search ends at this score or below.
        ended: Whether the search can end with an instruction.
    """

    def __init__(
        self,
        space: Space,
        score: Score,
        budget: int,
        stop_at: float = float("-inf"),
        ended: Callable[[str], bool] | None = None,
    ) -> None:
        self._space = space
        self._score = score
        self._budget = budget
        self._stop_at = stop_at
        self._ended = ended
        self._known: dict[str, float] = {}
        self.tried: dict[Edits, float] = {}
        """Scores of the sets of edits that were tried, in their order."""
        self.best: Edits = ()
        """The set of edits with the lowest score; empty if none is below the unmodified instruction's."""
        self.clean = self.score = self.scored([space.text])[space.text]
        self._enough = not space.most or self._is_enough()

    @property
    def count(self) -> int:
        """Number of texts scored."""
        return len(self._known)

    @property
    def left(self) -> int:
        """Number of texts that may still be scored."""
        return self._budget - self.count

    @property
    def over(self) -> bool:
        """Whether the search has to end."""
        return self._enough or self.left <= 0

    def is_new(self, edits: Edits) -> bool:
        """Whether the text after edits was not scored yet."""
        return self._space.written(edits) not in self._known

    def scored(self, texts: Sequence[str]) -> dict[str, float]:
        """Score as many of the texts as the budget allows, in their order; known scores are free."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known][: max(self.left, 0)]
        if new:
            found = self._score(new)
            if len(found) != len(new):
                raise ValueError(f"{len(new)} texts were scored with {len(found)} numbers; expected one for each")
            self._known |= dict(zip(new, map(float, found), strict=True))
        return {text: self._known[text] for text in texts if text in self._known}

    def run(self, batch: Iterable[Edits]) -> None:
        """Try the texts of a batch, as many as the budget allows, and see whether the search has to end."""
        texts = {edits: self._space.written(edits) for edits in batch}
        found = self.scored(list(texts.values()))
        values = {edits: found[text] for edits, text in texts.items() if text in found}
        self.tried |= values
        worst = min(values, key=values.__getitem__, default=())
        if values and values[worst] < self.score:
            self.best, self.score = worst, values[worst]
            self._enough = self._is_enough()

    def _is_enough(self) -> bool:
        text = self._space.written(self.best)
        return self.score <= self._stop_at or (self._ended is not None and self._ended(text))


def attack(
    text: str,
    propose: Propose,
    score: Score,
    *,
    edits: int,
    budget: int = 100,
    protected: Collection[int] = (),
    allowed: Callable[[Sequence[str]], bool] = lambda words: True,
    search: Search = "bayesian",
    starts: Iterable[Edits] = (),
    seed: object = 0,
    stop_at: float = float("-inf"),
    ended: Callable[[str], bool] | None = None,
) -> Attacked:
    """Search for the edits that lower the score most.

    The search ends when the budget is used up, all texts are tried, the score is at most `stop_at`, or `ended` returns
    true. `starts` are tried first. If the budget suffices, `bayesian` and `random` then try every set of edits.
    Otherwise:

    - `bayesian` begins with random sets of as many edits as are allowed. Then, in rounds, it fits a Gaussian process to
      the scores of all sets tried so far, the `starts` too, and tries the sets that do best in a draw from it: many
      random sets, and the worst ones found so far with one edit changed. Lee et al. (2022, arXiv:2206.08575) search
      texts by such a model, with other kernels.
    - `random` draws random sets of edits until the budget is used up: what a search has to beat.
    - `greedy` ranks words by how much the score drops without them. Starting with the most important one, it replaces
      each word by the proposal that lowers the score most, if any does, until `edits` words are changed. It seldom uses
      its whole budget.

    Args:
        text: The instruction, whose words are those of `robustlm.utils.words.split_words`.
        propose: Returns replacements of a word.
        score: Returns the scores of a batch of texts.
        edits: Maximum number of words changed.
        budget: Maximum number of texts scored, including the instruction itself.
        protected: Positions of words that must not change.
        allowed: Whether the words of an edited instruction may be tried.
        search: How texts are chosen.
        starts: Sets of edits from elsewhere, such as from an attack on another model. Those that are no edits of this
            text, or too many, are left out.
        seed: Seed of random draws; the text is also a part of it.
        stop_at: The search ends at this score or below.
        ended: Whether the search can end with an instruction. It is called with the unmodified instruction, and with
            the worst one of each batch that holds a new worst one; these calls do not count towards the budget.

    Raises:
        ValueError: The budget is below 1, edits are negative, or there is no such search.
    """
    if budget < 1 or edits < 0:
        raise ValueError(f"attack: found budget {budget} and edits {edits}; expected a budget ≥ 1 and edits ≥ 0")
    if search not in get_args(Search):
        raise ValueError(f"attack: found the search {search!r}; expected one of {', '.join(get_args(Search))}")
    space = Space(text, propose, edits, protected, allowed)
    trials = Trials(space, score, budget, stop_at, ended)
    if not trials.over:
        trials.run(given for start in starts if space.holds(given := _sorted(start)))
    if not trials.over:
        rng = Stream(key_of(seed, "attack search", text))
        if search == "greedy":
            _greedy(space, trials)
        elif space.size > trials.left:
            (_random if search == "random" else _bayesian)(space, trials, rng)
        if search != "greedy":
            _exhaustive(space, trials)  # what draws did not find, or all, if the budget suffices
    return Attacked(space.written(trials.best), trials.score, trials.clean, trials.best, trials.count)


def _exhaustive(space: Space, trials: Trials) -> None:
    every = islice(space.every(), _LISTED)
    while not trials.over and (batch := list(islice(every, _ROUND))):
        trials.run(batch)


def _random(space: Space, trials: Trials, rng: Stream) -> None:
    while not trials.over and (batch := _new(space, trials, _ROUND, lambda: space.drawn(rng))):
        trials.run(batch)


def _bayesian(space: Space, trials: Trials, rng: Stream) -> None:
    first = max(_FEWEST, math.ceil(_FIRST * trials.left))
    trials.run(_new(space, trials, first, lambda: space.drawn(rng)))
    while not trials.over:
        known = {edits: score for edits, score in trials.tried.items() if math.isfinite(score)}
        pool = _pool(space, trials, known, rng)
        if not known or not pool:
            break
        lowest = Surrogate(list(map(_features, known)), list(known.values())).lowest(list(map(_features, pool)))
        order = sorted(range(len(pool)), key=lowest.__getitem__)
        trials.run([pool[i] for i in order[:_ROUND]])
    _random(space, trials, rng)


def _features(edits: Edits) -> list[Hashable]:
    return [*(edit.position for edit in edits), *edits]


def _pool(space: Space, trials: Trials, known: Mapping[Edits, float], rng: Stream) -> list[Edits]:
    """Different sets of edits that were not tried and are allowed: random ones, and variations of the worst ones."""
    worst = sorted(known, key=known.__getitem__)[:_BEST]
    drawn = (
        space.varied(worst[rng.below(len(worst))], rng) if worst and i % 2 else space.drawn(rng) for i in range(_POOL)
    )
    unique = {space.written(edits): edits for edits in dict.fromkeys(drawn)}
    return [edits for edits in unique.values() if trials.is_new(edits) and space.allows(edits)]


def _new(space: Space, trials: Trials, count: int, draw: Callable[[], Edits]) -> list[Edits]:
    """Up to `count` different sets of edits that were not tried and are allowed; empty if draws find none."""
    found: dict[str, Edits] = {}
    for _ in range(_ATTEMPTS * count):
        if len(found) == count:
            break
        edits = draw()
        if trials.is_new(edits) and space.allows(edits):
            found.setdefault(space.written(edits), edits)
    return list(found.values())


def _greedy(space: Space, trials: Trials) -> None:
    current: Edits = ()
    score = trials.clean
    for at in _ranked(space, trials):
        if len(current) == space.most or trials.over:
            break
        options = [(*current, edit) for edit in space.edits_at(at, current)]
        trials.run(options)
        worst = min(filter(trials.tried.__contains__, options), key=trials.tried.__getitem__, default=current)
        if worst != current and trials.tried[worst] < score:
            current, score = worst, trials.tried[worst]


def _ranked(space: Space, trials: Trials) -> list[int]:
    """Positions sorted by how much the score drops without the word, the largest drop first.

    Ties keep their order; a word that is not scored counts as a drop of 0. At most half of the remaining queries are
    used, and none if there are fewer than two positions.
    """
    if len(space.free) < 2:
        return list(space.free)
    without = {at: space.without(at) for at in space.free}
    scored = trials.scored([without[at] for at in space.free][: max(trials.left // 2, 0)])
    return sorted(space.free, key=lambda at: scored.get(without[at], trials.clean) - trials.clean)
