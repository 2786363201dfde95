"""A hosted model is tested like any other, against a local endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustlm.batch import View, collate
from robustlm.cli import main
from robustlm.evaluation.table import read_table
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.backends import BACKENDS, language_model
from robustlm.models.base import Answer, LanguageModel
from robustlm.models.hosted import HostedBackbone, Hosting
from robustlm.models.text import Characters
from robustlm.models.tuning import LoRA, PrefixTuning
from robustlm.modules import ANIT, AlignmentTuning, InstructionTuning
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.sample import Context, Sample
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
        (["--data.scoring=options"], "expected acc, acc_norm or acc_bytes"),
        (["--data.scoring=acc", "--data.template=chat"], "not after messages"),
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


WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def told(city: str, arguments: object) -> list[dict[str, Any]]:
    called = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return [
        {"role": "user", "content": f"How is the weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": '{"sky": "blue"}'},
        {"role": "assistant", "content": "Blue."},
    ]


def calls(request: dict[str, Any]) -> tuple[int, Any]:
    """Calls the tool for each question, with broken arguments for Rome, and answers after its result."""
    last = request["messages"][-1]
    message: dict[str, Any] = {"role": "assistant", "content": "Blue."}
    if last["role"] == "user":
        arguments = '{"city": "Rome"' if "Rome" in last["content"] else '{ "city":"Oslo" }'
        called = {"id": "9", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        message = {"role": "assistant", "content": None, "tool_calls": [called]}
    return 200, {"choices": [{"message": message, "finish_reason": "stop"}]}


def test_chats_with_tools_are_sent_as_they_are_and_calls_are_scored(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    endpoint.usual = calls
    endpoint.answers = [calls] * 3
    oslo, rome = told("Oslo", '{"city":  "Oslo"}'), told("Rome", {"city": "Rome"})
    rows = [{"messages": chat, "tools": [WEATHER]} for chat in (oslo[:2], rome[:2], rome)]
    file = write_rows(tmp_path / "tools.jsonl", rows)
    more = ("--data.template=chat", "--data.conditions=[clean]", "--model.hosting.concurrency=1")
    main(arguments(file, tmp_path / "a", *more))
    asked = {json.dumps(request["messages"]): request for request in endpoint.requests}
    assert len(asked) == 3
    assert all(request["tools"] == [WEATHER] for request in asked.values())
    (after,) = [request["messages"] for request in asked.values() if request["messages"][-1]["role"] == "tool"]
    sent = [rome[0], {**rome[1]}, rome[2]]
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}  # endpoints take arguments as text
    sent[1] = {**rome[1], "tool_calls": [{**rome[1]["tool_calls"][0], "function": function}]}
    assert after == sent
    table = {
        row["prompt"].rpartition("User: ")[2]: row for row in read_table(tmp_path / "a/version_0/predictions.parquet")
    }
    right = {asked.partition("?")[0] + str("Tool" in asked): row["correct"] for asked, row in table.items()}
    assert right == {
        "How is the weather in OsloFalse": True,
        "How is the weather in RomeFalse": False,
        "How is the weather in RomeTrue": True,
    }
    (broken,) = [row for asked, row in table.items() if "Rome" in asked and "Tool" not in asked]
    assert '{"city": "Rome"' in broken["prediction"]
    assert broken["task"] == "tool_calls"


def test_characters_are_counted() -> None:
    texts = ["naïve 🙂 …", ""]
    found = Characters()(texts, return_offsets_mapping=True)
    assert [len(ids) for ids in found["input_ids"]] == [9, 0]
    assert found["offset_mapping"][0][-1] == (8, 9)


def test_prompts_travel_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the ids are: what is asked is what the template wrote, shortened to the length limit."""
    model = HostedBackbone("openai:a", Hosting(cache=False))
    asked: list[str] = []
    monkeypatch.setattr(
        model, "_answers", lambda chats, _: [asked.append(one["content"]) or Answer("yes") for (one,), *_ in chats]
    )
    sample = Sample("a", "find", "no", Context(text="naïve 🙂 hello"))
    template = make_template("plain", model.tokenizer)
    whole = template.render(sample, sample.instruction).text
    for length in (1000, len(whole)):  # the second has room for the prompt, and none for the answer beside it
        encoder = Encoder(model.tokenizer, template, length)
        view = collate(encoder.encode([sample]), pad_id=encoder.pad_id, with_answer=False)
        view.input_ids.zero_()
        assert model.generate(view, 4) == ["yes"]
    assert asked[0] == whole
    answer = len(template.render(sample, "find").answer_prefix + "no") + 1
    assert asked[1] == whole.replace("naïve 🙂 hello", "naïve 🙂 hello"[:-answer])


