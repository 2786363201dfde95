"""All methods in slots: each alone is its own method, and all together share their forward passes."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustlm.adversaries import FGM, FGSM, NRM, PGD, FreeAT, FreeLB, NEFTune
from robustlm.batch import InstructionBatch
from robustlm.datamodules import (
    ContrastiveDataModule,
    InstructionDataModule,
    NoisyInstructionDataModule,
    ParaphraseDataModule,
)
from robustlm.datamodules.sampling import BatchKey
from robustlm.models.backbone import Backbone
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning
from robustlm.modules import (
    ANIT,
    Alignment,
    AlignmentTuning,
    Contrast,
    ContrastiveTuning,
    InstructionTuning,
    RobustTuning,
)
from robustlm.noise.base import Noise
from robustlm.optim.config import AdamW
from tests.adversaries.test_shared import Activation, Token
from tests.tiny import Record, trainer, view_of, weights_of, write_rows

CONTRAST, ALIGNMENT = Contrast(temperature=0.1, symmetric=True), Alignment(weight=0.3, direction="js")
ADVERSARIES: dict[str, Any] = {
    "fgm": FGM(),
    "fgsm": FGSM(),
    "pgd": PGD(steps=2),
    "freelb": FreeLB(steps=2),
    "freeat": FreeAT(replays=2),
    "neftune": NEFTune(),
    "nrm": NRM(),
    "nrm_clean": NRM(ascent="clean"),
}


@pytest.fixture(scope="session")
def phrased_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows of a bank: 12 about a feeling, in short and longer texts."""
    texts = ["good people", "all bad", "in and", "every word is good here", "places", "text", "bad places in the text"]
    rows = [
        {
            "text": f"{texts[i % 7]} {i}",
            "label": ["positive", "negative"][i % 2],
            "labels": ["positive", "negative"],
            "task": "classification",
            "dataset": "mood",
            "id": f"m{i}",
        }
        for i in range(12)
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "phrased.jsonl", rows)


def data(file: str, **settings: Any) -> ContrastiveDataModule:
    return ContrastiveDataModule(
        **({"train": file, "batch_size": 4, "bank": "sentiment", "instructions": "concise"} | settings)
    )


def batch_of(module: Any, file: str, rows: int = 4, **settings: Any) -> InstructionBatch:
    module.configure_model()
    datamodule = data(file, **settings)
    datamodule.connect(module.backbone)
    datamodule.setup("fit")
    dataset = datamodule.train_dataset(datamodule.rows["train"])
    found = [row for unit in dataset.order(0) for row in unit]  # type: ignore[attr-defined]
    return dataset[BatchKey(0, tuple(found[:rows]))]


def fitted(folder: Path, module: Any, datamodule: Any) -> dict[str, Tensor]:
    trainer(folder, max_epochs=1, gradient_clip_val=0.5).fit(module, datamodule)
    return weights_of(module)


SLOTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "none": (InstructionTuning, {}),
    "adversary": (ANIT, {"adversary": NRM(), "adversarial_weight": 0.5}),
    "contrast": (ContrastiveTuning, {"contrast": CONTRAST}),
    "alignment": (AlignmentTuning, {"alignment": ALIGNMENT}),
}


@pytest.mark.parametrize("slot", SLOTS)
def test_each_slot_alone_is_its_own_method(slot: str, llama: str, phrased_file: str, tmp_path: Path) -> None:
    cls, settings = SLOTS[slot]
    found = []
    for kind in (cls, RobustTuning):
        module = kind(llama, tuning=LoRA(r=2, dropout=0.1), optimizer=AdamW(lr=1e-2), **settings)
        found.append(fitted(tmp_path, module, data(phrased_file, noise=Noise(), variants=2)))
    own, robust = found
    assert own.keys() == robust.keys()
    assert all(torch.allclose(value, robust[name], rtol=0, atol=1e-6) for name, value in own.items())
    plain = InstructionTuning(llama, tuning=LoRA(r=2, dropout=0.1), optimizer=AdamW(lr=1e-2))
    if slot != "none":
        other = fitted(tmp_path, plain, data(phrased_file, noise=Noise(), variants=2))
        assert any(not torch.allclose(value, other[name], atol=1e-4) for name, value in own.items())


