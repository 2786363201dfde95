"""Word-level noise for instructions, reproducible sample by sample ([ANIT], *Noise*).

A kind of noise is a plain function `(words, omega, rng, pools) -> words`. All its random draws come from `rng`, so
`Noise.apply` is a pure function of (seed, epoch, variant, sample id): the numbers of workers and ranks, batches and
restarts do not change its result. Adding a kind takes a few lines:

    @register_kind("reversed")
    def reversed_words(words, omega, rng, pools):
        return words[::-1]

Every setting that names a kind then takes `kind: reversed`, and `mixed` can weight it. A function that is not
registered is named by its import path, `kind: my_package.my_noise.reversed_words`. `robustlm.noise` lists further
kinds, which imitate attacks on models.

`robustlm.utils.words` defines words. In scripts with blanks, text is split on white space and joined by single spaces,
so noise removes line breaks. Slots (`{premise}`) of the sample's fields are kept, with the white space around them. In
scripts without blanks, each character is a word, and noise puts no blanks between them.
"""

from __future__ import annotations

import inspect
import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import cast

from robustlm.checks.numbers import check_number
from robustlm.instructions.slots import Skeleton, defused
from robustlm.noise.edits import Edits, word_edits
from robustlm.noise.pools import Pools
from robustlm.noise.protection import Guard
from robustlm.utils.random import Stream, key_of
from robustlm.utils.registry import Registry
from robustlm.utils.words import rejoin, split_words

Kind = Callable[[list[str], float, Stream, Pools], list[str]]
"""Takes (words, omega, rng, pools) and returns noisy words; does not change `words`.

An item of the result may hold several words, separated by spaces, to show which word they replace.
"""

MIXED = "mixed"
CLEAN = "clean"
KINDS: Registry[Kind] = Registry("noise kind", "an import path like my.module.fn", reserved=(MIXED, CLEAN))
"""Every registered kind by name; `mixed` is not a kind but a random choice among kinds."""
_IN_PLACE: set[Kind] = set()
"""Registered kinds that work `in_place`; see `register_kind`."""


def register_kind(name: str, *, in_place: bool = False) -> Callable[[Kind], Kind]:
    """Make a function available as a kind of noise.

    Args:
        name: Name of the kind in configurations.
        in_place: Whether the i-th item that it returns replaces word i, and further items are appended. Slots then stay
            between the same words. For other kinds, slots keep their relative position in the text.

    Raises:
        ValueError: The name is taken.
    """
    KINDS.check_free(name)

    def register(kind: Kind) -> Kind:
        KINDS.add(name, kind)
        if in_place:
            _IN_PLACE.add(kind)
        return kind

    return register


def resolve_kind(name: str) -> Kind:
    """Look up a kind by its registered name (with an argument where it takes one) or its import path.

    Raises:
        ValueError: `name` is neither a registered name nor the path of a suitable function, or its argument is wrong.
    """
    kind = KINDS.found(name)
    if not callable(kind):
        raise ValueError(f"unknown noise kind {name!r}: expected {KINDS.expected(name, [*KINDS, MIXED])}")
    if name not in KINDS and not _takes_words(kind):
        raise ValueError(f"noise kind {name!r}: found no function of (words, omega, rng, pools) there")
    return cast(Kind, kind)


def _takes_words(kind: object) -> bool:
    """Whether a function takes the arguments of a kind.

    Functions of the standard library do not count: `os.system` must never be called with an instruction.
    """
    if isinstance(kind, type) or getattr(kind, "__module__", None) in sys.stdlib_module_names:
        return False
    try:
        inspect.signature(kind).bind([], 0.0, None, None)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # other arguments, or a built-in without a signature
        return False
    return True


def word_budget(n: int, omega: float) -> int:
    """How many of n words noise of strength ω touches: k = ceil(ω·n).

    ω·n is rounded to nine decimals first, so that 0.07 · 100 = 7.000000000000001 gives 7.
    """
    if omega == 0 or n == 0:
        return 0
    return max(1, math.ceil(round(omega * n, 9)))


MIXED_KINDS = (
    "random_replacement",
    "random_insertion",
    "random_truncation",
    "random_shuffling",
    "in_context_padding",
    "opposite",
)
"""Kinds that `mixed` draws from if no weights are given."""
CHANGES_MEANING = frozenset({"opposite"})
"""Kinds among them that negate or contradict; if the instruction is the request itself, its correct answer changes."""


