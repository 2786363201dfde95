"""The objectives inside Lightning: what is trained on, logged, saved and loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from robustlm.adversaries import FGM, FGSM, NRM, PGD, Adversary, FreeAT, FreeLB, NEFTune, Outcome, Problem
from robustlm.batch import IGNORE, InstructionBatch
from robustlm.cli import run
from robustlm.datamodules import InstructionDataModule, NoisyInstructionDataModule
from robustlm.datamodules.sampling import BatchKey
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning
from robustlm.modules import ANIT, InstructionTuning, Passes
from robustlm.noise.base import Noise
from robustlm.optim.config import AdamW, Muon, Schedule
from tests.tiny import Record, trainer, weights_of

ADVERSARIES: dict[str, Adversary] = {
    "nrm": NRM(),
    "nrm_clean": NRM(ascent="clean"),
    "nrm_low": NRM(low_memory=True),
    "fgm": FGM(),
    "fgsm": FGSM(),
    "pgd": PGD(steps=2),
    "freelb": FreeLB(steps=2),
    "freeat": FreeAT(replays=2),
    "neftune": NEFTune(),
}


def batch_of(module: Any, file: str, rows: int = 6, **settings: Any) -> InstructionBatch:
    """A batch of noisy rows, and `module` with its weights and shaken adapters, in train mode."""
    torch.manual_seed(5)
    module.configure_model()
    for p in module.backbone.trained:
        p.data.add_(torch.randn_like(p) * 0.1)
    module.train()
    datamodule = NoisyInstructionDataModule(train=file, **{"noise": Noise(phi=0.8), **settings})
    datamodule.connect(module.backbone)
    datamodule.setup("fit")
    return datamodule.train_dataset(datamodule.rows["train"])[BatchKey(0, tuple(range(rows)))]


def naive(module: Any, batch: InstructionBatch, name: str) -> tuple[float, int]:
    """Summed answer loss in float64, row by row and token by token, from the library's own logits."""
    view = getattr(batch, name)
    total, count = 0.0, 0
    backbone = module.backbone
    for row in range(len(view)):
        kept = view.attention_mask[row] == 1
        ids, labels = view.input_ids[row][kept][None], view.labels[row]
        labels = labels if backbone.is_encoder_decoder else labels[kept]
        extra = {"labels": labels[labels != IGNORE][None]} if backbone.is_encoder_decoder else {}
        with torch.no_grad():
            logits = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits[0].double()
        if backbone.is_encoder_decoder:
            pairs = list(enumerate(labels[labels != IGNORE].tolist()))
        else:
            pairs = [(at - 1, int(labels[at])) for at in range(len(labels)) if labels[at] != IGNORE]
        for at, token in pairs:
            total += math.log(sum(math.exp(x) for x in logits[at].tolist())) - float(logits[at, token])
            count += 1
    return total, count


@pytest.mark.parametrize("kind", ["llama", "t5", "gemma"])
def test_the_loss_is_the_mean_over_answer_tokens(kind: str, models: dict[str, str], train_file: str) -> None:
    module = InstructionTuning(models[kind], tuning=LoRA(r=2, dropout=0.0))
    batch = batch_of(module, train_file)
    module.eval()
    for name in ("raw", "variant"):
        total, count = naive(module, batch, name)
        assert float(Passes(module.backbone, batch).cross_entropy(name)) == pytest.approx(total / count, rel=1e-5)
        batch.step_tokens = 100.0
        assert float(Passes(module.backbone, batch).cross_entropy(name)) == pytest.approx(total / 100, rel=1e-5)
        batch.step_tokens = None


def test_variants_are_divided_by_their_number(llama: str, train_file: str) -> None:
    module = ANIT(llama, tuning=LoRA(r=2, dropout=0.0), adversary=None)
    batch = batch_of(module, train_file, variants=3)
    assert batch.variant is not None
    count = int((batch.variant.labels != IGNORE).sum())
    passes = Passes(module.backbone, batch)
    assert float(passes.token_count("variant")) == count == 3 * int(passes.token_count("raw"))
    batch.step_tokens = float(passes.token_count("raw"))
    assert float(Passes(module.backbone, batch).token_count("variant")) == count


