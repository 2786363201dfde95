"""How fast answers are found: `python benchmarks/evaluation.py`.

Compares an evaluation's answers, generated in batches or chosen among options, with a loop that calls `generate` of the
same transformers model for one prompt at a time; checks that generated answers are the same; and says how much of the
gain is batching by itself (`generate` of whole batches). The ways take turns, so that other work on the machine slows
them alike. Figures are medians over rounds of the process's CPU time, which other work changes less than clock time.

`--options` also chooses among the rows' options: as an evaluation does it, and with every option in a row of its
own behind a copy of its prompt's cache, and says how far apart the log-likelihoods are.

`--unlike N` asks N prompts that share nothing, of 20 to 200 random tokens, in random order. Answers of transformers and
of this project come from the same batches.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from robustlm.batch import Encoded, collate
from robustlm.datamodules import RobustnessDataModule
from robustlm.models.backbone import Backbone
from robustlm.sources.source import Source

Batches = list[Any]


def one_by_one(backbone: Backbone, batches: Batches, tokens: int) -> list[str]:
    """Greedy answers, a prompt at a time, as one writes it down first."""
    found = []
    for batch in batches:
        for ids, mask in zip(batch.prompt.input_ids, batch.prompt.attention_mask, strict=True):
            prompt = ids[mask.bool()][None]
            found += _generated(backbone, prompt, torch.ones_like(prompt), tokens)
    return found


def batched(backbone: Backbone, batches: Batches, tokens: int) -> list[str]:
    """The same for whole batches, all that transformers does by itself."""
    views = [batch.prompt for batch in batches]
    return [text for view in views for text in _generated(backbone, view.input_ids, view.attention_mask, tokens)]


def _generated(backbone: Backbone, ids: Any, mask: Any, tokens: int) -> list[str]:
    out = backbone.base.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=backbone.tokenizer.pad_token_id,
        eos_token_id=backbone.tokenizer.eos_token_id,
    )
    texts = backbone.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def ours(backbone: Backbone, batches: Batches, tokens: int) -> list[str]:
    """Answers as `robustlm test` generates them."""
    return [text for batch in batches for text in backbone.generate(batch.prompt, tokens)]


def options(backbone: Backbone, batches: Batches, size: int) -> list[str]:
    """Answers as `robustlm test` chooses them; rows without choices have none."""
    found = []
    for batch in batches:
        if batch.options is not None:
            scores = backbone.option_scores(batch.options, batch.option_rows, size)
            found += [choices[scores.best(row)] for row, choices in enumerate(batch.choices) if choices]
    return found


def apart(backbone: Backbone, batches: Batches, size: int) -> list[str]:
    """As `options`, with each option in a row of its own."""
    check = backbone.parts.segments
    known, check.kept_apart = check.kept_apart, False
    try:
        return options(backbone, batches, size)
    finally:
        check.kept_apart = known


def distance(backbone: Backbone, batches: Batches, size: int) -> float:
    """Largest difference of an option's log-likelihood between both ways, in nats."""
    check = backbone.parts.segments
    found = []
    for kept in (None, False):
        check.kept_apart = kept
        views = [batch for batch in batches if batch.options is not None]
        found.append(torch.cat([backbone.option_scores(b.options, b.option_rows, size).log_likelihood for b in views]))
    check.kept_apart = None
    return float((found[0] - found[1]).abs().max())


def unlike(backbone: Backbone, count: int, size: int) -> Batches:
    """Batches of prompts of random tokens, 20 to 200 of them."""
    draw, pad = random.Random(0), backbone.tokenizer.pad_token_id
    vocab = backbone.config.get_text_config().vocab_size
    prompts = [[draw.randrange(4, vocab) for _ in range(draw.randint(20, 200))] for _ in range(count)]
    rows = [Encoded(ids, [True] * len(ids), [False] * len(ids), []) for ids in prompts]
    parts = [rows[at : at + size] for at in range(0, count, size)]
    return [SimpleNamespace(prompt=collate(part, pad_id=pad, with_answer=False)) for part in parts]


def asked(backbone: Backbone, args: argparse.Namespace, scoring: Any) -> Batches:
    """The batches of an evaluation under clean instructions."""
    data = RobustnessDataModule(
        test=[Source(args.rows)],
        prompts=args.prompts,
        samples=args.samples,
        shots=args.shots,
        examples=[Source(args.examples, name=args.name)] if args.shots else None,
        eval_batch_size=args.batch,
        max_length=1024,
        scoring=scoring,
    )
    data.connect(backbone)
    data.setup("test")
    return list(data.test_dataloader()[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backbone", default="builtin:tiny")
    parser.add_argument("--rows", default="builtin:quickstart", help="rows to answer (their test split)")
    parser.add_argument("--options", action="store_true", help="also choose among the rows' options")
    parser.add_argument("--unlike", type=int, metavar="N", help="ask so many prompts that share nothing instead")
    parser.add_argument("--prompts", type=int, default=6, help="instructions for each dataset")
    parser.add_argument("--samples", type=int, default=25, help="samples of each dataset")
    parser.add_argument("--shots", type=int, default=0, help="solved examples before each row")
    parser.add_argument("--examples", help="rows they are taken from")
    parser.add_argument("--name", help="name of the dataset, where the examples' files would give another one")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = Backbone(args.backbone)
    backbone.load()
    backbone.eval()
    if args.unlike and args.options:
        parser.error("--options: rows have options, prompts of --unlike have none")
    free = unlike(backbone, args.unlike, args.batch) if args.unlike else asked(backbone, args, "generation")
    ways: dict[str, Callable[[], list[str]]] = {
        "one prompt at a time, transformers": lambda: one_by_one(backbone, free, args.tokens),
        "batches, transformers": lambda: batched(backbone, free, args.tokens),
        "batches, robustlm": lambda: ours(backbone, free, args.tokens),
    }
    if args.options:
        chosen = asked(backbone, args, "options")
        ways["options, robustlm"] = lambda: options(backbone, chosen, args.batch)
        ways["options in rows of their own"] = lambda: apart(backbone, chosen, args.batch)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    with torch.inference_mode():
        for _ in range(args.rounds):
            for name, way in ways.items():
                began = time.process_time()
                answers[name] = way()
                seconds[name].append(time.process_time() - began)
    speed = {name: len(answers[name]) / statistics.median(found) for name, found in seconds.items()}
    first, second, *others = ways
    print(f"{len(answers[first])} prompts, batches of {args.batch}, {args.threads} threads; rows a second of CPU time:")
    for name in ways:
        ratios = f"{speed[name] / speed[first]:5.1f} × one at a time, {speed[name] / speed[second]:5.2f} × batches"
        print(f"  {name:36} {speed[name]:7.1f}   {ratios}")
    for name in (second, *others[:1]):
        same = sum(a == b for a, b in zip(answers[first], answers[name], strict=True))
        print(f"{name}: {same} of {len(answers[first])} answers are those of one prompt at a time")
    if args.options:
        with torch.inference_mode():
            nats = distance(backbone, chosen, args.batch)
        print(f"options: log-likelihoods differ by at most {nats:.2g} nats between both ways")


if __name__ == "__main__":
    main()
