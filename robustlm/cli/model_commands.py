"""Commands that make models: `init`, `merge`."""

from __future__ import annotations

from typing import Literal

from robustlm.checks.places import check_folder
from robustlm.sources.source import Source

Architecture = Literal["llama", "t5"]
"""Same as in `robustlm.tools.scratch`, which is not imported here: `--help` would then load transformers."""


def init(
    folder: str,
    rows: list[str],
    split: str = "train",
    vocab_size: int = 4096,
    hidden_size: int = 256,
    layers: int = 4,
    heads: int = 4,
    intermediate_size: int = 704,
    initializer_range: float | None = None,
    architecture: Architecture = "llama",
    text: bool = False,
) -> None:
    """Make a tokenizer and a model config from rows, to train from scratch.

    Args:
        folder: Folder for both; `robustlm fit --model.backbone FOLDER --model.loading.scratch true` trains it.
        rows: Files, folders with splits, or `builtin:quickstart`. The tokenizer learns from their texts and
            instructions.
        split: Which split of folders and of the built-in corpus (`pretrain` for a model to be tuned later).
        vocab_size: Number of tokens in the tokenizer.
        hidden_size: Width of the model.
        layers: Number of layers; for T5, of the encoder and of the decoder each.
        heads: Number of attention heads per layer.
        intermediate_size: Width of the MLPs.
        initializer_range: Standard deviation of random weights, by default 0.08; T5 uses its own rules.
        architecture: `llama` (decoder only) or `t5` (encoder–decoder).
        text: The rows are running text, to pre-train on: text files with a line `<|endoftext|>` between documents,
            JSONL files of rows with the key `text`, or folders of such files.
    """
    from pathlib import Path

    from robustlm.rows.documents import documents, text_files
    from robustlm.tools.scratch import build

    if not Path(folder).exists():  # the content of an existing folder is checked below
        check_folder("folder", folder)
    texts = documents(text_files(rows)) if text else _prompts(rows, split)
    build(
        folder,
        texts,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        intermediate_size=intermediate_size,
        initializer_range=initializer_range,
        architecture=architecture,
    )
    print(f"tokenizer and config: {folder}")


def _prompts(rows: list[str], split: str) -> list[str]:
    """The prompts of rows, each with its answer."""
    from pathlib import Path

    from robustlm.instructions.banks import InstructionBank
    from robustlm.prompts.templates import PlainTemplate
    from robustlm.sources.loading import load_all

    template = PlainTemplate()
    samples = load_all([Source(row, split=None if Path(row).is_file() else split) for row in rows], "train")
    banks = {name: InstructionBank.load(name) for name in {sample.bank for sample in samples} if name}
    samples = [
        sample if sample.instruction or not sample.bank else banks[sample.bank].assign(sample) for sample in samples
    ]
    return [template.render(sample, sample.instruction).text + " " + sample.target for sample in samples]


def merge(run: str, output: str | None = None, share: float = 1.0) -> None:
    """Merge the adapter of a run into the weights of its base model.

    Programs without support for adapters can then load it.

    Args:
        run: Folder of a run that `robustlm fit` wrote, or of an adapter.
        output: Folder for the model (safetensors, tokenizer, card); by default `merged` beside the adapter.
        share: Share of the way from the base model's weights to the tuned ones: 1 for the tuned model. Below 1, only
            for LoRA.
    """
    from robustlm.adapters.merging import merge

    if output is not None:
        check_folder("output", output)
    print(f"merged model: {merge(run, output, share)}")
