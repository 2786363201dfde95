"""Losses against loops over single numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlm.losses import Direction, answer_cross_entropy, balance, cosine_similarity, divergence, info_nce

DIRECTIONS: list[Direction] = ["forward", "reverse", "js"]


def drawn(seed: int, *shape: int, size: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    weights = [math.exp((x - top) / temperature) for x in row]
    return [w / math.fsum(weights) for w in weights]


def kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive_divergence(a: list[float], b: list[float], direction: Direction, temperature: float) -> float:
    p, q = softmax(a, temperature), softmax(b, temperature)
    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    found = {"forward": kl(p, q), "reverse": kl(q, p), "js": (kl(p, middle) + kl(q, middle)) / 2}[direction]
    return found * temperature**2


def naive_info_nce(similarity: list[list[float]], positives: list[int], temperature: float) -> list[float]:
    """[CoIN] § 3.3, L_ctr as printed; candidates at −∞ are not there."""
    losses = []
    for row, own in zip(similarity, positives, strict=True):
        weights = [math.exp((s - row[own]) / temperature) for s in row if s > -math.inf]
        losses.append(math.log(math.fsum(weights)))
    return losses


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_divergence(direction: Direction, temperature: float) -> None:
    a, b = drawn(1, 7, 5, size=2), drawn(2, 7, 5, size=2)
    wanted = [naive_divergence(*pair, direction, temperature) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert divergence(a, b, direction, temperature=temperature).tolist() == pytest.approx(wanted, rel=1e-9)
    narrow = divergence(a.bfloat16(), b.bfloat16(), direction, temperature=temperature)
    assert narrow.dtype == torch.float32
    exact = divergence(a.bfloat16().double(), b.bfloat16().double(), direction, temperature=temperature)
    assert torch.allclose(narrow.double(), exact, atol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_divergence_has_its_gradient(direction: Direction) -> None:
    a, b = drawn(1, 3, 4).requires_grad_(), drawn(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: divergence(x, y, direction, temperature=2.0), (a, b))
    fixed = divergence(a, b, direction, detach_reference=True).sum()
    one, other = torch.autograd.grad(fixed, (a, b), allow_unused=True)
    assert other is None
    assert torch.allclose(one, torch.autograd.grad(divergence(a, b.detach(), direction).sum(), a)[0])


def test_the_temperature_keeps_the_size_of_gradients() -> None:
    """To first order in 1/T the gradient of T²·KL is that of the squared difference of centred logits, whatever T."""
    a, b = drawn(1, 6, 5), drawn(2, 6, 5)
    sizes = []
    for temperature in (100.0, 1000.0):
        leaf = a.clone().requires_grad_()
        divergence(leaf, b, temperature=temperature).sum().backward()
        assert leaf.grad is not None
        sizes.append(leaf.grad)
    assert torch.allclose(*sizes, rtol=0.05, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1e-3, 1.0, 30.0, 1e4, 1e8]), words=st.integers(1, 9))
def test_what_holds_for_every_divergence(seed: int, size: float, words: int) -> None:
    a, b = (drawn(seed + at, 4, words, size=size).float() for at in (0, 1))
    for direction in DIRECTIONS:
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        found = divergence(x, y, direction)
        assert found.isfinite().all()
        assert (found >= -1e-5).all()
        assert (divergence(a, a, direction).abs() <= 1e-6).all()
        assert (divergence(a, a + 3.0, direction).abs() <= 1e-4 * max(1.0, size)).all()
        found.sum().backward()
        assert x.grad is not None
        assert y.grad is not None
        assert x.grad.isfinite().all()
        assert y.grad.isfinite().all()
        if words > 1 and size == 1.0:
            assert (found > 0).all()
    js = divergence(a, b, "js")
    assert torch.allclose(js, divergence(b, a, "js"), atol=1e-6)
    assert (js <= math.log(2) + 1e-6).all()


def test_words_that_a_head_rules_out_are_no_difference() -> None:
    """Heads that set some logits to −∞ (padded vocabularies) do so under every phrasing."""
    a, b = drawn(1, 3, 6), drawn(2, 3, 6)
    out = torch.full((3, 2), -math.inf, dtype=torch.float64)
    for direction in DIRECTIONS:
        x, y = (torch.cat([values, out], dim=1).requires_grad_() for values in (a, b))
        found = divergence(x, y, direction)
        assert torch.allclose(found, divergence(a, b, direction))
        for grad in torch.autograd.grad(found.sum(), (x, y)):
            assert grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_info_nce(temperature: float) -> None:
    anchors, candidates = drawn(3, 6, 8), drawn(4, 11, 8)
    similarity = cosine_similarity(anchors, candidates)
    for i in range(6):
        for j in range(11):
            a, b = anchors[i].tolist(), candidates[j].tolist()
            dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
            assert float(similarity[i, j]) == pytest.approx(dot / math.hypot(*a) / math.hypot(*b))
    positives = torch.tensor([0, 3, 3, 10, 7, 1])
    excluded = drawn(5, 6, 11) > 0.3
    excluded[torch.arange(6), positives] = False
    excluded[4] = True
    excluded[4, 7] = False  # nothing left to compare with
    masked = similarity.masked_fill(excluded, -math.inf)
    wanted = naive_info_nce(masked.tolist(), positives.tolist(), temperature)
    assert info_nce(masked, positives, temperature).tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert wanted[4] == 0


def test_info_nce_has_its_gradient() -> None:
    anchors, candidates = drawn(3, 4, 5).requires_grad_(), drawn(4, 6, 5).requires_grad_()
    positives = torch.tensor([0, 1, 2, 3])
    excluded = torch.zeros(4, 6, dtype=torch.bool)
    excluded[0, 1:] = True  # this anchor has no one but its partner
    excluded[2, [0, 5]] = True

    def loss(a: Tensor, c: Tensor) -> Tensor:
        return info_nce(cosine_similarity(a, c).masked_fill(excluded, -math.inf), positives, 0.5)

    assert torch.autograd.gradcheck(loss, (anchors, candidates))
    (alone,) = torch.autograd.grad(loss(anchors, candidates)[0], anchors)
    assert not alone.any()


def test_states_of_zero_and_of_half_precision() -> None:
    zero = torch.zeros(2, 4, requires_grad=True)
    cosine_similarity(zero, torch.eye(4)).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()
    large = torch.full((1, 4), 6e4, dtype=torch.float16)  # its square is no fp16 number
    assert cosine_similarity(large, large).tolist() == [[pytest.approx(1.0)]]


@pytest.mark.parametrize(
    ("reference", "loss", "limit", "wanted"),
    [
        (2.0, 0.5, 1000.0, 4.0),
        (2.0, 0.5, 3.0, 3.0),  # the smaller of both: an upper bound
        (0.5, 2.0, 3.0, 0.25),
        (2.0, 0.0, 1000.0, 1000.0),
        (0.0, 2.0, 1000.0, 0.0),
        (0.0, 0.0, 1000.0, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_balance(reference: float, loss: float, limit: float, wanted: float, dtype: Any) -> None:
    sides = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (reference, loss)]
    found = balance(*sides, limit)
    assert float(found) == pytest.approx(wanted)
    assert not found.requires_grad


def test_cross_entropy_of_rows_without_answers() -> None:
    logits, targets, rows = drawn(1, 4, 6).requires_grad_(), torch.tensor([1, 5, 0, 2]), torch.tensor([0, 0, 2, 2])
    found = answer_cross_entropy(logits, targets, rows, 4)
    single = [-math.log(softmax(row)[at]) for row, at in zip(logits.tolist(), targets.tolist(), strict=True)]
    assert found.tolist() == pytest.approx([single[0] + single[1], 0, single[2] + single[3], 0])
    assert torch.autograd.gradcheck(lambda x: answer_cross_entropy(x, targets, rows, 4), (logits,))
