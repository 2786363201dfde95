"""How near a training step comes to what this processor can do: `python -m benchmarks.roofline`.

Measures the rate of a large matrix product and of a large copy, counts the operations and the bytes of a step with
`robustlm plan`'s tracer, and times the step. All take turns, in CPU time of one thread. `--seconds` bounds the CPU time
of all rounds, so the command ends on a slow or busy machine too. There are two floors: the time that the operations
take at the rate of the product, and the time that the bytes take at the rate of the copy. A step cannot be faster than
the larger one. Bytes are those that PyTorch's operations read and write one after the other; caches and fused kernels
need fewer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence

import torch

from benchmarks.plan import SIZES, Case, module_of, plan_of, shape_of
from benchmarks.step import Size, lay_out
from robustlm.planning.step import fresh, precision_plugin, trace_step

METHODS = ("plain", "FGM", "NRM", "NRM + CoIN + KL")
WIDTH = 2048
"""Of the matrices whose product is measured."""
COPIED = 2**28
"""Bytes of the copy; far more than caches hold."""


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def step_of(case: Case, folder: str) -> Callable[[], object]:
    """One optimiser step of a case on real tensors."""
    module = module_of(case, folder)
    module.configure_model()
    plugin = precision_plugin(case.precision)
    plugin.convert_module(module)
    if case.precision == "bf16-mixed":
        module.backbone.keep_casts(torch.bfloat16)
    optimizer = module.optimizer.build(module.optimizer_groups())
    batch = shape_of(case).batch()

    def step() -> None:
        with plugin.forward_context():
            loss = module.training_step(batch, 0)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def rounds_within(runs: Sequence[Callable[[], object]], rounds: int, budget: float) -> list[list[float]]:
    """CPU seconds of every run in every round. The first round warms up and does not count.

    Args:
        runs: What takes turns.
        rounds: Most rounds that count.
        budget: CPU seconds. After the first round that counts, none begins that would not end within them.
    """
    began = time.process_time()
    times: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + 1):
        spent = time.process_time() - began
        if number > 1 and spent * (number + 1) / number > budget:
            break
        found = [seconds(run) for run in runs]
        if number:
            for one, kept in zip(found, times, strict=True):
                kept.append(one)
    return times


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="most rounds that are measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=120, help="CPU seconds of all rounds (%(default)s)")
    parser.add_argument("--hidden", type=int, default=512, help="width of the model (%(default)s)")
    args = parser.parse_args(argv)
    for name in ("rounds", "seconds"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name}: found {getattr(args, name):g}; expected a number above 0")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    size = Size(vocab=8000, hidden=args.hidden, layers=4, rows=4, tokens=192, answer=24, rank=8)
    SIZES["wide"] = size
    cases = [Case(name, precision=kind) for kind in ("32-true", "bf16-mixed") for name in METHODS]
    with tempfile.TemporaryDirectory() as folder:
        lay_out(folder, size)
        traces = [trace_step(fresh(plan_of(one, folder).module), shape_of(one), one.precision).trace for one in cases]
        steps = [step_of(one, folder) for one in cases]
    kinds = (torch.float32, torch.bfloat16)
    squares = [torch.randn(WIDTH, WIDTH, dtype=kind) for kind in kinds]
    source, target = torch.ones(COPIED, dtype=torch.uint8), torch.empty(COPIED, dtype=torch.uint8)
    runs: list[Callable[[], object]] = [
        *(lambda one=one: one @ one for one in squares), lambda: target.copy_(source), *steps
    ]  # fmt: skip
    times = rounds_within(runs, args.rounds, args.seconds)
    wide, narrow, copy, *taken = map(statistics.median, times)
    rates = {"32-true": 2 * WIDTH**3 / wide, "bf16-mixed": 2 * WIDTH**3 / narrow}
    bandwidth = 2 * COPIED / copy
    peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in rates.items())
    print(
        f"products: {peaks}; copy: {bandwidth / 1e9:.1f} GB/s; {torch.backends.cpu.get_cpu_capability()}; "
        f"{size.rows} × {size.tokens} tokens, width {size.hidden}; medians of {len(times[0])} rounds\n"
    )
    print("| step | GFLOP | GB | s | floor by operations, s | floor by bytes, s | s ÷ larger floor |")
    print("|---|---|---|---|---|---|---|")
    for case, trace, median in zip(cases, traces, taken, strict=True):
        products, moved = trace.operations / rates[case.precision], trace.traffic / bandwidth
        print(
            f"| {case.method}, {case.precision} | {trace.operations / 1e9:.1f} | {trace.traffic / 1e9:.2f} "
            f"| {median:.3f} | {products:.3f} | {moved:.3f} | {median / max(products, moved):.2f} |"
        )


if __name__ == "__main__":
    main()
