"""Contrastive rows: each sample with two phrasings, grouped with hard negatives ([CoIN], *Data*)."""

from __future__ import annotations

import heapq
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from robustlm.instructions.banks import Instruction, Version, assigned, fits, load_bank
from robustlm.prompts.templates import StringTemplate
from robustlm.rows.base import SourceError
from robustlm.rows.writers import RowWriter
from robustlm.sample import Sample
from robustlm.sources.shapes import robustlm_row
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)

Form = Literal["robustlm", "coin"]
"""`robustlm`: rows that load as the same samples. `coin`: the columns of the data released with [CoIN]."""
Paraphrases = Mapping[str, Sequence[str]]
"""Other phrasings of each instruction."""

_LISTED = 20


@dataclass(frozen=True, slots=True)
class PairSummary:
    """Summary of a `write_pairs` run; `print` shows it."""

    output: str
    """The file that was written."""
    groups: int
    """Groups of a sample and its hard negatives."""
    short: int
    """Groups with fewer negatives than requested."""
    negatives: int
    """Hard negatives in all groups."""
    alone: int
    """Rows without a negative; each is a group of its own."""
    datasets: dict[str, int]
    """Rows of each data set."""

    @property
    def rows(self) -> int:
        """Rows written."""
        return self.groups + self.negatives + self.alone

    def __str__(self) -> str:
        datasets = ", ".join(f"{name} {count:,}" for name, count in sorted(self.datasets.items()))
        return (
            f"{self.output}: {self.rows:,} rows, each with a variant\n"
            f"groups: {self.groups:,} with {self.negatives:,} hard negatives; {self.short:,} of them have too few\n"
            f"without a negative: {self.alone:,} rows, each a group of its own\n"
            f"data sets: {datasets}"
        )


def write_pairs(
    samples: Sequence[Sample],
    output: str,
    *,
    negatives: int = 1,
    version: Version = "both",
    paraphrases: Paraphrases | None = None,
    form: Form = "robustlm",
    seed: int = 0,
    unseen_share: float | None = None,
) -> PairSummary:
    """Write samples with two phrasings each, group by group; in the form `coin`, the largest groups come first.

    Args:
        samples: Any samples; each is written once.
        output: File to write; its ending says how.
        negatives: Hard negatives in a group, at most.
        version: Length of the bank phrasings that are used; only seen phrasings are used.
        paraphrases: Other phrasings of instructions; they are preferred to those of a bank.
        form: Format of the rows.
        seed: Seed of phrasings, groups and their order.
        unseen_share: See `InstructionBank.load`.

    Returns:
        Counts.

    Raises:
        SourceError: There are no samples, samples have one phrasing only, or the file cannot be written.
        ValueError: A setting is unknown.
    """
    if form not in _FORMS:
        raise ValueError(f"form: found {form!r}; expected one of {', '.join(_FORMS)}")
    _check_negatives(negatives)
    with RowWriter(output) as writer:
        groups = contrasted(phrased(samples, version, paraphrases or {}, seed, unseen_share), negatives, seed)
        if form == "coin":  # these rows do not name their group, so a smaller group would shift all later ones
            groups.sort(key=lambda group: -len(group))
        for group in groups:
            for sample in group:
                writer.write(_FORMS[form](replace(sample, group=group[0].id)))
    sizes = [len(group) - 1 for group in groups]
    return PairSummary(
        output,
        groups=sum(size > 0 for size in sizes),
        short=sum(0 < size < negatives for size in sizes),
        negatives=sum(sizes),
        alone=sum(size == 0 for size in sizes),
        datasets=dict(Counter(map(_dataset, samples))),
    )


# ---------------------------------------------------------------------------------------- two phrasings


def phrased(
    samples: Sequence[Sample],
    version: Version,
    paraphrases: Paraphrases,
    seed: int,
    unseen_share: float | None = None,
) -> list[Sample]:
    """Give each sample an instruction, if it has none, and another phrasing of it as its variant.

    The variant is the first of these that exists: a paraphrase of the instruction, a seen phrasing of the sample's
    bank, the variant that came with the row. Both choices depend on the seed and the sample's id alone.

    Raises:
        SourceError: Samples have one phrasing only; the message names them.
    """
    bank = partial(load_bank, unseen_share=unseen_share)

    def usable(sample: Sample) -> list[Instruction]:
        """The seen phrasings of a sample's bank that it has the texts and labels for."""
        own = bank(sample.bank)
        return [one for one in own.phrasings(version, "seen") if fits(one, sample, own.slots)]

    for name in sorted({sample.bank for sample in samples if sample.bank}):
        if division := bank(name).division:
            log.info("%s (unseen_share: %s); only seen ones are used", division, unseen_share)
    found: list[Sample] = []
    single: list[str] = []
    for sample in samples:
        asked = sample
        if not sample.instruction:
            asked = assigned(sample, usable(sample), seed)
        texts = list(paraphrases.get(asked.instruction, ()))
        if not texts and sample.bank:
            words = tuple(word for word, _ in asked.answer_words)
            texts = [other.text for other in usable(sample) if other.answers == words]
        if not texts and sample.variant is not None:
            texts = [sample.variant]
        texts = [text for text in texts if text != asked.instruction]
        if texts:
            found.append(replace(asked, variant=texts[drawn(seed, "variant", sample.id) % len(texts)]))
        else:
            single.append(sample.id)
    if single:
        listed = ", ".join(single[:_LISTED]) + (", …" if len(single) > _LISTED else "")
        raise SourceError(
            f"{len(single)} of {len(samples)} rows have no second phrasing of their instruction ({listed}); expected a "
            "bank with two seen phrasings or more (--bank), paraphrases of it (--paraphrases), or a field `variant`"
        )
    return found


