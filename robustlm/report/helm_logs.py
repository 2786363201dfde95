"""Runs of HELM as records of the prediction table: `scenario_state.json` with `per_instance_stats.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robustlm.evaluation.record import Record
from robustlm.report.foreign import (
    Came,
    JsonObject,
    Read,
    Reading,
    came_about,
    field_of,
    read_json,
    scored,
    verdict,
    without_repeats,
)

_STATE = "scenario_state.json of a run of HELM"
_STATS = "per_instance_stats.json of a run of HELM"
METRICS = (
    "exact_match",
    "quasi_exact_match",
    "prefix_exact_match",
    "quasi_prefix_exact_match",
    "final_number_exact_match",
    "math_equiv",
    "math_equiv_chain_of_thought",
)
"""HELM's metrics that say right or wrong; the first that a run has is read."""

_ABOUT = ("name", "robustness", "fairness", "computed_on")
"""Fields of a perturbation that do not set what it does."""

_Place = tuple[str, int, str | None]
"""Instance, trial of few-shot examples, and perturbation."""


def read_helm(path: Path, reading: Reading) -> Read:
    """Read runs of HELM.

    The run's name without its model is the dataset, and `adapter_spec.instructions` the instruction. The condition
    of an instance that HELM perturbed is the perturbation with its settings (`misspelling(prob=0.1)`). Trials with
    other few-shot examples count as other instructions. Where an instance was asked once for each option, the answer is
    the option that HELM found the likeliest.

    Args:
        path: The folder of a run, or one that holds such folders at any depth.
        reading: Its metric is one of HELM's.

    Raises:
        ValueError: There is no run, or a file is not one of HELM's.
    """
    files = _files(path)
    found: list[tuple[str, Record]] = []
    used: dict[str, int] = {}
    for file in files:
        state = read_json(file, _STATE)
        spec = field_of(state, "adapter_spec", dict, str(file), _STATE)
        stats = _stats(file.with_name("per_instance_stats.json"))
        dataset = _dataset(file)
        options: dict[_Place, _Options] = {}
        for i, one in enumerate(field_of(state, "request_states", list, str(file), _STATE)):
            where = f"{file}: request {i + 1}"
            if one.get("reference_index") is not None:
                instance = field_of(one, "instance", dict, where, _STATE)
                sample = str(field_of(instance, "id", str, where, _STATE))
                place = sample, one.get("train_trial_index", 0), _perturbed(instance)
                options.setdefault(place, _Options(where, [])).requests.append(one)
                continue
            row, metric = _row(one, spec, stats, dataset, reading, where)
            used[metric] = used.get(metric, 0) + 1
            found.append((where, row))
        for place, each in options.items():
            found.append((each.where, _chosen(each, place, spec, stats, dataset, reading)))
            used["predicted_index"] = used.get("predicted_index", 0) + 1
    notes = [f"{count} answers are right or wrong by HELM's {name}" for name, count in used.items()]
    return Read(without_repeats(found), notes)


@dataclass(frozen=True, slots=True)
class _Options:
    """The requests of one instance that was asked once for each option."""

    where: str
    """The first one."""
    requests: list[JsonObject]


def _files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(path.rglob("scenario_state.json"))
    if not found:
        raise ValueError(f"{path}: found no scenario_state.json; expected the folder of a run of HELM")
    return found


def _dataset(file: Path) -> str:
    """The name of the run without the arguments that name its model."""
    spec = file.with_name("run_spec.json")
    name = file.parent.name
    if spec.is_file():
        name = str(field_of(read_json(spec, "run_spec.json of HELM"), "name", str, str(spec), "the name of a run"))
    scenario, _, arguments = name.partition(":")
    kept = [part for part in arguments.split(",") if part and not part.startswith(("model=", "model_deployment="))]
    return f"{scenario}:{','.join(kept)}" if kept else scenario


def _stats(file: Path) -> dict[_Place, dict[str, float]]:
    """Mean of each metric, for each instance."""
    lines = read_json(file, _STATS)
    if not isinstance(lines, list):
        raise ValueError(f"{file}: found {type(lines).__name__}; expected {_STATS}")
    found: dict[_Place, dict[str, float]] = {}
    for i, one in enumerate(lines):
        where = f"{file}: entry {i + 1}"
        place = str(field_of(one, "instance_id", str, where, _STATS)), one.get("train_trial_index", 0), _perturbed(one)
        values = found.setdefault(place, {})
        for stat in field_of(one, "stats", list, where, _STATS):
            name = field_of(stat, "name", dict, where, _STATS)
            if "mean" in stat:
                values.setdefault(str(name.get("name")), stat["mean"])
    return found


def _perturbed(one: JsonObject) -> str | None:
    """The name of a perturbation, with its settings, since HELM has several of one name."""
    found = one.get("perturbation")
    if not isinstance(found, Mapping):
        return None if found is None else str(found)
    settings = [f"{key}={value}" for key, value in sorted(found.items()) if key not in _ABOUT and value is not None]
    name = str(found.get("name"))
    return f"{name}({','.join(settings)})" if settings else name


