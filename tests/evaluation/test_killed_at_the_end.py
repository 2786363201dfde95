"""An evaluation that is killed after its last answer, at any step on the way to the table, can be gone on with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustlm.callbacks import hidden_states
from robustlm.cli import main
from robustlm.evaluation import table
from robustlm.evaluation.hidden_state_table import HiddenStateTable
from robustlm.evaluation.table import read_table
from tests.evaluation.test_resume import arguments, rows

__all__ = ["rows"]  # a fixture

STAGES = {
    "answers written": (hidden_states.HiddenStatePart, "close", False),
    "in states": (os, "replace", False),
    "after states": (hidden_states, "merge_hidden_states", True),
    "part closed": (table.TableWriter, "close", True),
    "before the table": (table, "write_table", False),
    "after the table": (table, "write_table", True),
}
"""Where a process ends: what, and whether after it or before."""
WHOLE = ("after the table",)


def killed(run: Callable[[], Any], owner: Any, name: str, *, after: bool) -> int:
    """Run in a process of its own that ends without any clean-up at a function; returns its exit status."""
    child = os.fork()
    if child == 0:
        real = getattr(owner, name)

        def dies(*args: Any, **kwargs: Any) -> Any:
            if after:
                real(*args, **kwargs)
            os._exit(9)

        # the identity of a run is replaced into place before any answer; only what comes at the end counts
        if owner is os:
            merge = hidden_states.merge_hidden_states

            def merging(*args: Any, **kwargs: Any) -> Any:
                owner.replace = dies
                return merge(*args, **kwargs)

            hidden_states.merge_hidden_states = merging
        else:
            setattr(owner, name, dies)
        try:
            run()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def wanted(llama: str, rows: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    main(arguments(llama, rows, folder, "--states.layer=-2"))
    return folder / "version_0"


@pytest.mark.parametrize("stage", STAGES)
def test_killed_after_the_last_answer(
    stage: str,
    llama: str,
    rows: str,
    wanted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    owner, name, after = STAGES[stage]
    assert killed(lambda: main(arguments(llama, rows, tmp_path, "--states.layer=-2")), owner, name, after=after) == 9
    first = tmp_path / "version_0"
    assert (first / "predictions.parquet").exists() == (stage in WHOLE)
    again = arguments(llama, rows, tmp_path, "--states.layer=-2", f"--predictions.resume={first}")
    if stage in WHOLE:
        with pytest.raises(SystemExit) as end:
            main(again)
        assert end.value.code == 2
        assert "is complete" in capsys.readouterr().err
    else:
        main(again)
        assert sorted(file.name for file in first.glob("*.parquet*")) == ["predictions.parquet", "states.parquet"]
    found = read_table(first / "predictions.parquet")
    assert found == read_table(wanted / "predictions.parquet")
    ours, theirs = (HiddenStateTable(folder / "states.parquet") for folder in (first, wanted))
    assert ours.keys == theirs.keys == [row.cell for row in found]
    np.testing.assert_array_equal(ours.read(range(36)), theirs.read(range(36)))


def test_killed_twice_at_the_end_without_states(llama: str, rows: str, wanted: Path, tmp_path: Path) -> None:
    first = tmp_path / "version_0"
    resume = f"--predictions.resume={first}"
    for more in ((), (resume,), (resume,)):
        run = arguments(llama, rows, tmp_path, *more)
        assert killed(lambda run=run: main(run), table, "write_table", after=False) == 9
    main(arguments(llama, rows, tmp_path, resume))
    assert read_table(first / "predictions.parquet") == read_table(wanted / "predictions.parquet")


def test_two_processes_killed_after_the_last_answer(llama: str, rows: str, wanted: Path, tmp_path: Path) -> None:
    """Two processes are started twice, which takes seconds."""
    first = tmp_path / "version_0"
    two = ("--trainer.devices=2", "--trainer.strategy=ddp_fork")
    begun = arguments(llama, rows, tmp_path, *two)
    assert killed(lambda: main(begun), table.TableWriter, "close", after=True) == 1  # its children have ended with 9
    assert not (first / "predictions.parquet").exists()
    assert len(list(first.glob("predictions.parquet.part-*"))) == 2
    main([*begun, f"--predictions.resume={first}"])
    assert read_table(first / "predictions.parquet") == read_table(wanted / "predictions.parquet")


def test_an_evaluation_that_asks_nothing_does_not_end_well(
    llama: str,
    rows: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments(llama, rows, tmp_path, "--trainer.limit_test_batches=0"))
    assert end.value.code == 2
    assert "was not written, because no batch was run" in capsys.readouterr().err
