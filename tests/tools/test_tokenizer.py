from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from robustlm.sources.corpus import samples
from robustlm.tools.scratch import build
from robustlm.tools.tokenizer import train_tokenizer

TEXTS = [f"Instruction: {s.instruction} Text: {s.context.text} Answer: {s.target}" for s in samples("pretrain", 600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("scratch") / "model", TEXTS, vocab_size=700, hidden_size=32, layers=1)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


# Without `<`: the names of special tokens stand for themselves.
unicode_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=40)


@settings(max_examples=200, deadline=None)
@given(unicode_text)
def test_every_text_survives(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(unicode_text, unicode_text)
def test_prompt_ids_are_a_prefix(tokenizer: Any, context: str, answer: str) -> None:
    prompt = f"Instruction: Find it. Text: {context} Answer:"
    answered = tokenizer(f"{prompt} {answer}")["input_ids"]
    assert answered == tokenizer(prompt)["input_ids"] + tokenizer(f" {answer}")["input_ids"]


@pytest.mark.parametrize("text", [TEXTS[0], "Zoë's naïve café: 1,204 € — 你好 🙂!", "two  blanks\n\nand lines "])
def test_offsets_tile_the_text(tokenizer: Any, text: str) -> None:
    tokens = tokenizer(text, return_offsets_mapping=True)
    covered = [False] * len(text)
    for start, end in tokens["offset_mapping"]:
        assert start < end
        covered[start:end] = [True] * (end - start)
    assert all(covered)
    spans = dict.fromkeys(tokens["offset_mapping"])  # the bytes of one character share its span
    assert "".join(text[start:end] for start, end in spans) == text


def test_typos_break_into_pieces(tokenizer: Any) -> None:
    assert len(tokenizer("Instruction")["input_ids"]) < len(tokenizer("Insrtuctoin")["input_ids"])


def test_special_tokens_and_padding(tokenizer: Any) -> None:
    assert [tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token] == [
        "<pad>", "<s>", "</s>", "<unk>",
    ]  # fmt: skip
    batch = tokenizer(["a", "a b c"], padding=True)
    assert batch["attention_mask"] == [[0, 0, 1], [1, 1, 1]]
    assert tokenizer.bos_token_id not in batch["input_ids"][1]


def test_training_is_deterministic() -> None:
    first, second = (train_tokenizer(TEXTS, 400).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_the_folder_makes_a_model(folder: Path, tokenizer: Any) -> None:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    assert config.vocab_size == len(tokenizer) == 700
    assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_config(config)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model(**tokenizer("a", return_tensors="pt")).logits.shape == (1, 1, 700)


def test_bad_sizes_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected ≥ 260"):
        train_tokenizer(TEXTS, 259)
    with pytest.raises(ValueError, match="not a multiple of 2 × heads"):
        build(tmp_path, TEXTS, hidden_size=36)
    with pytest.raises(FileExistsError, match="already holds a model"):
        build(folder, TEXTS)
