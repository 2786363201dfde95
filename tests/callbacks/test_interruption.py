"""Runs that are told to end: they save, end with the signal's status, and go on by one flag."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.trainer.connectors import signal_connector

from robustlm.callbacks.checkpoints import newest_checkpoint
from robustlm.callbacks.interruption import StopOnSignal, going_on
from robustlm.cli import main, run
from robustlm.evaluation.table import read_table
from tests.evaluation.test_resume import arguments
from tests.modules.test_boundary import data_of, module_of
from tests.modules.test_equivalence import flags
from tests.processes import command
from tests.tiny import trainer, weights_of


class Signal(Callback):
    """Sends this process a signal at a moment of the run: the `at`-th call of `hook`."""

    def __init__(self, hook: str, at: int, number: int = 15, times: int = 1) -> None:
        self.left, self.number, self.times = at, number, times
        setattr(self, hook, self._count)

    def _count(self, trainer: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.left -= 1
            if not self.left:
                for _ in range(self.times):
                    os.kill(os.getpid(), self.number)


def script(folder: Path, llama: str, train_file: str, test_file: str, *more: str) -> list[str]:
    settings: dict[str, Any] = {
        "data.train": train_file,
        "data.validation": test_file,
        "data.num_workers": 2,
        "model.tuning.dropout": 0.2,
        "model.adversary": "NRM",
        "model.adversary.target_gap": 0.2,
        "trainer.max_epochs": 2,
        "trainer.accumulate_grad_batches": 2,
        "trainer.val_check_interval": 3,
        "checkpoint.every_n_train_steps": 1,
    }
    return ["fit", *flags(folder, llama, **settings), *more]


def at(hook: str, count: int, **more: Any) -> list[str]:
    settings = {"hook": hook, "at": count, **{name: int(value) for name, value in more.items()}}
    callback = "--trainer.callbacks+=tests.callbacks.test_interruption.Signal"
    return [callback, *(f"--trainer.callbacks.{name}={value}" for name, value in settings.items())]


@pytest.fixture(scope="module")
def whole(llama: str, train_file: str, test_file: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")
    run(script(folder, llama, train_file, test_file))
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("hook", "count", "number", "how"),
    [
        ("on_train_batch_start", 3, signal.SIGTERM, "--resume=auto"),
        ("on_before_zero_grad", 6, signal.SIGINT, "--ckpt_path=last"),
        ("on_validation_batch_start", 3, signal.SIGTERM, "--resume=auto"),
    ],
)
def test_training_saves_and_goes_on_by_one_flag(
    how: str,
    hook: str,
    count: int,
    number: signal.Signals,
    whole: Any,
    llama: str,
    train_file: str,
    test_file: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = script(tmp_path, llama, train_file, test_file)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *at(hook, count, number=number)])
    assert ended.value.code == 128 + number
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    last = tmp_path / "checkpoints/last.ckpt"
    said = capfd.readouterr().err
    assert f"{number.name}: ending as soon as all is saved" in said
    assert f"--ckpt_path {last}" in said.splitlines()[-1]
    assert not list(tmp_path.rglob("adapter"))

    run([*arguments, how])
    assert f"going on with {last}" in capfd.readouterr().out
    found = torch.load(newest_checkpoint(tmp_path), weights_only=True)  # type: ignore[arg-type]
    assert found["global_step"] == whole["global_step"] == 8
    assert all(torch.equal(value, found["state_dict"][name]) for name, value in whole["state_dict"].items())


def test_a_second_signal_ends_at_once(llama: str, train_file: str, test_file: str, tmp_path: Path) -> None:
    victim = command(
        *script(tmp_path, llama, train_file, test_file), *at("on_train_batch_start", 3, number=signal.SIGINT, times=2)
    )
    output, _ = victim.communicate(timeout=300)
    assert victim.returncode == -signal.SIGINT, output  # which a shell shows as 130
    assert "SIGINT again: ending at once" in output
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 1  # which was there before


def test_before_anything_is_trained_nothing_is_saved(
    llama: str, train_file: str, test_file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Interrupt(Callback):
        def setup(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    Interrupt.__module__, Interrupt.__qualname__ = __name__, "Interrupt"
    globals()["Interrupt"] = Interrupt
    arguments = script(tmp_path, llama, train_file, test_file)
    with pytest.raises(SystemExit) as ended:
        main([*arguments, f"--trainer.callbacks+={__name__}.Interrupt"])
    assert ended.value.code == 130
    assert newest_checkpoint(tmp_path) is None

    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--ckpt_path=last"])
    assert ended.value.code == 2
    assert f"no last.ckpt in the runs below {tmp_path}" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--ckpt_path=last", "--resume=auto"])
    assert "expected only one of them" in capfd.readouterr().err
    run([*arguments, "--resume=auto", "--trainer.max_steps=1"])
    assert f"no checkpoint in the runs below {tmp_path}: training starts from the beginning" in capfd.readouterr().out


def test_a_signal_before_the_first_hook_is_not_lost(
    llama: str, train_file: str, test_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Lightning's own handler takes it, which ends runs with status 0."""
    registered = signal_connector._SignalConnector.register_signal_handlers

    def told(self: Any) -> None:
        registered(self)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(signal_connector._SignalConnector, "register_signal_handlers", told)
    with pytest.raises(SystemExit) as ended:
        main([*script(tmp_path, llama, train_file, test_file), "--trainer.num_sanity_val_steps=0"])
    assert ended.value.code == 143
    assert "nothing was trained yet" in capfd.readouterr().err


