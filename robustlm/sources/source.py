"""A source of rows and its settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from robustlm.rows.base import READABLE
from robustlm.sources.samples import named_labels

Role = Literal["train", "validation", "test", "examples"]
"""The use of rows. `examples` are shown with answers before test rows; their default split is `train`."""
BUILTIN = "builtin:quickstart"


@dataclass
class Source:
    """Rows from one place."""

    path: str
    """A file (`.jsonl`, `.json`, `.csv`, `.parquet`, also `.gz`), a folder with files `<split>.<ending>`, a Hugging
    Face dataset name, or `builtin:quickstart`, the generated corpus in this package."""
    format: str | None = None
    """Shape of the rows (`robustlm`, `alpaca`, `messages`, …, or the import path of your own); null: recognised by the
    keys. `none` also recognises it, and omits the line about the answer's format, for instructions that state one:
    classification then answers with the bare label, and entities, relations and aspects are refused."""
    task: str | None = None
    """Task of the rows if their shape does not define it; a name, or the import path of your own class."""
    split: str | None = None
    """Which split of a folder, a hub dataset or the built-in corpus; null: the split of the role."""
    limit: int | float | None = None
    """How many rows to use (`16`), or which share of them (`0.01`, rounded up); null: all."""
    sampling: Literal["first", "random"] = "first"
    """Which rows a limit selects: the first ones, or rows drawn by `seed` and their ids, in the order of the file."""
    seed: int | None = None
    """Seed of that draw; null: the run's seed (`data.seed`)."""
    name: str | None = None
    """Name for the scores in reports; null: the name of the folder or file."""
    bank: str | None = None
    """Bank of phrasings, which replaces the rows' own banks and instructions: a packaged name, a JSON file, or one of
    several banks in a file (`templates.json#rte`)."""
    fields: dict[str, str] | None = None
    """Maps placeholders of the bank to the rows' keys where the names differ: `{premise: sentence1}` fills `{premise}`
    with the row's `sentence1`."""
    topic: str | None = None
    """Key of the rows' topic (MMLU's `subject`): few-shot examples have the same topic as the row that they are shown
    for."""
    labels: list[str] | dict[int, str] | dict[str, str] | None = None
    """All labels of the rows, which become their options in this order: a list of names, or a mapping from the rows'
    values to names (`{0: no, 1: yes}`). With a list, a number in a row is an index into it, from 0. For `ner`, names
    of tags (`[O, B-PER, …]`) or of types. Null: the labels in all rows with the same dataset name and task in train,
    validation and test, in alphabetical order."""
    round_to: float | None = None
    """Step for rounding numeric labels on a scale, which makes them classes: at 1, the label 3.8 of STS-B becomes the
    class `4`. They are then scored as classes, by accuracy."""

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path.strip():
            raise ValueError(f"path: found {self.path!r}; expected a file, folder or name of a data set with rows")
        for name in ("format", "task", "split", "name", "topic"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{self.path}: {name}: found {getattr(self, name)!r}; expected text, or null")
        if self.bank is not None and not isinstance(self.bank, str):
            raise ValueError(f"{self.path}: bank: found {self.bank!r}; expected a bank's name or file")
        if self.fields is not None:
            self._check_fields(self.fields)
        try:
            named_labels(self.labels, self.round_to)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        self._check_limit()

    def _check_limit(self) -> None:
        limit = self.limit
        share = isinstance(limit, float)
        if limit is not None and (isinstance(limit, bool) or not (0 < limit <= 1 if share else limit >= 1)):
            expected = "a number of rows ≥ 1, or a share of them above 0 and up to 1.0"
            raise ValueError(f"{self.path}: limit {limit} leaves no rows or is no share; expected {expected}")
        if self.sampling not in ("first", "random"):
            raise ValueError(f"{self.path}: sampling: found {self.sampling!r}; expected first or random")
        if self.sampling == "random" and limit is None:
            raise ValueError(f"{self.path}: sampling: found random without a limit; expected how many rows are drawn")
        if self.seed is not None and self.sampling != "random":
            raise ValueError(f"{self.path}: seed: found {self.seed} with sampling first; expected sampling: random")

    def _check_fields(self, fields: object) -> None:
        if not isinstance(fields, dict) or not all(isinstance(text, str) for pair in fields.items() for text in pair):
            raise ValueError(f"{self.path}: fields: found {fields!r}; expected keys of rows by placeholder")
        if not self.bank:
            raise ValueError(f"{self.path}: fields: found {fields!r} without a bank, whose placeholders it would fill")


def split_of(source: Source, role: Role) -> str:
    """The split to read: the source's own, or the split of the role."""
    return source.split or ("train" if role == "examples" else role)


def _stem(path: Path) -> str:
    stem = path.name
    for suffix in READABLE:
        stem = stem.removesuffix(suffix)
    return path.parent.name if stem in ("train", "validation", "test", "dev") and path.parent.name else stem


def named_by_path(source: Source, role: Role) -> str:
    """The name for the scores of a source's rows in reports, for rows without a dataset name."""
    path = Path(source.path)
    return source.name or _stem(path / f"{split_of(source, role)}.jsonl" if path.is_dir() else path)


Sources = str | list[str | Source] | None


def listed(sources: Sources) -> list[str | Source]:
    """Sources as a list."""
    if sources is None:
        return []
    return [sources] if isinstance(sources, str) else list(sources)


def asked_by(source: str | Source, bank: str | None) -> Source:
    """The source with this bank, unless it names its own."""
    wanted = Source(source) if isinstance(source, str) else source
    return wanted if wanted.bank else replace(wanted, bank=bank)


def formatted_by(source: str | Source, format: str | None) -> Source:
    """The source with this format, unless it has its own. The built-in corpus states formats in its instructions."""
    wanted = Source(source) if isinstance(source, str) else source
    return wanted if wanted.format or wanted.path == BUILTIN else replace(wanted, format=format)
