"""Pools of words that noise adds: vocabulary and contexts of the samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from robustlm.instructions.slots import literal
from robustlm.noise import opposites
from robustlm.noise.protection import protected_phrases
from robustlm.sample import Sample, is_request
from robustlm.utils.words import is_mark, split_words

_POOLED_SAMPLES = 10_000
_LONGEST_CONTEXT = 2_000  # characters


@dataclass(frozen=True, slots=True)
class Pools:
    """Words and contexts that noise adds to instructions."""

    vocabulary: Sequence[str] = ()
    """Words for replacement and insertion (see `build_vocabulary`); empty: a small built-in list."""
    contexts: Sequence[str] = ()
    """Contexts and targets of samples, for padding; empty or blank: vocabulary words are used instead."""
    own: str = ""
    """The context of the current sample, which must not be used to pad the same sample."""


def build_vocabulary(texts: Iterable[str], size: int = 20_000) -> tuple[str, ...]:
    """Collect the words of training instructions and contexts, the most frequent first.

    Args:
        texts: Any texts; read once. Their order does not change the result.
        size: How many words to keep.

    Returns:
        Distinct words without the punctuation around them.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word.strip(opposites.PUNCTUATION) for word in split_words(text) if not is_mark(word))
    del counts[""]
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(word for word, _ in ranked[:size])


def padding_text(sample: Sample) -> str:
    """The text of a sample that can pad others: its context or, where it has none, its target."""
    return (sample.context.text or sample.context.question or sample.target)[:_LONGEST_CONTEXT]


def build_pools(samples: Iterable[Sample]) -> Pools:
    """Collect words and contexts from the first 10,000 training samples; the limit bounds memory.

    Args:
        samples: Samples in the order of the training data; the same samples give the same noise.
    """
    head = list(islice(samples, _POOLED_SAMPLES))
    contexts = [padding_text(sample) for sample in head]
    asked = [literal(sample.instruction, slots_of(sample)) for sample in head]
    return Pools(build_vocabulary([*asked, *contexts]), contexts)


def slots_of(sample: Sample) -> tuple[str, ...]:
    """Names of a sample's fields, which are the slots in its instruction."""
    return tuple(name for name, _ in sample.fields)


def noise_pools(samples: Sequence[Sample], *, protect: bool = False) -> dict[str, Any]:
    """Arguments of `Noise.apply`: words and contexts to draw from, and slots (with `protect`, also words) to keep."""
    pools = build_pools(samples)
    return {
        "vocabulary": pools.vocabulary,
        "contexts": pools.contexts,
        "own": [padding_text(sample) for sample in samples],
        "slots": [slots_of(sample) for sample in samples] if any(sample.fields for sample in samples) else None,
        "requests": [is_request(sample) for sample in samples],
        "protected": [protected_phrases(sample) for sample in samples] if protect else None,
    }
