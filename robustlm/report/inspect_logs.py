"""Logs of Inspect as records of the prediction table: `.json`, and `.eval` (a zip archive of JSON files)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from robustlm.evaluation.record import Cell, Record
from robustlm.report.foreign import (
    Came,
    JsonObject,
    Read,
    Reading,
    came_about,
    field_of,
    parse_json,
    read_json,
    scored,
    verdict,
    without_repeats,
)

_WHAT = "a log of Inspect (.eval or .json)"
_VERDICTS = {"C": True, "I": False, "P": False, "N": False}
"""Inspect's marks: correct, incorrect, partly correct and no answer."""


def read_inspect(path: Path, reading: Reading) -> Read:
    """Read logs of Inspect.

    The task is the dataset. The instruction is the template of a solver (such as `multiple_choice`), or else the system
    message of a solver. Epochs are draws, from 0; `with_even_draws` checks them. Partly correct answers count as wrong.

    Args:
        path: A log file, or a folder that holds such files at any depth.
        reading: Its metric names a scorer.

    Raises:
        ValueError: There is no log, or a file is none.
    """
    files = _files(path)
    found: list[tuple[str, Record]] = []
    for file in files:
        header, samples = _opened(file)
        info = field_of(header, "eval", dict, str(file), _WHAT)
        dataset = str(field_of(info, "task", str, str(file), _WHAT)).rpartition("/")[2]
        instruction = _instruction(header)
        count = 0
        for where, sample in samples:
            count += 1
            found.append((where, _row(sample, dataset, instruction, reading, where)))
        if not count:
            raise ValueError(
                f"{file}: found no samples; expected a log with samples (inspect eval without --no-log-samples)"
            )
    return Read(without_repeats(found), [])


def with_even_draws(rows: Sequence[Record]) -> Read:
    """Rows of `read_inspect`, without the number of the draw if each sample has one epoch.

    Raises:
        ValueError: Two cells (sample, condition and instruction) have other epochs.
    """
    draws: dict[Cell, set[int]] = {}
    for row in rows:
        draws.setdefault(row.cell, set()).add(row.draw or 0)
    first = next(iter(draws), None)
    for cell, own in draws.items():
        if first is not None and own != draws[first]:
            raise ValueError(
                f"{_epochs(cell, own)}, and {_epochs(first, draws[first])}; expected the same epochs of every sample, "
                "since a mean of five answers is no single answer. A log of an evaluation that did not end lacks some; "
                "import logs with other numbers of epochs apart"
            )
    count = 0 if first is None else len(draws[first])
    if count < 2:
        return Read([replace(row, draw=None) for row in rows], [])
    return Read(list(rows), [f"the {count} epochs of each sample are draws of its answer"])


def _epochs(cell: Cell, draws: set[int]) -> str:
    condition, dataset, sample, instruction = cell
    epochs = ", ".join(str(draw + 1) for draw in sorted(draws))
    return (
        f"found epochs {epochs} of sample {sample!r} (dataset {dataset!r}, condition {condition!r}, instruction "
        f"{instruction!r})"
    )


def _files(path: Path) -> list[Path]:
    found = sorted(file for ending in ("*.eval", "*.json") for file in path.rglob(ending)) if path.is_dir() else [path]
    if not found:
        raise ValueError(f"{path}: found no .eval or .json file; expected logs of Inspect")
    return found


def _opened(file: Path) -> tuple[JsonObject, Iterator[tuple[str, JsonObject]]]:
    """Header and samples of a log."""
    if not zipfile.is_zipfile(file):
        log = read_json(file, _WHAT)
        samples = field_of(log, "samples", list, str(file), _WHAT)
        return log, ((f"{file}: sample {i + 1}", sample) for i, sample in enumerate(samples))
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    if "header.json" not in names:
        raise ValueError(f"{file}: found no header.json; expected the log of an evaluation that ended")
    header = parse_json(_member(archive, file, "header.json"), f"{file}: header.json", _WHAT)
    own = sorted(name for name in names if name.startswith("samples/") and name.endswith(".json"))
    return header, (
        (f"{file}: {name}", parse_json(_member(archive, file, name), f"{file}: {name}", _WHAT)) for name in own
    )


