"""Attack a model before and after tuning, and compare.

A blind misspelling hits words at random. An attack searches for the misspellings that hurt this very model most, within
the same share of words. The script tests the model as it is and tuned (ANIT) under both, and compares the two sample by
sample.
"""

import jsonargparse
from lightning.pytorch import Trainer

from robustlm import ANIT, NRM, AdamW, InstructionTuning, LoRA, NoisyInstructionDataModule, RobustnessDataModule
from robustlm.callbacks.predictions import PredictionWriter
from robustlm.cli import main as command

CONDITIONS = ["clean", "textbugger@0.2", "attack:textbugger@0.2"]


def main(
    model: str = "builtin:tiny",
    train: str = "builtin:quickstart",
    test: str = "builtin:quickstart",
    steps: int = 40,
    learning_rate: float = 2e-3,
    prompts: int = 1,
    samples: int = 5,
    output: str = "runs/attacked",
) -> None:
    """Tune, attack both and compare.

    Args:
        model: A model on the Hugging Face hub, or its folder.
        train: Rows to train on.
        test: Rows to test on.
        steps: Training steps of 32 rows.
        learning_rate: 1e-4 is a start for models of a billion weights.
        prompts: Phrasings of each dataset and condition.
        samples: Samples of each dataset.
        output: Folder of the answers, the comparison, and the answers that turn right or wrong (`flips.jsonl`).
    """
    tuned = ANIT(model, tuning=LoRA(r=16, alpha=32), adversary=NRM(epsilon=0.5), optimizer=AdamW(lr=learning_rate))
    data = NoisyInstructionDataModule(train=train, batch_size=32, max_length=160)
    Trainer(max_steps=steps, logger=False, enable_checkpointing=False).fit(tuned, data)

    for name, module in (("before", InstructionTuning(model, tuning=None)), ("after", tuned)):
        questions = RobustnessDataModule(
            test=test, conditions=CONDITIONS, prompts=prompts, samples=samples, max_length=160
        )
        trainer = Trainer(default_root_dir=f"{output}/{name}", logger=False, callbacks=[PredictionWriter()])
        trainer.test(module, questions, verbose=False)
    runs = [f"before={output}/before", f"after={output}/after"]
    flips = f"{output}/flips.jsonl"
    command(["compare", *runs, "--paired", "true", "--flips", flips, "--output", f"{output}/report"])


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
