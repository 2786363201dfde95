"""What training steps and answers cost in float32 and in bf16-mixed: `python -m benchmarks.precision`.

One model for all, made from scratch, with LoRA. Steps (forward, backward, optimiser) of some methods, and greedy
answers, run in each precision in every round, in an order that is shuffled each round, on one thread. Prints medians of
CPU time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from benchmarks.step import METHODS, PLAIN, Size, build, random_batch
from robustlm.batch import IGNORE
from robustlm.models.base import LanguageModel
from robustlm.optim.config import parameter_groups

FLOAT32, MIXED, ONCE = PRECISIONS = ("float32", "bf16-mixed", "bf16-mixed, cast once")
ANSWERS = "answers"
"""Greedy answers to the prompts of the batch, as long as its answers."""
Times = dict[tuple[str, str], float]
"""CPU seconds by what was run, and how."""


@contextmanager
def in_precision(name: str, backbone: LanguageModel) -> Iterator[None]:
    """Run a step, or an answer, in one of `PRECISIONS`."""
    if name == FLOAT32:
        yield
        return
    if name == ONCE:
        backbone.keep_casts(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield
    backbone.drop_casts()


class Bench:
    """The modules of some methods over one model, and a batch."""

    def __init__(self, size: Size) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.modules = build(folder, size, [m for m in METHODS if m.name in (PLAIN, "NRM", "CoIN", "KL")])
        self.backbone = self.modules[PLAIN].backbone
        self.optimizer = torch.optim.AdamW(parameter_groups(self.backbone.base), lr=1e-4)
        self.batch = random_batch(size)
        self.prompts = replace(self.batch.raw, labels=torch.full_like(self.batch.raw.labels, IGNORE))
        self.answer = size.answer

    def time(self, name: str, precision: str) -> float:
        """CPU seconds of a step, or of answers. Making and dropping the casts, once in a run, is not timed."""
        with in_precision(precision, self.backbone):
            began = time.process_time()
            if name == ANSWERS:
                self.backbone.generate(self.prompts, self.answer)
                return time.process_time() - began
            loss = self.modules[name].training_step(self.batch, 0)
            forward = time.process_time() - began
        began = time.process_time()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return forward + time.process_time() - began

    def precisions(self, rounds: int) -> Times:
        """Medians; the first round only warms up."""
        order = [(name, precision) for name in (*self.modules, ANSWERS) for precision in PRECISIONS]
        times: dict[tuple[str, str], list[float]] = {key: [] for key in order}
        for number in range(rounds + 1):
            for key in random.Random(number).sample(order, len(order)):
                found = self.time(*key)
                times[key] += [found] if number else []
        return {key: statistics.median(found) for key, found in times.items()}


def table(times: Times) -> str:
    """CPU time as a share of that of float32, in Markdown."""
    lines = ["| | CPU s, float32 | " + " | ".join(f"{one} ÷ float32" for one in PRECISIONS[1:]) + " |"]
    lines.append("|---" * (1 + len(PRECISIONS)) + "|")
    for name in dict.fromkeys(name for name, _ in times):
        base = times[name, FLOAT32]
        shares = " | ".join(f"{times[name, one] / base:.2f}" for one in PRECISIONS[1:])
        lines.append(f"| {name} | {base:.3f} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for option, default, text in (
        ("vocab", 32_000, "tokens of the vocabulary"),
        ("hidden", 384, "width of the model, a multiple of 64"),
        ("layers", 8, "its layers"),
        ("rows", 8, "rows of a batch"),
        ("tokens", 192, "tokens of a row, answer included"),
        ("answer", 24, "answer tokens of a row"),
        ("rank", 8, "rank of the adapters"),
        ("rounds", 5, "steps of each kind that are timed"),
    ):
        parser.add_argument(f"--{option}", type=int, default=default, help=f"{text} (%(default)s)")
    args = vars(parser.parse_args())
    torch.set_num_threads(1)
    rounds = args.pop("rounds")
    warnings.filterwarnings("ignore", ".*self.log.*")  # there is no trainer to log to
    size = Size(**args)
    print(f"{size.rows} rows × {size.tokens} tokens, {size.answer} of them answer")
    print(table(Bench(size).precisions(rounds)))


if __name__ == "__main__":
    main()