def _member(archive: zipfile.ZipFile, file: Path, name: str) -> bytes:
    try:
        return archive.read(name)
    except (NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file}: {name}: {error}; expected a log that this Python can unpack. "
            f"`inspect log convert {file} --to json --output-dir DIR` writes one as JSON"
        ) from error


def _instruction(header: JsonObject) -> str | None:
    plan = header.get("plan")
    steps = plan.get("steps", []) if isinstance(plan, Mapping) else []
    given = [step.get("params") or {} for step in steps if isinstance(step, Mapping)]
    for name in ("template", "message"):
        for params in given:
            if isinstance(params.get(name), str) and params[name].strip():
                return str(params[name]).strip()
    return None


def _row(sample: JsonObject, dataset: str, instruction: str | None, reading: Reading, where: str) -> Record:
    target = field_of(sample, "target", (str, list), where, _WHAT)
    epoch = sample.get("epoch", 1)
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
        raise ValueError(f"{where}: epoch: found {epoch!r}; expected a whole number, at least 1")
    scores = sample.get("scores")
    name, score = _score(scores, reading, where) if sample.get("error") is None else (None, None)
    texts = sample.get("attachments") or {}
    prediction = _completion(sample, texts)
    said = None if score is None else score.get("answer")
    answer = said if isinstance(said, str) and said.strip() else (prediction if score is not None else None)
    row = scored(
        sample_id=str(field_of(sample, "id", (str, int), where, _WHAT)),
        dataset=dataset,
        condition=reading.condition,
        instruction=instruction,
        reading=reading,
        prediction=prediction,
        answer=answer or None,
        target=target if isinstance(target, str) else "; ".join(map(str, target)),
        correct=score is not None and _right(score.get("value"), where, str(name)),
        prompt=_prompt(sample, texts),
        choices=sample.get("choices"),
        came=_came(sample, prediction, where),
    )
    return replace(row, draw=epoch - 1)


def _came(sample: JsonObject, prediction: str, where: str) -> Came:
    """Error, end, tokens and time of a sample; of several requests, those of the last one."""
    output = sample.get("output") or {}
    error = sample.get("error")
    if isinstance(error, Mapping):
        error = error.get("message")
    if error is None and not prediction:
        error = output.get("error")
    ends = [choice.get("stop_reason") for choice in output.get("choices") or [] if isinstance(choice, Mapping)]
    usage = output.get("usage") or {}
    tokens = usage.get("input_tokens"), usage.get("output_tokens")
    return came_about(where, error=error, ends=(ends or [None])[0], tokens=tokens, seconds=output.get("time"))


def _score(scores: object, reading: Reading, where: str) -> tuple[str, JsonObject]:
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError(f"{where}: found no scores; expected a log that was scored (`inspect score` adds them)")
    name = reading.metric if reading.metric is not None else next(iter(scores))
    if not isinstance(scores.get(name), Mapping):
        raise ValueError(f"{where}: found no scorer {name!r}; expected one of {', '.join(map(str, scores))}")
    return name, scores[name]


def _right(value: object, where: str, name: str) -> bool:
    return _VERDICTS[value] if isinstance(value, str) and value in _VERDICTS else verdict(value, where, name)


def _text(content: object, texts: Mapping[str, str]) -> str:
    """Text of a message, which may be one text, a list of parts, or a reference to an attachment."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text")
        return "\n".join(_text(part, texts) for part in parts if part is not None)
    text = "" if content is None else str(content)
    return texts.get(text.removeprefix("attachment://"), text) if text.startswith("attachment://") else text


def _completion(sample: JsonObject, texts: Mapping[str, str]) -> str:
    output = sample.get("output") or {}
    choices = output.get("choices") or [{}]
    message = choices[0].get("message") or {}
    return _text(message.get("content", output.get("completion")), texts).strip()


def _prompt(sample: JsonObject, texts: Mapping[str, str]) -> str | None:
    """The messages before the first answer; their roles are written if there are several."""
    asked = []
    for message in sample.get("messages") or []:
        if message.get("role") == "assistant":
            break
        asked.append((str(message.get("role")), _text(message.get("content"), texts)))
    if not asked:
        return _text(sample["input"], texts) if isinstance(sample.get("input"), str) else None
    return asked[0][1] if len(asked) == 1 else "\n\n".join(f"{role}: {text}" for role, text in asked)
