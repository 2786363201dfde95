"""A class that a later layer puts into a slot has its own defaults, whatever was written for the one before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import robustlm
from robustlm.adversaries import Adversary, Outcome, Problem
from robustlm.assets import known_configs
from robustlm.cli import layers, main
from robustlm.cli.arguments import ordered
from robustlm.utils.serialization import to_plain

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = known_configs()
FAMILIES = {
    "model.adversary": ("NRM", "FGM", "FGSM", "PGD", "FreeLB", "FreeAT", "NEFTune"),
    "model.optimizer": ("AdamW", "Muon"),
    "model.tuning": ("LoRA", "PrefixTuning", "PromptTuning", "FullTuning"),
    "data.distortion": ("RBE", "LME"),
}
MODEL = ["--model.backbone", "m", "--data.train", "rows.jsonl"]
ANIT = ["--model", "ANIT", "--data", "NoisyInstructionDataModule", *MODEL]
STRONG = "model: {class_path: ANIT, init_args: {adversary: {class_path: NRM, init_args: {epsilon: 3, norm: token}}}}\n"


@dataclass
class Gentle(Adversary):
    """An adversary from outside the package, whose defaults are not those of the package's."""

    epsilon: float = 0.125
    """Its size."""

    def attack(self, problem: Problem) -> Outcome:
        """Do nothing."""
        return Outcome(problem.loss(problem.embeds))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("strong.yaml").write_text(STRONG, encoding="utf-8")
    return tmp_path


