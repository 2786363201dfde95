"""How hard the variants are that a selection chooses: `python -m benchmarks.choice`.

Of each training row of the built-in corpus, K noisy variants are made. The table says what the answers of the chosen
variant cost the shipped model, in nats per answer token: of a random one, of the one whose edits have the largest
gradients, and of the hardest one. Nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.datamodules.sampling import BatchKey
from robustlm.models.tuning import LoRA
from robustlm.modules import RobustTuning, Selection
from robustlm.noise.base import Noise

CHOICES: tuple[Selection, ...] = (Selection("random"), Selection("gradient"), Selection("hardest", bf16=False))


def losses_of(module: RobustTuning, data: NoisyInstructionDataModule, rows: int, size: int) -> dict[str, Tensor]:
    """For each choice, the loss of the chosen variant of each row, in nats per answer token: `[rows]`."""
    dataset = data.train_dataset(data.rows["train"])
    found: dict[str, list[Tensor]] = {how.choice: [] for how in CHOICES}
    for start in range(0, rows, size):
        batch = dataset[BatchKey(0, tuple(range(start, min(start + size, rows))))]
        for how in CHOICES:
            passes = module.passes(batch)
            chosen = passes.over(how.apply(passes)[0])
            with torch.no_grad():
                sums = chosen.row_losses("variant")
            found[how.choice].append(sums / torch.tensor(chosen.view("variant").layout.counts))
    return {name: torch.cat(parts) for name, parts in found.items()}


def table(found: dict[str, Tensor]) -> str:
    """Means, paired differences from the random choice, and their standard errors, in Markdown."""
    lines = ["| choice | nats a token | more than random | ± |", "|---|---|---|---|"]
    for name, losses in found.items():
        more = losses - found["random"]
        error = float(more.std() / len(more) ** 0.5)
        lines.append(f"| {name} | {losses.mean():.4f} | {more.mean():+.4f} | {error:.4f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kinds", nargs="+", default=["deepwordbug", "random_replacement"], help="kinds of noise")
    parser.add_argument("--omega", type=float, default=0.2, help="share of words that noise touches (%(default)s)")
    parser.add_argument("--variants", type=int, default=8, help="K (%(default)s)")
    parser.add_argument("--rows", type=int, default=256, help="rows (%(default)s)")
    parser.add_argument("--size", type=int, default=32, help="rows of a batch (%(default)s)")
    parser.add_argument("--backbone", default="builtin:tiny", help="model (%(default)s)")
    args = parser.parse_args(arguments)
    module = RobustTuning(args.backbone, tuning=LoRA())
    module.configure_model()
    module.eval()
    for kind in args.kinds:
        data = NoisyInstructionDataModule(
            train="builtin:quickstart", noise=Noise(kind, omega=args.omega), variants=args.variants, max_length=160
        )
        data.connect(module.backbone)
        data.setup("fit")
        print(f"{kind}, omega {args.omega:g}, the best of {args.variants} by each choice, {args.rows} rows")
        print(table(losses_of(module, data, args.rows, args.size)), flush=True)


if __name__ == "__main__":
    main()
