"""Studies that tune and test a tiny model: killed and gone on with, and what runs cost."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import LightningModule, Trainer

from robustlm.callbacks.cost import Cost
from robustlm.cli import main
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import read_table
from robustlm.modules import InstructionTuning
from robustlm.studies import stored
from tests.processes import command
from tests.tiny import make_rows, write_rows


def study(folder: Path, model: str, arms: dict[str, object]) -> None:
    """Write `small.yaml` and its rows."""
    write_rows(folder / "train.jsonl", make_rows(26))
    write_rows(folder / "test.jsonl", make_rows(7, seed=1))
    both = {
        "model.backbone": model, "data.batch_size": 4, "trainer.accelerator": "cpu", "model.max_new_tokens": 3,
        "data.template": "plain", "model": "InstructionTuning", "data": "NoisyInstructionDataModule",
    }  # fmt: skip
    given = {
        "both": both,
        "fit": {"data.train": "train.jsonl", "trainer.max_steps": 4, "trainer.max_epochs": -1},
        "test": {"data.test": "test.jsonl", "data.eval_batch_size": 2},
        "conditions": ["clean", "mixed@0.3"],
        "arms": arms,
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")


def answers(folder: Path) -> dict[str, list[Record]]:
    return {str(file.relative_to(folder)): read_table(file) for file in sorted(folder.rglob("predictions.parquet"))}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, llama: str) -> Path:
    """A folder with a study of two arms, and its runs in `whole`."""
    folder = tmp_path_factory.mktemp("study")
    noisy = {"fit": {"model": "ANIT", "model.adversary": None, "checkpoint.every_n_train_steps": 2}}
    study(folder, llama, {"plain": None, "noisy": noisy})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["study", "small.yaml", "--output=whole"])
    return folder


@pytest.mark.parametrize("where", ["fit", "test"])
def test_a_study_that_was_killed_goes_on_and_comes_to_the_same(
    where: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site)
    folder = Path(f"killed-{where}")
    shutil.copytree("whole/plain", folder / "plain", copy_function=shutil.copy2)
    first = next(folder.rglob("predictions.parquet"))
    written = first.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setenv(PLACE, where)
        patch.setattr("robustlm.studies.plan.METER", f"--trainer.callbacks+={__name__}.SlowCost")
        victim = command("study", "small.yaml", f"--output={folder}")
    run = folder / "noisy" / "seed-0"
    until = time.monotonic() + 120
    while not (run / where / "waits").exists():
        assert time.monotonic() < until
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.02)
    victim.kill()
    victim.communicate()
    assert (run / "fitted.json").exists() == (where == "test")
    assert not list(run.rglob("predictions.parquet"))

    main(["study", "small.yaml", f"--output={folder}"])
    assert first.stat().st_mtime_ns == written
    assert answers(folder) == answers(Path("whole"))
    cost = stored.read_json(run / "fit" / "cost.json")
    assert cost is not None
    assert cost["steps"] == 4
    assert cost["forward"] == (stored.read_json(Path("whole/noisy/seed-0/fit/cost.json")) or {})["forward"]


def test_weights_of_another_arm_give_its_answers(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    shutil.copytree("whole/plain", "weights/plain", copy_function=shutil.copy2)
    given = yaml.safe_load(Path("small.yaml").read_text(encoding="utf-8"))
    given["arms"] = {"plain": None, "again": {"weights": "plain", "test": "--data.eval_batch_size 3"}}
    Path("weights.yaml").write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    main(["study", "weights.yaml", "--output=weights"])
    found = answers(Path("weights"))
    assert found["again/seed-0/test/predictions.parquet"] == found["plain/seed-0/test/predictions.parquet"]
    assert "plain/seed-0/fit/" in Path("weights/again/seed-0/output.log").read_text(encoding="utf-8")
    assert not Path("weights/again/seed-0/fit").exists()


PLACE = "ROBUSTLM_TEST_PLACE"


class SlowCost(Cost):
    """Waits to be killed, after the third step or the second batch of a test; `Cost` goes on with its counts."""

    state_key = "Cost"

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        if trainer.global_step == 3:
            _wait(trainer, "fit")

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, at: int, *_: int
    ) -> None:
        if at == 2:
            _wait(trainer, "test")


def _wait(trainer: Trainer, where: str) -> None:
    if os.environ[PLACE] == where:
        (Path(str(trainer.log_dir)) / "waits").touch()
        time.sleep(100)


def test_costs_are_those_of_a_count_by_hand(tmp_path: Path, llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study(
        tmp_path,
        llama,
        {"plain": None, "NRM": {"fit": {"model": "ANIT"}, "compute": {"equal_to": "plain", "trial": 2}}},
    )
    seen: list[tuple[str, int]] = []
    losses = InstructionTuning.losses

    def counted(self: InstructionTuning, passes: object) -> object:
        view = passes.view("raw" if type(self) is InstructionTuning else "variant").input_ids  # type: ignore[attr-defined]
        seen.append((type(self).__name__, view.numel()))
        return losses(self, passes)  # type: ignore[arg-type]

    monkeypatch.setattr(InstructionTuning, "losses", counted)
    main(["study", "small.yaml", "--arms=[plain]"])
    cost = stored.read_json(Path("runs/small/plain/seed-0/fit/cost.json"))
    assert cost is not None
    assert cost["steps"] == 4
    assert cost["forward"] == cost["backward"] == sum(size for _, size in seen)
    first = cost["first"]
    assert isinstance(first, dict)
    assert first["forward"] == seen[0][1]
    main(["study", "small.yaml"])
    equal = stored.read_json(Path("runs/small/NRM/seed-0/equal.json"))
    other = stored.read_json(Path("runs/small/NRM/seed-0/fit/cost.json"))
    assert equal is not None
    assert other is not None
    assert other["steps"] == equal["steps"]
    assert equal["spent"] == cost["forward"] + cost["backward"]
    passes = 6 / 2  # NRM: three passes forward and three backward against one of each
    assert 1 <= equal["steps"] <= 4 / passes + 1  # type: ignore[operator]
