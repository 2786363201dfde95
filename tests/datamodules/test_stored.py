"""Training rows in the cache: the same batches as in memory, and never those of other rows or settings."""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from robustlm.datamodules import (
    ContrastiveDataModule,
    InstructionDataModule,
    NoisyInstructionDataModule,
    ParaphraseDataModule,
    caching,
)
from robustlm.models.tuning import LoRA
from robustlm.noise.base import Noise
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.sources import large, spilled
from robustlm.sources.loading import load_all
from robustlm.sources.source import Source
from robustlm.sources.stored import sample_columns, sample_values, samples_in
from robustlm.utils import kept
from tests.datamodules.test_datamodules import epoch_of, ready, same
from tests.datamodules.test_phrasings import rows_of
from tests.tiny import load, make_rows, write_rows

MIXED = [
    *make_rows(11),
    *({**row, "id": f"bank-{i}"} for i, row in enumerate(rows_of(9))),
    {"id": "v", "instruction": "find all", "target": "x", "text": "hello words", "variant": "please find all"},
    {"messages": [{"role": role, "content": f"say {i}"} for i, role in enumerate(("user", "assistant") * 2)]},
]
"""Rows of several shapes: with and without banks, variants, labels and chats."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (spilled, large):
        monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(caching, "sensible_processes", lambda: 1)


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    return write_rows(tmp_path / "mixed.jsonl", MIXED)


def both(kind: type[InstructionDataModule], llama: str, folder: Path, workers: int = 0, **settings: Any) -> list[Any]:
    """The datamodule with rows in memory, and with rows in the cache."""
    found = []
    for cache, own in ((None, 0), (str(folder / "cache"), workers)):
        made = kind(cache_dir=cache, cache_above=0, num_workers=own, **settings)
        found.append(ready(made, llama))
    memory, stored = found
    assert stored.rows["train"].stored
    assert not memory.rows["train"].stored
    return found


def agree(memory: Any, stored: Any, epochs: tuple[int, ...] = (0, 1)) -> bool:
    loaders = memory.train_dataloader(), stored.train_dataloader()
    return all(same(*(epoch_of(loader, epoch) for loader in loaders)) for epoch in epochs)


KINDS: dict[str, tuple[type[InstructionDataModule], dict[str, Any]]] = {
    "plain": (InstructionDataModule, {}),
    "fresh": (InstructionDataModule, {"phrasing": "fresh", "group_by_length": False}),
    "noisy": (NoisyInstructionDataModule, {"noise": Noise(omega=0.4, phi=0.7), "variants": 2}),
    "protected": (NoisyInstructionDataModule, {"noise": Noise("mixed", 0.4, protect=True), "beta": "sample"}),
    "given": (NoisyInstructionDataModule, {"noise": None}),
    "paraphrases": (ParaphraseDataModule, {"noise": Noise(phi=0.5), "variants": 2, "phrasing": "fresh"}),
    "groups": (ContrastiveDataModule, {"negatives": 1}),
    "file order": (ContrastiveDataModule, {"shuffle": False, "noise": Noise(phi=0.5)}),
    "every reply": (InstructionDataModule, {"assistant_turns": "each", "system": "Be kind."}),
}


@pytest.mark.parametrize("name", KINDS)
def test_batches_are_those_of_rows_in_memory(name: str, llama: str, mixed: str, tmp_path: Path) -> None:
    kind, settings = KINDS[name]
    assert agree(*both(kind, llama, tmp_path, train=mixed, batch_size=4, **settings))


def test_validation_rows_are_cached_too(
    llama: str, mixed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = write_rows(tmp_path / "few.jsonl", make_rows(3))
    memory, stored = both(NoisyInstructionDataModule, llama, tmp_path, train=mixed, validation=mixed, batch_size=4)
    assert stored.rows["validation"].stored
    assert memory.notes == stored.notes
    batches = [[batch for loader in data.val_dataloader() for batch in loader] for data in (memory, stored)]
    assert same(*batches)
    for name in ("groups", "targets", "tasks", "instructions", "labels"):
        assert [getattr(batch, name) for batch in batches[0]] == [getattr(batch, name) for batch in batches[1]]
    shown = [[(batch.prompt.texts, batch.prompt.messages, batch.prompt.keys) for batch in own] for own in batches]
    assert shown[0] == shown[1]
    held = {"train": few, "validation": mixed, "cache_dir": str(tmp_path / "other"), "cache_above": 0.002}
    data = ready(NoisyInstructionDataModule(**held, noise=None), llama)
    assert (data.rows["train"].stored, data.rows["validation"].stored) == (False, True)
    options = ready(InstructionDataModule(**held, scoring="options"), llama)
    assert not options.rows["validation"].stored
    assert "data.validation (0 MB) stay in memory, because data.scoring: options also tokenises" in caplog.text


@pytest.mark.parametrize("name", ["noisy", "groups"])
def test_workers_that_live_on_change_nothing(name: str, llama: str, mixed: str, tmp_path: Path) -> None:
    kind, settings = KINDS[name]
    memory, stored = both(kind, llama, tmp_path, workers=2, train=mixed, batch_size=4, **settings)
    loaders = memory.train_dataloader(), stored.train_dataloader()
    assert loaders[1].persistent_workers
    for epoch in (0, 1, 2):
        assert same(*(epoch_of(loader, epoch) for loader in loaders))


def test_several_processes_write_what_one_writes(
    llama: str, mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "sensible_processes", lambda: 2)
    assert agree(*both(NoisyInstructionDataModule, llama, tmp_path, train=mixed, batch_size=4), epochs=(0,))


@pytest.mark.parametrize("more", [{"limit": 7}, {"limit": 0.3, "sampling": "random"}, {"bank": "sentiment"}])
def test_sources_with_settings_of_their_own(more: dict[str, Any], llama: str, tmp_path: Path) -> None:
    one = write_rows(tmp_path / "one.jsonl", [{"id": f"{i}", "text": f"t {i}", "label": "ab"[i % 2]} for i in range(9)])
    two = write_rows(tmp_path / "two.jsonl", make_rows(6))
    sources: list[Any] = [Source(one, task="tc", **more), two, Source("builtin:quickstart", limit=5)]
    (tmp_path / "held").mkdir()
    held = [write_rows(tmp_path / "held" / "one.jsonl", [{"text": "x", "label": "c"}, {"text": "y", "label": "a"}])]
    pair = both(InstructionDataModule, llama, tmp_path, train=sources, validation=held, batch_size=3)
    assert agree(*pair)
    assert pair[0].notes == pair[1].notes


def test_samples_come_back_as_they_were() -> None:
    import pyarrow as pa

    samples = load_all([Source("builtin:quickstart", limit=5)], "train")
    samples.append(
        type(samples[0])(
            "x",
            "do",
            "it é\n",
            turns=(("system", "s"), ("user", "u")),
            examples=tuple(samples[:2]),
            draw=3,
            fields=(("a", "b"),),
            choices=("p", "q"),
            variant="",
            since=(("assistant", "", '{"tool_calls": []}'), ("tool", "4")),
            tools='[{"type": "function"}]',
            reply='{"tool_calls": []}',
            trains_replies=True,
            answer_words=(("1", "p"),),
        )
    )
    assert samples_in(pa.record_batch(sample_values(samples), schema=pa.schema(sample_columns()))) == samples


# ------------------------------------------------------------------------------------------ errors and messages


BAD = [{"instruction": "", "target": "x"}, {"instruction": "a b", "target": "x", "id": "same", "more": "lost text"}]


def bad_file(folder: Path) -> str:
    rows = [*make_rows(6), BAD[0], BAD[1], *make_rows(9)[6:], BAD[1]]
    path = write_rows(folder / "bad.jsonl", rows)
    with open(path, "a", encoding="utf-8") as file:
        file.write("{broken\n")
    return path


def test_bad_rows_are_those_that_memory_finds(llama: str, tmp_path: Path) -> None:
    path = bad_file(tmp_path)
    messages = []
    for cache in (None, str(tmp_path / "cache")):
        with pytest.raises(BadRowsError) as raised:
            ready(InstructionDataModule(train=path, cache_dir=cache, cache_above=0), llama)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "duplicate id" in messages[0]
    assert not [one for one in (tmp_path / "cache").iterdir() if one.is_dir()]  # nothing half-made


def test_what_was_said_is_said_again(
    llama: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    path, said = bad_file(tmp_path), []
    caplog.set_level(logging.WARNING)
    for run, cache in enumerate((None, "cache", "cache")):
        caplog.clear()
        recwarn.clear()
        warnings.simplefilter("always")
        rejected = tmp_path / f"rejected-{bool(cache)}.jsonl"
        made = InstructionDataModule(
            train=path, on_bad_row="skip", rejected=str(rejected), max_length=90, batch_size=2,
            cache_dir=cache and str(tmp_path / cache), cache_above=0,
        )  # fmt: skip
        data = ready(made, llama)
        lists = [json.loads(line) for file in tmp_path.glob("rejected-*.jsonl") for line in file.open()]
        texts = [str(one.message).replace("-True", "-False") for one in recwarn if "left out" in str(one.message)]
        notes = [note.replace("-True", "") for note in data.notes]
        said.append((notes, texts, [r.getMessage() for r in caplog.records if "row" in r.getMessage()], lists))
        for file in tmp_path.glob("rejected-*.jsonl"):
            file.unlink()
        assert run < 2 or said[1] == said[2]
    assert said[0] == said[1]
    assert all(said[0][i] for i in (0, 1, 3))


# ------------------------------------------------------------------------------------------ when it is made again


class Made:
    """Counts how often rows are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        own = caching.write_large

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.times += 1
            return own(*args, **kwargs)

        monkeypatch.setattr("robustlm.datamodules.large.write_large", counted)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(monkeypatch)


