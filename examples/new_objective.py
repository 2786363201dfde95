"""Train with a new objective.

An objective is a subclass that adds a named loss. This one asks for answers that dropout does not change (R-Drop, Liang
et al., 2021). The curve of each loss is in the log, as `train/<name>`; from a YAML config, the class is named by its
import path (`new_objective.RDrop`).
"""

from typing import Any

import jsonargparse
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from robustlm import AdamW, InstructionDataModule, InstructionTuning, LoRA, Passes
from robustlm.losses import divergence


class RDrop(InstructionTuning):
    """Instruction tuning, and a divergence between two passes with other dropout masks.

    Args:
        rdrop: Weight of (KL(P‖Q) + KL(Q‖P)) / 2 a token.
        kwargs: Arguments of `InstructionTuning`.
    """

    def __init__(self, *args: Any, rdrop: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weights["rdrop"] = rdrop

    def losses(self, passes: Passes) -> dict[str, Tensor]:
        """The answers' cross-entropy, and one more term."""
        once = passes.answers("raw").logits
        again = passes.run(passes.view("raw"), masks=1).logits
        both = divergence(once, again) + divergence(again, once)
        return {**super().losses(passes), "rdrop": both.sum() / 2 / passes.token_count("raw")}


def main(
    model: str = "builtin:tiny",
    train: str = "builtin:quickstart",
    rdrop: float = 1.0,
    steps: int = 20,
    learning_rate: float = 2e-3,
    output: str = "runs/new_objective",
) -> None:
    """Train.

    Args:
        model: A model on the Hugging Face hub, or its folder.
        train: Rows to train on.
        rdrop: Weight of the new term.
        steps: Training steps of 32 rows.
        learning_rate: 1e-4 is a start for models of a billion weights.
        output: Folder of the log and the checkpoint.
    """
    module = RDrop(model, tuning=LoRA(dropout=0.1), optimizer=AdamW(lr=learning_rate), rdrop=rdrop)
    data = InstructionDataModule(train=train, batch_size=32, max_length=160)
    trainer = Trainer(max_steps=steps, log_every_n_steps=1, logger=CSVLogger(output, name=None))
    trainer.fit(module, data)
    print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
