"""Rows of a view in one sequence, without padding. Attention stays within each row.

Only the layers see the sequence: embeddings go in as `[R, T, H]`, and states and logits come out by row, as they do of
a padded view. So losses, adversaries and poolings are the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from robustlm.batch import Layout

Attend = Callable[..., tuple[Tensor, Tensor | None]]
"""An attention function of transformers: module, queries, keys, values, mask, and further arguments."""


@dataclass(frozen=True)
class RowSequence:
    """R rows of N tokens in all, one after another in one sequence."""

    kept: Tensor
    """Int64 `[N]`: the place of each token in the padded view, as row · T + column."""
    within: Tensor
    """Int64 `[N]`: the number of each token in its row, from 0."""
    lengths: tuple[int, ...]
    """The number of tokens of each row; R numbers."""
    starts: Tensor
    """Int64 `[R + 1]`: how many tokens stand before each row; the last one is N."""
    width: int
    """T, the number of columns of the padded view."""
    prefix: int = 0
    """Number of keys and values in front of the sequence that all rows attend to: those of a trained prefix."""

    @classmethod
    def of(cls, layout: Layout, *, in_front: int = 0, prefix: int = 0) -> RowSequence:
        """The sequence of a view.

        Args:
            layout: Where the tokens of the view stand.
            in_front: Number of columns that stand in front of the view, with a token in each row: a soft prompt.
            prefix: See `RowSequence.prefix`.
        """
        if not in_front:
            return cls(layout.kept, layout.within, layout.lengths, layout.starts, layout.width, prefix)
        count, width, device = len(layout.lengths), layout.width + in_front, layout.kept.device
        row, column = layout.kept // layout.width, layout.kept % layout.width
        number = torch.arange(in_front, device=device)
        first = torch.arange(count, device=device)[:, None] * width + number
        kept, order = torch.cat([first.flatten(), row * width + column + in_front]).sort()
        within = torch.cat([number.repeat(count), layout.within + in_front]).index_select(0, order)
        starts = layout.starts + torch.arange(count + 1, device=device) * in_front
        return cls(kept, within, tuple(length + in_front for length in layout.lengths), starts, width, prefix)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest row."""
        return max(self.lengths)

    @property
    def row(self) -> Tensor:
        """Int64 `[N]`: the row of each token."""
        return self.kept // self.width

    @property
    def padded_right(self) -> Tensor:
        """Int64 `[N]`: the place of each token if rows are padded on the right to the longest, as row · L + number."""
        return self.row * self.longest + self.within

    def joined(self, padded: Tensor) -> Tensor:
        """The tokens' values of a padded `[R, T, …]`, in one sequence: `[1, N, …]`."""
        return padded.flatten(0, 1).index_select(0, self.kept)[None]

    def spread(self, joined: Tensor, fill: float = 0.0) -> Tensor:
        """The padded `[R, T, …]` of a sequence `[1, N, …]`, with `fill` at padding."""
        rows = len(self.lengths)
        empty = joined.new_full((rows * self.width, *joined.shape[2:]), fill)
        return empty.index_copy(0, self.kept, joined[0]).reshape(rows, self.width, *joined.shape[2:])

    def places(self, places: Tensor) -> Tensor:
        """Where tokens of the padded view stand in the sequence; both int64, counted as in `kept`."""
        numbers = torch.arange(len(self.kept), device=places.device)
        found = numbers.new_zeros(len(self.lengths) * self.width).index_copy(0, self.kept, numbers)
        return found.index_select(0, places)

    def mask(self, make: Callable[..., object], arguments: dict[str, object], *, dense: bool) -> object:
        """The attention mask of the sequence, in place of the one that a function of transformers makes.

        Args:
            make: The function.
            arguments: Its arguments for the whole sequence.
            dense: Return a tensor `[1, 1, N, prefix + N]`, for attention that takes nothing else.

        Returns:
            A `RowMask`, or that tensor.

        Raises:
            ValueError: The model keeps other keys than those of the prefix and the sequence.
        """
        queries, keys = arguments["q_length"], arguments["kv_length"]
        if queries != len(self.kept) or keys != queries + self.prefix:
            raise ValueError(
                f"found a mask of {queries} × {keys} positions for a sequence of {len(self.kept)} tokens and a prefix "
                f"of {self.prefix}"
            )
        size = {"batch_size": 1, "q_length": self.longest, "kv_length": self.prefix + self.longest}
        own = make(**{**arguments, **size, "attention_mask": None})
        if not dense:
            return RowMask(self, cast("Tensor | None", own))
        assert isinstance(own, Tensor)
        before, at = torch.arange(self.prefix, device=own.device), self.within + self.prefix
        whole = own.index_select(2, self.within).index_select(3, torch.cat([before, at]))
        others = nn.functional.pad(self.row[:, None] != self.row, (self.prefix, 0))
        return whole.masked_fill(others, torch.finfo(whole.dtype).min)


