"""Chats of several turns: their roles, what is trained, what is perturbed, and what is cut."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from robustlm.batch import IGNORE
from robustlm.datamodules import InstructionDataModule, NoisyInstructionDataModule
from robustlm.models.text import Characters
from robustlm.noise.base import Noise
from robustlm.prompts.base import Origin
from robustlm.prompts.chat import ChatTemplate
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.sample import Context, Sample, is_request
from robustlm.sources.loading import load as load_rows
from robustlm.sources.samples import load_samples
from robustlm.sources.shapes import read_robustlm, robustlm_row
from robustlm.tools.tokenizer import train_tokenizer
from tests.prompts.test_encoding import CHAT
from tests.prompts.test_templates import Chat, pieces
from tests.tiny import load, write_rows

SYSTEM = ("system", "Be brief.")
TURNS = (SYSTEM, ("user", "Name a city."), ("assistant", "Oslo."))
TALK = Sample("a", "And another one?", "Bergen.", turns=TURNS)
MESSAGES = [
    *({"role": role, "content": text} for role, text in TURNS),
    {"role": "user", "content": TALK.instruction},
    {"role": "assistant", "content": TALK.target},
]


class NoSystem(Chat):
    """A template that refuses system messages, as Gemma's does."""

    def apply_chat_template(self, messages: list[dict[str, str]], **kwargs: Any) -> str:
        if messages[0]["role"] == "system":
            from jinja2 import TemplateError

            raise TemplateError("System role not supported")
        return super().apply_chat_template(messages, **kwargs)


def test_roles_go_through_the_chat_template() -> None:
    prompt = ChatTemplate(Chat()).render(TALK, "And a nother one?")
    assert prompt.text == "<system>Be brief.<user>Name a city.<assistant>Oslo.<user>And a nother one?<assistant>"
    assert pieces(prompt, Origin.INSTRUCTION) == ["And a nother one?"]
    assert pieces(prompt, Origin.CONTEXT) == []
    assert [prompt.text[a:b] for a, b in prompt.given] == ["Be brief.", "Name a city.", "Oslo.", "And a nother one?"]
    developer = replace(TALK, turns=(("developer", "Be brief."),))
    assert ChatTemplate(Chat()).render(developer, "Hi").text == "<developer>Be brief.<user>Hi<assistant>"


class SystemLast(Chat):
    """A template that writes the system message before the last question, as Mistral's does."""

    def apply_chat_template(self, messages: list[dict[str, str]], **kwargs: Any) -> str:
        (system, *turns) = messages if messages[0]["role"] == "system" else [None, *messages]
        opening = f"{system['content']}\n\n" if system else ""
        last = {"role": "user", "content": opening + turns[-1]["content"]}
        return super().apply_chat_template([*turns[:-1], last], **kwargs)


def test_a_template_may_write_the_system_message_where_it_likes() -> None:
    prompt = ChatTemplate(SystemLast()).render(TALK, "Another?")
    assert prompt.text == "<user>Name a city.<assistant>Oslo.<user>Be brief.\n\nAnother?<assistant>"
    assert pieces(prompt, Origin.INSTRUCTION) == ["Another?"]


@pytest.mark.parametrize(
    ("tokenizer", "text", "says"),
    [
        (NoSystem(), "<user>Be brief.\n\nName a city.<assistant>Oslo.<user>Another?<assistant>", "no system message"),
        (
            Chat(turns="one"),
            "<user>System: Be brief.\n\nUser: Name a city.\n\nAssistant: Oslo.\n\n"
            "User: Another?\n\nAssistant:<assistant>",
            "no earlier turns",
        ),
    ],
)
def test_templates_that_take_no_system_or_no_turns(
    tokenizer: Chat, text: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    template = ChatTemplate(tokenizer)
    for _ in range(2):
        prompt = template.render(TALK, "Another?")
    assert prompt.text == text
    assert pieces(prompt, Origin.INSTRUCTION) == ["Another?"]
    assert sum(says in record.getMessage() for record in caplog.records) == 1, "said once"


SENT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a city."},
    {"role": "assistant", "content": "Oslo."},
    {"role": "user", "content": "Another?"},
]


