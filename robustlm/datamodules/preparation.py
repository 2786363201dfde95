"""Steps between reading and batching samples: tokenise, fit into the length limit, apply conditions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from robustlm.conditions.condition import Condition
from robustlm.datamodules.batches import EncodedSamples
from robustlm.instructions.banks import LackingError
from robustlm.prompts.encoding import Encoder, TooLongError
from robustlm.rows.writers import write_rows
from robustlm.sample import Sample

log = logging.getLogger(__name__)

Scoring = Literal["generation", "options", "acc", "acc_norm", "acc_bytes"]
"""How answers are found in evaluation: generated, or chosen among a row's choices by one of `Measure`."""
_LISTED = 20


class Preparation:
    """Encodes samples as rows, and rejects or leaves out those that are too long.

    Args:
        encoder: Writes prompts and tokenises them.
        scoring: Except with `generation`, `ready` and `with_options` also tokenise the choices of each sample.
        on_bad_row: `strict` raises if any row is too long; `skip` leaves such rows out.
        rejected: The names of the files that list left-out rows are derived from this one; null: no lists.
    """

    def __init__(
        self, encoder: Encoder, *, scoring: Scoring, on_bad_row: Literal["strict", "skip"], rejected: Path | None
    ) -> None:
        self.encoder = encoder
        self._scoring = scoring
        self._on_bad_row = on_bad_row
        self._rejected = rejected

    def hidden(self, samples: Sequence[Sample], role: str) -> list[str]:
        """Parts of the rows that the template does not show, one line for each dataset and part."""
        counts = Counter(
            (sample.dataset or sample.task, part) for sample in samples for part in self.encoder.template.hides(sample)
        )
        return [
            f"data.template: has no {{{part}}} and no {{context}}, so no prompt shows the {part} that {count:,} "
            f"rows of {dataset} in data.{role} have"
            for (dataset, part), count in counts.items()
        ]

    def tokenised(self, samples: Sequence[Sample], role: str) -> EncodedSamples:
        """Tokenise samples with their instructions; rows that are too long are bad rows.

        Raises:
            TooLongError: There are bad rows and `on_bad_row` is `strict`, or all rows are bad.
        """
        full = self.encoder.encode_untruncated(samples)
        rows = EncodedSamples([], [])
        bad: list[tuple[Sample, str]] = []
        cut = shorter = 0
        for given, whole in zip(samples, full, strict=True):
            sample, row = self.encoder.fitted(given, whole)
            shorter += len(sample.turns) < len(given.turns)
            cut += self.encoder.excess(row) > 0
            try:
                rows.encoded.append(self.encoder.truncate(row, sample.id))
                rows.samples.append(sample)
            except TooLongError as error:
                bad.append((sample, str(error)))
        self._settle_too_long(bad, role, len(samples))
        if cut > len(bad):
            log.warning(
                "data.%s: the context of %d of %d rows was cut to max_length %d", role, cut - len(bad), len(samples),
                self.encoder.max_length,
            )  # fmt: skip
        self._say_shorter(shorter, role, len(samples))
        return rows

    def with_options(self, rows: EncodedSamples, role: str) -> EncodedSamples:
        """The rows with their choices tokenised, if options are scored.

        A row is a bad row if it is too long with its longest choice.
        """
        if self._scoring == "generation":
            return rows
        found = EncodedSamples([], [], measure=self._scoring)
        bad: list[tuple[Sample, str]] = []
        shorter = 0
        choices = self.encoder.choice_ids(rows.samples)
        for given, whole, ids in zip(rows.samples, rows.encoded, choices, strict=True):
            sample, row = given, whole
            if ids:
                longest = replace(whole, answer_ids=max(ids, key=len))
                sample, row = self.encoder.fitted(given, longest)
                shorter += len(sample.turns) < len(given.turns)
                row = replace(row, answer_ids=whole.answer_ids)
            try:
                found.options.append(self.encoder.options(row, ids, sample.id))
                found.samples.append(sample)
                found.encoded.append(row)
            except TooLongError as error:
                bad.append((sample, f"with the longest of its choices, {error}"))
        self._settle_too_long(bad, f"{role} options", len(rows))
        self._say_shorter(shorter, f"{role} options", len(rows))
        if free := sum(not options for options in found.options):
            log.info("data.%s: %d of %d rows have no choices; their answers are generated", role, free, len(found))
        return found

    def ready(self, samples: Sequence[Sample], condition: Condition) -> EncodedSamples:
        """Tokenise samples that already have the instructions of a condition; also their options, if those are scored.

        Raises:
            ValueError: Options are scored, and no row has any.
        """
        role = f"test ({condition.name})"
        found = self.with_options(self.tokenised(samples, role), role)
        if self._scoring != "generation" and not any(found.options):
            raise ValueError(
                f"data.scoring: {self._scoring!r} chooses among the choices of rows, but none of the {len(found)} rows "
                "of data.test has any; expected rows with `choices`, or of classification or multiple choice, or the "
                "scoring 'generation'"
            )
        return found

    def _settle_too_long(self, bad: Sequence[tuple[Sample, str]], role: str, count: int) -> None:
        if not bad:
            return
        listed = "\n  ".join(text for _, text in bad[:_LISTED]) + ("\n  …" if len(bad) > _LISTED else "")
        message = f"data.{role}: {len(bad)} of {count} rows are too long:\n  {listed}"
        if self._on_bad_row == "strict" or len(bad) == count:
            raise TooLongError(message)
        log.warning(message)
        if self._rejected:
            file = self._rejected.with_name(f"{self._rejected.stem}-{role}-too-long{self._rejected.suffix}")
            write_rows(file, ({"id": sample.id, "problem": text} for sample, text in bad))

    def _say_shorter(self, shorter: int, role: str, count: int) -> None:
        if shorter:
            log.warning(
                "data.%s: the first turns of %d of %d rows were left out to fit max_length %d",
                role, shorter, count, self.encoder.max_length,
            )  # fmt: skip


