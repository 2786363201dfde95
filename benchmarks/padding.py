"""What padding costs a training step, and what saves it: `python -m benchmarks.padding`.

Trains a model made from scratch on rows of uneven lengths, in four ways: shuffled batches, batches of rows of similar
length (`data.group_by_length`), and both without padding (`loading.padding_free`). All ways run the same rows with the
project's own sampler. Of the batches of each way, some are timed: short, middle and long ones, evenly. The ways take
turns in every round, in an order that is shuffled each round, so that other load on the machine falls on all of them.
Prints medians over rounds of the CPU time for 1000 tokens that are no padding, as ratios to the first way; the share of
positions that are padding, in all batches; and the most memory above that of the loaded model in the longest batch,
each way in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.step import Size, lay_out
from robustlm.adversaries import NRM
from robustlm.batch import Encoded, InstructionBatch, collate
from robustlm.datamodules.sampling import StepSampler
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.tuning import LoRA
from robustlm.modules import ANIT, Alignment, Contrast, InstructionTuning, RobustTuning
from robustlm.optim.config import parameter_groups

LENGTHS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "mixed": ((20, 400), (1, 200)),
    "short": ((100, 250), (1, 20)),
    "equal": ((192, 192), (24, 24)),
}
"""Least and most tokens of prompts and of answers, by name; all lengths between are equally likely."""

METHODS: dict[str, Callable[[str, Loading, LoRA], InstructionTuning]] = {
    "plain": InstructionTuning,
    "nrm": partial(ANIT, adversary=NRM()),
    "all": partial(RobustTuning, adversary=NRM(), contrast=Contrast(), alignment=Alignment()),
}

WAYS: dict[str, tuple[bool, bool]] = {
    "shuffled, padded": (False, False),
    "similar length, padded": (True, False),
    "shuffled, padding-free": (False, True),
    "similar length, padding-free": (True, True),
}
"""Whether rows are grouped by length, and whether they run without padding."""


def draw_rows(kind: str, count: int, vocab: int) -> list[Encoded]:
    """Rows of random tokens; the first half of a prompt is the instruction."""
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        prompt, answer = (draw.randint(*range_) for range_ in LENGTHS[kind])
        rows.append(
            Encoded(
                prompt_ids=[draw.randrange(4, vocab) for _ in range(prompt)],
                instruction=[i < prompt // 2 for i in range(prompt)],
                context=[i >= prompt // 2 for i in range(prompt)],
                answer_ids=[draw.randrange(4, vocab) for _ in range(answer)],
            )
        )
    return rows


def batches_of(rows: list[Encoded], size: int, *, grouped: bool) -> list[InstructionBatch]:
    """All rows in batches; the variants are the rows themselves."""
    lengths, answers = [len(row) for row in rows], [row.trained for row in rows]
    keys = list(StepSampler(lengths, answers, batch_size=size, seed=0, group_by_length=grouped))
    found = []
    for key in keys:
        own = [rows[i] for i in key.indices]
        found.append(
            InstructionBatch(
                raw=collate(own, pad_id=0),
                ids=[str(i) for i in key.indices],
                variant=collate(own, pad_id=0),
                beta=torch.full((len(own),), 0.2),
                seeds=torch.tensor(key.indices),
                step_tokens=key.step_tokens,
            )
        )
    return found


def padding(batches: list[InstructionBatch]) -> float:
    """The share of positions that are padding."""
    layouts = [batch.raw.layout for batch in batches]
    return 1 - sum(sum(one.lengths) for one in layouts) / sum(len(one.lengths) * one.width for one in layouts)


class Trained:
    """A module with an optimiser, which trains in one of the ways."""

    def __init__(self, folder: str, method: str, rank: int) -> None:
        loading = Loading(scratch=True)
        torch.manual_seed(0)
        self.module = METHODS[method](folder, loading, LoRA(r=rank, alpha=rank, dropout=0.0))
        self.module.backbone.load()
        self._optimizer = torch.optim.AdamW(parameter_groups(self.module.backbone.base), lr=1e-4)

    def run(self, batches: list[InstructionBatch], *, padding_free: bool) -> Iterator[float]:
        """Train on batches one after another, and yield the CPU seconds of each."""
        backbone = self.module.backbone
        assert isinstance(backbone, Backbone)
        backbone._parts = replace(backbone.parts, padding_free=padding_free)
        for batch in batches:
            start = time.process_time()
            torch.autograd.backward(self.module.training_step(batch, 0))
            self._optimizer.step()
            self._optimizer.zero_grad()
            yield time.process_time() - start


def longest_first(batches: list[InstructionBatch]) -> list[InstructionBatch]:
    """The batches, those with most positions first."""
    return sorted(batches, key=lambda batch: -batch.raw.input_ids.numel())


def peak(folder: str, method: str, rank: int, rows: list[Encoded], size: int, way: str) -> float:
    """Most memory of two steps, in MiB, above that of the loaded model; to be run in a process of its own."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    grouped, padding_free = WAYS[way]
    trained, batches = Trained(folder, method, rank), batches_of(rows, size, grouped=grouped)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, which a new process has of its parent
    before = _memory("VmRSS")
    list(trained.run(longest_first(batches)[:2], padding_free=padding_free))
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    """A figure of Linux about this process, in MiB."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return int(line.split()[1]) / 1024


def measure(folder: str, args: argparse.Namespace, kind: str, method: str) -> str:
    """A table of the four ways, in Markdown."""
    rows = draw_rows(kind, args.rows * args.batches, args.vocab)
    trained = Trained(folder, method, args.rank)
    batches = {way: batches_of(rows, args.rows, grouped=grouped) for way, (grouped, _) in WAYS.items()}
    every = args.batches // args.timed
    timed = {way: longest_first(found)[every // 2 :: every][: args.timed] for way, found in batches.items()}
    tokens = {way: sum(sum(batch.raw.layout.lengths) for batch in found) for way, found in timed.items()}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    order, shuffle = list(WAYS), random.Random(1).shuffle
    for number in range(args.rounds + 1):
        shuffle(order)
        for way in order:
            chosen = timed[way] if number else timed[way][-1:]  # the first round only warms up
            took = sum(trained.run(chosen, padding_free=WAYS[way][1]))
            if number:
                times[way].append(1000 * took / tokens[way])
                print(f"{way}: {times[way][-1]:.3f} s for 1000 tokens", file=sys.stderr, flush=True)
    memory = {}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for way in WAYS:
            memory[way] = pool.apply(peak, (folder, method, args.rank, rows, args.rows, way))
    seconds = {way: statistics.median(found) for way, found in times.items()}
    first = next(iter(WAYS))
    lines = ["| batches | padding | CPU s / 1000 tokens | ÷ first | peak MiB | ÷ first |", "|---|---|---|---|---|---|"]
    for way, (_, padding_free) in WAYS.items():
        share = 0.0 if padding_free else padding(batches[way])
        lines.append(
            f"| {way} | {share:.0%} | {seconds[way]:.3f} | {seconds[way] / seconds[first]:.2f} | {memory[way]:.0f} | "
            f"{memory[way] / memory[first]:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for option, default, text in (
        ("vocab", 32_000, "tokens of the vocabulary"),
        ("hidden", 448, "width of the model, a multiple of 64"),
        ("layers", 6, "its layers"),
        ("rows", 8, "rows of a batch"),
        ("batches", 50, "batches of an epoch"),
        ("timed", 5, "batches of it that are timed"),
        ("rank", 8, "rank of the adapters"),
        ("rounds", 3, "how often they are timed"),
        ("threads", 1, "threads"),
    ):
        parser.add_argument(f"--{option}", type=int, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=["mixed", "short"], help="lengths of rows")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["plain"], help="what is trained")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", ".*self.log.*")  # there is no trainer to log to
    size = Size(args.vocab, args.hidden, args.layers, args.rows, 640, 24, args.rank)
    with tempfile.TemporaryDirectory() as folder:
        lay_out(folder, size)
        for kind in args.lengths:
            for method in args.methods:
                print(f"\n{kind}: {args.batches} batches of {args.rows} rows, {method}\n")
                print(measure(folder, args, kind, method), flush=True)


if __name__ == "__main__":
    main()
