"""Where a model's answers cannot be read, the test and its reports say so and show two of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.evaluation.unreadable import unreadable, warning
from robustlm.report.number_tables import to_markdown
from robustlm.report.page import About, to_html
from tests.endpoint import SECRET, LocalEndpoint
from tests.tiny import write_rows

LABELS = ["feature request", "bug", "billing", "login", "refund", "praise", "spam", "outage", "delivery", "contract",
          "privacy", "other"]  # fmt: skip


def says(request: dict[str, Any]) -> tuple[int, Any]:
    """Answers as a chat model does: the right label, in its own case, without the task's `label:`."""
    text = request["messages"][0]["content"].rpartition("ticket about ")[2].partition(",")[0]
    content = text.capitalize() if text in LABELS else "Sorry, I cannot tell."
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalEndpoint]:
    pytest.importorskip("openai")
    found = LocalEndpoint(says)
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr("robustlm.models.hosted.CACHE", str(tmp_path / "cache"))
    yield found
    found.close()


def test_a_chat_model_that_answers_in_its_own_form(
    endpoint: LocalEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [{"sentence": f"a ticket about {label}, please", "label": label, "labels": LABELS} for label in LABELS]
    rows = write_rows(tmp_path / "tickets.jsonl", made)
    main(["test", "-c", "robustness", "--model.backbone=openai:mock", f"--data.test={rows}", "--data.prompts=2",
          "--data.conditions=[clean]", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
          f"--trainer.default_root_dir={tmp_path}/runs"])  # fmt: skip
    said = capsys.readouterr().err
    expected = [
        "answers to tickets (tc) could not be read and count as wrong: clean 100.0 % (24 of 24)",
        "expected 'label: feature request', the model answered 'Feature request'",
        "expected 'label: billing', the model answered 'Billing'",
        "check data.template",
        "--data.scoring options",
    ]
    for text in expected[:1] + expected[3:]:
        assert text in said
    # two of the answers that could not be read; others are shown with what the lenient reading takes from them
    assert sum(", the model answered '" in line and ", read as '" not in line for line in said.splitlines()) == 2
    main(["report", f"{tmp_path}/runs/version_0", "--output", f"{tmp_path}/report"])
    text = (tmp_path / "report/robustness.md").read_text(encoding="utf-8")
    page = (tmp_path / "report/robustness.html").read_text(encoding="utf-8")
    assert text.index("could not be read and count as wrong") < text.index("## Means")
    assert page.index("could not be read and count as wrong") < page.index('class="cards"')
    assert "100.0 % of the answers could not be read" in page
    assert page.partition("depends on how")[0].count("the model answered") == 2
    run = f"{tmp_path}/runs/version_0"
    main(["compare", f"a={run}", f"b={run}", "--paired", "true", "--output", f"{tmp_path}/compared"])
    assert capsys.readouterr().out.count("could not be read and count as wrong") >= 2
    for name in ("comparison.md", "comparison.html"):
        assert "Answers" in (tmp_path / "compared" / name).read_text(encoding="utf-8")
        assert "count as wrong" in (tmp_path / "compared" / name).read_text(encoding="utf-8")


def table(bad: int, every: int = 100, condition: str = "clean", answer: str = "Good") -> list[Record]:
    """Answers of which the first ones could not be read."""
    return [
        Record(
            dataset="mood",
            task="tc",
            condition=condition,
            instruction_id="i",
            sample_id=str(i),
            prediction=f"{answer} {i}" if i < bad else "label: good",
            parsed=None if i < bad else [["good"]],
            target=f"label: {'good' if i % 2 else 'bad'}",
            correct=i >= bad and i % 2 == 1,
        )
        for i in range(every)
    ]


def test_five_per_cent_are_no_warning_and_more_are() -> None:
    assert warning(unreadable(table(5))) == ""
    assert "clean 6.0 % (6 of 100)" in warning(unreadable(table(6)))


def test_conditions_are_looked_at_one_by_one() -> None:
    (found,) = unreadable([*table(0), *table(6, condition="random_typos@0.2")])
    assert list(found.conditions) == ["random_typos@0.2"]
    assert found.samples == (("'label: bad'", "'Good 0'"), ("'label: good'", "'Good 1'"))


def test_samples_are_one_line_and_no_markup(tmp_path: Path) -> None:
    nasty = "<b>\x1b[31mLong\n\n" + "word " * 100
    rows = table(100, answer=nasty)
    said = warning(unreadable(rows)).splitlines()
    assert len(said) == 4
    assert all(len(line) < 250 for line in said)
    assert "\x1b" not in "".join(said)
    results = robustness(rows, Settings(0))
    page = to_html(rows, results, Settings(0), About("run"))
    assert "<b>\x1b" not in page
    assert "&lt;b&gt;" in page
    text = to_markdown(results, Settings(0), unread=unreadable(rows))
    assert "\\<b>" in text


def test_a_readable_table_has_no_warning() -> None:
    rows = table(0)
    results = robustness(rows, Settings(0))
    assert (
        "could not be read" not in to_markdown(results, Settings(0), unread=unreadable(rows)).partition("## Means")[0]
    )
    assert 'class="warning"' not in to_html(rows, results, Settings(0), About("run"))
