"""Contrastive rows: each sample with two phrasings, grouped with hard negatives ([CoIN], *Data*)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm  # type: ignore[import-untyped]

from robustlm.instructions.banks import Version
from robustlm.prompts.templates import StringTemplate
from robustlm.rows.writers import RowWriter
from robustlm.sample import Sample
from robustlm.sources.large import stored_samples
from robustlm.sources.shapes import robustlm_row
from robustlm.sources.source import Source
from robustlm.tools.hard_negatives import HardNegatives, asked_alike, check_negatives, dataset_of
from robustlm.tools.two_phrasings import Paraphrases, TwoPhrasings
from robustlm.utils.files import scratch_folder

Form = Literal["robustlm", "coin"]
"""`robustlm`: rows that load as the same samples. `coin`: the columns of the data released with [CoIN]."""


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


def pair_rows(
    sources: Sequence[Source],
    output: str,
    *,
    negatives: int = 1,
    version: Version = "both",
    paraphrases: Paraphrases | None = None,
    form: Form = "robustlm",
    seed: int = 0,
    unseen_share: float | None = None,
) -> PairSummary:
    """Read sources, and write their samples as `write_pairs` does.

    The samples lie in a temporary folder beside the output, so memory holds a few numbers for each row.

    Args:
        sources: What to read, with the splits of training.
        output: See `write_pairs`, as for the other arguments.
        negatives: See `write_pairs`.
        version: See `write_pairs`.
        paraphrases: See `write_pairs`.
        form: See `write_pairs`.
        seed: See `write_pairs`.
        unseen_share: See `write_pairs`.

    Raises:
        SourceError: As `write_pairs`; or there is nothing to read, or two sources have the same id.
        BadRowsError: There are bad rows.
        ValueError: A setting is unknown.
    """
    with scratch_folder(Path(output)) as folder:
        return write_pairs(
            stored_samples(sources, "train", folder),
            output,
            negatives=negatives,
            version=version,
            paraphrases=paraphrases,
            form=form,
            seed=seed,
            unseen_share=unseen_share,
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
    check_negatives(negatives)
    two = TwoPhrasings(version, paraphrases or {}, seed, unseen_share)
    datasets: Counter[str] = Counter()
    with RowWriter(output) as writer:
        groups = HardNegatives(_counted(two.each(_shown(samples)), datasets), negatives, seed)
        if form == "coin":  # these rows do not name their group, so a smaller group would shift all later ones
            groups.largest_first()
        with tqdm(total=len(samples), desc=f"writing {output}", unit=" rows", disable=None) as bar:
            for places in groups:
                group = asked_alike([_found(two.of(samples[at])) for at in places])
                for sample in group:
                    writer.write(_FORMS[form](replace(sample, group=group[0].id)))
                bar.update(len(group))
    sizes = groups.sizes - 1
    return PairSummary(
        output,
        groups=int((sizes > 0).sum()),
        short=int(((sizes > 0) & (sizes < negatives)).sum()),
        negatives=int(sizes.sum()),
        alone=int((sizes == 0).sum()),
        datasets=dict(datasets),
    )


def _shown(samples: Sequence[Sample]) -> Iterator[Sample]:
    """Samples one after another, with a progress bar."""
    yield from tqdm(samples, total=len(samples), desc="grouping", unit=" rows", disable=None)


def _counted(samples: Iterable[Sample], datasets: Counter[str]) -> Iterator[Sample]:
    for sample in samples:
        datasets[dataset_of(sample)] += 1
        yield sample


def _found(sample: Sample | None) -> Sample:
    assert sample is not None  # `TwoPhrasings.each` has raised for those that have one phrasing only
    return sample


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
