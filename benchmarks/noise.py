"""How fast noise and its distortion are: `python benchmarks/noise.py`.

Prints the instructions a second of each kind, and the time of noise plus word-edit distortion for 100,000
instructions: CPU time of one thread, so that other load on the machine counts little. Exits with 1 when the
default noise misses the limit of 2 s, best of three runs.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence

from robustlm.noise.base import KINDS, MIXED, Noise
from robustlm.noise.distortion import RBE
from robustlm.noise.pools import build_vocabulary

COUNT = 100_000
LIMIT = 2.0
_SLOTS: tuple[tuple[str, ...], ...] = (
    ("Please", "Your task is to", "Carefully", "In this task you should", "Read the text and"),
    ("extract", "identify", "list", "classify", "find"),
    (
        "all named entities",
        "every relation between entities",
        "each opinion and its target",
        "the main topic",
    ),
    ("in the sentence below", "that the following text mentions", "of the review at the end"),
    ("and answer with one option", "and write type and words with a colon", "as short as possible"),
    ("without any explanation .", "; if there is none , answer None .", "in the order of the text ."),
)


def instructions(count: int) -> list[str]:
    """Make instructions of 15 to 30 words."""
    rng = random.Random(0)
    return [" ".join(rng.choice(slot) for slot in _SLOTS) for _ in range(count)]


def contexts(count: int, words: Sequence[str]) -> list[str]:
    """Make contexts of 20 to 80 words."""
    rng = random.Random(1)
    return [" ".join(rng.choices(words, k=rng.randint(20, 80))) for _ in range(count)]


def measure(kind: str, raw: Sequence[str], ids: Sequence[str], pool: Sequence[str]) -> tuple[float, float]:
    """Seconds of noise and of distortion over all instructions."""
    vocabulary = build_vocabulary([*raw[:1000], *pool])
    noise = Noise(kind)
    start = time.process_time()
    batch = noise.apply(raw, ids, vocabulary=vocabulary, contexts=pool, own=[pool[i % 50] for i in range(len(raw))])
    middle = time.process_time()
    RBE().measure(raw, batch.texts, batch.noisy)
    return middle - start, time.process_time() - middle


def main() -> int:
    """Print the table; 1 if the limit is missed."""
    raw = instructions(COUNT)
    ids = [f"conll03/train:{number}" for number in range(COUNT)]
    pool = contexts(10_000, [f"word{number}" for number in range(5000)])
    lengths = [len(text.split()) for text in raw]
    print(f"{COUNT:,} instructions of {min(lengths)} to {max(lengths)} words, one core")
    print(f"{'kind':<20}{'noise/s':>12}{'noise+RBE/s':>14}{'noise+RBE s':>14}")
    for kind in KINDS:
        noise, distortion = measure(kind, raw[:20_000], ids[:20_000], pool)
        both = noise + distortion
        print(f"{kind:<20}{20_000 / noise:>12,.0f}{20_000 / both:>14,.0f}{both * COUNT / 20_000:>14.2f}")
    noise, distortion = min((measure(MIXED, raw, ids, pool) for _ in range(3)), key=sum)
    both = noise + distortion
    print(f"{MIXED:<20}{COUNT / noise:>12,.0f}{COUNT / both:>14,.0f}{both:>14.2f}")
    verdict = "met" if both < LIMIT else "MISSED"
    print(f"required: noise+RBE of {COUNT:,} instructions in under {LIMIT:g} s: {verdict}")
    return int(both >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
