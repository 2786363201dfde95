"""Logs of other programs, in the form in which they are published, become prediction tables, and go back."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import robustness
from robustlm.evaluation.table import read_table
from robustlm.report.every_eval_results import SCHEMA_VERSION, Evaluation, to_results
from robustlm.report.imports import read_logs
from tests.report.test_number_tables import written

TEMPLATE = "Answer the question. Format: 'ANSWER: $LETTER'.\n\n{question}\n\n{choices}"


def inspect_log(template: str = TEMPLATE, **sample: Any) -> dict[str, Any]:
    """A log of Inspect 0.3, with the fields that it has in published logs."""

    def one(name: str, said: str, value: Any) -> dict[str, Any]:
        asked = f"Is {name} a cat?"
        message = {"content": said, "role": "assistant", "source": "generate"}
        return {
            "id": name, "epoch": 1, "input": asked, "choices": ["yes", "no"], "target": "A",
            "messages": [{"content": f"attachment://{name}", "source": "input", "role": "user"}, message],
            "output": {"model": "m", "choices": [{"message": message, "stop_reason": "stop"}], "usage": {}},
            "scores": {"choice": {"value": value, "answer": said[-1:], "explanation": said}}, "metadata": {},
            "attachments": {name: f"Answer the question.\n{asked}"},
        }  # fmt: skip

    return {
        "version": 2, "status": "success",
        "eval": {"task": "inspect_evals/cats", "model": "openai/m", "dataset": {"name": "cats"}},
        "plan": {"name": "plan", "steps": [{"solver": "multiple_choice", "params": {"template": template}}]},
        "samples": [
            one("tom", "ANSWER: A", "C"), one("rex", "ANSWER: B", "I") | sample,
        ],
    }  # fmt: skip


def as_json(folder: Path, log: Any, name: str = "log.json") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(log), encoding="utf-8")
    return str(folder / name)


def as_eval(folder: Path, log: dict[str, Any]) -> str:
    """The same as an archive, with a file for each sample."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "log.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({key: value for key, value in log.items() if key != "samples"}))
        for one in log["samples"]:
            archive.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
    return str(folder / "log.eval")


def test_inspect(tmp_path: Path) -> None:
    found = read_logs("inspect", [as_json(tmp_path, inspect_log())])
    assert found.notes == []
    first, second = found.rows
    assert first == Record(
        "tom", "cats", "generation", "clean", first.instruction_id, "ANSWER: A", [["A"]], "A", True,
        choices=["yes", "no"], prompt="Answer the question.\nIs tom a cat?", wording=TEMPLATE, instruction=TEMPLATE,
        finish_reason="stop",
    )  # fmt: skip
    assert first.instruction_id.startswith("text/")
    assert (second.correct, second.parsed) == (False, [["B"]])
    archived = read_logs("inspect", [as_eval(tmp_path / "a", inspect_log())])
    assert {row.key: row for row in archived.rows} == {row.key: row for row in found.rows}


def with_epochs(count: int, template: str = TEMPLATE) -> dict[str, Any]:
    """A log with several epochs, as Inspect writes it: epoch by epoch, each sample with its number."""
    log = inspect_log(template)
    once = log["samples"]
    log["samples"] = [copy.deepcopy(one) | {"epoch": epoch} for epoch in range(1, count + 1) for one in once]
    log["eval"]["config"] = {"epochs": count, "epochs_reducer": ["mean"]}
    return log