@pytest.mark.parametrize(
    ("cls", "slot"),
    [(ContrastiveTuning, "contrast"), (AlignmentTuning, "alignment")],
)
def test_empty_slots_train_on_answers_alone(cls: Any, slot: str, llama: str, phrased_file: str, tmp_path: Path) -> None:
    """`alignment: null` is FT or PT of [ALIGN]; so is plain tuning on both views."""
    found = []
    for kind, more in ((cls, {slot: None}), (InstructionTuning, {"train_on": "both"})):
        module = kind(llama, tuning=LoRA(r=2), optimizer=AdamW(lr=1e-2), **more)
        found.append(fitted(tmp_path, module, data(phrased_file)))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_state_of_an_explicit_negative(llama: str, phrased_file: str) -> None:
    """The anchor's own instruction about another input, with another target: h⁻ of [CoIN], sec. 3.2."""
    module = ContrastiveTuning(llama, tuning=LoRA(r=2))
    module.configure_model()
    module.eval()
    datamodule = data(phrased_file, negatives=1)
    datamodule.connect(module.backbone)
    datamodule.setup("fit")
    samples = datamodule.rows["train"].samples
    dataset = datamodule.train_dataset(datamodule.rows["train"])
    for epoch in (0, 1):
        asked = dataset.asked(epoch)
        with torch.no_grad():
            found = module.passes(dataset[BatchKey(epoch, tuple(range(12)))]).answers("negative").state
            for i, state in enumerate(found):
                asked_so = [replace(other, instruction=asked[i]) for other in samples]
                states = module.backbone(view_of(module.backbone, asked_so)).state
                (drawn,) = torch.nonzero((states - state).abs().amax(1) < 1e-4).flatten().tolist()
                assert samples[drawn].target != samples[i].target
                assert samples[drawn].context.text != samples[i].context.text


