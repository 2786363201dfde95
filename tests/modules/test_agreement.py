"""Rows without an answer: their phrasings vote on one, it is trained by its confidence, and a guard watches."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from robustlm import Source
from robustlm.adversaries import NRM, FreeAT
from robustlm.batch import IGNORE, InstructionBatch
from robustlm.cli import main
from robustlm.datamodules import (
    ContrastiveDataModule,
    InstructionDataModule,
    NoisyInstructionDataModule,
    ParaphraseDataModule,
)
from robustlm.datamodules.sampling import BatchKey
from robustlm.datamodules.unlabelled import Unlabelled
from robustlm.models.backbone import Backbone
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning
from robustlm.modules import (
    SAM,
    Agreement,
    Alignment,
    Contrast,
    Guard,
    InstructionTuning,
    Preference,
    RDrop,
    RobustTuning,
    Selection,
)
from robustlm.modules.guard import HeldOut, Verdict
from robustlm.optim.config import AdamW
from robustlm.rows.base import BadRowsError
from tests.modules.oracles import answer_logits
from tests.modules.test_boundary import Stop, StopAt
from tests.modules.test_chunked_logits import module_of
from tests.modules.test_equivalence import _without_dropout, flags
from tests.processes import side_by_side
from tests.tiny import Record, load, trainer, weights_of, write_rows

LABELS = ["good", "bad", "in and out"]
ROWS = 12
TUNINGS = {"lora": LoRA(r=2, dropout=0.0), "full": FullTuning(), "prefix": PrefixTuning(tokens=2)}
OPEN = Unlabelled(held_out=2)


@pytest.fixture(scope="module")
def open_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """12 rows about a feeling; every third one brings an answer."""
    texts = ["good people", "all bad", "in and", "every word is good here", "places", "text", "bad places in the text"]
    rows: list[dict[str, Any]] = [{"text": f"{texts[i % 7]} {i}", "id": f"m{i}"} for i in range(ROWS)]
    for i in range(0, ROWS, 3):
        rows[i]["label"] = LABELS[i % 2]
    return write_rows(tmp_path_factory.mktemp("rows") / "open.jsonl", rows)


def data_of(file: str, cls: Any = ParaphraseDataModule, **settings: Any) -> Any:
    source = Source(file, name="mood", format="tc", labels=LABELS)
    more = {"bank": "sentiment", "instructions": "concise", "batch_size": 4, "variants": 2, "unlabelled": OPEN}
    return cls([source], **(more | {"group_by_length": False} | settings))


def batch_of(backbone: Backbone, file: str, **settings: Any) -> InstructionBatch:
    """All rows that are trained on, in one batch."""
    data = data_of(file, **settings)
    data.connect(backbone)
    rows = data.read("train")
    tokens = float(sum(rows.answer_tokens))
    found: InstructionBatch = data.train_dataset(rows)[BatchKey(0, tuple(range(len(rows))), tokens)]
    return found


def gradients(module: RobustTuning, batch: InstructionBatch) -> tuple[float, dict[str, Tensor]]:
    torch.manual_seed(2)
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def alike(
    found: tuple[float, dict[str, Tensor]], wanted: tuple[float, dict[str, Tensor]], limit: float = 1e-10
) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=limit)
    assert found[1].keys() == wanted[1].keys()
    for name, value in found[1].items():
        torch.testing.assert_close(value, wanted[1][name], rtol=10 * limit, atol=limit, msg=name)


def naive(backbone: Backbone, batch: InstructionBatch, target: str) -> list[tuple[int, float]]:
    """For each row without an answer, the option that is trained and its weight: each option of each phrasing alone."""
    rows = batch.unanswered
    assert rows is not None
    means, at = [], 0
    with torch.no_grad():
        for logits in answer_logits(backbone, rows.options):
            total = 0.0
            for one in logits:
                total += one[rows.options.layout.tokens[at]] - math.log(math.fsum(math.exp(value) for value in one))
                at += 1
            means.append(total / len(logits))
    found, start = [], 0
    for answers in rows.answers:
        lines = [means[start + k * len(answers) : start + (k + 1) * len(answers)] for k in range(3)]
        start += 3 * len(answers)
        shares = [0.0] * len(answers)
        for line in lines:
            if target == "majority":
                shares[line.index(max(line))] += 1 / 3
            else:
                whole = math.fsum(math.exp(one) for one in line)
                shares = [share + math.exp(one) / whole / 3 for share, one in zip(shares, line, strict=True)]
        best = shares.index(max(shares))
        decided = target == "mean" or max(shares) > 0.5
        found.append((best, (len(answers) * max(shares) - 1) / (len(answers) - 1) if decided else 0.0))
    return found


def by_hand(backbone: Backbone, batch: InstructionBatch, target: str, train_on: str) -> Tensor:
    """The loss of the step: every row alone, with the answer that the naive vote finds."""
    rows = batch.unanswered
    assert rows is not None
    assert batch.step_tokens is not None
    voted = dict(zip(rows.rows, naive(backbone, batch, target), strict=True))
    views = {"variant": [(at // 2, one) for at, one in enumerate(rows.variant)]}
    if train_on == "both":
        views["raw"] = list(enumerate(rows.raw))
    total = torch.zeros((), dtype=torch.float64)
    for row, one in (pair for lines in views.values() for pair in lines):
        ids, weight = one.answer_ids, 1.0
        if row in voted:
            best, weight = voted[row]
            ids = rows.answers[rows.rows.index(row)][best]
        answer, prompt = torch.tensor([ids]), torch.tensor([one.prompt_ids])
        if backbone.is_encoder_decoder:
            logits = backbone.model(input_ids=prompt, labels=answer).logits[0]
        else:
            logits = backbone.model(input_ids=torch.cat([prompt, answer], 1)).logits[0, prompt.shape[1] - 1 : -1]
        total = total - weight * logits.log_softmax(-1).gather(1, answer[0][:, None]).sum()
    return total / (batch.step_tokens * sum(map(len, views.values())) / len(batch))


@pytest.mark.parametrize(
    ("kind", "tuning", "target", "train_on"),
    [
        ("llama", "lora", "mean", "variant"),
        ("llama", "lora", "majority", "both"),
        ("llama", "full", "mean", "both"),
        ("t5", "lora", "mean", "variant"),
    ],
)
def test_the_consensus_is_trained_by_its_confidence(
    kind: str, tuning: str, target: Any, train_on: Any, models: dict[str, str], open_file: str
) -> None:
    backbone = load(models[kind], TUNINGS[tuning], shake=0.2 if tuning == "lora" and kind == "llama" else 0.3).double()
    batch = batch_of(backbone, open_file)
    assert batch.unanswered is not None
    assert len(batch.unanswered.rows) == 6  # 8 without an answer, 2 of them held out
    chosen, weights = zip(*naive(backbone, batch, target), strict=True)
    assert len(set(chosen)) > 1
    assert len(set(weights)) > 1
    module = module_of(backbone, agreement=Agreement(target, guard=None), train_on=train_on)
    found = gradients(module, batch)
    module.zero_grad()
    loss = by_hand(backbone, batch, target, train_on)
    loss.backward()  # type: ignore[no-untyped-call]
    wanted = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    alike(found, (loss.item(), wanted), 1e-7)  # weights are fp32


def test_options_are_asked_under_every_phrasing(llama: str, open_file: str) -> None:
    backbone = load(llama, TUNINGS["lora"])
    batch = batch_of(backbone, open_file)
    rows = batch.unanswered
    assert rows is not None
    each = zip(rows.options.input_ids, rows.options.labels, rows.options.attention_mask, strict=True)
    asked = []
    for ids, labels, mask in each:
        answer = labels != IGNORE
        asked.append((ids[mask.bool() & ~answer].tolist(), ids[answer].tolist()))
    wanted = [
        (row.prompt_ids, ids)
        for at, answers in zip(rows.rows, rows.answers, strict=True)
        for row in (rows.raw[at], *rows.variant[2 * at : 2 * at + 2])
        for ids in answers
    ]
    assert asked == wanted
    assert len({tuple(prompt) for prompt, _ in asked}) == 3 * 6
    assert [backbone.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in rows.answers[0]] == [
        f"label: {label}" for label in LABELS
    ]


def test_verdicts() -> None:
    logs = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]]).double().log()
    mean = Verdict.of(logs, majority=False)
    assert (mean.chosen, mean.decided) == (0, True)
    assert mean.confidence == pytest.approx((3 * 1.4 / 3 - 1) / 2)
    assert mean.agreeing == pytest.approx(2 / 3)
    votes = Verdict.of(logs, majority=True)
    assert (votes.chosen, votes.decided, votes.confidence) == (0, True, pytest.approx(0.5))
    split = Verdict.of(torch.eye(2), majority=True)
    assert (split.decided, split.confidence) == (False, 0.0)
    alike_all = Verdict.of(torch.zeros(4, 5), majority=False)
    assert alike_all.confidence == pytest.approx(0, abs=1e-12)


def test_controls_have_the_same_rows_and_weights_and_other_targets(llama: str, open_file: str) -> None:
    backbone = load(llama, TUNINGS["lora"], shake=0.3)
    hide = Unlabelled(held_out=0, hide=1.0)
    rows = [{"text": f"good people {i}", "id": f"m{i}", "label": LABELS[i % 3]} for i in range(ROWS)]
    file = write_rows(Path(open_file).with_name("known.jsonl"), rows)
    data = data_of(file, unlabelled=Unlabelled(held_out=1, hide=1.0))
    data.connect(backbone)
    read = data.read("train")
    assert (len(read), len(read.open), len(data.watched)) == (11, 11, 1)
    assert all(not sample.target for sample in read.samples)  # nothing reads a hidden answer
    batch = data.train_dataset(read)[BatchKey(0, tuple(range(11)))]
    found = {target: Agreement(target, guard=None).apply(backbone, batch) for target in ("mean", "random", "labels")}
    own = {target: done.variant.labels.tolist() for target, (done, _) in found.items()}
    assert own["mean"] != own["random"] != own["labels"] != own["mean"]
    assert all(torch.equal(done.weights, found["mean"][0].weights) for done, _ in found.values())
    assert float(found["labels"][1]["correct"]) == 1
    assert float(found["random"][1]["correct"]) < 1
    other = data.train_dataset(read)[BatchKey(1, tuple(range(11)))]
    again = Agreement("random", guard=None).apply(backbone, other)[0]
    assert again.variant is not None
    drawn = [tuple(x for x in row if x >= 0) for row in again.raw.labels.tolist()]
    assert drawn != [tuple(x for x in row if x >= 0) for row in found["random"][0].raw.labels.tolist()]
    level = Agreement("majority", weigh=False, weight=0.5, guard=None).apply(backbone, batch)[0].weights
    assert level is not None
    assert set(level.tolist()) <= {0.0, 0.5}
    with pytest.raises(ValueError, match=r"agreement\.target: found labels, but the answer of m1 is not known"):
        Agreement("labels", guard=None).apply(backbone, batch_of(backbone, open_file, unlabelled=OPEN))
    assert hide.held_out == 0


WITH: dict[str, dict[str, Any]] = {
    "nrm": {"adversary": NRM(), "perturb": "prompt"},
    "nrm, shared": {"adversary": NRM(ascent="clean"), "alignment": Alignment(0.3)},
    "hardest": {"selection": Selection(bf16=False)},
    "rdrop": {"rdrop": RDrop(view="variant")},
    "sam": {"sam": SAM()},
}


@pytest.mark.parametrize("name", WITH)
def test_other_slots_see_the_answers_and_weights(name: str, llama: str, open_file: str) -> None:
    """A step on a batch that comes with the voted answers and with weights has the same losses and gradients."""
    backbone = load(llama, TUNINGS["lora"], shake=0.3).double()
    batch = batch_of(backbone, open_file)
    agreement = Agreement(guard=None)
    done, _ = agreement.apply(backbone, batch)
    module, plain = module_of(backbone, agreement=agreement, **WITH[name]), module_of(backbone, **WITH[name])
    found = gradients(module, batch)
    alike(found, gradients(module, done))
    if name != "sam":
        alike(found, gradients(replaced(plain, module), done))
    unweighed = gradients(module, replace(done, weights=None))
    assert found[0] != pytest.approx(unweighed[0], rel=1e-3)


def replaced(plain: RobustTuning, module: RobustTuning) -> RobustTuning:
    plain.train_on = module.answer_views
    return plain


@pytest.mark.parametrize("settings", [{"chunk_rows": 3}, {"adversary": NRM(low_memory=True)}, {"chunk_logits": 300}])
def test_lean_passes_are_the_same(settings: dict[str, Any], llama: str, open_file: str) -> None:
    backbone = load(llama, TUNINGS["lora"], shake=0.3).double()
    batch = batch_of(backbone, open_file)
    plain = {"adversary": NRM()} if "adversary" in settings else {}
    found = gradients(module_of(backbone, agreement=Agreement(guard=None), **settings), batch)
    alike(found, gradients(module_of(backbone, agreement=Agreement(guard=None), **plain), batch), 1e-6)


def test_weights_count_where_both_losses_come_from_the_same_logits(llama: str, open_file: str) -> None:
    backbone = load(llama, TUNINGS["lora"], shake=0.3).double()
    batch = batch_of(backbone, open_file, variants=1)
    slots = {"agreement": Agreement(guard=None), "alignment": Alignment(0.3)}
    found = gradients(module_of(backbone, chunk_logits=300, **slots), batch)  # type: ignore[arg-type]
    alike(found, gradients(module_of(backbone, chunk_logits=None, **slots), batch))  # type: ignore[arg-type]


@pytest.mark.parametrize("tuning", ["lora", "prefix"])
def test_without_padding_it_is_the_same(tuning: str, llama: str, open_file: str) -> None:
    free = load(llama, TUNINGS[tuning], shake=0.3, padding_free=tuning == "lora").double()
    padded = load(llama, TUNINGS[tuning], shake=0.3).double()
    batch = batch_of(padded, open_file)
    found = gradients(module_of(free, agreement=Agreement(guard=None)), batch)
    wanted = gradients(module_of(padded, agreement=Agreement(guard=None)), batch)
    assert found[0] == pytest.approx(wanted[0], rel=1e-9)
    assert all(torch.allclose(value, wanted[1][name], rtol=1e-6, atol=1e-10) for name, value in found[1].items())


def tuned(model: str, **settings: Any) -> RobustTuning:
    more = {"tuning": LoRA(r=2, dropout=0.3), "optimizer": AdamW(lr=1e-3), "agreement": Agreement(guard=Guard(every=2))}
    return RobustTuning(model, **(more | settings))


def test_a_run_goes_on_exactly(llama: str, open_file: str, tmp_path: Path) -> None:
    def fit(folder: str, ckpt: Path | None = None, callbacks: Any = ()) -> Any:
        keeper = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_last=True)
        fitter = trainer(
            tmp_path, seed=7 if ckpt is None else 99, enable_checkpointing=True, max_epochs=2,
            callbacks=[keeper, *callbacks],
        )  # fmt: skip
        try:
            fitter.fit(tuned(llama), data_of(open_file), ckpt_path=ckpt)
        except Stop:
            return None
        module: Any = fitter.lightning_module
        return weights_of(module), module._watch.progress()

    record = Record()
    weights, seen = fit("whole", callbacks=[record])
    assert {"agreement/agreeing", "agreement/confidence", "agreement/trained", "agreement/held_out"} <= set(
        record.steps[-1]
    )
    assert "agreement/correct" not in record.steps[-1]
    assert fit("cut", callbacks=[StopAt("on_train_batch_start", 4)]) is None
    again, same = fit("cut", ckpt=tmp_path / "cut" / "last.ckpt")
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert same == seen  # what the guard knew at the start is that of the first run


def test_batches_by_tokens_and_accumulation(llama: str, open_file: str, tmp_path: Path) -> None:
    model = _without_dropout(llama, tmp_path)

    def fit(**settings: Any) -> dict[str, Tensor]:
        size, more = settings.pop("size", 4), settings.pop("data", {})
        module = tuned(model, tuning=LoRA(r=2, dropout=0.0), agreement=Agreement())
        trainer(tmp_path, **settings).fit(module, data_of(open_file, batch_size=size, **more))
        return weights_of(module)

    large, small = fit(size=4), fit(size=2, accumulate_grad_batches=2)
    assert all(torch.allclose(value, small[name], rtol=0, atol=1e-6) for name, value in large.items())
    assert fit(data={"batch_tokens": 300}).keys() == large.keys()


def results_of_rank(folder: Path, model: str, file: str) -> None:
    found = results(folder, model, file, devices=2, strategy="ddp")
    torch.save(found, folder.with_name(f"rank-{torch.distributed.get_rank()}.pt"))


def results(folder: Path, model: str, file: str, size: int = 2, **settings: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    module = tuned(model, tuning=LoRA(r=2, dropout=0.0))
    record = Record()
    trainer(folder, callbacks=[record], log_every_n_steps=1, **settings).fit(module, data_of(file, batch_size=size))
    assert module._watch is not None
    return {"weights": weights_of(module), "seen": module._watch.progress()}


def test_two_processes_are_one(llama: str, open_file: str, tmp_path: Path) -> None:
    model = _without_dropout(llama, tmp_path)
    side_by_side(lambda: results_of_rank(tmp_path / "two", model, open_file))
    ours, theirs = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    single = results(tmp_path / "one", model, open_file, size=4)
    assert all(torch.equal(value, theirs["weights"][name]) for name, value in ours["weights"].items())
    assert all(
        torch.allclose(value, single["weights"][name], rtol=0, atol=3e-6) for name, value in ours["weights"].items()
    )
    assert ours["seen"] == theirs["seen"] == single["seen"]


def held_out(shares: list[str], agreeing: float) -> HeldOut:
    return HeldOut.of(("mood", name, agreeing) for name in shares)


def test_the_guard_knows_a_collapse() -> None:
    guard, start = Guard(), held_out(["a"] * 5 + ["b"] * 5, 0.9)
    assert guard.problem(start, start) is None
    assert guard.problem(start, held_out(["a"] * 8 + ["b"] * 2, 0.9)) is None
    said = guard.problem(start, held_out(["a"] * 9 + ["b"], 0.9))
    assert said is not None
    assert "90% of the 10 held-out rows of mood are answered 'a' (at the start 50% 'a'; expected below 90%" in said
    said = guard.problem(start, held_out(["a"] * 5 + ["b"] * 5, 0.6))
    assert said is not None
    assert "60% of the phrasings of held-out rows agree with their row's consensus (at the start 90%" in said
    assert guard.problem(held_out(["a"] * 10, 1.0), held_out(["a"] * 10, 1.0)) is not None  # collapsed from the start
    few = held_out(["a"] * 3, 1.0)
    assert guard.problem(few, few) is None  # three rows say nothing of classes
    assert start.shift(held_out(["a"] * 8 + ["b"] * 2, 0.9)) == pytest.approx(0.3)
    assert HeldOut(**start.plain()) == start


def arguments(folder: Path, llama: str, file: str, **more: Any) -> list[str]:
    labels = "[good, bad, in and out]"
    given = {
        "model": "RobustTuning",
        "data": "ParaphraseDataModule",
        "data.train": f"[{{path: {file}, name: mood, format: tc, labels: {labels}}}]",
        "data.bank": "sentiment",
        "data.unlabelled": "{held_out: 8}",
        "model.agreement": "{guard: {every: 2}}",
        "trainer.max_epochs": 40,
        "checkpoint.every_n_train_steps": 1,
        "checkpoint.save_last": "true",
        "checkpoint.dirpath": folder,
    }
    return ["fit", *flags(folder, llama, **(given | more))]


def test_a_collapse_stops_the_run_and_keeps_what_was_before(
    llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the rows have an answer, and it is always the same one, at a rate at which nothing else survives."""
    rows: list[dict[str, Any]] = [{"text": f"good {i} people {i % 5}", "id": f"m{i}"} for i in range(24)]
    for row in rows[::2]:
        row["label"] = "bad"
    file = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(SystemExit) as stopped:
        main(arguments(tmp_path / "run", llama, file, **{"model.optimizer.lr": 0.05}))
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert "agreement: the consensus collapsed, and training stopped after optimiser step" in shown, shown
    assert "of the 8 held-out rows of mood are answered 'label: bad' (at the start" in shown
    assert "Traceback" not in shown
    kept = tmp_path / "run" / "last.ckpt"
    assert f"the best checkpoint before is {tmp_path / 'run'}" in shown
    step = int(shown.split("optimiser step ")[1].split(":")[0])
    assert torch.load(kept, weights_only=True)["global_step"] == step - 1
    assert not list((tmp_path / "run").rglob("adapter_model.safetensors"))


