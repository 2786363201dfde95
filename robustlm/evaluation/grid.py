"""A prediction table in compact form: for each dataset and condition, samples × instructions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustlm.evaluation.record import LenientRecord, Record
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
class Grid:
    """The answers to n samples of a dataset under k instructions of one condition.

    A dataset has the same samples, in the same order, under every condition. `present` tells which cells were asked.
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
    """`[n, k]`: ids of answers; equal answers have equal ids. The order of items in an answer does not count."""
    unparseable: Bools
    """`[n, k]`: whether the answer could not be read."""
    options: Options | None = None
    """Options and their likelihoods, if answers were chosen by likelihood."""
    wordings: tuple[Wording | None, ...] = ()
    """The words of each instruction, `[k]`; `None` where the table does not hold them or rows have different ones."""

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
        return np.where(self.present, ratio(self.part, self.whole), 0.0)

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
        ValueError: A sample was asked twice under one condition and instruction, or a task is unknown.
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
    places = _places(rows, samples, instructions)
    shape = len(samples), len(instructions)
    numbers: dict[object, int] = {}
    flat = tuple(places.T)

    def filled(values: list[Any], empty: Any, kind: Any) -> Any:
        array = np.full(shape, empty, kind)
        array[flat] = values
        return array

    scored = np.array([counts(row) for row in rows])
    return Grid(
        name,
        first.dataset,
        first.task,
        first.condition,
        task.score,
        tuple(samples),
        tuple(instructions),
        present=filled([True] * len(rows), False, np.bool_),
        part=filled(scored[:, 0].tolist(), 0, np.float64),
        whole=filled(scored[:, 1].tolist(), 0, np.float64),
        correct=filled([row.right for row in rows], False, np.bool_),
        answers=filled([numbers.setdefault(answer_key(row), len(numbers)) for row in rows], -1, np.int64),
        unparseable=filled([row.parsed is None and row.error is None for row in rows], False, np.bool_),
        options=_options(rows, places, shape),
        wordings=_wordings(rows, instructions),
    )


def _wordings(rows: list[Record], instructions: list[str]) -> tuple[Wording | None, ...]:
    own: dict[str, list[Record]] = {}
    for row in rows:
        own.setdefault(row.instruction_id, []).append(row)
    return tuple(wording_of(own[name]) for name in instructions)


def _places(rows: list[Record], samples: list[str], instructions: list[str]) -> Ints:
    """`[rows, 2]`: indices of sample and instruction of each row."""
    at = {name: i for i, name in enumerate(samples)}
    under = {name: i for i, name in enumerate(instructions)}
    pairs = [(at[row.sample_id], under[row.instruction_id]) for row in rows]
    if len(set(pairs)) < len(pairs):
        (sample, instruction), times = Counter(pairs).most_common(1)[0]
        raise ValueError(
            f"dataset {rows[0]['dataset']!r}, condition {rows[0]['condition']!r}: sample {samples[sample]!r} occurs "
            f"{times} times under instruction {instructions[instruction]!r}; expected one row for each"
        )
    return np.array(pairs, np.int64).reshape(-1, 2)


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


def answer_key(row: Record) -> tuple[Any, ...]:
    """A key that is the same for equal answers: the sorted items, or the text if the answer could not be read."""
    parsed = row.parsed
    if parsed is None:
        return (row.prediction.strip(),)
    if row.answer_words is not None:  # a classification: each item is one answer word
        parsed = [[row.label_of(text) for text in item] for item in parsed]
    return (None, *sorted(map(tuple, parsed)))


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
