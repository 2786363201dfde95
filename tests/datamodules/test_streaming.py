"""Training rows that are read meanwhile: every row once, the same batches on any number of processes and workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from robustlm import Replay
from robustlm.adversaries import NRM, FreeAT
from robustlm.batch import InstructionBatch
from robustlm.datamodules import ContrastiveDataModule, InstructionDataModule, NoisyInstructionDataModule, sampling
from robustlm.models.tuning import LoRA
from robustlm.modules import ANIT
from robustlm.noise.base import Noise
from robustlm.noise.distortion import LME
from robustlm.optim.config import Schedule
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.rows.readers import iter_rows
from robustlm.sources.source import Source
from tests.datamodules.test_datamodules import same
from tests.datamodules.test_text import text_of, write
from tests.tiny import load, make_rows, trainer, write_rows

ROWS = 53


@pytest.fixture
def rows(tmp_path: Path) -> str:
    varied = [row | ({"variant": "do it now"} if at % 3 == 0 else {}) for at, row in enumerate(make_rows(ROWS))]
    return write_rows(tmp_path / "rows.jsonl", varied)


@pytest.fixture(scope="session")
def llama(shallow: str) -> str:
    return shallow


@cache
def model_of(path: str) -> Any:
    return load(path, LoRA(r=2))


def ready(
    path: Any,
    llama: str,
    kind: type[InstructionDataModule] = NoisyInstructionDataModule,
    *,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    steps: int = 1000,
    **settings: Any,
) -> Any:
    """A connected datamodule of one process of a run."""
    data = kind(**{"train": path, "stream": 20, "batch_size": 4, "num_workers": 0, **settings})
    run = {"world_size": world, "global_rank": rank, "accumulate_grad_batches": accumulate, "max_steps": steps}
    asked = {"overfit_batches": 0, "limit_train_batches": 1.0, "val_check_interval": 1.0, "fast_dev_run": False}
    module = SimpleNamespace(backbone=model_of(llama))
    trainer: Any = SimpleNamespace(**run, **asked, num_devices=world, training=True, lightning_module=module)
    data.trainer = trainer
    data.setup("fit")
    return data


def turn(data: Any) -> Iterator[InstructionBatch]:
    """The batches of the first turn of a stream."""
    for batch in data.train_dataloader():
        if data.state_dict()["turn"]:
            return
        yield batch


def ids(batches: Any) -> list[str]:
    return [id for batch in batches for id in batch.ids]


def test_ranks_share_all_rows_and_none_twice(llama: str, rows: str) -> None:
    own = [ids(turn(ready(rows, llama, rank=rank, world=2))) for rank in (0, 1)]
    whole = ids(turn(ready(rows, llama)))
    assert not set(own[0]) & set(own[1])
    assert sorted(own[0] + own[1]) == sorted(whole)
    assert len(set(whole)) == len(whole) == ROWS
    file = [json.loads(line) for line in Path(rows).read_text().splitlines()]
    assert len(file) == ROWS


@pytest.mark.parametrize("kind", [NoisyInstructionDataModule, ContrastiveDataModule])
@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 2)])
def test_a_step_has_the_same_rows_on_any_processes(
    kind: type[InstructionDataModule], world: int, accumulate: int, llama: str, rows: str
) -> None:
    size = 8 // (world * accumulate)  # the rows of a step stay 8
    settings: dict[str, Any] = {"kind": kind, "group_by_length": False, "batch_size": size}
    if size == 2 or kind is NoisyInstructionDataModule:
        alone = ready(rows, llama, **settings, accumulate=world * accumulate)
        steps = list(turn(alone))
        mine = [
            list(turn(ready(rows, llama, rank=r, world=world, accumulate=accumulate, **settings))) for r in range(world)
        ]
        assert len({len(own) for own in mine}) == 1
        together = [batch for number in range(len(mine[0])) for batch in (own[number] for own in mine)]
        assert same(steps, together)


@pytest.mark.parametrize("kind", [NoisyInstructionDataModule, ContrastiveDataModule])
def test_workers_change_nothing(kind: type[InstructionDataModule], llama: str, rows: str) -> None:
    loaders = [ready(rows, llama, kind, num_workers=workers).train_dataloader() for workers in (0, 2)]
    found = [list(islice(loader, 31)) for loader in loaders]  # two turns
    assert same(*found)
    places = [loader.state_dict() for loader in loaders]
    assert places[0] == places[1]
    assert places[0]["turn"] == 2


def test_turns_have_the_same_rows_in_other_orders_and_noise(llama: str, rows: str) -> None:
    loader = ready(rows, llama, noise=Noise(omega=0.5)).train_dataloader()
    turns: dict[int, list[InstructionBatch]] = {0: [], 1: []}
    for batch in loader:
        if loader.state_dict()["turn"] > 1:
            break
        turns[loader.state_dict()["turn"]].append(batch)
    assert sorted(ids(turns[0])) == sorted(ids(turns[1]))
    assert ids(turns[0]) != ids(turns[1])
    other = ids(turn(ready(rows, llama, seed=1)))
    assert ids(turns[0]) != other
    assert sorted(ids(turns[0])) == sorted(other)


@pytest.mark.parametrize("after", [0, 3, 5, 14, 17])
def test_going_on_is_exact(after: int, llama: str, rows: str) -> None:
    whole = list(islice(ready(rows, llama).train_dataloader(), 22))
    first = ready(rows, llama)
    list(islice(first.train_dataloader(), after))
    rest = ready(rows, llama)
    rest.load_state_dict(first.state_dict())
    loader = rest.train_dataloader()
    assert loader.state_dict()["batches"] == after
    assert same(list(islice(loader, 22 - after)), whole[after:])


def test_going_on_with_other_processes(llama: str, rows: str) -> None:
    settings: dict[str, Any] = {"group_by_length": False}
    whole = list(turn(ready(rows, llama, accumulate=2, **settings)))
    first = ready(rows, llama, accumulate=2, **settings)
    list(islice(first.train_dataloader(), 4))
    mine = []
    for rank in (0, 1):
        data = ready(rows, llama, world=2, rank=rank, **settings)
        data.load_state_dict(first.state_dict())
        mine.append(list(turn(data)))
    assert same([batch for pair in zip(*mine, strict=True) for batch in pair], whole[4:])


def test_checkpoints_of_other_rows_or_settings_are_refused(llama: str, rows: str, tmp_path: Path) -> None:
    first = ready(rows, llama)
    list(islice(first.train_dataloader(), 7))
    place = first.state_dict()
    for stream, state, message in (
        (24, place, "made with window_rows 20; found window_rows 24; expected the same settings"),
        (20, {"batches": 3, "epoch": 0}, r"trained on rows that were all known; expected no data\.stream"),
        (None, place, "the checkpoint was trained on a stream"),
    ):
        other = ready(rows, llama, stream=stream)
        other.load_state_dict(state)
        with pytest.raises(ValueError, match=message):
            other.train_dataloader()
    lines = Path(rows).read_text().splitlines()
    write = [json.dumps(make_rows(1, seed=5)[0] | {"id": "new"}), *lines]
    Path(rows).write_text("\n".join(write) + "\n")
    data = ready(rows, llama)
    data.load_state_dict(place)
    with pytest.raises(ValueError, match="the rows of window 1 are not those that the checkpoint was trained on"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_row_deep_in_the_stream_names_file_and_line(workers: int, llama: str, rows: str) -> None:
    lines = Path(rows).read_text().splitlines()
    lines[46] = '{"instruction": "a", "target": ""}'
    Path(rows).write_text("\n".join(lines) + "\n")
    loader = ready(rows, llama, num_workers=workers).train_dataloader()
    batches = iter(loader)
    assert len(ids(islice(batches, 10))) == 40  # those of the windows before it
    with pytest.raises(SourceError, match=r"rows\.jsonl:47: empty target"):
        next(batches)
    skipping = ready(rows, llama, on_bad_row="skip", num_workers=workers)
    assert len(ids(turn(skipping))) == ROWS - 1


def test_left_out_rows_are_said(llama: str, rows: str, caplog: pytest.LogCaptureFixture) -> None:
    with open(rows, "a", encoding="utf-8") as file:
        file.write('{"instruction": "a", "target": ""}\n{broken\n')
    list(turn(ready(rows, llama, on_bad_row="skip")))
    assert "left out 2 rows of a window of the stream: " in caplog.text
    assert f"rows.jsonl:{ROWS + 1}: empty target" in caplog.text
    assert f"rows.jsonl:{ROWS + 2}: broken JSON" in caplog.text


def test_sources_take_turns(llama: str, rows: str, tmp_path: Path) -> None:
    other = write_rows(tmp_path / "other.jsonl", [{**row, "id": f"o{i}"} for i, row in enumerate(make_rows(9))])
    data = ready([rows, Source(other, limit=5)], llama)
    first = [sample.id for sample in data.rows["train"].samples]
    assert [id for id in first if id.startswith("o")] == [first[at] for at in (1, 3, 5, 7, 9)]
    assert len(set(ids(turn(data)))) == ROWS + 5


def test_folders_of_shards_are_read_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []
    own = datasets.load_dataset

    def watched(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["streaming"])
        return own(*args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", watched)
    (tmp_path / "shards").mkdir()
    given = make_rows(30)
    for at in range(3):
        write_rows(tmp_path / "shards" / f"part-{at}.jsonl", given[at * 10 : at * 10 + 10])
    found = [row.data["target"] for row in iter_rows(str(tmp_path / "shards"), "train", streaming=True)]
    assert found == [row["target"] for row in given]
    assert asked == [True]


def test_rows_of_a_stream_bring_the_text_that_they_bring_in_memory(llama: str, rows: str, tmp_path: Path) -> None:
    text = write(tmp_path / "text.txt", text_of(60))
    replay = Replay(text, share=0.4, length=20, held_out=0)
    settings: dict[str, Any] = {"replay": replay, "cache_dir": None, "group_by_length": False}

    def lines(batches: list[InstructionBatch]) -> list[list[int]]:
        return sorted(row for batch in batches if batch.replay is not None for row in batch.replay.input_ids.tolist())

    memory = list(ready(rows, llama, stream=None, **settings).train_dataloader())
    streamed = list(turn(ready(rows, llama, **settings)))
    assert 10 < len(lines(memory)) < 40
    assert lines(streamed) == lines(memory)
    parts = [batch.replay_tokens for batch in streamed]
    assert parts == [pytest.approx(0.4 * len(batch) * 19) for batch in streamed]
    worked = ready(rows, llama, num_workers=2, **settings)
    assert same(list(turn(worked)), streamed)
    pair = [list(turn(ready(rows, llama, rank=rank, world=2, **settings))) for rank in (0, 1)]
    joint = list(turn(ready(rows, llama, accumulate=2, **settings)))
    assert same([batch for two in zip(*pair, strict=True) for batch in two], joint)
    assert lines(joint) == lines(memory)


LABELLED = [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(12)]


def test_what_needs_all_rows_is_refused_or_said(
    llama: str, rows: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labelled = write_rows(tmp_path / "labelled.jsonl", LABELLED)
    with pytest.raises(SourceError, match=r"labelled\.jsonl:1: the options of a row of tc are the labels of all rows"):
        ready([Source(labelled, task="tc")], llama)
    found = ready([Source(labelled, task="tc", labels=["a", "b"])], llama, stream=8).rows["train"]
    assert found.samples[0].context.option == "a, b"
    with pytest.raises(BadRowsError, match=r"labelled\.jsonl:2: .*found.*'?b'?.*expected"):
        ready([Source(labelled, task="tc", labels=["a", "c"])], llama)
    for settings, message in (
        ({"limit": 0.5}, "limit: found the share 0.5, which needs the number of all rows"),
        ({"limit": 5, "sampling": "random"}, "limit: found a random draw"),
    ):
        with pytest.raises(SourceError, match=message):
            ready([Source(rows, **settings)], llama)
    with pytest.raises(SourceError, match="found the built-in corpus; expected rows to read"):
        ready("builtin:quickstart", llama)
    with pytest.raises(ValueError, match=r"data\.rejected: found 'x\.jsonl' with data\.stream"):
        ready(rows, llama, rejected="x.jsonl")
    with pytest.raises(SourceError, match=r"text\.txt: found nothing"):
        ready(rows, llama, replay="text.txt").train_dataloader()
    with pytest.raises(ValueError, match=r"data\.stream: found windows of 3 rows, fewer than the 4 rows of"):
        ready(rows, llama, stream=3)
    with pytest.raises(ValueError, match=r"found trainer\.max_steps -1; expected the number of optimiser steps"):
        ready(rows, llama, steps=-1)
    with pytest.raises(ValueError, match=r"val_check_interval 1\.0, the end of an epoch, which a stream does not have"):
        ready(rows, llama, validation=rows)
    with pytest.raises(ValueError, match=r"data\.num_workers: found 2 with data\.stream, but data\.distortion runs"):
        ready(rows, llama, distortion=LME(), num_workers=2).train_dataloader()
    caplog.clear()
    ready(rows, llama, ContrastiveDataModule, negatives=1)
    said = (
        "done within windows of 20 rows: shuffling, batches of rows of similar length, β (data.beta: dataset), "
        "groups with hard negatives, explicit negatives; rows that follow"
    )
    assert said in caplog.text


def test_batches_by_tokens_stay_within_their_number(llama: str, rows: str) -> None:
    found = list(turn(ready(rows, llama, InstructionDataModule, batch_tokens=400, world=1)))
    assert max(batch.raw.input_ids.numel() for batch in found) <= 400
    assert sorted(ids(found)) == sorted(set(ids(found)))
    assert len(ids(found)) == ROWS


def test_a_joined_rest_is_split_evenly() -> None:
    import numpy as np

    order = np.arange(23)
    rounds = sampling.Rounds(order, np.arange(24), 5, 4, whole=True)
    assert [[len(batch) for batch in one] for one in rounds] == [[6, 6, 6, 5]]
    assert [row for one in rounds for batch in one for row in batch] == order.tolist()
    rounds = sampling.Rounds(order, np.arange(24), 2, 4, whole=True)
    assert [[len(batch) for batch in one] for one in rounds] == [[2] * 4, [2] * 4, [2, 2, 2, 1]]
    assert len(sampling.Rounds(order, np.arange(24), 5, 4)) == 1


def run(
    folder: Path, llama: str, rows: str, steps: int, *, ckpt: Path | None = None, replays: int = 1, **more: Any
) -> dict[str, torch.Tensor]:
    """The weights after some steps of two micro-batches, with a checkpoint after each two."""
    keeper = ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    workers = more.pop("num_workers", 0)
    settings = {"max_epochs": -1, "max_steps": steps, "accumulate_grad_batches": 2, **more}
    fitter = trainer(folder, seed=7 if ckpt is None else 99, enable_checkpointing=True, callbacks=[keeper], **settings)
    adversary = FreeAT(replays=replays) if replays > 1 else NRM()
    schedule = Schedule(warmup=0.0, decay="constant")
    module = ANIT(llama, tuning=LoRA(r=2, dropout=0.3), adversary=adversary, schedule=schedule)
    data = NoisyInstructionDataModule(
        train=rows, validation=rows if "val_check_interval" in more else None, batch_size=4, stream=20,
        num_workers=workers, replays=replays,
    )  # fmt: skip
    fitter.fit(module, data, ckpt_path=ckpt)
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("case", ["plain", "workers and validation", "freeat"])
def test_a_resumed_run_ends_as_if_it_had_never_stopped(case: str, llama: str, rows: str, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {
        "workers and validation": {"num_workers": 2, "val_check_interval": 3},
        "freeat": {"replays": 2},
    }
    more = settings.get(case, {})
    whole = run(tmp_path / "whole", llama, rows, 6, **more)
    checkpoints = [tmp_path / "whole" / "step=4.ckpt"]
    if case == "plain":
        run(tmp_path / "short", llama, rows, 2)  # ends within a window, and is prolonged
        checkpoints.append(tmp_path / "short" / "step=2.ckpt")
    for number, ckpt in enumerate(checkpoints):
        again = run(tmp_path / f"again-{number}", llama, rows, 6, ckpt=ckpt, **more)
        assert whole.keys() == again.keys()
        assert all(torch.equal(whole[name], again[name]) for name in whole)
