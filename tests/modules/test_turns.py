"""Training on chats: several trained replies in a row, and variants whose replies stand elsewhere."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustlm.batch import IGNORE, InstructionBatch, View
from robustlm.cli.check import rendered
from robustlm.datamodules import (
    ContrastiveDataModule,
    InstructionDataModule,
    NoisyInstructionDataModule,
    ParaphraseDataModule,
)
from robustlm.datamodules.sampling import BatchKey
from robustlm.models.backbone import Backbone
from robustlm.modules import Alignment
from robustlm.modules.passes import Passes
from robustlm.noise.base import Noise
from tests.tiny import load, write_rows

ENDED = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
"""Replies end as answers do, by the end token, so a chat is the sum of its replies."""
CHATS = [
    ["Name the words of the text.", "hello world", "Name all the people in it.", "no one", "And the places?", "none"],
    ["Is it good or bad?", "It is good", "Say it in other words.", "bad it is not"],
    ["Find every word", "yes"],
]
TEXTS = {text for chat in CHATS for text in chat[::2]}


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [
        {
            "id": f"c{n}",
            "messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(chat)],
        }
        for n, chat in enumerate(CHATS)
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "chats.jsonl", rows)


@pytest.fixture(scope="module")
def talking(llama: str) -> Backbone:
    backbone = load(llama, None)
    backbone.tokenizer = copy.copy(backbone.tokenizer)
    backbone.tokenizer.chat_template = ENDED
    return backbone


def read(kind: Any, model: Backbone, chats: str, **settings: Any) -> Any:
    data = kind(**{"train": chats, "template": "chat", "batch_size": 8, **settings})
    data.connect(model)
    data.setup("fit")
    return data


def batch_of(data: Any) -> InstructionBatch:
    dataset = data.train_dataset(data.rows["train"])
    batch: InstructionBatch = dataset[BatchKey(0, tuple(range(len(dataset))))]
    return batch


def spans(view: View, row: int) -> list[list[int]]:
    """Trained tokens of a row, span by span."""
    found: list[list[int]] = [[]]
    for label in view.labels[row].tolist():
        if label != IGNORE:
            found[-1].append(label)
        elif found[-1]:
            found.append([])
    return [span for span in found if span]


def test_all_replies_of_a_row_cost_what_each_costs_in_a_row_of_its_own(chats: str, talking: Backbone) -> None:
    found: dict[str, InstructionBatch] = {}
    data = {name: read(InstructionDataModule, talking, chats, assistant_turns=name) for name in ("all", "each", "last")}
    losses = {}
    for name, one in data.items():
        found[name] = batch_of(one)
        passes = Passes(talking, found[name])
        losses[name] = dict(zip(found[name].ids, passes.row_losses("raw").tolist(), strict=True))
        assert sum(one.rows["train"].answer_tokens) == int(passes.token_count("raw")), "tokens are counted alike"
    assert found["all"].ids == found["last"].ids == ["c0", "c1", "c2"]
    assert sorted(found["each"].ids) == ["c0", "c0#1", "c0#2", "c1", "c1#1", "c2"]
    assert data["all"].rows["train"].answer_tokens != data["last"].rows["train"].answer_tokens
    for id in ("c0", "c1", "c2"):
        parts = [loss for name, loss in losses["each"].items() if name.partition("#")[0] == id]
        assert losses["all"][id] == pytest.approx(sum(parts), rel=1e-4)
        assert losses["last"][id] == pytest.approx(losses["each"][id], rel=1e-4)
    assert [len(spans(found["all"].raw, row)) for row in range(3)] == [3, 2, 1]


def test_a_step_counts_the_tokens_of_all_replies(chats: str, talking: Backbone) -> None:
    data = read(InstructionDataModule, talking, chats, assistant_turns="all")
    (batch,) = data.train_dataloader()
    assert batch.step_tokens == (batch.raw.labels != IGNORE).sum()


@pytest.mark.parametrize("pooling", ["prompt_end", "last", "mean"])
def test_a_rows_state_does_not_depend_on_which_replies_are_trained(chats: str, talking: Backbone, pooling: Any) -> None:
    views = [batch_of(read(InstructionDataModule, talking, chats, assistant_turns=n)).raw for n in ("last", "all")]
    last, every = (talking(view, None, pooling).state for view in views)
    torch.testing.assert_close(last, every)
    hidden, same = (talking.hidden_states(view, -1, pooling) for view in views)
    torch.testing.assert_close(hidden, same)


def varied(chats: str, talking: Backbone, **settings: Any) -> tuple[InstructionBatch, Any]:
    data = read(
        NoisyInstructionDataModule,
        talking,
        chats,
        assistant_turns="all",
        noisy_turns="all",
        noise=Noise("random_insertion", 1.0, 1.0),
        variants=2,
        **settings,
    )
    return batch_of(data), data


def test_answers_align_by_their_tokens_where_earlier_turns_have_other_lengths(chats: str, talking: Backbone) -> None:
    batch, _ = varied(chats, talking)
    raw, variant = batch.raw, batch.variant
    assert variant is not None
    places = [
        (view.labels[row] != IGNORE).nonzero()[:, 0] - view.labels.shape[1] for view, row in ((raw, 0), (variant, 0))
    ]
    assert not torch.equal(*places), "replies stand at other positions, also counted from the end"
    for row in range(6):
        assert spans(variant, row) == spans(raw, row // 2)
    found = Alignment(weight=0.5).loss(Passes(talking, batch))
    logits = [_logits(talking, view) for view in (raw, variant)]
    total, count = torch.zeros(()), 0
    for row in range(6):
        p, q = (
            of[at][:-1][view.labels[at, 1:] != IGNORE]
            for of, view, at in ((logits[1], variant, row), (logits[0], raw, row // 2))
        )
        for one, other in zip(p, q, strict=True):
            total = total + F.kl_div(other.log_softmax(-1), one.log_softmax(-1), reduction="sum", log_target=True)
            count += 1
    torch.testing.assert_close(found, total / count, rtol=1e-4, atol=1e-6)


def _logits(model: Backbone, view: View) -> Tensor:
    """Logits `[R, T, V]` of every position, by the model itself."""
    mask = view.attention_mask
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        found: Tensor = model.base(input_ids=view.input_ids, attention_mask=mask, position_ids=positions).logits
    return found


def test_an_alignment_of_other_tokens_is_refused(chats: str, talking: Backbone) -> None:
    batch, _ = varied(chats, talking)
    assert batch.variant is not None
    labels = batch.variant.labels.clone()
    at = (labels[1] != IGNORE).nonzero()[0, 0]
    labels[1, at] += 1
    changed = replace(batch, variant=replace(batch.variant, labels=labels))
    with pytest.raises(ValueError, match="other answer tokens than their raw rows"):
        Passes(talking, changed).reference_logits("variant")


# ------------------------------------------------------------------------------- what is varied


def shown(view: View, talking: Backbone) -> list[str]:
    return [
        talking.tokenizer.decode([i for i, seen in zip(ids, mask, strict=True) if seen])
        for ids, mask in zip(view.input_ids.tolist(), view.attention_mask.tolist(), strict=True)
    ]


def test_noise_reaches_all_user_turns_and_no_reply(chats: str, talking: Backbone) -> None:
    batch, data = varied(chats, talking)
    again, _ = varied(chats, talking)
    assert batch.variant is not None
    assert again.variant is not None
    texts = shown(batch.variant, talking)
    assert texts == shown(again.variant, talking)
    for row, text in enumerate(texts):
        turns = text.split("<s>")[1:]
        for turn, own in zip(turns, CHATS[row // 2], strict=True):
            said = turn.partition("\n")[2].removesuffix("</s>").strip().replace(" ", "")
            assert (said == own.replace(" ", "")) == turn.startswith(("assistant", " assistant")), (turn, own)
    dataset = data.train_dataset(data.rows["train"])
    assert shown(dataset[BatchKey(1, (0, 1, 2))].variant, talking) != texts, "other noise in the next epoch"
    last = batch_of(read(NoisyInstructionDataModule, talking, chats, noise=Noise("random_insertion", 1.0, 1.0)))
    assert last.variant is not None
    assert all(CHATS[row][0] in text for row, text in enumerate(shown(last.variant, talking)) if len(CHATS[row]) > 2)


def test_distortion_is_that_of_all_that_the_user_says(chats: str, talking: Backbone) -> None:
    data = read(
        NoisyInstructionDataModule,
        talking,
        chats,
        noisy_turns="all",
        beta="sample",
        noise=Noise("random_typos", 0.3, 1.0),
    )
    batch = batch_of(data)
    dataset = data.train_dataset(data.rows["train"])
    epoch = dataset._variants_of(0)
    for row, chat in enumerate(CHATS):
        said = [text for role, text in epoch.turns[0][row] if role == "user"] + [epoch.texts[0][row]]
        expected = data.distortion.measure(["\n\n".join(chat[::2])], ["\n\n".join(said)], [True])
        assert batch.beta is not None
        assert float(batch.beta[row]) == pytest.approx(float(expected[0]), abs=1e-6)


@pytest.mark.parametrize("kind", [ParaphraseDataModule, ContrastiveDataModule])
def test_paraphrases_of_all_user_turns(kind: Any, chats: str, talking: Backbone, tmp_path: Path) -> None:
    rows = [{"instruction": text, "paraphrases": [f"{text} Please!"]} for text in sorted(TEXTS)]
    file = write_rows(tmp_path / "paraphrases.jsonl", rows)
    more = {"group_size": 1} if kind is ContrastiveDataModule else {}
    for turns in ("last", "all"):
        batch = batch_of(read(kind, talking, chats, paraphrases=file, noisy_turns=turns, **more))
        assert batch.variant is not None
        counts = [text.count("Please!") for text in shown(batch.variant, talking)]
        assert counts == ([3, 2, 1] if turns == "all" else [1, 1, 1])


def test_conditions_of_a_test_vary_all_user_turns_too(chats: str, talking: Backbone) -> None:
    texts = {}
    for turns in ("last", "all"):
        data = InstructionDataModule(
            test=chats, template="chat", conditions=["clean", "random_insertion@0.5"], noisy_turns=turns
        )
        data.connect(talking)
        data.setup("test")
        texts[turns] = {name: [row.text for row in rows.encoded] for name, rows in data.conditioned.items()}
    noisy = "random_insertion@0.5"
    assert texts["last"]["clean"] == texts["all"]["clean"]
    assert CHATS[0][0] in texts["last"][noisy][0]
    assert CHATS[0][0] not in texts["all"][noisy][0]
    assert CHATS[0][1] in texts["all"][noisy][0]


# -------------------------------------------------------------------------------- what is refused, and shown


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"template": "plain", "assistant_turns": "all"}, r"c0: data\.assistant_turns: found all with a template that"),
        ({"assistant_turns": "first"}, r"data\.assistant_turns: found 'first'; expected one of last, all, each"),
        ({"chat_template_kwargs": {"think": [1]}}, r"data\.chat_template_kwargs: found \{'think': \[1\]\}; expected n"),
        ({"chat_template_kwargs": ["think"]}, r"data\.chat_template_kwargs: found \['think'\]; expected numbers"),
        ({"noisy_turns": "every"}, r"data\.noisy_turns: found 'every'; expected one of last, all"),
        ({"noisy_turns": "all", "bank": "ner"}, r"data\.noisy_turns: found all with data\.bank 'ner'"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], says: str, chats: str, talking: Backbone) -> None:
    with pytest.raises(ValueError, match=says):
        read(InstructionDataModule, talking, chats, **settings)


def test_an_encoder_decoder_trains_one_answer_a_row(chats: str, t5: str) -> None:
    model = load(t5, None)
    model.tokenizer = copy.copy(model.tokenizer)
    model.tokenizer.chat_template = ENDED
    with pytest.raises(ValueError, match="found all with an encoder–decoder, which writes one answer a row"):
        read(InstructionDataModule, model, chats, assistant_turns="all")
    assert len(read(InstructionDataModule, model, chats, assistant_turns="each").rows["train"]) == 6


def test_check_marks_every_trained_reply(chats: str, talking: Backbone) -> None:
    batch = batch_of(read(InstructionDataModule, talking, chats, assistant_turns="all"))
    line = rendered(batch.raw, talking.tokenizer)[1]
    assert line.count("«") == line.count("»") == 2
    before, first, rest = line.replace("»", "«").split("«")[:3]
    assert "Is it good" in before
    assert first.strip().removesuffix("</s>").strip() == "It is good"
    assert "Say it in other words" in rest


def test_options_are_scored_by_the_option_alone(talking: Backbone, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good people"}]
    row = {"instruction": "Is it so?", "target": "yes", "choices": ["yes", "no no"], "turns": turns, "id": "c"}
    file = write_rows(tmp_path / "rows.jsonl", [row])
    data = InstructionDataModule(train=file, validation=file, template="chat", scoring="options", assistant_turns="all")
    data.connect(talking)
    data.setup("fit")
    (batch,) = data.val_dataloader()[0]
    assert len(spans(batch.raw, 0)) == 2
    assert [len(spans(batch.options, at)) for at in range(2)] == [1, 1]


# ------------------------------------------------------------------------- tools

CALLING = (
    "{% if tools %}<s>{{ tools[0] | tojson }}</s>{% endif %}{% for m in messages %}<s>{{ m.role }}\n"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}"
    "{% else %}{{ m.content | trim }}{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture
def calling(llama: str) -> Backbone:
    backbone = load(llama, None)
    backbone.tokenizer = copy.copy(backbone.tokenizer)
    backbone.tokenizer.chat_template = CALLING
    return backbone


@pytest.fixture
def with_tools(tmp_path: Path) -> str:
    def call(text: str) -> dict[str, Any]:
        return {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": {"text": text}}}]}

    chat = [
        {"role": "user", "content": "Name the words of the text."},
        call("hello"),
        {"role": "tool", "content": "world"},
        {"role": "assistant", "content": "hello world"},
        {"role": "user", "content": "Find every word"},
        call("no one"),
        {"role": "tool", "content": "people"},
    ]
    offered = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
    rows = [
        {"id": "c0", "messages": [*chat, {"role": "assistant", "content": "no people"}], "tools": offered},
        {"id": "c1", "messages": chat[:2], "tools": offered},
    ]
    return write_rows(tmp_path / "tools.jsonl", rows)


def test_calls_of_tools_are_trained_and_results_are_not(with_tools: str, calling: Backbone) -> None:
    losses = {}
    for name in ("all", "each"):
        batch = batch_of(read(InstructionDataModule, calling, with_tools, assistant_turns=name))
        losses[name] = dict(zip(batch.ids, Passes(calling, batch).row_losses("raw").tolist(), strict=True))
        trained = [calling.tokenizer.decode(one) for row in range(len(batch)) for one in spans(batch.raw, row)]
        assert len(trained) == 5, "three calls and two answers"
        assert sum("find" in text for text in trained) == 3
        assert not any("world" in text and "hello" not in text for text in trained)
        assert all(text.endswith("</s>") and text.count("</s>") == 1 for text in trained)
    assert sorted(losses["each"]) == ["c0", "c0#1", "c0#2", "c0#3", "c1"]
    parts = [loss for name, loss in losses["each"].items() if name.partition("#")[0] == "c0"]
    assert losses["all"]["c0"] == pytest.approx(sum(parts), rel=1e-4)
    assert losses["all"]["c1"] == pytest.approx(losses["each"]["c1"], rel=1e-4)


@pytest.mark.parametrize("turns", ["last", "all", "each"])
@pytest.mark.parametrize("kind", [InstructionDataModule, NoisyInstructionDataModule])
def test_chats_with_tools_are_the_same_from_the_cache(
    kind: type[InstructionDataModule], turns: str, with_tools: str, calling: Backbone, tmp_path: Path
) -> None:
    kept = [{"cache_dir": None}, {"cache_dir": str(tmp_path / "cache"), "cache_above": 0}]
    memory, stored = (read(kind, calling, with_tools, assistant_turns=turns, **one) for one in kept)
    assert stored.rows["train"].stored
    assert list(stored.rows["train"].samples) == list(memory.rows["train"].samples)
    ours, theirs = batch_of(stored), batch_of(memory)
    assert ours.ids == theirs.ids
    for name in ("raw", "variant"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one is None) is (other is None)
        if one is not None:
            assert torch.equal(one.input_ids, other.input_ids)
            assert torch.equal(one.labels, other.labels)


def test_noise_changes_what_the_user_says_and_nothing_of_tools(with_tools: str, calling: Backbone) -> None:
    batch, data = varied(with_tools, calling)
    assert batch.variant is not None
    decode = calling.tokenizer.decode
    for row, view in ((0, batch.raw), (0, batch.variant), (1, batch.variant)):
        text = decode(view.input_ids[row][view.attention_mask[row].bool()])
        for kept in ('{"type": "function"', '"text": "hello"', '"text": "no one"', "tool world", "tool people"):
            assert kept.replace(" ", "") in text.replace(" ", "").replace("\n", ""), kept
        asked = "Namethewordsofthetext." in text.replace(" ", "")
        assert asked is (view is batch.raw), "all turns of the user have noise"
    raw, variant = spans(batch.raw, 0), spans(batch.variant, 0)
    assert raw == variant, "replies keep their tokens"
    assert data.rows["train"].samples[1].task == "tool_calls"
