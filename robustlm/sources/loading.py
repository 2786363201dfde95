"""Load rows from files, folders with splits, hub data sets, and the built-in corpus."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from robustlm.instructions.banks import NO_FORMAT
from robustlm.rows.base import SUFFIXES, SourceError
from robustlm.sample import Sample
from robustlm.sources import corpus as quickstart
from robustlm.sources.drafts import Drafter, bank_slots
from robustlm.sources.samples import Loaded, labels_of, named_labels, read_samples, settle_errors
from robustlm.sources.source import BUILTIN, Role, Source, named_by_path, split_of
from robustlm.tasks import TASKS
from robustlm.tasks.labels import quoted
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)


def load(
    source: str | Source, role: Role, *, on_bad_row: Literal["strict", "skip"] = "strict", rejected: Path | None = None
) -> list[Sample]:
    """Read one source for a role, and check every row. Its labels are those in its own rows.

    Args:
        source: The source to read.
        role: Which split to use if the source has several.
        on_bad_row: `strict` raises if any row is bad, `skip` skips bad rows.
        rejected: File for the skipped rows, with reasons.

    Raises:
        SourceError: There is nothing to read at this place, or there are too few labels.
        BadRowsError: There are bad rows.
    """
    (found,) = _load([source], role, on_bad_row, [rejected], None, log.warning)
    return found


def load_all(
    sources: Sequence[str | Source],
    role: Role,
    *,
    on_bad_row: Literal["strict", "skip"] = "strict",
    rejected: Path | None = None,
    known: KnownLabels | None = None,
    seed: int = 0,
    say: Callable[[str], object] = log.warning,
    answered: bool = True,
    every: int = 1,
) -> list[Sample]:
    """Read several sources, and refuse ids that occur twice.

    Sources with the same dataset name and task share their labels, also across roles. So the options of a row do not
    depend on its split.

    Args:
        sources: The sources to read.
        role: Which split to use if a source has several.
        on_bad_row: As in `load`.
        rejected: As in `load`. Each source gets its own file, whose name begins with the stem of this one.
        known: The labels of sources with other roles; null: there are no such sources.
        seed: Seed for drawing rows from sources without their own seed.
        say: Receives messages for the user, one line each.
        answered: Whether to refuse rows without an answer; if false, their samples have empty targets.
        every: Use each `every`-th row alone, and take the labels of these sources from them.

    Raises:
        SourceError: As in `load`; or an id occurs twice, or the sources of a dataset disagree on its labels.
        BadRowsError: There are bad rows.
    """
    files = rejected_files(rejected, role, len(sources))
    found: dict[str, Sample] = {}
    for samples in _load(sources, role, on_bad_row, files, known, say, seed, answered=answered, every=every):
        for sample in samples:
            if sample.id in found:
                raise occurs_twice(role, sample.id)
            found[sample.id] = sample
    return list(found.values())


def occurs_twice(role: Role, id: str) -> SourceError:
    """The error for an id that two sources have."""
    return SourceError(f"data.{role}: the sample id {id!r} occurs in two sources; was one listed twice?")


def rejected_files(rejected: Path | None, role: Role, count: int) -> list[Path | None]:
    """The file for the skipped rows of each source."""
    names = (f"{rejected.stem}-{role}-{i}{rejected.suffix}" if rejected else None for i in range(count))
    return [rejected.with_name(name) if rejected and name else None for name in names]


class KnownLabels:
    """The labels of sources by role, from their settings or from their rows, which are read once and on demand.

    Args:
        sources: By role.
    """

    def __init__(self, sources: Mapping[Role, Sequence[str | Source]]) -> None:
        self._sources = {role: [as_source(one) for one in given] for role, given in sources.items()}
        self._found: dict[tuple[Role, int], dict[str, set[str]]] = {}

    def others(self, role: Role, name: str) -> list[tuple[Role, int, Source]]:
        """The sources of other roles whose rows belong to the dataset with this name."""
        return [
            (other, i, source)
            for other, given in self._sources.items()
            for i, source in enumerate(given)
            if other != role and source.path != BUILTIN and named_by_path(source, other) == name
        ]

    def found(self, role: Role, number: int) -> dict[str, set[str]]:
        """The labels in the rows of a source by task. Bad rows are ignored here; only their own role reports them."""
        if (role, number) not in self._found:
            source = replace(self._sources[role][number], bank=None, fields=None, topic=None)
            self._found[role, number] = self._labels(source, role)
        return self._found[role, number]

    def _labels(self, source: Source, role: Role) -> dict[str, set[str]]:
        drafter = Drafter(format=source.format, task=source.task, labels=named_labels(source.labels, source.round_to))
        found = labels_of(*place_of(source, role), drafter)
        if found is not None:
            return found
        loaded = _read(source, role)
        if not loaded.drafts:
            settle_errors(f"data.{role}: {source.path}", loaded.errors, 0, "skip", None)
        return loaded.labels()

    def remember(self, role: Role, number: int, labels: dict[str, set[str]]) -> None:
        """Keep the labels of a source whose rows were read; it is then not read again."""
        self._found[role, number] = labels


def _load(
    sources: Sequence[str | Source],
    role: Role,
    on_bad_row: Literal["strict", "skip"],
    rejected: Sequence[Path | None],
    known: KnownLabels | None,
    say: Callable[[str], object],
    seed: int = 0,
    *,
    answered: bool = True,
    every: int = 1,
) -> list[list[Sample]]:
    """All samples of each source."""
    wanted = [as_source(source) for source in sources]
    loaded: dict[int, Loaded] = {}
    for i, source in enumerate(wanted):
        check_bank(source, role)
        if source.path != BUILTIN:
            loaded[i] = _read(source, role, answered=answered, every=every)
            if every > 1 and known is not None:
                known.remember(role, i, loaded[i].labels())
            settle_errors(source.path, loaded[i].errors, len(loaded[i].drafts), on_bad_row, rejected[i])
            for note in loaded[i].notes():
                say(f"data.{role}: {named_by_path(source, role)} ({source.path}): {note}")
    options = options_by_task({i: (wanted[i], one.labels()) for i, one in loaded.items()}, role, known, say)
    found = []
    for i, source in enumerate(wanted):
        if i not in loaded:
            found.append(builtin_samples(source, role, seed))
            continue
        name = named_by_path(source, role)
        samples = loaded[i].settled({task: labels for (of, task), labels in options.items() if of == name}, name)
        say_fewer(source, role, len(samples), say)
        found.append(_limited(samples, source, seed))
    return found


def check_bank(source: Source, role: Role) -> None:
    """Raise `SourceError` if there is no such bank, or `fields` names placeholders that it does not have."""
    if source.bank:
        try:
            bank_slots(source.bank, source.fields)
        except ValueError as error:
            raise SourceError(f"data.{role}: {source.path}: {error}") from error


def say_fewer(source: Source, role: Role, rows: int, say: Callable[[str], object]) -> None:
    """Say that a source has fewer rows than its limit."""
    if isinstance(source.limit, int) and source.limit > rows:
        fewer = f"found {rows} rows, fewer than the limit of {source.limit}; all are used"
        say(f"data.{role}: {source.path}: {fewer}")


def _limited(samples: list[Sample], source: Source, seed: int) -> list[Sample]:
    """The samples that remain after a source's limit is applied."""
    if source.limit is None:
        return samples
    count = count_of(source.limit, len(samples))
    if source.sampling == "first":
        return samples[:count]
    seed = seed if source.seed is None else source.seed
    kept = {one.id for one in sorted(samples, key=lambda one: drawn(seed, "limit", one.id))[:count]}
    return [one for one in samples if one.id in kept]


