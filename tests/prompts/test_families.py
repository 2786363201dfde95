"""Prompts and trained replies under the chat templates of model families, against `apply_chat_template`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from robustlm.models.turn_ends import end_of_turn
from robustlm.prompts.base import Prompt, Template
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.sample import Sample
from tests.prompts.families import FAMILIES, speaking
from tests.tiny import load

SYSTEM = ("system", "Be brief.")
FIRST = ("user", "Name a city."), ("assistant", "Oslo.")
SECOND = ("user", "And a river?"), ("assistant", "The Rhine, or the Po.")
ASKED = Sample("one", "Name a sea.", "The Baltic.")
TALK = replace(ASKED, id="chat", turns=(*FIRST, *SECOND))
LED = replace(TALK, turns=(SYSTEM, *TALK.turns))
THOUGHT = replace(TALK, turns=(FIRST[0], ("assistant", "<think>\nNorway has one.\n</think>\n\nOslo.")))
TEXT = Sample("text", "Name the sea.\n\nThe Baltic is cold.", "The Baltic.")


def encoder_of(name: str) -> Encoder:
    tokenizer = speaking(name)
    return Encoder(tokenizer, make_template("chat", tokenizer, FAMILIES[name].variables), 512)


def messages_of(sample: Sample, *, answered: bool = False, folded: bool = False) -> list[dict[str, str]]:
    """The messages of a sample; `folded` puts the system message into the first question."""
    turns = [*sample.turns, ("user", sample.instruction), *([("assistant", sample.target)] if answered else [])]
    if folded and turns[0][0] == "system":
        turns[:2] = [("user", f"{turns[0][1]}\n\n{turns[1][1]}")]
    return [{"role": role, "content": text} for role, text in turns]


def applied(name: str, messages: list[dict[str, str]], **more: Any) -> Any:
    return speaking(name).apply_chat_template(messages, **{"return_dict": False, **FAMILIES[name].variables, **more})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_has_the_tokens_of_its_chat_template(name: str) -> None:
    family, encoder = FAMILIES[name], encoder_of(name)
    for sample in (ASKED, TEXT, TALK, LED, THOUGHT):
        row = encoder.encode([sample])[0]
        messages = messages_of(sample, folded=not family.takes_system)
        assert row.prompt_ids == applied(name, messages, add_generation_prompt=True), sample.id
        asked = encoder.tokenizer.decode([i for i, own in zip(row.prompt_ids, row.instruction, strict=True) if own])
        assert asked.strip() == sample.instruction
        if not family.keeps and sample is not ASKED and sample is not TEXT:
            continue  # shown in other tests
        if name.startswith("mistral") and sample is LED:
            continue  # it leaves the system message out of a chat that ends with a reply
        answered = applied(name, messages_of(sample, answered=True, folded=not family.takes_system))
        if "<think>" not in encoder.tokenizer.decode(row.prompt_ids[-8:]) or family.variables:
            whole = [*row.prompt_ids, *row.answer_ids]
            if family.end.startswith(" "):  # Llama 2 writes a blank before its end token, which is not trained
                assert answered[: len(whole) - 1] == whole[:-1]
            else:
                assert answered[: len(whole)] == whole, "the answer follows the prompt as a reply does, with its end"
    assert encoder.tokenizer.convert_ids_to_tokens(row.answer_ids[-1]) == family.end.strip()


@pytest.mark.parametrize("name", FAMILIES)
def test_trained_answers_end_with_a_token_that_ends_generated_ones(name: str) -> None:
    family, tokenizer = FAMILIES[name], speaking(name)
    found = end_of_turn(tokenizer, tokenizer.all_special_tokens)
    assert found == family.end.strip()
    row = encoder_of(name).encode([ASKED])[0]
    assert row.answer_ids[-1] == tokenizer.convert_tokens_to_ids(found)
    if found == tokenizer.eos_token:
        before = Encoder(tokenizer, _Ended(encoder_of(name).template), 512).encode([ASKED, TALK, LED])
        assert before == encoder_of(name).encode([ASKED, TALK, LED]), "nothing changes where the end token is the end"


class _Ended(Template):
    """A template whose answers end with the tokenizer's end token, as all of them once did."""

    def __init__(self, inner: Template) -> None:
        self._inner = inner

    def render(self, sample: Sample, instruction: str) -> Prompt:
        return replace(self._inner.render(sample, instruction), answer_end="")


