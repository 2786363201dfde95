"""The state table: a hidden state for each row of a prediction table, written as a stream, read dataset by dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robustlm.checks.places import what_is
from robustlm.evaluation.record import Cell
from robustlm.evaluation.table import checked_column
from robustlm.utils.files import whole_file

HIDDEN_STATES = "states.parquet"
"""Name of the table, beside the predictions."""

_KEYS = ("condition", "dataset", "sample_id", "instruction_id")
_META = b"robustlm"
_GROUP_ROWS = 1024
"""Rows that are read and written at a time; 16 MiB for a model of width 4096."""

Singles = NDArray[np.float32]


class HiddenStatePart:
    """Writes the states of one process to a part file; `merge_hidden_states` makes one table from all part files.

    A process that is killed loses the batch that it was writing. Part files are Arrow streams with one record batch for
    each batch.

    Args:
        path: Path of the later table (Parquet). Before the merge there are only `<path>.part-*` files.
        rank: Rank of this process.
        attempt: Number of times that the run was resumed; each attempt writes its own files.
    """

    def __init__(self, path: Path, rank: int = 0, attempt: int = 0) -> None:
        self._part = path.with_name(f"{path.name}.part-{rank}.{attempt}")
        self._file: Any = None
        self._stream: Any = None

    def write(self, keys: Sequence[Cell], states: Singles) -> None:
        """Add the states `[n, H]` of n rows."""
        columns: list[Any] = [pa.array(list(names), pa.string()) for names in zip(*keys, strict=True)]
        columns.append(_vectors(states))
        batch = pa.record_batch(columns, schema=_schema(states.shape[1]))
        if self._stream is None:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._file = pa.OSFile(str(self._part), "wb")
            self._stream = pa.ipc.new_stream(self._file, batch.schema)
        self._stream.write_batch(batch)
        self._file.flush()

    def close(self) -> None:
        """Close the part file."""
        if self._stream is not None:
            self._stream.close()
            self._file.close()
        self._stream = self._file = None


def clear_hidden_states(path: Path) -> None:
    """Remove the part files of the table at `path`."""
    for part in _parts(path):
        part.unlink()


def next_attempt(path: Path) -> int:
    """The number of the next attempt, one above those of the part files of the table at `path`."""
    return 1 + max((_age(part)[0] for part in _parts(path)), default=-1)


def known_hidden_states(path: Path) -> set[Cell]:
    """Rows whose states are complete in the part files of the table at `path`."""
    return {key for batch in _batches(path) for key in _keys(batch)}


def merge_hidden_states(path: Path, conditions: Sequence[str], about: Mapping[str, Any]) -> int:
    """Write the table from all part files, each row once, in the order of the prediction table; return its row count.

    The part files are kept until `clear_hidden_states`. They are memory-mapped, not read into memory.

    Args:
        path: The table.
        conditions: Names of the conditions, in their order in the table.
        about: Plain data stored in the file: layer and position of the states.

    Raises:
        ValueError: There is no part file.
    """
    batches = list(_batches(path))
    if not batches:
        raise ValueError(f"{path}: no states were written; expected those of at least one row")
    order = {name: at for at, name in enumerate(conditions)}
    # if a row was run again, its newest state is used
    places = {key: (b, i) for b, batch in enumerate(batches) for i, key in enumerate(_keys(batch))}
    keys = sorted(places, key=lambda key: (order.get(key[0], len(order)), *key))
    states = [_states(batch) for batch in batches]
    schema = _schema(states[0].shape[1]).with_metadata({_META: json.dumps(dict(about)).encode()})
    with (
        whole_file(path) as unfinished,
        pq.ParquetWriter(unfinished, schema, compression="none", use_dictionary=list(_KEYS)) as writer,
    ):
        for start in range(0, len(keys), _GROUP_ROWS):
            some = keys[start : start + _GROUP_ROWS]
            block = np.stack([states[b][i] for b, i in map(places.__getitem__, some)])
            columns: list[Any] = [pa.array(list(names), pa.string()) for names in zip(*some, strict=True)]
            writer.write_table(pa.table([*columns, _vectors(block)], schema=schema), _GROUP_ROWS)
    return len(keys)


class HiddenStateTable:
    """A state table on disk. Keys are in memory; states are read on request.

    Args:
        path: The file.

    Raises:
        ValueError: The file is no state table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if (found := what_is(path)) != "a file":
            raise ValueError(f"{path}: no state table: found {found}; expected a Parquet file")
        try:
            self._file = pq.ParquetFile(path)
            schema = self._file.schema_arrow
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise ValueError(f"{path}: no state table: {error}") from error
        if missing := [name for name in (*_KEYS, "state") if name not in schema.names]:
            raise ValueError(f"{path}: the columns {missing} of a state table are missing; found {schema.names}")
        if not pa.types.is_fixed_size_list(kind := schema.field("state").type) or kind.value_type != pa.float32():
            raise ValueError(f"{path}: state: found {kind}; expected lists of float32 of one length")
        about = _about(path, (schema.metadata or {}).get(_META, b"{}"))
        self.layer: int | None = about.get("layer")
        self.position: str | None = about.get("position")
        wanted = _schema(self.width)
        self._groups: list[int] = []
        keys: list[Cell] = []
        for group in range(self._file.num_row_groups):
            found = self._file.read_row_group(group, columns=list(_KEYS))
            keys += _keys({name: checked_column(path, wanted.field(name), found.column(name)) for name in _KEYS})
            self._groups.append(len(keys))
        self.keys = keys
        """Condition, dataset, sample and instruction of each row."""

    @property
    def width(self) -> int:
        """H, the width of the states."""
        return int(self._file.schema_arrow.field("state").type.list_size)

    def read(self, rows: Sequence[int]) -> Singles:
        """States `[n, H]` of n rows, given by row number in ascending order; reads one block of the file at a time."""
        found = np.empty((len(rows), self.width), np.float32)
        wanted = np.asarray(rows, np.int64)
        start = 0
        for group, end in enumerate(self._groups):
            low, high = np.searchsorted(wanted, (start, end))
            if low < high:
                block = self._block(group)
                found[low:high] = block[wanted[low:high] - start]
            start = end
        return found

    def _block(self, group: int) -> Singles:
        rows = self._file.read_row_group(group, columns=["state"])
        if not rows.column("state").null_count:
            block = _states(rows)
            if np.isfinite(block).all():
                return block
        raise ValueError(
            f"{self.path}: state: found null or a number that is not finite; expected a state for each row"
        )