class Counted:
    """Counts forward passes, and the rows in them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        forward = Backbone.forward

        def counted(backbone: Any, view: Any, *args: Any, **kwargs: Any) -> Any:
            self.rows.append(len(view))
            return forward(backbone, view, *args, **kwargs)

        monkeypatch.setattr(Backbone, "forward", counted)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"train_on": "both"}, 2),
        ({"contrast": CONTRAST, "alignment": ALIGNMENT}, 2),
        ({"contrast": CONTRAST, "alignment": ALIGNMENT, "train_on": "raw"}, 2),
        ({"contrast": CONTRAST, "negatives": 1}, 3),
        ({"contrast": CONTRAST, "alignment": ALIGNMENT, "adversary": NRM()}, 4),
        ({"contrast": CONTRAST, "alignment": ALIGNMENT, "adversary": FGM()}, 3),
        ({"contrast": CONTRAST, "adversary": NRM(ascent="clean")}, 3),
        ({"contrast": CONTRAST, "adversary": NRM(ascent="clean", low_memory=True)}, 3),
        ({"contrast": CONTRAST, "alignment": ALIGNMENT, "adversary": NRM(low_memory=True)}, 4),
        ({"alignment": ALIGNMENT, "adversary": NRM(ascent="clean"), "train_on": "raw"}, 3),
        ({"adversary": NRM()}, 3),
        ({"adversary": NRM(low_memory=True)}, 3),
        ({"adversary": NRM(ascent="clean")}, 2),
        ({}, 1),
    ],
)
def test_methods_share_their_passes(
    settings: dict[str, Any], passes: int, llama: str, phrased_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(settings)
    negatives = settings.pop("negatives", 0)
    module = RobustTuning(llama, tuning=LoRA(r=2), **settings)
    batch = batch_of(module, phrased_file, negatives=negatives)
    counted = Counted(monkeypatch)
    module.training_step(batch, 0).backward()
    assert len(counted.rows) == passes


@pytest.mark.parametrize(
    ("kind", "tuning", "adversary", "chunk"),
    [
        ("llama", LoRA(r=2, dropout=0.3), FGM(), None),
        ("llama", LoRA(r=2, dropout=0.3), NRM(ascent="clean"), 3),
        ("llama", FullTuning(), FGSM(), None),
        ("llama", FullTuning(), FGM(), 3),
        ("t5", LoRA(r=2), NRM(ascent="clean", norm="token"), None),
        ("llama", PrefixTuning(tokens=2), NRM(ascent="clean"), None),
    ],
)
def test_a_shared_clean_pass_has_the_gradient_of_its_own(
    kind: str,
    tuning: Any,
    adversary: Any,
    chunk: int | None,
    models: dict[str, str],
    phrased_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ascent gradient from the pass that contrast and alignment hold is that of a pass of the adversary's own."""
    torch.manual_seed(0)
    module = RobustTuning(
        models[kind], tuning=tuning, adversary=adversary, contrast=CONTRAST, alignment=ALIGNMENT, chunk_rows=chunk
    )
    batch = batch_of(module, phrased_file, variants=2)
    module.train()
    found = []
    for shared in (True, False):
        monkeypatch.setattr(RobustTuning, "holds_variants", shared)
        module.zero_grad()
        torch.manual_seed(1)
        counted = Counted(monkeypatch)
        loss = module.training_step(batch, 0)
        forward = len(counted.rows)
        loss.backward()
        monkeypatch.undo()
        found.append((forward, [loss.detach(), *(p.grad.clone() for p in module.backbone.trained)]))
    assert found[0][0] < found[1][0]
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "tuning", "adversary", "settings"),
    [
        ("llama", LoRA(r=2, dropout=0.3), NRM(), {"chunk_rows": 3}),
        ("llama", LoRA(r=2, dropout=0.3), NRM(ascent="clean"), {"chunk_logits": 1000}),
        ("llama", FullTuning(), NRM(), {}),
        ("llama", FullTuning(), NRM(ascent="clean"), {"contrast": None, "chunk_logits": 1000}),
        ("t5", LoRA(r=2), PGD(steps=2), {"alignment": None}),
        ("t5", FullTuning(), NRM(), {"train_on": "raw"}),
        ("llama", PrefixTuning(tokens=2), NRM(ascent="clean"), {"train_on": "variant"}),
    ],
)
def test_losses_whose_backward_pass_is_done_early(
    kind: str, tuning: Any, adversary: Any, settings: dict[str, Any], models: dict[str, str], phrased_file: str,
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """With `low_memory`, losses, logged values, gradients and the number of passes are the same; graphs go earlier."""
    gc.freeze()  # so that each `gc.collect` looks at objects of this test alone
    request.addfinalizer(gc.unfreeze)
    slots = {"contrast": CONTRAST, "alignment": ALIGNMENT, **settings}
    found, alive = [], []
    for low in (False, True):
        torch.manual_seed(0)
        strategy = replace(adversary, low_memory=low)
        module = RobustTuning(models[kind], tuning=tuning, adversary=strategy, **slots)
        batch = batch_of(module, phrased_file, variants=2)
        module.backbone.model.double()
        module.train()
        logged: dict[str, Any] = {}
        monkeypatch.setattr(module, "log_dict", lambda values, logged=logged, **_: logged.update(values))
        torch.manual_seed(1)
        Token.alive.clear()  # those of other tests
        counted, graphs = Counted(monkeypatch), _Graphs(module.backbone)
        loss = module.training_step(batch, 0)
        chunks = 3 if "chunk_rows" in settings else 1  # the last pass itself runs in parts, whose graphs stay
        alive.append(graphs.found[-chunks])
        loss.backward()
        monkeypatch.undo()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        found.append((len(counted.rows), {"loss": loss.detach(), **logged, **gradients}))
    (passes, wanted), (ours, values) = found
    assert passes == ours
    assert wanted.keys() == values.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(values[name], value, rtol=1e-9, atol=1e-10, msg=name)
    assert alive[1] == 0 < alive[0], "graphs of other passes when the last one starts"


class _Graphs:
    """Counts, at the start of each pass of a model, the graphs of earlier passes that are still alive."""

    def __init__(self, backbone: Any) -> None:
        self.found: list[int] = []
        backbone.base.get_decoder().register_forward_hook(self._after)
        backbone.base.get_decoder().register_forward_pre_hook(self._before)

    def _before(self, *_: object) -> None:
        gc.collect()
        self.found.append(len(Token.alive))

    def _after(self, _decoder: object, _args: object, out: Any) -> Any:
        out["last_hidden_state"] = Activation.apply(out[0])
        return out


def test_early_losses_must_keep_their_weights(llama: str, phrased_file: str) -> None:
    class Louder(RobustTuning):
        def losses(self, passes: Any) -> dict[str, Tensor]:
            found = super().losses(passes)
            return {**found, "contrast": 2 * found["contrast"]}

    module = Louder(llama, tuning=LoRA(r=2), adversary=NRM(low_memory=True), contrast=CONTRAST)
    loss = module.training_step(batch_of(module, phrased_file), 0)
    with pytest.raises(RuntimeError, match=r"already done .* low_memory to false"):
        loss.backward()


def test_a_subclass_reads_a_view_whose_graph_is_gone(llama: str, phrased_file: str) -> None:
    """Its own loss runs the view again, and has its gradient."""

    class Reads(RobustTuning):
        def losses(self, passes: Any) -> dict[str, Tensor]:
            found = super().losses(passes)
            return {**found, "mine": passes.answers("raw").logits.logsumexp(-1).mean()}

    found = []
    for low in (False, True):
        torch.manual_seed(0)
        module = Reads(llama, tuning=LoRA(r=2), adversary=NRM(low_memory=low), alignment=ALIGNMENT)
        module.training_step(batch_of(module, phrased_file), 0).backward()
        found.append([p.grad for p in module.backbone.trained])
    assert all(torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6) for ours, theirs in zip(*found, strict=True))


