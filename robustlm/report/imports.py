"""Logs of other programs by the name of their format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustlm.evaluation.record import Record
from robustlm.report.csv_tables import read_csv_table
from robustlm.report.every_eval import read_every_eval
from robustlm.report.foreign import Read, Reading, without_repeats
from robustlm.report.harness import table_rows
from robustlm.report.helm_logs import read_helm
from robustlm.report.inspect_logs import read_inspect, with_even_draws

FORMATS = ("harness", "inspect", "helm", "every-eval-ever", "csv")


def read_logs(
    name: str,
    paths: Sequence[str],
    condition: str = "clean",
    instruction: str | None = None,
    metric: str | None = None,
    answers: str | None = None,
    columns: Sequence[str] = (),
) -> Read:
    """Read logs as records of the prediction table.

    Args:
        name: One of `FORMATS`.
        paths: Files, or folders that hold them; `CONDITION=PATH` for answers under another condition.
        condition: Condition of other answers whose log names none.
        instruction: Instruction id of all answers; `None`: from the log.
        metric: What says right or wrong; `None`: the first that does.
        answers: For `harness`: name of its filter.
        columns: For `csv`: `COLUMN=NAME` for columns with other names.

    Raises:
        ValueError: The format is unknown, a setting does not fit it, a file is not of this format, or samples of
            Inspect have other epochs.
    """
    if name not in FORMATS:
        raise ValueError(f"format: found {name!r}; expected one of {', '.join(FORMATS)}")
    for only, setting, given in (("harness", "filter", answers), ("csv", "columns", columns)):
        if given and name != only:
            raise ValueError(f"{setting}: found {given!r} with the format {name}; only the format {only} has it")
    if name == "harness":
        for setting, value in (("instruction", instruction), ("metric", metric)):
            if value is not None:
                raise ValueError(f"{setting}: found {value!r} with the format harness, which does not have it")
    found: list[tuple[str, Record]] = []
    notes: list[str] = []
    for text in paths:
        under, path = _placed(text, condition, name)
        reading = Reading(under, metric, instruction)
        if name == "harness":
            read = Read(table_rows(path, under, answers), [])
        elif name == "csv":
            read = read_csv_table(path, reading, dict(map(_pair, columns)))
        else:
            read = _READERS[name](path, reading)
        found += [(str(path), row) for row in read.rows]
        notes += read.notes
    rows = without_repeats(found)
    if name != "inspect":
        return Read(rows, notes)
    read = with_even_draws(rows)
    return Read(read.rows, [*notes, *read.notes])


_READERS = {"inspect": read_inspect, "helm": read_helm, "every-eval-ever": read_every_eval}


def _placed(text: str, condition: str, name: str) -> tuple[str, Path]:
    """Condition and path of `PATH` or `CONDITION=PATH`."""
    path = Path(text)
    if not path.exists():  # a path may hold `=` itself
        under, equals, rest = text.partition("=")
        if equals and under and Path(rest).exists():
            return under, Path(rest)
        raise ValueError(f"paths: {text} does not exist; expected logs of the format {name}")
    return condition, path


def _pair(text: str) -> tuple[str, str]:
    column, equals, name = text.partition("=")
    if not (column and equals and name):
        raise ValueError(f"columns: found {text!r}; expected COLUMN=NAME, such as target=gold")
    return column, name
