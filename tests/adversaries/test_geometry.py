import math

import pytest
import torch

from robustlm.adversaries import geometry
from robustlm.adversaries.geometry import Norm

from .toy import uniform_by_hand

NORMS: list[Norm] = ["row", "token", "linf", "batch"]
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
SEEDS = torch.tensor([7, -3, 2**62])


def draw(mask: torch.Tensor, seeds: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return geometry.uniform(torch.zeros(*mask.shape, 5, dtype=dtype), mask, seeds)


def longest(delta: torch.Tensor, norm: Norm) -> float:
    """The largest length found, by plain loops over vectors."""
    if norm == "linf":
        return max(abs(x) for x in delta.flatten().tolist())
    vectors = {"row": list(delta), "token": list(delta.flatten(0, 1)), "batch": [delta]}[norm]
    return max(math.sqrt(sum(x * x for x in vector.flatten().tolist())) for vector in vectors)


def test_noise_lies_in_the_unit_cube_on_the_mask() -> None:
    noise = draw(MASK, SEEDS)
    assert noise.abs().max() <= 1
    assert (noise[MASK] != 0).all()
    assert (noise[~MASK] == 0).all()


def test_noise_of_a_row_depends_on_its_seed_alone() -> None:
    noise = draw(MASK, SEEDS)
    padded = draw(torch.nn.functional.pad(MASK, (3, 1)), SEEDS)
    assert torch.equal(padded[:, 3:-1], noise)
    assert torch.equal(draw(MASK[1:2], SEEDS[1:2])[0], noise[1])
    assert torch.equal(draw(MASK.flip(0), SEEDS.flip(0)).flip(0), noise)
    assert not torch.equal(draw(MASK, SEEDS + 1), noise)


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw(MASK, SEEDS)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_splitmix_by_hand_in_every_dtype() -> None:
    for dtype in (torch.float32, torch.float64):
        noise = draw(MASK, SEEDS, dtype)
        for row, seed in enumerate(SEEDS.tolist()):
            found = noise[row][MASK[row]]
            assert torch.equal(found.double(), uniform_by_hand(seed, len(found), 5).reshape(-1, 5))


def test_noise_is_uniform_and_independent() -> None:
    """Neighbouring seeds, positions and coordinates, whose hashes differ in one bit, share nothing."""
    rows, positions, hidden = 64, 48, 128
    mask = torch.ones(rows, positions, dtype=torch.bool)
    noise = geometry.uniform(torch.zeros(rows, positions, hidden), mask, torch.arange(rows))
    values, count = noise.flatten().double(), noise.numel()
    assert abs(float(values.mean())) < 4 / math.sqrt(3 * count)
    assert abs(float(values.square().mean()) - 1 / 3) < 4 * math.sqrt(4 / 45 / count)
    expected = count / 256
    seen = torch.histc(values, 256, -1, 1)
    chi = float(((seen - expected).square() / expected).sum())
    assert abs(chi - 255) < 4 * math.sqrt(2 * 255)
    for dim in range(3):
        for step in (1, 2):
            near = (noise * noise.roll(step, dim)).double().mean()
            assert abs(float(near)) < 4 / (3 * math.sqrt(count))
    assert len(torch.unique(noise)) > 0.95 * 2**24 * -math.expm1(-count / 2**24)  # as few repeats as chance has


def test_noise_of_half_precision_embeddings_is_fp32() -> None:
    assert draw(MASK, SEEDS, torch.bfloat16).dtype == torch.float32


@pytest.mark.parametrize("norm", NORMS)
def test_projection_and_steps(norm: Norm) -> None:
    delta = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radius = torch.tensor(0.3, dtype=torch.float64)
    projected = geometry.project(delta, norm, radius)
    assert longest(projected, norm) == pytest.approx(0.3, rel=1e-12)
    assert torch.allclose(geometry.project(projected, norm, radius), projected, rtol=1e-12)
    inside = delta * 1e-3
    assert torch.equal(geometry.project(inside, norm, radius), inside)
    assert longest(geometry.steepest(delta, norm), norm) == pytest.approx(1, rel=1e-12)
    assert torch.equal(geometry.steepest(0 * delta, norm), 0 * delta)
    rise = (geometry.steepest(delta, norm) * delta).sum()
    lengths = {"row": geometry.size(delta, "row"), "token": geometry.size(delta, "token")}
    most = {"linf": delta.abs(), "batch": delta.norm(), **lengths}[norm].sum()
    assert rise.item() == pytest.approx(most.item(), rel=1e-12), "the dual norm, which no unit step exceeds"
    assert torch.equal(geometry.project(delta, norm, 0 * radius), 0 * delta)


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_lies_in_the_ball(norm: Norm) -> None:
    embeds = torch.zeros(3, 4, 5)
    start = geometry.ball_start(embeds, MASK, SEEDS, norm, torch.tensor(0.3))
    assert 0.1 * 0.3 < longest(start, norm) <= 0.3
    assert (start[~MASK] == 0).all()


@pytest.mark.parametrize(("norm", "expected"), [("row", [15, 10, 5]), ("token", 5), ("linf", 1), ("batch", 25)])
def test_dimension_counts_what_the_norm_takes_together(norm: Norm, expected: object) -> None:
    assert geometry.dimension(MASK, 5, norm).squeeze().tolist() == expected


def test_nonfinite_rows_are_zeroed_and_named() -> None:
    gradient = torch.ones(3, 2, 2)
    gradient[0, 1, 1] = math.nan
    gradient[2, 0, 0] = -math.inf
    kept, broken = geometry.drop_nonfinite(gradient)
    assert broken.tolist() == [True, False, True]
    assert kept.flatten(1).sum(1).tolist() == [0, 4, 0]


def test_sum_is_rounded_once_to_the_embeddings_dtype() -> None:
    embeds = torch.tensor([[[1.0]]], dtype=torch.bfloat16)
    delta = torch.tensor([[[0.003916]]])  # just over half a step at 1: a tie, and lost, if rounded first
    assert geometry.perturb(embeds, delta).dtype == torch.bfloat16
    assert geometry.perturb(embeds, delta).item() == (1 + delta).to(torch.bfloat16).item() > 1