def test_a_pass_that_was_run_before_is_not_taken_for_a_shared_one(llama: str, phrased_file: str) -> None:
    """A subclass may read the variants first; the adversary then runs a pass of its own, and is still right."""

    class ReadsFirst(RobustTuning):
        def losses(self, passes: Any) -> dict[str, Tensor]:
            passes.answers("variant")
            return super().losses(passes)

    found = []
    for kind in (RobustTuning, ReadsFirst):
        torch.manual_seed(0)
        module = kind(llama, tuning=LoRA(r=2), adversary=FGM(), contrast=CONTRAST)
        module.training_step(batch_of(module, phrased_file), 0).backward()
        found.append([p.grad for p in module.backbone.trained])
    assert all(torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("name", ADVERSARIES)
def test_all_slots_with_every_adversary(name: str, llama: str, phrased_file: str, tmp_path: Path) -> None:
    record = Record()
    module = RobustTuning(
        llama, tuning=LoRA(r=2), adversary=ADVERSARIES[name], contrast=CONTRAST, alignment=ALIGNMENT,
        adversarial_weight=0.5,
    )  # fmt: skip
    module.configure_model()
    before = weights_of(module)
    replays = 2 if name == "freeat" else 1
    settings: dict[str, Any] = {"noise": Noise(phi=0.8), "variants": 2, "negatives": 1, "replays": replays}
    fitter = trainer(tmp_path, callbacks=[record], log_every_n_steps=1, limit_train_batches=replays)
    fitter.fit(module, data(phrased_file, **settings))
    logged = record.steps[-1]
    total = 0.7 * (logged["train/answer"] + 0.5 * logged["train/adversarial"]) + 0.3 * logged["train/alignment"]
    assert logged["train/loss"] == pytest.approx(total + logged["train/contrast"], rel=1e-5)
    assert logged["contrast/candidates"] > 4
    if name != "neftune":
        assert logged[f"{name.split('_')[0]}/delta_norm"] > 0
    after = weights_of(module)
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert all(not torch.equal(value, before[key]) for key, value in after.items() if "lora_B" in key)


@pytest.mark.parametrize(("kind", "tuning"), [("llama", FullTuning()), ("t5", PrefixTuning(tokens=2))])
def test_other_tunings(kind: str, tuning: Any, models: dict[str, str], phrased_file: str) -> None:
    """The gradient reaches all that is trained, whatever is trained."""
    module = RobustTuning(models[kind], tuning=tuning, adversary=NRM(), contrast=CONTRAST, alignment=ALIGNMENT)
    module.training_step(batch_of(module, phrased_file), 0).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.backbone.trained)


def test_data_that_cannot_serve(llama: str, train_file: str, phrased_file: str, tmp_path: Path) -> None:
    plain = InstructionDataModule(train=train_file)
    for module, word in (
        (ContrastiveTuning(llama), "ParaphraseDataModule"),
        (ContrastiveTuning(llama, train_on="raw"), "a contrast compares"),
        (AlignmentTuning(llama), "ParaphraseDataModule"),
        (AlignmentTuning(llama, train_on="raw"), "an alignment compares"),
        (RobustTuning(llama, contrast=Contrast(), train_on="raw"), "a contrast compares"),
        (RobustTuning(llama, alignment=Alignment(), train_on="raw"), "an alignment compares"),
        (RobustTuning(llama, adversary=FGM()), "variants"),
        (InstructionTuning(llama, train_on="variant"), "train_on: variant"),
        (InstructionTuning(llama, train_on="both"), "train_on: both"),
    ):
        with pytest.raises(ValueError, match=word):
            trainer(tmp_path).fit(module, plain)
    RobustTuning(llama).check_data(plain)
    with pytest.raises(ValueError, match=r"data\.replays"):
        RobustTuning(llama, adversary=FreeAT(replays=3)).check_data(NoisyInstructionDataModule(train=phrased_file))
    ContrastiveTuning(llama).check_data(ParaphraseDataModule(train=phrased_file))


