"""Where rows come from: files, folders with splits, hub names, and the built-in corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from robustlm.data import quickstart
from robustlm.data.formats import load_samples
from robustlm.data.rows import SUFFIXES, SourceError
from robustlm.data.samples import Sample

Role = Literal["train", "validation", "test"]
BUILTIN = "builtin:quickstart"


@dataclass
class Source:
    """Rows from one place."""

    path: str
    """A file (`.jsonl`, `.json`, `.csv`, `.parquet`, also `.gz`), a folder that holds `<split>.<ending>`, a Hugging
    Face dataset name, or `builtin:quickstart`, the corpus that the project generates."""
    format: str | None = None
    """Shape of the rows (`robustlm`, `alpaca`, `messages`, …, or the import path of your own); recognised by its keys
    where not given."""
    task: str | None = None
    """Task of the rows, where their shape does not say it; a name, or the import path of a class of your own."""
    split: str | None = None
    """Which split of a folder, a hub dataset or the built-in corpus; the role the source is used in where not given."""
    limit: int | None = None
    """Use the first rows only."""
    name: str | None = None
    """Name the scores are reported under; the folder's or file's where not given."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"{self.path}: limit {self.limit} leaves no rows; expected ≥ 1")


def load(
    source: str | Source, role: Role, *, on_bad_row: Literal["strict", "skip"] = "strict", rejected: Path | None = None
) -> list[Sample]:
    """Read a source for a role, checking every row.

    Args:
        source: What to read.
        role: Which split to take where the source has several.
        on_bad_row: `strict` raises if any row is bad, `skip` leaves bad rows out.
        rejected: File for the rows that `skip` leaves out, with reasons.

    Raises:
        SourceError: There is nothing to read at that place.
        BadRowsError: There are bad rows.
    """
    wanted = Source(source) if isinstance(source, str) else source
    if wanted.path == BUILTIN:
        return _builtin(wanted, role)
    if wanted.path.startswith("builtin:"):
        raise SourceError(f"data.{role}: {wanted.path!r} does not come with the package; expected {BUILTIN!r}")
    path, split = wanted.path, wanted.split or role
    if Path(path).is_dir():
        path = _split_file(Path(path), split)
    samples = load_samples(
        path,
        format=wanted.format,
        task=wanted.task,
        split=wanted.split if Path(wanted.path).is_file() else None if Path(path).is_file() else split,
        limit=wanted.limit,
        on_bad_row=on_bad_row,
        rejected=rejected,
    )
    name = wanted.name or _name(Path(path))
    return [sample if sample.dataset else replace(sample, dataset=name) for sample in samples]


def load_all(
    sources: Sequence[str | Source],
    role: Role,
    *,
    on_bad_row: Literal["strict", "skip"] = "strict",
    rejected: Path | None = None,
) -> list[Sample]:
    """Read several sources, refusing ids that occur twice."""
    found: dict[str, Sample] = {}
    for i, source in enumerate(sources):
        file = rejected.with_name(f"{rejected.stem}-{role}-{i}{rejected.suffix}") if rejected else None
        for sample in load(source, role, on_bad_row=on_bad_row, rejected=file):
            if sample.id in found:
                raise SourceError(
                    f"data.{role}: the sample id {sample.id!r} occurs in two sources; was one listed twice?"
                )
            found[sample.id] = sample
    return list(found.values())


def _builtin(source: Source, role: Role) -> list[Sample]:
    splits: dict[str, quickstart.Split] = {
        "pretrain": "pretrain",
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
    split = source.split or role
    if split not in splits:
        raise SourceError(f"{BUILTIN}: unknown split {split!r}; known: {', '.join(splits)}")
    default = {"pretrain": 12_000, "train": 3_600, "validation": 300, "test": 600}
    return quickstart.samples(splits[split], source.limit or default[split])


def _split_file(folder: Path, split: str) -> str:
    found = [folder / f"{split}{suffix}" for suffix in SUFFIXES if (folder / f"{split}{suffix}").is_file()]
    if len(found) == 1:
        return str(found[0])
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    if found:
        raise SourceError(f"{folder}: several files for split {split!r} ({', '.join(p.name for p in found)}); name one")
    raise SourceError(
        f"{folder}: no file for split {split!r} (expected {split}.jsonl, {split}.jsonl.gz, …; found {there})"
    )


def _name(path: Path) -> str:
    stem = path.name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return path.parent.name if stem in ("train", "validation", "test", "dev") and path.parent.name else stem
