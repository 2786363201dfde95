"""Random draws that depend only on a key: the same on any machine, worker or rank."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from itertools import count

_unpack = struct.Struct("<16I").unpack


class Stream:
    """Random draws from a hash in counter mode: BLAKE2b of the key, 16 draws of 32 bits per block.

    Noise and distortion of one instruction may take 20 µs together. Seeding a `random.Random` takes 4 µs of that,
    seeding this class less than 1 µs. The draws depend on this file only, not on the Python version.

    Args:
        key: Determines the draws; see `key_of`.
    """

    __slots__ = ("_draw",)

    def __init__(self, key: bytes) -> None:
        self._draw = _draws(key).__next__

    def below(self, n: int) -> int:
        """Draw from 0 … n − 1, uniformly up to n / 2³²."""
        return self._draw() * n >> 32

    def uniform(self) -> float:
        """Draw from [0, 1)."""
        return self._draw() / (1 << 32)

    def sample(self, n: int, k: int) -> list[int]:
        """Draw k distinct numbers of 0 … n − 1, in random order."""
        draw = self._draw
        pool = list(range(n))
        for i in range(k):
            j = i + (draw() * (n - i) >> 32)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]


def _draws(key: bytes) -> Iterator[int]:
    yield from _unpack(blake2b(key).digest())
    for block in count(1):
        yield from _unpack(blake2b(key, person=block.to_bytes(16, "little")).digest())


def key_of(*parts: object) -> bytes:
    """The key of a draw: its parts as text, separated by blanks."""
    return " ".join(map(str, parts)).encode("utf-8", "surrogatepass")


def drawn(*parts: object) -> int:
    """A number of 64 bits that depends only on these parts (BLAKE2b).

    Taken modulo n, it chooses one of n things. As a sort key, it puts things in a random order, and the key of each
    thing does not depend on the other things.
    """
    return int.from_bytes(blake2b(key_of(*parts), digest_size=8).digest(), "big")


def number_of(value: object) -> int:
    """A number of 64 bits for a value: equal values have equal numbers, and others almost surely have others."""
    return drawn("value", repr(value))
