"""What a training step of each method costs: `python benchmarks/step.py`.

Times whole steps (forward, backward, optimiser) of the project's own modules on a model made from scratch, all methods
in every round, in an order that is shuffled each round, so that other load on the machine falls on all of them. Prints
medians over rounds as ratios to plain tuning, by wall clock and by CPU time of this process, beside the ratio that
counting passes predicts: a pass forward is F, and a pass backward through frozen weights is F too, so that a plain
LoRA step takes 2 F. `--memory` measures instead how much memory each step takes at its peak.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig

from robustlm.adversaries import FGM, NRM, PGD, FreeLB
from robustlm.batch import Encoded, InstructionBatch, Unanswered, View, collate
from robustlm.models.backbone import Loading
from robustlm.models.tuning import LoRA
from robustlm.modules import (
    ANIT,
    SAM,
    Agreement,
    Alignment,
    AlignmentTuning,
    Contrast,
    ContrastiveTuning,
    InstructionTuning,
    Passes,
    Preference,
    RDrop,
    RobustTuning,
    Selection,
)
from robustlm.optim.config import parameter_groups
from robustlm.tools.tokenizer import train_tokenizer
from robustlm.utils.finite import step_extent

PLAIN = "plain"
BOTH = "plain, raw + variant"
TOGETHER = "CoIN + KL"
ALL = "NRM + CoIN + KL"
FULL = "plain, logits everywhere"
CHECK = "check"
"""The look for NaN in a plain step: no method, timed apart."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large model and batch are."""

    vocab: int
    hidden: int
    layers: int
    rows: int
    tokens: int
    answer: int
    rank: int
    mlp: int | None = None
    """Width of the layers' MLPs; null: 8/3 of the model's."""
    heads: int | None = None
    """Null: one for each 64 of the model's width."""
    kv_heads: int | None = None
    """Null: as many as heads."""
    tied: bool = True
    """Whether the head is the embedding table."""


