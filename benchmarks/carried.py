"""Whether a row's perturbation of one epoch is of use in the next: `python -m benchmarks.carried`.

Training rows of the built-in corpus get their noise of epoch 0 and that of epoch 1, as in a run. The gradient at the
embeddings of epoch 0 is carried to the tokens of epoch 1 that it fits: those of the longest common parts of both rows
(difflib), zero elsewhere. Nothing is trained between the two visits, which is the best case for what is carried.
Prints the loss gap L(f(X + δ), y) − L(f(X), y) in epoch 1 for δ of length ε along a random direction, along the carried
gradient and along the gradient of epoch 1 itself; the share of tokens that were matched; and the bytes of a row's δ.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

from robustlm.adversaries import Problem
from robustlm.adversaries.autograd import ascent_gradient, clean_row_losses, no_perturbation, row_losses
from robustlm.adversaries.base import embedding_unit
from robustlm.adversaries.geometry import perturb, steepest, uniform
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.datamodules.sampling import BatchKey
from robustlm.modules import ANIT
from robustlm.noise.base import Noise

WAYS = ("random", "carried", "own")


def visit(module: ANIT, data: NoisyInstructionDataModule, epoch: int, rows: Sequence[int]) -> tuple[Problem, Tensor]:
    """The variants of these rows in an epoch, as an adversary gets them, and their token ids `[R, T]`."""
    passes = module.passes(data.train_dataset(data.rows["train"])[BatchKey(epoch, tuple(rows))])
    return passes.problem("variant", "prompt"), passes.view("variant").input_ids


def carried(old: Tensor, old_ids: Tensor, old_mask: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """A row's perturbation `[T', H]` on the tokens of its next visit `[T, H]`, and how many tokens got one."""
    places, targets = old_mask.nonzero().flatten(), mask.nonzero().flatten()
    matcher = SequenceMatcher(None, old_ids[places].tolist(), ids[targets].tolist(), autojunk=False)
    found, matched = old.new_zeros(len(ids), old.shape[1]), 0
    for block in matcher.get_matching_blocks():
        found[targets[block.b : block.b + block.size]] = old[places[block.a : block.a + block.size]]
        matched += block.size
    return found, matched


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=96, help="rows (%(default)s)")
    parser.add_argument("--size", type=int, default=32, help="rows of a batch (%(default)s)")
    parser.add_argument("--epsilon", type=float, default=0.1, help="length of δ in mean embedding norms (%(default)s)")
    parser.add_argument("--omega", type=float, default=0.2, help="share of words that noise touches (%(default)s)")
    parser.add_argument("--backbone", default="builtin:tiny", help="model (%(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    module = ANIT(args.backbone, adversary=None)
    module.configure_model()
    module.eval()
    noise = Noise("mixed", omega=args.omega, phi=1.0)
    data = NoisyInstructionDataModule(train="builtin:quickstart", noise=noise, max_length=160)
    data.connect(module.backbone)
    data.setup("fit")
    gaps: dict[str, list[Tensor]] = {way: [] for way in WAYS}
    cosines: list[Tensor] = []
    matched = tokens = 0
    for start in range(0, args.rows, args.size):
        rows = range(start, min(start + args.size, args.rows))
        (first, first_ids), (second, ids) = (visit(module, data, epoch, rows) for epoch in (0, 1))
        old, own = (ascent_gradient(at, no_perturbation(at)) for at in (first, second))
        moved = torch.zeros_like(own)
        for row in range(len(rows)):
            moved[row], count = carried(old[row], first_ids[row], first.mask[row], ids[row], second.mask[row])
            matched += count
        tokens += int(second.mask.sum())
        random = uniform(second.embeds, second.mask, second.seeds)
        length = args.epsilon * embedding_unit(second, "embedding")
        with torch.no_grad():
            clean = clean_row_losses(second)
            for way, direction in zip(WAYS, (random, moved, own), strict=True):
                delta = length * steepest(direction, "row")
                gaps[way].append(row_losses(second, perturb(second.embeds, delta)) - clean)
        cosines.append(torch.cosine_similarity(moved.flatten(1), own.flatten(1)))
    print(f"{args.rows} rows, epsilon {args.epsilon:g}, {matched / tokens:.0%} of the tokens matched")
    print(f"cos(carried, own) {torch.cat(cosines).mean():.2f}")
    print("| δ along | loss gap of a row | ± |\n|---|---|---|")
    for way, parts in gaps.items():
        rows_gap = torch.cat(parts)
        print(f"| {way} | {rows_gap.mean():.3f} | {rows_gap.std() / len(rows_gap) ** 0.5:.3f} |")
    hidden = second.embeds.shape[2]
    print(f"{tokens / args.rows * hidden * 2 / 1024:.1f} KiB a row in half precision")


if __name__ == "__main__":
    main()
