"""Sources that are too large for memory, read into files; the counterpart of `robustlm.sources.loading`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustlm.rows.arrow import ArrowRows, ArrowWriter, RecordBatch
from robustlm.sample import Sample
from robustlm.sources.drafts import Drafter
from robustlm.sources.loading import (
    KnownLabels,
    as_source,
    builtin_samples,
    check_bank,
    count_of,
    occurs_twice,
    options_by_task,
    place_of,
    rejected_files,
    say_fewer,
)
from robustlm.sources.samples import named_labels, settle_errors
from robustlm.sources.source import BUILTIN, Role, Source, named_by_path
from robustlm.sources.spilled import CHUNK, SeenIds, Spilled, limit_by_id, spill
from robustlm.sources.stored import StoredSamples, sample_columns, sample_values
from robustlm.utils.parallel import in_order, sensible_processes

log = logging.getLogger(__name__)


def unpacked_size(source: str | Source, role: Role) -> int:
    """Size of a source's file in bytes, unpacked; 0 for the built-in corpus and for data sets of the hub.

    Raises:
        SourceError: A folder has no file for the split.
    """
    wanted = as_source(source)
    if wanted.path == BUILTIN:
        return 0
    file = Path(place_of(wanted, role)[0])
    if not file.is_file():
        return 0
    size = file.stat().st_size
    if file.suffix.lower() == ".gz" and size > 4:
        with file.open("rb") as packed:  # gzip ends with the size of what it holds, modulo 2³²
            packed.seek(-4, os.SEEK_END)
            size = max(size, int.from_bytes(packed.read(4), "little"))
    elif file.suffix.lower() == ".parquet":
        size *= _PARQUET
    return size


_SMALL = 10e6
"""Bytes of text that one process reads about as fast as several, which have to be started."""
_PARQUET = 4
"""Text in Parquet files is compressed to about a quarter."""


class LargeSources:
    """The rows of sources in files, and the samples that they become.

    Args:
        sources: As for `load_all`.
        role: As for `load_all`.
        folder: Folder for the files.
        on_bad_row: As for `load_all`.
        rejected: As for `load_all`.
        known: As for `load_all`; learns the labels of these sources.
        seed: As for `load_all`.
        say: As for `load_all`.
        processes: Number of processes that read.

    Raises:
        SourceError: As `load_all`, but not for ids that two sources have.
        BadRowsError: As `load_all`.
    """

    def __init__(
        self,
        sources: Sequence[str | Source],
        role: Role,
        folder: Path,
        *,
        on_bad_row: Literal["strict", "skip"],
        rejected: Path | None,
        known: KnownLabels,
        seed: int,
        say: Callable[[str], object],
        processes: int,
    ) -> None:
        self._sources = [as_source(source) for source in sources]
        self._role = role
        self._found: dict[int, Spilled] = {}
        self._rows: dict[int, ArrowRows] = {}
        self._kept: dict[int, NDArray[np.bool_]] = {}
        self._given: dict[int, list[Sample]] = {}
        files = rejected_files(rejected, role, len(self._sources))
        for i, source in enumerate(self._sources):
            check_bank(source, role)
            if source.path == BUILTIN:
                self._given[i] = builtin_samples(source, role, seed)
                continue
            file, split = place_of(source, role)
            drafter = Drafter(
                format=source.format,
                task=source.task,
                bank=source.bank,
                fields=source.fields,
                topic=source.topic,
                labels=named_labels(source.labels, source.round_to),
            )
            one = self._found[i] = spill(file, split, drafter, folder / f"drafts-{i}.arrow", processes=processes)
            settle_errors(source.path, one.errors, one.good, on_bad_row, files[i])
            one.errors.clear()
            for note in one.notes():
                say(f"data.{role}: {named_by_path(source, role)} ({source.path}): {note}")
            self._rows[i] = ArrowRows(one.path)
        self._options = options_by_task(
            {i: (self._sources[i], one.found) for i, one in self._found.items()}, role, known, say
        )
        for i, one in self._found.items():
            known.remember(role, i, one.found)
            say_fewer(self._sources[i], role, one.good, say)
            kept = self._limit(i, seed)
            if kept is not None:
                self._kept[i] = kept

    @property
    def labels(self) -> dict[int, dict[str, set[str]]]:
        """The labels in the rows of each source, by task."""
        return {i: one.found for i, one in self._found.items()}

    @property
    def files(self) -> list[Path]:
        """The files in the folder, which are not needed any more once all samples are used."""
        return [one.path for one in self._found.values()]

    def __len__(self) -> int:
        """Number of rows, before limits."""
        return sum(map(len, self._given.values())) + sum(one.good for one in self._found.values())

    def _limit(self, i: int, seed: int) -> NDArray[np.bool_] | None:
        """A mask of the rows that a source's limit leaves; null: all."""
        source, one = self._sources[i], self._found[i]
        if source.limit is None:
            return None
        count = count_of(source.limit, one.good)
        if source.sampling == "random":
            return limit_by_id(self._rows[i], one.bad, count, seed if source.seed is None else source.seed)
        good = np.array([id not in one.bad for id in self._rows[i].texts("id")], bool)
        return good & (np.cumsum(good) <= count)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """All chunks of rows, in order: number of the source and number of the chunk."""
        for i in range(len(self._sources)):
            count = len(self._rows[i].batches) if i in self._rows else -(-len(self._given[i]) // CHUNK)
            for number in range(count):
                yield i, number

    def samples(self, chunk: tuple[int, int]) -> list[Sample]:
        """The samples of a chunk."""
        i, number = chunk
        if i in self._given:
            return self._given[i][number * CHUNK : (number + 1) * CHUNK]
        batch = self._rows[i].batches[number]
        if i in self._kept:
            import pyarrow as pa

            start = sum(one.num_rows for one in self._rows[i].batches[:number])
            batch = batch.filter(pa.array(self._kept[i][start : start + batch.num_rows]))
        name = named_by_path(self._sources[i], self._role)
        options = {task: labels for (of, task), labels in self._options.items() if of == name}
        return self._found[i].settled(batch, options, name)


def stored_samples(sources: Sequence[str | Source], role: Role, folder: Path, *, seed: int = 0) -> StoredSamples:
    """Read sources into a file of a folder, as `load_all` reads them into memory.

    Args:
        sources: As for `load_all`.
        role: As for `load_all`.
        folder: An empty folder, which has to stay as long as the samples are used.
        seed: As for `load_all`.

    Raises:
        SourceError: As `load_all`.
        BadRowsError: There are bad rows.
    """
    import pyarrow as pa

    size = sum(unpacked_size(source, role) for source in sources)
    processes = sensible_processes() if size > _SMALL else 1
    known = KnownLabels({role: sources})
    read = LargeSources(
        sources, role, folder, on_bad_row="strict", rejected=None, known=known, seed=seed, say=log.warning,
        processes=processes,
    )  # fmt: skip
    schema = pa.schema(sample_columns())
    seen = SeenIds()

    def settled(chunk: tuple[int, int]) -> tuple[list[str], RecordBatch]:
        samples = read.samples(chunk)
        return [one.id for one in samples], pa.record_batch(sample_values(samples), schema=schema)

    with ArrowWriter(folder / "samples.arrow", schema) as writer:
        for ids, batch in in_order(settled, read.chunks(), processes):
            for id in ids if len(sources) > 1 else ():
                if seen.add(id) is not None:
                    raise occurs_twice(role, id)
            writer.write(batch)
    for path in read.files:
        path.unlink()
    return StoredSamples(ArrowRows(folder / "samples.arrow"))
