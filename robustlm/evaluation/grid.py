"""A prediction table in compact form: for each dataset and condition, samples × instructions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlm.evaluation.record import LenientRecord, Record
from robustlm.evaluation.votes import answer_key, majority
from robustlm.evaluation.wording import Wording, wording_of
from robustlm.tasks import TASKS
from robustlm.tasks.base import Answer, Task

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Options:
    """Log-likelihoods of answer options; m is the largest number of options of a sample."""

    scores: Floats
    """`[n, k, m]`: log-likelihood of each option under each instruction; NaN if the row has no such option."""
    tokens: Floats
    """`[n, k, m]`: number of tokens of each option; NaN if the row has no such option."""
    chosen: Ints
    """`[n, k]`: index of the option that was the answer; −1 if none was."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Several answers to each cell, drawn from the model; zeros in cells that were not asked."""

    count: Ints
    """`[n, k]`: number of draws of each cell."""
    scores: Floats
    """`[n, k]`: mean score of a draw, in [0, 1]."""
    squares: Floats
    """`[n, k]`: sum of the squared distances of the draws' scores from this mean."""
    part: Floats
    """`[n, k]`: `Grid.part` of the majority vote."""
    whole: Floats
    """`[n, k]`: `Grid.whole` of the majority vote."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The answers to n samples of a dataset under k instructions of one condition.

    A dataset has the same samples, in the same order, under every condition. `present` tells which cells were asked.

    If cells hold several drawn answers, scores and shares are means over the draws of a cell, and `correct` and
    `answers` are those of its majority vote.
    """

    name: str
    """The dataset; `<dataset>-<task>` where a dataset has several tasks."""
    dataset: str
    task: str
    condition: str
    score: str
    """`f1` or `accuracy`."""
    samples: tuple[str, ...]
    """Ids, sorted."""
    instructions: tuple[str, ...]
    """Ids, sorted."""
    present: Bools
    """`[n, k]`: whether the cell was asked. In cells that were not, all other arrays hold zeros (ids −1)."""
    part: Floats
    """`[n, k]`: for accuracy, 1 for a right answer, otherwise 0; for F1, twice the number of items that match."""
    whole: Floats
    """`[n, k]`: for accuracy, 1; for F1, the number of predicted and expected items. The score of any subset is its
    summed `part` over its summed `whole`."""
    correct: Bools
    """`[n, k]`: whether the answer is exactly right."""
    answers: Ints
    """`[n, k]`: ids of answers; equal answers have equal ids. The order of items in an answer does not count. A failed
    request has an id of its own."""
    unparseable: Bools | Floats
    """`[n, k]`: whether the answer could not be read; with draws, the share of them that could not."""
    options: Options | None = None
    """Options and their likelihoods, if answers were chosen by likelihood."""
    wordings: tuple[Wording | None, ...] = ()
    """The words of each instruction, `[k]`; `None` where the table does not hold them or rows have different ones."""
    draws: Draws | None = None
    """The draws of each cell; null: every cell has one answer."""

    @property
    def asked(self) -> Bools:
        """`[n]`: samples asked under at least one instruction."""
        return np.asarray(self.present.any(1))

    @property
    def complete(self) -> Bools:
        """`[n]`: samples asked under every instruction."""
        return np.asarray(self.present.all(1))

    @property
    def cells(self) -> Floats:
        """`[n, k]`: the score of each single answer, in [0, 1]: 0 or 1, or its F1; 0 in cells that were not asked."""
        if self.draws is not None:
            return self.draws.scores
        return np.where(self.present, ratio(self.part, self.whole), 0.0)

    @property
    def rows(self) -> int:
        """Number of answers."""
        return int(self.present.sum() if self.draws is None else self.draws.count.sum())

    @property
    def missing(self) -> int:
        """Number of cells that were not asked, among samples that were asked under at least one instruction."""
        return int(self.asked.sum()) * len(self.instructions) - int(self.present.sum())


