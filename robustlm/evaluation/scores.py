"""Running scores of an evaluation: one metric for each condition and dataset, the same on every rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from robustlm.evaluation.grid import answer_of
from robustlm.evaluation.metrics import ExactMatch, MultisetF1, Overlap, UnparseableRate
from robustlm.evaluation.record import Record
from robustlm.tasks import TASKS
from robustlm.tasks.base import Answer

Key = tuple[str, str, str]
"""Condition, dataset, task."""


FREE_TEXT = "generation"
"""The task whose answers are free text: they are also scored by `overlap`, since few of them match exactly."""


LENIENT = "lenient_"
"""Prefix of scores by the lenient reading of answers."""


def _read(record: Record, gold: Answer) -> tuple[Answer, Answer]:
    """The answer of a record by the reading of its columns, and by the lenient one, as answers to score.

    For an accuracy, the record says whether an answer is right: the lenient reading of free text ignores case.
    """
    strict, exact = answer_of(record), TASKS[record.task].score == "accuracy"
    if record.lenient_correct is None:
        lenient = strict
    elif record.lenient is None:
        lenient = Answer((), malformed=1) if exact else TASKS[record.task].parse(record.prediction)
    else:
        lenient = Answer(tuple(map(tuple, record.lenient)))
    if exact:
        return gold if record.correct else strict, gold if record.lenient_correct else lenient
    return strict, lenient


def text_of(answer: Answer) -> str:
    """The text of a free-text answer; empty if there is none."""
    return answer.items[0][0] if answer.items else ""


MISSING = Answer(items=(), malformed=1)
"""Stands for the answer of a request that failed: it matches nothing."""


class _Pair:
    """Score and unparseable rate of one condition and dataset; for free text, also the overlap with true answers."""

    def __init__(self, task: str, device: torch.device) -> None:
        self.score = _metric(task).to(device)
        self.lenient = _metric(task).to(device)
        self.unparseable = UnparseableRate().to(device)
        self.overlap = Overlap().to(device) if task == FREE_TEXT else None

    def update(self, answer: Answer, gold: Answer, lenient: Answer) -> None:
        self.score.update([answer], [gold])
        self.lenient.update([lenient], [gold])
        self.unparseable.update([answer])
        if self.overlap is not None:
            self.overlap.update([text_of(answer)], [text_of(gold)])

    def compute(self, task: str) -> dict[str, Tensor]:
        value = self.score.compute()
        scores = value if isinstance(value, dict) else {TASKS[task].score: value}
        near = self.overlap.compute() if self.overlap is not None else {}
        read = self.lenient.compute()
        name = TASKS[task].score
        lenient = {f"{LENIENT}{name}": read[name] if isinstance(read, dict) else read}
        return {**scores, **lenient, **near, "unparseable": self.unparseable.compute()}


def _metric(task: str) -> MultisetF1 | ExactMatch:
    return MultisetF1() if TASKS[task].score == "f1" else ExactMatch()


class Scores:
    """Scores by condition and dataset, and their mean over datasets.

    A metric is created with the first row of its condition, dataset and task. Before computing, each rank adds empty
    metrics for those that only other ranks have, so that all ranks synchronise the same metrics in the same order.
    """

    def __init__(self) -> None:
        self._pairs: dict[Key, _Pair] = {}
        self.device = torch.device("cpu")
        """Device of the counts, on which ranks exchange them."""

    def update(
        self, condition: str, dataset: str, task: str, answer: Answer, gold: Answer, lenient: Answer | None = None
    ) -> None:
        """Count one answer. `lenient` is its lenient reading, by default the answer itself."""
        self._pair((condition, dataset, task)).update(answer, gold, answer if lenient is None else lenient)

    def count(self, records: Iterable[Record]) -> None:
        """Count records of a prediction table; records without a true answer are left out."""
        for record in records:
            if record.target is not None:
                task = TASKS[record.task]
                gold = task.parse(record.target)
                own = record.condition, record.dataset, record.task
                strict, lenient = _read(record, gold) if record.error is None else (MISSING, MISSING)
                self.update(*own, strict, gold, lenient)

    def compute(self) -> dict[str, Tensor]:
        """`<condition>/<dataset>/<score>` in [0, 1], `…/unparseable`, and `<condition>/mean` over datasets.

        `…/lenient_<score>` and `<condition>/lenient_mean` are the same by the lenient reading of answers.

        Free text also has `…/token_f1` and `…/rouge_l`, which are not part of the mean over datasets. If several tasks
        of a dataset have the same score, `<dataset>-<task>` replaces `<dataset>`.
        """
        scores = {key: self._pair(key).compute(key[2]) for key in self._keys_of_all_ranks()}
        tasks = Counter((condition, dataset, name) for (condition, dataset, _), own in scores.items() for name in own)
        found: dict[str, Tensor] = {}
        means: dict[str, list[Tensor]] = {}
        for (condition, dataset, task), own in scores.items():
            for name, value in own.items():
                place = dataset if tasks[condition, dataset, name] == 1 else f"{dataset}-{task}"
                found[f"{condition}/{place}/{name}"] = value
                for mean in ("mean", f"{LENIENT}mean"):
                    if name == mean.replace("mean", TASKS[task].score):
                        means.setdefault(f"{condition}/{mean}", []).append(value)
        return {**found, **{name: torch.stack(values).mean() for name, values in means.items()}}

    def reset(self) -> None:
        """Remove all counts."""
        self._pairs.clear()

    def _pair(self, key: Key) -> _Pair:
        if key not in self._pairs:
            self._pairs[key] = _Pair(key[2], self.device)
        return self._pairs[key]

    def _keys_of_all_ranks(self) -> list[Key]:
        own = list(self._pairs)
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return own
        gathered: list[list[Key]] = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(gathered, own)
        return sorted({key for keys in gathered for key in keys})
