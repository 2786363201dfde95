"""Prompts and the spans of their pieces."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

from robustlm.instructions.slots import slots
from robustlm.prompts.base import Origin, Prompt
from robustlm.prompts.chat import ChatTemplate
from robustlm.prompts.templates import PlainTemplate, make_template
from robustlm.sample import Context, Sample

FULL = Sample("a", "Do it.", "yes", Context(question="q?", format="one word", option="yes, no", text="the text"))
BARE = Sample("b", "Do it.", "yes")


class Chat:
    """A tokenizer, as far as chat templates go.

    Args:
        turns: `all`, the `last` alone (which drops what was before), or `one` (which refuses others).
    """

    chat_template = "present"

    def __init__(self, trim: bool = True, upper: bool = False, turns: str = "all") -> None:
        self.trim = trim
        self.upper = upper
        self.turns = turns

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        if self.turns == "one" and len(messages) > 1:
            raise TemplateError("only one message is supported")
        shown = messages[-1:] if self.turns == "last" else messages
        texts = [message["content"].strip() if self.trim else message["content"] for message in shown]
        said = [f"<{message['role']}>{text}" for message, text in zip(shown, texts, strict=True)]
        return ("".join(said).upper() if self.upper else "".join(said)) + "<assistant>"


def pieces(prompt: Prompt, origin: Origin) -> list[str]:
    return [prompt.text[start:end] for start, end, found in prompt.spans if found is origin]


@pytest.mark.parametrize("name", ["plain", "alpaca", "chat", "{context} {instruction} "])
def test_spans(name: str) -> None:
    template = make_template(name, Chat())
    for sample in (FULL, BARE):
        prompt = template.render(sample, "Other words.")
        assert pieces(prompt, Origin.INSTRUCTION) == ["Other words."]
        context = sample.context
        filled = [part for part in (context.question, context.format, context.option, context.text) if part]
        assert pieces(prompt, Origin.CONTEXT) == filled
        ends = [0, *(at for start, end, _ in prompt.spans for at in (start, end))]
        assert ends == sorted(ends)


def test_plain_text() -> None:
    template = make_template("plain", None)
    assert template.render(FULL, FULL.instruction).text == (
        "Instruction: Do it. Question: q? Format: one word Option: yes, no Text: the text Answer:"
    )
    assert template.render(BARE, BARE.instruction).text == "Instruction: Do it. Answer:"
    assert template.render(BARE, "").answer_prefix == " "


def test_alpaca_text() -> None:
    template = make_template("alpaca", None)
    assert (
        "### Input:\nQuestion: q?\nFormat: one word\nOptions: yes, no\nText: the text\n\n### Response:\n"
        in template.render(FULL, "Do it.").text
    )
    bare = template.render(BARE, "Do it.")
    assert "Input" not in bare.text
    assert bare.text.endswith("### Instruction:\nDo it.\n\n### Response:\n")
    assert bare.answer_prefix == ""


@pytest.mark.parametrize("name", ["alpaca", "chat", "{instruction}\n{context}"])
def test_parts_have_names_where_there_are_several(name: str) -> None:
    template = make_template(name, Chat())
    several = template.render(FULL, "Do it.").text
    assert "Question: q?\nFormat: one word\nOptions: yes, no\nText: the text" in several
    one = template.render(replace(FULL, context=Context(text="the text")), "Do it.").text
    assert "the text" in one
    assert "Text:" not in one


def test_chat_message_is_found_where_it_is_and_not_where_the_template_says_the_same() -> None:
    for instruction in ("assistant", "a", "user", "<", " assistant \n"):
        prompt = ChatTemplate(Chat()).render(BARE, instruction)
        assert prompt.text == f"<user>{instruction.strip()}<assistant>"
        assert prompt.spans == ((6, 6 + len(instruction.strip()), Origin.INSTRUCTION),)
        assert not prompt.add_special_tokens


@pytest.mark.parametrize("trim", [False, True])
def test_chat_with_blank_pieces(trim: bool) -> None:
    template = ChatTemplate(Chat(trim=trim))
    sample = Sample("a", "", "yes", Context(question="  ", text=" the text\n"))
    prompt = template.render(sample, "")
    assert prompt.text == "<user>the text<assistant>"
    assert pieces(prompt, Origin.CONTEXT) == ["the text"]
    assert template.render(BARE, "").text == "<user><assistant>"


NLI = Sample(
    "c",
    "",
    "yes",
    FULL.context,
    fields=(("premise", "It {hypothesis} rains. "), ("hypothesis", "It is wet."), ("unused", "never shown")),
)
ASKED = ' {premise}\nCan we "infer" {other} {}: "{hypothesis}"'


@pytest.mark.parametrize("name", ["plain", "alpaca", "chat", "{context} {instruction}|{text} {question}"])
def test_slots_are_filled_and_bring_the_context(name: str) -> None:
    prompt = make_template(name, Chat()).render(NLI, ASKED)
    filled = 'It {hypothesis} rains. \nCan we "infer" {other} {}: "It is wet."'
    assert filled in prompt.text
    literal = ['\nCan we "infer" {other} {}: "', '"']
    assert [piece for piece in pieces(prompt, Origin.INSTRUCTION) if piece != " "] == literal
    assert pieces(prompt, Origin.CONTEXT) == ["It {hypothesis} rains. ", "It is wet."]
    for text in ("the text", "q?", "yes, no", "never shown", "Option", "further context"):
        assert text not in prompt.text
    ends = [0, *(at for start, end, _ in prompt.spans for at in (start, end))]
    assert ends == sorted(ends)


@pytest.mark.parametrize("name", ["plain", "alpaca", "chat", "{context} {instruction}|{text} {question}"])
def test_other_braces_are_text(name: str) -> None:
    template = make_template(name, Chat())
    for text in ("Answer as {json}: {0} {}", "{premise", "{ premise }", "{hypothesis.x}"):
        assert template.render(NLI, text) == template.render(FULL, text)


def test_chat_has_nothing_to_strip_where_slots_are_at_the_ends() -> None:
    sample = Sample("d", "", "yes", fields=(("a", " one\n"), ("b", " ")))
    prompt = ChatTemplate(Chat(trim=True)).render(sample, "{a} and\n{b}")
    assert prompt.text == "<user>one\n and<assistant>"
    assert pieces(prompt, Origin.CONTEXT) == ["one\n"]
    assert pieces(prompt, Origin.INSTRUCTION) == [" and"]


def test_chat_templates_that_hide_the_message() -> None:
    with pytest.raises(ValueError, match="rewrites the user message"):
        ChatTemplate(Chat(upper=True))

    class Sneaky(Chat):
        def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
            return "<user>" + messages[0]["content"].replace("it", "that") + "<assistant>"

    with pytest.raises(ValueError, match="rewrites the user message"):
        ChatTemplate(Sneaky()).render(BARE, "Do it.")
    with pytest.raises(ValueError, match="no chat template"):
        make_template("chat", object())


def test_string_templates() -> None:
    template = make_template("{{x}} {instruction}: {text}\n> ", None)
    prompt = template.render(FULL, "Do it.")
    assert prompt.text == "{x} Do it.: the text\n>"
    assert prompt.answer_prefix == " "
    for bad, word in (
        ("{instruction", "format string"),
        ("no field", "exactly once"),
        ("{instruction}{instruction}", "exactly once"),
        ("{instruction} {txt}", "txt"),
        ("{instruction} {}", "unknown"),
        ("{instruction!r}", "conversion"),
        ("{instruction:>10}", "conversion"),
        ("plane", "'plain'"),
    ):
        with pytest.raises(ValueError, match=word):
            make_template(bad, None)


def test_the_options_of_a_slotted_instruction_are_never_cut() -> None:
    sample = Sample("a", "", "yes", fields=(("premise", "rain " * 50), ("options_", "OPTIONS:\n- yes\n- no")))
    prompt = PlainTemplate().render(sample, "Is it so? {premise}\n{options_}")
    kept = [prompt.text[start:end] for start, end, origin in prompt.spans if origin is Origin.CONTEXT]
    assert kept == ["rain " * 50]
    assert "OPTIONS:\n- yes\n- no" in prompt.text


SHOWN = (
    Sample("e1", "", "yes", Context(question="one?", text="1")),
    Sample("e2", "", "no", Context(question="two?", text="2")),
)
SHOT = Sample("q", "Do it.", "no", Context(question="three?", text="3"), examples=SHOWN)
TURNS = (
    "<user>Do it.\n\nQuestion: one?\nText: 1<assistant>yes"
    "<user>Question: two?\nText: 2<assistant>no<user>Question: three?\nText: 3<assistant>"
)
ONE = (
    "<user>Do it.\n\nQuestion: one?\nText: 1\nAnswer: yes\n\nQuestion: two?\nText: 2\nAnswer: no\n\n"
    "Question: three?\nText: 3\nAnswer:<assistant>"
)


@pytest.mark.parametrize(
    ("name", "chat", "text"),
    [
        (
            "plain",
            Chat(),
            "Instruction: Do it.\n\nQuestion: one? Text: 1 Answer: yes\n\nQuestion: two? Text: 2 Answer: no\n\n"
            "Question: three? Text: 3 Answer:",
        ),
        ("chat", Chat(), TURNS),
        ("chat", Chat(turns="one"), ONE),
        ("chat", Chat(turns="last"), ONE),
        (
            "{context}\n{instruction}: ",
            Chat(),
            "Question: one?\nText: 1\nDo it.: yes\n\nQuestion: two?\nText: 2\nDo it.: no\n\n"
            "Question: three?\nText: 3\nDo it.:",
        ),
    ],
)
def test_examples_come_first_with_their_answers(name: str, chat: Chat, text: str) -> None:
    prompt = make_template(name, chat).render(SHOT, SHOT.instruction)
    assert prompt.text == text
    assert pieces(prompt, Origin.CONTEXT) == ["three?", "3"]
    assert set(pieces(prompt, Origin.INSTRUCTION)) == {"Do it."}


def test_alpaca_shows_examples_as_further_inputs() -> None:
    prompt = make_template("alpaca", None).render(SHOT, "Do it.")
    assert prompt.text.endswith(
        "request.\n\n### Instruction:\nDo it.\n\n### Input:\nQuestion: one?\nText: 1\n\n### Response:\nyes\n\n"
        "### Input:\nQuestion: two?\nText: 2\n\n### Response:\nno\n\n"
        "### Input:\nQuestion: three?\nText: 3\n\n### Response:\n"
    )
    assert pieces(prompt, Origin.CONTEXT) == ["three?", "3"]


@pytest.mark.parametrize("name", ["plain", "alpaca", "chat", "{instruction} =>"])
def test_a_slotted_instruction_is_filled_for_each_example(name: str) -> None:
    def asked(i: int) -> Sample:
        return Sample(f"s{i}", "", f"answer{i}", Context(text="unused"), fields=(("number", f"n{i}"),))

    sample = Sample("q", "", "x", Context(text="unused"), fields=(("number", "n3"),), examples=(asked(1), asked(2)))
    prompt = make_template(name, Chat()).render(sample, "What is {number}, in words?")
    assert prompt.text.count("What is n") == 3
    order = ["What is n1, in words?", "answer1", "What is n2, in words?", "answer2", "What is n3, in words?"]
    places = [prompt.text.index(piece) for piece in order]
    assert places == sorted(places)
    assert "unused" not in prompt.text
    assert pieces(prompt, Origin.CONTEXT) == ["n3"]
    assert pieces(prompt, Origin.INSTRUCTION) == ["What is ", ", in words?"] * 3


def test_examples_with_their_own_instruction_keep_it() -> None:
    own = replace(SHOWN[0], instruction="Say it.")
    prompt = make_template("plain", None).render(replace(SHOT, examples=(own, SHOWN[1])), "Do it.")
    assert prompt.text.startswith(
        "Instruction: Say it. Question: one? Text: 1 Answer: yes\n\nInstruction: Do it. Question: two?"
    )


@pytest.mark.parametrize("name", ["plain", "{instruction}\n{context}\nAnswer:"])
def test_a_template_that_ends_with_answer_ends_as_others_do(name: str) -> None:
    template = make_template(name, Chat())
    fields = (("text", "It rains. Answer:"),)
    for asked, end in (
        ("Judge.\nText: {text}\nAnswer:", "Text: It rains. Answer:\nAnswer:"),
        ("Judge. {text} ANSWER:", "It rains. Answer: ANSWER:"),
    ):
        sample = Sample("a", "", "yes", Context(text="never shown"), fields=fields)
        found = template.render(sample, asked)
        assert found.text.endswith(end)
        assert not found.text.endswith(f"{end} Answer:")
        assert found.answer_prefix == (" " if name == "plain" else "")
        assert all(stop <= len(found.text) for _, stop, _ in found.spans)
    # the text of a row is no cue
    assert template.render(sample, "Judge {text}").text.count("Answer:") == 2
    shown = replace(sample, examples=(Sample("b", "", "no", fields=(("text", "Sun."),)),))
    assert template.render(shown, "Judge.\nText: {text}\nAnswer:").text.count("Answer:") == 3


DATA = os.environ.get("ROBUSTLM_DATA", "")


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_published_templates_end_with_one_answer() -> None:
    ended = 0
    for name in ("promptbench_clean", "instructioneval_unobserved", "instructioneval_observed"):
        lists = json.loads((Path(DATA) / "instructions" / f"{name}.json").read_bytes())
        for text in _texts(lists):
            sample = Sample("a", "", "yes", Context(text="x"), fields=tuple((slot, "x") for slot in slots(text)))
            found = PlainTemplate().render(sample, text.strip()).text
            assert found.casefold().endswith("answer:")
            assert not found.casefold().endswith("answer: answer:"), found
            ended += text.strip().endswith("Answer:")
    assert ended > 300


def _texts(found: Any) -> list[str]:
    if not isinstance(found, dict | list):
        return [found] if found and slots(found) else []
    return [text for one in (found.values() if isinstance(found, dict) else found) for text in _texts(one)]
