"""Losses over chunks of the logits: values and gradients are those of all logits at once, and less memory is used."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustlm.adversaries import FGM, NRM, PGD, Adversary, FreeAT, FreeLB, NEFTune
from robustlm.batch import InstructionBatch, View
from robustlm.losses import AnswerLoss, Direction, PairLosses, divergence, token_cross_entropy
from robustlm.models import answers
from robustlm.models.backbone import Backbone
from robustlm.models.heads import FEWEST, ROOM, LateLogits, Spending, by_token, chunk_length, spent
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, Tuning
from robustlm.modules import Alignment, Contrast, RobustTuning
from robustlm.modules.passes import Passes
from tests.tiny import SAMPLES, load, view_of

TUNINGS: dict[str, Tuning] = {
    "lora": LoRA(r=2, dropout=0.0),
    "lora on the head": LoRA(r=2, dropout=0.0, target_modules=["q_proj", "lm_head"]),
    "full": FullTuning(),
    "prefix": PrefixTuning(tokens=2),
}


def batch_of(backbone: Backbone, variants: int = 2) -> InstructionBatch:
    """Three rows, and one or two variants of each with the same answers."""
    longer = [replace(one, instruction=f"{one.instruction} now") for one in SAMPLES]
    both = [one for pair in zip(longer, SAMPLES, strict=True) for one in pair[:variants]]
    return InstructionBatch(
        raw=view_of(backbone, SAMPLES),
        ids=[one.id for one in SAMPLES],
        variant=view_of(backbone, both),
        beta=torch.full((len(both),), 0.2),
        seeds=torch.arange(len(both)),
    )


def module_of(backbone: Backbone, **settings: Any) -> RobustTuning:
    module = RobustTuning(backbone.name, **settings)
    module.backbone = backbone
    return module


def step(module: RobustTuning, batch: InstructionBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a training step, and its gradients."""
    torch.manual_seed(3)
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    return loss.detach(), found


