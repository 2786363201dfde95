"""Apply noise to files: write the same rows with a noisy instruction and its distortion."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from robustlm.instructions.banks import Instruction, InstructionBank, assigned
from robustlm.noise.base import Noise, NoisyBatch, spared
from robustlm.noise.distortion import Distortion, Floats
from robustlm.noise.pools import Pools, build_pools, padding_text, slots_of
from robustlm.noise.protection import protected_phrases
from robustlm.rows.base import BadRowsError, Row, RowError, SourceError
from robustlm.rows.fields import required
from robustlm.rows.ids import row_id
from robustlm.rows.readers import iter_rows
from robustlm.rows.writers import RowWriter
from robustlm.sample import Sample, is_request
from robustlm.sources.shapes import Shape, known_shapes

_CHUNK = 1000
_ENOUGH_ERRORS = 1000
_HINT = (
    "The rows need instructions. Rows of a task's own shape (such as tokens and ner_tags) get their instructions "
    "from a bank when they are loaded for training: add a field `instruction`, for example one of "
    "InstructionBank.load('ner').instructions of robustlm.instructions.banks."
)
_Chunk = list[tuple[Row, Sample]]


@dataclass(frozen=True, slots=True)
class NoiseSummary:
    """Summary of a `noise_rows` run; `print` shows it."""

    output: str
    """The file that was written."""
    rows: int
    """Rows read and written."""
    kinds: dict[str, int]
    """Number of rows for each kind of noise, without clean rows."""
    mean: float
    """Mean d' of the noisy rows: β of the data set."""
    low: float
    """The smallest d' of a noisy row."""
    high: float
    """The largest d' of a noisy row."""
    spared: str = ""
    """Message about the rows that `mixed` noise does not negate or contradict; empty if there are none."""

    @property
    def noisy(self) -> int:
        """Rows that noise has changed."""
        return sum(self.kinds.values())

    def __str__(self) -> str:
        share = self.noisy / max(self.rows, 1)
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.kinds.items())) or "none"
        return (
            f"{self.output}: {self.rows:,} rows, {self.noisy:,} of them noisy ({share:.1%})\n"
            f"kinds: {kinds}\n"
            f"distortion of the noisy rows: mean (β) {self.mean:.3f}, from {self.low:.3f} to {self.high:.3f}"
            + (f"\n{self.spared}" if self.spared else "")
        )


def noise_rows(
    input: str,
    output: str,
    *,
    noise: Noise,
    distortion: Distortion,
    seed: int = 0,
    epoch: int = 0,
    manifest: str | None = None,
    bank: str | None = None,
) -> NoiseSummary:
    """Write a file's rows with the noise that training would apply to them.

    The file is read three times (for words, for distances, for writing), so memory holds only a chunk of rows, the
    pools, and two numbers for each noisy row. A row keeps its fields and gains `variant` (`adv_instruction` if it has
    that field, as released [ANIT] rows do), `noise_kind` and `distortion`. The variant of a clean row is its
    instruction.

    Args:
        input: A file, folder or hub dataset, as `iter_rows` takes it, in any shape with instructions.
        output: File to write; its ending says how. It may be the input.
        noise: The noise to apply.
        distortion: How to measure the distortion.
        seed: Seed, as in training.
        epoch: Number of the epoch whose noise is written, as in training.
        bank: Bank that rows take their instructions from, in place of their own: a packaged name, a JSON file, or an
            entry of a file with many (`file.json#name`). Its seen phrasings are assigned as in training; null: rows'
            own.
        manifest: JSONL file for the edits of each instruction: `id`, `kind`, `instruction`, `edits` as lists
            `[place, before, after]`, and `slots` if there are any; `robustlm.noise.edits.replay` repeats the edits.

    Returns:
        Counts and the distortion found.

    Raises:
        SourceError: There is nothing to read, the file changes during the run, the output's ending is unknown, or the
            manifest's ending is not that of JSONL.
        BadRowsError: Rows are unreadable or have no instruction; they are listed, and nothing is written.
        ValueError: There is no such bank, or it has placeholders.
    """
    if manifest is not None and not manifest.endswith((".jsonl", ".jsonl.gz")):
        raise SourceError(f"{manifest}: found another ending; expected a file that ends in .jsonl or .jsonl.gz")
    if manifest is not None and os.path.realpath(manifest) in map(os.path.realpath, (input, output)):
        raise SourceError(f"{manifest}: found the file of the rows; expected another file for the manifest")
    with RowWriter(output) as writer, nullcontext() if manifest is None else RowWriter(manifest) as notes:
        asked = _Asked(input, _phrasings(bank) if bank else None, seed)
        pools = build_pools(sample for _, sample in asked.rows("collecting words"))
        kinds, distances, requests = _measure(asked, noise, distortion, pools, seed, epoch)
        _write(asked, writer, notes, noise, distances, pools, seed, epoch)
    spread = distances if distances.size else np.zeros(1)
    low, mean, high = (float(number) for number in (spread.min(), spread.mean(), spread.max()))
    line = spared(noise, requests, writer.written)
    return NoiseSummary(output, writer.written, dict(kinds), mean, low, high, line)