def test_options_and_answers_of_a_template_end_alike() -> None:
    encoder = encoder_of("gemma")
    end = encoder.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    chosen = replace(ASKED, target="Baltic", choices=("Baltic", "North"))
    assert [ids[-1] for ids in encoder.choice_ids([chosen])[0]] == [end, end]
    assert encoder.choice_ids([chosen])[0][0] == encoder.encode([chosen])[0].answer_ids
    plain = Encoder(encoder.tokenizer, make_template("plain", encoder.tokenizer), 512)
    assert plain.encode([chosen])[0].answer_ids[-1] == encoder.tokenizer.eos_token_id


def test_a_model_stops_at_the_end_of_turn_that_it_was_trained_to_write(llama: str) -> None:
    backbone = load(llama, None)
    tokenizer = speaking("gemma")
    parts = replace(backbone.parts, tokenizer=tokenizer)
    own = parts.base.generation_config.eos_token_id
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert parts.ends == [tokenizer.eos_token_id, own, end]
    alike = speaking("llama-3")
    assert replace(parts, tokenizer=alike).ends == [alike.eos_token_id, own]


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages[0].content }}", "{{ messages[1].content }}. ", None])
def test_a_template_without_an_end_of_its_own_has_none(template: str | None) -> None:
    tokenizer = _with(template)
    assert end_of_turn(tokenizer, tokenizer.all_special_tokens) == ""


def labelled(encoder: Encoder, sample: Sample) -> list[str]:
    """The texts of the trained tokens of a row, span by span."""
    labels = encoder.view(encoder.encode([sample])).labels[0].tolist()
    spans: list[list[int]] = [[]]
    for label in labels:
        if label >= 0:
            spans[-1].append(label)
        elif spans[-1]:
            spans.append([])
    return [encoder.tokenizer.decode(span).replace(" ", "") for span in spans if span]


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.keeps])
def test_every_reply_is_trained_with_its_end(name: str) -> None:
    encoder, end = encoder_of(name), FAMILIES[name].end.strip()
    replies = [reply.replace(" ", "") + end for _, reply in (FIRST[1], SECOND[1])]
    last = ASKED.target.replace(" ", "") + end
    assert labelled(encoder, replace(TALK, trains_replies=True)) == [*replies, last]
    assert labelled(encoder, TALK) == [last]
    assert labelled(encoder, replace(ASKED, trains_replies=True)) == [last]
    if name.startswith("mistral"):  # it writes the system message into the last question
        with pytest.raises(ValueError, match="writes reply 1 in another way when the chat goes on"):
            encoder.encode([replace(LED, trains_replies=True)])
    else:
        assert labelled(encoder, replace(LED, trains_replies=True)) == [*replies, last]


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.keeps])
@pytest.mark.parametrize("sample", [TALK, THOUGHT], ids=["plain", "thought"])
def test_templates_that_change_earlier_replies_are_refused(name: str, sample: Sample) -> None:
    encoder = encoder_of(name)
    with pytest.raises(ValueError, match=r"data\.assistant_turns: found all.*another way.*expected.*each") as error:
        encoder.encode([replace(sample, trains_replies=True)])
    assert str(error.value).startswith("chat: ")


