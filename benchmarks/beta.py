"""What the distortion β does to the attack of NRM: `python benchmarks/beta.py`.

Attacks noisy rows of the built-in corpus on the shipped model, which is not tuned here, with the same random draws and
every β in turn. Five forms of NRM: as [ANIT] prints it (eqs. 6, 7), with a random start a tenth as large
(`init_scale: 1`), with a ball that shrinks with β (`scale_radius_by_beta`), with both, and with a ball that shrinks
with β while the start does not (`scale_start_by_beta: false`). Prints for each form and β
the loss gap L(f(X + δ1), y) − L(f(X), y) for each answer token, the length of δ1 in ε, and cos(δ1, g).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch

from robustlm.adversaries import NRM
from robustlm.batch import InstructionBatch
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.modules import ANIT, Passes

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
FORMS: dict[str, NRM] = {
    "as printed (`init_scale: 10`)": NRM(),
    "`init_scale: 1`": NRM(init_scale=1.0),
    "`scale_radius_by_beta`": NRM(scale_radius_by_beta=True),
    "both": NRM(init_scale=1.0, scale_radius_by_beta=True),
    "the radius alone": NRM(scale_start_by_beta=False, scale_radius_by_beta=True),
}


def main() -> None:
    """Attack, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, default=NRM.default_epsilon, help="in mean token-embedding norms")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rows", type=int, default=32, help="rows of a batch")
    parser.add_argument("--backbone", default="builtin:tiny")
    options = parser.parse_args()
    torch.set_num_threads(1)
    module = ANIT(options.backbone, adversary=None)
    module.backbone.load()
    batches = noisy_batches(module, options.rows, options.batches)
    found = [
        [measure(module, replace(form, epsilon=options.epsilon), beta, batches) for beta in BETAS]
        for form in FORMS.values()
    ]
    rows = sum(len(batch.raw) for batch in batches)
    print(f"{rows} noisy rows, epsilon {options.epsilon:g}")
    for i, quantity in enumerate(("loss gap for each answer token", "length of δ1 in ε", "cos(δ1, g)")):
        print(f"\n{quantity}\n\n| NRM | " + " | ".join(f"β = {beta:g}" for beta in BETAS) + " |")
        print("|---" * (len(BETAS) + 1) + "|")
        for name, cells in zip(FORMS, found, strict=True):
            print(f"| {name} | " + " | ".join(f"{cell[i]:.2f}" for cell in cells) + " |")


def noisy_batches(module: ANIT, rows: int, count: int) -> list[InstructionBatch]:
    """Training batches of the built-in corpus under noise as in `configs/anit.yaml`, without clean rows.

    Raises:
        ValueError: There are fewer batches.
    """
    data = NoisyInstructionDataModule(train="builtin:quickstart", batch_size=rows, max_length=160)
    data.connect(module.backbone)
    data.setup("fit")
    found = list(islice(data.train_dataloader(), count))
    if len(found) < count or not count:
        raise ValueError(f"--batches: expected 1 to {len(found)} of {rows} rows, found {count}")
    return found


def measure(
    module: ANIT, adversary: NRM, beta: float, batches: Sequence[InstructionBatch]
) -> tuple[float, float, float]:
    """Loss gap for each answer token, mean length of δ1 in ε, and mean cosine of δ1 and g."""
    gap, tokens, length, cosine = 0.0, 0, 0.0, 0.0
    for batch in batches:
        assert batch.variant is not None
        problem = Passes(module.backbone, replace(batch, beta=torch.full((len(batch.variant),), beta))).problem(
            "variant", "prompt"
        )
        outcome = adversary.attack(problem)
        assert outcome.clean is not None
        gap += float((outcome.adversarial - outcome.clean).detach().sum())
        tokens += int((batch.variant.labels >= 0).sum())
        length += float(outcome.logs["delta_norm"]) / adversary.radius / len(batches)
        cosine += float(outcome.logs["gradient_cosine"]) / len(batches)
    return gap / tokens, length, cosine


if __name__ == "__main__":
    main()
