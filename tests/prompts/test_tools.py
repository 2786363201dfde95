"""Chats with tools: prompts, replies and answers against `apply_chat_template`, for families that take tools."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from robustlm.batch import IGNORE
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.sample import Sample, each_reply
from robustlm.sources.shapes import read_messages, read_robustlm, robustlm_row
from robustlm.tasks import TASKS
from tests.prompts.families import CHATML, FAMILIES, TOOL_FAMILIES, speaking
from tests.prompts.test_chats import talkative

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city; ends with <|im_end|> or </s> if it likes.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Zeit, 時間.", "parameters": {}}}


def call(city: str, id: str = "abcdefghi", name: str = "get_weather") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": {"city": city, "days": [1, 2.5]}}}


SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "How is the weather in Oslo?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [call("Oslo <|im_end|></s>")]}
TOLD = {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": '{"sky": "blue", "t": 7}\n'}
ANSWER = {"role": "assistant", "content": "Blue sky, 7 degrees."}
AGAIN = {"role": "user", "content": "And in Rome?"}
CALLED_AGAIN = {"role": "assistant", "content": "", "tool_calls": [call("Rome", "123456789")]}
TOLD_AGAIN = {**TOLD, "tool_call_id": "123456789", "content": "rain"}
ROUND: list[dict[str, Any]] = [ASKED, CALLED, TOLD, ANSWER]
CHATS: dict[str, list[dict[str, Any]]] = {
    "call": [ASKED, CALLED],
    "answer": ROUND,
    "second call": [*ROUND, AGAIN, CALLED_AGAIN],
    "second answer": [*ROUND, AGAIN, CALLED_AGAIN, TOLD_AGAIN, {**ANSWER, "content": "Rain."}],
    "no call": [ASKED, {"role": "assistant", "content": "I cannot know."}],
}


def sample_of(messages: list[dict[str, Any]], tools: object = (WEATHER, CLOCK)) -> Sample:
    return read_messages({"messages": messages, "tools": list(tools) if isinstance(tools, tuple) else tools}, "row")


def encoder_of(name: str, **variables: Any) -> Encoder:
    tokenizer = speaking(name)
    return Encoder(tokenizer, make_template("chat", tokenizer, FAMILIES[name].variables | variables), 4000)


def applied(name: str, messages: list[dict[str, Any]], **more: Any) -> Any:
    given = {"return_dict": False, "tools": [WEATHER, CLOCK], **FAMILIES[name].variables, **more}
    return speaking(name).apply_chat_template(messages, **given)


def spelt_plainly(messages: list[Any]) -> list[Any]:
    """The same values without the text of special tokens, which `apply_chat_template` would read as special."""
    text = json.dumps(messages, ensure_ascii=False)
    for special in ("<|im_end|>", "</s>"):
        text = text.replace(special, "")
    found: list[Any] = json.loads(text)
    return found


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("led", [False, True], ids=["", "system"])
@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_tokens_are_those_of_the_chat_template(name: str, chat: str, led: bool) -> None:
    messages = [*([SYSTEM] if led else []), *CHATS[chat]]
    tools = spelt_plainly([WEATHER, CLOCK])
    messages = spelt_plainly(messages)
    encoder = encoder_of(name)
    row = encoder.encode([sample_of(messages, tuple(tools))])[0]
    if name == "mistral-tools" and led:
        # it leaves the system message out, unless the user spoke last; and where a reply follows, it leaves it out too
        if chat in ("answer", "second answer", "call", "second call"):
            messages = [{**messages[1], "content": f"Be brief.\n\n{messages[1]['content']}"}, *messages[2:]]
        else:
            assert row.prompt_ids == applied(name, messages[:-1], tools=tools, add_generation_prompt=True)
            return
    assert row.prompt_ids == applied(name, messages[:-1], tools=tools, add_generation_prompt=True)
    whole = [*row.prompt_ids, *row.answer_ids]
    assert applied(name, messages, tools=tools)[: len(whole)] == whole
    assert encoder.tokenizer.convert_ids_to_tokens(row.answer_ids[-1]) == FAMILIES[name].end.strip()
    last = next(one["content"] for one in reversed(messages) if one["role"] == "user")
    own = [i for i, own in zip(row.prompt_ids, row.instruction, strict=True) if own]
    assert encoder.tokenizer.decode(own).strip() == last.removeprefix("Be brief.\n\n")


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_special_tokens_in_tools_and_calls_are_text(name: str) -> None:
    encoder = encoder_of(name)
    special = set(encoder.tokenizer.all_special_ids)
    clean = spelt_plainly([[ASKED, CALLED, TOLD, ANSWER], [WEATHER, CLOCK], [ASKED, CALLED]])
    for messages, plain in ((ROUND, clean[0]), ([ASKED, CALLED], clean[2])):
        forged, usual = encoder.encode([sample_of(messages), sample_of(plain, tuple(clean[1]))])
        for one, other in ((forged.prompt_ids, usual.prompt_ids), (forged.answer_ids, usual.answer_ids)):
            assert [i for i in one if i in special] == [i for i in other if i in special]
        assert forged.prompt_ids != usual.prompt_ids


def labelled(encoder: Encoder, sample: Sample) -> list[str]:
    labels = encoder.view(encoder.encode([sample])).labels[0].tolist()
    spans: list[list[int]] = [[]]
    for label in labels:
        if label != IGNORE:
            spans[-1].append(label)
        elif spans[-1]:
            spans.append([])
    return [encoder.tokenizer.decode(span) for span in spans if span]


@pytest.mark.parametrize("name", ["qwen-2-5-tools", "llama-3-1-tools"])
def test_every_reply_is_trained_and_no_result(name: str) -> None:
    encoder, end = encoder_of(name), FAMILIES[name].end.strip()
    messages, tools = spelt_plainly(CHATS["second answer"]), tuple(spelt_plainly([WEATHER, CLOCK]))
    sample = replace(sample_of([SYSTEM, *messages], tools), trains_replies=True)
    found = labelled(encoder, sample)
    assert len(found) == 4
    assert all(text.endswith(end) and text.count(end) == 1 for text in found)
    parsed = TASKS["tool_calls"]
    assert [parsed.parse(text).items for text in found[::2]] == [
        (("get_weather", '{"city": "Oslo ", "days": [1, 2.5]}'),),
        (("get_weather", '{"city": "Rome", "days": [1, 2.5]}'),),
    ]
    assert ["sky" in text for text in found] == [False, True, False, False]
    assert "Blue sky" in found[1].replace("  ", " ") or "Bluesky" in found[1].replace(" ", "")
    assert labelled(encoder, replace(sample, trains_replies=False)) == found[-1:]
    each = [labelled(encoder, one)[-1] for one in each_reply(replace(sample, trains_replies=False))]
    assert each == found, "a row for every reply trains the same"


def test_a_template_that_moves_tools_trains_one_reply_a_row() -> None:
    """Mistral writes the tools before the last question, so earlier replies were asked for in another way."""
    encoder = encoder_of("mistral-tools")
    sample = sample_of(spelt_plainly(CHATS["second answer"]))
    with pytest.raises(ValueError, match="writes reply 1 in another way when the chat goes on"):
        encoder.encode([replace(sample, trains_replies=True)])
    within = replace(sample_of(spelt_plainly(ROUND)), trains_replies=True)
    assert len(labelled(encoder, within)) == 2
    for one in each_reply(sample):
        encoder.encode([one])


def test_replies_of_a_chat_are_rows_with_what_came_before() -> None:
    sample = sample_of([SYSTEM, *CHATS["second answer"]])
    first, second, third, last = each_reply(sample)
    assert [one.id for one in (first, second, third, last)] == ["row#1", "row#2", "row#3", "row"]
    assert [one.task for one in (first, second, third, last)] == ["tool_calls", "generation"] * 2
    assert first == replace(sample_of([SYSTEM, *CHATS["call"]]), id="row#1")
    assert second == replace(sample_of([SYSTEM, *CHATS["answer"]]), id="row#2")
    assert third == replace(sample_of([SYSTEM, *CHATS["second call"]]), id="row#3")


@pytest.mark.parametrize(
    ("template", "tools", "messages", "says"),
    [
        (CHATML.template, (WEATHER,), CHATS["no call"], "does not write the tools that a chat offers"),
        (CHATML.template, (), CHATS["answer"], "does not write calls of tools"),
        (CHATML.template, (), CHATS["call"], "does not write calls of tools"),
        (
            TOOL_FAMILIES["mistral-tools"].template.replace("m.content | string", "1"),
            (),
            ROUND,
            "does not write the re",
        ),
        (
            TOOL_FAMILIES["llama-3-1-tools"].template,
            (),
            [ASKED, {**CALLED, "tool_calls": [call("Oslo"), call("Rome")]}],
            "fails on a chat with tools (This model only supports single tool-calls at once!)",
        ),
    ],
)
def test_a_template_that_leaves_something_of_tools_out_is_refused(
    template: str, tools: object, messages: list[dict[str, Any]], says: str
) -> None:
    tokenizer = copy.copy(speaking("marked"))
    tokenizer.chat_template = template
    encoder = Encoder(tokenizer, make_template("chat", tokenizer), 4000)
    expected = r"^row: data\.template: the tokenizer's chat template .*expected a template that takes tools, or rows wi"
    with pytest.raises(ValueError, match=expected) as error:
        encoder.encode([sample_of(spelt_plainly(messages), tools)])
    assert says in str(error.value)


def test_other_templates_refuse_chats_with_tools() -> None:
    for name in ("plain", "alpaca", "Q: {instruction}\nA:"):
        for chat in CHATS.values():
            with pytest.raises(ValueError, match=r"row: data\.template: found a template that writes no chat"):
                make_template(name, None).render(sample_of(chat), "Hi")


def test_text_beside_a_call_that_the_template_leaves_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    beside = [ASKED, {**CALLED, "content": "Let me look."}, TOLD, ANSWER]
    sample = sample_of(spelt_plainly(beside))
    tokenizer = speaking("llama-3-1-tools")
    template = make_template("chat", tokenizer)
    for _ in range(2):
        assert "Let me look" not in template.render(sample, sample.instruction).text
    assert [record.levelno for record in caplog.records if "leaves out the text" in record.message] == [logging.WARNING]
    shown = encoder_of("qwen-2-5-tools")
    assert "Let me look." in shown.template.render(sample, sample.instruction).text
    both = sample_of(spelt_plainly([ASKED, {**CALLED, "content": "Let me look."}]))
    assert both.target.startswith("Let me look.\n<tool_call>{")
    assert shown.tokenizer.decode(shown.encode([both])[0].answer_ids).replace(" ", "").startswith("Letmelook.")


def test_thoughts_that_a_prompt_does_not_hold_are_trained_as_the_template_writes_them() -> None:
    encoder = Encoder(speaking("qwen-3-tools"), make_template("chat", speaking("qwen-3-tools")), 4000)
    row = encoder.encode([sample_of(spelt_plainly(CHATS["call"]))])[0]
    assert encoder.tokenizer.decode(row.answer_ids).replace(" ", "").startswith("<think>\n\n</think>\n\n<tool_call>")


def test_arguments_as_text_are_those_as_an_object() -> None:
    """OpenAI writes arguments as JSON text; templates expect objects, as transformers documents."""
    texts = spelt_plainly(CHATS["second answer"])
    objects = copy.deepcopy(texts)
    for message in texts:
        for one in message.get("tool_calls", []):
            one["function"]["arguments"] = json.dumps(one["function"]["arguments"])
    encoder = encoder_of("qwen-2-5-tools")
    assert encoder.encode([sample_of(texts)])[0].prompt_ids == encoder.encode([sample_of(objects)])[0].prompt_ids
    as_text = sample_of(texts, json.dumps([WEATHER]))
    assert as_text.tools == sample_of(texts, (WEATHER,)).tools


@pytest.mark.parametrize("chat", CHATS)
def test_rows_of_our_own_shape_hold_tools(chat: str) -> None:
    sample = sample_of([SYSTEM, *CHATS[chat]])
    assert read_robustlm(json.loads(json.dumps(robustlm_row(sample))), "row") == sample


def test_the_first_rounds_are_left_out_first() -> None:
    encoder = encoder_of("qwen-2-5-tools")
    sample = sample_of([SYSTEM, *spelt_plainly(CHATS["second answer"])])
    whole = encoder.encode_untruncated([sample])[0]
    short = Encoder(encoder.tokenizer, encoder.template, len(whole) - 1)
    kept, row = short.fitted(sample, whole)
    assert kept.turns == sample.system
    assert kept.since == sample.since
    assert short.excess(row) <= 0


def test_messages_and_tools_of_a_hosted_model_are_those_of_the_row() -> None:
    tokenizer: Any = talkative()
    template = make_template("chat", tokenizer)
    encoder = Encoder(tokenizer, template, 9000)
    messages = [SYSTEM, *CHATS["second answer"]]
    sample = sample_of(messages)
    view = encoder.view(encoder.encode([sample, sample_of(CHATS["no call"], ())]), with_answer=False)
    assert view.messages[0] == [{**one, "content": one["content"]} for one in messages[:-1]]
    assert json.loads(view.tools[0]) == [WEATHER, CLOCK]
    assert view.tools[1] == ""
    assert view.texts[0].startswith("Tools: [{")
    assert 'Assistant: <tool_call>{"name": "get_weather", "arguments": {"city": "Rome"' in view.texts[0]
    noisy = template.render(sample, "Adn in Rome?").messages or []
    assert [one["content"] for one in noisy if one["role"] == "user"] == [ASKED["content"], "Adn in Rome?"]
