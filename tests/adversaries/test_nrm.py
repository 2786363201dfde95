import copy
import math
from dataclasses import replace

import pytest
import torch

from robustlm.adversaries import FGM, NRM, NEFTune, Problem
from robustlm.adversaries.autograd import ascent_gradient
from robustlm.adversaries.geometry import Norm, size

from .toy import Toy, problem, uniform_by_hand


def wide(beta: float, rows: int = 64) -> Problem:
    """Rows of 40 perturbed tokens of 32 coordinates, with a smooth loss."""
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(rows, 44, 32, generator=generator)
    weights = torch.randn(32, 8, generator=generator)
    mask = torch.ones(rows, 44, dtype=torch.bool)
    mask[:, -4:] = False
    return Problem(
        embeds=embeds,
        mask=mask,
        loss=lambda e: (e @ weights).tanh().mean(1).square().sum(1),
        beta=torch.full((rows,), beta),
        seeds=torch.arange(rows),
        scale=torch.tensor(3.0),
    )


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.8, 0.82])
def test_start_is_outside_the_ball_and_projection_binds(beta: float) -> None:
    outcome = NRM(epsilon=0.7).attack(wide(beta))
    assert outcome.logs["init_radius"].item() == pytest.approx(10 / math.sqrt(3) * (1 - beta), rel=0.02)
    assert outcome.logs["clipped_share"] == 1
    assert outcome.delta is not None
    assert torch.allclose(size(outcome.delta, "row"), torch.tensor(0.7 * 3.0), rtol=1e-6)


def test_beta_turns_delta_towards_the_gradient() -> None:
    cosines = [NRM().attack(wide(beta)).logs["gradient_cosine"].item() for beta in (0.0, 0.5, 0.8, 0.95, 1.0)]
    assert cosines == sorted(cosines)
    assert cosines[0] < 0.3
    assert cosines[-1] == pytest.approx(1, abs=1e-6)


def test_beta_of_one_is_fgm() -> None:
    at = wide(1.0)
    outcome = NRM(epsilon=0.7).attack(at)
    gradient = ascent_gradient(at, torch.zeros_like(at.embeds))
    assert outcome.logs["init_radius"] == 0
    assert outcome.delta is not None
    assert torch.allclose(outcome.delta, 0.7 * 3 * gradient / size(gradient, "row"), atol=1e-7)


@pytest.mark.parametrize("ascent", ["full", "clean"])
def test_without_a_start_it_is_fgm(ascent: str) -> None:
    at = problem(Toy())
    ours = NRM(epsilon=0.3, init_scale=0, ascent=ascent).attack(at)
    theirs = FGM(epsilon=0.3).attack(at)
    assert ours.delta is not None
    assert theirs.delta is not None
    assert torch.allclose(ours.delta, theirs.delta, rtol=1e-12)


@pytest.mark.parametrize("norm", ["row", "token", "linf"])
def test_radius_may_follow_beta(norm: Norm) -> None:
    at = problem(Toy(), beta=[0.0, 0.5, 0.9, 1.0])
    outcome = NRM(epsilon=0.5, norm=norm, scale_radius_by_beta=True).attack(at)
    assert outcome.delta is not None
    unit = at.scale / (math.sqrt(6) if norm == "linf" else 1)
    found = size(outcome.delta, norm).flatten(1).amax(1) / unit
    assert torch.allclose(found.float(), torch.tensor([0.5, 0.25, 0.05, 0.0]), rtol=1e-5)


@pytest.mark.parametrize("norm", ["row", "token", "linf", "batch"])
@pytest.mark.parametrize("init_scale", [0.0, 1.0, 10.0])
def test_delta_lies_in_the_ball(norm: Norm, init_scale: float) -> None:
    at = problem(Toy())
    outcome = NRM(epsilon=0.5, alpha=3.0, norm=norm, init_scale=init_scale).attack(at)
    assert outcome.delta is not None
    radius = 0.5 * at.scale.item() / (math.sqrt(6) if norm == "linf" else 1)
    assert size(outcome.delta, norm).max() <= radius * (1 + 1e-6)


