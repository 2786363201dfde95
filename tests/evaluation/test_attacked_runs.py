"""Attacks through the command line: found on the model under test, written down, gone on with, and reused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from robustlm.batch import InstructionBatch
from robustlm.callbacks.predictions import PredictionWriter
from robustlm.cli import main
from robustlm.conditions.manifest import attack_key, read_attacks
from robustlm.conditions.recipes import Attack
from robustlm.datamodules import RobustnessDataModule, attacking
from robustlm.datamodules.attacking import Attacks
from robustlm.evaluation.session import ATTACKS
from robustlm.evaluation.table import TableWriter, read_parts, read_table
from robustlm.modules import InstructionTuning
from robustlm.noise.base import word_budget
from tests.endpoint import SECRET, LocalEndpoint
from tests.evaluation.two_attacks import results, results_of_rank
from tests.processes import side_by_side
from tests.tiny import trainer, write_rows

CONDITION = "attack:deepwordbug@0.2"
KNOWN = "describes"
"""A word of an instruction that the hosted model depends on."""
QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
SEARCH = ("--data.attack.samples=3", "--data.attack.budget=16", "--data.attack.candidates=4")


def arguments(folder: Path, *more: str, conditions: str = f"clean,{CONDITION}", command: str = "test") -> list[str]:
    return [
        command, "-c", "robustness", "--model.backbone=builtin:tiny",
        "--data.test=[{path: builtin:quickstart, limit: 12}]", "--data.prompts=1", "--data.samples=4",
        f"--data.conditions=[{conditions}]", "--data.eval_batch_size=8", f"--trainer.default_root_dir={folder}",
        *QUIET, *SEARCH, *more,
    ]  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ATTACKS).read_text(encoding="utf-8").splitlines()]


def table(folder: Path) -> list[dict[str, Any]]:
    return read_table(folder / "predictions.parquet")


def right(rows: Sequence[dict[str, Any]], condition: str) -> float:
    own = [row["correct"] for row in rows if row["condition"] == condition]
    return sum(own) / len(own)


class Dies(Callback):
    """Ends a test after a few batches, as a full disk does."""

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        if (loader, index) == (1, 1):
            raise OSError("no space left")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a test of the shipped model; do not write there."""
    folder = tmp_path_factory.mktemp("whole")
    main(arguments(folder))
    return folder / "version_0"


def test_the_attack_hurts_and_is_written_down(whole: Path) -> None:
    rows, attacks = table(whole), lines(whole)
    assert right(rows, CONDITION) < right(rows, "clean") - 0.3
    asked = {(row["dataset"], row["instruction_id"]) for row in rows}
    assert sorted((one["dataset"], one["instruction_id"]) for one in attacks) == sorted(asked)
    ids = {row["sample_id"] for row in rows}
    for one in attacks:
        words = one["before"].split()
        assert len(one["edits"]) <= word_budget(len(words), 0.2)
        for edit in one["edits"]:
            assert words[edit["position"]] == edit["before"]
            words[edit["position"]] = edit["after"]
        assert " ".join(words) == one["after"]
        assert one["queries"] <= 16
        assert one["rows"] >= one["queries"] * len(one["samples"])
        assert one["search"] == "bayesian"
        assert one["right_before"] - one["right_after"] <= one["succeeded"] <= one["right_before"]
        assert 1 <= len(set(one["samples"]) & ids) == len(one["samples"]) <= 3
        assert one["score_after"] <= one["score_before"]
        assert one["right_after"] <= 3
        own = [row for row in rows if row["condition"] == "clean" and row["sample_id"] in one["samples"]]
        assert sum(row["correct"] for row in own) == one["right_before"]
        own = [row for row in rows if row["condition"] == CONDITION and row["sample_id"] in one["samples"]]
        assert sum(row["correct"] for row in own) == one["right_after"]
        same = [row for row in rows if row["condition"] == CONDITION and row["instruction_id"] == one["instruction_id"]]
        asked = {(row["wording"], row["instruction"]) for row in same if row["dataset"] == one["dataset"]}
        assert asked == {(one["before"], one["after"])}, "the table says what was asked, and what it was before"


