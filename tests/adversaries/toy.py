"""A small attention model in float64, problems made of it, and the adversaries that tests run over."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustlm import adversaries
from robustlm.adversaries import FGM, NRM, PGD, Adversary, FreeLB, Problem

torch.set_num_threads(1)

REGISTRY: list[type[Adversary]] = [
    value
    for name in adversaries.__all__
    if inspect.isclass(value := getattr(adversaries, name))
    and issubclass(value, Adversary)
    and not inspect.isabstract(value)
]
VARIANTS: list[Adversary] = [cls() for cls in REGISTRY] + [
    NRM(ascent="clean"),
    NRM(norm="token", init_scale=1),
    NRM(norm="linf"),
    NRM(scale_radius_by_beta=True),
    NRM(ascent="clean", scale_radius_by_beta=True, scale_start_by_beta=False),
    NRM(ascent="clean", token_share=0.5, init_scale=1),
    NRM(target_gap=0.1),
    NRM(low_memory=True),
    PGD(low_memory=True),
    NRM(unit="absolute", alpha=1e-3, norm="batch", project=False),
    FGM(norm="token"),
    PGD(norm="linf", random_start=False, steps=2),
    FreeLB(steps=2, norm="linf"),
]


def fresh(adversary: Adversary) -> Adversary:
    """A copy without the state that other tests left."""
    fields = {name: value for name, value in vars(adversary).items() if not name.startswith("_")}
    wanted = inspect.signature(type(adversary)).parameters
    return type(adversary)(**{name: value for name, value in fields.items() if name in wanted})


class Toy(nn.Module):
    """Embeds, mixes positions by attention over the real ones, and classifies from the mix."""

    def __init__(self, tied: bool = False, vocabulary: int = 13, hidden: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.table = weight(vocabulary, hidden)
        self.inner = weight(hidden, hidden)
        self.query = weight(hidden)
        self.head = self.table if tied else weight(vocabulary, hidden)

    def rows(self, embeds: Tensor, attention: Tensor, labels: Tensor) -> Tensor:
        states = (embeds @ self.inner.to(embeds.dtype)).tanh()
        scores = (states @ self.query.to(embeds.dtype)).masked_fill(~attention, -1e4)
        mixed = (scores.softmax(1)[:, :, None] * states).sum(1)
        logits = mixed @ self.head.to(embeds.dtype).T
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return nn.functional.cross_entropy(wide, labels, reduction="none")


LENGTHS = (5, 3, 7, 4)


def problem(
    model: Toy,
    lengths: Sequence[int] = LENGTHS,
    rows: Sequence[int] | None = None,
    pad: int = 0,
    train_table: bool = False,
    dtype: torch.dtype = torch.float64,
    beta: Sequence[float] | None = None,
) -> Problem:
    """Rows of the given lengths, padded on the left; the first and the last real token are left alone."""
    rows = range(len(lengths)) if rows is None else rows
    width = max(lengths[row] for row in rows) + pad
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    attention = torch.zeros(len(rows), width, dtype=torch.bool)
    for place, row in enumerate(rows):
        tokens = torch.randint(13, (lengths[row],), generator=torch.Generator().manual_seed(100 + row))
        ids[place, width - lengths[row] :] = tokens
        attention[place, width - lengths[row] :] = True
    mask = attention & attention.roll(1, 1)
    mask[:, 0] = False
    mask[:, -1] = False
    labels = torch.tensor([row % 13 for row in rows])
    embeds = model.table[ids].to(dtype)
    return Problem(
        embeds=embeds if train_table else embeds.detach(),
        mask=mask,
        loss=lambda embeds: model.rows(embeds, attention, labels),
        beta=torch.tensor([0.1 * row for row in rows] if beta is None else list(beta)),
        seeds=torch.tensor([1000 + row for row in rows]),
        scale=model.table.detach().norm(dim=1).mean().float(),
        parameters=list(model.parameters()),
    )


def uniform_by_hand(seed: int, positions: int, hidden: int) -> Tensor:
    """The noise of a row, `[positions, hidden]`: SplitMix64 in plain integers, two numbers of 24 bits from each."""

    def mixed(value: int) -> int:
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    def row(position: int) -> list[float]:
        pairs = (hidden + 1) // 2
        counters = range(position * pairs, (position + 1) * pairs)
        hashes = [mixed((mixed(seed % 2**64) + 0x9E3779B97F4A7C15 * counter) % 2**64) for counter in counters]
        bits = [part for one in hashes for part in (one >> 40, one >> 16 & 0xFFFFFF)]
        return [(2 * one + 1 - 2**24) / 2**24 for one in bits[:hidden]]

    return torch.tensor([row(position) for position in range(positions)], dtype=torch.float64)