def count_of(limit: int | float, rows: int) -> int:
    """How many of `rows` rows a limit leaves."""
    # use the decimal number as written: 0.07 of 100 rows is 7
    return math.ceil(Fraction(str(limit)) * rows) if isinstance(limit, float) else limit


def place_of(source: Source, role: Role) -> tuple[str, str | None]:
    """The file, folder or hub name that a source is read from, and its split, as `iter_rows` takes them."""
    if source.path.startswith("builtin:"):
        raise SourceError(f"data.{role}: {source.path!r} does not come with the package; expected {BUILTIN!r}")
    file = _file(source, role)
    split = source.split if Path(source.path).is_file() else None if Path(file).is_file() else split_of(source, role)
    return file, split


def _read(source: Source, role: Role, *, answered: bool = True, every: int = 1) -> Loaded:
    file, split = place_of(source, role)
    return read_samples(
        file,
        format=source.format,
        task=source.task,
        split=split,
        bank=source.bank,
        fields=source.fields,
        topic=source.topic,
        labels=named_labels(source.labels, source.round_to),
        answered=answered,
        every=every,
    )


def as_source(source: str | Source) -> Source:
    """A source from its path, or as it is."""
    return Source(source) if isinstance(source, str) else source


def _file(source: Source, role: Role) -> str:
    """The file of a source's split if the source is a folder, else the source's path."""
    folder = Path(source.path)
    return _split_file(folder, split_of(source, role)) if folder.is_dir() else source.path