def talkative() -> Characters:
    """The tokenizer of a hosted model that is sent messages."""
    tokenizer = Characters()
    tokenizer.takes_messages = True
    return tokenizer


def test_a_prompt_knows_its_messages() -> None:
    for tokenizer in (Chat(), SystemLast()):
        assert ChatTemplate(tokenizer).render(TALK, "Another?").messages == SENT
    hosted = make_template("chat", talkative()).render(TALK, "Another?")
    assert hosted.messages == SENT
    assert hosted.text == "System: Be brief.\n\nUser: Name a city.\n\nAssistant: Oslo.\n\nUser: Another?"
    assert pieces(hosted, Origin.INSTRUCTION) == ["Another?"]
    alone = make_template("chat", talkative()).render(replace(TALK, turns=()), "Another?")
    assert (alone.text, alone.messages) == ("Another?", [SENT[-1]])
    folded = ChatTemplate(NoSystem()).render(TALK, "Another?").messages
    assert folded == [{"role": "user", "content": "Be brief.\n\nName a city."}, *SENT[2:]]
    assert make_template("plain", None).render(TALK, "Another?").messages is None
    with pytest.raises(ValueError, match="no chat template"):
        make_template("chat", Characters())


@pytest.mark.parametrize("name", ["hosted", "local"])
def test_a_view_holds_messages_as_they_are_after_truncation(name: str) -> None:
    tokenizer: Any = talkative() if name == "hosted" else encoder().tokenizer
    sample = replace(TALK, context=Context(text="one two three four"))
    long = Encoder(tokenizer, make_template("chat", tokenizer), 512).encode_untruncated([sample])[0]
    short = Encoder(tokenizer, make_template("chat", tokenizer), len(long) - 4)
    view = short.view([short.encode([sample])[0], short.encode([replace(TALK, turns=())])[0]], with_answer=False)
    (*first, last), alone = view.messages[0] or [], view.messages[1]
    assert first == SENT[:-1]
    asked = last["content"]
    assert asked.startswith(f"{TALK.instruction}\n\none two")
    assert not asked.endswith("four")
    assert asked in view.texts[0]
    assert alone == [{"role": "user", "content": TALK.instruction}]
    assert view.select(torch.tensor([1])).messages == (alone,)
    assert short.view([long]).messages == ()
    plain = Encoder(tokenizer, make_template("plain", tokenizer), 512)
    assert plain.view(plain.encode([TALK]), with_answer=False).messages == (None,)


def test_other_templates_name_the_roles_of_earlier_turns() -> None:
    plain = make_template("plain", None).render(TALK, "Another?")
    assert plain.text == (
        "System: Be brief.\n\nUser: Name a city.\n\nAssistant: Oslo.\n\nInstruction: Another? Answer:"
    )
    alpaca = make_template("alpaca", None).render(TALK, "Another?").text
    assert (
        "### System:\nBe brief.\n\n### User:\nName a city.\n\n### Assistant:\nOslo.\n\n"
        "### Instruction:\nAnother?\n\n### Response:\n"
    ) in alpaca
    own = make_template("Q: {instruction}\nA: ", None).render(TALK, "Another?").text
    assert own == "System: Be brief.\n\nUser: Name a city.\n\nAssistant: Oslo.\n\nQ: Another?\nA:"
    for prompt in (plain, make_template("alpaca", None).render(TALK, "Another?")):
        assert pieces(prompt, Origin.INSTRUCTION) == ["Another?"]


def test_chats_come_back_as_rows_of_our_own_shape() -> None:
    assert read_robustlm(robustlm_row(TALK), "a") == TALK