def test_without_adversary_it_is_plain_tuning_on_noisy_rows(llama: str, train_file: str) -> None:
    plain = InstructionTuning(llama, tuning=LoRA(r=2, dropout=0.3))
    noisy = ANIT(llama, tuning=LoRA(r=2, dropout=0.3), adversary=None)
    gradients = []
    for module in (plain, noisy):
        batch = batch_of(module, train_file)
        if module is plain:
            assert batch.variant is not None
            batch.raw = batch.variant
        torch.manual_seed(1)
        loss = module.training_step(batch, 0)
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in module.backbone.trained)])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_every_adversary_changes_the_loss_and_reaches_the_adapter(
    kind: str, name: str, models: dict[str, str], train_file: str
) -> None:
    module = ANIT(models[kind], tuning=LoRA(r=2, dropout=0.0), adversary=ADVERSARIES[name])
    batch = batch_of(module, train_file)
    clean = float(Passes(module.backbone, batch).cross_entropy("variant"))
    for _ in range(2):  # FreeAT's first replay is clean
        terms = module.losses(Passes(module.backbone, batch))
    assert abs(float(terms["adversarial"]) - clean) > 1e-3 * clean
    assert ("answer" in terms) is (name in ("nrm", "nrm_clean", "nrm_low", "fgm", "fgsm", "pgd"))
    if "answer" in terms:
        assert float(terms["answer"]) == pytest.approx(clean, rel=1e-5)
    assert all(p.grad is None for p in module.parameters())  # nothing but the step's own backward writes there
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.backbone.trained)
    frozen = [p for p in module.parameters() if not p.requires_grad]
    assert frozen
    assert all(p.grad is None for p in frozen)


@pytest.mark.parametrize("name", ["nrm", "nrm_clean", "nrm_low", "fgm", "pgd", "freelb"])
@pytest.mark.parametrize("tuning", [LoRA(r=2, dropout=0.5), PrefixTuning(tokens=2), FullTuning()])
def test_no_perturbation_is_the_clean_loss_to_the_bit(name: str, tuning: Any, llama: str, train_file: str) -> None:
    """Which needs the same dropout masks in every pass of a step."""
    adversary = {
        "nrm": NRM(epsilon=0.0),
        "nrm_clean": NRM(epsilon=0.0, ascent="clean"),
        "nrm_low": NRM(epsilon=0.0, low_memory=True),
        "fgm": FGM(epsilon=0.0),
        "pgd": PGD(epsilon=0.0),
        "freelb": FreeLB(epsilon=0.0, steps=2),
    }[name]
    module = ANIT(llama, tuning=tuning, adversary=adversary)
    batch = batch_of(module, train_file)
    passes = Passes(module.backbone, batch)
    clean = passes.cross_entropy("variant")
    torch.rand(3)  # what others draw between passes changes nothing
    terms = module.losses(passes)
    assert torch.equal(terms["adversarial"], clean)
    if "answer" in terms:
        assert torch.equal(terms["answer"], clean)
    if not isinstance(tuning, PrefixTuning):
        torch.manual_seed(99)  # another step has other masks
        assert not torch.equal(Passes(module.backbone, batch).cross_entropy("variant"), clean)


class Spy(NRM):
    """NRM that keeps what it saw and did."""

    def attack(self, problem: Problem) -> Outcome:
        self._seen = problem, super().attack(problem)
        return self._seen[1]


@pytest.mark.parametrize("scope", ["prompt", "instruction", "all"])
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_where_the_perturbation_lands(kind: str, scope: Any, models: dict[str, str], train_file: str) -> None:
    module = ANIT(models[kind], tuning=LoRA(r=2), adversary=Spy(), perturb=scope)
    batch = batch_of(module, train_file)
    module.losses(Passes(module.backbone, batch))
    problem, outcome = module.adversary._seen  # type: ignore[union-attr]
    view = batch.variant
    assert view is not None
    touched = outcome.delta.ne(0).any(-1)
    assert torch.equal(touched, view.perturbable(scope))
    assert not touched[view.attention_mask == 0].any()
    if scope != "all":
        special = torch.isin(view.input_ids, torch.tensor(module.backbone.tokenizer.all_special_ids))
        assert not touched[special].any()
        if kind == "llama":
            assert not touched[view.labels != IGNORE].any()
        decoded = [module.backbone.tokenizer.decode(ids[on]) for ids, on in zip(view.input_ids, touched, strict=True)]
        assert not any("Answer:" in text or "Instruction:" in text for text in decoded)
    assert torch.equal(problem.beta, batch.beta)
    assert torch.equal(problem.seeds, batch.seeds)
    radius = outcome.delta.flatten(1).norm(dim=1) / module.backbone.embedding_scale
    assert torch.allclose(radius, torch.ones_like(radius), atol=1e-4)


