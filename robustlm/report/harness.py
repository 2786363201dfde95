"""Prediction tables to and from the files of EleutherAI's lm-evaluation-harness.

A prediction table is exported as a folder of task files with the same prompts; the harness can run them with any of
its models. Samples that the harness logs (`--log_samples`) are read back as a prediction table, for a report or a
comparison. Logged samples of other harness tasks can be read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from robustlm.checks.places import check_file
from robustlm.evaluation.record import OWN, Key, Record
from robustlm.evaluation.votes import voted
from robustlm.tasks import TASKS

_KEYS = ("sample_id", "dataset", "task", "condition", "instruction_id")
_WORDS = ("wording", "instruction")
_LOADER = '''"""Reads the rows of a task; named by the task files beside it."""

from pathlib import Path

from datasets import Dataset, DatasetDict


def load(file, **_):
    return DatasetDict({"test": Dataset.from_json(str(Path(__file__).parent / "rows" / file))})
'''
_SAMPLES = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d{2}-\d{2}T[\d.:-]+)?\.jsonl")


def task_files(
    rows: Sequence[Record], name: str = "robustlm", max_new_tokens: int = 128, delimiter: str | None = None
) -> dict[str, str]:
    """Make harness task files (text by path): one task for each dataset and condition, all with the tag `name`.

    Rows with options become multiple-choice tasks, other rows become generation tasks.

    Args:
        rows: Rows of a prediction table with prompts.
        name: Tag of the tasks, and prefix of their names.
        max_new_tokens: Longest generated answer, in tokens.
        delimiter: Text between prompt and option. Default: a space, or nothing if all prompts of a task end in white
            space or in `>`, as special tokens of chat templates do.

    Raises:
        ValueError: The table lacks prompts, or `name` is not a valid task name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ValueError(f"name: found {name!r}; expected letters, digits, '_', '-' and '.'")
    groups: dict[tuple[str, str, bool], list[Record]] = {}
    for row in voted(rows):  # the draws of a question have the same prompt
        if row.prompt is None:
            raise ValueError(
                f"sample {row.sample_id!r} has no prompt; expected a table that was written with prompts "
                "(`robustlm test` without --predictions.prompts false, by a version that keeps them)"
            )
        groups.setdefault((row.dataset, row.condition, bool(row.choices)), []).append(row)
    found = {"loader.py": _LOADER}
    for (dataset, condition, chosen), own in groups.items():
        both = (dataset, condition, not chosen) in groups
        stem = _unused(f"{name}_{_slug(dataset)}_{_slug(condition)}" + ("_options" if chosen and both else ""), found)
        found[f"rows/{stem}.jsonl"] = "".join(json.dumps(_doc(row), ensure_ascii=False) + "\n" for row in own)
        ends = delimiter if delimiter is not None else _delimiter(own)
        found[f"{stem}.yaml"] = _task_file(stem, name, ends, chosen, max_new_tokens)
    return found


def table_rows(path: Path, condition: str = "clean", answers: str | None = None) -> list[Record]:
    """Read rows of a prediction table from samples that the harness logged.

    Samples of `task_files` keep their keys; their answers are parsed and scored as in `robustlm test`. For samples of
    other tasks, the file name gives the dataset, each sample is asked once, and the first metric that is 0 or 1 says
    whether an answer is correct. Among options, the answer is the one with the highest log-likelihood, as in the
    harness's `acc`.

    Args:
        path: A `samples_*.jsonl` file, or a folder that holds such files at any depth.
        condition: Condition of samples of other tasks.
        answers: Name of the harness filter whose answers are read. Default: the first filter of each file.

    Raises:
        ValueError: There are no samples, a line is not a sample, or a sample occurs twice.
    """
    files = [path] if path.is_file() else sorted(path.rglob("samples_*.jsonl"))
    if not files:
        raise ValueError(
            f"{path}: found no samples_*.jsonl; expected what the harness writes with --log_samples --output_path"
        )
    found: dict[Key, Record] = {}
    places: dict[object, str] = {}
    for file in files:
        match = _SAMPLES.fullmatch(file.name)
        task = match["task"] if match else file.stem
        count = len(found)
        for number, line in _lines(file):
            wanted = answers if answers is not None else line.get("filter")
            answers_here = places.setdefault(("filter", file), str(wanted))
            if answers_here != str(line.get("filter")):
                continue
            where = f"{file}:{number}"
            row = _row(line, task, condition, where)
            if row.key in found:
                raise ValueError(f"{where}: sample {row.sample_id!r} was found before, in {places[row.key]}")
            found[row.key] = row
            places[row.key] = where
        if len(found) == count:
            raise ValueError(f"{file}: found no samples of the filter {answers!r}; expected a filter of that run")
    return list(found.values())


def _task_file(stem: str, name: str, delimiter: str, chosen: bool, max_new_tokens: int) -> str:
    head: dict[str, Any] = {
        "task": stem,
        "tag": name,
        "dataset_kwargs": {"file": f"{stem}.jsonl"},
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "target_delimiter": delimiter,
        "metadata": {"version": 1.0},
    }
    if chosen:
        metrics = ["acc", "acc_norm"]
        more: dict[str, Any] = {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
        }
    else:
        metrics = ["exact_match"]
        more = {
            "output_type": "generate_until",
            "doc_to_target": "target",
            "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": max_new_tokens},
            # prompts do not end in a space, so answers begin with one
            "filter_list": [
                {"name": "answer", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
            ],
        }
    listed = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics]
    text = yaml.safe_dump({**head, **more, "metric_list": listed}, sort_keys=False, allow_unicode=True)
    return f"custom_dataset: !function loader.load\n{text}"