def test_rows_without_answers_need_the_slot_and_options(
    llama: str, open_file: str, train_file: str, tmp_path: Path
) -> None:
    fitter = trainer(tmp_path)
    for module, settings, message in (
        (tuned(llama), {"unlabelled": None}, r"data\.unlabelled: found null; expected settings such as"),
        (tuned(llama, agreement=None), {}, r"data\.unlabelled: found it with RobustTuning and no model\.agreement"),
        (InstructionTuning(llama), {}, r"data\.unlabelled: found it with InstructionTuning and no model\.agreement"),
        (tuned(llama), {"unlabelled": Unlabelled(held_out=0)}, r"data\.unlabelled\.held_out: found 0 with .*a guard"),
        (tuned(llama, agreement=Agreement(guard=None)), {}, r"held_out: found 2 with model\.agreement\.guard: null"),
        (tuned(llama), {"unlabelled": Unlabelled(8)}, r"held_out: found 8 with 8 rows without an answer"),
    ):
        with pytest.raises(ValueError, match=message):
            fitter.fit(module, data_of(open_file, **settings))
    with pytest.raises(BadRowsError, match="8 of 12 rows cannot be used"):
        fitter.fit(tuned(llama, agreement=None), data_of(open_file, unlabelled=None))
    answered = data_of(open_file, unlabelled=OPEN)
    answered.sources["train"] = [train_file]
    with pytest.raises(ValueError, match=r"data\.unlabelled: all 26 rows of data\.train bring an answer"):
        fitter.fit(tuned(llama), answered)
    free = write_rows(tmp_path / "free.jsonl", [{"prompt": "Find."}, {"prompt": "Name it.", "completion": "yes"}])
    alone = NoisyInstructionDataModule(free, unlabelled=OPEN)
    with pytest.raises(ValueError, match=r"1 of the 1 rows without an answer have fewer than two options \(.*free:1"):
        fitter.fit(tuned(llama), alone)
    hides = NoisyInstructionDataModule(train_file, unlabelled=Unlabelled(hide=0.5))
    with pytest.raises(ValueError, match=r"data\.unlabelled\.hide: found 0\.5, but none of the 26 rows"):
        fitter.fit(tuned(llama), hides)
    for cls, more, message in (
        (InstructionDataModule, {}, "InstructionDataModule, which makes no variants"),
        (ContrastiveDataModule, {}, "ContrastiveDataModule, which groups rows by their answers"),
        (NoisyInstructionDataModule, {"stream": 100}, "data.stream"),
    ):
        with pytest.raises(ValueError, match=message):
            cls(train_file, unlabelled=OPEN, **more)
    for value in ({"held_out": -1}, {"hide": 1.5}):
        with pytest.raises(ValueError, match=r"data\.unlabelled\."):
            Unlabelled(**value)  # type: ignore[arg-type]


