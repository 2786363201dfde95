"""Runs the search of `robustlm.conditions.search` on the model under test, to find instructions that it fails under."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from robustlm.conditions.manifest import AttackKey, Manifest, read_attacks, transferred
from robustlm.conditions.model import Judge
from robustlm.conditions.recipes import Attack
from robustlm.conditions.search import Attacked, Edits, Objective, Search, attack
from robustlm.datamodules.batches import EncodedSamples, EvaluationDataset
from robustlm.datamodules.preparation import Scoring
from robustlm.datamodules.sampling import BatchKey
from robustlm.instructions.slots import defused
from robustlm.noise.base import word_budget
from robustlm.noise.pools import slots_of
from robustlm.noise.protection import Guard
from robustlm.prompts.encoding import Encoder, TooLongError
from robustlm.sample import Sample
from robustlm.utils.words import is_unspaced, split_words


@dataclass
class Attacks:
    """How conditions `attack:<recipe>@<ω>` search for the edits of an instruction that hurt the model."""

    samples: int = 16
    """Number of samples that an instruction is searched on: the first ones in the seeded order."""
    budget: int = 100
    """Maximum number of texts tried for an instruction, each on all these samples. The unmodified instruction counts
    too, as do the texts by which `search: greedy` ranks words."""
    candidates: int = 12
    """Maximum number of replacements tried for a word."""
    objective: Objective = "likelihood"
    """What the search lowers. `likelihood`: the probability of the true answers, per token, or among the options where
    options are scored. `accuracy`: the share of right answers; it generates answers for each text. Hosted models always
    use `accuracy`."""
    search: Search = "bayesian"
    """How texts are chosen. `bayesian`: random edits first; then, until the budget is used up, those for which a model
    of the scores so far predicts low ones. `random`: random edits alone, to compare with. `greedy`: one word after
    another, which is cheaper and finds less."""
    transfer: str | None = None
    """An `attacks.jsonl` of another run, such as one on another model. Its attacks on the same instructions by the same
    recipe are tried first, within the budget, and the search goes on from them."""
    reuse: str | None = None
    """An `attacks.jsonl` of another run. Its instructions are asked and nothing is searched, which measures how attacks
    on one model transfer to another."""

    def __post_init__(self) -> None:
        for name in ("samples", "budget", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.attack.{name}: found {getattr(self, name)}; expected ≥ 1")
        for name, kind in (("objective", Objective), ("search", Search)):
            if getattr(self, name) not in get_args(kind):
                known = " or ".join(get_args(kind))
                raise ValueError(f"data.attack.{name}: found {getattr(self, name)!r}; expected {known}")
        for name, path in self.files.items():
            if not Path(path).is_file():
                raise ValueError(f"data.attack.{name}: found no file {path}; expected the attacks.jsonl of another run")
        if len(self.files) > 1:
            raise ValueError(
                "data.attack.transfer: found a file beside data.attack.reuse, which searches nothing; expected one of "
                "the two"
            )

    @property
    def files(self) -> dict[str, str]:
        """Files of other runs, by the name of their setting."""
        return {name: path for name in ("transfer", "reuse") if (path := getattr(self, name)) is not None}


class Asked:
    """Scores a model on a fixed set of samples under any instruction.

    Rows are sorted by length, longest first, so a batch holds rows of similar length. Ranks take batches in turn. All
    ranks must ask for the same texts, and all get the same numbers.

    Args:
        samples: The samples.
        encoder: Writes prompts.
        judge: The model.
        batch_size: Rows in a batch.
        scoring: How answers are found.
        rank: Rank of this process.
        world: Number of processes.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        encoder: Encoder,
        judge: Judge,
        *,
        batch_size: int,
        scoring: Scoring = "generation",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.samples = samples
        self._encoder = encoder
        self._judge = judge
        self._size = batch_size
        self._scoring: Scoring = scoring
        self._rank = rank
        self._world = world
        self.tried: Callable[[int], None] = lambda count: None
        """Called with the number of texts that were tried."""
        self.rows = 0
        """Number of rows that the model was run on, over all ranks. A row with its options counts once."""

    def scores(self, texts: Sequence[str], objective: Objective) -> list[float]:
        """Mean score over the samples for each text; infinite if a sample does not fit into `max_length` with it."""
        return [_mean(values) for values in self.each(texts, objective)]

    def each(self, texts: Sequence[str], objective: Objective) -> list[list[float]]:
        """The score of each sample for each text; empty if a sample does not fit into `max_length` with the text."""
        self.tried(len(texts))
        rows, owners = EncodedSamples([], []), []
        for at, text in enumerate(texts):
            if (own := self._under(text)) is not None:
                rows.add(own)
                owners += [at] * len(own)
        self.rows += len(rows)
        values: list[list[float]] = [[] for _ in texts]
        for at, value in zip(owners, self._judged(rows, objective), strict=True):
            values[at].append(value)
        return values

    def encoded(self, text: str) -> EncodedSamples:
        """The samples, tokenised with this text as their instruction. Raises `TooLongError`."""
        samples = [replace(sample, instruction=text) for sample in self.samples]
        rows = EncodedSamples(samples, self._encoder.encode(samples))
        if self._scoring != "generation":
            rows.measure = self._scoring
            choices = self._encoder.choice_ids(samples)
            rows.options = [
                self._encoder.options(row, ids, sample.id)
                for sample, row, ids in zip(samples, rows.encoded, choices, strict=True)
            ]
        return rows

    def _under(self, text: str) -> EncodedSamples | None:
        try:
            return self.encoded(text)
        except TooLongError:
            return None

    def _judged(self, rows: EncodedSamples, objective: Objective) -> list[float]:
        lengths = rows.lengths
        order = sorted(range(len(rows)), key=lambda row: -lengths[row])
        batches = [order[at : at + self._size] for at in range(0, len(order), self._size)]
        asked = EvaluationDataset(rows, self._encoder, "attack", self._size)
        found: dict[int, float] = {}
        for batch in batches[self._rank :: self._world]:
            found |= dict(zip(batch, self._judge(asked[BatchKey(0, tuple(batch))], objective), strict=True))
        if self._world > 1:
            asked_for = list(dict.fromkeys(sample.instruction for sample in rows.samples))
            shares: list[tuple[list[str], dict[int, float]]] = [([], {}) for _ in range(self._world)]
            torch.distributed.all_gather_object(shares, (asked_for, found))
            if any(texts != asked_for for texts, _ in shares):
                raise RuntimeError(
                    "attack: processes search for different texts, so their scores cannot be put together; expected "
                    "the same weights, data, settings and version of numpy in each process"
                )
            found = {row: value for _, share in shares for row, value in share.items()}
        return [found[row] for row in range(len(rows))]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.inf