class FullLogits(InstructionTuning):
    """Plain tuning as transformers does it: logits of all positions, of which the loss then ignores most."""

    def losses(self, passes: Passes) -> dict[str, Tensor]:
        """The loss that the model itself computes from labels."""
        view = passes.view("raw")
        out = self.backbone.base(input_ids=view.input_ids, attention_mask=view.attention_mask, labels=view.labels)
        return {"answer": out.loss}


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table."""

    name: str
    passes: float | None
    """Forward and backward passes by the formulae, in F; null where they say nothing."""
    build: Callable[[str, Loading, LoRA], InstructionTuning]
    """Makes the module for a model folder."""
    ascents: int = 0
    """How many of the passes backward are for a perturbation alone, without gradients of weights."""
    negatives: bool = False
    """Whether its batch has an explicit negative for each row."""
    variants: int = 1
    """K, the number of variants of each row in its batch."""
    options: int = 0
    """Options of each row, none of which brings an answer; 0: all rows bring one."""


combined = partial(RobustTuning, contrast=Contrast(), alignment=Alignment())
METHODS = (
    Method(PLAIN, 2, InstructionTuning),
    Method("FGM", 4, partial(ANIT, adversary=FGM())),
    Method("NRM", 6, partial(ANIT, adversary=NRM()), ascents=1),
    Method("NRM, low_memory", 6, partial(ANIT, adversary=NRM(low_memory=True)), ascents=1),
    Method("NRM, ascent: clean", 4, partial(ANIT, adversary=NRM(ascent="clean"))),
    Method("FreeLB-3", 6, partial(ANIT, adversary=FreeLB(steps=3))),
    Method("PGD-3", 10, partial(ANIT, adversary=PGD(steps=3)), ascents=3),
    Method(BOTH, 4, partial(InstructionTuning, train_on="both")),
    Method("CoIN", 4, ContrastiveTuning),
    Method("KL", 4, AlignmentTuning),
    Method(TOGETHER, 4, combined),
    Method(ALL, 8, partial(combined, adversary=NRM()), ascents=1),
    Method("NRM, ascent: clean + CoIN + KL", 7, partial(combined, adversary=NRM(ascent="clean")), ascents=1),
    Method("NRM, low_memory + CoIN + KL", 8, partial(combined, adversary=NRM(low_memory=True)), ascents=1),
    Method(
        "NRM, ascent: clean, low_memory + CoIN + KL",
        7,
        partial(combined, adversary=NRM(ascent="clean", low_memory=True)),
        ascents=1,
    ),
    Method("FGM + CoIN + KL", 7, partial(combined, adversary=FGM()), ascents=1),
    Method("CoIN, a negative each", 6, ContrastiveTuning, negatives=True),
    Method("hardest of 3", 5, partial(RobustTuning, selection=Selection(bf16=False)), variants=3),
    Method("hardest of 3, bf16", 5, partial(RobustTuning, selection=Selection()), variants=3),
    Method("random of 3", 2, partial(RobustTuning, selection=Selection("random")), variants=3),
    Method("agreement of 3", 10, partial(RobustTuning, agreement=Agreement(guard=None)), variants=3, options=2),
    Method(
        "agreement of 3, trained on one",
        6,
        partial(RobustTuning, agreement=Agreement(guard=None), selection=Selection("random")),
        variants=3,
        options=2,
    ),
    Method("CoIPO", 4, partial(RobustTuning, preference=Preference())),
    Method("R-Drop", 4, partial(RobustTuning, rdrop=RDrop())),
    Method("SAM", 4, partial(RobustTuning, sam=SAM())),
    Method(FULL, None, FullLogits),
)


def lay_out(folder: str, size: Size) -> None:
    """Write config and tokenizer of a Llama model."""
    tokenizer = train_tokenizer(["Instruction: say it again. Answer: it"], 300)
    tokenizer.save_pretrained(folder)
    heads = size.heads or size.hidden // 64
    LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        intermediate_size=size.mlp or 8 * size.hidden // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=size.kv_heads or heads,
        max_position_embeddings=2 * size.tokens,
        tie_word_embeddings=size.tied,
    ).save_pretrained(folder)


def random_batch(size: Size) -> InstructionBatch:
    """Rows of one length, half instruction and half context, the same as raw rows and as variants."""
    draw = random.Random(0)
    prompt = size.tokens - size.answer
    first = prompt // 2
    rows = [
        Encoded(
            prompt_ids=[draw.randrange(4, size.vocab) for _ in range(prompt)],
            instruction=[i < first for i in range(prompt)],
            context=[i >= first for i in range(prompt)],
            answer_ids=[draw.randrange(4, size.vocab) for _ in range(size.answer)],
        )
        for _ in range(size.rows)
    ]
    return InstructionBatch(
        raw=collate(rows, pad_id=0),
        ids=[str(i) for i in range(size.rows)],
        variant=collate(rows, pad_id=0),
        beta=torch.full((size.rows,), 0.2),
        seeds=torch.arange(size.rows),
    )


def build(folder: str, size: Size, methods: Sequence[Method]) -> dict[str, InstructionTuning]:
    """The module of each method; all share one loaded model."""
    lay_out(folder, size)
    tuning = LoRA(r=size.rank, alpha=size.rank, dropout=0.0)
    modules = {m.name: m.build(folder, Loading(scratch=True), tuning) for m in methods}
    backbone = next(iter(modules.values())).backbone
    backbone.load()
    for module in modules.values():
        module.backbone = backbone
    everything = sum(p.numel() for p in backbone.parameters())
    trained = sum(p.numel() for p in backbone.trained)
    print(f"{everything / 1e6:.1f} M parameters, {trained / 1e6:.2f} M of them trained by LoRA", flush=True)
    return modules


def batch_of(method: Method, batch: InstructionBatch) -> InstructionBatch:
    """The batch, with negatives and more variants where the method has them."""
    found = replace(batch, negative=batch.raw) if method.negatives else batch
    if method.variants == 1:
        return found
    rows = torch.arange(len(batch)).repeat_interleave(method.variants)
    assert batch.variant is not None
    assert batch.beta is not None
    found = replace(found, variant=batch.variant.select(rows), beta=batch.beta[rows], seeds=torch.arange(len(rows)))
    return replace(found, unanswered=_unanswered(batch.raw, method)) if method.options else found


def _unanswered(raw: View, method: Method) -> Unanswered:
    """No row brings an answer: each has options of the answer's length."""
    length = raw.layout.counts[0]
    inside, context = raw.instruction_mask.tolist(), raw.context_mask.tolist()
    rows = [
        Encoded(ids[:-length], inside[at][:-length], context[at][:-length], ids[-length:])
        for at, ids in enumerate(raw.input_ids.tolist())
    ]
    answers = [[row.answer_ids[at:] + row.answer_ids[:at] for at in range(method.options)] for row in rows]
    asked = [
        replace(row, answer_ids=ids)
        for row, own in zip(rows, answers, strict=True)
        for _ in range(method.variants + 1)
        for ids in own
    ]
    return Unanswered(
        rows=list(range(len(rows))),
        answers=answers,
        held=[0] * len(rows),
        truths=[None] * len(rows),
        classes=[("rows", ())] * len(rows),
        raw=rows,
        variant=[row for row in rows for _ in range(method.variants)],
        options=collate(asked, pad_id=0),
        asked=torch.arange(len(rows) * (method.variants + 1)).repeat_interleave(method.options),
    )


def measure(size: Size, rounds: int, methods: Sequence[Method]) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each method's steps, one a round; the first round only warms up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in (*(m.name for m in methods), CHECK)}
    with tempfile.TemporaryDirectory() as folder:
        modules = build(folder, size, methods)
    backbone = modules[PLAIN].backbone
    optimizer = torch.optim.AdamW(parameter_groups(backbone.base), lr=1e-4)
    batch = random_batch(size)
    batches = {m.name: batch_of(m, batch) for m in methods}
    order = list(modules)
    shuffle = random.Random(1).shuffle
    try:
        for number in range(rounds + 1):
            shuffle(order)
            for name in order:
                wall, cpu = time.perf_counter(), time.process_time()
                loss = modules[name].training_step(batches[name], 0)
                torch.autograd.backward(loss)
                if name == PLAIN and number:
                    looked, busy = time.perf_counter(), time.process_time()
                    step_extent(backbone.parameters(), loss.detach())
                    times[CHECK].append((time.perf_counter() - looked, time.process_time() - busy))
                    wall, cpu = wall + times[CHECK][-1][0], cpu + times[CHECK][-1][1]
                optimizer.step()
                optimizer.zero_grad()
                if number:
                    times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    except KeyboardInterrupt:
        if not all(times.values()):
            raise
        print(f"stopped in round {number}; medians of what there is")
    return times


