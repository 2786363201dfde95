"""Tokens and where they come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from robustlm.prompts.encoding import Encoder, TooLongError
from robustlm.prompts.templates import make_template
from robustlm.sample import Context, Sample
from robustlm.tools.tokenizer import train_tokenizer

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
TEMPLATES = {
    "plain": "plain",
    "alpaca": "alpaca",
    "chat": "chat",
    "string": "Q: {instruction}\nOn: {context}\nA: ",
    "parts": "{text} | {question} | {instruction}\n=> ",
}
TEXTS = ["Instruction: find the words Text: hello world Answer: yes no", "### Response:\nassistant user"]


def byte_level() -> Any:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.chat_template = CHAT
    return tokenizer


def metaspace() -> Any:
    """As SentencePiece makes them: a mark before every word, also before the first one of a text."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special + bytes_, show_progress=False)
    inner.train_from_iterator([*TEXTS, "abcdefghijklmnopqrstuvwxyz .:,?!"] * 3, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHAT,
    )


def trimming() -> Any:
    """As GPT-2's and Llama 3's: byte level, offsets without the blank."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def ended() -> Any:
    """As T5's: the end of sequence closes every text."""
    tokenizer = byte_level()
    eos = ("</s>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[eos])
    return tokenizer


TOKENIZERS = {"byte_level": byte_level(), "metaspace": metaspace(), "trimming": trimming(), "ended": ended()}
SAMPLE = Sample("s:1", "find the words", "yes no", Context(question="which one?", text="hello world, hello"))


def encoder(name: str, template: str, max_length: int = 250, **more: Any) -> Encoder:
    tokenizer = TOKENIZERS[name]
    return Encoder(tokenizer, make_template(TEMPLATES[template], tokenizer), max_length, **more)


def marked(encoder: Encoder, ids: list[int], mask: list[bool]) -> str:
    text: str = encoder.tokenizer.decode([i for i, on in zip(ids, mask, strict=True) if on])
    return text


def solid(text: str) -> str:
    """Without blanks: those at a border belong to the token of the next word, or to none."""
    return "".join(text.split())


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_masks_are_the_instruction_and_the_context(name: str, template: str, encoder_decoder: bool) -> None:
    made = encoder(name, template, encoder_decoder=encoder_decoder)
    (row,) = made.encode([SAMPLE])
    tokenizer = made.tokenizer
    assert marked(made, row.prompt_ids, row.instruction).strip() == SAMPLE.instruction
    order = ["text", "question"] if template == "parts" else ["question", "text"]
    assert solid(marked(made, row.prompt_ids, row.context)) == solid("".join(getattr(SAMPLE.context, p) for p in order))
    special = [i in tokenizer.all_special_ids for i in row.prompt_ids]
    assert not any(s and (a or b) for s, a, b in zip(special, row.instruction, row.context, strict=True))
    assert not any(a and b for a, b in zip(row.instruction, row.context, strict=True))
    assert row.answer_ids[-1] == tokenizer.eos_token_id
    assert row.answer_ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(row.answer_ids, skip_special_tokens=True).strip() == SAMPLE.target
    if not encoder_decoder:
        assert row.prompt_ids[-1] != tokenizer.eos_token_id
    elif name == "ended" and template != "chat":
        assert row.prompt_ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_answers_continue_their_prompts(name: str, template: str) -> None:
    made = encoder(name, template)
    prompt = made.template.render(SAMPLE, SAMPLE.instruction)
    (row,) = made.encode([SAMPLE])
    whole = made.tokenizer(
        prompt.text + prompt.answer_prefix + SAMPLE.target, add_special_tokens=prompt.add_special_tokens
    )["input_ids"]
    whole = whole[:-1] if whole[-1] == made.tokenizer.eos_token_id else whole
    assert [*row.prompt_ids, *row.answer_ids[:-1]] == whole
    assert row.prompt_ids.count(made.tokenizer.bos_token_id) == {"chat": 2}.get(template, int(name == "metaspace"))


def test_an_answer_that_merges_with_its_prompt_stands_alone() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    made = Encoder(tokenizer, make_template("{instruction}", tokenizer), 50)
    (row,) = made.encode([Sample("a", "find the wor", "ds")])
    assert tokenizer.decode(row.prompt_ids) == "find the wor"
    assert row.answer_ids == [*tokenizer("ds")["input_ids"], tokenizer.eos_token_id]


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_only_contexts_are_cut(encoder_decoder: bool) -> None:
    long = Sample("s:1", "find the words", "yes no", Context(question="which?", text="hello world " * 20))
    full = encoder("byte_level", "plain", encoder_decoder=encoder_decoder).encode_untruncated([long])[0]
    for limit in range(2, 120):
        made = encoder("byte_level", "plain", limit, encoder_decoder=encoder_decoder)
        least = len(full.prompt_ids) - sum(full.context) + (0 if encoder_decoder else len(full.answer_ids))
        if limit < max(least, len(full.answer_ids) if encoder_decoder else 0):
            with pytest.raises(TooLongError, match=r"s:1: .*max_length"):
                made.encode([long])
            continue
        (row,) = made.encode([long])
        taken = len(row.prompt_ids) if encoder_decoder else len(row)
        assert taken == min(limit, len(full.prompt_ids) if encoder_decoder else len(full))
        assert row.answer_ids == full.answer_ids
        assert marked(made, row.prompt_ids, row.instruction).strip() == long.instruction
        kept = marked(made, row.prompt_ids, row.context)
        assert marked(made, full.prompt_ids, full.context).startswith(kept)
        assert marked(made, row.prompt_ids, [not c for c in row.context]).endswith("Answer:")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_choices_are_tokenised_as_targets_are(name: str, template: str, encoder_decoder: bool) -> None:
    made = encoder(name, template, encoder_decoder=encoder_decoder)
    samples = [
        replace(SAMPLE, choices=("yes no", "é", "yes")),
        SAMPLE,
        replace(SAMPLE, context=Context(), choices=("hello",)),
    ]
    samples = [*samples, *[SAMPLE] * 300, samples[0]]  # more than are tokenised at once
    found = made.choice_ids(samples)
    assert [len(ids) for ids in found] == [3, 0, 1, *[0] * 300, 3]
    for sample, choices in zip(samples, found, strict=True):
        targets = made.encode([replace(sample, target=choice) for choice in sample.choices])
        assert choices == [row.answer_ids for row in targets]


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_options_share_a_prompt_cut_for_the_longest(encoder_decoder: bool) -> None:
    sample = Sample("s:1", "find", "yes", Context(text="hello world " * 20), choices=("yes", "no " * 9 + "no", "é"))
    for limit in range(40, 90, 7):
        made = encoder("byte_level", "plain", limit, encoder_decoder=encoder_decoder)
        (row,), (ids,) = made.encode([sample]), made.choice_ids([sample])
        options = made.options(row, ids, sample.id)
        assert [option.answer_ids for option in options] == ids
        assert all(option.prompt_ids == options[0].prompt_ids for option in options)
        assert all(made.excess(option) <= 0 for option in options)
        (alone,) = made.encode([replace(sample, target=sample.choices[1])])
        assert options[1] == alone
        assert made.options(row, [], sample.id) == []
    made = encoder("byte_level", "plain", 20, encoder_decoder=encoder_decoder)
    tight = replace(sample, context=Context())
    (row,), (ids,) = made.encode([tight]), made.choice_ids([replace(tight, choices=("yes", "no " * 30 + "no"))])
    with pytest.raises(TooLongError, match=r"s:1: .*max_length 20"):
        made.options(row, ids, "s:1")


def test_what_cannot_encode() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    template = make_template("plain", tokenizer)

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow gives no character offsets"):
        Encoder(Slow(), template, 10)
    with pytest.raises(ValueError, match="max_length: 1"):
        Encoder(tokenizer, template, 1)
    endless = train_tokenizer(TEXTS, 300)
    endless.eos_token = None
    with pytest.raises(ValueError, match="end-of-sequence"):
        Encoder(endless, template, 10)
    assert Encoder(tokenizer, template, 10).encode([]) == []
    padless = train_tokenizer(TEXTS, 300)
    padless.pad_token = None
    assert Encoder(padless, template, 10).pad_id == padless.eos_token_id


def test_instructions_replace_the_rows_own() -> None:
    made = encoder("byte_level", "plain")
    (row,) = made.encode([SAMPLE], ["world"])
    assert marked(made, row.prompt_ids, row.instruction).strip() == "world"


WORDY = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda text: not any(mark in text for mark in ("<s>", "</s>", "<pad>", "<unk>"))
)


@settings(max_examples=150, deadline=None)
@given(WORDY, WORDY, WORDY, WORDY, st.sampled_from(["plain", "alpaca", "string", "parts", "chat"]))
def test_any_text(instruction: str, question: str, text: str, target: str, template: str) -> None:
    made = encoder("byte_level", template, 2000)
    sample = Sample("x", instruction, target, Context(question=question, text=text))
    (row,) = made.encode([sample])
    prompt = made.template.render(sample, instruction)
    tokenizer = made.tokenizer
    assert tokenizer.decode(row.prompt_ids) == prompt.text
    assert tokenizer.decode([*row.prompt_ids, *row.answer_ids[:-1]]) == prompt.text + prompt.answer_prefix + target
    assert len(row.prompt_ids) == len(row.instruction) == len(row.context)
    assert solid(marked(made, row.prompt_ids, row.instruction)) == solid(instruction)
    parts = (text, question) if template == "parts" else (question, text)
    assert solid(marked(made, row.prompt_ids, row.context)) == solid("".join(parts))