@dataclass(frozen=True)
class RowMask:
    """The attention mask of a `RowSequence`. Models pass it on to their attention functions, as they do a tensor."""

    rows: RowSequence
    own: Tensor | None
    """Bool `[1, 1, L, prefix + L]`: which keys a row of L tokens attends to; null: all tokens up to its own."""

    def part(self, length: int) -> Tensor | None:
        """The mask of a row of this length."""
        return None if self.own is None else self.own[:, :, :length, : self.rows.prefix + length]


def _apart(attend: Attend, *, joined: bool) -> Attend:
    """An attention function that keeps rows apart if the mask is a `RowMask`, and is unchanged otherwise.

    Args:
        attend: The function of transformers.
        joined: Whether it takes the starts of rows in one sequence (variable-length flash attention).
    """

    def attended(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, **kwargs: object
    ) -> tuple[Tensor, Tensor | None]:
        if not isinstance(attention_mask, RowMask):
            return attend(module, query, key, value, attention_mask, **kwargs)
        if kwargs.get("position_bias") is not None:
            raise ValueError("found an attention bias for positions of the whole sequence")
        kwargs.pop("position_ids", None)  # those of the sequence
        rows = attention_mask.rows
        if joined and not rows.prefix:
            starts, longest = rows.starts.int(), rows.longest
            kwargs |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts}
            kwargs |= {"max_length_q": longest, "max_length_k": longest}
            return attend(module, query, key, value, None, **kwargs)
        run = _one_by_one if query.device.type == "cpu" else _together
        return run(partial(attend, module), attention_mask, query, key, value, **kwargs), None

    return attended


def _one_by_one(attend: Attend, mask: RowMask, query: Tensor, key: Tensor, value: Tensor, **kwargs: object) -> Tensor:
    """Attention `[1, N, heads, d]`, row by row. On a CPU, this takes the least time: no row is as long as another."""
    lengths, prefix = list(mask.rows.lengths), mask.rows.prefix
    found = []
    for own, keys, values in zip(
        torch.split(query, lengths, 2), *(_with_prefix(one, lengths, prefix) for one in (key, value)), strict=True
    ):
        found.append(attend(own, keys, values, mask.part(own.shape[2]), **kwargs)[0])
    return torch.cat(found, dim=1)


def _with_prefix(states: Tensor, lengths: list[int], prefix: int) -> list[Tensor]:
    """Keys or values of each row, `[1, heads, prefix + L, d]`, of those of the sequence."""
    before, own = states[:, :, :prefix], torch.split(states[:, :, prefix:], lengths, 2)
    return [torch.cat([before, one], dim=2) for one in own] if prefix else list(own)


def _together(attend: Attend, mask: RowMask, query: Tensor, key: Tensor, value: Tensor, **kwargs: object) -> Tensor:
    """Attention `[1, N, heads, d]`, all rows at once, padded on the right. So causal attention needs no other mask.

    On a GPU, this is one kernel, while row by row would be a kernel for each row. Attention alone works on padding.
    """
    rows = mask.rows
    keys, values = (_padded(rows, one, rows.prefix) for one in (key, value))
    found = attend(_padded(rows, query, 0), keys, values, mask.own, **kwargs)[0]
    return found.flatten(0, 1).index_select(0, rows.padded_right)[None]


def _padded(rows: RowSequence, states: Tensor, prefix: int) -> Tensor:
    """Queries, keys or values of the sequence by row: `[R, heads, prefix + L, d]`."""
    own = states[0, :, prefix:].transpose(0, 1)
    empty = own.new_zeros(len(rows.lengths) * rows.longest, *own.shape[1:])
    found = empty.index_copy(0, rows.padded_right, own).reshape(-1, rows.longest, *own.shape[1:]).transpose(1, 2)
    before = states[:, :, :prefix].expand(len(found), -1, -1, -1)
    return torch.cat([before, found], dim=2) if prefix else found


for _name in ("sdpa", "flash_attention_2"):
    AttentionInterface.register(_name, _apart(ALL_ATTENTION_FUNCTIONS[_name], joined=_name != "sdpa"))
