"""Attacks by checkpoints and adapters: a file chooses settings, but no code, no host and no model of others."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from robustlm import ANIT, FGM, InstructionTuning, LoRA, NoisyInstructionDataModule, RobustTuning
from robustlm.checkpoints.trust import allow_paths
from robustlm.checkpoints.words import said
from robustlm.cli import main
from robustlm.models.backbone import Backbone, Loading

MARK = "from pathlib import Path\nPath('marker').write_text('ran')\nclass Adv:\n    pass\nckpt = json = Adv\n"
ROW = '{"id": "a", "instruction": "Say the word one.", "target": "one"}\n'
README = ["test", "-c", "anit", "--data.test", "rows.jsonl", "--data.conditions", "[clean]"]
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: str) -> Iterator[Path]:
    """A working folder with a module that leaves a marker when it is imported."""
    monkeypatch.chdir(tmp_path)
    Path("evilmod.py").write_text(MARK, encoding="utf-8")
    Path("rows.jsonl").write_text(ROW, encoding="utf-8")
    shutil.copytree(llama, "model")
    yield tmp_path
    sys.modules.pop("evilmod", None)


def foreign(name: str = "foreign.ckpt", **settings: Any) -> str:
    """A checkpoint of somebody else, which `weights_only` loads."""
    stored = {"_class_path": "robustlm.ANIT", "_instantiator": INSTANTIATOR, "backbone": "model", **settings}
    content = {"state_dict": {}, "robustlm": {"seed": 0}, "hyper_parameters": stored, "epoch": 0, "global_step": 0}
    torch.save({**content, "pytorch-lightning_version": "2.6.6", "loops": {}}, name)
    return name


def outcome(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What a test under a checkpoint says when it is refused."""
    with pytest.raises(SystemExit) as end:
        main(
            [
                "test",
                "--data",
                "NoisyInstructionDataModule",
                "--data.test",
                "rows.jsonl",
                "--trainer.logger",
                "false",
                *args,
            ]
        )
    assert end.value.code == 2
    return capsys.readouterr().err


