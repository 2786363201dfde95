"""Text of special tokens within rows is plain text; the template's own special tokens stay special."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from robustlm.assets import tiny_model
from robustlm.cli.check import check
from robustlm.datamodules import InstructionDataModule
from robustlm.modules import InstructionTuning
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.specials import Specials, SpecialTextError
from robustlm.prompts.templates import make_template
from robustlm.sample import Context, Sample
from tests.prompts.test_encoding import CHAT, TEMPLATES, TEXTS, TOKENIZERS
from tests.tiny import write_rows

TURNS = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def llama3() -> Any:
    """Byte level; special tokens that the vocabulary does not hold, and that nothing may be merged from."""
    inner = Tokenizer(models.BPE(ignore_merges=True))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    inner.add_special_tokens(["<|begin|>", "<|start|>", "<|eot_id|>", "<|end|>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", inner.token_to_id("<|begin|>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|begin|>", eos_token="<|end|>", chat_template=TURNS
    )


def llama2() -> Any:
    """A mark before every word, control tokens in the vocabulary of the pieces."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    letters = list("abcdefghijklmnopqrstuvwxyz .:,?!<>/|#\n-IATQORPSh")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=letters, show_progress=False)
    inner.train_from_iterator(TEXTS * 3, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=CHAT
    )


def t5() -> Any:
    """Unigram; its control tokens are pieces of the vocabulary."""
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.Replace(" {2,}", " ")
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyzIA</>_|0:.,▁?"),
    )  # fmt: skip
    inner.train_from_iterator([*TEXTS, "</s> <extra_id_0> <pad> <|eot_id|>"] * 3, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", inner.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<extra_id_0>"], chat_template="{{ messages[0].content }}",
    )  # fmt: skip


# the bytes of `metaspace` are special tokens themselves, which decoding leaves out
ALL = {**TOKENIZERS, "llama2": llama2(), "llama3": llama3(), "t5": t5()}
ALL.pop("metaspace")


def control(tokenizer: Any) -> list[str]:
    return [text for text in tokenizer.all_special_tokens if text != tokenizer.unk_token]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ALL)
def test_the_text_of_special_tokens_is_text(name: str, template: str) -> None:
    tokenizer = ALL[name]
    made = Encoder(tokenizer, make_template(TEMPLATES[template], tokenizer), 500, encoder_decoder=name == "t5")
    special = [tokenizer.convert_tokens_to_ids(text) for text in control(tokenizer)]
    clean = Sample("a", "find the words", "yes no", Context(text="hello world"), choices=("yes no", "hello"))
    shown = replace(clean, id="b", target="no", choices=())
    (usual,) = made.encode([clean])
    end = (
        "<|eot_id|>" if (name, template) == ("llama3", "chat") else tokenizer.eos_token
    )  # as that chat template ends it
    for text in control(tokenizer):
        for sample in (
            replace(clean, instruction=f"find {text} the words"),
            replace(clean, context=Context(text=f"hello{text} world {text}{text}")),
            replace(clean, target=f"yes {text} no", choices=(f"yes {text} no", f"{text}")),
            replace(clean, target=f"{text}no", choices=()),
            replace(clean, target=f"no{text}", choices=()),
            replace(clean, instruction="find {a} {options_}", fields=(("a", text), ("options_", f"- {text}"))),
        ):
            (row,) = made.encode([sample])
            assert row.answer_ids[-1] == tokenizer.convert_tokens_to_ids(end)
            assert not set(row.answer_ids[:-1]) & set(special)
            assert tokenizer.decode(row.answer_ids, skip_special_tokens=True).strip() == sample.target
            for one in (row.prompt_ids, usual.prompt_ids):
                assert [i for i in one if i in special] == [i for i in usual.prompt_ids if i in special]
            (choices,) = made.choice_ids([sample])
            for choice, ids in zip(sample.choices, choices, strict=True):
                assert tokenizer.decode(ids, skip_special_tokens=True).strip() == choice
            assert made.special_texts([sample]) == {text: 1}
        example = replace(shown, target=f"no {text}", context=Context(text=f"hello {text}"))
        (row,) = made.encode([replace(clean, examples=(example,))])
        (clean_row,) = made.encode([replace(clean, examples=(shown,))])
        assert [i for i in row.prompt_ids if i in special] == [i for i in clean_row.prompt_ids if i in special]
    assert made.special_texts([clean]) == {}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ALL)