def _doc(row: Record) -> dict[str, Any]:
    doc = {key: getattr(row, key) for key in _KEYS} | {"prompt": row.prompt, "target": row.target}
    doc |= {key: words for key in _WORDS if (words := getattr(row, key)) is not None}
    if row.choices:
        doc |= {"choices": row.choices, "answer": row.choices.index(row.expected)}
    return doc


def _delimiter(rows: Sequence[Record]) -> str:
    prompts = [row.prompt or "" for row in rows]
    ended = all(prompt[-1:].isspace() or prompt.endswith(">") for prompt in prompts)
    return "" if ended else " "


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") or "none"


def _unused(stem: str, taken: Mapping[str, str]) -> str:
    """Append a number to `stem` if it is taken; names that differ only in special characters have the same stem."""
    found, number = stem, 2
    while f"{found}.yaml" in taken:
        found, number = f"{stem}-{number}", number + 1
    return found


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    check_file(file, "samples of the harness")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 (byte {error.start + 1}); expected samples of the harness") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}:{number}: found no JSON ({error}); expected a sample of the harness") from error
        if not isinstance(found, dict):
            raise ValueError(f"{file}:{number}: found a {type(found).__name__}; expected a sample of the harness")
        missing = [key for key in ("doc_id", "doc", "target", "resps", "filtered_resps") if key not in found]
        if missing or not found["filtered_resps"]:
            raise ValueError(
                f"{file}:{number}: found no {', '.join(missing) or 'answer'}; expected a sample of the harness"
            )
        yield number, found


def _row(line: Mapping[str, Any], task: str, condition: str, where: str) -> Record:
    doc = line["doc"]
    ours = isinstance(doc, dict) and all(isinstance(doc.get(key), str) for key in (*_KEYS, "prompt"))
    scores, choices = _options(line, doc if ours else None)
    if scores is None:
        prediction = _text(line["filtered_resps"][0]).strip()
    else:
        prediction = choices[max(range(len(scores)), key=scores.__getitem__)]
    target = line["target"]
    target = choices[target] if isinstance(target, int) and 0 <= target < len(choices) else _text(target).strip()
    options = choices or None
    if not ours:
        return Record(
            sample_id=str(line["doc_id"]), dataset=task, task="generation", condition=condition, instruction_id=OWN,
            prediction=prediction, parsed=[[prediction]], target=target, correct=_verdict(line, where),
            choices=options, option_scores=scores, prompt=_prompt(line),
        )  # fmt: skip
    kind = TASKS.get(doc["task"])
    if kind is None:
        raise ValueError(f"{where}: unknown task {doc['task']!r}; name its class with --tasks '[module.Class]'")
    answer, gold = kind.parse(prediction), kind.parse(doc["target"])
    return Record(
        **{key: doc[key] for key in _KEYS}, prediction=prediction,
        parsed=[list(item) for item in answer.items] if answer.parsed else None, target=doc["target"],
        correct=kind.correct(answer, gold), choices=options, option_scores=scores, prompt=_prompt(line),
        **{key: doc.get(key) for key in _WORDS},
    )  # fmt: skip


def _options(line: Mapping[str, Any], doc: Mapping[str, Any] | None) -> tuple[list[float] | None, list[str]]:
    """Log-likelihoods and texts of options; the harness logs each as `(log-likelihood, whether greedy)`."""
    answers = [answer[0] if isinstance(answer, list) and answer else answer for answer in line["resps"]]
    if not all(isinstance(answer, list | tuple) and len(answer) == 2 for answer in answers):
        return None, []
    texts = list(doc["choices"]) if doc else [_text(one).strip() for one in _arguments(line, 1)]
    scores = [float(answer[0]) for answer in answers]
    return (scores, texts) if len(texts) == len(scores) > 1 else (None, [])


def _arguments(line: Mapping[str, Any], at: int) -> Iterable[Any]:
    """Yield argument `at` of each request; requests are lists, or `{"gen_args_0": {"arg_0": …}}` in logged files."""
    found = line.get("arguments") or []
    requests = found.values() if isinstance(found, dict) else found
    for request in requests:
        values = list(request.values()) if isinstance(request, dict) else list(request)
        if len(values) > at:
            yield values[at]


def _prompt(line: Mapping[str, Any]) -> str | None:
    return next((str(one) for one in _arguments(line, 0)), None)


def _verdict(line: Mapping[str, Any], where: str) -> bool:
    for metric in line.get("metrics") or ():
        value = line.get(metric)
        if isinstance(value, int | float) and value in (0, 1):
            return bool(value)
    raise ValueError(
        f"{where}: found no metric that says right or wrong; expected one of 0 and 1, such as exact_match or acc"
    )


def _text(value: object) -> str:
    while isinstance(value, list) and value:
        value = value[0]
    return str(value)