# --- views larger than memory ----------------------------------------------------------------------------------


CHUNKED: dict[str, Any] = {
    "contrast": lambda name, **more: ContrastiveTuning(name, contrast=CONTRAST, **more),
    "alignment": lambda name, **more: AlignmentTuning(name, alignment=ALIGNMENT, **more),
    "nrm": lambda name, **more: RobustTuning(name, adversary=NRM(), contrast=CONTRAST, alignment=ALIGNMENT, **more),
    "clean": lambda name, **more: RobustTuning(name, adversary=NRM(ascent="clean"), contrast=CONTRAST, **more),
    "freelb": lambda name, **more: ANIT(name, adversary=FreeLB(steps=2), **more),
}


@pytest.mark.parametrize(("kind", "name"), [*(("llama", name) for name in CHUNKED), ("t5", "contrast"), ("t5", "nrm")])
def test_chunks_have_the_gradient_of_the_whole(kind: str, name: str, models: dict[str, str], phrased_file: str) -> None:
    found = []
    for chunk in (None, 3):
        torch.manual_seed(3)
        module = CHUNKED[name](models[kind], tuning=LoRA(r=2, dropout=0.0), chunk_rows=chunk)
        batch = batch_of(module, phrased_file, rows=5, batch_size=5, group_size=1, variants=2, negatives=1)
        torch.manual_seed(4)
        for p in module.backbone.trained:
            p.data.add_(torch.randn_like(p) * 0.1)
        module.eval()  # masks of the whole and of chunks would not be the same
        loss = module.training_step(batch, 0)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in module.backbone.trained)])
    size = max(float(g.abs().max()) for g in found[0][1:])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=2e-6 * max(1.0, size))


@pytest.mark.parametrize("tuning", [LoRA(r=2, dropout=0.4), PrefixTuning(tokens=2), FullTuning()])
def test_chunks_recompute_the_same_dropout(tuning: Any, llama: str, phrased_file: str) -> None:
    """A chunk's second run must be its first: the loss falls as its gradient says, with every mask in place."""
    fixed = Contrast(weight=0.5)  # a balanced weight is detached, so the loss has another slope than its gradient
    module = RobustTuning(llama, tuning=tuning, contrast=fixed, alignment=ALIGNMENT, chunk_rows=2)
    batch = batch_of(module, phrased_file, variants=2)
    module.train()

    def loss() -> Tensor:
        torch.manual_seed(11)
        return module.training_step(batch, 0)

    total = loss()
    torch.rand(5)
    total.backward()
    grads = [p.grad for p in module.backbone.trained]
    module.zero_grad()
    loss().backward()
    assert all(torch.equal(*pair) for pair in zip([p.grad for p in module.backbone.trained], grads, strict=True))
    norm = float(torch.stack([g.square().sum() for g in grads]).sum().sqrt())
    step, ends = 0.02 / norm, []
    for sign in (1, -1):
        for p, g in zip(module.backbone.trained, grads, strict=True):
            p.data.add_(sign * step / norm * g)
        ends.append(float(loss().detach()))
        for p, g in zip(module.backbone.trained, grads, strict=True):
            p.data.sub_(sign * step / norm * g)
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(norm, rel=0.05)


def test_chunks_hold_less(llama: str, phrased_file: str) -> None:
    held = {}
    for chunk in (None, 2):
        module = ContrastiveTuning(llama, tuning=LoRA(r=2), chunk_rows=chunk)
        batch = batch_of(module, phrased_file, rows=12, batch_size=12, variants=2)
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = module.training_step(batch, 0)
        held[chunk] = sum(size for place, size in kept.items() if place not in weights)
        loss.backward()
    assert held[2] < held[None] / 5


def test_chunks_in_training(llama: str, phrased_file: str, tmp_path: Path) -> None:
    """With accumulation and dropout: the same weights each time."""
    found = []
    for _ in range(2):
        module = RobustTuning(
            llama, tuning=LoRA(r=2, dropout=0.2), contrast=CONTRAST, adversary=NRM(), chunk_rows=2,
            optimizer=AdamW(lr=1e-2),
        )  # fmt: skip
        trainer(tmp_path, accumulate_grad_batches=2).fit(module, data(phrased_file))
        found.append(weights_of(module))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
