"""Training rows without an answer: their options, and those of them that are never trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from robustlm.checks.numbers import check_number
from robustlm.datamodules.batches import EncodedSamples, OpenRow
from robustlm.datamodules.preparation import Preparation
from robustlm.sample import Sample
from robustlm.utils.random import drawn


@dataclass
class Unlabelled:
    """Lets training rows lack an answer. Such rows need options, and a model with `model.agreement`."""

    held_out: int = 64
    """Rows without an answer that are never trained on: the guard of the agreement asks the model about them. 0: none,
    for `model.agreement.guard: null`."""
    hide: float = 0.0
    """Share of the rows with an answer and options whose answer is hidden, so that they count as rows without one. The
    true answers are used for nothing but the curve `agreement/correct` and the control `target: labels`."""

    def __post_init__(self) -> None:
        check_number("data.unlabelled.held_out", self.held_out, least=0, below=2**31, whole=True)
        check_number("data.unlabelled.hide", self.hide, least=0, most=1)


def hidden(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], dict[str, int]]:
    """Hide answers of a share of the samples that have options; which ones depends on seed and id alone.

    Returns:
        The samples, those with a hidden answer with an empty target, and the true option of these by id.

    Raises:
        ValueError: No sample has options.
    """
    if not share:
        return list(samples), {}
    if not any(sample.target in sample.choices for sample in samples):
        raise ValueError(
            f"data.unlabelled.hide: found {share:g}, but none of the {len(samples)} rows of data.train has options; "
            "expected rows with `choices`, or of classification or multiple choice"
        )
    truths = {
        sample.id: sample.choices.index(sample.target)
        for sample in samples
        if sample.target in sample.choices and drawn("hidden", seed, sample.id) < share * 2**64
    }
    return [replace(one, target="") if one.id in truths else one for one in samples], truths


def check_options(samples: Iterable[Sample]) -> None:
    """Raise `ValueError` for samples with neither an answer nor two options."""
    found = [sample for sample in samples if not sample.target]
    if alone := [sample for sample in found if len(set(sample.choices)) < 2]:
        first = alone[0]
        raise ValueError(
            f"data.train: {len(alone)} of the {len(found)} rows without an answer have fewer than two options "
            f"({first.id}, task {first.task}: {len(set(first.choices))}); expected rows of classification, whose "
            "labels are known (`labels` of the source), or rows with `choices`. Free text cannot be voted on"
        )


def tokenised(samples: Sequence[Sample], truths: Mapping[str, int], preparation: Preparation) -> EncodedSamples:
    """Tokenise training samples, those without an answer with their longest option in its place.

    Args:
        samples: Samples with an answer or with two options and more.
        truths: The true option of samples with a hidden answer, by id.
        preparation: Tokenises them.

    Returns:
        The rows; `EncodedSamples.open` has those without an answer, whose samples have an empty target.
    """
    check_options(samples)
    blank = [sample for sample in samples if not sample.target]
    ids = dict(zip((one.id for one in blank), preparation.encoder.choice_ids(blank), strict=True)) if blank else {}
    held = {id: own.index(max(own, key=len)) for id, own in ids.items()}
    rows = preparation.tokenised(
        [one if one.target else replace(one, target=one.choices[held[one.id]]) for one in samples], "train"
    )
    alike = _alike(blank)
    kept, encoded = list(rows.samples), list(rows.encoded)
    for at, sample in enumerate(kept):
        if sample.id not in ids:
            continue
        kept[at] = replace(sample, target="")
        own, dataset = ids[sample.id], sample.dataset or sample.task
        names = sample.choices if dataset in alike else tuple(f"option {n + 1}" for n in range(len(own)))
        encoded[at] = replace(encoded[at], answer_ids=own[held[sample.id]])
        rows.open[at] = OpenRow(own, held[sample.id], truths.get(sample.id), (dataset, names))
    rows.samples, rows.encoded = kept, encoded
    return rows


def _alike(samples: Iterable[Sample]) -> set[str]:
    """The datasets whose samples all have the same options."""
    seen = {(sample.dataset or sample.task, sample.choices) for sample in samples}
    return {dataset for dataset, count in Counter(dataset for dataset, _ in seen).items() if count == 1}


def divided(rows: EncodedSamples, count: int, seed: int) -> tuple[EncodedSamples, EncodedSamples]:
    """Rows to train on, and rows without an answer that are kept from training; these depend on seed and ids alone.

    Raises:
        ValueError: There are too few rows without an answer.
    """
    if not rows.open:
        raise ValueError(
            f"data.unlabelled: all {len(rows)} rows of data.train bring an answer; expected rows without one, a "
            "data.unlabelled.hide above 0, or data.unlabelled null"
        )
    if count >= len(rows.open):
        raise ValueError(
            f"data.unlabelled.held_out: found {count} with {len(rows.open)} rows without an answer in data.train; "
            "expected fewer, so that some are trained on"
        )
    order = sorted(rows.open, key=lambda at: drawn("held out", seed, rows.samples[at].id))
    kept = set(order[:count])
    return (
        _part(rows, [at for at in range(len(rows)) if at not in kept]),
        _part(rows, sorted(kept)),
    )


def _part(rows: EncodedSamples, chosen: Sequence[int]) -> EncodedSamples:
    return EncodedSamples(
        [rows.samples[at] for at in chosen],
        [rows.encoded[at] for at in chosen],
        measure=rows.measure,
        prompt_lengths=[rows.prompt_lengths[at] for at in chosen],
        open={new: rows.open[at] for new, at in enumerate(chosen) if at in rows.open},
    )
