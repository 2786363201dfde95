"""The results of a prediction table in the schema of Every Eval Ever for whole evaluations (version 0.3.0).

The schema has two files: this one with the results, and one with a line for each answer (`every_eval`), whose lines
name the result that they count for.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Literal

from robustlm.evaluation.directions import low_means
from robustlm.evaluation.numbers import NUMBERS, Estimate, Result, Settings
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import robustness
from robustlm.report.number_tables import COUNTS
from robustlm.utils.version import __version__

SCHEMA_VERSION = "0.3.0"

Relationship = Literal["first_party", "third_party", "collaborative", "other"]

_SCORES = (
    "mean", "worst_instruction", "worst_debiased", "worst_case", "all_correct", "majority_vote", "mean_estimated",
    "worst_estimated", "low_estimated", "median_estimated", "high_estimated",
)  # fmt: skip
"""Numbers that are scores: whether a high one is better depends on the condition."""

_LOWER = ("pdr", "std", "std_debiased", "spread", "spread_debiased", "sensitivity", "posix", "unparseable")
"""Numbers of which a low one is better."""

_EXPORTED = (*_SCORES, *_LOWER, "consistency")
"""Other numbers have no better and worse end, which the schema asks for."""

_BOUNDS: Mapping[str, tuple[float | str, float | str]] = {"pdr": ("-Infinity", 1), "posix": (0, "Infinity")}
"""Least and largest value, where they are not 0 and 1."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the schema says of an evaluation beside its answers and scores."""

    run: str
    """Name of the run."""
    model: str
    """Name of the model, as `developer/name` if it is on the Hugging Face hub."""
    time: float = 0.0
    """When the table was written, in seconds since 1970."""
    organization: str = "unknown"
    """Who provides the results."""
    relationship: Relationship = "other"
    """What the evaluator is to the developer of the model."""
    generation: Mapping[str, float | int] = field(default_factory=dict)
    """Settings of generation by their names in the schema."""

    @property
    def id(self) -> str:
        """Identifies the evaluation, in both files."""
        return f"{self.run}/{self.model}/{self.time:.0f}"

    @property
    def folder(self) -> PurePosixPath:
        """Where the schema's collection keeps the files: `data/<run>/<developer>/<model>`."""
        developer, name = self._names
        return PurePosixPath("data", *map(_portable, (self.run, developer, name)))

    @property
    def _names(self) -> tuple[str, str]:
        parts = self.model.strip("/").split("/")
        return (parts[0], parts[1]) if len(parts) == 2 and not self.model.startswith("/") else ("unknown", parts[-1])

    def described(self) -> dict[str, object]:
        """The schema's description of the model."""
        return {
            "name": self.model,
            "id": self.model,
            "developer": self._names[0],
            "additional_details": {"deployment_type": "unknown", "model_availability": "unknown"},
        }


def result_name(dataset: str, condition: str) -> str:
    """`evaluation_name` of the answers to a dataset under a condition: the dataset's own name under `clean`."""
    return dataset if condition == "clean" else f"{dataset}/{condition}"


def result_id(row: Record, score: str) -> str:
    """`evaluation_result_id` of the mean score that an answer counts for; `score` is `accuracy` or `f1`."""
    return _id(row.dataset, row.task, row.condition, score)


def _id(dataset: str, task: str, condition: str, metric: str) -> str:
    return "/".join((dataset, task, condition, metric))


def file_stem(answers: str) -> str:
    """Name of both files, as the schema wants it: a UUID of version 4, here made of the content of the answers."""
    return str(uuid.UUID(bytes=hashlib.sha256(answers.encode()).digest()[:16], version=4))


def to_results(
    rows: Sequence[Record],
    about: Evaluation,
    answers: str,
    path: PurePosixPath | None = None,
    settings: Settings = Settings(),  # noqa: B008 - read only
) -> str:
    """Write the results as JSON: the mean score of each dataset and condition, and the numbers of robustness.

    Numbers without a better and a worse end are left out.

    Args:
        rows: Records with true answers.
        about: What the evaluation is.
        answers: Text of the file of single answers.
        path: Place of that file in the schema's collection; null: it is not laid out for it, so it is not named.
        settings: How intervals are made.
    """
    tasks = {(row.dataset, row.task) for row in rows}
    names = {dataset if _alone(dataset, tasks) else f"{dataset}-{task}": (dataset, task) for dataset, task in tasks}
    found: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": about.id,
        "evaluation_timestamp": datetime.fromtimestamp(about.time, UTC).isoformat(timespec="seconds"),
        "retrieved_timestamp": f"{about.time:.0f}",
        "source_metadata": {
            "source_name": "robustlm",
            "source_type": "evaluation_run",
            "source_organization_name": about.organization,
            "evaluator_relationship": about.relationship,
        },
        "eval_library": {"name": "robustlm", "version": __version__},
        "model_info": about.described(),
        "evaluation_results": [
            _result(one, name, number, *names[one.name], about, settings)
            for one in robustness(rows, settings)
            if one.name is not None
            for name, number in one.numbers.items()
            if name in _EXPORTED and not math.isnan(number.value)
        ],
    }
    if path is not None:
        found["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": str(path),
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(answers.encode()).hexdigest(),
            "total_rows": answers.count("\n"),
        }
    return json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _alone(dataset: str, tasks: set[tuple[str, str]]) -> bool:
    return sum(name == dataset for name, _ in tasks) == 1


def _result(
    one: Result, name: str, number: Estimate, dataset: str, task: str, about: Evaluation, settings: Settings
) -> dict[str, object]:
    lower = name in _LOWER
    if low_means(one.condition) is not None and (name in _SCORES or name == "pdr"):
        lower = not lower
    least, most = _BOUNDS.get(name, (0, 1))
    metric = one.score if name == "mean" else f"robustlm.{name}"
    details = {key: str(getattr(one, key)) for key in COUNTS}
    if name == "worst_instruction" and one.worst is not None:
        details["instruction"] = one.worst
    score: dict[str, object] = {"score": number.value, "details": details}
    if not math.isnan(number.low):
        score["uncertainty"] = {
            "confidence_interval": {
                "lower": number.low,
                "upper": number.high,
                "confidence_level": settings.level,
                "method": f"robustlm {__version__}, docs/evaluation.md, Intervals",
            },
            "num_samples": one.samples if name in ("mean", "pdr", "unparseable") else one.complete,
            "num_bootstrap_samples": settings.draws,
        }
    found: dict[str, object] = {
        "evaluation_result_id": _id(dataset, task, one.condition, metric),
        "evaluation_name": result_name(dataset, one.condition),
        "source_data": {"dataset_name": dataset, "source_type": "other", "additional_details": {"task": task}},
        "metric_config": {
            "evaluation_description": NUMBERS[name],
            "metric_id": metric,
            "metric_name": metric,
            "metric_kind": one.score if name in _SCORES else name,
            "metric_unit": "nats" if name == "posix" else "proportion",
            "metric_parameters": {"condition": one.condition, "score": one.score},
            "lower_is_better": lower,
            "score_type": "continuous",
            "min_score": least,
            "max_score": most,
        },
        "score_details": score,
    }
    if about.generation:
        found["generation_config"] = {"generation_args": dict(about.generation)}
    return found


def _portable(name: str) -> str:
    """The name of a folder on every system: letters, digits, `-`, `_`, `.` and `+`, and not the word `data`."""
    found = re.sub(r"[^\w.+-]+", "-", name).strip("-. ") or "unknown"
    return f"{found}-1" if found.lower() == "data" else found
