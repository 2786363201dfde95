"""Samples in Arrow columns: written batch by batch, and read one at a time from a mapped file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, overload

from robustlm.rows.arrow import ArrowRows, RecordBatch
from robustlm.sample import Context, Sample

_CONTEXT = ("question", "format", "option", "text")
_TEXTS = ("id", "instruction", "target", "task", "bank", "instruction_id", "dataset", "group", "topic", "wording")
_PAIRS = ("fields", "turns", "answer_words")
_REST = ("examples", "trains_replies", "draw", *_PAIRS)
"""Fields that few samples have; one column holds them all, as JSON."""
_KEPT = 2048
"""Samples that `StoredSamples` keeps."""
_DEFAULTS = {item.name: item.default for item in fields(Sample) if item.name in _REST}

# a new field of `Sample` or `Context` has to be stored, too
assert {*_TEXTS, *_REST, "variant", "choices", "context"} == {item.name for item in fields(Sample)}
assert set(_CONTEXT) == {item.name for item in fields(Context)}


@cache
def sample_columns() -> list[Any]:
    """The fields of the Arrow schema of samples."""
    import pyarrow as pa

    texts = [pa.field(name, pa.string(), nullable=False) for name in (*_TEXTS, *_CONTEXT)]
    more = [pa.field("variant", pa.string()), pa.field("choices", pa.list_(pa.string())), pa.field("rest", pa.string())]
    return [*texts, *more]


def sample_values(samples: Sequence[Sample]) -> list[Any]:
    """The columns of samples as Arrow arrays, in the order of `sample_columns`.

    Raises:
        UnicodeEncodeError: A text holds half a character.
    """
    import pyarrow as pa

    columns: list[list[Any]] = [[getattr(sample, name) for sample in samples] for name in _TEXTS]
    columns += [[getattr(sample.context, name) for sample in samples] for name in _CONTEXT]
    columns.append([sample.variant for sample in samples])
    columns.append([list(sample.choices) for sample in samples])
    columns.append([_rest(sample) for sample in samples])
    return [pa.array(values, item.type) for values, item in zip(columns, sample_columns(), strict=True)]


def sample_at(batch: RecordBatch, at: int) -> Sample:
    """The sample of a row of a record batch."""
    return _made([batch.column(item.name)[at].as_py() for item in sample_columns()])


def samples_in(batch: RecordBatch) -> list[Sample]:
    """The samples of all rows of a record batch."""
    columns = [batch.column(item.name).to_pylist() for item in sample_columns()]
    return [_made(values) for values in zip(*columns, strict=True)]


def _made(values: Sequence[Any]) -> Sample:
    texts, context = values[: len(_TEXTS)], values[len(_TEXTS) : len(_TEXTS) + len(_CONTEXT)]
    variant, choices, rest = values[-3:]
    more = _unpacked(json.loads(rest)) if rest else {}
    return Sample(
        **dict(zip(_TEXTS, texts, strict=True)),
        context=Context(*context),
        variant=variant,
        choices=tuple(choices),
        **more,
    )


def _rest(sample: Sample) -> str | None:
    found = {name: value for name in _REST if (value := getattr(sample, name)) != _DEFAULTS[name]}
    if not found:
        return None
    if "examples" in found:
        found["examples"] = [_plain(example) for example in sample.examples]
    return json.dumps(found, ensure_ascii=False)


def _plain(sample: Sample) -> dict[str, Any]:
    """A sample as plain data."""
    found = {name: getattr(sample, name) for name in (*_TEXTS, *_REST, "variant", "choices")}
    found["context"] = [getattr(sample.context, name) for name in _CONTEXT]
    found["examples"] = [_plain(example) for example in sample.examples]
    return found


def _unpacked(found: dict[str, Any]) -> dict[str, Any]:
    """Lists of JSON as the tuples that samples hold."""
    for name in _PAIRS:
        if name in found:
            found[name] = tuple((first, second) for first, second in found[name])
    if "examples" in found:
        found["examples"] = tuple(_from_plain(example) for example in found["examples"])
    return found


def _from_plain(found: dict[str, Any]) -> Sample:
    values = _unpacked(dict(found))
    values["context"], values["choices"] = Context(*values["context"]), tuple(values["choices"])
    return Sample(**values)


class StoredSamples(Sequence[Sample]):
    """The samples of a mapped Arrow file; a sample is made when it is asked for, and the last ones are kept.

    Args:
        rows: A file with the columns `sample_columns`, and perhaps others.
    """

    def __init__(self, rows: ArrowRows) -> None:
        self.rows = rows
        self._last: dict[int, Sample] = {}

    def __getstate__(self) -> ArrowRows:
        return self.rows

    def __setstate__(self, rows: ArrowRows) -> None:
        self.rows, self._last = rows, {}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | Sequence[Sample]:
        """A sample, or a list of them."""
        if isinstance(at, slice):
            return self._range(*at.indices(len(self)))
        found = self._last.get(at)
        if found is None:
            found = sample_at(*self.rows.place(at))
            self._keep({at: found})
        return found

    def _range(self, start: int, stop: int, step: int) -> list[Sample]:
        if step != 1:
            return [self[i] for i in range(start, stop, step)]
        found: list[Sample] = []
        while start + len(found) < stop:
            batch, at = self.rows.place(start + len(found))
            found += samples_in(batch.slice(at, stop - start - len(found)))
        self._keep(dict(enumerate(found[-_KEPT:], start=stop - len(found[-_KEPT:]))))
        return found

    def _keep(self, found: dict[int, Sample]) -> None:
        if len(self._last) + len(found) > _KEPT:
            self._last = {}
        self._last.update(found)

    def __iter__(self) -> Iterator[Sample]:
        for batch in self.rows.batches:
            yield from samples_in(batch)
