"""Tokenised rows in Arrow columns: mapped into memory, shared by processes, and made again by later runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from robustlm.batch import Encoded
from robustlm.datamodules.batches import EncodedSamples
from robustlm.datamodules.grouping import Traits, task_of
from robustlm.instructions.phrasings import meaning
from robustlm.rows.arrow import ArrowRows, RecordBatch
from robustlm.sample import Sample, is_request
from robustlm.sources.stored import StoredSamples, sample_at, sample_columns, sample_values
from robustlm.utils.random import number_of

_INSTRUCTION, _CONTEXT, _REPLY = 1, 2, 4
"""Bits of a token's origin."""
_SHOWN = "shown"
"""Column of prompts as text: text, places of messages, their other fields, and tools, as JSON."""
_HALF = 2**63
"""Taken off numbers of 64 bits, so that they fit into int64."""


@cache
def stored_schema() -> Any:
    """The Arrow schema of stored rows: a sample, its tokens, and numbers that whole-data questions are answered by."""
    import pyarrow as pa

    tokens = [
        pa.field("prompt_ids", pa.list_(pa.int32())),
        pa.field("origins", pa.list_(pa.uint8())),
        pa.field("has_replies", pa.bool_()),
        pa.field("answer_ids", pa.list_(pa.int32())),
    ]
    numbers = [
        pa.field(name, pa.int64())
        for name in ("length", "prompt_length", "answer_tokens", "meaning", "input", "answer", "asks")
    ]
    return pa.schema(
        [*sample_columns(), *tokens, *numbers, pa.field("request", pa.bool_()), pa.field(_SHOWN, pa.string())]
    )


def stored_batch(
    samples: Sequence[Sample], encoded: Sequence[Encoded], lengths: Sequence[int], *, shown: bool
) -> RecordBatch:
    """A record batch of `stored_schema`.

    The places of tokens in the text of prompts are not stored: only rows that are tokenised again need them.

    Args:
        samples: The samples.
        encoded: Their tokens.
        lengths: See `EncodedSamples.prompt_lengths`.
        shown: Whether to store prompts as text, too, which validation shows, and training does not.
    """
    import pyarrow as pa

    origins = [
        [
            instruction * _INSTRUCTION + context * _CONTEXT + reply * _REPLY
            for instruction, context, reply in zip(
                row.instruction, row.context, row.replies or [False] * len(row.prompt_ids), strict=True
            )
        ]
        for row in encoded
    ]
    columns: list[list[Any]] = [
        [row.prompt_ids for row in encoded],
        origins,
        [bool(row.replies) for row in encoded],
        [row.answer_ids for row in encoded],
        [len(row) for row in encoded],
        list(lengths),
        [row.trained for row in encoded],
        [meaning(sample) for sample in samples],
        [number_of(sample.applied_to) - _HALF for sample in samples],
        [number_of(sample.target) - _HALF for sample in samples],
        [number_of(task_of(sample)) - _HALF for sample in samples],
        [is_request(sample) for sample in samples],
        [json.dumps([row.text, row.chat, row.fields, row.tools]) if shown else None for row in encoded],
    ]
    schema = stored_schema()
    rest = list(schema)[-len(columns) :]
    values = [pa.array(values, item.type) for values, item in zip(columns, rest, strict=True)]
    found: RecordBatch = pa.record_batch([*sample_values(samples), *values], schema=schema)
    return found


class StoredEncoded(Sequence[Encoded]):
    """The tokens of stored rows: `Encoded` without `offsets`, and without text where that was not stored.

    Args:
        rows: The file.
    """

    def __init__(self, rows: ArrowRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Encoded: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, at: int | slice) -> Encoded | Sequence[Encoded]:
        """The tokens of a row, or of several rows."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        batch, row = self._rows.place(at)
        ids, origins, answer = (
            batch.column(name)[row].values.to_numpy() for name in ("prompt_ids", "origins", "answer_ids")
        )
        shown = batch.column(_SHOWN)[row].as_py()
        text, chat, fields, tools = json.loads(shown) if shown else ("", (), (), "")
        return Encoded(
            text=text,
            chat=tuple((role, start, end) for role, start, end in chat),
            fields=tuple(fields),
            tools=tools,
            prompt_ids=ids.tolist(),
            instruction=(origins & _INSTRUCTION).astype(bool).tolist(),
            context=(origins & _CONTEXT).astype(bool).tolist(),
            answer_ids=answer.tolist(),
            replies=(origins & _REPLY).astype(bool).tolist() if batch.column("has_replies")[row].as_py() else (),
        )


class StoredRows(EncodedSamples):
    """Rows of training or validation in a mapped file.

    Args:
        rows: A file with the columns of `stored_schema`.
    """

    stored = True

    def __init__(self, rows: ArrowRows) -> None:
        lengths: Sequence[int] = rows.numbers("prompt_length")  # type: ignore[assignment]
        super().__init__(StoredSamples(rows), StoredEncoded(rows), prompt_lengths=lengths)
        self.rows = rows

    @property
    def lengths(self) -> Sequence[int]:
        """See `EncodedSamples.lengths`; an array."""
        found: Sequence[int] = self.rows.numbers("length")  # type: ignore[assignment]
        return found

    @property
    def answer_tokens(self) -> Sequence[int]:
        """See `EncodedSamples.answer_tokens`; an array."""
        found: Sequence[int] = self.rows.numbers("answer_tokens")  # type: ignore[assignment]
        return found

    def meanings(self) -> Tensor:
        """See `EncodedSamples.meanings`."""
        return torch.from_numpy(self.rows.numbers("meaning").astype(np.int64, copy=True))

    def datasets(self) -> list[str]:
        """See `EncodedSamples.datasets`."""
        named = zip(self.rows.texts("dataset"), self.rows.texts("task"), strict=True)
        return [sys.intern(str(name or task)) for name, task in named]

    def requests(self, *, free: bool) -> tuple[int, int]:
        """How many rows are requests themselves, and how many rows there are; with `free`, rows without a variant."""
        found = count = 0
        for batch in self.rows.batches:
            request = batch.column("request").to_numpy(zero_copy_only=False)
            if free:
                request = request[batch.column("variant").is_null().to_numpy(zero_copy_only=False)]
            found += int(request.sum())
            count += len(request)
        return found, count

    def banked(self) -> list[Sample]:
        """One sample of each bank."""
        import pyarrow.compute as pc

        found: dict[str, Sample] = {}
        for batch in self.rows.batches:
            for name in pc.unique(batch.column("bank")).to_pylist():
                if name not in found:
                    found[name] = sample_at(batch, batch.column("bank").to_pylist().index(name))
        return list(found.values())

    def traits(self) -> Traits:
        """What groups are formed by, as numbers."""
        tasks = self.rows.numbers("asks")
        _, firsts = np.unique(tasks, return_index=True)
        names = {int(tasks[at]): task_of(self.samples[int(at)]) for at in firsts}
        order = {number: place for place, number in enumerate(sorted(names, key=lambda number: names[number]))}
        places = np.array([order[int(tasks[at])] for at in firsts])
        sorted_tasks = places[np.searchsorted(tasks[firsts], tasks)]
        groups = ["" if name is None else name for name in self.rows.texts("group")]
        return Traits(self.rows.numbers("input").tolist(), self.rows.numbers("answer").tolist(),
                      sorted_tasks.tolist(), groups)  # fmt: skip