EVIL = {"class_path": "evilmod.Adv"}
SPELLINGS: dict[str, dict[str, Any]] = {
    "dict": {"adversary": EVIL},
    "string": {"adversary": "evilmod.Adv"},
    "yaml": {"adversary": "{class_path: evilmod.Adv}"},
    "json": {"adversary": '{"class_path": "evilmod.Adv", "init_args": {}}'},
    "file": {"adversary": "evil.yaml"},
    "file of a plain dataclass": {"loading": "evil.yaml"},
    "list": {"adversary": [EVIL]},
    "list in a list of text": {"tuning": {"class_path": "robustlm.LoRA", "init_args": {"target_modules": [[EVIL]]}}},
    "arguments of a class": {"adversary": {"class_path": "robustlm.FGM", "init_args": {"epsilon": EVIL}}},
    "text for a number": {"adversary": {"class_path": "robustlm.FGM", "init_args": {"epsilon": "evilmod.Adv"}}},
    "dict_kwargs": {"adversary": {"class_path": "robustlm.FGM", "dict_kwargs": {"x": "evilmod.Adv"}}},
    "init_args without a class": {"adversary": {"init_args": {"x": "evilmod.Adv"}}},
    "optimizer": {"optimizer": {"class_path": "evilmod.Adv"}},
    "schedule": {"schedule": {"class_path": "evilmod.Adv", "init_args": {}}},
    "schedule as text": {"schedule": "evilmod.Adv"},
    "loading": {"loading": {"class_path": "evilmod.Adv"}},
    "slot": {"_class_path": "robustlm.RobustTuning", "contrast": "evilmod.Adv"},
    "module": {"_class_path": "evilmod.Adv"},
    "module by list": {"_class_path": ["evilmod.Adv"]},
    "unknown argument": {"no_such": EVIL},
    "unknown argument as text": {"no_such": "evilmod.Adv"},
    "deep in an unknown argument": {"no_such": {"a": [{"b": {"class_path": "evilmod.Adv"}}]}},
    "a name of the package that is another's": {"adversary": {"class_path": "robustlm.cli.training.LightningCLI"}},
    "a class of another kind": {"adversary": {"class_path": "robustlm.LoRA"}},
    "a class of the standard library": {"adversary": {"class_path": "subprocess.Popen"}},
    "a model of one's own": {"backbone": "evilmod.Adv:x"},
    "a package that is installed": {"adversary": {"class_path": "antigravity.x"}},
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_checkpoint_imports_nothing(name: str, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("evil.yaml").write_text("class_path: evilmod.Adv\n", encoding="utf-8")
    before = set(sys.modules)
    said = outcome(capsys, "--ckpt_path", foreign(**SPELLINGS[name]))
    assert "foreign.ckpt" in said
    assert not Path("marker").exists()
    assert not {"evilmod", "antigravity"} & (set(sys.modules) - before)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_checkpoint_imports_nothing_in_python(name: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))  # a script or notebook in that folder
    Path("evil.yaml").write_text("class_path: evilmod.Adv\n", encoding="utf-8")
    settings = SPELLINGS[name]
    cls = RobustTuning if settings.get("_class_path") == "robustlm.RobustTuning" else ANIT
    with pytest.raises(ValueError, match=r"foreign\.ckpt"):
        cls.load_from_checkpoint(foreign(**settings))
    assert not Path("marker").exists()


@pytest.mark.parametrize("instantiator", ["evilmod.Adv", ["evilmod.Adv"], "os.system"])
def test_a_checkpoint_chooses_no_function_that_makes_it(instantiator: Any, site: Path) -> None:
    with pytest.raises(ValueError, match="instantiator"):
        ANIT.load_from_checkpoint(foreign(_instantiator=instantiator))
    assert not Path("marker").exists()


def test_a_file_that_is_called_like_a_class_is_no_word(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = foreign("evilmod.ckpt", adversary={"class_path": "evilmod.ckpt"})
    assert "evilmod.ckpt (model.adversary)" in outcome(capsys, "--ckpt_path", checkpoint)
    Path("rows.jsonl").rename("evilmod.json")
    foreign(adversary={"class_path": "evilmod.json"})
    outcome(capsys, "--data.test", "evilmod.json", "--ckpt_path", "foreign.ckpt")
    assert not Path("marker").exists()


@pytest.mark.parametrize("flag", ["--data.template=evilmod.Adv2", "--data.template=x evilmod.Adv", "--x.evilmod.Adv=1"])
def test_a_part_of_a_word_is_no_word(flag: str, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome(capsys, "--ckpt_path", foreign(adversary=EVIL), flag)
    assert not Path("marker").exists()


OWN = (
    "from dataclasses import dataclass\nfrom robustlm.adversaries import Adversary, FGM\n"
    "@dataclass\nclass Mine(FGM):\n    pass\n"
)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.adversary", "own.Mine"],
        ["--model.adversary=own.Mine"],
        ["--model.adversary", "{class_path: own.Mine}"],
        ["-c", "own.yaml"],
        ["-c", "nested.yaml"],
    ],
)
def test_a_class_that_the_user_names_counts(
    words: list[str], site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")
    Path("own.yaml").write_text("model: {class_path: ANIT, init_args: {adversary: own.Mine}}\n", encoding="utf-8")
    Path("mine.yaml").write_text("class_path: own.Mine\n", encoding="utf-8")
    Path("nested.yaml").write_text("model: {class_path: ANIT, init_args: {adversary: mine.yaml}}\n", encoding="utf-8")
    checkpoint = foreign(adversary={"class_path": "own.Mine", "init_args": {"epsilon": 0.5}}, loading={"scratch": True})
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    # its weights are not those of the model, which is found out last of all
    assert "missing trained weights" in outcome(capsys, "--ckpt_path", checkpoint, *words)
    sys.modules.pop("own", None)


def test_code_of_a_model_takes_the_users_word(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(Path("model"))
    said = outcome(capsys, "--ckpt_path", foreign(loading={"trust_remote_code": True}))
    assert "--model.loading.trust_remote_code" in said
    said = outcome(capsys, "--ckpt_path", foreign(), "--model.loading.trust_remote_code", "true")
    assert "--model.backbone" in said  # the user trusts some model, but the file chose this one
    said = outcome(capsys, "--ckpt_path", foreign(loading={"trust_remote_code": True}), "--data.rejected", "true")
    assert "trust_remote_code" in said
    with pytest.raises(ValueError, match="trust_remote_code"):
        ANIT.load_from_checkpoint(foreign(loading={"trust_remote_code": True}))
    with pytest.raises(ValueError, match="backbone"):
        ANIT.load_from_checkpoint(foreign(), loading=Loading(trust_remote_code=True))
    Path("on.yaml").write_text("trust_remote_code: true\n", encoding="utf-8")
    assert "loading" in outcome(capsys, "--ckpt_path", foreign(loading="on.yaml"))
    assert not Path("marker").exists()


def test_trusted_code_comes_from_the_revision_that_the_user_names(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model.backbone", "model", "--model.loading.trust_remote_code", "true"]
    assert "--model.loading.revision" in outcome(
        capsys, "--ckpt_path", foreign(loading={"revision": "refs/pr/1"}), *words
    )


def plant(folder: Path) -> None:
    """Code beside a model, which leaves a marker when it is run."""
    (folder / "evil.py").write_text(MARK, encoding="utf-8")
    for name, keys in (
        ("config.json", ("AutoConfig", "AutoModelForCausalLM")),
        ("tokenizer_config.json", ("AutoTokenizer",)),
    ):
        file = folder / name
        content = json.loads(file.read_text(encoding="utf-8"))
        content["auto_map"] = {key: ["evil.Adv", "evil.Adv"] if key == "AutoTokenizer" else "evil.Adv" for key in keys}
        file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("name", ["openai:gpt-4o-mini", "evil/uploads-nothing", "evil-model"])
def test_a_checkpoint_chooses_no_host(
    name: str, site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("asked for a model")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", reached)
    said = outcome(capsys, "--ckpt_path", foreign(backbone=name))
    assert f"--model.backbone {name}" in said
    said = outcome(capsys, "--ckpt_path", foreign(loading={"tokenizer": name}))
    assert f"--model.loading.tokenizer {name}" in said
    with pytest.raises(ValueError, match="backbone"):
        InstructionTuning.load_from_checkpoint(foreign(_class_path="robustlm.InstructionTuning", backbone=name))


def test_a_host_that_the_user_names_is_asked(site: Path) -> None:
    stored = foreign(_class_path="robustlm.InstructionTuning", backbone="openai:one", tuning=None)
    module = InstructionTuning.load_from_checkpoint(stored, backbone="openai:one")
    assert module.backbone.name == "openai:one"


def test_an_adapter_folder_that_a_checkpoint_chooses_leads_to_no_host(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter(Path("adapter"), base="evil/base")
    assert "evil/base" in outcome(capsys, "--ckpt_path", foreign(backbone="adapter"))


def test_another_backbone_than_the_configs_takes_a_flag(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("model", "other")
    Path("run.yaml").write_text("model: {class_path: ANIT, init_args: {backbone: other}}\n", encoding="utf-8")
    said = outcome(capsys, "-c", "run.yaml", "--ckpt_path", foreign())
    assert "--model.backbone" in said
    assert "other" in said
    said = outcome(capsys, "-c", "run.yaml", "--ckpt_path", foreign(), "--model.backbone", "./model")
    assert "missing trained weights" in said


def test_a_local_backbone_is_taken_and_told(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*README, "--ckpt_path", foreign(), "--trainer.logger=false"])
    shown = capsys.readouterr()
    assert "backbone: model, as foreign.ckpt has it" in shown.out
    assert "missing trained weights" in shown.err


def test_a_hub_model_of_this_machine_is_taken(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(site / "model/config.json"))
    said = outcome(capsys, "--ckpt_path", foreign(backbone="org/known"))
    assert "cannot load the config of 'org/known'" in said  # it was let pass, and is not really there


def test_data_is_not_made_from_a_checkpoint(site: Path) -> None:
    torch.save({"datamodule_hyper_parameters": {"_class_path": "evilmod.Adv", "_instantiator": INSTANTIATOR}}, "x.ckpt")
    with pytest.raises(ValueError, match="no data sources"):
        NoisyInstructionDataModule.load_from_checkpoint("x.ckpt")


@pytest.mark.parametrize("place", ["../runs/version_0/../../precious", "local://precious", "s3://b/x"])
@pytest.mark.parametrize("key", ["best_model_path", "kth_best_model_path", "best_k_models"])
def test_a_checkpoint_chooses_no_files_to_delete(place: str, key: str) -> None:
    states = {
        "ModelCheckpoint{}": {
            "dirpath": "runs",
            "current_score": 1.0,
            key: {place: 1.0} if key == "best_k_models" else place,
        }
    }
    with pytest.raises(ValueError, match="may delete"):
        allow_paths(states, ["../runs/version_0"])
    allow_paths({"ModelCheckpoint{}": {"best_model_path": "../runs/last.ckpt", "dirpath": "s3://mine/runs/x"}},
                ["s3://mine/runs", "../runs"])  # fmt: skip


def test_a_resumed_run_deletes_nothing_else(site: Path) -> None:
    Path("precious").mkdir()
    Path("precious/thesis").write_text("mine", encoding="utf-8")
    module = ANIT("model", tuning=LoRA(r=2), adversary=None)
    data = NoisyInstructionDataModule(train="rows.jsonl", batch_size=1)
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "default_root_dir": "run"}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False}
    first = Trainer(max_steps=1, callbacks=[ModelCheckpoint("run/kept")], **settings)
    first.fit(module, data)
    (found,) = Path("run/kept").glob("*.ckpt")
    content = torch.load(found, weights_only=True)
    (state,) = content["callbacks"].values()
    state["best_model_path"] = str(Path("run/kept").absolute() / "../../precious")
    torch.save(content, "foreign.ckpt")
    again = Trainer(max_epochs=3, callbacks=[ModelCheckpoint("run/kept")], **settings)
    with pytest.raises(ValueError, match="may delete"):
        again.fit(ANIT("model", tuning=LoRA(r=2), adversary=None), data, ckpt_path="foreign.ckpt")
    assert Path("precious/thesis").exists()


def test_ones_own_checkpoint_comes_back(site: Path) -> None:
    fit = "fit --model ANIT --model.backbone model --data NoisyInstructionDataModule --data.train rows.jsonl"
    quiet = [
        "--data.batch_size",
        "1",
        "--trainer.max_steps",
        "1",
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
    ]
    main([*fit.split(), "--model.adversary", "FGM", *quiet])
    last = "runs/version_0/checkpoints/last.ckpt"
    main([*README, "--ckpt_path", last, "--model.max_new_tokens", "2", *quiet[2:]])
    module = ANIT.load_from_checkpoint(last)
    assert isinstance(module.adversary, FGM)
    assert isinstance(module.backbone.tuning, LoRA)


def test_words_are_whole_values(site: Path) -> None:
    Path("x.yaml").write_text("a: {class_path: one.Two}\nb: 'three.Four five'\n", encoding="utf-8")
    words = said(["test", "-c", "x.yaml", "--m.n=six.Seven", "--o", "[a.b, {k: c.d}]", "rows.jsonl"], ["x.yaml"])
    assert words.paths() == ["a.b", "c.d", "one.Two", "six.Seven"]


# --- adapters and models --------------------------------------------------------------------------------------


def adapter(folder: Path, base: str, **changes: Any) -> str:
    """An adapter of the model, whose config has been tampered with."""
    backbone = Backbone("model", tuning=LoRA(r=2))
    backbone.load()
    backbone.model.save_pretrained(folder)
    file = folder / "adapter_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"base_model_name_or_path": base} | changes), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "evilmod"},
        {"auto_mapping": {"base_model_class": "Adv", "parent_library": "evilmod"}},
        {"trust_remote_code": True, "tokenizer_kwargs": {"trust_remote_code": True}},
        {"_custom_modules": {"evilmod.Adv": "evilmod.Adv"}, "custom_module": "evilmod.Adv"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_adapter_imports_nothing(changes: dict[str, Any], site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapter(Path("adapter"), "model", **changes)
    monkeypatch.syspath_prepend(str(site))
    plant(Path("model"))
    try:
        Backbone(folder).load()
    except ValueError as error:
        assert "backbone" in str(error)  # noqa: PT017 - it may be loaded or refused, but runs nothing
    assert not Path("marker").exists()


def test_an_adapter_that_names_megatron_is_refused(site: Path) -> None:
    folder = adapter(Path("adapter"), "model", megatron_config={"a": 1}, megatron_core="evilmod")
    with pytest.raises(ValueError, match=r"adapter_config.json names Megatron parts \('evilmod'\)"):
        Backbone(folder)


def test_a_tokenizer_runs_no_code_of_its_own(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    plant(Path("model"))
    file = Path("model/tokenizer_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "Adv"}), encoding="utf-8")
    try:
        Backbone("model")
    except ValueError as error:
        assert "backbone" in str(error)  # noqa: PT017
    assert not Path("marker").exists()


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_attention_code_of_the_hub_takes_the_users_word(key: str, site: Path) -> None:
    file = Path("model/config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: "evil/kernel"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"attention code at the hub \('evil/kernel'\)"):
        Backbone("model")