# ---------------------------------------------------------------------------------------- groups


def contrasted(samples: Sequence[Sample], negatives: int, seed: int) -> list[list[Sample]]:
    """Divide samples into groups of one sample and its hard negatives.

    A hard negative has the same data set and the same instruction as the sample, another input and another target.
    Samples of one bank count as having the same instruction; their group takes the phrasings of its first sample. Every
    sample is in exactly one group. Groups of different data sets alternate.

    Args:
        samples: Samples with their instructions.
        negatives: Hard negatives of each group; a group has fewer, or none, if there are not enough.
        seed: Seed of the order.

    Returns:
        Groups, the sample before its negatives.

    Raises:
        ValueError: `negatives` is below 1.
    """
    _check_negatives(negatives)
    alike: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: drawn(seed, "order", sample.id)):
        alike[_dataset(sample), sample.task, sample.bank, "" if sample.bank else sample.instruction].append(sample)
    of_dataset: dict[str, list[list[Sample]]] = defaultdict(list)
    for (dataset, *_), bucket in alike.items():
        of_dataset[dataset] += [_asked_alike(group) for group in _groups(bucket, negatives)]
    piles = []
    for dataset in sorted(of_dataset):
        piles.append(deque(sorted(of_dataset[dataset], key=lambda group: drawn(seed, "group", group[0].id))))
    dealt: list[list[Sample]] = []
    while piles := [pile for pile in piles if pile]:
        dealt += [pile.popleft() for pile in piles]
    return dealt


def _check_negatives(negatives: int) -> None:
    if negatives < 1:
        raise ValueError(f"negatives: found {negatives}; expected at least 1")


def _asked_alike(group: list[Sample]) -> list[Sample]:
    first = group[0]
    if not first.bank:
        return group
    return [
        replace(sample, instruction=first.instruction, instruction_id=first.instruction_id, variant=first.variant)
        for sample in group
    ]


def _groups(bucket: Sequence[Sample], negatives: int) -> Iterator[list[Sample]]:
    """Make groups from samples that have the same instruction.

    Negatives come from the targets with the most samples left, and the sample itself from the target with the second
    most. So all targets run out at about the same time, and few samples are left without a negative.
    """
    left: dict[str, deque[Sample]] = defaultdict(deque)
    for sample in bucket:
        left[sample.target].append(sample)
    heap = [(-len(queue), number, target) for number, (target, queue) in enumerate(left.items())]
    heapq.heapify(heap)
    while heap:
        most = heapq.heappop(heap)
        own = heapq.heappop(heap) if heap else most
        if own is not most:
            heapq.heappush(heap, most)
        group = [left[own[2]].popleft()]
        group += _negatives_of(group[0], heap, left, negatives)
        _put_back(heap, own, left)
        yield group


_Entry = tuple[int, int, str]


def _negatives_of(
    sample: Sample, heap: list[_Entry], left: Mapping[str, deque[Sample]], negatives: int
) -> Iterator[Sample]:
    """Take negatives with distinct inputs from the targets in the heap, which does not hold the sample's own target."""
    inputs = {sample.applied_to}
    passed: list[_Entry] = []
    while heap and negatives:
        entry = heapq.heappop(heap)
        queue = left[entry[2]]
        at = next((at for at, other in enumerate(queue) if other.applied_to not in inputs), None)
        if at is None:
            passed.append(entry)
            continue
        other = queue[at]
        del queue[at]
        inputs.add(other.applied_to)
        negatives -= 1
        _put_back(heap, entry, left)
        yield other
    for entry in passed:
        heapq.heappush(heap, entry)


def _put_back(heap: list[_Entry], entry: _Entry, left: Mapping[str, deque[Sample]]) -> None:
    _, number, target = entry
    if left[target]:
        heapq.heappush(heap, (-len(left[target]), number, target))


def _dataset(sample: Sample) -> str:
    return sample.dataset or sample.task


# ---------------------------------------------------------------------------------------- forms

_WHOLE = StringTemplate("{instruction}\n{context}")


def _robustlm_form(sample: Sample) -> dict[str, object]:
    # the row holds both phrasings, so the file of the bank is not needed to read it
    return robustlm_row(replace(sample, bank=""))


def _coin_form(sample: Sample) -> dict[str, object]:
    original, paraphrased = (
        _WHOLE.render(sample, text).text.strip() for text in (sample.instruction, sample.variant or "")
    )
    return {"original_instruction": original, "paraphrased_instruction": paraphrased, "targets": sample.target}


_FORMS: dict[str, Callable[[Sample], dict[str, object]]] = {"robustlm": _robustlm_form, "coin": _coin_form}
