"""Rows whose files are too large for memory: how large they are, and how they get into the cache and out of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Protocol

from robustlm.datamodules.caching import RowCache, digests, settings_of, users_code, write_large
from robustlm.datamodules.preparation import Preparation, Tokenised
from robustlm.datamodules.stored import StoredRows
from robustlm.sample import Sample
from robustlm.sources.large import LargeSources, unpacked_size
from robustlm.sources.loading import KnownLabels, as_source, rejected_files
from robustlm.sources.source import BUILTIN, Role, Source, named_by_path


def megabytes(sources: Sequence[str | Source], role: Role) -> float:
    """Size of all files of a role, unpacked, in megabytes (10⁶ bytes).

    Raises:
        SourceError: A folder has no file for the role.
    """
    return sum(unpacked_size(source, role) for source in sources) / 1e6


class ReadsFiles(Protocol):
    """How a datamodule reads and tokenises its files."""

    @property
    def bank(self) -> str | None:
        """The bank whose instructions replace those of the rows."""

    @property
    def on_bad_row(self) -> Literal["strict", "skip"]:
        """Whether bad rows are an error or are left out."""

    @property
    def rejected(self) -> Path | None:
        """File for the rows that are left out."""

    @property
    def seed(self) -> int:
        """Seed of the order of rows."""

    @property
    def known_labels(self) -> KnownLabels:
        """The labels of all sources."""

    @property
    def preparation(self) -> Preparation:
        """Tokenises samples."""


class LargeRows:
    """The rows of a role in the cache; they are made first if they are not there.

    Keep the object for as long as the rows are used: a cache for one run alone ends with it.

    Args:
        data: The datamodule whose rows these are. All its arguments may decide how they are read.
        sources: The sources of the role.
        role: The role.
        folder: Folder of the cache.
        asked: Gives samples their instructions.
    """

    def __init__(
        self,
        data: ReadsFiles,
        sources: Sequence[str | Source],
        role: Role,
        folder: str,
        asked: Callable[[list[Sample]], list[Sample]],
    ) -> None:
        self._data = data
        self._sources = [as_source(source) for source in sources]
        self._role: Role = role
        self._asked = asked
        others = [
            (other, source)
            for mine in self._sources
            if mine.path != BUILTIN
            for other, _, source in data.known_labels.others(role, named_by_path(mine, role))
        ]
        self._read = [*((role, source) for source in self._sources), *others]
        encoder = data.preparation.encoder
        settings = settings_of(data, self._sources, encoder) | {
            "role": role,
            "others": [[role, asdict(one)] for role, one in others],
        }
        why_own = users_code(data, [source for _, source in self._read], encoder)
        self._cache = RowCache(role, Path(folder).expanduser(), settings, why_own)

    def rows(self) -> tuple[StoredRows, list[str]]:
        """The rows, and lines about them. Warnings, and labels that other roles need, are given again for kept rows.

        Raises:
            SourceError: See `LargeSources`; or a file changed while it was read.
            BadRowsError: Rows are bad, or too long.
            OSError: The cache cannot be written.
        """
        data, role = self._data, self._role
        copies = [file for file in rejected_files(data.rejected, role, len(self._sources)) if file]
        rows, said = self._cache.rows(lambda: digests(self._read, data.bank), self._write, copies)
        for text in said["warnings"]:
            warnings.warn(text, UserWarning, stacklevel=3)
        for number, labels in said["labels"].items():
            data.known_labels.remember(role, int(number), {task: set(own) for task, own in labels.items()})
        data.preparation.say_tokenised(Tokenised(**said["tokenised"]), role)
        return rows, [*said["notes"], *said["hidden"]]

    def _write(self, folder: Path) -> dict[str, object]:
        notes: list[str] = []
        found = write_large(
            folder,
            lambda drafts, processes: LargeSources(
                self._sources,
                self._role,
                drafts,
                on_bad_row=self._data.on_bad_row,
                rejected=self._data.rejected,
                known=self._data.known_labels,
                seed=self._data.seed,
                say=notes.append,
                processes=processes,
            ),
            self._asked,
            self._data.preparation,
            self._role,
            several=len(self._sources) > 1,
        )
        return found | {"notes": notes}