# ------------------------------------------------------------------------------------------ options

_Key = tuple[str, str]
"""Dataset and task."""


def options_by_task(
    own: Mapping[int, tuple[Source, Mapping[str, set[str]]]],
    role: Role,
    known: KnownLabels | None,
    say: Callable[[str], object],
) -> dict[_Key, tuple[str, ...]]:
    """The options of each dataset and task: the labels that sources name, or else all labels of all rows, sorted.

    Args:
        own: The sources to read, each with the labels in its rows.
        role: The role that they are read for.
        known: The labels of sources of other roles.
        say: Receives a message if no other source shows the labels.

    Raises:
        SourceError: Sources disagree, rows have labels that are not named, or there are fewer than two options.
    """
    found: dict[_Key, tuple[str, ...]] = {}
    for source, labels in own.values():
        name = named_by_path(source, role)
        for task in labels:
            if (name, task) not in found:
                found[name, task] = _options_of(name, task, own, role, known, say)
    return found


def _options_of(
    name: str,
    task: str,
    own: Mapping[int, tuple[Source, Mapping[str, set[str]]]],
    role: Role,
    known: KnownLabels | None,
    say: Callable[[str], object],
) -> tuple[str, ...]:
    mine = [
        (source, labels) for source, labels in own.values() if task in labels and named_by_path(source, role) == name
    ]
    others = known.others(role, name) if known else []
    everyone = [(role, source) for source, _ in mine] + [(other, source) for other, _, source in others]
    named = [(of, source) for of, source in everyone if source.labels is not None and source.task in (None, task)]
    where = f"data.{role}: {mine[0][0].path}"
    shared = 0
    if named:
        labels = _agreed(named, task)
        for source, seen in mine:
            if unknown := sorted(seen[task] - set(labels)):
                raise SourceError(
                    f"data.{role}: {source.path}: found the label {unknown[0]!r} in its rows; expected those that "
                    f"`labels` of data.{named[0][0]} ({named[0][1].path}) names: {', '.join(labels)}"
                )
    else:
        union = set().union(*(seen[task] for _, seen in mine))
        for other, number, source in others:
            try:
                theirs = known.found(other, number).get(task) if known else None
            except ValueError as error:
                raise SourceError(
                    f"data.{role}: the options of {name} also come from data.{other} ({source.path}), which cannot be "
                    f"read ({error}); correct it, leave it out, or name all labels by `labels` of the source"
                ) from error
            if theirs is not None:
                shared += 1
                union |= theirs
        labels = tuple(sorted(union))
    if TASKS[task].score == "accuracy" and not labels:
        raise SourceError(
            f"{where}: found rows of {name} without labels, and no source that shows which there are; expected all of "
            "them by `labels` of the source, such as labels: [positive, negative]"
        )
    if TASKS[task].score == "accuracy" and len(labels) == 1:
        raise SourceError(
            f"{where}: found one label, {labels[0]!r}, in all rows of {name}, which leaves no choice; expected two or "
            f"more: name all of them by `labels` of the source, such as labels: [{labels[0]}, …]"
        )
    if not named and not shared and role in ("test", "validation"):
        shown = ", ".join(map(quoted, labels)) or "none"
        say(
            f"{where}: the options of {name} ({shown}) were taken from the targets of these rows themselves, as "
            "no other source of that name shows them; `labels` of the source names them all"
        )
    return labels


