"""Few-shot examples: choose the solved rows that a prompt shows before its question."""

from __future__ import annotations

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from robustlm.instructions.slots import OPTIONS
from robustlm.sample import Sample
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)

Pool = tuple[str, str]
"""Dataset and topic: rows that share both are shown the same examples."""


def pool_of(sample: Sample) -> Pool:
    """The pool that the examples of a row are drawn from."""
    return sample.dataset or sample.task, sample.topic


def input_of(sample: Sample) -> str:
    """The input of a row in a normal form: equal for rows that differ only in case, white space and Unicode form.

    The input is question and text, or the fields if both are empty, plus the row's own instruction, if it has one, and
    earlier turns. Options are left out: the same question with other options counts as the same input.
    """
    context = sample.context
    given = [context.question, context.text]
    if not any(given):
        given = [text for name, text in sample.fields if name != OPTIONS]
    own = sample.instruction if not (sample.bank or sample.instruction_id) else ""
    said = [text for turn in (*sample.history, *sample.since) for text in turn[1:]]
    texts = (unicodedata.normalize("NFKC", text).casefold() for text in (own, *given, *said))
    return "\0".join("".join(text.split()) for text in texts)


@dataclass(frozen=True, slots=True)
class Examples:
    """The example rows of each pool, in the order in which they are shown."""

    by_pool: dict[Pool, tuple[Sample, ...]]

    def of(self, sample: Sample) -> tuple[Sample, ...]:
        """The examples of a row."""
        return self.by_pool[pool_of(sample)]


def choose(given: Sequence[Sample], pools: Iterable[Pool], tested: Collection[str], shots: int, seed: int) -> Examples:
    """Choose the examples of every pool.

    Rows are drawn by a hash of seed and id, so the examples for fewer `shots` are a subset of those for more, in the
    same order. If all rows of a pool have choices, answers are balanced: by label if the rows share their choices, else
    by place (first, second, …). The counts of two answers differ by at most one, as long as there are enough rows.

    Args:
        given: Rows to choose from.
        pools: The pools that need examples.
        tested: `input_of` of every test row; rows with such an input are left out, and a warning is logged.
        shots: Number of examples for each pool.
        seed: Seed of the draw.

    Raises:
        ValueError: A pool has fewer rows than `shots`; the message says how many, and how many were left out.
    """
    free: dict[Pool, list[Sample]] = defaultdict(list)
    leaked: dict[Pool, int] = defaultdict(int)
    for sample in given:
        if input_of(sample) in tested:
            leaked[pool_of(sample)] += 1
        else:
            free[pool_of(sample)].append(sample)
    wanted = sorted(set(pools))
    if count := sum(leaked[pool] for pool in wanted):
        log.warning("data.examples: left out %d rows whose input also occurs in data.test", count)
    return Examples({pool: _drawn(pool, free, leaked[pool], shots, seed) for pool in wanted})


def _drawn(pool: Pool, free: dict[Pool, list[Sample]], leaked: int, shots: int, seed: int) -> tuple[Sample, ...]:
    rows = sorted(free.get(pool, ()), key=lambda sample: drawn(seed, "example", sample.id))
    if len(rows) < shots:
        dataset, topic = pool
        of = f"the dataset {dataset!r}" + (f" and the topic {topic!r}" if topic else "")
        left_out = f" besides {leaked} that were left out, as their input also occurs in data.test" if leaked else ""
        others = sorted({name for name, _ in free} - {dataset})
        hint = f"; there are some of {', '.join(others)}, which `name` of a source renames" if others else ""
        raise ValueError(
            f"data.examples: found {len(rows)} rows for {of}{left_out}; expected {shots} or more (data.shots)"
            + ("" if rows else hint)
        )
    chosen = _in_turn(rows, pool, seed)[:shots]
    # reorder: if answers alternated, the examples would reveal the next answer
    return tuple(sorted(chosen, key=lambda sample: drawn(seed, "place", sample.id)))


def _in_turn(rows: list[Sample], pool: Pool, seed: int) -> list[Sample]:
    """Order rows so that their answers alternate; rows with the same answer keep their order."""
    if not all(sample.choices for sample in rows):
        return rows
    shared = len({frozenset(sample.choices) for sample in rows}) == 1
    by_answer: dict[str, list[Sample]] = defaultdict(list)
    for sample in rows:
        by_answer[sample.target if shared else str(sample.choices.index(sample.target))].append(sample)
    answers = sorted(by_answer, key=lambda answer: drawn(seed, f"answer of {pool}", answer))
    longest = max(map(len, by_answer.values()))
    return [by_answer[answer][i] for i in range(longest) for answer in answers if i < len(by_answer[answer])]