def test_it_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(tmp_path, conditions="unseen+attack:textfooler@0.1"))
    said = capsys.readouterr().out
    assert said.count("unseen+attack:textfooler@0.1 of ") == 6
    assert "6 instructions attacked, " in said
    found = lines(tmp_path / "version_0")
    right, succeeded = (sum(one[name] for one in found) for name in ("right_before", "succeeded"))
    mean = sum(one["queries"] for one in found) / 6
    assert (
        f"unseen+attack:textfooler@0.1: success rate {100 * succeeded / right:.1f} % ({succeeded} of {right} right "
        f"answers on the rows searched on), {mean:.0f} queries an instruction, bayesian search" in said
    )
    assert all("unseen" in one["instruction_id"] for one in lines(tmp_path / "version_0"))


def test_killed_in_the_search_and_in_the_test_it_ends_with_the_same_table(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = []
    search = attacking.search

    def failing(text: str, *args: Any, **settings: Any) -> Any:
        searched.append(text)
        if len(searched) == 3:
            raise OSError("no space left")
        return search(text, *args, **settings)

    monkeypatch.setattr(attacking, "search", failing)
    with pytest.raises(SystemExit):
        main(arguments(tmp_path))
    first = tmp_path / "version_0"
    assert len(lines(first)) == 2
    with (first / ATTACKS).open("a", encoding="utf-8") as file:
        file.write('{"condition": "att')
    resume = f"--predictions.resume={first}"
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, resume, f"--trainer.callbacks+={__name__}.Dies"))
    assert len(searched) == 3 + 4
    assert "no space left" in capsys.readouterr().err
    assert lines(first) == lines(whole)
    assert not (first / "predictions.parquet").exists()
    main(arguments(tmp_path, resume))
    assert len(searched) == 3 + 4, "none anew"
    assert "were answered by the earlier run" in capsys.readouterr().out
    assert table(first) == table(whole)
    assert lines(first) == lines(whole)