def _phrasings(name: str) -> list[Instruction]:
    """The seen phrasings of a bank; banks with placeholders are rejected, because rows do not say what fills them."""
    bank = InstructionBank.load(name)
    if bank.slots:
        raise ValueError(
            f"--bank: {name} has placeholders ({', '.join(bank.slots)}), which are filled when rows are loaded for "
            "training; expected a bank without. Set `bank` of a source in a config, and noise in `data.noise`"
        )
    return bank.phrasings(split="seen")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Rows that are read several times, with the instructions of a bank or their own."""

    path: str
    phrasings: Sequence[Instruction] | None
    seed: int

    def rows(self, task: str) -> Iterator[tuple[Row, Sample]]:
        return instructed_rows(self.path, task, change=None if self.phrasings is None else self._changed)

    def is_request(self, sample: Sample) -> bool:
        """Whether the instruction of a row is the request itself; a bank's phrasing is not."""
        return self.phrasings is None and is_request(sample)

    def _changed(self, row: Row) -> Row:
        assert self.phrasings is not None
        chosen = assigned(Sample(row_id(row), "", ""), self.phrasings, self.seed)
        return replace(row, data={**row.data, "instruction": chosen.instruction})


def instructed_rows(
    path: str, task: str, split: str | None = None, change: Callable[[Row], Row] | None = None
) -> Iterator[tuple[Row, Sample]]:
    """Read rows as samples with instructions.

    Args:
        path: A file, folder or hub dataset, as `iter_rows` takes it.
        task: Label of the progress bar.
        split: Which split of a folder or hub dataset.
        change: Function that gives each row another `instruction`; the row's shape must read it.

    Raises:
        SourceError: There is nothing to read.
        BadRowsError: After the last row, when rows are unreadable or have no instruction; they are listed.
    """
    shapes = known_shapes()
    errors: list[RowError] = []
    good = 0
    for row in tqdm(iter_rows(path, split, errors.append), desc=task, unit=" rows", disable=None):
        try:
            row = row if change is None else change(row)
            sample = _sample_of(row, shapes)
            if change is not None and sample.instruction != row.data["instruction"]:
                raise ValueError(
                    f"found the instruction {sample.instruction[:60]!r} outside of the field `instruction`; a bank "
                    "gives instructions only to rows that hold them in this field or have none"
                )
        except ValueError as error:
            errors.append(row.error(str(error)))
            if len(errors) >= _ENOUGH_ERRORS:
                break
        else:
            good += 1
            yield row, sample
    if errors:
        without = any("instruction" in error.reason for error in errors)
        raise BadRowsError(path, errors, good + len(errors), hint=_HINT if without else "")


def _sample_of(row: Row, shapes: dict[str, Shape]) -> Sample:
    # rows that fit several shapes have the same instruction in each; rows that fit none may still have one
    fitting = [shape for shape in shapes.values() if shape.recognises(row.data)]
    if fitting:
        sample = fitting[0].read(row.data, row_id(row))
        if sample.instruction:
            return sample
    return Sample(row_id(row), instruction=required(row.data, "instruction").strip(), target="")


def _chunks(samples: Iterable[tuple[Row, Sample]]) -> Iterator[_Chunk]:
    rest = iter(samples)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _apply(
    asked: _Asked, noise: Noise, chunk: _Chunk, pools: Pools, seed: int, epoch: int, report: bool = False
) -> NoisyBatch:
    samples = [sample for _, sample in chunk]
    return noise.apply(
        [sample.instruction for sample in samples],
        [sample.id for sample in samples],
        seed=seed,
        epoch=epoch,
        vocabulary=pools.vocabulary,
        contexts=pools.contexts,
        own=[padding_text(sample) for sample in samples],
        slots=[slots_of(sample) for sample in samples],
        protected=[protected_phrases(sample) for sample in samples] if noise.protect else None,
        requests=[asked.is_request(sample) for sample in samples],
        report=report,
    )


def _measure(
    asked: _Asked, noise: Noise, distortion: Distortion, pools: Pools, seed: int, epoch: int
) -> tuple[Counter[str], Floats, int]:
    """Count kinds and requests, and compute d' of all noisy rows in order; normalising needs all of them."""
    kinds: Counter[str] = Counter()
    requests = 0
    pairs = [np.empty((0, 2))]
    for chunk in _chunks(asked.rows("measuring")):
        batch = _apply(asked, noise, chunk, pools, seed, epoch)
        rows = [row for row, noisy in enumerate(batch.noisy) if noisy]
        requests += sum(asked.is_request(sample) for _, sample in chunk)
        kinds.update(batch.kinds[row] for row in rows)
        raw = [chunk[row][1].instruction for row in rows]
        pairs.append(distortion.compare(raw, [batch.texts[row] for row in rows]))
    return kinds, distortion.normalise(np.concatenate(pairs)), requests


def _write(
    asked: _Asked,
    writer: RowWriter,
    notes: RowWriter | None,
    noise: Noise,
    distances: Floats,
    pools: Pools,
    seed: int,
    epoch: int,
) -> None:
    left = iter(distances)
    for chunk in _chunks(asked.rows("writing")):
        batch = _apply(asked, noise, chunk, pools, seed, epoch, report=notes is not None)
        if notes is not None:
            _note(notes, chunk, batch)
        for (row, _), text, noisy, kind in zip(chunk, batch.texts, batch.noisy, batch.kinds, strict=True):
            distance = next(left, None) if noisy else 0.0
            if distance is None:
                raise _changed(asked.path)
            field = "adv_instruction" if "adv_instruction" in row.data else "variant"
            writer.write({**row.data, field: text, "noise_kind": kind, "distortion": float(distance)})
    if next(left, None) is not None:
        raise _changed(asked.path)


def _note(notes: RowWriter, chunk: _Chunk, batch: NoisyBatch) -> None:
    for (_, sample), kind, edits in zip(chunk, batch.kinds, batch.edits or (), strict=True):
        row = {"id": sample.id, "kind": kind, "instruction": sample.instruction, "edits": edits}
        notes.write(row | ({"slots": slots_of(sample)} if sample.fields else {}))


def _changed(path: str) -> SourceError:
    return SourceError(
        f"{path}: found other rows than at the first reading; expected a file that nothing changes meanwhile"
    )