class Largest(TorchDispatchMode):
    """Finds the most numbers in a tensor with one dimension of a given size."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = words
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, Tensor) and one.ndim > 1 and one.shape[-1] == self.words and one.shape[-2] != 32:
                self.found = max(self.found, one.numel())
        return out


# --- the losses themselves ------------------------------------------------------------------------------------------


def late(head: nn.Module, states: Tensor) -> LateLogits:
    weights = [*head.parameters()]
    return LateLogits(
        head, states, words=len(weights[0]), values=states.numel(), trained=any(p.requires_grad for p in weights)
    )


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
@pytest.mark.parametrize("detached", [False, True])
def test_values_and_gradients_of_each_token(trained: bool, direction: Direction, detached: bool) -> None:
    """In float64, with any weights of tokens, and two losses over the same states."""
    torch.manual_seed(0)
    head = nn.Linear(6, 11).double().requires_grad_(trained)
    own, other = (torch.randn(7, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    targets, weights = torch.randint(11, (7,)), torch.randn(2, 7, dtype=torch.float64)

    def apart(logits: Tensor, reference: Tensor) -> Tensor:
        return divergence(logits, reference, direction, temperature=1.7, detach_reference=detached)

    def losses(length: int | None) -> Tensor:
        lates = late(head, own), late(head, other)
        if length is None:
            logits = [one.whole() for one in lates]
            found = torch.stack([token_cross_entropy(logits[0], targets), apart(*logits)])
        else:
            found = torch.stack(
                [by_token(token_cross_entropy, lates[:1], [targets], length), by_token(apart, lates, [], length)]
            )
        return found

    leaves = [own, other, *(p for p in head.parameters() if trained)]
    wanted = losses(None)
    gradients = torch.autograd.grad((wanted * weights).sum(), leaves, allow_unused=True)
    assert (gradients[1] is None) is detached
    for length in (1, 3, 7):
        found = losses(length)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        first = torch.autograd.grad((found * weights).sum(), leaves, retain_graph=True, allow_unused=True)
        again = torch.autograd.grad((found * weights).sum(), leaves, allow_unused=True)
        for one, two, known in zip(first, again, gradients, strict=True):
            if known is None:
                assert one is None
                continue
            assert one is not None
            assert two is not None
            torch.testing.assert_close(one, known, rtol=1e-12, atol=1e-12)
            assert torch.equal(one, two)
    with torch.no_grad():
        assert torch.allclose(losses(3), wanted)
        assert not losses(3).requires_grad


@pytest.mark.parametrize("trained", [False, True])
def test_a_reference_without_a_graph_gets_no_gradient(trained: bool) -> None:
    head = nn.Linear(6, 11).double().requires_grad_(trained)
    own, other = (torch.randn(7, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with torch.no_grad():
        reference = late(head, other)
    assert not reference.whole().requires_grad
    pair = late(head, own), reference
    wanted = divergence(pair[0].whole(), reference.whole()).sum()
    found = by_token(divergence, pair, [], 2).sum()
    leaves = [own, *(p for p in head.parameters() if trained)]
    for one, known in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(one, known, rtol=1e-12, atol=1e-12)


def test_a_gradient_of_a_gradient_is_refused() -> None:
    head = nn.Linear(6, 11).requires_grad_(False)
    states, targets = torch.randn(7, 6, requires_grad=True), torch.randint(11, (7,))
    found = by_token(token_cross_entropy, [late(head, states)], [targets], 2).sum()
    with pytest.raises(RuntimeError, match=r"create_graph=True.*model\.chunk_logits to null"):
        torch.autograd.grad(found, states, create_graph=True)


SPENDING: dict[str, Spending] = {
    "answer": AnswerLoss(),
    **{
        f"{direction}, {'detached, ' * detached}{'answers' if both else temperature}": PairLosses(
            direction, temperature, detached, both
        )
        for direction in ("forward", "reverse", "js")
        for detached in (False, True)
        for temperature, both in ((1.0, True), (1.7, False))
    },
}


@pytest.mark.parametrize("name", SPENDING)
@pytest.mark.parametrize("head", [nn.Linear(6, 11), nn.Sequential(nn.Linear(6, 11), nn.Tanh())], ids=["linear", "tanh"])
def test_losses_that_overwrite_their_logits(name: str, head: nn.Module) -> None:
    """Each loss alone and all together have the values and gradients of plain losses, in float64."""
    torch.manual_seed(0)
    loss, head = SPENDING[name], copy.deepcopy(head).double().requires_grad_(False)
    many = 1 if name == "answer" else 2
    states = [torch.randn(7, 6, dtype=torch.float64, requires_grad=True) for _ in range(many)]
    count = many if "answer" in name else 0
    targets = [torch.randint(11, (7,)) for _ in range(count)]
    lates = [
        LateLogits(head, one, words=11, values=42, trained=False, linear=isinstance(head, nn.Linear)) for one in states
    ]
    wanted = loss(*(one.whole() for one in lates), *targets)
    weights = torch.randn(len(wanted), 7, dtype=torch.float64)
    for length in (1, 3, 7):
        found = spent(loss, lates, targets, length)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        for which in (*range(len(wanted)), None):
            factors = weights if which is None else weights * (torch.arange(len(wanted)) == which)[:, None]
            chosen = slice(None) if which is None else slice(which, which + 1)
            one, two = (
                torch.autograd.grad((torch.stack(x[chosen]) * factors[chosen]).sum(), states, retain_graph=True,
                                    allow_unused=True)
                for x in (found, wanted)
            )  # fmt: skip
            for ours, known in zip(one, two, strict=True):
                torch.testing.assert_close(torch.zeros(7, 6).double() if ours is None else ours,
                                           torch.zeros(7, 6).double() if known is None else known,
                                           rtol=1e-11, atol=1e-12)  # fmt: skip
    with torch.no_grad():
        assert all(torch.allclose(*pair) for pair in zip(spent(loss, lates, targets, 3), wanted, strict=True))


@pytest.mark.parametrize("loss", [AnswerLoss(), PairLosses(answers=True), PairLosses("js")], ids=str)
def test_words_that_are_ruled_out_and_extreme_logits(loss: Spending) -> None:
    """Logits of −∞ (padded vocabularies) and large ones give the finite numbers of the plain losses."""
    torch.manual_seed(0)
    head = nn.Linear(6, 11).requires_grad_(False)
    head.bias[3:5] = -torch.inf
    states = [(torch.randn(5, 6) * 300).requires_grad_() for _ in range(2 if isinstance(loss, PairLosses) else 1)]
    lates = [LateLogits(head, one, words=11, values=42, trained=False, linear=True) for one in states]
    targets = [torch.zeros(5, dtype=torch.int64)] * (0 if loss == PairLosses("js") else len(states))
    wanted, found = loss(*(one.whole() for one in lates), *targets), spent(loss, lates, targets, 2)
    torch.testing.assert_close(found, wanted)
    pairs = [torch.autograd.grad(torch.stack(x).sum(), states) for x in (found, wanted)]
    for one, known in zip(*pairs, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, known, rtol=1e-4, atol=1e-4)


def test_gradients_of_half_precision_do_not_vanish() -> None:
    """An unlikely word's share of the gradient is below the smallest fp16 number."""
    torch.manual_seed(0)
    head = nn.Linear(4, 50).requires_grad_(False).half()
    states = (torch.randn(3, 4) * 9).half().requires_grad_()
    targets = states.detach().float().matmul(head.weight.float().T).argmax(1)
    wanted = token_cross_entropy(late(head, states).whole(), targets).sum() * 1024
    found = by_token(token_cross_entropy, [late(head, states)], [targets], 2).sum() * 1024
    other = spent(AnswerLoss(), [late(head, states)], [targets], 2)[0].sum() * 1024
    (known,) = torch.autograd.grad(wanted, states)
    assert known.abs().max() > 0
    for total in (found, other):
        (one,) = torch.autograd.grad(total, states)
        torch.testing.assert_close(one, known, rtol=2e-3, atol=1e-3)