def _row(
    one: JsonObject,
    spec: JsonObject,
    stats: Mapping[_Place, Mapping[str, float]],
    dataset: str,
    reading: Reading,
    where: str,
) -> tuple[Record, str]:
    """A record, and the metric that judged it."""
    instance = field_of(one, "instance", dict, where, _STATE)
    completions = field_of(one.get("result") or {}, "completions", list, where, _STATE)
    prediction = str(completions[0].get("text", "")).strip() if completions else ""
    trial = one.get("train_trial_index", 0)
    sample, changed = str(field_of(instance, "id", str, where, _STATE)), _perturbed(instance)
    values = _values(stats, (sample, trial, changed), where)
    metric = _metric(values, reading, where)
    mapping = one.get("output_mapping") or {}
    row = scored(
        sample_id=sample,
        dataset=dataset,
        condition=changed or reading.condition,
        instruction=str(spec.get("instructions") or "").strip() or None,
        reading=reading,
        prediction=prediction,
        answer=prediction or None,
        target=_target(instance, mapping),
        correct=verdict(values[metric], where, metric),
        prompt=(one.get("request") or {}).get("prompt") or None,
        choices=list(mapping),
        came=_came(one, values, where),
    )
    if trial:
        row.instruction_id = f"{row.instruction_id}/trial/{trial}"
    return row, metric


def _values(stats: Mapping[_Place, Mapping[str, float]], place: _Place, where: str) -> Mapping[str, float]:
    values = stats.get(place)
    if values is None:
        sample, trial, changed = place
        raise ValueError(
            f"{where}: instance {sample!r} (trial {trial}, perturbation {changed}) has no entry in the stats"
        )
    return values


def _chosen(
    options: _Options,
    place: _Place,
    spec: JsonObject,
    stats: Mapping[_Place, Mapping[str, float]],
    dataset: str,
    reading: Reading,
) -> Record:
    """The record of an instance that was asked once for each option (`multiple_choice_separate_*`).

    The answer is the option of HELM's `predicted_index`: the likeliest one, and the first of several that are equally
    likely. It is right if it is a correct one. HELM's `exact_match` of a tie is a share.
    """
    where, first = options.where, options.requests[0]
    instance, values = field_of(first, "instance", dict, where, _STATE), _values(stats, place, where)
    if reading.metric not in (None, "predicted_index", "exact_match"):
        raise ValueError(
            f"{where}: found one request for each option (method {spec.get('method')}) and the metric "
            f"{reading.metric!r}; expected exact_match, or none"
        )
    references = [one for one in instance.get("references") or [] if isinstance(one, Mapping)]
    texts = [str((one.get("output") or {}).get("text", "")) for one in references]
    index = values.get("predicted_index")
    if not isinstance(index, int | float) or index != int(index) or not 0 <= index < len(texts):
        raise ValueError(
            f"{where}: found predicted_index {index!r} in the stats of instance {place[0]!r}; expected the number of "
            f"one of its {len(texts)} references, which HELM writes for one request for each option"
        )
    missing = set(range(len(texts))) - {one["reference_index"] for one in options.requests}
    if missing:
        raise ValueError(
            f"{where}: instance {place[0]!r} has no request for reference {min(missing)}; expected one for each"
        )
    own = next(one for one in options.requests if one["reference_index"] == int(index))
    prediction = texts[int(index)]
    results = [one.get("result") or {} for one in options.requests]
    failed = next((one for one in results if one.get("success") is False), None)
    times = [one.get("request_time") for one in results]
    prompt = str((own.get("request") or {}).get("prompt") or "")
    row = scored(
        sample_id=place[0],
        dataset=dataset,
        condition=place[2] or reading.condition,
        instruction=str(spec.get("instructions") or "").strip() or None,
        reading=reading,
        prediction=prediction,
        answer=prediction,
        target=_target(instance, {}),
        correct="correct" in (references[int(index)].get("tags") or []),
        prompt=prompt.removesuffix(prediction).rstrip() or None,
        choices=texts,
        came=came_about(
            where,
            error=None if failed is None else (failed.get("error") or "the request failed"),
            seconds=sum(one for one in times if isinstance(one, int | float)) if any(times) else None,
        ),
    )
    if place[1]:
        row.instruction_id = f"{row.instruction_id}/trial/{place[1]}"
    return row


def _came(one: JsonObject, values: Mapping[str, float], where: str) -> Came:
    result = field_of(one, "result", dict, where, _STATE)
    first: JsonObject = next(iter(result.get("completions") or []), {})
    failed = result.get("success") is False
    return came_about(
        where,
        error=(result.get("error") or "the request failed") if failed else None,
        ends=(first.get("finish_reason") or {}).get("reason"),
        tokens=(values.get("num_prompt_tokens"), values.get("num_output_tokens")),
        seconds=result.get("request_time"),
    )


def _metric(values: Mapping[str, float], reading: Reading, where: str) -> str:
    wanted = METRICS if reading.metric is None else (reading.metric,)
    for name in wanted:
        if name in values:
            return name
    raise ValueError(
        f"{where}: found none of the metrics {', '.join(wanted)}; expected one of {', '.join(sorted(values))}"
    )


def _target(instance: JsonObject, mapping: Mapping[str, str]) -> str:
    """The first correct reference; for multiple choice, the letter that stands for it."""
    right = [
        str((reference.get("output") or {}).get("text", ""))
        for reference in instance.get("references") or []
        if "correct" in (reference.get("tags") or [])
    ]
    text = right[0] if right else ""
    return next((letter for letter, option in mapping.items() if option == text), text)