def test_the_newest_run_is_found(tmp_path: Path) -> None:
    for number, name in enumerate(("version_1", "version_0", "version_2")):
        file = tmp_path / name / "checkpoints" / "last.ckpt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (number, number))
    (tmp_path / "version_3" / "checkpoints").mkdir(parents=True)
    assert newest_checkpoint(tmp_path) == tmp_path / "version_2/checkpoints/last.ckpt"
    kept = tmp_path / "version_1/checkpoints"
    assert newest_checkpoint(tmp_path, kept) == kept / "last.ckpt"
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_the_command_to_go_on_with() -> None:
    args = ["fit", "-c", "a b.yaml", "--resume", "auto", "--trainer.max_epochs=2", "--ckpt_path=old.ckpt"]
    assert shlex.split(going_on(args, "--ckpt_path", "new.ckpt")) == [
        "robustlm", "fit", "-c", "a b.yaml", "--trainer.max_epochs=2", "--ckpt_path", "new.ckpt",
    ]  # fmt: skip
    args = ["test", "--ckpt_path=x", "--predictions.resume", "a"]
    assert going_on(args, "--predictions.resume", "b") == "robustlm test --ckpt_path=x --predictions.resume b"


def test_an_evaluation_keeps_its_answers(llama: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.tiny import write_rows

    made = [{"id": f"r{i}", "sentence": f"it rains {i}", "label": "good" if i % 2 else "bad"} for i in range(20)]
    rows = write_rows(tmp_path / "rows.jsonl", made)
    main(arguments(llama, rows, tmp_path / "whole"))
    with pytest.raises(SystemExit) as ended:
        main([*arguments(llama, rows, tmp_path / "cut"), *at("on_test_batch_end", 3)])
    assert ended.value.code == 143
    folder = tmp_path / "cut/version_0"
    assert f"--predictions.resume {folder}" in capfd.readouterr().err
    assert not (folder / "predictions.parquet").exists()
    main([*arguments(llama, rows, tmp_path / "cut"), f"--predictions.resume={folder}"])
    assert "12 rows were answered by the earlier run" in capfd.readouterr().out
    assert read_table(folder / "predictions.parquet") == read_table(tmp_path / "whole/version_0/predictions.parquet")


class InUpdate(Callback):
    """Sends SIGUSR1 as soon as an optimiser has changed the weights, and notes what is saved."""

    def __init__(self, step: int) -> None:
        self.step, self.left = step, step
        self.saved: list[tuple[bool, int, int]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(self._signal)

    def _signal(self, *_: Any) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGUSR1)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
        self.saved.append((pl_module.updating, checkpoint["global_step"], batches))


def test_a_requeue_by_slurm_saves_at_the_end_of_the_step(
    llama: str, train_file: str, test_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's handler saves at once; within the update, weights and counters are of different steps."""
    for name in ("JOB_ID", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    asked: list[Any] = []
    monkeypatch.setattr(signal_connector, "call", lambda command: asked.append(command) or 0)

    def fit(folder: str, *callbacks: Callback, ckpt_path: str | None = None) -> Any:
        module = module_of("anit", llama)
        run = trainer(
            tmp_path / folder,
            accumulate_grad_batches=2,
            max_epochs=2,
            callbacks=[StopOnSignal(), *callbacks],
            plugins=[SLURMEnvironment()],
        )
        run.fit(module, data_of("anit", train_file, test_file), ckpt_path=ckpt_path)
        return weights_of(module)

    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    known = [signal.getsignal(number) for number in numbers]
    watch = InUpdate(3)
    whole = fit("cut", watch)
    assert asked == [["scontrol", "requeue", "0"]]
    assert watch.saved == [(False, 3, 6)]
    assert [signal.getsignal(number) for number in numbers] == known
    again = fit("again", ckpt_path=str(tmp_path / "cut/hpc_ckpt_1.ckpt"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
