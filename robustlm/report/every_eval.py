"""Prediction tables to and from the schema of Every Eval Ever for single answers (version 0.3.0).

A file holds one JSON object in each line. Columns of the prediction table that the schema does not know stand in the
object's `metadata`, whose values are text, under their names with `robustlm.` before them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from robustlm.evaluation.grid import counts, task_of
from robustlm.evaluation.record import COLUMNS, OWN, Record, parsed_record
from robustlm.report.every_eval_results import (
    SCHEMA_VERSION,
    Evaluation,
    file_stem,
    result_id,
    result_name,
    to_results,
)
from robustlm.report.foreign import (
    TEXTS,
    JsonObject,
    Read,
    Reading,
    came_about,
    field_of,
    parse_json,
    read_json,
    scored,
    without_repeats,
)

_WHAT = "an answer in the schema of Every Eval Ever"
_PREFIX = "robustlm."
_KNOWN = ("sample_id", "prediction", "target", "correct", "choices", "prompt")
"""Columns that the schema has a field for; the others go into the metadata."""
_SAMPLES = "_samples.jsonl"
"""End of the name of a file with answers; the file of their results has the same name with `.json` instead."""


def every_eval_files(rows: Sequence[Record], about: Evaluation, output: Path) -> dict[Path, str]:
    """The two files of the schema, by path: answers and results.

    Args:
        rows: Records with true answers.
        about: What the evaluation is.
        output: A folder, in which the files get the places of the schema's collection; or a `.jsonl` file for the
            answers, and the results go beside it.
    """
    answers = to_every_eval(rows, about)
    if output.suffix == ".jsonl":
        stem = output.name.removesuffix(".jsonl").removesuffix("_samples")
        return {output: answers, output.with_name(f"{stem}.json"): to_results(rows, about, answers)}
    stem = file_stem(answers)
    place = about.folder / (stem + _SAMPLES)
    results = to_results(rows, about, answers, place)
    return {output / place: answers, output / about.folder / f"{stem}.json": results}


def to_every_eval(rows: Sequence[Record], about: Evaluation) -> str:
    """Write records with true answers as lines of JSON."""
    return "".join(json.dumps(_line(row, about), ensure_ascii=False) + "\n" for row in rows)


def _line(row: Record, about: Evaluation) -> dict[str, object]:
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
        "evaluation_id": about.id,
        "model_id": about.model,
        "evaluation_name": result_name(row.dataset, row.condition),
        "evaluation_result_id": result_id(row, task_of(row).score),
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
        path: A `.jsonl` file, the `.json` file of results beside it, or a folder that holds such files at any depth.
        reading: How lines of other programs are read.

    Raises:
        ValueError: There is no file, or a line is no single answer of this schema.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [_answers_of(path)]
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
            own = _own(line, where)
            if not own:  # of our own lines, each is another answer
                wanted = chosen.setdefault((str(file), name), reading.metric or result)
                if wanted is not None and result != wanted:
                    left_out += 1
                    continue
            found.append((where, _row(line, own, name, reading, where)))
    if not found:
        raise ValueError(f"{files[0]}: found no answers (metric {reading.metric!r}); expected some")
    notes = [f"{left_out} lines with other results of the same answers are left out"] if left_out else []
    return Read(without_repeats(found), [*notes, *filter(None, map(_incomplete, files))])


def _answers_of(path: Path) -> Path:
    """The file of answers; for a file of results, the one beside it.

    Raises:
        ValueError: A file of results has no answers beside it.
    """
    if path.suffix != ".json":
        return path
    answers = path.with_name(path.stem + _SAMPLES)
    if answers.is_file():
        return answers
    if path.is_file() and b'"evaluation_results"' in path.read_bytes():
        raise ValueError(f"{path}: found no {answers.name} beside it; expected the answers, since results are no table")
    return path


def _incomplete(file: Path) -> str | None:
    """What to say if the file of results beside a file of answers counts other answers, or was made of others."""
    results = file.with_name(file.name.removesuffix(_SAMPLES) + ".json")
    if not file.name.endswith(_SAMPLES) or not results.is_file():
        return None
    named = read_json(results, "the results of an evaluation in the schema of Every Eval Ever")
    detail = named.get("detailed_evaluation_results") if isinstance(named, dict) else None
    if not isinstance(detail, dict):
        return None
    data, total = file.read_bytes(), detail.get("total_rows")
    lines = sum(bool(line.strip()) for line in data.split(b"\n"))
    if total is not None and total != lines:
        return f"{file.name} holds {lines} answers, but {results.name} counts {total}"
    digest, how = detail.get("checksum"), detail.get("hash_algorithm")
    if digest and how in ("sha256", "md5") and hashlib.new(how, data).hexdigest() != digest:
        return f"{file.name} is not the file that {results.name} was made of: the checksum differs"
    return None


def _own(line: JsonObject, where: str) -> dict[str, str]:
    """The columns of our own table that a line's metadata holds."""
    metadata = line.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ValueError(f"{where}: metadata: found {type(metadata).__name__}; expected {_WHAT}")
    return {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}


def _row(line: JsonObject, own: Mapping[str, str], name: str, reading: Reading, where: str) -> Record:
    asked = field_of(line, "input", dict, where, _WHAT)
    sample = str(field_of(line, "sample_id", str, where, _WHAT))
    judged = field_of(line, "evaluation", dict, where, _WHAT)
    correct = bool(field_of(judged, "is_correct", bool, where, _WHAT))
    reference = field_of(asked, "reference", list, where, _WHAT)
    target = str(reference[0]) if reference else ""
    prediction = _output(line, where)
    if own:
        return _ours({"dataset": name, **own}, line, where, sample_id=sample, prediction=prediction, target=target,
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
