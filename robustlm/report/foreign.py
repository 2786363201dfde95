"""What the readers of other programs' logs share: JSON with clear errors, and records of answers scored elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlm.checks.places import check_file
from robustlm.evaluation.record import OWN, Key, Record
from robustlm.evaluation.table import SCHEMA

JsonObject = Mapping[str, Any]
"""An object of a log; its values are checked where they are read."""

TEXTS = tuple(field.name for field in SCHEMA if field.type == "string")
"""Columns of the prediction table that hold text."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the logs of another program are read."""

    condition: str = "clean"
    """Condition of samples whose log names none."""
    metric: str | None = None
    """Name of the metric or scorer that says right or wrong; `None`: the first that does."""
    instruction: str | None = None
    """Instruction id of all samples; `None`: from the log, see `instruction_id`."""


@dataclass(frozen=True, slots=True)
class Read:
    """What was read."""

    rows: list[Record]
    notes: list[str]
    """Sentences on what was left out or chosen."""


def instruction_id(text: str | None, reading: Reading) -> str:
    """The id of an instruction of a log: the one that the user names, a digest of its text, or `own` without a text."""
    if reading.instruction is not None:
        return reading.instruction
    if not text:
        return OWN
    return f"text/{hashlib.blake2b(text.encode('utf-8', 'replace'), digest_size=4).hexdigest()}"


def scored(
    *,
    sample_id: str,
    dataset: str,
    condition: str,
    instruction: str | None,
    reading: Reading,
    prediction: str,
    answer: str | None,
    target: str,
    correct: bool,
    prompt: str | None,
    choices: Sequence[str] | None = None,
) -> Record:
    """A record of an answer that another program has scored, as free text with that program's verdict.

    `answer` is what that program took from the prediction; `None`: it found no answer. `instruction` is what was asked
    with, if the log holds it apart from the input.
    """
    return Record(
        sample_id=sample_id,
        dataset=dataset,
        task="generation",
        condition=condition,
        instruction_id=instruction_id(instruction, reading),
        prediction=prediction,
        parsed=None if answer is None else [[answer]],
        target=target,
        correct=correct,
        choices=list(choices) if choices else None,
        prompt=prompt,
        wording=instruction or None,
        instruction=instruction or None,
    )


def without_repeats(rows: Iterable[tuple[str, Record]]) -> list[Record]:
    """The records, each with its place in a file, if none is there twice.

    Raises:
        ValueError: Two records have the same condition, dataset, sample and instruction.
    """
    places: dict[Key, str] = {}
    found = []
    for where, row in rows:
        if row.key in places:
            raise ValueError(
                f"{where}: sample {row.sample_id!r} of {row.dataset!r}, condition {row.condition!r}, instruction "
                f"{row.instruction_id!r}, was found before, in {places[row.key]}; expected each once. "
                "CONDITION=PATH gives the answers of a path another condition"
            )
        places[row.key] = where
        found.append(row)
    return found


def read_json(file: Path, what: str) -> Any:
    """A JSON file.

    Raises:
        ValueError: It is no file, not UTF-8 or not JSON; the message names the file and `what` was expected.
    """
    check_file(file, what)
    return parse_json(file.read_bytes(), str(file), what)


def parse_json(data: bytes, where: str, what: str) -> Any:
    """Parse JSON, with errors that say where and `what` was expected."""
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start + 1}); expected {what}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: found no JSON ({error}); expected {what}") from error


def field_of(value: object, name: str, kind: type | tuple[type, ...], where: str, what: str) -> Any:
    """A field of a JSON object.

    Raises:
        ValueError: The value is no object, lacks the field, or the field has another type.
    """
    if not isinstance(value, Mapping) or name not in value:
        raise ValueError(f"{where}: found no {name!r}; expected {what}")
    if not isinstance(value[name], kind):
        found = type(value[name]).__name__
        raise ValueError(f"{where}: {name}: found {found}; expected {what}")
    return value[name]


def verdict(value: object, where: str, name: str) -> bool:
    """Whether a metric says right or wrong: 0 or 1, true or false.

    Raises:
        ValueError: It says neither.
    """
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise ValueError(
        f"{where}: {name}: found {value!r}; expected 0 or 1, for wrong or right (--metric names another one)"
    )
