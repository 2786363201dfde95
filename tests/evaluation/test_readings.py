"""Two readings of every answer: columns of the table, scores of a test, reports and comparisons for either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from robustlm.cli import main
from robustlm.evaluation.readings import as_read, differences, readings, warning, with_lenient
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.evaluation.scores import Scores
from robustlm.evaluation.table import read_table
from tests.endpoint import SECRET, LocalEndpoint
from tests.tiny import write_rows

LABELS = ("equivalent", "not_equivalent")


def chats(request: dict[str, Any]) -> tuple[int, Any]:
    """Answers as chat models do: right, and never in the format that was asked for."""
    label = "not_equivalent" if "another" in request["messages"][0]["content"] else "equivalent"
    content = label if label == "not_equivalent" else "**Equivalent**."
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalEndpoint]:
    pytest.importorskip("openai")
    found = LocalEndpoint(chats)
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr("robustlm.models.hosted.CACHE", str(tmp_path / "cache"))
    yield found
    found.close()


def test_a_chat_model_that_never_writes_the_format(
    endpoint: LocalEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [("same", LABELS[0]), ("another", LABELS[1])] * 4
    made = [
        {"sentence1": f"text {i}", "sentence2": f"{word} {i}", "label": label} for i, (word, label) in enumerate(pairs)
    ]
    rows = write_rows(tmp_path / "pairs.jsonl", made)
    main(["test", "-c", "robustness", "--model.backbone=openai:mock", f"--data.test={rows}", "--data.prompts=2",
          "--data.conditions=[clean]", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
          f"--trainer.default_root_dir={tmp_path}/runs"])  # fmt: skip
    said = capsys.readouterr()
    assert (
        "answers to pairs (tc): 16 of 16 are read differently; the score is 0.0 % strict and 100.0 % lenient"
        in said.err
    )
    assert "expected 'label: not_equivalent', the model answered 'not_equivalent', read as 'not_equivalent'" in said.err
    assert "the same, lenient reading, %" in said.out
    run = f"{tmp_path}/runs/version_0"
    table = read_table(Path(run) / "predictions.parquet")
    assert all(row.parsed is None and row.lenient_correct and row.labels == list(LABELS) for row in table)

    for reading, score in (("strict", 0.0), ("lenient", 1.0)):
        main(["report", run, "--reading", reading, "--output", f"{tmp_path}/{reading}"])
        text = (tmp_path / reading / "robustness.md").read_text(encoding="utf-8")
        page = (tmp_path / reading / "robustness.html").read_text(encoding="utf-8")
        found = json.loads((tmp_path / reading / "robustness.json").read_text(encoding="utf-8"))
        assert f"All numbers are for the {reading} reading of answers" in text
        assert "reads 16 of 16 answers differently" in text
        assert "reads 16 of 16 answers differently" in page
        assert found["reading"] == reading
        assert found["readings"][0]["gained"] == 16
        mean = next(one for one in found["numbers"] if one["number"] == "mean" and not one["dataset"])
        assert mean["value"] == score
        # a score that depends on the reading is a warning, where the strict one is shown
        assert ("depends on how answers are read" in text) is (reading == "strict")
        assert ("depends on how answers are read" in page) is (reading == "strict")
    capsys.readouterr()
    main(["compare", f"a={run}", f"b={run}", "--reading", "lenient"])
    assert "100.0" in capsys.readouterr().out
    main(["compare", f"a={run}", f"b={run}", "--output", f"{tmp_path}/both"])
    said = capsys.readouterr().out
    assert "The score of a depends on how answers are read" in said
    guessing = "Guessing scores 50.0 % by chance, 50.0 % with the most frequent label."
    assert guessing in said
    assert guessing in (tmp_path / "both" / "comparison.html").read_text(encoding="utf-8")


def row(prediction: str, target: str = "good", sample: str = "s", **others: Any) -> Record:
    correct = prediction == target
    plain: dict[str, Any] = {
        "sample_id": sample, "dataset": "mood", "task": "tc_bare", "condition": "clean", "instruction_id": "i",
        "prediction": prediction, "parsed": [[prediction]], "target": target, "correct": correct,
    }  # fmt: skip
    return Record(**(plain | others))


@pytest.mark.parametrize(
    ("said", "target", "differing"),
    [
        ("Rome.", "Oslo", 0),  # wrong either way, and the same text but for the full stop
        ("A cat sat there.", "A cat sat there.", 0),
        ('"A cat sat there."', "A cat sat there.", 1),  # only leniently right
        ("Oslo.", "Oslo", 1),
        ("The answer is Rome.", "Oslo", 1),  # wrong either way, but another text is read
        ("<think>Rome? No.</think>", "Oslo", 1),  # no answer in the lenient reading
        ("Oslo", "Oslo", 0),
    ],
)
def test_a_full_stop_alone_is_no_difference_of_free_text(said: str, target: str, differing: int) -> None:
    found = differences([row(said, target, task="generation", lenient=None)])
    assert sum(one.differing for one in found) == differing
    assert readings([row(said, target, task="generation")]).said.endswith(
        "reads 1 of 1 answers differently." if differing else "reads none of 1 answers differently."
    )


def test_a_label_with_a_full_stop_is_read_differently() -> None:
    """The strict reading knows no such label: the answer agrees with no other one."""
    assert differences([row("bad.", "good", labels=["good", "bad"])])[0].differing == 1


def test_a_bare_answer_in_markdown_is_read_and_never_matches() -> None:
    """Strictly, `**Good**.` is a class of its own: nothing is unreadable, and the score is 0."""
    rows = [row("**Good**.", "good" if i % 2 else "bad", str(i)) for i in range(10)]
    (found,) = differences(rows)
    assert (found.differing, found.gained, found.strict, found.lenient) == (10, 5, 0.0, 0.5)
    assert "the score is 0.0 % strict and 50.0 % lenient" in warning([found])


def test_tables_of_earlier_versions_are_read_leniently_too(tmp_path: Path) -> None:
    """Their labels are those in the true answers of the data set, never that of the row alone."""
    old = [row("Good!", "good", "1"), row("not good", "bad", "2"), row("bad", "bad", "3")]
    found = with_lenient(old)
    assert [one.lenient for one in found] == [[["good"]], None, [["bad"]]]
    assert [one.lenient_correct for one in found] == [True, False, True]
    assert found[0].labels == ["good", "bad"]
    assert with_lenient(found) == found
    asked = [replace(one, target=None, correct=None) for one in old]
    assert with_lenient(asked) == asked


def test_every_number_can_be_computed_for_either_reading() -> None:
    rows = [row("Good.", "good", "1"), row("bad", "good", "2")]
    values = {}
    for reading in ("strict", "lenient"):
        own = as_read(with_lenient(rows), reading)  # type: ignore[arg-type]
        (result, *_) = robustness(own, Settings(0))
        values[reading] = result.numbers["mean"].value
        scores = Scores()
        scores.count(own)
        assert float(scores.compute()["clean/mean"]) == values[reading]
        assert float(scores.compute()["clean/mood/lenient_accuracy"]) == 0.5
        assert float(scores.compute()["clean/lenient_mean"]) == 0.5
    assert values == {"strict": 0.0, "lenient": 0.5}
    with pytest.raises(ValueError, match="reading: found 'loose'; expected strict or lenient"):
        as_read(rows, "loose")  # type: ignore[arg-type]


def test_items_and_free_text_have_two_scores() -> None:
    names = row("- PER: Ada\n- LOC: Oslo", "PER: Ada; LOC: Oslo", task="ner", parsed=[["- PER", "Ada - LOC: Oslo"]])
    text = row("The answer is **Oslo**.", "oslo", dataset="facts", task="generation")
    scores = Scores()
    scores.count(with_lenient([names, text]))
    found = {name: float(value) for name, value in scores.compute().items()}
    assert (found["clean/mood/f1"], found["clean/mood/lenient_f1"]) == (0.0, 1.0)
    assert (found["clean/facts/accuracy"], found["clean/facts/lenient_accuracy"]) == (0.0, 1.0)
    lenient = Scores()
    lenient.count(as_read([names, text], "lenient"))
    assert float(lenient.compute()["clean/mean"]) == 1.0


def test_readings_that_agree_are_said_to_agree() -> None:
    found = readings([row("good"), row("bad", "bad", "2")])
    assert found.said == (
        "All numbers are for the strict reading of answers; the lenient one reads none of 2 answers differently."
    )
    assert found.large == []


def test_a_table_without_the_columns_is_read(tmp_path: Path) -> None:
    from robustlm.evaluation.table import write_table

    write_table(tmp_path / "t.parquet", [row("Good.")])
    table = pq.read_table(tmp_path / "t.parquet").drop_columns(["lenient", "lenient_correct", "labels"])
    pq.write_table(table, tmp_path / "t.parquet")
    (found,) = read_table(tmp_path / "t.parquet")
    assert found.lenient is found.lenient_correct is found.labels is None
