"""What decides the state that a contrast compares: `python benchmarks/exchange.py`.

Takes rows of the built-in corpus on the shipped model, which is not tuned here, and gives each of them another target,
another input, another instruction, or another target and input, of a row of the same task. Prints for each task the
mean cosine between the state of the row (last token, after the last norm) and that of the changed row.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from robustlm.batch import collate
from robustlm.datamodules import InstructionDataModule
from robustlm.instructions.banks import InstructionBank
from robustlm.modules import InstructionTuning
from robustlm.sample import Sample
from robustlm.sources import corpus as quickstart

_ROWS = 60
"""Run at a time."""


def main() -> None:
    """Exchange, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=360, help="rows of all tasks together")
    parser.add_argument("--backbone", default="builtin:tiny")
    options = parser.parse_args()
    torch.set_num_threads(1)
    module = InstructionTuning(options.backbone)
    module.backbone.load()
    module.backbone.eval()
    data = InstructionDataModule(train="builtin:quickstart", max_length=160)
    data.connect(module.backbone)
    draw = random.Random(0)
    tasks: dict[str, list[Sample]] = {}
    for row in quickstart.samples("train", options.rows):
        tasks.setdefault(row.dataset, []).append(row)
    print("| | target | input | instruction | target and input |\n|---|---|---|---|---|")
    for name, rows in tasks.items():
        phrasings = [found.text for found in InstructionBank.load(rows[0].bank).phrasings("both", "seen")]
        asked = [draw.choice(phrasings) for _ in rows]
        rephrased = [draw.choice([text for text in phrasings if text != own]) for own in asked]
        others = [draw.choice([other for other in rows if other.target != row.target]) for row in rows]
        pairs = list(zip(rows, others, strict=True))
        own = states(module, data, rows, asked)
        changed = (
            states(module, data, [replace(row, target=other.target) for row, other in pairs], asked),
            states(module, data, [replace(row, context=other.context) for row, other in pairs], asked),
            states(module, data, rows, rephrased),
            states(module, data, others, asked),
        )
        print(
            f"| {name} | " + " | ".join(f"{float((own * one).sum(1).mean()):.3f}" for one in changed) + " |", flush=True
        )


@torch.no_grad()
def states(
    module: InstructionTuning, data: InstructionDataModule, rows: Sequence[Sample], instructions: Sequence[str]
) -> Tensor:
    """The state of each row under its instruction, `[R, H]`, of length 1."""
    assert data.encoder is not None
    encoded = data.encoder.encode(rows, instructions)
    pad = module.backbone.tokenizer.pad_token_id or 0
    starts = range(0, len(encoded), _ROWS)
    found = [module.backbone(collate(encoded[at : at + _ROWS], pad_id=pad)).state for at in starts]
    return normalize(torch.cat(found).float(), dim=1)


if __name__ == "__main__":
    main()