def test_a_signal_ends_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = []
    search = attacking.search

    def told(text: str, *args: Any, **settings: Any) -> Any:
        searched.append(text)
        if len(searched) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return search(text, *args, **settings)

    monkeypatch.setattr(attacking, "search", told)
    with pytest.raises(SystemExit) as ended:
        main(arguments(tmp_path))
    assert ended.value.code == 143
    folder = tmp_path / "version_0"
    assert (len(searched), len(lines(folder))) == (2, 1)
    assert f"--predictions.resume {folder}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    ["--data.attack.samples=2", "--data.attack.objective=accuracy", "--data.seed=1", "--model.loading.scratch=true"],
)
def test_other_attacks_are_not_gone_on_with(
    more: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(whole / ATTACKS, begun)
    with pytest.raises(SystemExit):
        main(arguments(tmp_path / "again", f"--predictions.resume={begun}", more))
    said = capsys.readouterr().err
    assert "predictions.resume: the attack attack:deepwordbug@0.2 of " in said
    assert "was found on another model, on other rows or with other settings" in said
    assert (begun / ATTACKS).read_bytes() == (whole / ATTACKS).read_bytes()


def test_attacks_on_one_model_are_tried_on_another(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attacking, "search", None)
    reuse = f"--data.attack.reuse={whole / ATTACKS}"
    main(arguments(tmp_path / "same", reuse))
    found = tmp_path / "same/version_0"
    assert table(found) == table(whole)
    written = lines(found)
    assert [one.pop("reused") for one in written] == [str(whole / ATTACKS)] * 6
    assert written == lines(whole)
    main(arguments(tmp_path / "other", reuse, "--model.loading.scratch=true"))
    assert table(tmp_path / "other/version_0") != table(whole)

    def refused(*more: str, **how: Any) -> str:
        with pytest.raises(SystemExit):
            main(arguments(tmp_path / "refused", *more, **how))
        return capsys.readouterr().err

    assert f"{ATTACKS} holds no attack attack:textfooler@0.2 of " in refused(reuse, conditions="attack:textfooler@0.2")
    assert "holds no attack" in refused(reuse, "--data.prompts=2")
    changed = tmp_path / "changed.jsonl"
    changed.write_text((whole / ATTACKS).read_text(encoding="utf-8").replace('"before": "', '"before": "Now '))
    said = refused(f"--data.attack.reuse={changed}")
    assert "found an attack on 'Now " in said
    assert "expected one on " in said
    assert "data.attack.transfer: found no file none.jsonl" in refused("--data.attack.transfer=none.jsonl")
    assert "data.attack.reuse: found no file none.jsonl" in refused("--data.attack.reuse=none.jsonl")
    assert "data.attack.reuse: found no file" in refused(f"--data.attack.reuse={whole}")
    (tmp_path / "refused").mkdir(exist_ok=True)
    (tmp_path / "refused" / ATTACKS).write_text("", encoding="utf-8")
    own = refused("--trainer.logger=false", f"--data.attack.reuse={tmp_path / 'refused' / ATTACKS}")
    assert "the file that this run writes" in own


def test_attacks_of_another_run_are_tried_first(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """With queries for the instruction and one more text, the attacks are those of the other run, where they hurt."""
    transfer = f"--data.attack.transfer={whole / ATTACKS}"

    def tested(folder: str, *more: str, condition: str = CONDITION) -> None:
        few = ("--data.attack.budget=2", "--trainer.limit_test_batches=1")  # all are searched for, and few asked
        main(arguments(tmp_path / folder, *few, *more, conditions=condition))

    tested("few", transfer)
    few = tmp_path / "few/version_0"
    given = {attack_key(one): one for one in lines(whole)}
    assert [one["after"] for one in lines(few)] == [given[attack_key(one)]["after"] for one in lines(few)]
    assert max(one["queries"] for one in lines(few)) == 2
    assert "changed nothing" not in caplog.text
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(few / ATTACKS, begun)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        tested("again", f"--predictions.resume={begun}")
    assert "with other settings" in capsys.readouterr().err, "without the attacks of the other run"
    tested("again", transfer, f"--predictions.resume={begun}")
    assert "instructions attacked" not in capsys.readouterr().out, "nothing is searched again"
    tested("other", transfer, condition="attack:textfooler@0.2")
    assert "holds no attack by these recipes on any of the 6 instructions" in caplog.text


def test_instructions_that_are_never_followed_are_not_attacked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main(arguments(tmp_path, "--model.loading.scratch=true"))
    never = sum(not line["right_before"] for line in lines(tmp_path / "version_0"))
    assert never
    assert f"data.attack: with {never} of 6 instructions the model answers no sample" in caplog.text


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Rows whose options are scored, and rows whose answers are generated."""
    labels = ("positive", "negative")
    rows = write_rows(
        tmp_path / "films.jsonl", [{"id": f"f{i}", "sentence": f"film {i}", "label": labels[i % 2]} for i in range(5)]
    )
    side_by_side(lambda: results_of_rank(tmp_path / "two", rows))
    ours, theirs = (torch.load(tmp_path / "two" / f"rank-{rank}.pt") for rank in (0, 1))
    single = results(tmp_path / "one", rows)
    assert ours == theirs == single
    found = lines(tmp_path / "one")
    assert lines(tmp_path / "two") == found
    assert {bool(one["edits"]) for one in found if one["dataset"] == "films"} == {True}
    assert sum(bool(one["edits"]) for one in found) > 2


def test_weights_of_a_checkpoint_are_what_is_attacked_also_to_predict(tmp_path: Path, whole: Path) -> None:
    fit = [
        "fit", "-c", "quickstart", "--trainer.max_steps=1", "--trainer.val_check_interval=1",
        "--model.optimizer.lr=0.05", "--model=InstructionTuning",
        f"--trainer.default_root_dir={tmp_path}/fit", f"--checkpoint.dirpath={tmp_path}/weights", *QUIET,
    ]  # fmt: skip
    main([*fit, "--data.train=[{path: builtin:quickstart, limit: 32}]", "--data.validation=null"])
    checkpoint = f"--ckpt_path={tmp_path}/weights/last.ckpt"
    main(arguments(tmp_path / "test", checkpoint))
    main(arguments(tmp_path / "predict", checkpoint, command="predict"))
    tested, predicted = lines(tmp_path / "test/version_0"), lines(tmp_path / "predict/version_0")
    assert tested == predicted
    assert table(tmp_path / "test/version_0") == table(tmp_path / "predict/version_0")
    before = {attack_key(one): one["score_before"] for one in lines(whole)}
    assert all(before[attack_key(one)] != one["score_before"] for one in tested), "not the weights it began with"


def test_rows_with_their_own_instruction_are_attacked_one_by_one(tmp_path: Path, t5: str) -> None:
    made = [{"id": f"r{i}", "instruction": f"Say it {i} times.", "text": "a", "target": "b"} for i in range(3)]
    rows = write_rows(tmp_path / "rows.jsonl", made)
    main(arguments(tmp_path, f"--data.test={rows}", f"--model.backbone={t5}", "--model.max_new_tokens=3"))
    found = lines(tmp_path / "version_0")
    assert sorted(one["sample_id"].rpartition(":")[2] for one in found) == ["r0", "r1", "r2"]
    assert all(one["samples"] == [one["sample_id"]] for one in found)
    assert all(row["instruction_id"] == "own" for row in table(tmp_path / "version_0"))


def test_a_hosted_model_is_attacked_by_its_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")

    def says(request: dict[str, Any]) -> tuple[int, Any]:
        prompt = request["messages"][0]["content"]
        knows = KNOWN in prompt and "fine film" in prompt
        text = "label: good" if knows else "label: bad"
        return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}

    endpoint = LocalEndpoint(says)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr("robustlm.models.hosted.CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    made = [{"id": f"r{i}", "sentence": f"a fine film {i}", "label": "good"} for i in range(4)]
    made += [{"id": "r9", "sentence": "a dull one", "label": "bad"}]
    rows = write_rows(tmp_path / "rows.jsonl", made)
    hosted = [
        "--model.backbone=openai:some-model",
        f"--data.test={rows}",
        "--data.prompts=3",
        "--data.attack.budget=30",
    ]
    main(arguments(tmp_path, *hosted, "--data.attack.candidates=2"))
    endpoint.close()
    found = lines(tmp_path / "version_0")
    assert {one["objective"] for one in found} == {"accuracy"}
    knew = [one for one in found if KNOWN in one["before"]]
    assert knew
    assert all(one["score_after"] < one["score_before"] for one in knew)
    assert all(KNOWN not in one["after"] for one in knew)


def test_conditions_that_cannot_be_attacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*more: str, **how: Any) -> str:
        with pytest.raises(SystemExit):
            main(arguments(tmp_path, *more, **how))
        return capsys.readouterr().err

    own = ("--data=", "--data.prompts", "--data.samples", "--data.attack")  # of RobustnessDataModule
    args = [one for one in arguments(tmp_path) if not one.startswith(own)]
    with pytest.raises(SystemExit):
        main([*args, "--data=InstructionDataModule"])
    said = capsys.readouterr().err
    assert "which InstructionDataModule does not do; expected RobustnessDataModule" in said
    assert "data.attack.budget: found 0; expected ≥ 1" in refused("--data.attack.budget=0")
    assert "unknown attack 'bugs'" in refused(conditions="attack:bugs@0.2")
    assert not (tmp_path / "version_0" / ATTACKS).exists()


def test_a_manifest_names_what_can_be_searched_again(whole: Path) -> None:
    key, one = next(iter(read_attacks(whole / ATTACKS).items()))
    assert key == (CONDITION, one["dataset"], one["instruction_id"], None)
    words = one["before"].split()
    for edit in one["edits"]:
        tried = Attack("deepwordbug", 0.2).candidates(words, edit["position"], seed=0, most=4)
        assert edit["after"] in tried


def searchable(rows: str, **settings: Any) -> RobustnessDataModule:
    return RobustnessDataModule(
        test=rows, conditions=[CONDITION, "clean"], prompts=2, samples=5, eval_batch_size=2,
        attack=Attacks(samples=1, budget=6, candidates=2), **settings,
    )  # fmt: skip


class Asked(Callback):
    """Keeps the prompts of the batches that a test serves."""

    def __init__(self) -> None:
        self.prompts: dict[str, list[str]] = {}

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        self.prompts.setdefault(batch.condition, []).extend(row["prompt"] for row in outputs["rows"])

    on_predict_batch_end = on_test_batch_end


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_loaders_made_before_the_search_serve_what_it_finds(
    stage: str, llama: str, test_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack is the first condition, whose iterator Lightning makes first; worker processes copy the rows."""

    def judge(module: Any, batch: InstructionBatch, objective: str) -> list[float]:
        return [1.0 if objective == "accuracy" else int(ids.sum()) % 997 / 997 for ids in batch.raw.input_ids]

    monkeypatch.setattr(InstructionTuning, "judge", judge)
    data, asked = searchable(test_file, num_workers=2), Asked()
    module = InstructionTuning(llama, tuning=None, max_new_tokens=2)
    getattr(trainer(tmp_path, callbacks=[PredictionWriter(), asked]), stage)(module, datamodule=data)
    found = read_attacks(tmp_path / ATTACKS)
    changed = {one["before"]: one["after"] for one in found.values() if one["before"] != one["after"]}
    assert changed
    attacked, clean = asked.prompts[CONDITION], asked.prompts["clean"]
    assert len(attacked) == len(clean) == len(data.conditioned[CONDITION])
    for before, after in changed.items():
        own = [prompt for prompt in clean if before in prompt]
        assert own
        assert len([prompt for prompt in attacked if after in prompt]) >= len(own)


def test_making_loaders_runs_no_model_and_serves_nothing_unsearched(llama: str, test_file: str) -> None:
    data = searchable(test_file)
    backbone = InstructionTuning(llama, tuning=None).backbone  # its weights are not loaded
    data.connect(backbone)
    data.setup("test")
    attacked, clean = data.test_dataloader()
    assert len(attacked) == len(clean)
    with pytest.raises(RuntimeError, match="the search for attacks needs the model under test"):
        next(iter(attacked))
    assert next(iter(clean)).condition == "clean"


def test_an_attack_that_was_answered_before_the_kill_is_not_asked_again(
    llama: str, test_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All rows are answered, the table is not made: Lightning has promised batches, and there are none."""
    how = [
        f"--model.backbone={llama}", f"--data.test={test_file}", "--model.max_new_tokens=2", "--data.attack.budget=4",
    ]  # fmt: skip
    main(arguments(tmp_path / "whole", *how, conditions=CONDITION))
    merge = TableWriter.merge

    def full(*args: Any) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(TableWriter, "merge", full)
    with pytest.raises(SystemExit):
        main(arguments(tmp_path / "killed", *how, conditions=CONDITION))
    monkeypatch.setattr(TableWriter, "merge", merge)
    first = tmp_path / "killed/version_0"
    answered = len(read_parts(first / "predictions.parquet"))
    capsys.readouterr()
    main(arguments(tmp_path / "killed", *how, f"--predictions.resume={first}", conditions=CONDITION))
    taken = re.search(r"(\d+) rows were answered by the earlier run", capsys.readouterr().out)
    assert taken is not None
    assert 0 < answered - int(taken[1]) <= 8, "one batch is asked again, so that hooks run"
    assert table(first) == table(tmp_path / "whole/version_0")
