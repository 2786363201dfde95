"""Files are whole or not there, whatever ends the process that writes them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from robustlm.callbacks.checkpoints import WholeCheckpoints
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import write_table
from robustlm.rows.writers import write_rows
from robustlm.utils.files import UNFINISHED, remove_orphans, whole_file, whole_folder, write_text

ROW = Record("a", "d", "generation", "clean", "0", "x", parsed=None, target="x", correct=True)

FULL = Path(os.devnull).with_name("full")

WRITERS: dict[str, Any] = {
    "text": lambda path: write_text(path, "new"),
    "checkpoint": lambda path: WholeCheckpoints().save_checkpoint({"state_dict": {"a": torch.zeros(4)}}, path),
    "table": lambda path: write_table(path, [ROW]),
    "rows": lambda path: write_rows(path, [{"instruction": "a", "target": "b"}]),
}


def name(kind: str) -> str:
    return {"rows": "a.jsonl", "table": "a.parquet"}.get(kind, "a.bin")


@pytest.mark.parametrize("kind", WRITERS)
def test_the_disk_has_the_file_before_its_name(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written beside the target, synced, renamed, in this order; nothing goes to the system's temporary folder."""
    happened: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (happened.append("sync"), sync(handle))[1])

    def renamed(source: Any, target: Any) -> None:
        happened.append("rename")
        assert Path(source).parent == Path(target).parent == tmp_path
        replace(source, target)

    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    target = tmp_path / name(kind)
    target.write_bytes(b"old")
    WRITERS[kind](target)
    assert happened == ["sync", "rename", "sync"]
    assert target.read_bytes() != b"old"
    assert os.listdir(tmp_path) == [target.name]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_names_the_file_and_leaves_the_old_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / name(kind)
    target.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"{target} cannot be written: No space left"):
        WRITERS[kind](target)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [target.name]


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
def test_a_write_that_fails_names_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *how: open_(FULL if path.name.endswith(UNFINISHED) else path, *how))
    with pytest.raises(OSError, match=r"a\.ckpt cannot be written: No space left"):
        WholeCheckpoints().save_checkpoint({"state_dict": {"a": torch.zeros(100_000)}}, tmp_path / "a.ckpt")
    assert not os.listdir(tmp_path)


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom robustlm.utils.files import whole_file, whole_folder\n"
        "folder = Path(sys.argv[1])\n"
        "with whole_folder(folder / 'adapter') as part, whole_file(folder / 'last.ckpt') as file:\n"
        "    (part / 'a').write_text('half')\n    file.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    left = list(tmp_path.glob(f".*{UNFINISHED}"))
    assert len(left) == 2
    assert not (tmp_path / "last.ckpt").exists()
    with whole_file(tmp_path / "other.ckpt") as mine:
        mine.write_text("whole")
        assert mine.exists()
        assert not any(path.exists() for path in left)
    elsewhere = tmp_path / f".last.ckpt.00000000-1-00000000{UNFINISHED}"
    elsewhere.touch()  # of another machine, which may be at work
    assert remove_orphans(tmp_path) == []
    os.utime(elsewhere, (1, 1))
    assert remove_orphans(tmp_path) == [elsewhere]
    assert os.listdir(tmp_path) == ["other.ckpt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    for text in ("one", "two"):
        with whole_folder(target) as unfinished:
            (unfinished / text).write_text(text)
        assert [file.name for file in target.iterdir()] == [text]
    with pytest.raises(FileNotFoundError), whole_folder(target) as unfinished:
        (unfinished / "nowhere" / "three").touch()
    assert [file.name for file in target.iterdir()] == ["two"]
    assert os.listdir(tmp_path) == ["adapter"]
