"""A hosted model is tested like any other, against a local endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.evaluation.table import read_table
from robustlm.models.hosted import Characters
from tests.endpoint import SECRET, LocalEndpoint, fail
from tests.tiny import write_rows


def says(request: dict[str, Any]) -> tuple[int, Any]:
    """Finds every film good that is called so, and says it in the format of the task."""
    prompt = request["messages"][0]["content"]
    text = "label: good" if "fine film" in prompt else "label: bad"
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalEndpoint]:
    pytest.importorskip("openai")
    found = LocalEndpoint(says)
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr("robustlm.models.hosted.CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield found
    found.close()


@pytest.fixture
def rows(tmp_path: Path) -> str:
    made = [
        {
            "id": f"r{i}",
            "sentence": f"a {'fine' if i % 2 else 'dull'} film – n° {i} “é”",
            "label": ("bad", "good")[i % 2],
        }
        for i in range(6)
    ]
    return write_rows(tmp_path / "rows.jsonl", made)


def arguments(rows: str, folder: Path, *more: str) -> list[str]:
    return [
        "test", "--model=InstructionTuning", "--model.backbone=openai:some-model", "--model.max_new_tokens=8",
        "--data=RobustnessDataModule", f"--data.test={rows}", "--data.prompts=2",
        "--data.conditions=[clean,random_typos@0.3]", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder}", *more,
    ]  # fmt: skip


def test_a_hosted_model_is_tested_and_asked_once(endpoint: LocalEndpoint, rows: str, tmp_path: Path) -> None:
    main(arguments(rows, tmp_path / "a"))
    table = read_table(tmp_path / "a/version_0/predictions.parquet")
    assert len(table) == 6 * 2 * 2
    assert all(row["correct"] for row in table)
    assert len(endpoint.requests) == 24
    asked = endpoint.requests[0]
    assert asked["model"] == "some-model"
    assert asked["temperature"] == 0
    assert asked["max_tokens"] == 8
    prompts = [request["messages"][0]["content"] for request in endpoint.requests]
    assert all(prompt.startswith("Instruction: ") and prompt.endswith(" Answer:") for prompt in prompts)
    assert any("a fine film – n° 1 “é”" in prompt for prompt in prompts)
    main(arguments(rows, tmp_path / "b"))
    assert len(endpoint.requests) == 24
    assert read_table(tmp_path / "b/version_0/predictions.parquet") == table
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert SECRET.encode() not in kept


def test_an_endpoint_that_fails_for_good_loses_nothing(
    endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.answers = [says, says, says, fail(401, "no")]
    with pytest.raises(SystemExit):
        main(arguments(rows, tmp_path / "a", "--data.eval_batch_size=1"))
    said = capsys.readouterr().err
    assert "OPENAI_API_KEY" in said
    assert "HTTP 401" in said
    assert SECRET not in said
    count = len(endpoint.requests)
    main(arguments(rows, tmp_path / "a", "--data.eval_batch_size=1", f"--predictions.resume={tmp_path}/a/version_0"))
    assert len(endpoint.requests) == count + 24 - 3
    assert len(read_table(tmp_path / "a/version_0/predictions.parquet")) == 24


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data.scoring=options"], "neither its loss nor the likelihood of options is known"),
        (["--data.template=chat"], "no chat template"),
        (["--model.backbone=openai:"], "names no model"),
    ],
)
def test_what_a_hosted_model_cannot_do(
    more: list[str], said: str, endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments(rows, tmp_path / "a", *more))
    assert said in capsys.readouterr().err


def test_it_is_not_tuned(
    endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", *arguments(rows, tmp_path)[1:], f"--data.train={rows}"]
    with pytest.raises(SystemExit):
        main(fit)
    assert "but not be tuned" in capsys.readouterr().err


def test_characters_are_text_and_back() -> None:
    tokenizer = Characters()
    texts = ["naïve 🙂 …", ""]
    found = tokenizer(texts, return_offsets_mapping=True)
    import torch

    assert [tokenizer.decode(torch.tensor([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id])) for ids in found["input_ids"]] == texts  # fmt: skip  # noqa: E501
    assert found["offset_mapping"][0][-1] == (len(texts[0]) - 1, len(texts[0]))
