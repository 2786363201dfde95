"""Tune on your own rows, and report before and after.

The script tests a model, tunes a LoRA adapter on noisy instructions with an adversary (ANIT), tests again under the
same conditions, and compares the two tests sample by sample. The folder `output` then holds the adapter, which
`peft.AutoPeftModelForCausalLM.from_pretrained` loads too, and a page for a browser.
"""

import jsonargparse
from lightning.pytorch import Trainer

import robustlm
from robustlm import ANIT, NRM, AdamW, LoRA, NoisyInstructionDataModule, Source
from robustlm.callbacks.export import AdapterExport
from robustlm.cli import main as command

CONDITIONS = ["clean", "random_typos@0.2", "mixed@0.2"]


def main(
    model: str = "builtin:tiny",
    train: str = "builtin:quickstart",
    test: str = "builtin:quickstart",
    steps: int = 40,
    learning_rate: float = 2e-3,
    limit: int | None = 30,
    output: str = "runs/own_rows",
) -> None:
    """Tune and report.

    Args:
        model: A model on the Hugging Face hub, or its folder.
        train: Rows to train on: a file (.jsonl, .json, .csv, .parquet), a folder, or a dataset on the hub.
        test: Rows to test on.
        steps: Training steps of 32 rows.
        learning_rate: 1e-4 is a start for models of a billion weights.
        limit: How many of the test rows are asked; null for all.
        output: Folder of the adapter, the answers and the report.
    """
    rows: list[str | Source] = [Source(test, limit=limit)]
    robustlm.load(model).test(rows, CONDITIONS, output=f"{output}/before")

    module = ANIT(model, tuning=LoRA(r=16, alpha=32), adversary=NRM(epsilon=0.5), optimizer=AdamW(lr=learning_rate))
    data = NoisyInstructionDataModule(train=train, batch_size=32, max_length=160)
    trainer = Trainer(max_steps=steps, default_root_dir=output, logger=False, callbacks=[AdapterExport()])
    trainer.fit(module, data)

    robustlm.load(f"{output}/adapter").test(rows, CONDITIONS, output=f"{output}/after")
    runs = [f"before={output}/before", f"after={output}/after"]
    command(["compare", *runs, "--paired", "true", "--output", f"{output}/report"])


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