@dataclass(frozen=True)
class Found:
    """The result of an attack on one instruction, and how many samples the model answers right."""

    attacked: Attacked
    right: tuple[int, int]
    """Number of samples answered right, before and after the attack."""
    succeeded: int
    """Number of samples answered right before the attack and wrong after it."""


def search(
    text: str,
    how: Attack,
    phrases: Sequence[str],
    asked: Asked,
    settings: Attacks,
    *,
    objective: Objective,
    seed: int,
    starts: Sequence[Edits] = (),
) -> Found:
    """Attack one instruction on a set of samples.

    If the model already answers all samples wrong under the unmodified instruction, the instruction is not changed. A
    greedy search also ends when the model answers none of the samples right, which is checked after each edit that is
    kept. The other searches go on: a lower likelihood also makes more of the samples wrong that are not searched on.
    These checks do not count as queries.

    Args:
        text: The instruction.
        how: The recipe, and the share of unprotected words that may change.
        phrases: Protected phrases, from `protected_phrases`.
        asked: Scores the model on the samples.
        settings: Budgets, and how to search.
        objective: What the search lowers.
        seed: Seed of the run.
        starts: Edits of attacks on other models, to be tried first.
    """
    slots = slots_of(asked.samples[0])
    guard = Guard(text, phrases, slots)
    words = split_words(text)
    right: dict[str, list[float]] = {}

    def written(line: str) -> str:
        # where each character is a word, the search has already joined the line correctly
        return line if line == text or is_unspaced(text) or is_unspaced(line) else guard.joined(line.split())

    def propose(found: Sequence[str], place: int) -> list[str]:
        return [defused(one, slots) for one in how.candidates(words, place, seed=seed, most=settings.candidates)]

    def score(lines: Sequence[str]) -> list[float]:
        found = asked.each([written(line) for line in lines], objective)
        if objective == "accuracy":
            right.update(zip(lines, found, strict=True))
        return list(map(_mean, found))

    def answered(line: str) -> list[float]:
        if line not in right:
            right[line] = asked.each([written(line)], "accuracy")[0]
        return right[line]

    found = attack(
        text,
        propose,
        score,
        edits=word_budget(len(guard.words), how.omega),
        budget=settings.budget,
        protected=set(range(len(words))).difference(guard.places),
        allowed=lambda found: guard.keeps(list(found)),
        search=settings.search,
        starts=starts,
        seed=seed,
        stop_at=0.0 if objective == "accuracy" else float("-inf"),
        ended=lambda line: (line == text or settings.search == "greedy") and not any(answered(line)),
    )
    before, after = answered(text), answered(found.text)
    return Found(
        replace(found, text=written(found.text)),
        (sum(map(bool, before)), sum(map(bool, after))),
        sum(bool(a) and not b for a, b in zip(before, after, strict=True)),
    )


