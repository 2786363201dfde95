"""Where rows come from: files, folders with splits, hub names, and the built-in corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from robustlm.data import quickstart
from robustlm.data.formats import bank_slots, load_samples
from robustlm.data.rows import SUFFIXES, SourceError
from robustlm.data.samples import Sample

Role = Literal["train", "validation", "test", "examples"]
"""What rows are for; `examples` are shown solved before test rows, and come from `train` where no split is named."""
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
    bank: str | None = None
    """Bank the rows take their phrasings from, in place of banks and instructions of their own: a packaged name, a JSON
    file, or one of several banks in a file (`templates.json#rte`)."""
    fields: dict[str, str] | None = None
    """Keys of the rows for placeholders of the bank that have other names: `{premise: sentence1}` fills `{premise}`
    with the row's `sentence1`."""
    topic: str | None = None
    """Key of the rows that says what they are about (MMLU's `subject`): few-shot examples are of the same topic as the
    row they are shown for."""

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path.strip():
            raise ValueError(f"path: found {self.path!r}; expected a file, folder or name of a data set with rows")
        if self.bank is not None and not isinstance(self.bank, str):
            raise ValueError(f"{self.path}: bank: found {self.bank!r}; expected a bank's name or file")
        if self.fields is not None:
            self._check_fields(self.fields)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"{self.path}: limit {self.limit} leaves no rows; expected ≥ 1")

    def _check_fields(self, fields: object) -> None:
        if not isinstance(fields, dict) or not all(isinstance(text, str) for pair in fields.items() for text in pair):
            raise ValueError(f"{self.path}: fields: found {fields!r}; expected keys of rows by placeholder")
        if not self.bank:
            raise ValueError(f"{self.path}: fields: found {fields!r} without a bank, whose placeholders it would fill")


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
    if wanted.bank:
        try:
            bank_slots(wanted.bank, wanted.fields)
        except ValueError as error:
            raise SourceError(f"data.{role}: {wanted.path}: {error}") from error
    if wanted.path == BUILTIN:
        return _builtin(wanted, role)
    if wanted.path.startswith("builtin:"):
        raise SourceError(f"data.{role}: {wanted.path!r} does not come with the package; expected {BUILTIN!r}")
    path, split = wanted.path, wanted.split or _split(role)
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
        bank=wanted.bank,
        fields=wanted.fields,
        topic=wanted.topic,
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


def _split(role: Role) -> str:
    return "train" if role == "examples" else role


def _builtin(source: Source, role: Role) -> list[Sample]:
    splits: dict[str, quickstart.Split] = {
        "pretrain": "pretrain",
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
    if source.topic:
        raise SourceError(f"{BUILTIN}: found topic {source.topic!r}; expected none, as its rows have no keys")
    split = source.split or _split(role)
    if split not in splits:
        raise SourceError(f"{BUILTIN}: unknown split {split!r}; known: {', '.join(splits)}")
    default = {"pretrain": 12_000, "train": 3_600, "validation": 300, "test": 600}
    samples = quickstart.samples(splits[split], source.limit or default[split])
    if source.bank is None:
        return samples
    if slots := bank_slots(source.bank, None):
        raise SourceError(
            f"{BUILTIN}: found the placeholder {{{slots[0]}}} in the bank {source.bank}; expected a bank without, as "
            "the built-in corpus has no rows to fill it from"
        )
    return [replace(sample, bank=source.bank, instruction="", instruction_id="") for sample in samples]


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
