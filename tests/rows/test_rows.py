from __future__ import annotations

import gzip
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustlm.rows.base import SUFFIXES, BadRowsError, Row, RowError, SourceError
from robustlm.rows.readers import iter_rows
from robustlm.rows.writers import RowWriter, write_rows


def put(path: Path, text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def read_all(path: str) -> tuple[list[Row], list[RowError]]:
    errors: list[RowError] = []
    return list(iter_rows(path, on_bad=errors.append)), errors


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_rows_come_back(tmp_path: Path, suffix: str) -> None:
    rows = [{"a": f'é "{i}", \u2028;\n', "b": str(i)} for i in range(1, 1503)]
    path = str(tmp_path / f"rows{suffix}")
    assert write_rows(path, rows) == len(rows)
    found = list(iter_rows(path))
    assert [row.data for row in found] == rows
    assert len({row.line for row in found}) == len(rows)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=4))
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_any_json_comes_back(tmp_path: Path, suffix: str, rows: list[dict[str, Any]]) -> None:
    path = str(tmp_path / f"rows{suffix}")
    write_rows(path, rows)
    assert [row.data for row in iter_rows(path)] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.text()}), min_size=1, max_size=4))
def test_any_text_comes_back_from_csv(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    path = str(tmp_path / "rows.csv")
    write_rows(path, rows)
    assert [row.data for row in iter_rows(path)] == rows


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_jsonl_lines_are_physical_lines(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, '\ufeff{"a": 1}\n\n  \r\n{"a": "\u2028"}\r\n{"a": 3}')
    assert [(row.line, row.data["a"]) for row in iter_rows(path)] == [(1, 1), (4, "\u2028"), (5, 3)]
    assert next(iter(iter_rows(path))).where == f"{path}:1"


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_json_rows_are_items_of_the_list(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, '\n[ {"a": 1,\n"b": [2,\n3]}, {"a": 2}\n\n,\n\n{"a": 3} ]\n')
    assert [(row.line, row.data["a"]) for row in iter_rows(path)] == [(1, 1), (2, 2), (3, 3)]
    assert [row.where for row in iter_rows(path)] == [f"{path} item {number}" for number in (1, 2, 3)]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("separators", [None, (",", ":")])
def test_json_lists_load_however_they_are_laid_out(
    tmp_path: Path, indent: int | None, separators: tuple[str, str] | None
) -> None:
    rows = [{"a": n, "b": [{"c": "é\n"}, []]} for n in range(3)]
    path = put(tmp_path / "x.json", json.dumps(rows, indent=indent, separators=separators))
    assert [row.data for row in iter_rows(path)] == rows
    assert [row.line for row in iter_rows(path)] == [1, 2, 3]


def test_messages_on_a_json_list_name_the_item(tmp_path: Path) -> None:
    path = put(tmp_path / "x.json", '[{"a": 1}, [{"a": 2}], {"a": 3}, "no"]')
    with pytest.raises(BadRowsError) as caught:
        list(iter_rows(path))
    assert f"{path} item 2: not an object: found a list" in str(caught.value)
    assert f"{path} item 4: not an object: found a string" in str(caught.value)


def test_csv_lines_are_where_records_start(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", 'a,b\r\n1,"two\nlines"\n\n3,4\n')
    assert [(row.line, row.data) for row in iter_rows(path)] == [
        (2, {"a": "1", "b": "two\nlines"}),
        (5, {"a": "3", "b": "4"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "broken JSON"),
        (b'{"a": 1} {"a": 2}', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'["a"]', "not an object"),
        (b"3", "not an object"),
        (b"null", "not an object"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key"),
        (b'{"a": NaN}', "not a number"),
        (b'{"a": -Infinity}', "not a number"),
        (b'{"a": "\xe9"}', "not UTF-8"),
        (rb'{"a": "\ud800"}', "half a character"),
    ],
)
def test_a_bad_line_is_reported_and_reading_goes_on(tmp_path: Path, line: bytes, reason: str) -> None:
    path = put(tmp_path / "x.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    rows, errors = read_all(path)
    assert [row.line for row in rows] == [1, 3]
    assert [(error.line, error.reason) for error in errors] == [(2, reason)]
    assert str(errors[0]).startswith(f"{path}:2: {reason}: ")


def test_bad_csv_records_are_reported_and_reading_goes_on(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", b'a,b\n1\n1,2,3\n\xe9,x\n"y"z,1\n5,6\n')
    rows, errors = read_all(path)
    assert [(row.line, row.data) for row in rows] == [(6, {"a": "5", "b": "6"})]
    assert [(error.line, error.reason) for error in errors] == [
        (2, "wrong number of fields"),
        (3, "wrong number of fields"),
        (4, "not UTF-8"),
        (5, "broken CSV"),
    ]


def test_without_a_handler_all_bad_rows_are_raised_at_the_end(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", "{}\n" + "no\n" * 24 + "".join(f"[{n}]\n" for n in range(2)))
    seen: list[Row] = []
    with pytest.raises(BadRowsError) as caught:
        seen.extend(iter_rows(path))
    assert len(seen) == 1
    assert len(caught.value.errors) == 26
    message = str(caught.value)
    assert f"{path}: 26 of 27 rows" in message
    assert "broken JSON: 24; not an object: 2" in message
    first, *others = message.splitlines()[1:]
    assert first.startswith(f"  {path}:2: broken JSON")
    assert "(the same in 23 more: lines 3, 4, 5" in first
    assert len(others) == 1
    assert others[0].endswith("(the same in 1 more: line 27)")


def test_of_many_problems_the_first_are_listed(tmp_path: Path) -> None:
    errors = [RowError("x.jsonl", n, f"odd: found {n // 2}") for n in range(50)]
    *listed, rest = str(BadRowsError("x.jsonl", errors, 60)).splitlines()[1:]
    assert [line.partition(" (")[0] for line in listed] == [f"  x.jsonl:{2 * n}: odd: found {n}" for n in range(20)]
    assert rest == "  … and 10 more"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.jsonl", b"", "no rows"),
        ("x.jsonl", b"\n\n", "no rows"),
        ("x.jsonl.gz", b"", "no rows"),
        ("x.json", b"", "no rows"),
        ("x.json", b" []", "no rows"),
        ("x.csv", b"a,b\n", "no rows"),
        ("x.csv", b"a,a\n1,2\n", ":1: found columns 'a', 'a'"),
        ("x.json", b'{"a": 1}', ":1: found '{'; expected '['"),
        (
            "x.json",
            b'{"data": [{"a": 1}]}',
            ":1: found '{'; expected '[', a list of objects (one object a line is .jsonl; of",
        ),
        ("x.json", b'[{"a": 1},\n\n{"a" 1}]', ":3: item 2: broken JSON"),
        ("x.json", b'[{"a": 1}, {"a": NaN}]', ":1: item 2: not a number"),
        ("x.json", b'[{"a": 1}\n{"a": 1}]', ":2: found '{'; expected ','"),
        ("x.json", b'[{"a": 1},\n]', ":2: item 2: broken JSON"),
        ("x.json", b'[{"a": 1}', ":1: found the end of the file; expected ','"),
        ("x.json", b'[{"a": 1}]\n]', ":2: found ']'; expected nothing"),
        ("x.json", b'[{"a": 1},\n{"a": "\xe9"}]', ":2: not UTF-8"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), ":1: found UTF-16"),
        ("x.parquet", b"PAR1", "not readable as Parquet"),
        ("x.xls", b"hello", "unknown kind of file"),
    ],
)
def test_an_unusable_file_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(SourceError) as caught:
        list(iter_rows(path))
    assert str(caught.value).startswith(path)
    assert says in str(caught.value)


def test_damaged_gzip_names_the_line_reached(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b'{"a": "%d"}\n' % i for i in range(5000)))
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    rows: list[Row] = []
    with pytest.raises(SourceError, match="ends too early") as caught:
        rows.extend(iter_rows(str(path)))
    assert f"{path}:" in str(caught.value)
    path.write_bytes(b'{"a": 1}\n')
    with pytest.raises(SourceError, match="damaged gzip"):
        list(iter_rows(str(path)))


def test_missing_files_fail_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        iter_rows(str(tmp_path / "x.jsonl"))
    with pytest.raises(SourceError, match="no such file"):
        iter_rows("missing.csv")
    with pytest.raises(SourceError, match="folder without data files"):
        iter_rows(str(tmp_path))
    with pytest.raises(SourceError, match="one split"):
        iter_rows(put(tmp_path / "x.jsonl", "{}"), "train")


def test_hub_names_go_to_the_datasets_library(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-X"])),
        }
    )
    rows = {"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]}
    calls = []

    def load_dataset(name: str, config: str | None, split: str | None, streaming: bool) -> Any:
        calls.append((name, config, split, streaming))
        dataset = datasets.Dataset.from_dict(rows, features=features)
        return dataset if split else datasets.DatasetDict({"train": dataset})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    expected = [
        {"text": "a", "label": "yes", "tags": ["O", "B-X"]},
        {"text": "b", "label": -1, "tags": []},
    ]
    assert [row.data for row in iter_rows("owner/name:sub", "test")] == expected
    assert next(iter_rows("name")).where == "name/train:1"
    assert calls == [("owner/name", "sub", "test", False), ("name", None, None, False)]


def test_a_name_that_is_no_dataset_is_a_source_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        raise FileNotFoundError("nowhere")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(SourceError, match=r"owner/name: no such file.*nowhere"):
        list(iter_rows("owner/name"))


def test_a_folder_is_read_split_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for split in ("train", "test"):
        put(folder / f"{split}.jsonl", json.dumps({"a": split}) + "\n")
    assert [row.data for row in iter_rows(str(folder), "test")] == [{"a": "test"}]
    with pytest.raises(SourceError, match="found splits train, test"):
        list(iter_rows(str(folder)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    write_rows(path, [{"a": "old"}])
    before = path.read_bytes()

    def interrupted() -> Iterator[dict[str, str]]:
        yield {"a": "new"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(path, interrupted())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_nothing_shows_under_the_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with RowWriter(path) as writer:
        writer.write({"a": 1})
        assert not path.exists()
    assert path.read_text() == '{"a": 1}\n'
    # as the user's umask has it, not the 0600 of temporary files
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_file_can_be_rewritten_from_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_rows(path, [{"a": i} for i in range(3)])
    write_rows(path, ({"a": row.data["a"] + 1} for row in iter_rows(str(path))))
    assert [row.data["a"] for row in iter_rows(str(path))] == [1, 2, 3]


def test_gzip_output_depends_on_the_rows_alone(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_rows(tmp_path / name, [{"a": 1}])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        ("x.jsonl", [{"a": float("nan")}], "row 1"),
        ("x.jsonl", [{"a": 1}, {"a": {1}}], "row 2"),
        ("x.csv", [{"a": 1}, {"b": 1}], "the header has a"),
        ("x.csv", [{"a": [1]}], "CSV holds text only"),
        ("x.parquet", [{"a": 1}, {"a": "x"}], "row 2"),
        ("x.parquet", [{"a": 1}] * 1000 + [{"b": 1}], "fields b"),
    ],
)
def test_unwritable_rows_are_errors(tmp_path: Path, name: str, rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        write_rows(tmp_path / name, rows)
    assert name in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_parquet_keeps_columns_that_only_later_rows_have(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_rows(path, [{"a": 1}, {"a": 2, "b": ["x"]}])
    assert [row.data for row in iter_rows(str(path))] == [{"a": 1, "b": None}, {"a": 2, "b": ["x"]}]


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="unknown kind"):
        RowWriter(tmp_path / "x.txt")
    with pytest.raises(SourceError, match="no folder"), RowWriter(tmp_path / "no" / "x.jsonl"):
        pass
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(SourceError, match="found a folder"), RowWriter(tmp_path / "x.jsonl"):
        pass
