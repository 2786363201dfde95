"""Prediction tables to and from the schema of Every Eval Ever for single answers (`instance_level_eval_0.2.2`).

A file holds one JSON object in each line. Columns of the prediction table that the schema does not know stand in the
object's `metadata`, whose values are text, under their names with `robustlm.` before them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from robustlm.evaluation.grid import counts
from robustlm.evaluation.record import COLUMNS, OWN, Record, parsed_record
from robustlm.report.foreign import (
    TEXTS,
    JsonObject,
    Read,
    Reading,
    came_about,
    field_of,
    parse_json,
    scored,
    without_repeats,
)

SCHEMA_VERSION = "instance_level_eval_0.2.2"

_WHAT = "an answer in the schema of Every Eval Ever"
_PREFIX = "robustlm."
_KNOWN = ("sample_id", "dataset", "prediction", "target", "correct", "choices", "prompt")
"""Columns that the schema has a field for; the others go into the metadata."""


def to_every_eval(rows: Sequence[Record], run: str, model: str) -> str:
    """Write records as lines of JSON.

    Args:
        rows: Records with true answers.
        run: Name of the evaluation.
        model: Name of the model.
    """
    return "".join(json.dumps(_line(row, run, model), ensure_ascii=False) + "\n" for row in rows)


def _line(row: Record, run: str, model: str) -> dict[str, object]:
    part, whole = counts(row)
    raw = row.prompt if row.prompt is not None else row.instruction or ""
    metadata = {
        _PREFIX + name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name in COLUMNS
        if name not in _KNOWN and (value := getattr(row, name)) is not None
    }
    attributed = {
        "turn_idx": 0, "source": "output.raw", "extracted_value": row.prediction.strip(),
        "extraction_method": f"robustlm task {row.task}", "is_terminal": True,
    }  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"robustlm/{run}",
        "model_id": model,
        "evaluation_name": row.dataset,
        "sample_id": row.sample_id,
        "sample_hash": hashlib.sha256((raw + row.expected).encode("utf-8", "replace")).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": raw, "formatted": row.prompt, "reference": [row.expected], "choices": row.choices},
        "output": {"raw": [row.prediction]},
        "messages": None,
        "answer_attribution": [attributed] if row.parsed is not None else [],
        "evaluation": {"score": part / whole if whole else 1.0, "is_correct": row.right},
        **_came(row),
        "metadata": metadata,
    }


def _came(row: Record) -> dict[str, object]:
    """The schema's own fields for tokens, time and error, as far as they are known."""
    found: dict[str, object] = {}
    if row.prompt_tokens is not None and row.answer_tokens is not None:
        counts = row.prompt_tokens, row.answer_tokens
        names = ("input_tokens", "output_tokens", "total_tokens")
        found["token_usage"] = dict(zip(names, (*counts, sum(counts)), strict=True))
    if row.latency is not None:
        found["performance"] = {"latency_ms": 1000 * row.latency}
    if row.error is not None:
        found["error"] = row.error
    return found


def read_every_eval(path: Path, reading: Reading) -> Read:
    """Read answers in the schema of Every Eval Ever.

    Lines that `to_every_eval` wrote become the records that they were. For other lines, the evaluation's name is the
    dataset, the answer is the one that the log took from the output, and `is_correct` the verdict. An evaluation with
    several results for each sample counts by the first one, or the one that the metric names
    (`evaluation_result_id`).

    Args:
        path: A `.jsonl` file, or a folder that holds such files at any depth.
        reading: How lines of other programs are read.

    Raises:
        ValueError: There is no file, or a line is no single answer of this schema.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: found no .jsonl file; expected answers in the schema of Every Eval Ever")
    found: list[tuple[str, Record]] = []
    chosen: dict[tuple[str, str], str | None] = {}
    left_out = 0
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: found no file; expected answers in the schema of Every Eval Ever")
        for number, text in enumerate(file.read_bytes().split(b"\n"), start=1):
            if not text.strip():
                continue
            where = f"{file}:{number}"
            line = parse_json(text, where, _WHAT)
            name = str(field_of(line, "evaluation_name", str, where, _WHAT))
            result = line.get("evaluation_result_id")
            wanted = chosen.setdefault((str(file), name), reading.metric or result)
            if wanted is not None and result != wanted:
                left_out += 1
                continue
            found.append((where, _row(line, name, reading, where)))
    if not found:
        raise ValueError(f"{files[0]}: found no answers (metric {reading.metric!r}); expected some")
    notes = [f"{left_out} lines with other results of the same answers are left out"] if left_out else []
    return Read(without_repeats(found), notes)


def _row(line: JsonObject, name: str, reading: Reading, where: str) -> Record:
    asked = field_of(line, "input", dict, where, _WHAT)
    sample = str(field_of(line, "sample_id", str, where, _WHAT))
    judged = field_of(line, "evaluation", dict, where, _WHAT)
    correct = bool(field_of(judged, "is_correct", bool, where, _WHAT))
    reference = field_of(asked, "reference", list, where, _WHAT)
    target = str(reference[0]) if reference else ""
    metadata = line.get("metadata") or {}
    prediction = _output(line, where)
    own = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
    if own:
        return _ours(own, line, where, sample_id=sample, dataset=name, prediction=prediction, target=target,
                     correct=correct, choices=asked.get("choices"), prompt=asked.get("formatted"))  # fmt: skip
    taken = [one for one in line.get("answer_attribution") or [] if one.get("is_terminal")]
    answer = str(taken[-1]["extracted_value"]) if taken else prediction
    usage, performance = line.get("token_usage") or {}, line.get("performance") or {}
    spent = performance.get("latency_ms")
    return scored(
        sample_id=sample,
        dataset=name,
        condition=reading.condition,
        instruction=None,
        reading=reading,
        prediction=prediction,
        answer=answer or None,
        target=target,
        correct=correct,
        prompt=asked.get("formatted") or asked.get("raw") or None,
        choices=asked.get("choices"),
        came=came_about(
            where,
            error=line.get("error") if not prediction else None,
            tokens=(usage.get("input_tokens"), usage.get("output_tokens")),
            seconds=spent / 1000 if isinstance(spent, int | float) else spent,
        ),
    )


def _output(line: JsonObject, where: str) -> str:
    kind = field_of(line, "interaction_type", str, where, _WHAT)
    if kind == "single_turn":
        raw = field_of(line.get("output") or {}, "raw", list, where, _WHAT)
        return str(raw[0]) if raw else ""
    said = [one.get("content") or "" for one in line.get("messages") or [] if one.get("role") == "assistant"]
    return str(said[-1]) if said else ""


def _ours(own: Mapping[str, str], line: JsonObject, where: str, **known: object) -> Record:
    if unknown := sorted(set(own) - set(COLUMNS)):
        raise ValueError(f"{where}: metadata: found the column {unknown[0]!r}; expected some of {', '.join(COLUMNS)}")
    try:
        values = {name: text if name in TEXTS else json.loads(text) for name, text in own.items()}
        return parsed_record({"parsed": None, "instruction_id": OWN, **values, **known})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: metadata: {error}; expected what `robustlm export` wrote") from error
