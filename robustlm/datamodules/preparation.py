"""Steps between reading and batching samples: tokenise, fit into the length limit, apply conditions."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from robustlm.batch import Encoded
from robustlm.checks.choices import check_choice
from robustlm.checks.numbers import check_number
from robustlm.conditions.condition import Condition
from robustlm.datamodules.batches import EncodedSamples
from robustlm.instructions.banks import LackingError
from robustlm.prompts.encoding import Encoder, TooLongError
from robustlm.rows.writers import write_rows
from robustlm.sample import Sample

log = logging.getLogger(__name__)

Scoring = Literal["generation", "options", "acc", "acc_norm", "acc_bytes"]
"""How answers are found in evaluation: generated, or chosen among a row's choices by one of `Measure`."""
_MOST_DRAWS = 10_000
"""Guards against a typing error that would ask for days."""
_LISTED = 20
_TOGETHER = 256
"""Samples that are tokenised in one call. The limit saves memory: the tokenizer's result is many times larger than the
rows that are kept."""


def check_scoring(scoring: Scoring, draws: int) -> None:
    """Raise `ValueError` if the way to find answers is unknown, or cannot find several to one question."""
    check_number("data.draws", draws, least=1, most=_MOST_DRAWS, whole=True)
    if draws > 1 and scoring != "generation":
        raise ValueError(
            f"data.draws: found {draws} with data.scoring {scoring!r}, whose likelihoods are the same each time; "
            "expected 1, or data.scoring generation"
        )
    check_choice("data.scoring", scoring, get_args(Scoring))


@dataclass
class Tokenised:
    """What happened to samples when they were tokenised."""

    count: int = 0
    """Number of samples."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """Id and problem of each sample that is too long."""
    cut: int = 0
    """Number of samples whose context was cut, bad ones included."""
    shorter: int = 0
    """Number of chats whose first turns were left out."""

    def add(self, other: Tokenised) -> None:
        """Add what happened to further samples."""
        self.count += other.count
        self.bad += other.bad
        self.cut += other.cut
        self.shorter += other.shorter


def _too_long(bad: Sequence[tuple[str, str]], role: str, count: int) -> str:
    listed = "\n  ".join(text for _, text in bad[:_LISTED]) + ("\n  …" if len(bad) > _LISTED else "")
    return f"data.{role}: {len(bad)} of {count} rows are too long:\n  {listed}"


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
        return self.say_hidden(self.count_hidden(samples), role)

    def count_hidden(self, samples: Sequence[Sample]) -> Counter[tuple[str, str]]:
        """Count rows by dataset and by part that the template does not show."""
        return Counter(
            (sample.dataset or sample.task, part) for sample in samples for part in self.encoder.template.hides(sample)
        )

    def say_hidden(self, counts: Mapping[tuple[str, str], int], role: str) -> list[str]:
        """Lines about the counts of `count_hidden`."""
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
        rows, found = self.fit_all(samples)
        self.say_tokenised(found, role)
        return rows

    def fit_all(self, samples: Sequence[Sample]) -> tuple[EncodedSamples, Tokenised]:
        """Tokenise samples, and leave out those that are too long."""
        kept: list[Sample] = []
        encoded: list[Encoded] = []
        lengths = array("q")
        found = Tokenised(len(samples))
        for start in range(0, len(samples), _TOGETHER):
            part = samples[start : start + _TOGETHER]
            for given, whole in zip(part, self.encoder.encode_untruncated(part), strict=True):
                sample, row = self.encoder.fitted(given, whole)
                found.shorter += len(sample.turns) < len(given.turns)
                found.cut += self.encoder.excess(row) > 0
                try:
                    encoded.append(self.encoder.truncate(row, sample.id))
                    kept.append(sample)
                    lengths.append(len(row.prompt_ids))
                except TooLongError as error:
                    found.bad.append((sample.id, str(error)))
        return EncodedSamples(kept, encoded, prompt_lengths=lengths), found

    def say_tokenised(self, found: Tokenised, role: str) -> None:
        """Log which rows were cut or left out.

        Raises:
            TooLongError: See `tokenised`.
        """
        self._settle_too_long(found.bad, role, found.count)
        if found.cut > len(found.bad):
            log.warning(
                "data.%s: the context of %d of %d rows was cut to max_length %d", role, found.cut - len(found.bad),
                found.count, self.encoder.max_length,
            )  # fmt: skip
        self._say_shorter(found.shorter, role, found.count)

    def with_options(self, rows: EncodedSamples, role: str) -> EncodedSamples:
        """The rows with their choices tokenised, if options are scored.

        A row is a bad row if it is too long with its longest choice.
        """
        if self._scoring == "generation":
            return rows
        found = EncodedSamples([], [], measure=self._scoring)
        bad: list[tuple[str, str]] = []
        shorter = 0
        samples, encoded, lengths = list[Sample](), list[Encoded](), array("q")
        choices = self.encoder.choice_ids(rows.samples)
        for given, whole, ids, length in zip(rows.samples, rows.encoded, choices, rows.prompt_lengths, strict=True):
            sample, row = given, whole
            if ids:
                longest = replace(whole, answer_ids=max(ids, key=len))
                sample, row = self.encoder.fitted(given, longest)
                shorter += len(sample.turns) < len(given.turns)
                row = replace(row, answer_ids=whole.answer_ids)
            try:
                found.options.append(self.encoder.options(row, ids, sample.id))
                samples.append(sample)
                encoded.append(row)
                lengths.append(length if sample is given else len(row.prompt_ids))
            except TooLongError as error:
                bad.append((sample.id, f"with the longest of its choices, {error}"))
        found.samples, found.encoded, found.prompt_lengths = samples, encoded, lengths
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

    def check_too_long(self, found: Tokenised, role: str) -> None:
        """Raise `TooLongError` if rows are too long and `on_bad_row` is `strict`, or all rows are too long."""
        if found.bad and (self._on_bad_row == "strict" or len(found.bad) == found.count):
            raise TooLongError(_too_long(found.bad, role, found.count))

    def _settle_too_long(self, bad: Sequence[tuple[str, str]], role: str, count: int) -> None:
        self.check_too_long(Tokenised(count, list(bad)), role)
        if not bad:
            return
        log.warning(_too_long(bad, role, count))
        if self._rejected:
            file = self._rejected.with_name(f"{self._rejected.stem}-{role}-too-long{self._rejected.suffix}")
            write_rows(file, ({"id": id, "problem": text} for id, text in bad))

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
