"""The search for attacks shows how far it is, where the trainer shows bars."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robustlm.datamodules import RobustnessDataModule
from robustlm.datamodules.attacking import Attacks, SearchBar
from robustlm.modules import InstructionTuning
from tests.callbacks.test_progress import trainer
from tests.tiny import trainer as quiet


@pytest.mark.parametrize("enabled", [True, False])
def test_a_search_counts_instructions_and_shows_the_time_left(
    enabled: bool, llama: str, test_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = RobustnessDataModule(
        test=test_file, conditions=["clean", "attack:deepwordbug@0.5"], eval_batch_size=8, samples=3,
        attack=Attacks(samples=1, budget=6, candidates=2),
    )  # fmt: skip
    module = InstructionTuning(llama, tuning=None, max_new_tokens=2)
    run = trainer(tmp_path) if enabled else quiet(tmp_path)
    run.test(module, data, verbose=False)
    said = [part for part in re.split(r"[\r\n]+", capsys.readouterr().out) if part.startswith("attacks: ")]
    assert bool(said) == enabled
    if enabled:
        assert said[0].startswith("attacks: 0 of 3 instructions   0%|")
        assert said[-1].startswith("attacks: 3 of 3 instructions 100%|")
        assert all("left" in one for one in said)


def test_a_search_that_ends_early_counts_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    bar = SearchBar(2, 10, shown=True)
    bar.tried(4)
    bar.ended("first: queries 4")
    bar.tried(40)  # looks that are no queries
    bar.ended("")
    bar.close()
    said = capsys.readouterr().out
    assert "first: queries 4\n" in said
    assert "attacks: 2 of 2 instructions 100%" in said