def test_epochs_of_inspect_are_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = with_epochs(3)
    changed = log["samples"][3]["scores"]["choice"]  # rex is right in the second epoch
    changed["value"] = "C"
    found = read_logs("inspect", [as_json(tmp_path / "j", log)])
    assert found.notes == ["the 3 epochs of each sample are draws of its answer"]
    assert [(row.sample_id, row.draw, row.correct) for row in found.rows] == [
        ("tom", 0, True), ("rex", 0, False), ("tom", 1, True), ("rex", 1, True), ("tom", 2, True), ("rex", 2, False),
    ]  # fmt: skip
    archive = as_eval(tmp_path / "a", log)
    assert {row.key: row for row in read_logs("inspect", [archive]).rows} == {row.key: row for row in found.rows}
    main(["import", "inspect", archive, "--output", str(tmp_path / "out")])
    main(["report", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "the 3 epochs of each sample are draws" in said
    assert "Each question has 3 drawn answers" in said


def test_epochs_of_one_sample_may_be_in_several_logs(tmp_path: Path) -> None:
    log = with_epochs(2)
    halves = [log | {"samples": [one for one in log["samples"] if one["epoch"] == epoch]} for epoch in (1, 2)]
    paths = [as_json(tmp_path / str(at), half) for at, half in enumerate(halves)]
    assert {row.draw for row in read_logs("inspect", paths).rows} == {0, 1}
    assert {row.draw for row in read_logs("inspect", paths[1:]).rows} == {None}
    with pytest.raises(ValueError, match="was found before"):
        read_logs("inspect", [*paths, paths[1]])


def test_samples_with_other_epochs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = with_epochs(2)
    log["samples"].pop()
    message = r"found epochs 1 of sample 'rex' \(dataset 'cats', .*\), and found epochs 1, 2 of sample 'tom'"
    path = as_json(tmp_path / "uneven", log)
    with pytest.raises(ValueError, match=message):
        read_logs("inspect", [path])
    one, two = as_json(tmp_path / "one", inspect_log()), as_json(tmp_path / "two", with_epochs(2))
    with pytest.raises(ValueError, match=r"epochs 1, 2 .* condition 'typos', .* found epochs 1 of sample 'tom'"):
        read_logs("inspect", [one, f"typos={two}"])
    with pytest.raises(SystemExit):
        main(["import", "inspect", path, "--output", str(tmp_path / "out")])
    assert "expected the same epochs of every sample" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_logs_under_several_conditions_and_templates_are_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, other = (as_json(tmp_path / name, inspect_log(text)) for name, text in (("c", TEMPLATE), ("o", "Say it.")))
    noisy = as_json(tmp_path / "n", inspect_log("Asnwer the question."))
    main(["import", "inspect", clean, other, f"typos={noisy}", "--output", str(tmp_path / "out")])
    assert "6 answers" in capsys.readouterr().out
    rows = read_table(tmp_path / "out" / "predictions.parquet")
    assert {(row.condition, row.wording) for row in rows} == {
        ("clean", TEMPLATE), ("clean", "Say it."), ("typos", "Asnwer the question."),
    }  # fmt: skip
    for command in (["report"], ["compare"], ["gate"]):
        rules = ["mean >= 0", "--by", "value"] if command == ["gate"] else []
        main([*command, str(tmp_path / "out"), *rules])
    assert "Say it." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["import", "inspect", clean, clean, "--output", str(tmp_path / "twice")])
    assert "was found before" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


def helm_run(folder: Path, method: str = "multiple_choice_joint", **more: Any) -> Path:
    """A run of HELM, with the fields that it has in published runs; its second instance is also perturbed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = {"name": "misspelling", "robustness": True, "fairness": False, "computed_on": "perturbed", "prob": 0.1}

    def request(name: str, said: str, perturbation: Any = None) -> dict[str, Any]:
        instance: dict[str, Any] = {
            "input": {"text": f"Is {name} a cat?"}, "split": "test", "id": name,
            "references": [{"output": {"text": "yes"}, "tags": ["correct"]}, {"output": {"text": "no"}, "tags": []}],
        }  # fmt: skip
        return {
            "instance": instance | ({"perturbation": perturbation} if perturbation else {}), "train_trial_index": 0,
            "output_mapping": {"A": "yes", "B": "no"}, "request": {"prompt": f"Say A or B.\n\n{name}\nAnswer:"},
            "result": {"success": True, "completions": [{"text": said, "logprob": 0.0, "tokens": []}]},
        } | more  # fmt: skip

    def stats(name: str, value: float, perturbation: Any = None) -> dict[str, Any]:
        names = {"num_references": 2.0, "exact_match": value, "quasi_exact_match": value}
        found = [{"name": {"name": key, "split": "test"}, "count": 1, "mean": mean} for key, mean in names.items()]
        empty = {"name": {"name": "training_co2_cost", "split": "test"}, "count": 0, "sum": 0}
        entry = {"instance_id": name, "train_trial_index": 0, "stats": [empty, *found]}
        return entry | ({"perturbation": perturbation} if perturbation else {})

    as_json(folder, {"name": "mmlu:subject=cats,method=joint,model=openai_gpt2"}, "run_spec.json")
    state = {
        "adapter_spec": {"method": method, "instructions": "Say A or B.\n"},
        "request_states": [request("id1", " A"), request("id2", " B"), request("id2", " A", changed)],
    }
    as_json(folder, state, "scenario_state.json")
    as_json(folder, [stats("id1", 1), stats("id2", 0), stats("id2", 1, changed)], "per_instance_stats.json")
    return folder


def test_helm(tmp_path: Path) -> None:
    run = helm_run(tmp_path / "runs" / "mmlu:subject=cats,model=openai_gpt2")
    for path in (run, tmp_path):
        found = read_logs("helm", [str(path)])
        assert found.notes == ["3 answers are right or wrong by HELM's exact_match"]
        first, second, third = found.rows
        assert first == Record(
            "id1", "mmlu:subject=cats,method=joint", "generation", "clean", first.instruction_id, "A", [["A"]], "A",
            True, choices=["A", "B"], prompt="Say A or B.\n\nid1\nAnswer:", wording="Say A or B.",
            instruction="Say A or B.",
        )  # fmt: skip
        assert (second.condition, second.correct) == ("clean", False)
        assert (third.sample_id, third.condition, third.correct) == ("id2", "misspelling(prob=0.1)", True)
    assert read_logs("helm", [str(run)], metric="quasi_exact_match").rows == found.rows


CHOICES = {"choices": ["a", "b"], "option_scores": [-0.5, -2.0], "option_tokens": [1, 2]}


def ours() -> list[Record]:
    """A table with every kind of column."""
    return [
        Record("s1", "d", "generation", "clean", "b/0", "a", [["a"]], "a", True, prompt="Say a.\nx", token_f1=1.0,
               rouge_l=0.5, wording="Say a.", instruction="Say a."),
        Record("s1", "d", "generation", "typos@0.2", "b/0", "=b;\n\"c\"", None, "a", False, prompt="Asy a.\nx",
               wording="Say a.", instruction="Asy a."),
        Record("s2", "e", "tc", "clean", "own", "label: a", [["a"]], "label: a", True),
        Record("s3", "f", "generation", "clean", "", "", None, "a", False),
        Record("s4", "g", "choice", "clean", "c/0", "a", [["a"]], "a", True, **CHOICES),  # type: ignore[arg-type]
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["every-eval-ever", "csv"])
def test_there_and_back(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = written(tmp_path / "run", ours()), tmp_path / "answers.jsonl"
    main(["export", form, run, str(file)])
    main(["import", form, str(file), "--output", str(tmp_path / "back")])
    assert read_table(tmp_path / "back" / "predictions.parquet") == read_table(tmp_path / "run" / "predictions.parquet")


def test_what_is_exported_has_the_fields_that_the_schema_requires(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    main(["export", "every-eval-ever", written(tmp_path / "run", ours()), str(file), "--model", "me/it"])
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        assert set(line) == {
            "schema_version", "evaluation_id", "model_id", "evaluation_name", "evaluation_result_id", "sample_id",
            "sample_hash",
            "interaction_type", "input", "output", "messages", "answer_attribution", "evaluation", "metadata",
        }  # fmt: skip
        assert (line["schema_version"], line["model_id"]) == (SCHEMA_VERSION, "me/it")
        assert {type(value) for value in line["metadata"].values()} == {str}
        assert set(line["input"]) == {"raw", "formatted", "reference", "choices"}
        assert set(line["evaluation"]) == {"score", "is_correct"}
    assert [line["evaluation"]["is_correct"] for line in lines].count(True) == 3


def exported(tmp_path: Path) -> tuple[Path, Path]:
    """The two files of an export into a folder."""
    run = tmp_path / "run"
    if not run.exists():
        written(run, ours())
    main(["export", "every-eval-ever", str(run), str(tmp_path / "out"), "--model", "me/it", "--organization", "Ours",
          "--relationship", "first_party"])  # fmt: skip
    (results,) = (tmp_path / "out" / "data" / "run" / "me" / "it").glob("*.json")
    return results.with_name(f"{results.stem}_samples.jsonl"), results


def test_the_results_have_what_the_schema_requires_and_are_those_of_the_report(tmp_path: Path) -> None:
    answers, file = exported(tmp_path)
    results = json.loads(file.read_text(encoding="utf-8"))
    assert set(results) >= {
        "schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info", "eval_library",
        "evaluation_results",
    }  # fmt: skip
    assert results["schema_version"] == SCHEMA_VERSION
    assert {"source_type", "source_organization_name", "evaluator_relationship"} <= set(results["source_metadata"])
    assert results["model_info"]["id"] == "me/it"
    assert set(results["model_info"]["additional_details"]) == {"deployment_type", "model_availability"}
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    by_id = {one["evaluation_result_id"]: one for one in results["evaluation_results"]}
    assert len(by_id) == len(results["evaluation_results"])
    for line in lines:
        one = by_id[line["evaluation_result_id"]]
        assert (line["evaluation_id"], line["model_id"]) == (results["evaluation_id"], "me/it")
        assert line["evaluation_name"] == one["evaluation_name"]
        assert one["metric_config"]["metric_id"] == "accuracy"
    for one in by_id.values():
        least, most = (float(one["metric_config"][name]) for name in ("min_score", "max_score"))
        assert least <= one["score_details"]["score"] <= most
        assert isinstance(one["metric_config"]["lower_is_better"], bool)
    own = {(one.name, one.condition): one.numbers for one in robustness(ours()) if one.name}
    clean = by_id["d/generation/clean/accuracy"]["score_details"]
    mean = own["d", "clean"]["mean"]
    interval = clean["uncertainty"]["confidence_interval"]
    assert (clean["score"], interval["lower"], interval["upper"]) == (mean.value, mean.low, mean.high)
    drop = by_id["d/generation/typos@0.2/robustlm.pdr"]
    assert drop["score_details"]["score"] == own["d", "typos@0.2"]["pdr"].value
    assert drop["metric_config"]["lower_is_better"] is True
    detail = results["detailed_evaluation_results"]
    assert detail["file_path"] == str(answers.relative_to(tmp_path / "out"))
    assert re.fullmatch(r"data/run/me/it/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}_samples"
                        r"\.jsonl", detail["file_path"])  # fmt: skip
    assert detail["total_rows"] == len(lines)
    assert hashlib.sha256(answers.read_bytes()).hexdigest() == detail["checksum"]
    again = {path: path.read_bytes() for path in (answers, file)}
    exported(tmp_path)
    assert {path: path.read_bytes() for path in again} == again  # the same table gives the same files


def test_both_files_of_every_eval_ever_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers, results = exported(tmp_path)
    table = read_table(tmp_path / "run" / "predictions.parquet")
    for place in (tmp_path / "out", results, answers):
        found = read_logs("every-eval-ever", [str(place)])
        assert sorted(found.rows, key=lambda row: row.key) == sorted(table, key=lambda row: row.key)
        assert found.notes == []
    text = answers.read_text(encoding="utf-8")
    answers.write_text(text.replace("Say a", "Say b"), encoding="utf-8")
    assert "the checksum differs" in read_logs("every-eval-ever", [str(results)]).notes[0]
    answers.write_text(text.partition("\n")[0] + "\n", encoding="utf-8")
    assert "holds 1 answers" in read_logs("every-eval-ever", [str(results)]).notes[0]
    answers.unlink()
    with pytest.raises(ValueError, match="beside it; expected the answers, since results are no table"):
        read_logs("every-eval-ever", [str(results)])
    beside = tmp_path / "mine_samples.jsonl"
    main(["export", "every-eval-ever", str(tmp_path / "run"), str(beside)])
    assert f"results: {tmp_path / 'mine.json'}" in capsys.readouterr().out
    assert "detailed_evaluation_results" not in json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))
    assert len(read_logs("every-eval-ever", [str(tmp_path / "mine.json")]).rows) == len(table)


def test_a_low_score_is_better_under_misleading_instructions(tmp_path: Path) -> None:
    rows = [replace(row, condition="incorrect") if row.condition != "clean" else row for row in ours()]
    found = json.loads(to_results(rows, Evaluation("run", "it"), ""))
    lower = {
        one["evaluation_result_id"]: one["metric_config"]["lower_is_better"] for one in found["evaluation_results"]
    }
    assert lower["d/generation/clean/accuracy"] is lower["d/generation/incorrect/robustlm.pdr"] is False
    assert lower["d/generation/incorrect/accuracy"] is True


def test_lines_of_other_programs_in_the_schema(tmp_path: Path) -> None:
    def line(sample: str, result: str, correct: bool) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION, "evaluation_id": "x", "model_id": "m", "evaluation_name": "mmlu",
            "evaluation_result_id": result, "sample_id": sample, "interaction_type": "single_turn",
            "input": {"raw": f"Q {sample}", "reference": ["A"], "choices": ["A", "B"]},
            "output": {"raw": ["It is A"]}, "messages": None,
            "answer_attribution": [{"turn_idx": 0, "source": "output.raw", "extracted_value": "A",
                                    "extraction_method": "regex", "is_terminal": True}],
            "evaluation": {"score": float(correct), "is_correct": correct}, "metadata": {"subject": "cats"},
        }  # fmt: skip

    lines = [line("1", "em", True), line("1", "f1", False), line("2", "em", False)]
    file = tmp_path / "x_samples.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    found = read_logs("every-eval-ever", [str(tmp_path)], condition="mine")
    assert found.notes == ["1 lines with other results of the same answers are left out"]
    assert found.rows[0] == Record(
        "1", "mmlu", "generation", "mine", "own", "It is A", [["A"]], "A", True, choices=["A", "B"], prompt="Q 1"
    )
    assert [row.correct for row in read_logs("every-eval-ever", [str(file)], metric="f1").rows] == [False]


def test_csv_of_another_program(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("id,answer,gold,note\n1,a,a,x\n2,,b,y\n", encoding="utf-8")
    columns = ["sample_id=id", "prediction=answer", "target=gold"]
    found = read_logs("csv", [str(file)], columns=columns)
    assert [(row.sample_id, row.dataset, row.correct, row.parsed) for row in found.rows] == [
        ("1", "mine", True, [["a"]]), ("2", "mine", False, None),
    ]  # fmt: skip
    assert "note" in found.notes[0]
    file.write_text("sample_id,prediction,target,judge\n1,a,b,1\n", encoding="utf-8")
    assert read_logs("csv", [str(file)], metric="judge").rows[0].correct is True


def _changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    log = inspect_log()
    change(log)
    return log


WRONG: dict[str, tuple[str, Any, str]] = {
    "no log": ("inspect", {"a": 1}, "found no 'samples'"),
    "no samples": ("inspect", _changed(lambda log: log["samples"].clear()), "found no samples"),
    "no scores": ("inspect", inspect_log(scores={}), "sample 2: found no scores; expected a log that was scored"),
    "no epoch": ("inspect", inspect_log(epoch=0), "sample 2: epoch: found 0; expected a whole number, at least 1"),
    "a score between": (
        "inspect",
        inspect_log(scores={"choice": {"value": 0.5}}),
        "found 0.5; expected 0 or 1",
    ),
    "no answer": ("every-eval-ever", {"evaluation_name": "x"}, "log.json:1: found no 'input'"),
    "another column": ("csv", "sample_id,prediction\n1,a\n", "found no column 'target' for target"),
    "a short line": ("csv", "sample_id,prediction,target\n1,a\n", r"log.json:2: found another number of cells"),
    "a verdict": ("csv", "sample_id,prediction,target,correct\n1,a,a,perhaps\n", "correct: found 'perhaps'"),
    "no JSON": ("inspect", "{", "found no JSON"),
    "another format": ("openai", {}, "format: found 'openai'; expected one of harness, inspect, helm"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_log_is_said(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    form, content, message = WRONG[case]
    file = tmp_path / "log.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_logs(form, [str(file)])
    with pytest.raises(SystemExit):
        main(["import", form, str(file), "--output", str(tmp_path / "out")])
    assert "error" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def separate_run(folder: Path, options: int = 2) -> Path:
    """A run of HELM with one request for each option; the second instance is a tie, and the third is perturbed."""
    helm_run(folder, "multiple_choice_separate_original")
    state = json.loads((folder / "scenario_state.json").read_text())
    stats = json.loads((folder / "per_instance_stats.json").read_text())
    requests = []
    for one in state["request_states"]:
        one.pop("output_mapping")
        for index, text in list(enumerate(("yes", "no")))[:options]:
            prompt = f"Say yes or no.\n\n{one['instance']['id']}\nAnswer: {text}"
            result = {"success": True, "completions": [{"text": prompt, "tokens": []}], "request_time": 0.5}
            own = {"reference_index": index, "request_mode": "original", "request": {"prompt": prompt}}
            requests.append({**one, **own, "result": result})
    for entry, exact, chosen in zip(stats, (1, 0.5, 0), (0, 0, 1), strict=True):
        names = {"exact_match": exact, "predicted_index": chosen}
        entry["stats"] = [{"name": {"name": name, "split": "test"}, "mean": mean} for name, mean in names.items()]
    as_json(folder, {**state, "request_states": requests}, "scenario_state.json")
    as_json(folder, stats, "per_instance_stats.json")
    return folder


def test_helm_with_one_request_for_each_option(tmp_path: Path) -> None:
    found = read_logs("helm", [str(separate_run(tmp_path / "run"))])
    assert found.notes == ["3 answers are right or wrong by HELM's predicted_index"]
    first, tie, changed = found.rows
    assert (first.sample_id, first.prediction, first.target, first.correct) == ("id1", "yes", "yes", True)
    assert (first.choices, first.prompt, first.latency) == (["yes", "no"], "Say yes or no.\n\nid1\nAnswer:", 1.0)
    assert (tie.sample_id, tie.prediction, tie.correct) == ("id2", "yes", True)
    assert (changed.condition, changed.prediction, changed.correct) == ("misspelling(prob=0.1)", "no", False)
    assert read_logs("helm", [str(tmp_path)], metric="exact_match").rows == found.rows


def test_helm_runs_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no scenario_state"):
        read_logs("helm", [str(tmp_path)])
    run = helm_run(tmp_path / "separate", "multiple_choice_separate_original", reference_index=0)
    with pytest.raises(ValueError, match=r"found predicted_index None .*expected the number of one of its 2 ref"):
        read_logs("helm", [str(run)])
    run = separate_run(tmp_path / "part", options=1)
    with pytest.raises(ValueError, match="instance 'id1' has no request for reference 1; expected one for each"):
        read_logs("helm", [str(run)])
    with pytest.raises(ValueError, match=r"one request for each option .* and the metric 'bleu'; expected exact"):
        read_logs("helm", [str(separate_run(tmp_path / "whole"))], metric="bleu")
    with pytest.raises(ValueError, match="found none of the metrics bleu; expected one of exact_match"):
        read_logs("helm", [str(helm_run(tmp_path / "run"))], metric="bleu")
    for setting, value in (
        ("metric", {"metric": "acc"}),
        ("columns", {"columns": ["a=b"]}),
        ("filter", {"answers": "x"}),
    ):
        name = "harness" if setting == "metric" else "helm"
        with pytest.raises(ValueError, match=f"{setting}: found"):
            read_logs(name, [str(run)], **value)


def test_words_of_instructions_come_back_from_the_harness() -> None:
    from robustlm.report.harness import task_files

    (row, *_) = ours()
    files = task_files([row, replace(row, sample_id="s9", wording=None, instruction=None)])
    docs = [json.loads(line) for name, text in files.items() if name.startswith("rows/") for line in text.splitlines()]
    assert [doc.get("wording") for doc in docs] == ["Say a.", None]


def test_errors_ends_tokens_and_times_of_logs(tmp_path: Path) -> None:
    """Each format names them in its own way; an answer with an error is none, and wrong."""

    def came(row: Record) -> tuple[object, ...]:
        return row.error, row.finish_reason, row.prompt_tokens, row.answer_tokens, row.latency, row.parsed, row.correct

    usage = {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15}
    message = {"content": "ANSWER: A", "role": "assistant"}
    output = {"choices": [{"message": message, "stop_reason": "max_tokens"}], "usage": usage, "time": 0.5}
    log = as_json(tmp_path / "i", inspect_log(output=output))
    assert came(read_logs("inspect", [log]).rows[1])[:5] == (None, "length", 12, 3, 0.5)
    failed: dict[str, Any] = {"output": output, "scores": None, "error": {"message": "HTTP 500", "traceback": "…"}}
    log = as_json(tmp_path / "j", inspect_log(**failed))
    assert came(read_logs("inspect", [log]).rows[1]) == ("HTTP 500", "length", 12, 3, 0.5, None, False)
    log = as_json(tmp_path / "k", inspect_log(output={**output, "usage": {"input_tokens": -1}}))
    with pytest.raises(ValueError, match="sample 2: input: found -1; expected a number of tokens or seconds"):
        read_logs("inspect", [log])

    ended = {"text": " A", "finish_reason": {"reason": "endoftext"}}
    run = helm_run(tmp_path / "h", result={"success": True, "completions": [ended], "request_time": 2.5})
    stats = json.loads((run / "per_instance_stats.json").read_text())
    for entry in stats:
        for name, mean in {"num_prompt_tokens": 20.0, "num_output_tokens": 2.0}.items():
            entry["stats"].append({"name": {"name": name, "split": "test"}, "count": 1, "mean": mean})
    as_json(run, stats, "per_instance_stats.json")
    assert came(read_logs("helm", [str(run)]).rows[0]) == (None, "stop", 20, 2, 2.5, [["A"]], True)
    run = helm_run(tmp_path / "f", result={"success": False, "completions": [], "error": "filtered"})
    assert came(read_logs("helm", [str(run)]).rows[0]) == ("filtered", None, None, None, None, None, False)

    line = {
        "schema_version": SCHEMA_VERSION, "evaluation_id": "x", "model_id": "m", "evaluation_name": "mmlu",
        "sample_id": "1", "interaction_type": "single_turn", "input": {"raw": "Q", "reference": ["A"]},
        "output": {"raw": []}, "answer_attribution": [], "evaluation": {"score": 0.0, "is_correct": False},
        "token_usage": usage, "performance": {"latency_ms": 250}, "error": "timeout",
    }  # fmt: skip
    file = as_json(tmp_path / "e", line, "x_samples.jsonl")
    assert came(read_logs("every-eval-ever", [file]).rows[0]) == ("timeout", None, 12, 3, 0.25, None, False)


def test_tokens_and_times_of_our_answers_are_fields_of_the_schema(tmp_path: Path) -> None:
    spent: dict[str, Any] = {"finish_reason": "stop", "prompt_tokens": 7, "answer_tokens": 2, "latency": 0.5}
    rows = [replace(row, **spent) for row in ours()[:1]]
    lost: dict[str, Any] = {"prediction": "", "parsed": None, "correct": False, "error": "HTTP 500"}
    rows += [replace(row, **lost) for row in ours()[1:2]]
    run, file = written(tmp_path / "run", rows), tmp_path / "answers.jsonl"
    main(["export", "every-eval-ever", run, str(file)])
    first, second = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert first["token_usage"] == {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    assert (first["performance"], second["error"]) == ({"latency_ms": 500.0}, "HTTP 500")
    main(["import", "every-eval-ever", str(file), "--output", str(tmp_path / "back")])
    assert read_table(tmp_path / "back" / "predictions.parquet") == read_table(tmp_path / "run" / "predictions.parquet")