def test_what_nrm_logs(llama: str, train_file: str, tmp_path: Path) -> None:
    module = ANIT(llama, tuning=LoRA(r=2), adversary=Spy(), adversarial_weight=0.5)
    record = Record()
    run_ = trainer(tmp_path, callbacks=[record], limit_train_batches=3, log_every_n_steps=1)
    run_.fit(module, NoisyInstructionDataModule(train=train_file, batch_size=6))
    problem, outcome = module.adversary._seen  # type: ignore[union-attr]
    logged = record.steps[-1]
    delta, scale = outcome.delta.flatten(1), module.backbone.embedding_scale
    wanted = {"delta_norm", "gradient_norm", "nonfinite_rows", "loss_gap", "epsilon", "init_radius", "clipped_share"}
    assert wanted | {"gradient_cosine"} == {name[4:] for name in logged if name.startswith("spy/")}
    assert logged["spy/delta_norm"] == pytest.approx(float((delta.norm(dim=1) / scale).mean()), rel=1e-5)
    assert logged["spy/init_radius"] == pytest.approx(5.77 * float((1 - problem.beta).mean()), rel=0.2)
    assert logged["spy/clipped_share"] == 1
    assert 0 < logged["spy/gradient_cosine"] < 1
    assert logged["spy/nonfinite_rows"] == 0
    assert logged["spy/epsilon"] == 1
    gap = outcome.adversarial.sum() - outcome.clean.sum()
    # without accumulation a step's losses are means over its answer tokens, and so is the gap
    assert logged["spy/loss_gap"] == pytest.approx(logged["train/adversarial"] - logged["train/answer"], abs=1e-5)
    assert logged["spy/loss_gap"] < 0.9 * float(gap) / len(delta)
    assert logged["train/loss"] == pytest.approx(logged["train/answer"] + 0.5 * logged["train/adversarial"], rel=1e-6)


