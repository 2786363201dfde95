"""Random draws that are a function of a key: the same on any machine, worker or rank."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from itertools import count

_unpack = struct.Struct("<16I").unpack


class Stream:
    """Random draws from a hash in counter mode: BLAKE2b of the key, 16 draws of 32 bits a block.

    Noise and distortion of one instruction may take 20 µs together; a `random.Random` costs 4 µs to seed,
    this less than one. Its values are fixed by this file instead of by a Python version.

    Args:
        key: What the draws are a function of, see `key_of`.
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
    """The key of a draw: what it is a function of, as text with a blank between the parts."""
    return " ".join(map(str, parts)).encode("utf-8", "surrogatepass")


def drawn(*parts: object) -> int:
    """A number of 64 bits that depends on nothing but these parts (BLAKE2b).

    Taken modulo n, it chooses one of n things. As a key to sort by, it gives each thing a place in a random order that
    stays the same whatever other things there are.
    """
    return int.from_bytes(blake2b(key_of(*parts), digest_size=8).digest(), "big")
