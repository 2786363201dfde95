"""Running scores of an evaluation: one metric for each condition and dataset, the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from robustlm.data.tasks import TASKS
from robustlm.data.tasks.base import Answer
from robustlm.evaluation.metrics import ExactMatch, MultisetF1


class Scores:
    """Scores by condition and dataset, and their mean over datasets.

    Not a module: metrics come into being with the first row of their kind, and what one rank has not seen it adds as
    an empty metric before computing, so that all ranks synchronise the same metrics in the same order.
    """

    def __init__(self) -> None:
        self._metrics: dict[tuple[str, str, str], Metric] = {}
        self.device = torch.device("cpu")
        """Where counts live, and ranks exchange them."""

    def update(self, condition: str, dataset: str, task: str, answer: Answer, gold: Answer) -> None:
        """Count one answer."""
        key = (condition, dataset, task)
        self._metric(key).update([answer], [gold])

    def compute(self) -> dict[str, Tensor]:
        """`<condition>/<dataset>/<score>` in [0, 1], `…/unparseable`, and `<condition>/mean` over datasets."""
        found: dict[str, Tensor] = {}
        means: dict[str, list[Tensor]] = {}
        for key in self._keys_of_all_ranks():
            condition, dataset, task = key
            for name, value in self._metric(key).compute().items():
                found[f"{condition}/{dataset}/{name}"] = value
                if name == TASKS[task].score:
                    means.setdefault(condition, []).append(value)
        for condition, values in means.items():
            found[f"{condition}/mean"] = torch.stack(values).mean()
        return found

    def reset(self) -> None:
        """Forget everything."""
        self._metrics.clear()

    def _metric(self, key: tuple[str, str, str]) -> Metric:
        if key not in self._metrics:
            metric = MultisetF1() if TASKS[key[2]].score == "f1" else ExactMatch()
            self._metrics[key] = metric.to(self.device)
        return self._metrics[key]

    def _keys_of_all_ranks(self) -> list[tuple[str, str, str]]:
        own = list(self._metrics)
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return own
        gathered: list[list[tuple[str, str, str]]] = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(gathered, own)
        return sorted({key for keys in gathered for key in keys})