def test_how_many_tokens_a_chunk_has() -> None:
    head = nn.Linear(8, 1000)
    small, large = late(head, torch.zeros(500, 8)), late(head, torch.zeros(3000, 8))
    assert chunk_length([small], "auto") is None, "half a million logits are computed at once"
    assert chunk_length([large], None) is None
    assert chunk_length([large], "auto") == 1000, "three equal chunks of at most 2^20 logits"
    assert chunk_length([large, large], "auto") == 500, "of two views together"
    assert chunk_length([large], 1) == 1
    wide = late(head, torch.zeros(3000, 8))
    wide.values = 2 * 10**6
    assert chunk_length([wide], "auto") == 1500, "as many as hidden values in the pass"
    many = late(head, torch.zeros(30_000, 8))
    assert chunk_length([many], "auto", 1) == 7500, "four equal chunks of at most 2^23 logits"
    assert chunk_length([many, many], "auto", 4) == 2000, "both views and two more tensors as large"
    assert chunk_length([many], 1000, 1) == 1, "a number that was set counts logits"
    assert chunk_length([small], "auto", 1) is None
    assert 1000 * 7500 <= ROOM < 1000 * 10_000
    assert FEWEST < ROOM


# --- training steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adversary", [None, NRM(), NRM(ascent="clean"), FGM(), PGD(steps=2), FreeLB(), FreeAT(),
                                       NEFTune()], ids=str)  # fmt: skip