def test_nonfinite_gradients_are_counted_and_harmless(llama: str, train_file: str) -> None:
    module = ANIT(llama, tuning=LoRA(r=2, dropout=0.0), adversary=Spy())
    batch = batch_of(module, train_file)

    class Break(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return torch.cat([grad[:1] * math.inf, grad[1:]])

    run_ = Passes.run
    try:
        Passes.run = lambda self, view, embeds=None: run_(  # type: ignore[method-assign]
            self, view, None if embeds is None else Break.apply(embeds)
        )
        terms = module.losses(Passes(module.backbone, batch))
    finally:
        Passes.run = run_  # type: ignore[method-assign]
    outcome = module.adversary._seen[1]  # type: ignore[union-attr]
    assert int(outcome.logs["nonfinite_rows"]) == 1
    assert outcome.delta.isfinite().all()
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(bool(p.grad.isfinite().all()) for p in module.backbone.trained if p.grad is not None)


def test_beta_bends_the_perturbation(llama: str, train_file: str) -> None:
    deltas = []
    for value in (0.0, 0.99):
        module = ANIT(llama, tuning=LoRA(r=2), adversary=Spy())
        batch = batch_of(module, train_file)
        assert batch.beta is not None
        batch.beta = torch.full_like(batch.beta, value)
        module.losses(Passes(module.backbone, batch))
        deltas.append(module.adversary._seen[1])  # type: ignore[union-attr]
    blunt, sharp = (outcome.logs["gradient_cosine"] for outcome in deltas)
    assert sharp > 0.95 > 0.5 > blunt
    assert deltas[1].logs["init_radius"] < 0.02 * deltas[0].logs["init_radius"]


class Extended(ANIT):
    """A new objective: one more loss, one more argument."""

    def __init__(self, *args: Any, penalty: float = 0.1, other: Schedule | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weights["norm"] = penalty
        self.other = other

    def losses(self, passes: Passes) -> dict[str, Tensor]:
        return {**super().losses(passes), "norm": passes.answers("variant").state.square().mean()}


def test_one_more_loss(llama: str, train_file: str, tmp_path: Path) -> None:
    module = Extended(llama, tuning=LoRA(r=2), penalty=0.25, adversary=FGM(), adversarial_weight=2.0)
    assert module.weights == {"replay": 1.0, "adversarial": 2.0, "norm": 0.25}
    record = Record()
    data = NoisyInstructionDataModule(train=train_file, batch_size=6)
    trainer(tmp_path, callbacks=[record], limit_train_batches=2, log_every_n_steps=1).fit(module, data)
    logged = record.steps[-1]
    total = logged["train/answer"] + 2 * logged["train/adversarial"] + 0.25 * logged["train/norm"]
    assert logged["train/loss"] == pytest.approx(total, rel=1e-5)
    assert logged["train/norm"] > 0


def saved(module: LightningModule, data: Any, tmp_path: Path, **settings: Any) -> str:
    run_ = trainer(tmp_path, enable_checkpointing=True, limit_train_batches=3, **settings)
    run_.fit(module, data)
    path = str(tmp_path / "it.ckpt")
    run_.save_checkpoint(path)
    return path


MODULES = {
    "plain": lambda name: InstructionTuning(name, tuning=LoRA(r=2, dropout=0.1), optimizer=AdamW(lr=1e-2)),
    "anit": lambda name: ANIT(name, tuning=LoRA(r=2), adversary=NRM(target_gap=0.1), perturb="instruction"),
    "fgsm": lambda name: ANIT(name, tuning=LoRA(r=2), adversary=FGSM(epsilon=0.2)),
    "none": lambda name: ANIT(name, tuning=PromptTuning(tokens=2), adversary=None, schedule=Schedule(warmup=3.0)),
    "prefix": lambda name: InstructionTuning(name, tuning=PrefixTuning(tokens=2), max_new_tokens=5),
    "full": lambda name: InstructionTuning(name, tuning=FullTuning(), optimizer=Muon(muon_lr=0.002)),
    "extended": lambda name: Extended(name, tuning=LoRA(r=2), penalty=0.7, other=Schedule(final=0.5)),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("kind", ["llama", "t5", "gemma"])
def test_a_python_built_module_comes_back_from_its_checkpoint(
    kind: str, name: str, models: dict[str, str], train_file: str, tmp_path: Path
) -> None:
    if kind != "llama" and name not in ("full", "prefix"):
        pytest.skip("tuning and model do not matter together")
    module = MODULES[name](models[kind])
    path = saved(module, NoisyInstructionDataModule(train=train_file, batch_size=6), tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    trained = weights_of(module)
    tied = {n for n, _ in module.named_parameters(remove_duplicate=False)} if name == "full" else set(trained)
    assert set(checkpoint["state_dict"]) == tied
    again = type(module).load_from_checkpoint(path)
    assert again.hparams == module.hparams
    for key, value in weights_of(again).items():
        assert torch.equal(value, trained[key]), key
    assert again.optimizer == module.optimizer
    assert again.schedule == module.schedule
    assert again.backbone.tuning == module.backbone.tuning
    assert again.weights == module.weights
    if isinstance(module, ANIT):
        assert again.adversary == module.adversary
        assert again.perturb == module.perturb
    if isinstance(module, Extended):
        assert again.other == module.other
    batch = next(iter(_loader(again, train_file)))
    for one in (module, again):
        one.eval()
    assert torch.equal(module.backbone(batch.raw).logits, again.backbone(batch.raw).logits)


def _loader(module: Any, file: str) -> Any:
    data = NoisyInstructionDataModule(train=file, batch_size=6)
    data.connect(module.backbone)
    data.setup("fit")
    return data.train_dataloader()


def test_a_command_line_built_module_comes_back(llama: str, train_file: str, tmp_path: Path) -> None:
    flags = {
        "model": "ANIT",
        "model.backbone": llama,
        "model.tuning": "LoRA",
        "model.tuning.r": "2",
        "model.adversary": "NRM",
        "model.adversary.target_gap": "0.2",
        "model.adversary.token_share": "0.4",
        "model.adversary.scale_start_by_beta": "false",
        "data": "NoisyInstructionDataModule",
        "data.train": train_file,
        "data.batch_size": "8",
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": str(tmp_path),
        "trainer.limit_train_batches": "2",
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
    }
    cli = run(["fit", *(f"--{name}={value}" for name, value in flags.items())])
    assert cli is not None
    module = cli.model
    (path,) = tmp_path.rglob("last.ckpt")
    torch.load(path, weights_only=True)
    again = ANIT.load_from_checkpoint(path)
    assert again.adversary == NRM(target_gap=0.2, token_share=0.4, scale_start_by_beta=False)
    assert again.backbone.tuning == LoRA(r=2)
    trained = weights_of(module)
    assert trained
    for key, value in weights_of(again).items():
        assert torch.equal(value, trained[key]), key


def test_checkpoints_hold_what_is_trained_and_no_more(llama: str, train_file: str, tmp_path: Path) -> None:
    module = ANIT(llama, tuning=LoRA(r=2))
    path = saved(module, NoisyInstructionDataModule(train=train_file, batch_size=6), tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    kept = sum(value.numel() for value in checkpoint["state_dict"].values())
    assert all("lora" in name for name in checkpoint["state_dict"])
    assert kept < 0.2 * sum(p.numel() for p in module.parameters())
    assert Path(path).stat().st_size < 4 * 3 * kept + 60_000  # weights and two moments


def test_checkpoints_that_do_not_fit_are_refused(llama: str, t5: str, train_file: str, tmp_path: Path) -> None:
    data = NoisyInstructionDataModule(train=train_file, batch_size=6)
    path = saved(InstructionTuning(llama, tuning=LoRA(r=2)), data, tmp_path)

    def refused(module: Any, word: str, ckpt: str = path) -> None:
        with pytest.raises(ValueError, match=word):
            trainer(tmp_path).fit(module, NoisyInstructionDataModule(train=train_file, batch_size=6), ckpt_path=ckpt)

    refused(InstructionTuning(llama, tuning=LoRA(r=4)), "other shapes")
    refused(InstructionTuning(llama, tuning=PromptTuning(tokens=2)), "missing trained weights")
    refused(InstructionTuning(llama, tuning=LoRA(r=2, target_modules=["q_proj"])), "unknown weights")
    refused(InstructionTuning(t5, tuning=LoRA(r=2)), "unknown weights")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["robustlm"]
    torch.save(checkpoint, tmp_path / "foreign.ckpt")
    refused(InstructionTuning(llama, tuning=LoRA(r=2)), "robustlm", str(tmp_path / "foreign.ckpt"))


def test_the_adversary_goes_on_where_it_was(llama: str, train_file: str, tmp_path: Path) -> None:
    data = NoisyInstructionDataModule(train=train_file, batch_size=6)
    module = ANIT(llama, tuning=LoRA(r=2), adversary=NRM(target_gap=0.3, gap_rate=0.2))
    path = saved(module, data, tmp_path)
    assert module.adversary is not None
    state = module.adversary.state_dict()["controller"]
    assert state.abs().min() > 0
    resumed = ANIT(llama, tuning=LoRA(r=2), adversary=NRM(target_gap=0.3, gap_rate=0.2))
    trainer(tmp_path).fit(resumed, data, ckpt_path=path)
    assert resumed.adversary is not None
    assert torch.equal(resumed.adversary.state_dict()["controller"], state)
    fresh = ANIT.load_from_checkpoint(path)  # for use, or for another run: nothing to go on with
    assert fresh.adversary is not None
    assert not fresh.adversary.state_dict()["controller"].any()
    assert fresh._seed is None
    with pytest.raises(ValueError, match="target_gap"):
        trainer(tmp_path).fit(ANIT(llama, tuning=LoRA(r=2)), data, ckpt_path=path)


def test_one_adversary_object_serves_no_two_modules(llama: str) -> None:
    adversary = NRM(target_gap=0.1)
    a, b = ANIT(llama, adversary=adversary), ANIT(llama, adversary=adversary)
    assert a.adversary is not b.adversary
    assert a.adversary is not adversary


def test_settings_that_cannot_be(llama: str, train_file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adversarial_weight"):
        ANIT(llama, adversarial_weight=-1)
    with pytest.raises(ValueError, match="max_new_tokens"):
        InstructionTuning(llama, max_new_tokens=0)
    with pytest.raises(ValueError, match="paraphrased variants"):
        trainer(tmp_path).fit(ANIT(llama), InstructionDataModule(train=train_file))
    with pytest.raises(ValueError, match="nothing is trained"):
        trainer(tmp_path).fit(InstructionTuning(llama, tuning=None), InstructionDataModule(train=train_file))
    with pytest.raises(ValueError, match=r"data\.replays: found 1; expected 3"):
        trainer(tmp_path).fit(ANIT(llama, adversary=FreeAT(replays=3)), NoisyInstructionDataModule(train=train_file))
    with pytest.raises(TypeError, match="argument 'penalty'"):
        Extended(llama, penalty=torch.ones(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "bf16-true"])
def test_precisions(precision: Any, llama: str, train_file: str, tmp_path: Path) -> None:
    def losses(precision: Any) -> list[float]:
        record = Record()
        module = ANIT(llama, tuning=LoRA(r=2, dropout=0.0), optimizer=AdamW(lr=5e-3))
        run_ = trainer(tmp_path, precision=precision, callbacks=[record], log_every_n_steps=1, limit_train_batches=4)
        run_.fit(module, NoisyInstructionDataModule(train=train_file, batch_size=6))
        assert all(bool(p.isfinite().all()) for p in module.parameters())
        return [value for step in record.steps for name, value in step.items() if name.startswith("train/")]

    assert losses(precision) == pytest.approx(losses("32-true"), rel=0.05)


def test_debug_runs(llama: str, train_file: str, test_file: str, tmp_path: Path) -> None:
    """Lightning's switches for a quick look must get through our samplers."""
    for settings in ({"fast_dev_run": True}, {"overfit_batches": 2, "max_epochs": 3}, {"limit_train_batches": 0.5}):
        seen: list[list[str]] = []

        class Watch(Record):
            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                seen.append(batch.ids)  # noqa: B023

        data = NoisyInstructionDataModule(train=train_file, validation=test_file, batch_size=4)
        run_ = trainer(tmp_path, callbacks=[Watch()], **settings)
        run_.fit(ANIT(llama, tuning=LoRA(r=2)), data)
        assert math.isfinite(run_.callback_metrics["val/loss"])
        if "overfit_batches" in settings:
            assert len(seen) == 6
            assert seen[:2] == seen[2:4] == seen[4:]
        elif "fast_dev_run" not in settings:
            assert len(seen) == 3


def test_validation_loss_is_per_token(llama: str, train_file: str, test_file: str, tmp_path: Path) -> None:
    module = InstructionTuning(llama, tuning=LoRA(r=2))
    found = []
    for size in (2, 7):
        data = InstructionDataModule(train=train_file, validation=test_file, eval_batch_size=size)
        (scores,) = trainer(tmp_path).validate(module, data, verbose=False)
        found.append(scores["val/loss"])
    data.rows["train"] = data.rows["validation"]
    batch = data.train_dataset(data.rows["validation"])[BatchKey(0, tuple(range(7)))]
    total, count = naive(module.eval(), batch, "raw")
    assert found == pytest.approx([total / count] * 2, rel=1e-5)


def test_checkpoint_by_validation_loss(llama: str, train_file: str, test_file: str, tmp_path: Path) -> None:
    keeper = ModelCheckpoint(tmp_path, monitor="val/loss", filename="{step}")
    data = InstructionDataModule(train=train_file, validation=test_file, batch_size=8)
    trainer(tmp_path, enable_checkpointing=True, callbacks=[keeper], max_epochs=2).fit(InstructionTuning(llama), data)
    assert keeper.best_model_score is not None
