"""What a training step of each method costs: `python benchmarks/step.py`.

Times whole steps (forward, backward, optimiser) of the project's own modules on a model made from scratch, all methods
in every round, in an order that is shuffled each round, so that other load on the machine falls on all of them. Prints
medians over rounds as ratios to plain tuning, by wall clock and by CPU time of this process, beside the ratio that
counting passes predicts: a pass forward is F, and a pass backward through frozen weights is F too, so that a plain
LoRA step takes 2 F.

`--precisions` compares precisions instead: float32, bf16-mixed, and bf16-mixed with frozen weights cast once.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import LlamaConfig

from robustlm.adversaries import FGM, NRM, PGD, FreeLB
from robustlm.batch import IGNORE, Encoded, InstructionBatch, collate
from robustlm.models.backbone import Loading
from robustlm.models.base import LanguageModel
from robustlm.models.tuning import LoRA
from robustlm.modules import (
    ANIT,
    Alignment,
    AlignmentTuning,
    Contrast,
    ContrastiveTuning,
    InstructionTuning,
    Passes,
    RobustTuning,
)
from robustlm.optim.config import parameter_groups
from robustlm.tools.tokenizer import train_tokenizer
from robustlm.utils.finite import step_extent

PLAIN = "plain"
BOTH = "plain, raw + variant"
TOGETHER = "CoIN + KL"
ALL = "NRM + CoIN + KL"
FULL = "plain, logits everywhere"
FLOAT32, MIXED, ONCE = PRECISIONS = ("float32", "bf16-mixed", "bf16-mixed, cast once")
ANSWERS = "answers"
"""Greedy answers to the prompts of the batch, as long as its answers."""
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


combined = partial(RobustTuning, contrast=Contrast(), alignment=Alignment())
METHODS = (
    Method(PLAIN, 2, InstructionTuning),
    Method("FGM", 4, partial(ANIT, adversary=FGM())),
    Method("NRM", 6, partial(ANIT, adversary=NRM()), ascents=1),
    Method("NRM, ascent: clean", 4, partial(ANIT, adversary=NRM(ascent="clean"))),
    Method("FreeLB-3", 6, partial(ANIT, adversary=FreeLB(steps=3))),
    Method("PGD-3", 10, partial(ANIT, adversary=PGD(steps=3)), ascents=3),
    Method(BOTH, 4, partial(InstructionTuning, train_on="both")),
    Method("CoIN", 4, ContrastiveTuning),
    Method("KL", 4, AlignmentTuning),
    Method(TOGETHER, 4, combined),
    Method(ALL, 8, partial(combined, adversary=NRM()), ascents=1),
    Method("NRM, ascent: clean + CoIN + KL", 7, partial(combined, adversary=NRM(ascent="clean")), ascents=1),
    Method("FGM + CoIN + KL", 7, partial(combined, adversary=FGM()), ascents=1),
    Method("CoIN, a negative each", 6, ContrastiveTuning, negatives=True),
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


def measure(size: Size, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each method's steps, one a round; the first round only warms up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in (*(m.name for m in METHODS), CHECK)}
    with tempfile.TemporaryDirectory() as folder:
        lay_out(folder, size)
        modules = {
            m.name: m.build(folder, Loading(scratch=True), LoRA(r=size.rank, alpha=size.rank, dropout=0.0))
            for m in METHODS
        }
        backbone = modules[PLAIN].backbone
        backbone.load()
    for module in modules.values():
        module.backbone = backbone  # one model for all
    everything = sum(p.numel() for p in backbone.parameters())
    trained = sum(p.numel() for p in backbone.trained)
    print(f"{everything / 1e6:.1f} M parameters, {trained / 1e6:.2f} M of them trained by LoRA", flush=True)
    optimizer = torch.optim.AdamW(parameter_groups(backbone.base), lr=1e-4)
    batch = random_batch(size)
    batches = {m.name: replace(batch, negative=batch.raw) if m.negatives else batch for m in METHODS}
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


def measure_precisions(size: Size, rounds: int) -> dict[tuple[str, str], float]:
    """Median CPU seconds by method and precision, interleaved as in `measure`; `ANSWERS` is the time of answers.

    Making and dropping the casts, once in a run, is not timed.
    """
    with tempfile.TemporaryDirectory() as folder:
        lay_out(folder, size)
        chosen = {m.name: m for m in METHODS if m.name in (PLAIN, "NRM", "CoIN", "KL")}
        tuning = LoRA(r=size.rank, alpha=size.rank, dropout=0.0)
        modules = {name: m.build(folder, Loading(scratch=True), tuning) for name, m in chosen.items()}
        backbone = modules[PLAIN].backbone
        backbone.load()
    for module in modules.values():
        module.backbone = backbone
    print(f"{sum(p.numel() for p in backbone.parameters()) / 1e6:.1f} M parameters", flush=True)
    optimizer = torch.optim.AdamW(parameter_groups(backbone.base), lr=1e-4)
    batch = random_batch(size)
    prompts = replace(batch.raw, labels=torch.full_like(batch.raw.labels, IGNORE))
    order = [(name, precision) for name in (*modules, ANSWERS) for precision in PRECISIONS]
    times: dict[tuple[str, str], list[float]] = {key: [] for key in order}
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name, precision in order:
            with in_precision(precision, backbone):
                began = time.process_time()
                if name == ANSWERS:
                    backbone.generate(prompts, size.answer)
                else:
                    loss = modules[name].training_step(batch, 0)
                spent = time.process_time() - began
                if name != ANSWERS:
                    began = time.process_time()
                    torch.autograd.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                    spent += time.process_time() - began
            if number:
                times[name, precision].append(spent)
    return {key: statistics.median(found) for key, found in times.items()}


def precision_table(times: dict[tuple[str, str], float]) -> str:
    """CPU time of each precision as a share of that of float32, in Markdown."""
    names = dict.fromkeys(name for name, _ in times)
    lines = ["| | CPU s, " + " | ".join((FLOAT32, *(f"{one} ÷ float32" for one in PRECISIONS[1:]))) + " |"]
    lines.append("|---" * (1 + len(PRECISIONS)) + "|")
    for name in names:
        base = times[name, FLOAT32]
        shares = " | ".join(f"{times[name, one] / base:.2f}" for one in PRECISIONS[1:])
        lines.append(f"| {name} | {base:.3f} | {shares} |")
    return "\n".join(lines)


def table(times: dict[str, list[tuple[float, float]]]) -> str:
    """Medians and their ratios to plain tuning, in Markdown."""
    wall = {name: statistics.median(seconds for seconds, _ in found) for name, found in times.items()}
    cpu = {name: statistics.median(seconds for _, seconds in found) for name, found in times.items()}
    passes = {method.name: method.passes for method in METHODS}
    plain = passes[PLAIN]
    assert plain is not None
    lines = ["| method | s a step | ÷ plain | ÷ plain, CPU time | expected |", "|---|---|---|---|---|"]
    for name, count in passes.items():
        expected = "" if count is None else f"{count / plain:.2f} ({count:g} F)"
        ratios = f"{wall[name] / wall[PLAIN]:.2f} | {cpu[name] / cpu[PLAIN]:.2f}"
        lines.append(f"| {name} | {wall[name]:.3f} | {ratios} | {expected} |")
    saved = f"{wall[PLAIN] / wall[FULL]:.2f} by wall clock, {cpu[PLAIN] / cpu[FULL]:.2f} by CPU time"
    added = f"{wall[TOGETHER] / wall[BOTH]:.2f} by wall clock, {cpu[TOGETHER] / cpu[BOTH]:.2f} by CPU time"
    check = f"{1e3 * wall[CHECK]:.2f} ms, {100 * wall[CHECK] / wall[PLAIN]:.2f} % of a plain step"
    return "\n".join(
        [
            *lines,
            "",
            f"Looking for NaN in loss and gradients, once an optimiser step, not in the times above: {check}.",
            f"Logits at the answers alone ÷ logits everywhere, plain tuning: {saved}.",
            f"Contrast and KL ÷ plain tuning on the same raw and variant rows: {added}.",
        ]
    )


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
    parser.add_argument("--precisions", action="store_true", help="compare precisions instead of methods")
    args = vars(parser.parse_args())
    torch.set_num_threads(args.pop("threads"))
    rounds, precisions = args.pop("rounds"), args.pop("precisions")
    warnings.filterwarnings("ignore", ".*self.log.*")  # there is no trainer to log to
    size = Size(**args)
    print(f"{size.rows} rows × {size.tokens} tokens, {size.answer} of them answer, {rounds} rounds")
    print(precision_table(measure_precisions(size, rounds)) if precisions else table(measure(size, rounds)))


if __name__ == "__main__":
    main()