def _agreed(named: Sequence[tuple[Role, Source]], task: str) -> tuple[str, ...]:
    """The labels that all these sources name.

    Raises:
        SourceError: The sources name different labels, or a different order.
    """
    found = []
    for role, source in named:
        labels = named_labels(source.labels)
        assert labels is not None
        try:
            found.append(TASKS[task].options(labels.names))
        except ValueError as error:
            raise SourceError(f"data.{role}: {source.path}: {error}") from error
        if found[-1] != found[0]:
            first, of = named[0]
            raise SourceError(
                f"data.{role}: {source.path}: `labels` names {', '.join(found[-1])}; expected those of data.{first} "
                f"({of.path}), of the same dataset, in the same order: {', '.join(found[0])}"
            )
    return found[0]


# ------------------------------------------------------------------------------------------ places


def builtin_samples(source: Source, role: Role, seed: int) -> list[Sample]:
    """The rows of the built-in corpus."""
    splits: dict[str, quickstart.Split] = {
        "pretrain": "pretrain",
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
    if source.topic:
        raise SourceError(f"{BUILTIN}: found topic {source.topic!r}; expected none, as its rows have no keys")
    if source.format == NO_FORMAT:
        raise SourceError(f"{BUILTIN}: found format none; expected none to be named, as its instructions state it")
    if source.labels or source.round_to:
        raise SourceError(f"{BUILTIN}: found labels or round_to; expected none, as its instructions name them")
    split = split_of(source, role)
    if split not in splits:
        raise SourceError(f"{BUILTIN}: unknown split {split!r}; known: {', '.join(splits)}")
    default = {"pretrain": 12_000, "train": 3_600, "validation": 300, "test": 600}
    size = default[split]
    if isinstance(source.limit, int) and (source.sampling == "first" or source.limit > size):
        size = source.limit  # the corpus has as many rows as requested
    samples = _limited(quickstart.samples(splits[split], size), source, seed)
    if source.bank is None:
        return samples
    if slots := bank_slots(source.bank, None):
        raise SourceError(
            f"{BUILTIN}: found the placeholder {{{slots[0]}}} in the bank {source.bank}; expected a bank without, as "
            "the built-in corpus has no rows to fill it from"
        )
    return [replace(sample, bank=source.bank, instruction="", instruction_id="") for sample in samples]


def _split_file(folder: Path, split: str) -> str:
    suffixes = (*SUFFIXES, ".tsv", ".tsv.gz")
    found = [folder / f"{split}{suffix}" for suffix in suffixes if (folder / f"{split}{suffix}").is_file()]
    if len(found) == 1:
        return str(found[0])
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    if found:
        raise SourceError(f"{folder}: several files for split {split!r} ({', '.join(p.name for p in found)}); name one")
    raise SourceError(
        f"{folder}: no file for split {split!r} (expected {split}.jsonl, {split}.jsonl.gz, …; found {there})"
    )