def test_what_does_not_combine_is_refused(llama: str, open_file: str) -> None:
    for settings, message in (
        ({"contrast": Contrast()}, "agreement: found together with contrast"),
        ({"preference": Preference()}, "agreement: found together with preference"),
        ({"adversary": FreeAT()}, "agreement: found together with adversary FreeAT"),
        ({"selection": Selection("gradient")}, "agreement: found together with selection.choice gradient"),
    ):
        with pytest.raises(ValueError, match=message):
            tuned(llama, **settings)
    for settings, message in (
        ({"target": "mode"}, r"agreement\.target: found 'mode'"),
        ({"weight": -1}, r"agreement\.weight: found -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Agreement(**settings)  # type: ignore[arg-type]
    for settings in ({"every": 0}, {"most_share": 0}, {"most_fall": 2}):
        with pytest.raises(ValueError, match=r"agreement\.guard\."):
            Guard(**settings)  # type: ignore[arg-type]
    module = tuned(llama)
    module.configure_model()
    with pytest.raises(ValueError, match="agreement: found with FSDP2"):
        module.check_sharded()
    plain = InstructionTuning(llama)
    plain.configure_model()
    with pytest.raises(ValueError, match=r"6 of the 10 rows of a batch bring no answer"):
        plain.training_step(batch_of(plain.backbone, open_file), 0)  # type: ignore[arg-type]