def ratio(part: Floats, whole: Floats) -> Floats:
    """Part over whole; 1 if the whole is 0, that is, nothing was expected and nothing predicted."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 1.0)


def counts(row: Record) -> tuple[float, float]:
    """Part and whole of a row's score. The score of several rows is the sum of their parts over the sum of wholes.

    Raises:
        ValueError: The row's task is unknown.
    """
    task = task_of(row)
    if task.score != "f1":
        return float(row.right), 1.0
    answer, gold = answer_of(row), task.parse(row.expected)
    hits = (Counter(answer.items) & Counter(gold.items)).total()
    return 2.0 * hits, float(_size(answer) + _size(gold))


def answer_of(row: Record) -> Answer:
    """The answer of a row: its text in the format, or for a `LenientRecord` the items of the lenient reading.

    Raises:
        ValueError: The row's task is unknown.
    """
    if isinstance(row, LenientRecord) and row.parsed is not None:
        return Answer(tuple(map(tuple, row.parsed)))
    return task_of(row).parse(row.prediction)


def grids(rows: Iterable[Record]) -> list[Grid]:
    """The grids of a prediction table, dataset by dataset, with conditions in the order of the table.

    Raises:
        ValueError: A sample was asked twice under one condition and instruction without numbers of draws, or a task is
            unknown.
    """
    sets: dict[tuple[str, str], dict[str, list[Record]]] = {}
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row.condition, len(order))
        sets.setdefault((row.dataset, row.task), {}).setdefault(row.condition, []).append(row)
    tasks = Counter(dataset for dataset, _ in sets)
    found = []
    for (dataset, task), conditions in sorted(sets.items()):
        name = dataset if tasks[dataset] == 1 else f"{dataset}-{task}"
        samples = sorted({row.sample_id for own in conditions.values() for row in own})
        found += [_grid(name, samples, conditions[c]) for c in sorted(conditions, key=order.__getitem__)]
    return found


def _grid(name: str, samples: list[str], rows: list[Record]) -> Grid:
    first, task = rows[0], task_of(rows[0])
    instructions = sorted({row.instruction_id for row in rows})
    cells = _cells(rows, samples, instructions)
    chosen = [majority(own) for own in cells.values()]
    places = np.array(list(cells), np.int64).reshape(-1, 2)
    shape = len(samples), len(instructions)
    numbers: dict[object, int] = {}
    flat = tuple(places.T)

    def filled(values: list[Any], empty: Any, kind: Any) -> Any:
        array = np.full(shape, empty, kind)
        array[flat] = values
        return array

    scored = [np.array([counts(row) for row in own]) for own in cells.values()]
    drawn = len(cells) < len(rows)
    unread = [[row.parsed is None and row.error is None for row in own] for own in cells.values()]
    return Grid(
        name,
        first.dataset,
        first.task,
        first.condition,
        task.score,
        tuple(samples),
        tuple(instructions),
        present=filled([True] * len(cells), False, np.bool_),
        part=filled([own[:, 0].mean() for own in scored], 0, np.float64),
        whole=filled([own[:, 1].mean() for own in scored], 0, np.float64),
        correct=filled([row.right for row in chosen], False, np.bool_),
        answers=filled([numbers.setdefault(_agreed(row), len(numbers)) for row in chosen], -1, np.int64),
        unparseable=filled([np.mean(own) for own in unread], 0, np.float64 if drawn else np.bool_),
        options=_options(chosen, places, shape),
        wordings=_wordings(rows, instructions),
        draws=_draws(chosen, scored, places, shape) if drawn else None,
    )


def _agreed(row: Record) -> tuple[object, ...]:
    """The key of an answer. A request that failed has no answer, so it agrees with no other one."""
    return answer_key(row) if row.error is None else ("failed", row.key)


def _draws(chosen: list[Record], scored: list[Floats], places: Ints, shape: tuple[int, int]) -> Draws:
    """The draws of cells, from the rows of their majority votes and part and whole `[draws, 2]` of each cell's rows."""
    single = [ratio(own[:, 0], own[:, 1]) for own in scored]
    votes = [counts(row) for row in chosen]

    def placed(values: Iterable[float]) -> Floats:
        array = np.zeros(shape)
        array[tuple(places.T)] = list(values)
        return array

    return Draws(
        count=placed(len(own) for own in single).astype(np.int64),
        scores=placed(float(own.mean()) for own in single),
        squares=placed(float(((own - own.mean()) ** 2).sum()) for own in single),
        part=placed(part for part, _ in votes),
        whole=placed(whole for _, whole in votes),
    )


def _wordings(rows: list[Record], instructions: list[str]) -> tuple[Wording | None, ...]:
    own: dict[str, list[Record]] = {}
    for row in rows:
        own.setdefault(row.instruction_id, []).append(row)
    return tuple(wording_of(own[name]) for name in instructions)


def _cells(rows: list[Record], samples: list[str], instructions: list[str]) -> dict[tuple[int, int], list[Record]]:
    """The rows of each cell, by the indices of its sample and instruction."""
    at = {name: i for i, name in enumerate(samples)}
    under = {name: i for i, name in enumerate(instructions)}
    found: dict[tuple[int, int], list[Record]] = {}
    for row in rows:
        found.setdefault((at[row.sample_id], under[row.instruction_id]), []).append(row)
    for own in found.values():
        draw, times = Counter(row.draw for row in own).most_common(1)[0]
        if times > 1 or (len(own) > 1 and any(row.draw is None for row in own)):
            which = "" if draw is None else f", draw {draw}"
            row, count = own[0], times if times > 1 else len(own)
            raise ValueError(
                f"dataset {row.dataset!r}, condition {row.condition!r}: sample {row.sample_id!r} occurs {count} "
                f"times under instruction {row.instruction_id!r}{which}; expected one row for each"
            )
    return found


def _options(rows: list[Record], places: Ints, shape: tuple[int, int]) -> Options | None:
    """Collect the options of rows. Options are matched by text, since phrasings may list them in another order."""
    known: dict[int, dict[str, int]] = {}
    for row, (sample, _) in zip(rows, places.tolist(), strict=True):
        for choice in row.choices or ():
            own = known.setdefault(sample, {})
            own.setdefault(row.label_of(choice), len(own))
    if not known:
        return None
    most = max(map(len, known.values()))
    scores, tokens = np.full((*shape, most), np.nan), np.full((*shape, most), np.nan)
    chosen = np.full(shape, -1, np.int64)
    for row, (sample, instruction) in zip(rows, places.tolist(), strict=True):
        if not row.choices or row.option_scores is None or row.option_tokens is None:
            continue
        at = [known[sample][row.label_of(choice)] for choice in row.choices]
        scores[sample, instruction, at] = row.option_scores
        tokens[sample, instruction, at] = row.option_tokens
        chosen[sample, instruction] = known[sample].get(row.label_of(row.prediction), -1)
    return Options(scores, tokens, chosen)


def _size(answer: Answer) -> int:
    return len(answer.items) + answer.malformed


def task_of(row: Record) -> Task:
    """The task of a row.

    Raises:
        ValueError: The row's task is unknown.
    """
    task = TASKS.get(row.task)
    if task is None:
        raise ValueError(f"unknown task {row['task']!r} in the table; name its class with --tasks '[module.Class]'")
    return task