def most_memory(size: Size, methods: Sequence[Method]) -> dict[str, int]:
    """The most bytes that forward and backward pass of each method hold at a time, without what was there before.

    These are the bytes that torch's allocator gave out, by its own record: they are the same on a busy machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        modules = build(folder, size, methods)
    batch = random_batch(size)
    found = {}
    for method in methods:
        module, own = modules[method.name], batch_of(method, batch)
        for once in (False, True):  # the first step makes what stays
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) if once else nullcontext() as seen:
                torch.autograd.backward(module.training_step(own, 0))
            module.backbone.zero_grad()
        assert seen is not None
        assert seen.profiler is not None
        changes = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
        sizes = [one.nbytes() for one in sorted(changes, key=lambda one: one.start_ns())]
        found[method.name] = max(accumulate(sizes))
    return found


def memory_table(memory: dict[str, int]) -> str:
    """Peaks and their ratios to plain tuning, in Markdown."""
    lines = ["| method | MiB | ÷ plain |", "|---|---|---|"]
    lines += [f"| {name} | {most / 2**20:.0f} | {most / memory[PLAIN]:.2f} |" for name, most in memory.items()]
    if {"CoIN", "KL"} <= set(memory):
        more = (memory["KL"] - memory["CoIN"]) / memory[PLAIN]
        lines += ["", f"KL takes {more:+.2f} plain steps more memory than CoIN."]
    return "\n".join(lines)


def table(times: dict[str, list[tuple[float, float]]]) -> str:
    """Medians and their ratios to plain tuning, in Markdown."""
    wall = {name: statistics.median(seconds for seconds, _ in found) for name, found in times.items()}
    cpu = {name: statistics.median(seconds for _, seconds in found) for name, found in times.items()}
    passes = {method.name: method.passes for method in METHODS if method.name in times}
    plain = passes[PLAIN]
    assert plain is not None
    lines = ["| method | s a step | ÷ plain | CPU s | ÷ plain, CPU time | expected |", "|---|---|---|---|---|---|"]
    for name, count in passes.items():
        expected = "" if count is None else f"{count / plain:.2f} ({count:g} F)"
        ratios = f"{wall[name] / wall[PLAIN]:.2f} | {cpu[name]:.3f} | {cpu[name] / cpu[PLAIN]:.2f}"
        lines.append(f"| {name} | {wall[name]:.3f} | {ratios} | {expected} |")
    check = f"{1e3 * wall[CHECK]:.2f} ms, {100 * wall[CHECK] / wall[PLAIN]:.2f} % of a plain step"
    lines += ["", f"Looking for NaN in loss and gradients, once an optimiser step, not in the times above: {check}."]
    for text, one, other in (
        ("Logits at the answers alone ÷ logits everywhere, plain tuning", PLAIN, FULL),
        ("Contrast and KL ÷ plain tuning on the same raw and variant rows", TOGETHER, BOTH),
    ):
        if {one, other} <= set(wall):
            ratios = f"{wall[one] / wall[other]:.2f} by wall clock, {cpu[one] / cpu[other]:.2f} by CPU time"
            lines.append(f"{text}: {ratios}.")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for option, default, text in (
        ("vocab", 32_000, "tokens of the vocabulary"),
        ("hidden", 384, "width of the model, a multiple of 64"),
        ("layers", 6, "its layers"),
        ("rows", 8, "rows of a batch"),
        ("tokens", 192, "tokens of a row, answer included"),
        ("answer", 24, "answer tokens of a row"),
        ("rank", 8, "rank of the adapters"),
        ("rounds", 9, "steps of each method that are timed"),
        ("threads", 2, "threads"),
    ):
        parser.add_argument(f"--{option}", type=int, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--only", default="", help="a regular expression: only methods whose name it finds, and plain")
    parser.add_argument("--memory", action="store_true", help="measure memory and not time")
    args = vars(parser.parse_args())
    torch.set_num_threads(args.pop("threads"))
    rounds, only, memory = args.pop("rounds"), args.pop("only"), args.pop("memory")
    methods = [method for method in METHODS if method.name == PLAIN or re.search(only, method.name)]
    warnings.filterwarnings("ignore", ".*self.log.*")  # there is no trainer to log to
    size = Size(**args)
    print(f"{size.rows} rows × {size.tokens} tokens, {size.answer} of them answer")
    print(memory_table(most_memory(size, methods)) if memory else table(measure(size, rounds, methods)))


if __name__ == "__main__":
    main()