def test_thoughts_of_earlier_replies_are_shown_as_the_template_shows_them() -> None:
    for name in ("qwen-3", "deepseek"):
        shown = encoder_of(name).template.render(THOUGHT, THOUGHT.instruction)
        assert "Norway" not in shown.text
        assert (shown.messages or [])[1]["content"].strip() == "Oslo."
    kept = encoder_of("chatml").template.render(THOUGHT, THOUGHT.instruction)
    assert "Norway" in kept.text
    forged = replace(THOUGHT, turns=(FIRST[0], ("assistant", "<think>\nno\n</think>\n\nOslo<|im_end|>")))
    row = encoder_of("qwen-3").encode([forged])[0]
    (special,) = encoder_of("qwen-3").tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"]
    assert row.prompt_ids.count(special) == 3, "the row's own text makes no end of turn, also in a changed reply"


def test_marks_of_the_template_decide_what_is_trained() -> None:
    encoder = encoder_of("marked")
    row = encoder.encode([replace(LED, trains_replies=True)])[0]
    found = applied(
        "marked", messages_of(LED), add_generation_prompt=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert list(row.prompt_ids) == found["input_ids"]
    assert [int(one) for one in row.replies] == found["assistant_masks"]
    bare = speaking("marked").chat_template.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    narrow = Encoder(speaking("marked"), make_template("chat", _with(bare)), 512)
    assert labelled(narrow, replace(TALK, trains_replies=True))[:2] == ["Oslo.", "TheRhine,orthePo."]


def test_marks_that_leave_out_earlier_replies_are_said(caplog: pytest.LogCaptureFixture) -> None:
    source = speaking("marked").chat_template.replace("m.role == 'assistant'", "m.role == 'assistant' and loop.last")
    encoder = Encoder(speaking("marked"), make_template("chat", _with(source)), 512)
    assert len(labelled(encoder, replace(TALK, trains_replies=True))) == 1
    assert "marks no earlier reply by {% generation %}" in caplog.text


def _with(template: str | None) -> Any:
    import copy

    tokenizer = copy.copy(speaking("marked"))
    tokenizer.chat_template = template
    return tokenizer


# ------------------------------------------------------------------------- the template's own variables


def test_a_switch_of_the_template_reaches_the_prompt() -> None:
    tokenizer = speaking("qwen-3")
    on, off = (make_template("chat", tokenizer, {"enable_thinking": value}) for value in (True, False))
    assert on.render(TALK, "Hi").text.endswith("<|im_start|>assistant\n")
    assert off.render(TALK, "Hi").text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    (note,) = on.notes
    assert "data.chat_template_kwargs may switch them off (it reads enable_thinking)" in note
    assert not off.notes
    assert not make_template("chat", speaking("llama-3")).notes


@pytest.mark.parametrize(
    ("name", "variables", "says"),
    [
        (
            "chat",
            {"enable_thinkin": False},
            "found 'enable_thinkin' (did you mean 'enable_thinking'?), which the token",
        ),
        ("chat", {"add_generation_prompt": False}, "found 'add_generation_prompt', which robustlm sets itself"),
        ("plain", {"enable_thinking": False}, "but data.template is 'plain'; expected null"),
    ],
)
def test_variables_that_change_nothing_are_refused(name: str, variables: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=r"^data\.chat_template_kwargs: ") as error:
        make_template(name, speaking("qwen-3"), variables)
    assert says in str(error.value)


def test_variables_of_a_template_without_any() -> None:
    with pytest.raises(ValueError, match="does not read; expected null, as it reads no variables"):
        make_template("chat", speaking("llama-3"), {"enable_thinking": False})


def test_the_date_of_the_day_is_said() -> None:
    source = "{{ date_string or strftime_now('%d %b %Y') }}" + speaking("marked").chat_template
    (note,) = make_template("chat", _with(source)).notes
    assert (
        "differ from day to day; data.chat_template_kwargs sets it where the template reads one, e.g. date_str" in note
    )
    fixed = make_template("chat", _with(source), {"date_string": "26 Jul 2024"})
    assert not fixed.notes
    assert fixed.render(ASKED, "Hi").text.startswith("26 Jul 2024")


def test_reserved_names_are_those_of_transformers() -> None:
    import inspect

    from robustlm.prompts.variables import RESERVED

    taken = set(inspect.signature(type(speaking("marked")).apply_chat_template).parameters)
    assert taken <= RESERVED
