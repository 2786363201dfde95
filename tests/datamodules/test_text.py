"""Running text as full rows of tokens, held-out documents, and the cache of tokens."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustlm.datamodules import TextDataModule
from robustlm.datamodules.text_rows import TextRows
from robustlm.models.backbone import Backbone
from robustlm.rows.base import SourceError

WORDS = ("find", "name", "the", "words", "hello", "wörld", "text", "good", "bad", "</s>", "option", "\n")


def text_of(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"{i} " + " ".join(draw.choices(WORDS, k=draw.randint(5, 40))).strip() for i in range(count)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("\n<|endoftext|>\n".join(texts) + "\n<|endoftext|>\n", encoding="utf-8")
    return str(path)


def data_of(llama: str, cache: Path | None, **settings: Any) -> TextDataModule:
    data = TextDataModule(cache_dir=None if cache is None else str(cache), **{"max_length": 16, **settings})
    data.connect(Backbone(llama))
    return data


def rows_of(data: TextDataModule, role: Any) -> TextRows:
    found = data.read(role)
    assert isinstance(found, TextRows)
    return found


def plain(texts: list[str], tokenizer: Any) -> list[int]:
    """The tokens of documents, computed one by one; no special token of the tokenizer stands in a text."""
    found: list[int] = []
    for text in texts:
        pieces = text.split("</s>")
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert len(pieces) == 1 or tokenizer.eos_token_id not in ids
        found += [*ids, tokenizer.eos_token_id]
    return found


def test_every_token_is_a_target_once(llama: str, tokenizer: Any, tmp_path: Path) -> None:
    texts = text_of(30)
    data = data_of(llama, tmp_path / "cache", train=write(tmp_path / "a.txt", texts), held_out=0, batch_size=4)
    rows = rows_of(data, "train")
    wanted = plain(texts, tokenizer)
    assert rows.total == len(wanted)
    assert len(rows) == (len(wanted) - 1) // 15
    targets = [token for row in rows.encoded for token in row.answer_ids]
    assert targets == wanted[1 : len(targets) + 1]
    assert len(wanted) - 1 - len(targets) < 15
    assert all(len(row) == 16 for row in rows.encoded)
    assert list(rows.lengths) == [16] * len(rows)
    data.rows["train"] = rows
    loader = data.train_dataloader()
    seen = []
    for batch in loader:
        assert batch.raw.input_ids.shape[1] == 16
        assert bool((batch.raw.attention_mask == 1).all())
        assert bool((batch.raw.labels[:, 1:] == batch.raw.input_ids[:, 1:]).all())
        assert bool((batch.raw.labels[:, 0] == -100).all())
        assert batch.step_tokens == len(batch) * 15
        seen += batch.ids
    assert sorted(seen) == sorted(sample.id for sample in rows.samples)
    again = pickle.loads(pickle.dumps(rows))
    assert len(pickle.dumps(rows)) < 2000  # processes that prepare batches map the file anew
    assert [row.answer_ids for row in again.encoded] == [row.answer_ids for row in rows.encoded]


def test_whole_documents_are_held_out(llama: str, tokenizer: Any, tmp_path: Path) -> None:
    texts = text_of(200)
    for name, order in (("a", texts), ("b", [*reversed(texts), texts[0], texts[1]])):
        file = write(tmp_path / f"{name}.txt", order)
        data = data_of(llama, tmp_path / "cache", train=file, held_out=30)
        assert data.sources["validation"]  # so that a checkpoint can be chosen by its loss
        train, kept = rows_of(data, "train"), rows_of(data, "validation")
        assert len(kept) == 30
        assert kept.total == 30 * 15 + 1
        known = {tuple(plain([text], tokenizer)) for text in texts}
        ends = [i + 1 for i, token in enumerate(kept_tokens(kept)) if token == tokenizer.eos_token_id]
        held = [tuple(kept_tokens(kept)[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        assert held
        assert set(held) < known
        trained = set(documents_in(train, tokenizer))
        assert not trained & set(held)
        assert len(trained) == len(known) - len(held) - 1  # one held-out document is cut
        if name == "a":
            first = kept_tokens(kept)
        else:  # neither order nor copies matter
            assert kept_tokens(kept) == first


def kept_tokens(rows: TextRows) -> list[int]:
    return [*rows.encoded[0].prompt_ids, *(token for row in rows.encoded for token in row.answer_ids)]


def documents_in(rows: TextRows, tokenizer: Any) -> list[tuple[int, ...]]:
    tokens = rows._tokens.array.tolist()
    ends = [i + 1 for i, token in enumerate(tokens) if token == tokenizer.eos_token_id]
    return [tuple(tokens[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def test_bytes_of_targets(llama: str, tokenizer: Any, tmp_path: Path) -> None:
    texts = text_of(40, seed=3)
    file = write(tmp_path / "v.txt", texts)
    data = data_of(llama, None, train=write(tmp_path / "t.txt", text_of(40)), validation=file)
    rows = rows_of(data, "validation")
    width = rows.bytes_per_target
    assert width is not None
    # all bytes but those of the first token, and of what follows the last full row
    tokens = rows._tokens.array[: len(rows) * 15 + 1]
    text = tokenizer.decode(tokens[1:], skip_special_tokens=False)
    ends = int(np.isin(tokens[1:], [tokenizer.eos_token_id]).sum())
    written = len(text.encode()) - ends * len(b"</s>")
    assert width * len(rows) * 15 == pytest.approx(written, abs=4)  # a letter may be cut at the end of the last row
    assert rows_of(data, "train").bytes_per_target is None


def test_tokens_are_made_once(llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.txt", text_of(30))
    first = kept_tokens(rows_of(data_of(llama, tmp_path / "cache", train=file, held_out=2), "train"))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr("robustlm.datamodules.text_files.write_tokens", refuse)
    assert kept_tokens(rows_of(data_of(llama, tmp_path / "cache", train=file, held_out=2), "train")) == first
    for other in ({"held_out": 3}, {"held_out": 2, "max_length": 17}):
        with pytest.raises(AssertionError, match="tokenised again"):
            data_of(llama, tmp_path / "cache", train=file, **other).read("train")
    write(Path(file), text_of(30, seed=1))
    with pytest.raises(AssertionError, match="tokenised again"):
        data_of(llama, tmp_path / "cache", train=file, held_out=2).read("train")


def test_what_cannot_be_read(llama: str, t5: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", ["too short"])
    with pytest.raises(SourceError, match=r"a\.txt: found \d+ tokens in whole; expected enough for a row"):
        data_of(llama, None, train=file, held_out=0, max_length=64).read("train")
    with pytest.raises(
        SourceError, match=r"found [1-9]\d* tokens in whole; expected enough for 64 rows of 16 tokens to hold out"
    ):
        data_of(llama, None, train=file).read("train")
    with pytest.raises(ValueError, match="has an encoder; running text needs a decoder alone"):
        data_of(t5, None, train=file).read("train")
    with pytest.raises(ValueError, match="running text has no instructions to test"):
        data_of(llama, None, train=file).read("test")
    with pytest.raises(ValueError, match=r"data\.train: no text is named"):
        data_of(llama, None).read("train")
    with pytest.raises(ValueError, match=r"data\.held_out: found -1"):
        TextDataModule(file, held_out=-1)
