"""Settings of a run that would fail late, train nothing or write elsewhere: refused before a model is loaded."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustlm.checks.run import check_run
from robustlm.cli import main
from tests.bad_input.refused import refused
from tests.bad_input.test_bad_input import Site

WRONG: dict[str, dict[str, Any]] = {
    "trainer.accumulate_grad_batches: found 0": {"trainer": {"accumulate_grad_batches": 0}},
    "trainer.val_check_interval: found 0": {"trainer": {"val_check_interval": 0}},
    "trainer.val_check_interval: found 0.0": {"trainer": {"val_check_interval": 0.0}},
    "trainer.val_check_interval: found 1.5": {"trainer": {"val_check_interval": 1.5}},
    "trainer.gradient_clip_val: found nan": {"trainer": {"gradient_clip_val": float("nan")}},
    "trainer.limit_val_batches: found -1": {"trainer": {"limit_val_batches": -1}},
    "trainer.limit_train_batches: found 0": {"trainer": {"limit_train_batches": 0}},
    "trainer.overfit_batches: found nan": {"trainer": {"overfit_batches": float("nan")}},
    "trainer.max_epochs: found 0": {"trainer": {"max_epochs": 0}},
    "trainer.max_steps: found 0": {"trainer": {"max_steps": 0}},
    "trainer.check_val_every_n_epoch: found 0": {"trainer": {"check_val_every_n_epoch": 0}},
    "trainer.num_nodes: found 0": {"trainer": {"num_nodes": 0}},
    "trainer.default_root_dir: /proc/x cannot be written to": {"trainer": {"default_root_dir": "/proc/x"}},
    "seed_everything: found -1": {"seed_everything": -1},
    "ckpt_path: found 'registry:m', a registry of checkpoints": {"ckpt_path": "registry:m"},
    "export.name: found '../../x'": {"export": {"name": "../../x"}},
    "export.name: found ''": {"export": {"name": ""}},
    "checkpoint.filename: found '../x'": {"checkpoint": {"filename": "../x"}},
    "checkpoint.filename: found '{epoch'": {"checkpoint": {"filename": "{epoch"}},
    "checkpoint.filename: found '{epoch!x}'": {"checkpoint": {"filename": "{epoch!x}"}},
    "checkpoint.dirpath: /proc/x cannot be written to": {"checkpoint": {"dirpath": "/proc/x"}},
    "data.rejected: found 'r.txt'": {"data": {"init_args": {"rejected": "r.txt"}}},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_setting_is_named(message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
        check_run("fit", WRONG[message])
    assert str(error.value).startswith(message)
    assert "expected" in str(error.value)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--seed_everything", "-1", "seed_everything: found -1; expected a whole number"),
        ("--seed_everything", str(2**40), f"seed_everything: found {2**40}; expected a whole number"),
        ("--model.backbone", "x" * 3000, "backbone: 'xxx"),
    ],
)
def test_a_wrong_value_of_a_flag_is_named(
    flag: str, value: str, message: str, site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(site.command("fit", flag, value), site.folder, capfd)


@pytest.mark.parametrize("name", ["../p.parquet", "p.csv", "", "a/p.parquet"])
def test_a_wrong_name_of_a_table(name: str) -> None:
    with pytest.raises(ValueError, match=r"^predictions.name: found"):
        check_run("test", {"predictions": {"name": name}})


def test_usual_settings_pass() -> None:
    trainer = {"max_epochs": 3, "max_steps": -1, "val_check_interval": 0.5, "limit_val_batches": 0, "min_steps": None}
    checkpoint = {"filename": "{epoch}-{step}-{val/loss:.2f}", "dirpath": None}
    check_run("fit", {"trainer": trainer, "checkpoint": checkpoint, "export": {"name": "adapter"}})
    check_run("test", {"trainer": {"val_check_interval": "00:15:00:00", "limit_test_batches": 3}})
    check_run("check", {"trainer": {"max_steps": 0}, "seed_everything": True})


FLAGS: dict[str, tuple[str, ...]] = {
    "accumulate_grad_batches": ("--trainer.accumulate_grad_batches", "0"),
    "val_check_interval": ("--trainer.val_check_interval", "0"),
    "adversarial_weight": ("--model.adversarial_weight", ".nan"),
    "hidden_size": ("--model.tuning", "PrefixTuning", "--model.tuning.hidden_size", "-1"),
    "tuning.r": ("--model.tuning", "LoRA", "--model.tuning.r", "100000000"),
    "optimizer.lr": ("--model.optimizer", "AdamW", "--model.optimizer.lr", "1e38"),
    "export.name": ("--export.name", "../../x"),
    "'float99'": ("--model.loading.dtype", "float99"),
    "data.seed": ("--data.seed", "-1"),
}


@pytest.mark.parametrize("words", FLAGS)
def test_a_wrong_flag_stops_fit(words: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--trainer.max_steps", "1", "--trainer.accelerator", "cpu", *FLAGS[words])
    assert words in refused(site.command("fit", *flags), site.folder, capfd)


CONFIGS = {
    "empty": ("", "found no settings"),
    "comments": ("# nothing\n", "found no settings"),
    "deep": ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    "an impossible date": ("a: 2024-13-45\n", "cannot be read"),
    "a number as key": ("1: 2\n", "found the key 1"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_without_use(kind: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    content, says = CONFIGS[kind]
    message = refused(site.check("-c", site.config(content)), site.folder, capfd)
    assert "config: run.yaml" in message
    assert says in message


def test_a_config_that_is_a_pipe(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("run.yaml")
    message = refused(["check", "-c", "run.yaml"], site.folder, capfd)
    assert "config: run.yaml is not a file, found a named pipe" in message


def test_a_run_that_took_no_step_exports_nothing(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(site.command("fit", "--trainer.max_time", "00:00:00:00", "--trainer.accelerator", "cpu"))
    assert "not written, because no optimiser step was taken" in capfd.readouterr().err
    assert not list(site.folder.rglob("adapter"))


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer_config.json", "[]"), ("tokenizer.json", "[]"), ("config.json", "null"), ("config.json", "[" * 9_999)],
)
def test_a_models_file_of_another_kind(file: str, content: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    (site.model() / file).write_text(content)
    assert "backbone: " in refused(site.check(model="model"), site.folder, capfd)


@pytest.mark.parametrize("name", ["num_attention_heads", "hidden_size"])
def test_a_model_of_size_zero(name: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    file = site.model() / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: 0}))
    assert "'model'" in refused(site.check(model="model"), site.folder, capfd)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_models_file_that_is_a_pipe(file: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    (site.model() / file).unlink()
    os.mkfifo(f"model/{file}")
    assert f"model/{file}: found a named pipe" in refused(site.check(model="model"), site.folder, capfd)


def _add(site: Site, name: str, like: str) -> None:
    file = site.model() / "model.safetensors"
    weights = load_file(file)
    more = {key.replace(like, name): torch.clone(value) for key, value in weights.items() if like in key}
    save_file({**weights, **more}, file, {"format": "pt"})


def test_more_layers_in_the_weights_than_in_the_config(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    _add(site, "layers.1.", "layers.0.")
    message = refused(site.check(model="model"), site.folder, capfd)
    assert "layers.1" in message
    assert "is of a layer that the config does not have" in message


def test_weights_that_are_not_used_are_said(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    _add(site, "model.picture.", "model.norm.")
    main(site.check(model="model"))
    assert "1 weights of the checkpoint are not used" in caplog.text
    assert "model.picture.weight" in caplog.text


def _adapter(site: Site, change: str) -> str:
    """An adapter of the tiny model, of whose weights one is renamed or left out."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(site.tiny)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2)).save_pretrained("adapter")
    weights = load_file("adapter/adapter_model.safetensors")
    name = next(iter(weights))
    value = weights.pop(name)
    if change:
        weights[name.replace("layers.0", change)] = value
    save_file(weights, "adapter/adapter_model.safetensors", {"format": "pt"})
    return "adapter"


@pytest.mark.parametrize("change", ["", "layers.7"])
def test_an_adapter_without_one_of_its_weights(change: str, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    args = site.check(model=_adapter(site, change))
    message = refused(args, site.folder, capfd)
    assert "'adapter'" in message
    assert "is missing" in message


def test_a_whole_adapter_is_loaded(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    main(site.check(model=_adapter(site, "layers.0")))
    assert "parameters" in capsys.readouterr().out