def under_each(
    conditions: Sequence[Condition],
    under: Callable[[Condition], EncodedSamples],
    named: Collection[str] | None,
) -> dict[str, EncodedSamples]:
    """The rows under every condition that they can be asked under, by its name.

    One line of the log names all conditions that are left out, and the reasons.

    Args:
        conditions: The conditions of a test.
        under: Returns the rows with their instructions under a condition.
        named: Names of the conditions that must not be left out; null: all.

    Raises:
        LackingError: The rows lack what a condition in `named` needs, or what every condition needs.
    """
    found: dict[str, EncodedSamples] = {}
    lacking: dict[str, list[str]] = {}
    first: LackingError | None = None
    for condition in conditions:
        try:
            found[condition.name] = under(condition)
        except LackingError as error:
            if named is None or condition.name in named:
                raise
            first = first or error
            lacking.setdefault(error.reason, []).append(condition.name)
    if first is not None and not found:
        raise first
    if lacking:
        reasons = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in lacking.items())
        log.info("data.conditions: left out %s; name them in data.conditions to make this an error", reasons)
    return found


def check_askable(condition: Condition, samples: Sequence[Sample], bank_of: Callable[[Sample], str | None]) -> None:
    """Raise if samples cannot be asked under a condition.

    Raises:
        LackingError: The condition needs phrasings of a bank, and no sample has one.
        ValueError: The condition is an attack, which needs true answers, and samples bring none.
    """
    if condition.needs_bank and not any(map(bank_of, samples)):
        needed = "phrasings kept from training" if condition.split == "unseen" else "phrasings of a bank"
        raise LackingError(
            f"data.conditions: {condition.name!r} needs {needed}, but the rows bring their own instructions and "
            "name no bank; set data.bank, or remove the condition",
            "the rows bring their own instructions and name no bank (data.bank)",
        )
    if condition.attack is not None and (alone := [sample.id for sample in samples if not sample.target]):
        raise ValueError(
            f"data.conditions: {condition.name!r} searches for wrong answers, but {len(alone)} of {len(samples)} rows "
            f"bring no answer to compare with ({alone[0]}); expected rows with answers, or no attacks"
        )