class SearchBar:
    """Progress bar of the search for attacks: the share of all budgets that is used, and the time left.

    The time left is an upper bound, since many searches end before their budget is used up.

    Args:
        instructions: Number of instructions to search.
        budget: Maximum number of texts tried for each instruction.
        shown: Whether to show the bar. Without it, lines are still printed.
    """

    def __init__(self, instructions: int, budget: int, *, shown: bool) -> None:
        self._instructions = instructions
        self._budget = budget
        self._finished = self._within = 0
        self._bar = tqdm(
            total=instructions * budget,
            desc=self._said,
            disable=not shown or not instructions,
            dynamic_ncols=True,
            file=sys.stdout,
            smoothing=0,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, at most {remaining} left",
        )

    @property
    def _said(self) -> str:
        return f"attacks: {self._finished} of {self._instructions} instructions"

    def tried(self, count: int) -> None:
        """Advance the bar by `count` texts that were tried for the current instruction."""
        step = min(count, self._budget - self._within)
        self._within += step
        self._bar.update(step)

    def ended(self, line: str) -> None:
        """Finish the current instruction and print `line`, unless it is empty."""
        self._bar.update(self._budget - self._within)
        self._finished, self._within = self._finished + 1, 0
        self._bar.set_description_str(self._said, refresh=False)
        if line:
            self._bar.write(line, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()


class Attacker:
    """Attacks one instruction after another; takes known results from this run or from a run on another model.

    Args:
        settings: How to search.
        asked: Makes an `Asked` from samples.
        objective: What the search lowers.
        seed: Seed of the run.
        made: What all searches of the run depend on, such as the model's weights.
        known: Attacks of this run that were found before it was interrupted.
        manifest: File that attacks are written to; null in processes that write nothing.
        folder: Path of the file that `known` comes from, for messages.
        bar: Progress bar of the search.
    """

    def __init__(
        self,
        settings: Attacks,
        asked: Callable[[Sequence[Sample]], Asked],
        *,
        objective: Objective,
        seed: int,
        made: object,
        known: dict[AttackKey, dict[str, object]],
        manifest: Manifest | None = None,
        folder: Path | None = None,
        bar: SearchBar | None = None,
    ) -> None:
        self._settings = settings
        self._asked = asked
        self._objective: Objective = objective
        self._seed = seed
        self._made = made
        self._known = known
        self._manifest = manifest
        self._folder = folder
        self._bar = SearchBar(0, settings.budget, shown=False) if bar is None else bar
        self._reused = read_attacks(Path(settings.reuse)) if settings.reuse else None
        self._starts = transferred(Path(settings.transfer)) if settings.transfer else {}
        self._tallies: dict[str, _Tally] = {}
        self.searched = self.queries = self.rows = self.never_right = self.transferred = 0

    def text(self, key: AttackKey, how: Attack, samples: Sequence[Sample], phrases: Sequence[str]) -> str:
        """The attacked text of an instruction.

        Args:
            key: Names the attack.
            how: The recipe, and the share of unprotected words that may change.
            samples: All samples that are asked with the instruction; the search uses the first ones.
            phrases: Protected phrases of the instruction.

        Raises:
            ValueError: The known attack was found on another model or with other settings, or `reuse` names a file
                that does not hold the attack.
        """
        if self._reused is not None:
            return self._from_other(key, samples[0].instruction, self._reused)
        asked = self._asked(samples[: self._settings.samples])
        starts = self._starts.get((how.recipe, samples[0].instruction), [])
        made = self._identity(key, asked, phrases, starts)
        if key in self._known:
            if self._known[key].get("made") != made:
                raise ValueError(
                    f"predictions.resume: the attack {_named(key)} in {self._folder} was found on another model, on "
                    "other rows or with other settings; expected the model, rows and settings of the first run"
                )
            self._count(self._known[key])
            return str(self._known[key]["after"])
        before = samples[0].instruction
        asked.tried = self._bar.tried
        self.transferred += bool(starts)
        found = search(
            before, how, phrases, asked, self._settings, objective=self._objective, seed=self._seed, starts=starts
        )
        self._note(key, before, found, asked, made)
        return found.attacked.text

    def summary(self) -> list[str]:
        """A sentence for each condition about the attacks that this run searched, also before it was interrupted."""
        return [_summary(condition, tally, self._settings.search) for condition, tally in self._tallies.items()]

    def _count(self, line: Mapping[str, object]) -> None:
        known = self._tallies.get(str(line["condition"]), _Tally())
        right, succeeded, queries = (int(str(line[name])) for name in ("right_before", "succeeded", "queries"))
        self._tallies[str(line["condition"])] = _Tally(
            known.attacks + 1, known.right + right, known.succeeded + succeeded, known.queries + queries
        )

    def _from_other(self, key: AttackKey, before: str, lines: dict[AttackKey, dict[str, object]]) -> str:
        if key not in lines:
            raise ValueError(
                f"data.attack.reuse: {self._settings.reuse} holds no attack {_named(key)}; expected the attacks of a "
                "run with the same data, conditions and prompts"
            )
        line = lines[key]
        if line["before"] != before:
            raise ValueError(
                f"data.attack.reuse: {self._settings.reuse}: {_named(key)}: found an attack on {line['before']!r}; "
                f"expected one on {before!r}"
            )
        if self._manifest is not None and key not in self._known:
            self._manifest.add({**line, "reused": self._settings.reuse})
        return str(line["after"])

    def _note(self, key: AttackKey, before: str, found: Found, asked: Asked, made: str) -> None:
        attacked, count = found.attacked, len(asked.samples)
        self.searched += 1
        self.never_right += not found.right[0]
        self.queries += attacked.queries
        self.rows += asked.rows
        line = {
            **dict(zip(("condition", "dataset", "instruction_id", "sample_id"), key, strict=True)),
            "before": before,
            "after": attacked.text,
            "edits": [asdict(edit) for edit in attacked.edits],
            "objective": self._objective,
            "score_before": attacked.clean,
            "score_after": attacked.score,
            "right_before": found.right[0],
            "right_after": found.right[1],
            "succeeded": found.succeeded,
            "samples": [sample.id for sample in asked.samples],
            "search": self._settings.search,
            "queries": attacked.queries,
            "rows": asked.rows,
            "made": made,
        }
        self._count(line)
        if self._manifest is None:
            self._bar.ended("")
            return
        self._manifest.add(line)
        changed = ", ".join(f"{edit.before} → {edit.after}" for edit in attacked.edits) or "none"
        self._bar.ended(
            f"{_named(key)}: right {found.right[0]} → {found.right[1]} of {count}, "
            f"{self._objective} {attacked.clean:.3f} → {attacked.score:.3f}, words changed: {changed}; "
            f"{self._settings.search} search, queries: {attacked.queries}, rows: {asked.rows}"
        )

    def _identity(self, key: AttackKey, asked: Asked, phrases: Sequence[str], starts: Sequence[Edits]) -> str:
        """Hash of everything that a search depends on."""
        rows = asked.encoded(asked.samples[0].instruction)
        ids = [
            (sample.id, row.prompt_ids, row.answer_ids) for sample, row in zip(rows.samples, rows.encoded, strict=True)
        ]
        settings = replace(self._settings, reuse=None, transfer=None)  # what is in the file counts, not its path
        parts = (self._made, key, settings, self._objective, self._seed, sorted(phrases), ids, starts)
        return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Tally:
    """Sums over the attacks of a condition."""

    attacks: int = 0
    right: int = 0
    succeeded: int = 0
    queries: int = 0


def _summary(condition: str, tally: _Tally, how: Search) -> str:
    rate = f"success rate {100 * tally.succeeded / tally.right:.1f} %" if tally.right else "no success rate"
    return (
        f"{condition}: {rate} ({tally.succeeded} of {tally.right} right answers on the rows searched on), "
        f"{tally.queries / tally.attacks:.0f} queries an instruction, {how} search"
    )


def _named(key: AttackKey) -> str:
    condition, dataset, instruction, sample = key
    return f"{condition} of {dataset}, instruction {instruction if sample is None else sample}"