def encoder(max_length: int = 512) -> Encoder:
    tokenizer = train_tokenizer([json.dumps(MESSAGES)], 300)
    tokenizer.chat_template = CHAT
    return Encoder(tokenizer, make_template("chat", tokenizer), max_length)


def test_the_first_turns_are_left_out_first_and_the_system_message_stays() -> None:
    long = replace(TALK, turns=(SYSTEM, *TURNS[1:] * 3))
    whole = encoder().encode_untruncated([long])[0]
    kept, row = encoder(len(whole) - 1).fitted(long, whole)
    assert kept.turns == (SYSTEM, *TURNS[1:] * 2)
    assert encoder(len(whole) - 1).excess(row) <= 0
    bare = encoder().encode_untruncated([replace(TALK, turns=(SYSTEM,))])[0]
    assert encoder(len(bare)).fitted(long, whole)[0].turns == (SYSTEM,)


@pytest.fixture
def chats(tmp_path: Path) -> str:
    return write_rows(tmp_path / "chats.jsonl", [{"id": f"c{n}", "messages": MESSAGES} for n in range(6)])


@pytest.fixture
def talking(llama: str) -> Any:
    backbone = load(llama, None)
    backbone.tokenizer.chat_template = CHAT
    return backbone


def test_the_last_answer_is_trained_and_the_last_question_perturbed(chats: str, talking: Any) -> None:
    data = NoisyInstructionDataModule(train=chats, template="chat", noise=Noise("random_typos", 1.0), batch_size=6)
    data.connect(talking)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    decode = talking.tokenizer.decode
    raw, variant = batch.raw, batch.variant
    for view in (raw, variant):
        assert view is not None
        for row in range(6):
            trained = view.labels[row][view.labels[row] != IGNORE]
            assert decode(trained, skip_special_tokens=True).strip() == "Bergen."
            before = decode(view.input_ids[row]).replace(" ", "")
            assert "Bebrief." in before
            assert "Nameacity." in before
            assert "Oslo." in before
    assert {decode(raw.input_ids[row][raw.instruction_mask[row]]).strip() for row in range(6)} == {"And another one?"}
    noisy = {decode(variant.input_ids[row][variant.instruction_mask[row]]).strip() for row in range(6)}
    assert "And another one?" not in noisy
    assert not raw.context_mask.any()
    assert not variant.context_mask.any()


def test_rows_are_counted_whose_first_turns_do_not_fit(
    tmp_path: Path, talking: Any, caplog: pytest.LogCaptureFixture
) -> None:
    long = [*MESSAGES[:3], *MESSAGES[1:3] * 20, *MESSAGES[3:]]
    file = write_rows(tmp_path / "chats.jsonl", [{"messages": long}, {"messages": MESSAGES}])
    data = InstructionDataModule(train=file, template="chat", max_length=100)
    data.connect(talking)
    data.setup("fit")
    assert "the first turns of 1 of 2 rows were left out to fit max_length 100" in caplog.text
    kept, whole = data.rows["train"].samples
    assert kept.system == whole.system == (SYSTEM,)
    assert 0 < len(kept.history) < 42


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_a_system_message_for_rows_without_one(tmp_path: Path, talking: Any, template: str) -> None:
    rows = [{"messages": MESSAGES}, {"messages": MESSAGES[1:]}, {"prompt": "Name a city.", "completion": "Oslo."}]
    file = write_rows(tmp_path / "chats.jsonl", rows)
    data = InstructionDataModule(train=file, template=template, system=" Speak. ")
    data.connect(talking)
    data.setup("fit")
    assert [sample.system for sample in data.rows["train"].samples] == [(SYSTEM,), *[(("system", "Speak."),)] * 2]
    shown = [talking.tokenizer.decode(row.prompt_ids) for row in data.rows["train"].encoded]
    assert ["Speak." in text for text in shown] == [False, True, True]
    with pytest.raises(ValueError, match=r"data\.system: found ' '"):
        InstructionDataModule(train=file, system=" ")