class Parsed:
    """What `fit --print_config` prints for some arguments."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *args: str) -> None:
        with pytest.raises(SystemExit) as end:
            main(["fit", *args, "--print_config"])
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        self.settings = yaml.safe_load(printed.out)
        self.said = [line for line in printed.err.splitlines() if "replaces" in line]

    def __getitem__(self, slot: str) -> Any:
        value = self.settings
        for key in slot.split("."):
            value = value.get("init_args", value)[key]
        return value


def own_defaults(name: str) -> dict[str, Any]:
    """The slot of a class whose arguments nobody gave, with classes by their last name."""
    return short(to_plain(getattr(robustlm, name)()))


def short(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v.rpartition(".")[2] if k == "class_path" else short(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


# every slot is switched at once, in as few runs as the largest family needs: a run takes half a second
@pytest.mark.parametrize("config", NAMES)
def test_no_config_leaks_into_another_class(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    written = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8"))
    before = Parsed(capsys, "-c", config, *MODEL)
    assert before.settings["model"]["class_path"]
    slots = {
        slot: [name for name in names if not before[slot] or before[slot]["class_path"].rpartition(".")[2] != name]
        for slot, names in FAMILIES.items()
        if slot.rpartition(".")[2] in before.settings[slot.partition(".")[0]]["init_args"]
    }
    assert "model.optimizer" in slots, written
    for run in range(max(map(len, slots.values()))):
        chosen = {slot: names[run % len(names)] for slot, names in slots.items()}
        flags = [part for slot, name in chosen.items() for part in (f"--{slot}", name)]
        found = Parsed(capsys, "-c", config, *MODEL, *flags)
        for slot, name in chosen.items():
            assert short(found[slot]) == own_defaults(name), (config, slot, name)


def test_what_was_written_for_another_class_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = Parsed(capsys, "-c", "strong.yaml", *ANIT, "--model.adversary", "PGD")
    assert found.said == ["PGD replaces NRM, so settings written for NRM are not used: epsilon: 3.0, norm: token"]
    assert Parsed(capsys, *ANIT, "--model.adversary", "PGD").said == [], "defaults are nobody's wish"
    assert Parsed(capsys, "-c", "strong.yaml", *ANIT).said == []


@pytest.mark.parametrize("name", ["NRM", "robustlm.NRM", "robustlm.adversaries.NRM", "robustlm.adversaries.nrm.NRM"])
def test_the_same_class_by_any_name_keeps_its_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = Parsed(capsys, "-c", "strong.yaml", *ANIT, "--model.adversary", name)
    assert found["model.adversary.epsilon"] == 3
    assert found["model.adversary.norm"] == "token"
    assert found.said == []


def test_a_class_of_ones_own_has_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    found = Parsed(capsys, "-c", "strong.yaml", *ANIT, "--model.adversary", f"{__name__}.Gentle")
    assert found["model.adversary"] == {"class_path": f"{__name__}.Gentle", "init_args": {"epsilon": 0.125}}


ORDERS = [
    ["-c", "strong.yaml", *ANIT, "--model.adversary", "FGM", "--model.adversary.epsilon", "0.2"],
    ["-c", "strong.yaml", *ANIT, "--model.adversary.epsilon", "0.2", "--model.adversary", "FGM"],
    [*ANIT, "--model.adversary.epsilon=0.2", "--model.adversary=FGM", "-c", "strong.yaml"],
    ["--model.init_args.adversary.init_args.epsilon", "0.2", "--model.adversary.class_path", "FGM", *ANIT,
     "--config=strong.yaml"],
    ["-c", "strong.yaml", *ANIT, "--model.adversary", '{"class_path": "FGM", "init_args": {"epsilon": 0.2}}'],
]  # fmt: skip


@pytest.mark.parametrize("args", ORDERS, ids=range(len(ORDERS)))
def test_flags_hold_for_the_class_that_flags_name_in_any_order(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = Parsed(capsys, *args)
    assert found["model.adversary"]["class_path"].endswith("FGM")
    assert found["model.adversary.epsilon"] == 0.2
    assert found["model.adversary.norm"] == "row"


def test_one_config_over_another(capsys: pytest.CaptureFixture[str]) -> None:
    Path("weak.yaml").write_text(STRONG.replace("NRM, init_args: {epsilon: 3, norm: token}", "FGM"), encoding="utf-8")
    found = Parsed(capsys, "-c", "strong.yaml", "-c", "weak.yaml", *ANIT)
    assert short(found["model.adversary"]) == own_defaults("FGM")
    assert len(found.said) == 1


def test_slots_in_slots(capsys: pytest.CaptureFixture[str]) -> None:
    embedder = "{class_path: OpenAIEmbedder, init_args: {cache_dir: here, model: small}}"
    Path("lme.yaml").write_text(
        f"data: {{class_path: NoisyInstructionDataModule, init_args: {{distortion: "
        f"{{class_path: LME, init_args: {{embedder: {embedder}}}}}}}}}\n",
        encoding="utf-8",
    )
    kept = Parsed(capsys, "-c", "lme.yaml", *ANIT)
    assert kept["data.distortion.embedder.cache_dir"] == "here"
    name = "robustlm.noise.embedders.SentenceTransformerEmbedder"
    found = Parsed(capsys, "-c", "lme.yaml", *ANIT, "--data.distortion.embedder", name)
    assert found["data.distortion.embedder"]["class_path"] == name
    assert "here" not in json.dumps(found.settings)
    assert "small" not in json.dumps(found.settings)
    assert len(found.said) == 1


def test_a_model_that_becomes_another_keeps_what_both_have(capsys: pytest.CaptureFixture[str]) -> None:
    found = Parsed(capsys, "-c", "anit", *MODEL, "--model", "InstructionTuning", "--data", "InstructionDataModule")
    assert found["model.tuning.r"] == 16
    assert found["model.max_new_tokens"] == 128
    assert found["data.max_length"] == 512


def test_a_checkpoint_is_a_layer_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    adversary = {"class_path": "robustlm.adversaries.nrm.NRM", "init_args": {"init_scale": 2.0, "unit": "absolute"}}
    stored = {"_class_path": "robustlm.modules.anit.ANIT", "backbone": "m", "adversary": adversary}
    content = {"state_dict": {}, "robustlm": {"seed": 0}, "hyper_parameters": stored, "epoch": 0, "global_step": 0,
               "pytorch-lightning_version": "2.6.6"}  # fmt: skip
    torch.save(content, "stored.ckpt")
    resumed = ["--ckpt_path", "stored.ckpt", *ANIT]

    Path("fgm.yaml").write_text(STRONG.replace("NRM", "FGM"), encoding="utf-8")
    over_config = Parsed(capsys, "-c", "fgm.yaml", *resumed)
    assert over_config["model.adversary"]["class_path"].endswith("NRM")
    assert over_config["model.adversary.init_scale"] == 2
    assert over_config["model.adversary.epsilon"] is None, "of the config's FGM"
    assert over_config["model.adversary.norm"] == "row", "of the config's FGM"

    under_flags = Parsed(capsys, "--model.adversary.steps", "7", *resumed, "--model.adversary", "PGD")
    assert short(under_flags["model.adversary"])["init_args"] == {**own_defaults("PGD")["init_args"], "steps": 7}
    assert under_flags.said == [
        "PGD replaces NRM, so settings written for NRM are not used: init_scale: 2.0, unit: absolute"
    ]


def test_commands_beside_training_switch_alike(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text('{"instruction": "Name all of them.", "output": "A"}\n', encoding="utf-8")
    main(["noise", "rows.jsonl", "out.jsonl", "--distortion.normalisation", "minmax", "--distortion", "RBE"])
    assert Path("out.jsonl").is_file()


def test_arguments_are_ordered_by_layer() -> None:
    given = "fit --x.y 1 --x A --n -1 -c a --p=2 --x.z.w 3 --x.z null --config=b --flag"
    expected = "fit -c a --config=b --x A --x.y 1 --n -1 --p=2 --x.z.w 3 --x.z null --flag"
    assert " ".join(ordered(given.split())) == expected
    assert ordered(["fit"]) == ["fit"]
    assert ordered([]) == []


def test_a_parser_that_cannot_be_told_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_works", lambda: False)
    with pytest.raises(ImportError, match="keeps arguments of a class that a flag replaces"):
        layers.drop_on_switch(robustlm.InstructionTuning, robustlm.InstructionDataModule)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--model.loading.revision", "null"], "revision: null"),
        (["--model.generation.top_k=3", "--model.generation.top_k", "null"], "top_k: null"),
        (["--model=RobustTuning", "--model.agreement.target=mean", "--model.agreement.guard=null"], "guard: null"),
        (["--data.noise.weights={opposite: 1}", "--data.noise.weights=null"], "weights: null"),
    ],
)
def test_a_nested_setting_can_be_null(args: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", "quickstart", *args, "--print_config"])
    assert not end.value.code
    assert line in [one.strip() for one in capsys.readouterr().out.splitlines()]
