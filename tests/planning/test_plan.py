"""A plan counts what a step takes: the memory that the profiler measures, and the operations of the formula."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plan import SIZES, Case, measured, plan_of, shape_of
from benchmarks.step import lay_out
from robustlm.cli import main
from robustlm.models.loading import Loading
from robustlm.models.tuning import FullTuning, LoRA
from robustlm.modules import SAM, Agreement, RobustTuning, Selection
from robustlm.planning import step
from robustlm.planning.gpus import find
from robustlm.planning.rows import Shape
from robustlm.planning.shapes import write_shape
from robustlm.planning.step import fresh, measure_step, trace_step
from robustlm.planning.strategies import Sharding, sharding_of

CASES = [
    Case("NRM + CoIN + KL", size="deep"),
    Case("FGM", FullTuning(), "bf16-mixed", "long", checkpointing=True, accumulated=2),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_plan_is_what_the_profiler_measures(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SIZES:  # a few layers of a few rows are enough
        monkeypatch.setitem(SIZES, name, replace(SIZES[name], layers=1, tokens=48, answer=8, rows=2))
    lay_out(str(tmp_path), SIZES[case.size])
    assert plan_of(case, str(tmp_path)).memory.tensors == pytest.approx(measured(case, str(tmp_path)), rel=0.05)


@pytest.mark.parametrize("case", [Case("FGM", FullTuning(), size="deep", checkpointing=True)])
def test_many_layers_follow_from_few(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_DEEP", 6)
    monkeypatch.setitem(SIZES, "deep", replace(SIZES["deep"], layers=6, tokens=40, answer=8, rows=2))
    lay_out(str(tmp_path), SIZES["deep"])
    module, shape = plan_of(case, str(tmp_path)).module, shape_of(case)
    few, all_layers = measure_step(module, shape, "32-true"), trace_step(fresh(module), shape, "32-true")
    assert few.weights == all_layers.weights
    assert few.operations == pytest.approx(all_layers.operations)
    for shares in ({}, {"frozen weights": 0.1, "optimiser": 0.1}):
        assert few.peak(shares).total == pytest.approx(all_layers.peak(shares).total, rel=0.01)


def test_operations_are_those_of_matrix_products(tmp_path: Path) -> None:
    size = replace(SIZES["wide"], layers=1, hidden=64, vocab=300, tokens=24, answer=4, rows=2)
    lay_out(str(tmp_path), size)
    plan = plan_of(Case("plain", FullTuning()), str(tmp_path))
    found = trace_step(fresh(plan.module), Shape(2, 20, 4, padded=False), "32-true")
    attention, mlp, head = 4 * 64 * 64, 3 * 64 * (8 * 64 // 3), 64 * 300
    products = 2 * 2 * (24 * (attention + mlp) + 4 * head)
    scores = 2 * 2 * 24 * 24 * 64 * 2
    # a backward pass computes two products for each, and the flash kernel computes the scores again
    assert found.operations == 3 * products + scores + 2.5 * scores
    assert found.weights.trained == attention + mlp + head + 3 * 64


def test_the_passes_that_choose_a_variant_are_counted(tmp_path: Path) -> None:
    """A gradient costs a step on raw rows, and trying three variants one and a half; SAM takes two steps."""
    lay_out(str(tmp_path), replace(SIZES["wide"], layers=1, hidden=64, vocab=300, tokens=24, answer=4, rows=2))
    shape, found = Shape(2, 20, 4, views=("raw", "variant"), variants=3, padded=False), {}
    for name, slots in {
        "random": {"selection": Selection("random")},
        "gradient": {"selection": Selection("gradient")},
        "hardest": {"selection": Selection("hardest", bf16=False)},
        "sam": {"selection": Selection("random"), "sam": SAM()},
    }.items():
        module = RobustTuning(str(tmp_path), Loading(scratch=True), LoRA(r=2), **slots)  # type: ignore[arg-type]
        found[name] = trace_step(fresh(module), shape, "32-true").operations
    voted = RobustTuning(
        str(tmp_path), Loading(scratch=True), LoRA(r=2), selection=Selection("random"), agreement=Agreement(guard=None)
    )
    for name, share in (("voted", 1.0), ("half", 0.5)):
        found[name] = trace_step(fresh(voted), replace(shape, open=share, options=2), "32-true").operations
    ratios = {name: count / found["random"] for name, count in found.items()}
    assert ratios["gradient"] == pytest.approx(2, rel=0.1)
    assert ratios["hardest"] == pytest.approx(2.5, rel=0.1)
    assert ratios["sam"] == pytest.approx(2, rel=0.01)
    # four phrasings of 20 + 2 · 4 tokens in place of 20 + 4, without a backward pass
    assert ratios["voted"] == pytest.approx(1 + 4 / 2 * 28 / 24, rel=0.1)
    assert ratios["half"] == pytest.approx((1 + ratios["voted"]) / 2, rel=0.01)


def test_a_plan_is_printed_and_says_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["plan", "-c", "anit", "--shape", "8b,layers=1,vocab=300,hidden=256,mlp=512", "--prompt=40", "--answer=8"]
    args.append("--model.tuning.target_modules=[q_proj]")
    main([*args, "--rows=1000", "--trainer.devices=4", "-c", "trainer/fsdp2", "--trainer.precision=bf16-mixed"])
    shown = capsys.readouterr().out
    for text in ("ANIT with NRM (LoRA), bf16-mixed, fsdp2 on 4 × h100", "total", ": fits", "128 rows a step", "days",
                 "NRM adds", "assumed"):  # fmt: skip
        assert text in shown
    mine = ["--gpu=mine", "--gpu_memory=1.32", "--gpu_tflops=100", "--trainer.precision=32-true"]
    main([*args, "--model.adversary=null", *mine])
    shown = capsys.readouterr().out
    assert "DOES NOT FIT" in shown
    assert "--model.loading.gradient_checkpointing true" in shown
    assert "time        not known" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shape=9b"], "expected one of 1b, 3b, 8b, 70b"),
        (["--shape=8b", "--model.backbone=builtin:tiny"], "found --model.backbone too"),
        (["--shape=8b,heads=7"], "is not a multiple of heads=7"),
        (["--shape=hidden=64"], "lacks layers, heads"),
        (["--shape=8b", "--gpu=v9"], "'v9' is not in the table"),
        (["--shape=8b", "--mfu=2"], "mfu: found 2"),
        (["--shape=8b", "--trainer.strategy=xla"], "trainer.strategy: found 'xla'"),
        (["--shape=8b", "--data.train=builtin:quickstart"], "a shape has no tokenizer"),
        (["--shape=8b", "--trainer.devices=-1"], "trainer.devices: found"),
        (["--model.backbone=openai:some"], "but not be tuned"),
    ],
)
def test_what_cannot_be_planned_is_refused(flags: list[str], message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plan", "-c", "anit", *flags])
    assert end.value.code
    assert message in " ".join(capsys.readouterr().err.split())


def test_lengths_come_from_the_training_rows(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "-c", "anit", "--model.backbone=builtin:tiny", "--data.train=builtin:quickstart",
          "--model.adversary=null", "--model.tuning.target_modules=[q_proj]"])  # fmt: skip
    shown = capsys.readouterr().out
    assert "tokens at most" in shown
    assert "rows × 10 epochs" in shown


def test_rows_follow_from_a_number_of_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["plan", "-c", "anit", "--shape", "8b,layers=1,vocab=300,hidden=256,mlp=512", "--prompt=40", "--answer=8"]
    args += ["--model.tuning.target_modules=[q_proj]", "--trainer.precision=32-true"]
    main([*args, "--data.batch_tokens=500", "--gpu=mine", "--gpu_memory=1.32", "--gpu_tflops=100"])
    by_tokens = capsys.readouterr().out
    assert "10 rows of the longest (10 on average) in 500 tokens on each GPU" in by_tokens
    assert "(data.batch_tokens " in by_tokens
    assert "--data.batch_tokens 240 --trainer.accumulate_grad_batches 2" in by_tokens
    main([*args, "--data.batch_size=10"])
    by_rows = capsys.readouterr().out

    def part(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith(("  activations", "operations"))]

    assert part(by_tokens) == part(by_rows) != []
    with pytest.raises(SystemExit):
        main([*args, "--data.batch_tokens=47"])
    assert "data.batch_tokens: found 47, but the longest row has 48 tokens" in capsys.readouterr().err


def test_casts_that_are_kept_are_counted_as_the_settings_say(tmp_path: Path) -> None:
    lay_out(str(tmp_path), replace(SIZES["wide"], layers=1, hidden=64, vocab=300, tokens=24, answer=4, rows=2))
    plan = plan_of(Case("plain", precision="bf16-mixed"), str(tmp_path))
    parts = [own.memory.parts for own in (plan, plan._with_loading(cast_once=False))]
    frozen = 2 * plan.step.weights.linear
    # kept casts are there from the start; others are made when a layer runs
    assert parts[0]["casts"] >= frozen
    assert parts[0] != parts[1]


def test_a_config_is_a_shape(tmp_path: Path) -> None:
    folder = tmp_path / "shape"
    folder.mkdir()
    write_shape("1b,layers=2", folder)
    again = tmp_path / "again"
    again.mkdir()
    write_shape(str(folder), again)
    one, two = (json.loads((at / "config.json").read_text()) for at in (folder, again))
    assert one == two
    assert (one["num_hidden_layers"], one["hidden_size"], one["tie_word_embeddings"]) == (2, 2048, True)


def test_strategies_divide_what_they_divide() -> None:
    name = "lightning.pytorch.strategies.DeepSpeedStrategy"
    assert sharding_of("auto", 1) == Sharding("single", 1)
    assert sharding_of("ddp", 8) == Sharding("ddp", 8)
    assert sharding_of({"class_path": name, "init_args": {"stage": 3}}, 8).shares["frozen weights"] == 1 / 8
    assert "frozen weights" not in sharding_of("deepspeed_stage_2", 8).shares
    fsdp = sharding_of({"class_path": "robustlm.callbacks.fsdp2.FSDP2"}, 4)
    assert fsdp.shares == dict.fromkeys(("frozen weights", "trained weights", "gradients", "optimiser"), 0.25)


def test_four_bit_weights_take_half_a_byte(tmp_path: Path) -> None:
    lay_out(str(tmp_path), replace(SIZES["long"], layers=1))
    plan = plan_of(Case("plain", size="long"), str(tmp_path))
    small = plan._with_loading(four_bit=True)
    saved = plan.memory.parts["frozen weights"] - small.memory.parts["frozen weights"]
    assert saved == pytest.approx(plan.step.weights.linear * (4 - 0.5625))


def test_gpus() -> None:
    assert find("H100").bf16 == find("h200").bf16
    own = find("mine", 10.0, 100.0)
    assert (own.memory, own.peak(16), own.peak(32)) == (10.0, 100.0, None)
    assert find("h100", memory=94.0).memory == 94.0
