"""Evaluate any model.

The script asks one model the same samples in several phrasings, clean and under noise, prints the scores with their
intervals, and writes them as a page for a browser. Nothing is tuned.
"""

import jsonargparse
from lightning.pytorch import Trainer

from robustlm import InstructionTuning, RobustnessDataModule
from robustlm.callbacks.predictions import PredictionWriter
from robustlm.cli import main as command


def main(
    model: str = "builtin:tiny",
    test: list[str] = ["builtin:quickstart"],  # noqa: B006 - read only
    conditions: list[str] = ["clean", "random_typos@0.2", "unseen", "unseen+random_typos@0.2"],  # noqa: B006
    prompts: int = 3,
    samples: int = 10,
    template: str = "plain",
    output: str = "runs/evaluation",
) -> None:
    """Test a model and report.

    Args:
        model: A model on the Hugging Face hub, its folder, or the folder of a PEFT adapter.
        test: Rows to test on: files (.jsonl, .json, .csv, .parquet), folders, or datasets on the hub.
        conditions: How the rows are asked; docs/data.md lists the kinds of noise. Leave `unseen` out for rows that
            bring their own instructions and name no bank of phrasings.
        prompts: Phrasings of each dataset and condition.
        samples: Samples of each dataset.
        template: How prompts are written; `chat` for a chat model.
        output: Folder of the answers and the report.
    """
    data = RobustnessDataModule(
        test=test, conditions=conditions, prompts=prompts, samples=samples, template=template, max_length=160
    )
    trainer = Trainer(default_root_dir=output, logger=False, callbacks=[PredictionWriter()])
    trainer.test(InstructionTuning(model, tuning=None, max_new_tokens=32), data, verbose=False)
    command(["report", output, "--output", f"{output}/report"])


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
