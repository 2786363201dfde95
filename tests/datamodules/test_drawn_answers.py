"""Several drawn answers to each question: a table with all of them, resumed exactly, the same in other batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import TableWriter, read_table
from tests.endpoint import SECRET, LocalEndpoint, completed
from tests.tiny import write_rows

QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
HOT = ("--model.generation.temperature=3", "--data.draws=3")


@pytest.fixture
def rows(tmp_path: Path) -> str:
    made = [{"id": f"r{i}", "sentence": f"a film {i}", "label": "good" if i % 2 else "bad"} for i in range(4)]
    return write_rows(tmp_path / "rows.jsonl", made)


def evaluated(backbone: str, rows: str, folder: Path, *more: str) -> list[Record]:
    main([
        "test", "--model=InstructionTuning", f"--model.backbone={backbone}", "--model.tuning=null",
        "--model.max_new_tokens=4", "--data=RobustnessDataModule", f"--data.test={rows}", "--data.prompts=2",
        "--data.conditions=[clean,random_typos@0.3]", "--data.eval_batch_size=4",
        f"--trainer.default_root_dir={folder}", *QUIET, *more,
    ])  # fmt: skip
    return read_table(folder / "version_0/predictions.parquet")


def said(rows: list[Record]) -> dict[Any, str]:
    return {row.key: row.prediction for row in rows}


def test_draws_are_rows_of_their_own_and_do_not_depend_on_batches(llama: str, rows: str, tmp_path: Path) -> None:
    found = evaluated(llama, rows, tmp_path / "a", *HOT)
    assert len(found) == 4 * 2 * 2 * 3
    assert Counter(row.draw for row in found) == {0: 16, 1: 16, 2: 16}
    assert len({row.key for row in found}) == 48
    alike = [len({row.prediction for row in found if row.cell == cell}) for cell in {row.cell for row in found}]
    assert max(alike) == 3
    other = evaluated(llama, rows, tmp_path / "b", *HOT, "--data.eval_batch_size=7")
    assert said(other) == said(found)
    fewer = evaluated(llama, rows, tmp_path / "c", *HOT, "--data.draws=1")
    assert {row.draw for row in fewer} == {None}
    assert {row.cell: row.prediction for row in fewer} == {r.cell: r.prediction for r in found if r.draw == 0}


def test_a_killed_evaluation_goes_on_draw_by_draw(
    llama: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluated(llama, rows, tmp_path / "whole", *HOT)
    begun = tmp_path / "begun"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustlm.evaluation.session.EvaluationSession.end", lambda self, failed=False: None)
        evaluated(llama, rows, begun, *HOT)
    table = begun / "version_0/predictions.parquet"
    table.unlink()
    writer = TableWriter(table)
    writer.write(whole[:17])  # in the middle of a batch, and of the draws of a question
    writer.close()
    with pytest.raises(SystemExit):
        evaluated(llama, rows, begun, *HOT, f"--predictions.resume={table.parent}", "--data.draws=2")
    assert "found other data.draws 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluated(llama, rows, begun, *HOT, f"--predictions.resume={table.parent}", "--model.generation.temperature=2")
    assert "found other model.generation temperature 2" in capsys.readouterr().err
    stop = '--model.generation.stop=["zq"]'
    with pytest.raises(SystemExit):
        evaluated(llama, rows, begun, *HOT, f"--predictions.resume={table.parent}", stop)
    assert 'seed 0, stop ["zq"]' in capsys.readouterr().err
    assert evaluated(llama, rows, begun, *HOT, f"--predictions.resume={table.parent}") == whole
    assert "were answered by the earlier run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data.draws=2",), "found 2, but model.generation.temperature is 0, so all draws would be one answer"),
        ((*HOT, "--data.scoring=options"), "with data.scoring 'options', whose likelihoods are the same each time"),
        ((*HOT, "--states.layer=-1"), "found -1 with data.draws 3"),
        (("--data.draws=0",), "data.draws"),
    ],
)
def test_draws_that_would_be_alike_are_refused(
    more: tuple[str, ...], message: str, llama: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluated(llama, rows, tmp_path, *more)
    assert message in capsys.readouterr().err


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalEndpoint]:
    pytest.importorskip("openai")
    found = LocalEndpoint(lambda request: completed(f"label: {'good' if request.get('seed', 0) % 2 else 'bad'}"))
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr("robustlm.models.hosted.CACHE", str(tmp_path / "cache"))
    yield found
    found.close()


def test_draws_of_a_hosted_model_are_requests_of_their_own(
    endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(folder: str, *more: str) -> list[dict[str, Any]]:
        before = len(endpoint.requests)
        evaluated("openai:m", rows, tmp_path / folder, "--data.conditions=[clean]", *more)
        return endpoint.requests[before:]

    hot = ("--model.hosting.temperature=1",)
    assert len(asked("one", *hot)) == 8
    more = asked("three", *hot, "--data.draws=3")
    assert len(more) == 16  # the first draw is the answer that is stored already
    assert all("seed" not in request for request in more)
    assert not asked("again", *hot, "--data.draws=3")
    seeded = asked("seeded", *hot, "--model.hosting.seed=5", "--data.draws=3")
    assert len(seeded) == 24
    assert sorted(Counter(request["seed"] for request in seeded).values()) == [8, 8, 8]
    assert 5 in {request["seed"] for request in seeded}
    with pytest.raises(SystemExit):
        asked("cold", "--data.draws=3")
    assert "model.hosting.temperature is 0" in capsys.readouterr().err
