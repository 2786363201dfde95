"""Filters of a report page by dataset, condition and right or wrong. They are style rules alone, without a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robustlm.evaluation.record import Record
from robustlm.report.markup import Html, join, tag

VERDICTS = ("right", "wrong")


class Filters:
    """Three lists to choose from, and the rules that hide what was not chosen.

    An element is hidden by its attributes: `data-dataset` and `data-condition` hold indexes, the latter several with
    blanks between them, `data-verdict` one of `VERDICTS`.

    Args:
        rows: Rows of a prediction table.
    """

    def __init__(self, rows: Iterable[Record]) -> None:
        places = dict.fromkeys((row.dataset, row.task, row.condition) for row in rows)
        self._datasets = {name: str(i) for i, name in enumerate(dict.fromkeys(dataset for dataset, _, _ in places))}
        self._conditions = {name: str(i) for i, name in enumerate(dict.fromkeys(name for _, _, name in places))}
        # results of a dataset with several tasks are named `<dataset>-<task>`
        self._tasks = {f"{dataset}-{task}": self._datasets[dataset] for dataset, task, _ in places}

    def dataset(self, name: str) -> str:
        """Value of `data-dataset` of an element about a dataset, or about one of its tasks."""
        return self._datasets.get(name) or self._tasks[name]

    def conditions(self, names: Iterable[str]) -> str:
        """Value of `data-condition` of an element about conditions."""
        return " ".join(dict.fromkeys(self._conditions[name] for name in names))

    def bar(self) -> Html:
        """The lists to choose from."""
        lists = (
            _list("dataset", "Dataset", "all datasets", list(self._datasets.items())),
            _list("condition", "Condition", "all conditions", list(self._conditions.items())),
            _list("verdict", "Answers", "right and wrong", [(one, one) for one in VERDICTS]),
        )
        said = (
            "The dataset holds for the three sections from here on, the other two for prompts and samples. A section "
            "that is empty has nothing that fits."
        )
        return tag("fieldset", tag("legend", "Show only"), *lists, tag("p", said, class_="quiet"), class_="filters")

    def style(self) -> str:
        """The style rules."""
        rules = [_rule(_chosen("dataset", at), f'[data-dataset]:not([data-dataset="{at}"])')
                 for at in self._datasets.values()]  # fmt: skip
        rules += [_rule(_chosen("verdict", one), f'[data-verdict]:not([data-verdict="{one}"])') for one in VERDICTS]
        # an article of which no line is left is hidden too
        rules += [_rule(_chosen("verdict", one), f'.lines:not(:has([data-verdict="{one}"]))') for one in VERDICTS]
        for at in self._conditions.values():
            chosen, fits = _chosen("condition", at), f'[data-condition~="{at}"]'
            rules += [_rule(chosen, f"[data-condition]:not({fits})"), _rule(chosen, f".lines:not(:has({fits}))")]
            rules += [
                _rule(chosen + _chosen("verdict", one), f'.lines:not(:has({fits}[data-verdict="{one}"]))')
                for one in VERDICTS
            ]
        return "\n".join(rules)


def _list(name: str, title: str, every: str, options: Sequence[tuple[str, str]]) -> Html:
    """A list to choose from; nothing is chosen at first. The browser keeps no earlier choice (`autocomplete`)."""
    shown = (tag("option", every, value=""), *(tag("option", text, value=value) for text, value in options))
    return join(tag("label", f"{title} ", tag("select", *shown, id=f"filter-{name}", autocomplete="off")), " ")


def _chosen(name: str, value: str) -> str:
    return f':has(#filter-{name} option[value="{value}"]:checked)'


def _rule(chosen: str, hidden: str) -> str:
    return f"main{chosen} {hidden}{{display:none}}"