def test_the_other_spelling_changes_nothing_else(name: str, template: str) -> None:
    """Any text without special text is cut up by the second tokenizer as by the first."""
    tokenizer = ALL[name]
    made = make_template(TEMPLATES[template], tokenizer)
    specials = Specials(tokenizer)
    for instruction in ("find the words", "héllo  wörld 7", " \n find", "x"):
        prompt = made.render(Sample("a", instruction, "y", Context(text="hello, world  é")), instruction)
        for add in (True, False):
            found = tokenizer(prompt.text, return_offsets_mapping=True, add_special_tokens=add)
            ids, offsets = specials._cut_up(prompt.text, prompt.given, add)
            assert (ids, list(offsets)) == (found["input_ids"], found["offset_mapping"])


def test_the_shipped_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model()))
    made = Encoder(tokenizer, make_template("plain", tokenizer), 300)
    (row,) = made.encode([Sample("a", "Copy it.", "Ada</s> is<pad> here", Context(text="<s>Ada</s>"))])
    assert row.answer_ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(row.answer_ids, skip_special_tokens=True).strip() == "Ada</s> is<pad> here"
    assert not set(row.prompt_ids) & set(tokenizer.all_special_ids)


def test_tokens_of_a_format_string_stay_special() -> None:
    tokenizer = ALL["llama3"]
    made = Encoder(tokenizer, make_template("<|start|>{instruction}<|eot_id|>{text} ", tokenizer), 100)
    (row,) = made.encode([Sample("a", "find <|eot_id|>", "<|start|>", Context(text="x<|end|>"))])
    turns = [tokenizer.convert_tokens_to_ids(text) for text in ("<|begin|>", "<|start|>", "<|eot_id|>", "<|end|>")]
    assert [i for i in row.prompt_ids if i in turns] == turns[:3]
    assert [i for i in row.answer_ids if i in turns] == turns[3:]


def test_other_spellings_that_a_tokenizer_also_takes() -> None:
    inner = Tokenizer.from_str(ALL["byte_level"].backend_tokenizer.to_str())
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<turn>", special=True, normalized=True)]})
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    assert turn in tokenizer("a <TURN>")["input_ids"]
    made = Encoder(tokenizer, make_template("plain", tokenizer), 100)
    (row,) = made.encode([Sample("a", "find <TURN>", "a <Turn> b")])
    assert turn not in (*row.prompt_ids, *row.answer_ids)


def test_a_tokenizer_that_cannot_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ALL["byte_level"]
    made = Encoder(tokenizer, make_template("plain", tokenizer), 100)
    samples = [Sample("fine", "find", "yes"), Sample("set:7", "find", "a </s> b")]
    with monkeypatch.context() as patch:
        patch.setattr(made._specials, "_split", tokenizer.backend_tokenizer)
        with pytest.raises(
            SpecialTextError, match=r"set:7: found '</s>'.*takes for a special token wherever it stands"
        ):
            made.encode(samples)
    with pytest.raises(SpecialTextError, match=r"x: found the private-use character"):
        made.encode([Sample("x", "find \U000f0000", "a </s> b")])
    assert made.encode([Sample("x", "find \U000f0000", "a")])


def test_check_counts_them(models: dict[str, str], tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": "Copy.", "text": "a", "target": target} for target in ("a", "b</s>", "</s>", "<s>")]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    check(InstructionTuning(models["llama"]), InstructionDataModule(train=path))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  special")]
    assert sorted((line[1], line[6].strip("',")) for line in lines) == [("1", "<s>"), ("2", "</s>")]
