"""How near a training step comes to what this processor can do: `python benchmarks/roofline.py`.

Measures the rate of a large matrix product and of a large copy, counts the operations and the bytes of a step with
`robustlm plan`'s tracer, and times the step. All take turns, in CPU time of one thread. The floor is the larger of the
time that the operations take at the rate of the product, and the time that the bytes take at the rate of the copy.
Bytes are those that PyTorch's operations read and write one after the other; caches and fused kernels need fewer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

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


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the first warms up (%(default)s)")
    parser.add_argument("--hidden", type=int, default=512, help="width of the model (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    SIZES["wide"] = Size(vocab=8000, hidden=args.hidden, layers=4, rows=4, tokens=192, answer=24, rank=8)
    cases = [Case(name, precision=kind) for kind in ("32-true", "bf16-mixed") for name in METHODS]
    with tempfile.TemporaryDirectory() as folder:
        lay_out(folder, SIZES["wide"])
        traces = [trace_step(fresh(plan_of(one, folder).module), shape_of(one), one.precision).trace for one in cases]
        steps = [step_of(one, folder) for one in cases]
    kinds = (torch.float32, torch.bfloat16)
    squares = [torch.randn(WIDTH, WIDTH, dtype=kind) for kind in kinds]
    source, target = torch.ones(COPIED, dtype=torch.uint8), torch.empty(COPIED, dtype=torch.uint8)
    runs: list[Callable[[], object]] = [
        *(lambda one=one: one @ one for one in squares), lambda: target.copy_(source), *steps
    ]  # fmt: skip
    times: list[list[float]] = [[] for _ in runs]
    for number in range(args.rounds + 1):
        for run, found in zip(runs, times, strict=True):
            spent = seconds(run)
            if number:
                found.append(spent)
    wide, narrow, copy, *taken = map(statistics.median, times)
    rates = {"32-true": 2 * WIDTH**3 / wide, "bf16-mixed": 2 * WIDTH**3 / narrow}
    bandwidth = 2 * COPIED / copy
    peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in rates.items())
    print(f"products: {peaks}; copy: {bandwidth / 1e9:.1f} GB/s; {torch.backends.cpu.get_cpu_capability()}\n")
    print("| step | GFLOP | GB | s | floor by operations, s | floor by bytes, s | share of the product's rate |")
    print("|---|---|---|---|---|---|---|")
    for case, trace, median in zip(cases, traces, taken, strict=True):
        products, moved = trace.operations / rates[case.precision], trace.traffic / bandwidth
        print(
            f"| {case.method}, {case.precision} | {trace.operations / 1e9:.1f} | {trace.traffic / 1e9:.2f} "
            f"| {median:.3f} | {products:.3f} | {moved:.3f} | {products / median:.0%} |"
        )


if __name__ == "__main__":
    main()