# ------------------------------------------------------------------------- noise that changes what is asked


@pytest.mark.parametrize(
    ("sample", "request_itself"),
    [
        (TALK, True),
        (Sample("a", "Name a city.", "Oslo."), True),
        (Sample("a", "Translate.", "Oslo.", Context(text="Oslo.")), True),
        (Sample("a", "Classify.", "good", Context(option="good, bad", text="Oslo.")), False),
        (Sample("a", "Find.", "x: y", Context(format="type: word")), False),
        (Sample("a", "Say it.", "good", choices=("good", "bad")), False),
        (Sample("a", "Say it.", "good", bank="sentiment"), False),
        (Sample("a", "Say it.", "label: good", task="tc"), False),
        (Sample("a", "{x}?", "good", fields=(("x", "y"),)), False),
    ],
)
def test_what_is_a_request(sample: Sample, request_itself: bool) -> None:
    assert is_request(sample) is request_itself


def test_a_request_is_not_turned_around_unless_weights_say_so() -> None:
    asked, ids = ["Is it good to name every city of a country?"] * 300, [str(n) for n in range(300)]
    flags = [n % 2 == 0 for n in range(300)]
    before = Noise().apply(asked, ids)
    found = Noise().apply(asked, ids, requests=flags)
    assert "opposite" in before.kinds[::2]
    assert "opposite" not in found.kinds[::2]
    assert found.kinds[1::2] == before.kinds[1::2]
    assert found.texts[1::2] == before.texts[1::2], "other rows draw as ever"
    assert len(set(found.kinds[::2])) == 5
    for noise in (Noise("opposite"), Noise(weights={"opposite": 1.0})):
        assert set(noise.apply(asked, ids, requests=flags).kinds) == {"opposite"}
    with pytest.raises(ValueError, match="as many flags of requests, found 2"):
        Noise().apply(asked, ids, requests=[True, False])


def test_a_run_says_that_requests_are_not_turned_around(
    chats: str, talking: Any, caplog: pytest.LogCaptureFixture
) -> None:
    line = "the noise opposite is off for 6 of 6 rows: their instruction is the request itself"
    with caplog.at_level(logging.INFO):
        data = NoisyInstructionDataModule(
            train=chats, test=chats, template="chat", conditions=["mixed@0.5", "opposite@0.5"]
        )
        data.connect(talking)
        data.setup("fit")
        data.train_dataloader()
        assert f"data.train: data.noise: {line}" in caplog.text
        data.setup("test")
        assert f"data.conditions: mixed@0.5: {line}" in caplog.text
        assert "data.conditions: opposite@0.5 changes the meaning of the request in 6 of 6 rows" in caplog.text
        assert "data.conditions: mixed@0.5 turns" not in caplog.text
    assert data.train_dataset(data.rows["train"]).facts(0)
    weights = {"opposite": 1.0, "random_typos": 1.0}
    chosen = NoisyInstructionDataModule(train=chats, template="chat", noise=Noise(weights=weights))
    chosen.connect(talking)
    chosen.setup("fit")
    assert not chosen.train_dataset(chosen.rows["train"]).facts(0)


def test_messages_load_as_chats(chats: str) -> None:
    assert {(s.instruction, s.target, s.turns) for s in load_samples(chats)} == {(TALK.instruction, TALK.target, TURNS)}


@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_no_row_of_the_built_in_corpus_is_a_request(role: Any) -> None:
    assert not any(map(is_request, load_rows("builtin:quickstart", role)))


def test_plain_prompts_of_the_built_in_corpus_stay_as_results_were_measured_with() -> None:
    template, digest = make_template("plain", None), hashlib.blake2b(digest_size=8)
    for sample in load_rows("builtin:quickstart", "test"):
        digest.update(template.render(sample, sample.instruction or "Do it.").text.encode())
    assert digest.hexdigest() == "7d6a7248c3a2e667"
