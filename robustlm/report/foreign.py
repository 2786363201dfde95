"""What the readers of other programs' logs share: JSON with clear errors, and records of answers scored elsewhere."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class Came:
    """How an answer came about, as far as a log says it; the fields are columns of the prediction table."""

    error: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    latency: float | None = None


_ENDS = {"max_tokens": "length", "model_length": "length", "endoftext": "stop", "eos": "stop", "unknown": None}
"""Words of other programs for why an answer ends, and those of the prediction table; other words stay."""


def came_about(
    where: str,
    *,
    error: object = None,
    ends: object = None,
    tokens: tuple[object, object] = (None, None),
    seconds: object = None,
) -> Came:
    """How an answer came about, from values of a log; null values are not known.

    Args:
        where: Place in a file, for errors.
        error: Why there is no answer.
        ends: Why the answer ends.
        tokens: Tokens of prompt and answer; two zeros are a program that does not count.
        seconds: How long the request took.

    Raises:
        ValueError: A count or a time is none.
    """
    prompt, answer = (_amount(value, where, name) for value, name in zip(tokens, ("input", "output"), strict=True))
    if not prompt and not answer:
        prompt = answer = None
    latency = _amount(seconds, where, "time")
    reason = None if ends is None else _ENDS.get(str(ends), str(ends))
    return Came(
        None if error is None else str(error) or "no reason is logged",
        reason,
        None if prompt is None else int(prompt),
        None if answer is None else int(answer),
        None if latency is None else float(latency),
    )


def _amount(value: object, where: str, name: str) -> float | int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{where}: {name}: found {value!r}; expected a number of tokens or seconds, at least 0")
    return value


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
    came: Came = Came(),
) -> Record:
    """A record of an answer that another program has scored, as free text with that program's verdict.

    `answer` is what that program took from the prediction; `None`: it found no answer. `instruction` is what was asked
    with, if the log holds it apart from the input. An answer with an error is none, and wrong.
    """
    failed = came.error is not None
    return Record(
        sample_id=sample_id,
        dataset=dataset,
        task="generation",
        condition=condition,
        instruction_id=instruction_id(instruction, reading),
        prediction=prediction,
        parsed=None if answer is None or failed else [[answer]],
        target=target,
        correct=correct and not failed,
        choices=list(choices) if choices else None,
        prompt=prompt,
        wording=instruction or None,
        instruction=instruction or None,
        **asdict(came),
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
