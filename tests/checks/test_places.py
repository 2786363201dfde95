"""Places: what lies there, and whether it may be written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustlm.checks.places import check_file, check_folder, check_name, check_output, what_is


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "device").symlink_to(os.devnull)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("file", "a file"),
        ("folder", "a folder"),
        ("pipe", "a named pipe"),
        ("circle", "links in a circle"),
        ("dangling", "a link to nothing"),
        ("device", "a device"),
        ("none", "nothing"),
        ("file/x", "nothing, because a parent of it is a file"),
        ("x" * 300, "no path that this system can open (File name too long)"),
        ("a\x00b", "no path that this system can open"),
    ],
)
def test_what_lies_at_a_place(places: Path, name: str, found: str) -> None:
    assert what_is(places / name) == found


@pytest.mark.parametrize("name", ["folder", "pipe", "circle", "dangling", "device", "none"])
def test_only_files_are_read(places: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: found .*; expected rows"):
        check_file(places / name, "rows")
    check_file(places / "file", "rows")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x", "a\x00", "a\nb", " a", "x" * 201, "a:b"])
def test_a_name_stays_in_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match=r"^export.name: found .*; expected a plain name"):
        check_name("export.name", name)


def test_a_plain_name_passes() -> None:
    check_name("export.name", "adapter-2 größer.v1")


@pytest.mark.parametrize("name", ["file", "file/x", "pipe", "circle", "x" * 300, "device"])
def test_a_folder_that_cannot_be_made_is_refused(places: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^output: "):
        check_folder("output", places / name)


def test_a_folder_that_cannot_be_written_to_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^output: /proc/new cannot be written to"):
        check_folder("output", "/proc/new")


def test_checking_a_folder_leaves_nothing(places: Path) -> None:
    before = sorted(os.listdir(places))
    check_folder("output", places / "new/deeper")
    check_folder("output", places / "folder")
    assert sorted(os.listdir(places)) == before
    assert not os.listdir(places / "folder")


@pytest.mark.parametrize("name", ["folder", "pipe", "circle", "none/file", "file/x", "device"])
def test_a_file_that_cannot_be_written_is_refused(places: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^flips: "):
        check_output("flips", places / name)


def test_a_file_that_can_be_written_passes(places: Path) -> None:
    check_output("flips", places / "file")
    check_output("flips", places / "new.jsonl")