def cached(llama: str, path: str, folder: Path, **settings: Any) -> Any:
    wanted: dict[str, Any] = {"train": path, "cache_dir": str(folder / "cache"), "cache_above": 0, "batch_size": 4}
    return ready(NoisyInstructionDataModule(**wanted | settings), llama)


def test_a_second_run_reads_what_the_first_made(llama: str, mixed: str, tmp_path: Path, made: Made) -> None:
    first = epoch_of(cached(llama, mixed, tmp_path).train_dataloader(), 0)
    others = {"noise": Noise(omega=0.9), "group_by_length": False, "num_workers": 0, "variants": 3, "beta": "sample"}
    assert same(first, epoch_of(cached(llama, mixed, tmp_path).train_dataloader(), 0))
    cached(llama, mixed, tmp_path, **others)
    assert made.times == 1


CHANGES: dict[str, dict[str, Any]] = {
    "template": {"template": "alpaca"},
    "length": {"max_length": 300},
    "seed": {"seed": 1},
    "format": {"format": "none", "on_bad_row": "skip"},
    "instructions": {"instructions": "concise"},
    "replies": {"assistant_turns": "each"},
    "system": {"system": "Be kind."},
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_another_setting_makes_other_rows(name: str, llama: str, mixed: str, tmp_path: Path, made: Made) -> None:
    cached(llama, mixed, tmp_path)
    data = cached(llama, mixed, tmp_path, **CHANGES[name])
    assert made.times == 2
    fresh = ready(
        NoisyInstructionDataModule(train=mixed, cache_dir=None, batch_size=4, **CHANGES[name]), llama
    ).train_dataloader()
    assert same(epoch_of(data.train_dataloader(), 0), epoch_of(fresh, 0))


def test_one_changed_letter_makes_other_rows_even_at_the_same_time(
    llama: str, mixed: str, tmp_path: Path, made: Made
) -> None:
    cached(llama, mixed, tmp_path)
    before, text = os.stat(mixed), Path(mixed).read_text(encoding="utf-8")
    Path(mixed).write_text(text.replace("hello words", "hello wards"), encoding="utf-8")
    os.utime(mixed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(mixed).st_size == before.st_size
    data = cached(llama, mixed, tmp_path)
    assert made.times == 2
    assert any("wards" in sample.context.text for sample in data.rows["train"].samples)


def test_another_tokenizer_bank_or_code_makes_other_rows(
    llama: str, t5: str, mixed: str, tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = tmp_path / "bank.json"
    bank.write_text(json.dumps({"own": ["Say it.", "Name it.", "Tell it."]}), encoding="utf-8")
    for _ in range(2):
        cached(llama, mixed, tmp_path, bank=f"{bank}#own")
    assert made.times == 1
    bank.write_text(json.dumps({"own": ["Say it.", "Name it.", "Tell it!"]}), encoding="utf-8")
    cached(llama, mixed, tmp_path, bank=f"{bank}#own")
    assert made.times == 2
    cached(t5, mixed, tmp_path, bank=f"{bank}#own")
    assert made.times == 3
    monkeypatch.setattr(caching, "package_digest", lambda: "other")
    cached(llama, mixed, tmp_path, bank=f"{bank}#own")
    assert made.times == 4


def test_labels_of_another_role_make_other_rows(llama: str, tmp_path: Path, made: Made) -> None:
    rows = [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(6)]
    (tmp_path / "d").mkdir()
    train = write_rows(tmp_path / "d" / "train.jsonl", rows)
    held = write_rows(tmp_path / "d" / "validation.jsonl", rows[:2])
    settings: dict[str, Any] = {"validation": [Source(str(tmp_path / "d"), task="tc")]}
    sources = [Source(str(Path(train).parent), task="tc")]
    cached(llama, sources, tmp_path, **settings)  # type: ignore[arg-type]
    write_rows(Path(held), [*rows[:2], {"text": "t", "label": "c"}])
    data = cached(llama, sources, tmp_path, **settings)  # type: ignore[arg-type]
    assert made.times == 4  # both roles, both times
    assert data.rows["train"].samples[0].context.option == "a, b, c"


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "about"])
def test_a_damaged_cache_is_made_again_and_said(
    damage: str, llama: str, mixed: str, tmp_path: Path, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    first = epoch_of(cached(llama, mixed, tmp_path).train_dataloader(), 0)
    (folder,) = (one for one in (tmp_path / "cache").iterdir() if one.is_dir())
    rows = folder / "rows.arrow"
    data = bytearray(rows.read_bytes())
    if damage == "cut":
        rows.write_bytes(data[:-100])
    elif damage == "changed":
        data[len(data) // 2] ^= 1
        rows.write_bytes(data)
    elif damage == "missing":
        rows.unlink()
    else:
        (folder / "about.json").write_text("{")
    assert same(first, epoch_of(cached(llama, mixed, tmp_path).train_dataloader(), 0))
    assert made.times == 2
    assert "is damaged" in caplog.text


def test_two_processes_at_once_make_it_once(llama: str, mixed: str, tmp_path: Path, made: Made) -> None:
    # threads stand for processes: a lock of one `FileLock` object holds against another object of the same process
    model, datas = load(llama, LoRA(r=2)), []
    for _ in range(2):
        datas.append(InstructionDataModule(train=mixed, cache_dir=str(tmp_path / "cache"), cache_above=0))
        datas[-1].connect(model)
    threads = [threading.Thread(target=data.setup, args=("fit",)) for data in datas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(data.rows["train"].stored for data in datas)
    assert made.times == 1


def test_a_full_disk_leaves_nothing(llama: str, mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("robustlm.rows.arrow.ArrowWriter.write", full)
    with pytest.raises(OSError, match=r"data\.cache_dir: .*No space left on device.*another folder"):
        cached(llama, mixed, tmp_path)
    assert not [one for one in (tmp_path / "cache").iterdir() if one.suffix != ".lock"]


def test_a_file_that_changes_meanwhile_is_refused(
    llama: str, mixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = caching.write_large

    def slow(*args: Any, **kwargs: Any) -> Any:
        found = own(*args, **kwargs)
        with open(mixed, "a", encoding="utf-8") as file:
            file.write(json.dumps(make_rows(1, seed=7)[0]) + "\n")
        return found

    monkeypatch.setattr("robustlm.datamodules.large.write_large", slow)
    with pytest.raises(SourceError, match="changed while it was read"):
        cached(llama, mixed, tmp_path)


class Own(NoisyInstructionDataModule):
    """A user's class."""


def test_code_of_the_user_makes_rows_for_one_run(llama: str, mixed: str, tmp_path: Path, made: Made) -> None:
    for _ in range(2):
        data = ready(Own(train=mixed, cache_dir=str(tmp_path / "cache"), cache_above=0, batch_size=4), llama)
        assert data.rows["train"].stored
    assert made.times == 2


def test_shapes_and_tasks_by_import_path_are_code_of_the_user(llama: str, mixed: str, tmp_path: Path) -> None:
    data = cached(llama, mixed, tmp_path)
    assert not caching.users_code(data, [Source(mixed, task="tc", format="none")], data.encoder)
    assert caching.users_code(data, [Source(mixed, format="mine.shape")], data.encoder) == "mine.shape"
    assert caching.users_code(data, [Source(mixed, task="mine.Task")], data.encoder) == "mine.Task"


def test_small_rows_stay_in_memory(llama: str, mixed: str, tmp_path: Path) -> None:
    data = ready(InstructionDataModule(train=mixed, cache_dir=str(tmp_path / "cache")), llama)
    assert not data.rows["train"].stored
    assert not (tmp_path / "cache").exists()
    assert data.train_dataloader().num_workers == 0


def test_every_argument_is_in_the_key_or_known_to_change_nothing() -> None:
    for kind in (InstructionDataModule, NoisyInstructionDataModule, ParaphraseDataModule, ContrastiveDataModule):
        found = caching.arguments_of(kind())
        assert {"template", "max_length", "seed", "system", "on_bad_row", "bank"} <= set(found)


def test_keys_differ_where_data_differ() -> None:
    assert kept.key_for({"a": [1]}) == kept.key_for({"a": [1]}) != kept.key_for({"a": ["1"]})
