"""The small commands beside training and testing; each is a typed function, whose arguments become options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from robustlm.data.distortion import RBE, Distortion
from robustlm.data.noise import Noise
from robustlm.quickstart import quickstart

Architecture = Literal["llama", "t5"]
"""As in `robustlm.data.scratch`, which would bring transformers along for `--help`."""


def noise(
    input: str,
    output: str,
    kind: str = "mixed",
    omega: float = 0.2,
    phi: float = 1.0,
    distortion: Distortion = RBE(),  # noqa: B008 - read only
    seed: int = 0,
    epoch: int = 0,
) -> None:
    """Write rows with noisy variants of their instructions, and how distorted those are.

    Args:
        input: Rows with instructions, in any file format.
        output: Where they go, with `variant`, `noise_kind` and `distortion` added; the ending says the format.
        kind: Kind of noise, or `mixed`.
        omega: Share of an instruction's words that noise touches, in [0, 1].
        phi: Share of rows that get noise, in [0, 1].
        distortion: `RBE` (word edits) or `LME` (embeddings).
        seed: Seed of the noise.
        epoch: Noise differs from epoch to epoch.
    """
    from robustlm.data.noise_rows import noise_rows

    print(noise_rows(input, output, noise=Noise(kind, omega, phi), distortion=distortion, seed=seed, epoch=epoch))


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
) -> None:
    """Make a tokenizer and a model config from rows, to be trained from scratch.

    Args:
        folder: Where they go; `robustlm fit --model.backbone FOLDER --model.loading.scratch true` trains it.
        rows: Files, folders with splits, or `builtin:quickstart`, whose texts and instructions the tokenizer learns.
        split: Which split of folders and of the built-in corpus (`pretrain` for a model that shall be tuned later).
        vocab_size: Tokens of the tokenizer.
        hidden_size: Width of the model.
        layers: Its layers; T5 has as many in the encoder as in the decoder.
        heads: Attention heads of a layer.
        intermediate_size: Width of the MLPs.
        initializer_range: Standard deviation of random weights, 0.08 where not given; T5 has rules of its own.
        architecture: `llama` (decoder only) or `t5` (encoder–decoder).
    """
    from pathlib import Path

    from robustlm.data.instructions import InstructionBank
    from robustlm.data.scratch import build
    from robustlm.data.sources import Source, load_all
    from robustlm.data.templates import PlainTemplate

    template = PlainTemplate()
    samples = load_all([Source(row, split=None if Path(row).is_file() else split) for row in rows], "train")
    banks = {name: InstructionBank.load(name) for name in {sample.bank for sample in samples} if name}
    samples = [
        sample if sample.instruction or not sample.bank else banks[sample.bank].assign(sample) for sample in samples
    ]
    texts = [template.render(sample, sample.instruction).text + " " + sample.target for sample in samples]
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


def compare(
    runs: list[str],
    output: str | None = None,
    title: str = "mean score over tasks, %",
    tasks: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Print the scores of several runs side by side, and draw them.

    Args:
        runs: Folders of runs that `robustlm test` wrote, or their prediction tables; `name=path` names one.
        output: Folder for `comparison.md` and `comparison.png`; none is written where not given.
        title: Heading of the table.
        tasks: Import paths of tasks of your own among the answers.
    """
    from pathlib import Path

    from robustlm.data.tasks import resolve_task
    from robustlm.report.comparison import draw, load_runs
    from robustlm.report.tables import markdown

    for task in tasks:
        resolve_task(task)
    found = load_runs(runs)
    table = markdown(title, found)
    print(table)
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.md").write_text(table + "\n", encoding="utf-8")
        draw(found, folder / "comparison.png")
        print(f"\ntable: {folder / 'comparison.md'}\npicture: {folder / 'comparison.png'}")


COMMANDS: dict[str, Callable[..., Iterable[list[str]] | None]] = {
    "noise": noise,
    "init": init,
    "compare": compare,
    "quickstart": quickstart,
}
"""Commands by name; `robustlm NAME --help` shows the arguments. One made of other commands yields their arguments."""