def test_a_view_without_texts_is_refused() -> None:
    model = HostedBackbone("openai:a", Hosting(cache=False))
    encoder = Encoder(model.tokenizer, make_template("plain", model.tokenizer), 1000)
    view = collate(encoder.encode([Sample("a", "find", "no")]), pad_id=encoder.pad_id)
    with pytest.raises(ValueError, match="reads prompts as text, found 0 texts for 1 rows"):
        model.generate(view, 4)


def test_settings_without_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    hosted = ["openai:a", Loading(dtype="bfloat16", four_bit=True), PrefixTuning()]
    language_model(*hosted, usual_tuning=LoRA())  # type: ignore[arg-type]
    (said,) = caplog.messages
    assert said == (
        "backbone: openai:a is hosted elsewhere, so these settings have no effect: model.loading.dtype (bfloat16), "
        "model.loading.four_bit (True), model.tuning (PrefixTuning)"
    )
    caplog.clear()
    assert isinstance(language_model("builtin:tiny", hosting=Hosting(concurrency=3)), Backbone)
    (said,) = caplog.messages
    assert said.endswith("runs on this machine, so these settings have no effect: model.hosting.concurrency (3)")
    caplog.clear()
    InstructionTuning("openai:a")
    InstructionTuning("openai:a", tuning=None, hosting=Hosting(concurrency=2, cache=False))
    AlignmentTuning("openai:a")
    ANIT("openai:a")
    assert not caplog.messages, "what nobody chose is not named"


def test_settings_of_hosted_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = InstructionTuning("openai:a", hosting=Hosting(concurrency=2, cache=False))
    assert isinstance(module.backbone, HostedBackbone)
    assert module.backbone.hosting.concurrency == 2
    assert module.backbone._cache is None
    with pytest.raises(ValueError, match=r"hosting\.concurrency: found 0"):
        Hosting(concurrency=0)


class Parrot(LanguageModel):
    """The least that a model has to do."""

    closed = "is a parrot"

    def __init__(self, name: str, hosting: Hosting) -> None:
        super().__init__()
        self.name, self.tokenizer, self.config, self.is_encoder_decoder = name, Characters(), None, False

    @property
    def loaded(self) -> bool:
        return True

    def load(self) -> None:
        pass

    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        return [text[:max_new_tokens] for text in view.texts]


def test_another_backend_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "parrot:", Parrot)
    module = InstructionTuning("parrot:polly")
    encoder = Encoder(module.backbone.tokenizer, make_template("plain", module.backbone.tokenizer), 1000)
    view = collate(encoder.encode([Sample("a", "find", "no")]), pad_id=encoder.pad_id, with_answer=False)
    assert module.backbone.generate(view, 4) == [view.texts[0][:4]]
    for ask in (module.backbone.check_tunable, lambda: module.backbone(view), lambda: module.backbone.embed(None)):
        with pytest.raises(ValueError, match="parrot:polly is a parrot: it can be tested by generation, but not be"):
            ask()
    with pytest.raises(ValueError, match="parrot:polly is a parrot and shows no hidden states"):
        module.backbone.hidden_states(view)