@dataclass(frozen=True, slots=True)
class NoisyBatch:
    """Instructions after noise, in their original order."""

    texts: list[str]
    """The instructions; clean ones are the same strings as before."""
    noisy: list[bool]
    """Whether noise changed the words of the row."""
    kinds: list[str]
    """The kind drawn for each row; `clean` where nothing changed."""
    edits: list[Edits] | None = None
    """Edits of each row; None unless `apply` was called with `report`."""


_Mixture = tuple[list[str], list[Kind], list[float]]
"""Names, functions and cumulative shares of kinds to draw from."""


@dataclass
class Noise:
    """Noise on instructions: which kind, how much of an instruction, how many of the samples ([ANIT])."""

    kind: str = MIXED
    """`mixed`, a registered kind such as `random_insertion`, or the import path of a function. `mixed` leaves
    `opposite` out for rows whose instruction is the request itself (chats, Alpaca), unless `weights` names it."""
    omega: float = 0.2
    """ω: share of an instruction's words that noise touches, in [0, 1]; 0 changes nothing."""
    phi: float = 1.0
    """φ: share of samples that get noise, in [0, 1]; drawn anew for each sample in every epoch."""
    weights: dict[str, float] | None = None
    """For `mixed`: how often each kind is drawn, relative to the sum; null: six kinds equally."""
    protect: bool = False
    """Keep answers, words of the answer's format and quoted words unchanged (see `robustlm.noise.protection`)."""

    def __post_init__(self) -> None:
        check_number("noise.omega", self.omega, least=0, most=1)
        check_number("noise.phi", self.phi, least=0, most=1)
        if self.weights is not None:
            self._check_weights(self.weights)
        self._mixture()

    def _check_weights(self, weights: dict[str, float]) -> None:
        if self.kind != MIXED:
            raise ValueError(
                f"noise.weights: found weights for noise.kind={self.kind}; expected null, or noise.kind=mixed"
            )
        bad = {name: weight for name, weight in weights.items() if not 0 <= weight < math.inf}
        if bad or not any(weights.values()):
            raise ValueError(f"noise.weights: expected numbers ≥ 0 with one above 0, found {bad or weights}")

    @property
    def kinds(self) -> list[str]:
        """The kinds that are drawn from: one, unless the kind is `mixed`."""
        return self._mixture()[0]

    @property
    def spares_requests(self) -> bool:
        """Whether `CHANGES_MEANING` are left out for requests: true for `mixed` without weights."""
        return self.kind == MIXED and self.weights is None

    def _mixture(self, without: Collection[str] = ()) -> _Mixture:
        """The kinds to draw from, without some of them."""
        known = [kind for kind in MIXED_KINDS if kind not in without] if self.kind == MIXED else [self.kind]
        weights = self.weights or dict.fromkeys(known, 1.0)
        names = [name for name, weight in weights.items() if weight > 0]
        total = math.fsum(weights.values())
        shares = [share / total for share in accumulate(weights[name] for name in names)]
        return names, [resolve_kind(name) for name in names], shares

    def apply(
        self,
        instructions: Sequence[str],
        ids: Sequence[str],
        *,
        seed: int = 0,
        epoch: int = 0,
        variant: int = 0,
        vocabulary: Sequence[str] = (),
        contexts: Sequence[str] = (),
        own: Sequence[str] | None = None,
        slots: Sequence[Collection[str]] | None = None,
        protected: Sequence[Collection[str]] | None = None,
        requests: Sequence[bool] | None = None,
        report: bool = False,
    ) -> NoisyBatch:
        """Make the noisy variant of each instruction.

        The result for a sample depends on (seed, epoch, variant, its id) and on its own arguments, but not on the other
        samples, their order or their number. Any string is a valid instruction. With ω > 0, a noisy instruction of two
        words or more (without words that contain slots) always differs from the raw one, unless it has nothing
        unprotected that the kind can change (letters, known words).

        Args:
            instructions: Raw instructions, n of them.
            ids: Stable sample ids, n of them.
            seed: Seed of the run.
            epoch: Number of the epoch, from 0.
            variant: Number of the noisy variant, where a sample has several.
            vocabulary: Single words for replacement and insertion; empty: a small built-in list.
            contexts: Contexts and targets of the training samples, for padding.
            own: Context of each sample, n of them; a sample is not padded with its own. None: not known.
            slots: Names of each sample's fields, n of them. A slot `{name}` of these names is kept, once and at its
                place, and noise adds no other slot. None: no sample has fields.
            protected: For `protect`: the protected phrases of each instruction besides quoted words, n of them, from
                `robustlm.noise.protection.protected_phrases`. None: none.
            requests: Whether each instruction is the request itself, n flags from `is_request`. For these, `mixed`
                without `weights` does not draw `CHANGES_MEANING`. None: none is.
            report: Also return the edits of each instruction, which `robustlm.noise.edits.replay` can repeat.

        Returns:
            Texts, flags, kinds and, with `report`, edits, n of each.

        Raises:
            ValueError: `ids`, `own`, `slots`, `protected` or `requests` differ in number from `instructions`.
        """
        if len(ids) != len(instructions) or (own is not None and len(own) != len(instructions)):
            raise ValueError(
                f"{len(instructions)} instructions need as many ids and own contexts, found {len(ids)} ids"
                + ("" if own is None else f" and {len(own)} own contexts")
            )
        if slots is not None and len(slots) != len(instructions):
            raise ValueError(f"{len(instructions)} instructions need as many tuples of slots, found {len(slots)}")
        if protected is not None and len(protected) != len(instructions):
            found = len(protected)
            raise ValueError(f"{len(instructions)} instructions need as many tuples of protected words, found {found}")
        if requests is not None and len(requests) != len(instructions):
            raise ValueError(f"{len(instructions)} instructions need as many flags of requests, found {len(requests)}")
        mixture = self._mixture()
        milder = self._mixture(CHANGES_MEANING) if self.spares_requests else mixture
        none: list[Edits] | None = [()] * len(ids) if report else None
        batch = NoisyBatch(list(instructions), [False] * len(ids), [CLEAN] * len(ids), none)
        pools = Pools(vocabulary, contexts)
        for row, (text, sample_id) in enumerate(zip(instructions, ids, strict=True)):
            rng = Stream(key_of(seed, epoch, variant, sample_id))
            if rng.uniform() >= self.phi or self.omega == 0:
                continue
            names, kinds, shares = milder if requests is not None and requests[row] else mixture
            drawn = min(bisect_right(shares, rng.uniform()), len(names) - 1)
            in_place = kinds[drawn] in _IN_PLACE
            if own is not None:
                pools = Pools(vocabulary, contexts, own[row])
            if self.protect:
                guard = Guard(text, protected[row] if protected is not None else (), slots[row] if slots else ())
                edits = guard.edits(partial(kinds[drawn], guard.words, self.omega, rng, pools), in_place)
                if edits:
                    _note(batch, row, guard.text(edits), names[drawn], edits)
                continue
            kept = Skeleton(text, slots[row]) if slots is not None and slots[row] else None
            words = split_words(text) if kept is None else kept.words
            noisy = kinds[drawn](words, self.omega, rng, pools)
            if kept is not None and slots is not None:
                noisy = [defused(word, slots[row]) if "{" in word else word for word in noisy]
            if noisy != words:
                batch.texts[row] = rejoin(text, noisy) if kept is None else kept.filled(noisy, in_place)
                batch.noisy[row] = True
                batch.kinds[row] = names[drawn]
                if batch.edits is not None:
                    if kept is not None:
                        noisy, in_place = " ".join(kept.interleaved(noisy, in_place)).split(), False
                    batch.edits[row] = word_edits(split_words(text), noisy, in_place)
        return batch


def spared(noise: Noise, requests: int, count: int) -> str:
    """Message about the rows that `mixed` noise does not negate or contradict; empty if there are none.

    Args:
        noise: Noise of an evaluation or a training run.
        requests: Number of rows for which `is_request` is true.
        count: Number of all rows.
    """
    if not (noise.spares_requests and requests):
        return ""
    weights = ", ".join(f"{kind}: 1" for kind in MIXED_KINDS)
    return (
        f"the noise {', '.join(sorted(CHANGES_MEANING))} is off for {requests:,} of {count:,} rows: their instruction "
        f"is the request itself, so this noise would ask for another answer; noise.weights turns it on ({{{weights}}})"
    )


def _note(batch: NoisyBatch, row: int, text: str, kind: str, edits: Edits) -> None:
    batch.texts[row], batch.noisy[row], batch.kinds[row] = text, True, kind
    if batch.edits is not None:
        batch.edits[row] = edits