def _about(path: Path, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: the notes on layer and position are not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: the notes on layer and position are {type(found).__name__}; expected an object")
    return found


def _schema(width: int) -> pa.Schema:
    names = [pa.field(name, pa.string(), nullable=False) for name in _KEYS]
    return pa.schema([*names, pa.field("state", pa.list_(pa.float32(), width), nullable=False)])


def _vectors(states: Singles) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(states.reshape(-1), pa.float32()), states.shape[1])


def _keys(rows: Any) -> list[Cell]:
    return list(zip(*(rows[name].to_pylist() for name in _KEYS), strict=True))


def _states(rows: Any) -> Singles:
    """States `[n, H]`, without copying a record batch."""
    column = rows.column("state")
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(column.flatten().to_numpy(), np.float32).reshape(len(column), -1)


def _batches(path: Path) -> Iterator[Any]:
    """Complete record batches of all part files, older attempts first."""
    for part in _parts(path):
        try:
            stream = pa.ipc.open_stream(pa.memory_map(str(part)))
            yield from stream
        except (OSError, pa.ArrowInvalid):
            continue  # the process was killed while writing; missing rows are run again


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.part-*"), key=_age)


def _age(part: Path) -> tuple[int, int]:
    """Attempt and rank of a part file, to sort by."""
    rank, _, attempt = part.name.rpartition("-")[2].partition(".")
    return int(attempt), int(rank)