def test_gradient_against_finite_differences() -> None:
    at = problem(Toy())
    delta = 0.1 * torch.randn(at.embeds.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradient = ascent_gradient(at, delta)
    for row, place, coordinate in at.mask[:, :, None].expand_as(gradient).nonzero().tolist():
        nudge = torch.zeros_like(delta)
        nudge[row, place, coordinate] = 1e-5
        slope = (at.loss(at.embeds + delta + nudge) - at.loss(at.embeds + delta - nudge)).sum() / 2e-5
        assert gradient[row, place, coordinate].item() == pytest.approx(slope.item(), abs=1e-9)
    assert (gradient[~at.mask] == 0).all()


def test_equation_seven_by_hand() -> None:
    at = problem(Toy(), beta=[0.0, 0.4, 0.8, 1.0])
    outcome = NRM(epsilon=0.5, alpha=0.2).attack(at)
    assert outcome.delta is not None
    for row in range(4):
        count = int(at.mask[row].sum())
        noise = uniform_by_hand(int(at.seeds[row]), count, 6)
        start = torch.zeros_like(at.embeds)
        start[row, at.mask[row]] = 10 / math.sqrt(count * 6) * 0.5 * at.scale * noise * (1 - at.beta[row].double())
        gradient = ascent_gradient(at, start)[row]
        step = start[row] + 0.2 * at.scale * gradient / gradient.norm()
        expected = step * min(1.0, 0.5 * at.scale.item() / step.norm().item())
        assert torch.allclose(outcome.delta[row], expected, rtol=1e-6, atol=1e-12)


def start_by_hand(at: Problem, row: int, scale: float, epsilon: float) -> torch.Tensor:
    """The random start of a row `[T, H]` without any factor of β."""
    count = int(at.mask[row].sum())
    start = torch.zeros_like(at.embeds[row])
    noise = uniform_by_hand(int(at.seeds[row]), count, 6)
    start[at.mask[row]] = scale / math.sqrt(count * 6) * epsilon * at.scale.double() * noise
    return start


@pytest.mark.parametrize("init_scale", [10.0, 0.5])
@pytest.mark.parametrize("norm", ["row", "token", "linf"])
def test_beta_on_the_radius_alone_by_hand(norm: Norm, init_scale: float) -> None:
    at = problem(Toy(), beta=[0.0, 0.4, 0.8, 1.0])
    adversary = NRM(
        epsilon=0.5,
        alpha=0.2,
        norm=norm,
        init_scale=init_scale,
        ascent="clean",
        scale_start_by_beta=False,
        scale_radius_by_beta=True,
    )
    delta = adversary.attack(at).delta
    assert delta is not None
    gradient = ascent_gradient(at, torch.zeros_like(at.embeds))
    unit = at.scale.double() / (math.sqrt(6) if norm == "linf" else 1)
    for row in range(4):
        radius = float(0.5 * unit * (1 - at.beta[row].double()))
        start, slope = start_by_hand(at, row, init_scale, 0.5), gradient[row]
        expected = torch.zeros_like(start)
        for place in at.mask[row].nonzero().flatten().tolist():
            if norm == "linf":
                for one in range(6):
                    moved = float(start[place, one] + 0.2 * unit * slope[place, one].sign())
                    expected[place, one] = min(max(moved, -radius), radius)
                continue
            length = slope.norm() if norm == "row" else slope[place].norm()
            expected[place] = start[place] + 0.2 * unit * slope[place] / length
            if norm == "token":
                expected[place] *= min(1.0, radius / expected[place].norm().item())
        if norm == "row":
            expected *= min(1.0, radius / expected.norm().item())
        assert torch.allclose(delta[row], expected, rtol=1e-6, atol=1e-7)  # the root of N is in fp32


def test_beta_may_change_nothing() -> None:
    adversary = NRM(scale_start_by_beta=False)
    ours, theirs = adversary.attack(problem(Toy(), beta=[0.9] * 4)), NRM().attack(problem(Toy(), beta=[0.0] * 4))
    assert torch.equal(ours.adversarial, theirs.adversarial)


@pytest.mark.parametrize("beta_on_radius", [False, True])
@pytest.mark.parametrize(("init_scale", "share"), [(0.0, 0.3), (0.0, 0.9), (1.0, 0.5), (10.0, 0.5), (10.0, 0.1)])
def test_balls_of_tokens_in_the_ball_of_the_row_by_hand(init_scale: float, share: float, beta_on_radius: bool) -> None:
    at = problem(Toy(), beta=[0.0, 0.4, 0.8, 1.0])
    adversary = NRM(
        epsilon=0.5, init_scale=init_scale, ascent="clean", token_share=share, scale_radius_by_beta=beta_on_radius
    )
    outcome = adversary.attack(at)
    assert outcome.delta is not None
    gradient = ascent_gradient(at, torch.zeros_like(at.embeds))
    for row in range(4):
        keep = 1 - at.beta[row].double().item()
        radius = 0.5 * at.scale.item() * (keep if beta_on_radius else 1)
        expected = start_by_hand(at, row, init_scale, 0.5) * keep
        expected += 0.5 * at.scale.double() * gradient[row] / gradient[row].norm()
        for place in range(expected.shape[0]):
            length = expected[place].norm().item()
            if length > share * radius:
                expected[place] *= share * radius / length
        if expected.norm().item() > radius:
            expected *= radius / expected.norm().item()
        assert torch.allclose(outcome.delta[row], expected, rtol=1e-6, atol=1e-7)
        assert size(outcome.delta, "token")[row].max().item() <= share * radius * (1 + 1e-6)
        assert outcome.delta[row].norm().item() <= radius * (1 + 1e-6)
    assert (outcome.delta[~at.mask] == 0).all()
    binds = size(NRM(epsilon=0.5, init_scale=init_scale, ascent="clean").attack(at).delta, "token").amax(1) > share / 2
    assert binds.any(), "the case does not test the balls of tokens"


def test_balls_of_tokens_move_with_the_controller() -> None:
    adversary = NRM(target_gap=0.15, init_scale=1.0, token_share=0.3)
    for _ in range(100):
        outcome = adversary.attack(steady(0.1))
    assert outcome.delta is not None
    longest = size(outcome.delta, "token").max().item()
    assert longest == pytest.approx(0.3 * outcome.logs["epsilon"].item(), rel=1e-5)


def test_released_form_is_neftune_at_ten() -> None:
    at = replace(wide(0.0), mask=torch.ones(64, 44, dtype=torch.bool))
    released = NRM(unit="absolute", epsilon=1, init_scale=10, norm="batch", alpha=5e-3, project=False).attack(at)
    noise = NEFTune(magnitude=10, unit="absolute").attack(at)
    assert released.delta is not None
    assert noise.delta is not None
    step = released.delta - noise.delta
    assert step.norm().item() == pytest.approx(5e-3, rel=1e-3)
    assert step.norm() / noise.delta.norm() < 2e-4
    assert released.logs["clipped_share"] == 0


def steady(strength: float, level: float = 2.0) -> Problem:
    """Rows whose loss is level + strength · the sum along one coordinate: the gap is linear in ε."""
    embeds = torch.zeros(8, 6, 4)
    return Problem(
        embeds=embeds,
        mask=torch.ones(8, 6, dtype=torch.bool),
        loss=lambda e: level + strength * e[:, :, 0].sum(1),
        beta=torch.zeros(8),
        seeds=torch.arange(8),
        scale=torch.tensor(1.0),
    )


@pytest.mark.parametrize("strength", [0.02, 0.1, 1.0])
def test_controller_reaches_the_target(strength: float) -> None:
    adversary = NRM(target_gap=0.15, init_scale=1.0)
    outcomes = [adversary.attack(steady(strength)) for _ in range(150)]
    shares = [(o.logs["loss_gap"] / 2).item() for o in outcomes[-30:]]
    assert sum(shares) / 30 == pytest.approx(0.15, rel=0.03)
    assert outcomes[0].logs["epsilon"] == 1


def test_controller_holds_the_ratio_of_means_when_losses_vary() -> None:
    adversary = NRM(target_gap=0.15, init_scale=1.0)
    levels = [0.1, 3.9] * 100
    gaps = [adversary.attack(steady(0.1, level)).logs["loss_gap"].item() for level in levels]
    assert sum(gaps[-60:]) / 60 / 2 == pytest.approx(0.15, rel=0.05)


def test_controller_moves_a_given_alpha_along() -> None:
    adversary = NRM(target_gap=0.15, alpha=0.5, init_scale=0, project=False)
    for _ in range(100):
        outcome = adversary.attack(steady(0.1))
    assert outcome.delta is not None
    norm = outcome.logs["delta_norm"].item()
    assert norm == pytest.approx(0.5 * outcome.logs["epsilon"].item(), rel=1e-5)


def test_controller_stays_in_reach_and_survives_nan() -> None:
    adversary = NRM(target_gap=0.5, gap_rate=1.0)
    for _ in range(20):
        outcome = adversary.attack(steady(0.0))
    assert outcome.logs["epsilon"].item() == pytest.approx(100, rel=1e-5)
    before = adversary.state_dict()["controller"]
    adversary.attack(replace(steady(0.1), loss=lambda e: e.sum((1, 2)) * math.nan))
    assert torch.equal(adversary.state_dict()["controller"], before)


def test_controller_resumes_exactly_and_rests_in_evaluation() -> None:
    adversary = NRM(target_gap=0.15)
    for _ in range(7):
        adversary.attack(steady(1.0))
    resumed = NRM(target_gap=0.15)
    resumed.load_state_dict(copy.deepcopy(adversary.state_dict()))
    with torch.no_grad():
        resumed.attack(steady(3.0))
    for _ in range(5):
        ours, theirs = adversary.attack(steady(1.0)), resumed.attack(steady(1.0))
        assert torch.equal(ours.adversarial, theirs.adversarial)
    assert torch.equal(adversary.state_dict()["controller"], resumed.state_dict()["controller"])


def test_state_of_another_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target_gap None has state \[\], but the checkpoint holds"):
        NRM().load_state_dict(NRM(target_gap=0.1).state_dict())
    with pytest.raises(ValueError, match="resume with the adversary"):
        NRM(target_gap=0.1).load_state_dict({})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": -1.0}, "NRM: epsilon is -1.0; expected a finite number ≥ 0"),
        ({"epsilon": math.nan}, "NRM: epsilon is nan"),
        ({"norm": "l2"}, "NRM: norm is 'l2'; expected one of row, token, linf, batch"),
        ({"unit": "cm"}, "NRM: unit is 'cm'; expected one of embedding, absolute"),
        ({"alpha": -0.1}, "NRM: alpha is -0.1; expected a finite number ≥ 0, or null"),
        ({"init_scale": math.inf}, "NRM: init_scale is inf"),
        ({"ascent": "half"}, "NRM: ascent is 'half'; expected one of full, clean"),
        (
            {"norm": "batch", "scale_radius_by_beta": True},
            "NRM: norm is 'batch'; expected row, token or linf",
        ),
        ({"project": False, "scale_radius_by_beta": True}, "NRM: project is False; expected true"),
        (
            {"scale_start_by_beta": False, "init_scale": 0.0},
            "NRM: init_scale is 0.0; expected a number > 0 with scale_st",
        ),
        ({"token_share": 0.0}, r"NRM: token_share is 0.0; expected a number in \(0, 1\), or null"),
        ({"token_share": 1.0}, "NRM: token_share is 1.0"),
        ({"token_share": math.nan}, "NRM: token_share is nan"),
        ({"token_share": 0.5, "project": False}, "NRM: project is False; expected true with token_share"),
        ({"token_share": 0.5, "norm": "token"}, "NRM: norm is 'token'; expected row or batch with token_share"),
        ({"token_share": 0.5, "norm": "linf"}, "NRM: norm is 'linf'; expected row or batch with token_share"),
        ({"target_gap": 0.0}, "NRM: target_gap is 0.0; expected a finite number > 0, or null"),
        ({"target_gap": 0.1, "epsilon": 0.0}, "NRM: epsilon is 0.0; expected a number > 0"),
        ({"gap_rate": 2.0}, r"NRM: gap_rate is 2.0; expected a number in \(0, 1\]"),
    ],
)
def test_fields_are_checked(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NRM(**fields)
