"""Import paths of earlier versions."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from robustlm.cli import main
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.models.tuning import LoRA
from robustlm.utils import public
from robustlm.utils.moved import MOVED


def test_every_old_path_leads_to_its_new_module() -> None:
    for old, new in MOVED.items():
        for name in (old, old.rpartition(".")[0]):
            if name not in ("robustlm", "robustlm.datamodules"):
                sys.modules.pop(name, None)
        with pytest.warns(FutureWarning, match=f"{old} is now {new}"):
            found = import_module(old)
        assert {name for name in vars(import_module(new)) if name[0] != "_"} <= vars(found).keys()


def test_an_old_path_leads_to_the_same_class() -> None:
    sys.modules.pop("robustlm.tuning", None)
    with pytest.warns(FutureWarning, match=r"robustlm\.tuning is now robustlm\.models\.tuning"):
        found = import_module("robustlm.tuning")
    assert found.LoRA is LoRA


def test_a_config_may_name_an_old_path(capsys: pytest.CaptureFixture[str]) -> None:
    sys.modules.pop("robustlm.tuning", None)
    with pytest.warns(FutureWarning, match=r"now robustlm\.models\.tuning"), pytest.raises(SystemExit) as ended:
        main(
            [
                "fit",
                "-c",
                "quickstart",
                "--model.tuning",
                "robustlm.tuning.LoRA",
                "--model.tuning.r",
                "3",
                "--print_config",
            ]
        )
    assert ended.value.code == 0
    assert "r: 3" in capsys.readouterr().out


def test_a_path_of_nothing_is_still_unknown() -> None:
    code = "import robustlm\ntry:\n    import robustlm.nothing\nexcept ModuleNotFoundError:\n    print('unknown')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "unknown\n"


def test_an_old_path_knows_old_names() -> None:
    sys.modules.pop("robustlm.datamodules.nlu", None)
    with pytest.warns(FutureWarning, match=r"now robustlm\.datamodules\.noisy"):
        found = import_module("robustlm.datamodules.nlu")
    public._said.discard("NLUDataModule")
    with pytest.warns(FutureWarning, match="NLUDataModule is called NoisyInstructionDataModule now"):
        cls = found.NLUDataModule
    assert cls is NoisyInstructionDataModule
