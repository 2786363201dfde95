"""Prediction tables to the lm-evaluation-harness and back."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from robustlm.assets import tiny_model
from robustlm.cli import main, run
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import read_table, write_table
from robustlm.report.harness import table_rows, task_files


def row(sample: str, **more: Any) -> Record:
    found = Record(
        sample_id=sample, dataset="set a", task="tc", condition="clean", instruction_id="tc/0",
        prediction="label: good", parsed=[["good"]], target="label: good", correct=True,
        prompt=f"Say it “{sample}”. Answer:")  # fmt: skip
    return replace(found, **more)


def chosen(sample: str, **more: Any) -> Record:
    options = {"choices": ["label: bad", "label: good"], "option_scores": [-2.0, -0.5], "option_tokens": [3, 3]}
    return row(sample, **options | more)


class Task(yaml.SafeLoader):
    """Reads task files without running what they name."""


Task.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[no-untyped-call]


def logged(folder: Path, files: dict[str, str], answers: dict[tuple[str, ...], Any]) -> Path:
    """What the harness logs for task files, with an answer for each key: a text, or log-likelihoods of options."""
    for path, text in files.items():
        if not path.endswith(".yaml"):
            continue
        task = yaml.load(text, Task)
        assert task["custom_dataset"] == "loader.load"
        lines = []
        for number, line in enumerate(files[f"rows/{task['dataset_kwargs']['file']}"].splitlines()):
            doc = json.loads(line)
            answer = answers[doc["condition"], doc["dataset"], doc["sample_id"], doc["instruction_id"]]
            prompt = doc[task["doc_to_text"]]
            if isinstance(answer, str):
                arguments: Any = {"gen_args_0": {"arg_0": prompt, "arg_1": task["generation_kwargs"]}}
                resps: Any = [[" " + answer]]
                filtered: Any = [answer]
            else:
                texts = [task["target_delimiter"] + choice for choice in doc[task["doc_to_choice"]]]
                arguments = {f"gen_args_{i}": {"arg_0": prompt, "arg_1": text} for i, text in enumerate(texts)}
                resps = [[[str(score), "False"]] for score in answer]
                filtered = [[str(score), "False"] for score in answer]
            lines.append(
                {"doc_id": number, "doc": doc, "target": doc[task["doc_to_target"]], "arguments": arguments}
                | {"resps": resps, "filtered_resps": filtered, "filter": "none", "metrics": ["acc"], "acc": 0.0}
            )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"samples_{task['task']}_2026-01-02T03-04-05.678901.jsonl").write_text(text)
    return folder


def test_there_and_back(tmp_path: Path) -> None:
    rows = [
        row("a", prediction="label: bad", parsed=[["bad"]], correct=False),
        row("a", instruction_id="tc/1"),
        row("b", condition="unseen+typos@0.2", prediction="nothing to read", parsed=None, correct=False),
        chosen("c"),
        chosen("d", option_scores=[-0.25, -3.0], prediction="label: bad", parsed=[["bad"]], correct=False),
        row("e", dataset="set/a"),
    ]
    files = task_files(rows, "mine", max_new_tokens=7)
    # two datasets that are called alike in file names, and one that has both kinds of answers
    names = ["mine_set-a_clean-2", "mine_set-a_clean", "mine_set-a_clean_options", "mine_set-a_unseen-typos-0.2"]
    assert sorted(path for path in files if path.endswith("yaml")) == sorted(f"{name}.yaml" for name in names)
    task = yaml.load(files["mine_set-a_clean.yaml"], Task)
    assert task["tag"] == "mine"
    assert task["generation_kwargs"] == {"until": [], "do_sample": False, "max_gen_toks": 7}
    assert task["target_delimiter"] == " "
    options = yaml.load(files["mine_set-a_clean_options.yaml"], Task)
    assert options["output_type"] == "multiple_choice"
    assert [m["metric"] for m in options["metric_list"]] == ["acc", "acc_norm"]
    assert json.loads(files["rows/mine_set-a_clean_options.jsonl"].splitlines()[0])["answer"] == 1

    answers = {one.cell: one.option_scores or one.prediction for one in rows}
    back = table_rows(logged(tmp_path, files, answers))
    expected = {one.key: replace(one, option_tokens=None) for one in rows}
    assert {one.key: one for one in back} == expected


@pytest.mark.parametrize(
    ("prompt", "delimiter"),
    [("Answer:", " "), ("### Response:\n", ""), ("<|im_start|>assistant\n", ""), ("<assistant>", ""), ("so", " ")],
)
def test_what_stands_before_an_option(prompt: str, delimiter: str) -> None:
    files = task_files([chosen("a", prompt=prompt)])
    assert yaml.load(files["robustlm_set-a_clean.yaml"], Task)["target_delimiter"] == delimiter
    files = task_files([chosen("a", prompt=prompt)], delimiter="\n")
    assert yaml.load(files["robustlm_set-a_clean.yaml"], Task)["target_delimiter"] == "\n"


def sample(number: int, **more: Any) -> dict[str, Any]:
    found = {
        "doc_id": number, "doc": {"q": "6 × 7?"}, "target": "42", "arguments": {"gen_args_0": {"arg_0": "Q: 6 × 7?"}},
        "resps": [["It is 42."]], "filtered_resps": ["42"], "filter": "number", "metrics": ["exact_match"],
        "exact_match": 1.0,
    }  # fmt: skip
    return found | more


def written(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_tasks_of_the_harness_itself(tmp_path: Path) -> None:
    """A generation task with two filters, and multiple choice with numbers for targets."""
    both = [sample(0), sample(0, filter="raw", filtered_resps=["It is 42."], exact_match=0.0)]
    both += [sample(1, filtered_resps=["41"], exact_match=0.0)]
    written(tmp_path / "model" / "samples_sums_2026-01-02T03-04-05.678901.jsonl", both)
    choice = {
        "target": 1, "resps": [[[-3.0, False]], [[-1.0, True]]], "filtered_resps": [[-3.0, False], [-1.0, True]],
        "arguments": [["Q", " no"], ["Q", " yes"]], "metrics": ["acc", "acc_norm"], "acc": 1.0, "acc_norm": 0.0,
    }  # fmt: skip
    written(tmp_path / "samples_boolq.jsonl", [sample(3, **choice, filter="none")])
    found = {one.cell: one for one in table_rows(tmp_path, "zero-shot")}
    assert len(found) == 3
    first = found["zero-shot", "sums", "0", "own"]
    assert (first["prediction"], first["target"], first["correct"]) == ("42", "42", True)
    assert first["prompt"] == "Q: 6 × 7?"
    assert not found["zero-shot", "sums", "1", "own"]["correct"]
    third = found["zero-shot", "boolq", "3", "own"]
    assert (third["prediction"], third["target"], third["choices"]) == ("yes", "yes", ["no", "yes"])
    assert third["option_scores"] == [-3.0, -1.0]
    raw = table_rows(tmp_path / "model", answers="raw")
    assert [(one["prediction"], one["correct"]) for one in raw] == [("It is 42.", False)]
    run(["import-harness", str(tmp_path), str(tmp_path / "out")])
    run(["report", str(tmp_path / "out"), "--draws", "10"])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('{"doc_id": 1}', "samples_x.jsonl:1: found no doc, target, resps, filtered_resps"),
        ("[1]", "samples_x.jsonl:1: found a list"),
        ("{", "samples_x.jsonl:1: found no JSON"),
        (json.dumps(sample(0, metrics=["bleu"], bleu=0.3)), "samples_x.jsonl:1: found no metric that says right"),
        (f"{json.dumps(sample(0))}\n\n{json.dumps(sample(0))}", "samples_x.jsonl:3: sample '0' was found before"),
        ("", "samples_x.jsonl: found no samples"),
    ],
)
def test_what_are_no_samples(lines: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "samples_x.jsonl").write_text(lines)
    with pytest.raises(SystemExit):
        main(["import-harness", str(tmp_path), str(tmp_path / "out")])
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_input_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(tmp_path / "predictions.parquet", [row("a", prompt=None)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.yaml").write_text("task: old")
    (tmp_path / "empty").mkdir()
    for args, expected in [
        (["export-harness", str(tmp_path), str(tmp_path / "full")], "expected a new or an empty folder"),
        (["export-harness", str(tmp_path), str(tmp_path / "o")], "sample 'a' has no prompt"),
        (["export-harness", str(tmp_path), str(tmp_path / "o"), "--conditions", "[x]"], "conditions: found 'x'"),
        (["export-harness", str(tmp_path), str(tmp_path / "o"), "--name", "a b"], "name: found 'a b'"),
        (["import-harness", str(tmp_path / "no"), str(tmp_path / "o")], "does not exist"),
        (["import-harness", str(tmp_path / "empty"), str(tmp_path / "o")], "found no samples_*.jsonl"),
        (["import-harness", str(tmp_path), str(tmp_path / "predictions.parquet")], "is a file; expected a folder"),
        (["import-harness", str(tmp_path), str(tmp_path)], "exists already; expected a folder without a table"),
    ]:
        with pytest.raises(SystemExit):
            main(args)
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "o").exists()


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval")
def test_the_harness_gives_the_answers_of_the_run(tmp_path: Path) -> None:
    """Not a simulated one: both ask the same model."""
    source = '[{path: "builtin:quickstart", limit: 12}]'
    args = ["--data.test", source, "--data.samples", "2", "--data.prompts", "2", "--data.conditions", "[clean]"]
    args += ["--model.backbone", "builtin:tiny", "--trainer.default_root_dir", str(tmp_path / "run")]
    run(["test", "-c", "robustness", *args])
    table = tmp_path / "run" / "version_0"
    run(["export-harness", str(table), str(tmp_path / "tasks"), "--max_new_tokens", "32"])
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "8"]
    command += ["--model_args", f"pretrained={tiny_model()},dtype=float32", "--include_path", str(tmp_path / "tasks")]
    command += ["--tasks", "robustlm", "--log_samples", "--output_path", str(tmp_path / "results")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **offline})
    run(["import-harness", str(tmp_path / "results"), str(tmp_path / "back")])
    ours, theirs = (read_table(folder / "predictions.parquet") for folder in (table, tmp_path / "back"))
    assert ours == theirs
