"""Sequences whose items are computed when they are asked for, so that memory does not hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class Computed(Sequence[T]):
    """A sequence whose items are computed each time that they are asked for.

    Args:
        count: Number of items.
        item: Returns the item of an index, always the same one.
    """

    def __init__(self, count: int, item: Callable[[int], T]) -> None:
        self._count = count
        self._item = item

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        """An item, or a list of them."""
        if isinstance(at, slice):
            return [self._item(i) for i in range(*at.indices(self._count))]
        if not 0 <= at < self._count:
            raise IndexError(f"item {at} of {self._count}")
        return self._item(at)

    def __iter__(self) -> Iterator[T]:
        return map(self._item, range(self._count))