def test_steps_of_every_adversary(adversary: Adversary | None, llama: str) -> None:
    backbone = load(llama, TUNINGS["lora"])
    backbone.model.double()
    _same_step(backbone, adversary=adversary, contrast=Contrast(), alignment=Alignment(0.4, "js", temperature=1.5))


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("name", TUNINGS)
@pytest.mark.parametrize("more", [{}, {"chunk_rows": 2}], ids=["", "rows"])
def test_steps_of_every_tuning(kind: str, name: str, more: dict[str, Any], models: dict[str, str]) -> None:
    if kind == "t5" and name == "lora on the head":
        pytest.skip("T5 names its layers otherwise")
    backbone = load(models[kind], TUNINGS[name])
    backbone.model.double()
    _same_step(backbone, adversary=NRM(low_memory=False), alignment=Alignment(), contrast=Contrast(), **more)


def _same_step(backbone: Backbone, **settings: Any) -> None:
    """A step over chunks is the step over all logits, to float64; it never makes all logits."""
    batch = batch_of(backbone)
    words = backbone.config.get_text_config().vocab_size
    module = module_of(backbone, chunk_logits=None, **settings)
    with Largest(words) as whole:
        wanted, gradients = step(copy.deepcopy(module), batch)
    module.chunk_logits = 4 * words
    with Largest(words) as chunks:
        found, ours = step(module, batch)
    assert whole.found == len(batch.variant.layout.targets) * words  # type: ignore[union-attr]
    assert chunks.found <= 4 * words
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == ours.keys()
    assert gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"adversary": NRM(low_memory=True)},
        {"adversary": NRM(ascent="clean")},
        {"adversary": NRM(ascent="clean", low_memory=True)},
        {"adversary": FreeLB()},
        {"alignment": Alignment(direction="js", detach_reference=True)},
        {"chunk_rows": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_answers_and_divergence_share_their_logits(
    kind: str, settings: dict[str, Any], models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one variant of each row, a step runs the head once for each pass, and is the step of plain losses."""
    backbone = load(models[kind], TUNINGS["lora"])
    backbone.model.double()
    batch = batch_of(backbone, variants=1)
    module = module_of(backbone, **{"contrast": Contrast(), "alignment": Alignment()} | settings)
    module.chunk_logits = None
    wanted, gradients = step(module, batch)
    seen: list[int] = []
    plain = answers._logits

    def counted(head: nn.Module, states: Tensor) -> Tensor:
        if states.requires_grad:
            seen.append(len(states))
        return plain(head, states)

    monkeypatch.setattr(answers, "_logits", counted)
    module.chunk_logits = 4 * backbone.config.get_text_config().vocab_size
    found, ours = step(module, batch)
    n = len(batch.raw.layout.targets)
    adversary = settings.get("adversary")
    further = 0 if adversary is None else 1 if getattr(adversary, "ascent", "") == "clean" else 2
    assert sum(seen) == n * (2 + (adversary.steps if isinstance(adversary, FreeLB) else further))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == ours.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_steps_under_autocast_and_checkpointing(tuning: str, llama: str) -> None:
    backbone = load(llama, TUNINGS[tuning], gradient_checkpointing=True)
    batch = batch_of(backbone)
    results = []
    for most in (None, 1200):
        module = module_of(backbone, chunk_logits=most, adversary=NRM(), alignment=Alignment())
        with torch.autocast("cpu", torch.bfloat16):
            results.append(step(module, batch))
    (wanted, gradients), (found, ours) = results
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    size = max(float(one.abs().max()) for one in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=0.02 * size, msg=name)


def test_validation_computes_chunks(llama: str) -> None:
    backbone = load(llama, None)
    view, words = view_of(backbone, SAMPLES), backbone.config.get_text_config().vocab_size
    batch = InstructionBatch(raw=view, ids=["a", "b", "c"])
    with torch.no_grad():
        wanted = Passes(backbone, batch, chunk_logits=None).cross_entropy("raw")
        with Largest(words) as seen:
            found = Passes(backbone, batch, chunk_logits=3 * words).cross_entropy("raw")
    torch.testing.assert_close(found, wanted)
    assert seen.found <= 3 * words


def test_a_subclass_gets_all_logits_with_their_graph(llama: str) -> None:
    backbone = load(llama, TUNINGS["lora"])
    batch = batch_of(backbone)
    found = [Passes(backbone, batch, chunk_logits=most) for most in (None, 600)]
    logits = [passes.answers("raw").logits for passes in found]
    assert torch.equal(*logits)
    assert found[1].answers("raw").logits is logits[1], "computed once"
    first, second = (torch.autograd.grad(one.logsumexp(-1).sum(), backbone.trained) for one in logits)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert torch.equal(*(passes.reference_logits("variant") for passes in found))


# --- heads that cannot be split ------------------------------------------------------------------------------------


def _capped(backbone: Backbone) -> None:
    backbone.base.config.final_logit_softcapping = 2.0


def _hooked(backbone: Backbone) -> None:
    backbone.base.get_output_embeddings().register_forward_hook(lambda _m, _a, out: out * 2)


def _dropped(backbone: Backbone) -> None:
    backbone.base.set_output_embeddings(_Dropping(backbone.base.get_output_embeddings()))
    backbone.base.get_output_embeddings().register_forward_pre_hook(_answers_only)


class _Dropping(nn.Sequential):
    def __init__(self, head: nn.Module) -> None:
        head._forward_pre_hooks.clear()
        super().__init__(nn.Dropout(0.1), head)


def _mixed(backbone: Backbone) -> None:
    backbone.base.set_output_embeddings(_Mixing(backbone.base.get_output_embeddings()))
    backbone.base.get_output_embeddings().register_forward_pre_hook(_answers_only)


class _Mixing(nn.Module):
    """Logits that depend on all tokens of the pass."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        head._forward_pre_hooks.clear()
        self.head = head

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.head(states + states.sum(1, keepdim=True))
        return out


def _answers_only(*args: Any) -> Any:
    from robustlm.models.answers import _answers_only as hook

    return hook(*args)


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("gemma", _capped, "the model changes the logits after its head"),
        ("llama", _hooked, "other code has hooks on the head"),
        ("llama", _dropped, "the head has dropout"),
        ("llama", _mixed, "the head's logits of a token depend on other tokens"),
    ],
)
def test_other_heads_compute_all_logits_and_say_so_once(
    kind: str, change: Callable[[Backbone], None], reason: str, request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    backbone = load(request.getfixturevalue(kind), LoRA(r=2, dropout=0.0, target_modules=["q_proj"]))
    change(backbone)
    batch = batch_of(backbone)
    with caplog.at_level(logging.WARNING, "robustlm"):
        results = [
            step(module_of(backbone, chunk_logits=most, alignment=Alignment()), batch) for most in (None, 600, 600)
        ]
    assert [one.message.split("since ")[1] for one in caplog.records if "at once" in one.message] == [reason]
    (wanted, gradients), *others = results
    for found, ours in others:
        assert torch.equal(found, wanted)
        assert all(torch.equal(ours[name], one) for name, one in gradients.items())


def test_looking_at_the_head_changes_nothing(llama: str) -> None:
    """Neither random numbers nor modes: parts that a user has set to evaluation stay so."""
    backbone = load(llama, LoRA(r=2))
    backbone.train()
    backbone.base.get_decoder().layers[0].eval()
    modes = [module.training for module in backbone.modules()]
    view: View = view_of(backbone, SAMPLES)
    torch.manual_seed(5)
    wanted = backbone(view).logits
    after = torch.rand(3)
    torch.manual_seed(5)
    late_ones = backbone(view, late=True)
    assert late_ones.late is not None
    assert torch.equal(late_ones.logits, wanted)
    assert torch.equal(torch.rand(3), after)
    assert [module.training for module in backbone.modules()] == modes


def test_settings_are_checked(llama: str) -> None:
    with pytest.raises(ValueError, match=r"chunk_logits: found 0"):
        RobustTuning(llama, chunk_logits=0)
