"""Rows that cannot be read or written: the file, the row and the column are named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustlm.rows.base import BadRowsError, RowError
from robustlm.rows.readers import iter_rows
from tests.bad_input.refused import refused
from tests.bad_input.test_bad_input import ROW, Site

TEXTS: dict[str, Any] = {"instruction": ["Say it now.", "Say that."], "output": ["it", "that"]}


def parquet(site: Site, **columns: Any) -> str:
    pq.write_table(pa.table({**TEXTS, **columns}), site.folder / "rows.parquet")
    return "rows.parquet"


def utf8(*values: bytes) -> Any:
    return pa.array(values, pa.binary()).view(pa.string())


UNREADABLE: dict[str, Callable[[], Any]] = {
    "date": lambda: pa.array([0, 2**31 - 1], pa.int32()).cast(pa.date32()),
    "time": lambda: pa.array([0, 2**62], pa.int64()).view(pa.timestamp("us")),
    "text": lambda: utf8(b"good", b"h\xf6t"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("command", ["init", "noise"])
def test_a_value_that_python_cannot_hold(
    kind: str, command: str, site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = parquet(site, odd=UNREADABLE[kind]())
    message = refused(site.read(rows) if command == "init" else ["noise", rows, "out.jsonl"], site.folder, capfd)
    assert "rows.parquet:2: " in message
    assert "'odd'" in message


def test_good_rows_beside_an_unreadable_value_are_read(site: Site) -> None:
    bad: list[RowError] = []
    found = [row.data["output"] for row in iter_rows(parquet(site, odd=UNREADABLE["date"]()), on_bad=bad.append)]
    assert found == ["it"]
    assert [error.line for error in bad] == [2]
    with pytest.raises(BadRowsError, match="1 of 2 rows"):
        list(iter_rows("rows.parquet"))


UNWRITABLE: dict[str, list[Any]] = {
    "an empty object": [{}],
    "an empty object in a list": [[{}]],
    "an empty object inside": [{"a": {"b": {}}}],
    "two types": [1, "x"],
    "a number without end": [2**70],
}


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_values_that_parquet_cannot_hold(kind: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    rows = site.rows(*({**ROW, "meta": value, "id": str(i)} for i, value in enumerate(UNWRITABLE[kind])))
    message = refused(["noise", rows, "out.parquet"], site.folder, capfd)
    assert "out.parquet" in message
    assert "'meta'" in message
    assert ".jsonl" in message


def test_values_that_json_cannot_hold(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    message = refused(["noise", parquet(site, odd=pa.array([0, 1], pa.date32())), "out.jsonl"], site.folder, capfd)
    assert "out.jsonl" in message
    assert "row 1" in message
    assert "'odd'" in message


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


def _device(path: Path) -> None:
    path.symlink_to(os.devnull)


PLACES = {"a named pipe": _pipe, "links in a circle": _circle, "a device": _device}


@pytest.mark.parametrize("found", PLACES)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_that_are_no_file(found: str, name: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    PLACES[found](site.folder / name)
    assert f"{name}: found {found}; expected a file" in refused(site.read(name), site.folder, capfd)


@pytest.mark.parametrize("found", PLACES)
def test_an_output_that_is_no_file(found: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    PLACES[found](site.folder / "out.jsonl")
    assert f"found {found}" in refused(["noise", site.rows(), "out.jsonl"], site.folder, capfd)


def test_a_long_key_is_not_repeated_whole(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    message = refused(site.read(site.rows({"k" * 1_000_000: 1})), site.folder, capfd)
    assert "rows.jsonl:1: unknown keys: found kkk" in message
    assert "expected" in message


def test_a_header_of_another_encoding(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    rows = site.write("rows.csv", "instruction,output,größe\na,b,c\n".encode("latin-1"))
    assert "rows.csv:1: not UTF-8" in refused(site.read(rows), site.folder, capfd)


@pytest.mark.parametrize(
    "kind", ["os.system", "builtins.eval", "os._exit", "random.random", "robustlm.noise.base.Noise"]
)
def test_a_function_that_is_no_noise_is_never_called(kind: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    rows = site.rows({**ROW, "instruction": "touch executed now please"})
    message = refused(["noise", rows, "out.jsonl", "--kind", kind], site.folder, capfd)
    assert f"noise kind '{kind}'" in message


def test_a_function_of_ones_own_still_is_noise(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustlm.cli import main

    site.write("own_noise.py", "def turned(words, omega, rng, pools):\n    return words[::-1]\n")
    monkeypatch.syspath_prepend(site.folder)
    main(["noise", site.rows(), "out.jsonl", "--kind", "own_noise.turned"])
    assert json.loads((site.folder / "out.jsonl").read_text().splitlines()[0])["noise_kind"] == "own_noise.turned"
