"""A source of rows and its settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from robustlm.rows.base import READABLE
from robustlm.sources.samples import named_labels

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
    where not given. `none` recognises it too, and leaves out the line on the answer's format, for instructions that
    state one: classification then answers with the bare label, and entities, relations and aspects are refused."""
    task: str | None = None
    """Task of the rows, where their shape does not say it; a name, or the import path of a class of your own."""
    split: str | None = None
    """Which split of a folder, a hub dataset or the built-in corpus; the role the source is used in where not given."""
    limit: int | float | None = None
    """How many rows are used (`16`), or which share of them (`0.01`, rounded up); all where not given."""
    sampling: Literal["first", "random"] = "first"
    """Which rows a limit leaves: the first ones, or some drawn by `seed` and their ids, in the order of the file."""
    seed: int | None = None
    """Seed of that draw; the run's (`data.seed`) where not given."""
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
    labels: list[str] | dict[int, str] | dict[str, str] | None = None
    """All labels of the rows, which become their options in this order: a list of names, or names by what the rows hold
    (`{0: no, 1: yes}`). A number in a row is a place in the list, from 0. For `ner`, names of tags (`[O, B-PER, …]`) or
    of types. Without it, the labels are those of all rows of that name and task in train, validation and test, in
    alphabetical order."""
    round_to: float | None = None
    """Step that labels which are numbers on a scale are rounded to, to become classes: at 1, the label 3.8 of STS-B is
    the class `4`. They are then scored as classes, by accuracy."""

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
    """The split that a source is read from: its own, or that of the role it is used in."""
    return source.split or ("train" if role == "examples" else role)


def _stem(path: Path) -> str:
    stem = path.name
    for suffix in READABLE:
        stem = stem.removesuffix(suffix)
    return path.parent.name if stem in ("train", "validation", "test", "dev") and path.parent.name else stem


def named_by_path(source: Source, role: Role) -> str:
    """The name that the scores of a source's rows are reported under, where rows do not say so themselves."""
    path = Path(source.path)
    return source.name or _stem(path / f"{split_of(source, role)}.jsonl" if path.is_dir() else path)


Sources = str | list[str | Source] | None


def listed(sources: Sources) -> list[str | Source]:
    """Sources as a list."""
    if sources is None:
        return []
    return [sources] if isinstance(sources, str) else list(sources)


def asked_by(source: str | Source, bank: str | None) -> Source:
    """A source under a bank, unless it names one itself."""
    wanted = Source(source) if isinstance(source, str) else source
    return wanted if wanted.bank else replace(wanted, bank=bank)


def formatted_by(source: str | Source, format: str | None) -> Source:
    """A source in a format, unless it names one itself; the built-in corpus has its formats in its instructions."""
    wanted = Source(source) if isinstance(source, str) else source
    return wanted if wanted.format or wanted.path == BUILTIN else replace(wanted, format=format)
