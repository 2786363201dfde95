"""Train against a new adversary.

An adversary is a dataclass with one method. It is given embeddings `[R, T, H]`, a mask of the positions that it may
touch, and a function from embeddings to the loss of each row; it returns the losses to train on. This one adds random
signs, without a gradient. From a YAML config, the class is named by its import path (`new_adversary.RandomSigns`).
"""

from dataclasses import dataclass

import jsonargparse
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from robustlm import ANIT, AdamW, LoRA, NoisyInstructionDataModule
from robustlm.adversaries import Adversary, Outcome, Problem


@dataclass
class RandomSigns(Adversary):
    """The clean loss, and the loss under ± the same size in every dimension."""

    size: float = 0.1
    """Length of the perturbation of one token, in mean embedding norms."""

    def __post_init__(self) -> None:
        self.check("size", self.size >= 0, "a number ≥ 0")

    def attack(self, problem: Problem) -> Outcome:
        """Draw the signs from the rows' seeds, so that a run can be repeated, and return both losses."""
        delta = torch.zeros_like(problem.embeds, dtype=torch.float32)
        for row, seed in zip(delta, problem.seeds.tolist(), strict=True):
            signs = torch.randint(2, row.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
            row += self.size * problem.scale * signs.to(row) / row.shape[-1] ** 0.5
        delta = delta.masked_fill(~problem.mask[:, :, None], 0)
        clean, adversarial = problem.clean_loss(), problem.loss(problem.embeds + delta.to(problem.embeds))
        return Outcome(adversarial, clean, delta, {"loss_gap": (adversarial - clean).detach().mean()})


def main(
    model: str = "builtin:tiny",
    train: str = "builtin:quickstart",
    size: float = 0.1,
    steps: int = 20,
    learning_rate: float = 2e-3,
    output: str = "runs/new_adversary",
) -> None:
    """Train.

    Args:
        model: A model on the Hugging Face hub, or its folder.
        train: Rows to train on.
        size: Length of the perturbation of one token, in mean embedding norms.
        steps: Training steps of 32 rows.
        learning_rate: 1e-4 is a start for models of a billion weights.
        output: Folder of the log and the checkpoint.
    """
    module = ANIT(model, tuning=LoRA(), adversary=RandomSigns(size), optimizer=AdamW(lr=learning_rate))
    data = NoisyInstructionDataModule(train=train, batch_size=32, max_length=160)
    trainer = Trainer(max_steps=steps, log_every_n_steps=1, logger=CSVLogger(output, name=None))
    trainer.fit(module, data)
    print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
