"""The one object that owns an evaluation's folder, what is done in it and what is skipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import LightningDataModule, Trainer

from robustlm.callbacks.folder import data_of, session_of
from robustlm.datamodules import InstructionDataModule
from robustlm.evaluation.hidden_state_table import HIDDEN_STATES, HiddenStatePart
from robustlm.evaluation.record import Record
from robustlm.evaluation.session import EvaluationSession, KeptStates
from robustlm.evaluation.table import TableWriter

ROW = Record("a", "d", "generation", "clean", "0", "x", parsed=None, target="y", correct=False)
IDENTITY = {"weights": "w", "rows": "r", "data.eval_batch_size": 4}


def cell(sample: str) -> tuple[str, str, str, str]:
    return "clean", "d", sample, "0"


def key(sample: str) -> tuple[str, str, str, str, int]:
    return *cell(sample), 0


def interrupted(folder: Path) -> Path:
    """A folder with the answers to samples a and b, and the hidden state of a."""
    begun = EvaluationSession()
    begun.store(folder)
    begun.begin(IDENTITY, begun.attempt(IDENTITY))
    writer = TableWriter(begun.table)
    writer.write([replace(ROW, sample_id=sample) for sample in "ab"])
    writer.close()
    states = HiddenStatePart(folder / HIDDEN_STATES)
    states.write([cell("a")], np.ones((1, 2), np.float32))
    states.close()
    return folder


@pytest.mark.parametrize("states_first", [True, False])
def test_what_is_done_does_not_depend_on_the_order_of_callbacks(states_first: bool, tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    session = EvaluationSession()
    if states_first:
        session.kept_states = KeptStates(-1, "prompt_end")
    session.store(folder, resumed=True)
    if not states_first:
        session.kept_states = KeptStates(-1, "prompt_end")
    assert session.done == {key("a")}
    session.skip("clean", [key("a")])
    assert [row["sample_id"] for row in session.taken_over] == ["a"]


def test_attempts_are_counted_and_another_evaluation_is_refused(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    session = EvaluationSession()
    session.store(folder, resumed=True)
    assert session.done == {key("a"), key("b")}
    assert session.attempt(IDENTITY) == 1
    session.begin(IDENTITY, 1)
    assert session.attempt(IDENTITY) == 2
    with pytest.raises(ValueError, match=r"found other data\.eval_batch_size 5 than at the start of .*; expected data"):
        session.attempt({**IDENTITY, "data.eval_batch_size": 5})
    session.end()
    assert not (folder / HIDDEN_STATES).exists()
    assert not list(folder.glob("*.run.json"))


def test_without_a_folder_nothing_is_kept() -> None:
    session = EvaluationSession()
    assert (session.folder, session.attacks, session.done, session.taken_over) == (None, None, set(), [])
    with pytest.raises(RuntimeError, match="keeps no files"):
        assert session.table


def test_rows_of_another_datamodule_have_no_session() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert session_of(trainer) is None
    with pytest.raises(TypeError, match="found loaders without a datamodule; expected an InstructionDataModule"):
        data_of(trainer)
    trainer.datamodule = LightningDataModule()
    with pytest.raises(TypeError, match="found LightningDataModule"):
        data_of(trainer)
    own = InstructionDataModule()
    trainer.datamodule = own
    assert session_of(trainer) is own.session
