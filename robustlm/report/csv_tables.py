"""Prediction tables to and from CSV: a column for each column of the table, or for those that another program has."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from robustlm.checks.places import check_file
from robustlm.evaluation.record import COLUMNS, OWN, Record, parsed_record
from robustlm.report.foreign import TEXTS, Read, Reading, without_repeats
from robustlm.rows.cells import neutral, restored
from robustlm.tasks import TASKS

_NEEDED = ("sample_id", "prediction", "target")
_KEPT = ("parsed", "correct")
"""Columns that are written even if they are null everywhere: without them, the task reads and scores predictions."""
_MAY_BE_EMPTY = ("prediction", "target", "instruction_id")
_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def to_csv_table(rows: Sequence[Record]) -> str:
    """Write records as CSV. Columns that are null everywhere are left out; lists and numbers are JSON."""
    names = [name for name in COLUMNS if name in _KEPT or any(getattr(row, name) is not None for row in rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_cell(getattr(row, name)) for name in names] for row in rows])
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return str(neutral(value)) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_csv_table(file: Path, reading: Reading, columns: Mapping[str, str]) -> Read:
    """Read a CSV file with a header line.

    `sample_id`, `prediction` and `target` are needed. Without `parsed`, the task reads the prediction (`generation` if
    there is no column `task`); without `correct`, the task scores it.

    Args:
        file: The file.
        reading: Condition and instruction of rows that name none; its metric is the column with the verdict.
        columns: Names of columns in the files, by column of the prediction table.

    Raises:
        ValueError: A file is not such a file; the message says file and line.
    """
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise ValueError(f"columns: found {unknown[0]!r}; expected some of {', '.join(COLUMNS)}")
    names = {**({} if reading.metric is None else {"correct": reading.metric}), **columns}
    found: list[tuple[str, Record]] = []
    notes = []
    check_file(file, "a CSV file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 (byte {error.start + 1}); expected CSV") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    heads = list(reader.fieldnames or [])
    places = {column: names.get(column, column) for column in COLUMNS}
    for column in (*_NEEDED, *names):
        if places[column] not in heads:
            raise ValueError(
                f"{file}: found no column {places[column]!r} for {column}; found {', '.join(heads) or 'none'}. "
                f"`--columns '[{column}=NAME]'` names another"
            )
    if ignored := [head for head in heads if head not in places.values()]:
        notes.append(f"{file}: left out columns that a prediction table does not have: {', '.join(ignored)}")
    try:
        for line in reader:
            where = f"{file}:{reader.line_num}"
            found.append((where, _row(line, places, file, reading, where)))
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.line_num}: {error}; expected CSV") from error
    if not found:
        raise ValueError(f"{file}: found no rows; expected a line for each answer")
    return Read(without_repeats(found), notes)


def _row(line: Mapping[str, str], places: Mapping[str, str], file: Path, reading: Reading, where: str) -> Record:
    if None in line or None in line.values():  # DictReader's mark of a line of another length
        raise ValueError(f"{where}: found another number of cells than in the header line; expected the same")
    given = {
        column: restored(line[head])
        for column, head in places.items()
        if line.get(head) or (head in line and column in _MAY_BE_EMPTY)
    }
    values: dict[str, object] = {}
    for column, text in given.items():
        values[column] = text if column in TEXTS else _value(column, text, where)
    values.setdefault("task", "generation")
    values.setdefault("dataset", file.stem)
    values.setdefault("condition", reading.condition)
    values.setdefault("instruction_id", reading.instruction or OWN)
    if "sample_id" not in values:
        raise ValueError(f"{where}: {places['sample_id']}: found an empty cell; expected the id of a sample")
    task = TASKS.get(given.get("task", "generation"))
    if task is None:
        raise ValueError(f"{where}: unknown task {values['task']!r}; expected one of {', '.join(sorted(TASKS))}")
    answer, gold = task.parse(given["prediction"]), task.parse(given["target"])
    if places["parsed"] in line:
        values.setdefault("parsed", None)  # an answer that could not be read
    else:
        values["parsed"] = [list(item) for item in answer.items] if answer.parsed else None
    if "correct" not in values and places["correct"] in line:
        raise ValueError(f"{where}: {places['correct']}: found an empty cell; expected true or false, or 1 or 0")
    values.setdefault("correct", task.correct(answer, gold))
    try:
        return parsed_record(values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _value(column: str, text: str, where: str) -> object:
    if column == "correct":
        if text.strip().lower() not in _BOOLS:
            raise ValueError(f"{where}: correct: found {text!r}; expected true or false, or 1 or 0")
        return _BOOLS[text.strip().lower()]
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f'{where}: {column}: found {text!r}; expected JSON, such as ["a", "b"]') from error
