"""The working folder serves the modules that a user names, and nothing that a library asks for."""

from __future__ import annotations

import ast
import importlib
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from robustlm.utils.own_code import ENVIRONMENT, OwnModules, permit, serve

PLANTED = "open('marker', 'a').write(__name__)\n"
NAMES = ("torch_xla", "mpi4py", "habana_frameworks", "deepspeed", "orjson", "ruamel")
OWN = (
    "from dataclasses import dataclass\nfrom robustlm.adversaries import FGM\nimport aside\n"
    "@dataclass\nclass Mine(FGM):\n    def attack(self, problem):\n        open('used', 'a').write(aside.WORD)\n"
    "        return super().attack(problem)\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder that Python itself does not search."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    monkeypatch.setenv(ENVIRONMENT, "")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("own", "aside", "probe", "pack", "space"):
            del sys.modules[name]


def test_only_what_is_named_is_found(folder: Path) -> None:
    Path("own.py").write_text("def late():\n    import aside\n    return aside.WORD\n", encoding="utf-8")
    Path("aside.py").write_text("WORD = 'w'\n", encoding="utf-8")
    Path("probe.py").write_text(PLANTED, encoding="utf-8")
    serve(str(folder))
    for name in ("own", "aside", "probe"):
        with pytest.raises(ImportError):
            importlib.import_module(name)
    permit("own.late")
    assert importlib.import_module("own").late() == "w"  # what the user's own module imports is the user's own
    with pytest.raises(ImportError):
        importlib.import_module("probe")
    assert not Path("marker").exists()


def test_packages_and_folders_are_found_whole(folder: Path) -> None:
    for name, init in (("pack", True), ("space", False)):
        Path(name).mkdir()
        if init:
            Path(name, "__init__.py").touch()
        Path(name, "inner.py").write_text("from . import other\nWORD = other.WORD\n", encoding="utf-8")
        Path(name, "other.py").write_text("WORD = 'w'\n", encoding="utf-8")
    serve(str(folder), ["pack", "space"])
    assert importlib.import_module("pack.inner").WORD == "w"
    assert importlib.import_module("space.inner").WORD == "w"


def test_installed_packages_come_first(folder: Path) -> None:
    Path("json").mkdir()
    Path("yaml.py").write_text(PLANTED, encoding="utf-8")
    serve(str(folder), ["yaml", "wave"])
    Path("wave.py").write_text(PLANTED, encoding="utf-8")
    sys.modules.pop("wave", None)
    importlib.import_module("wave")
    importlib.reload(importlib.import_module("yaml"))
    assert not Path("marker").exists()


def test_another_folder_takes_the_place_of_the_first(folder: Path) -> None:
    serve(str(folder), ["own"])
    serve("elsewhere", ["aside"])
    (finder,) = (one for one in sys.meta_path if isinstance(one, OwnModules))
    assert (finder.folder, finder.names) == ("elsewhere", {"aside"})


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_loaders_find_it(method: str, folder: Path) -> None:
    """Each process of `spawn` and `forkserver` imports torch anew, which takes seconds."""
    Path("own.py").write_text(
        "from torch.utils.data import Dataset\nclass Rows(Dataset):\n    def __len__(self):\n        return 2\n"
        "    def __getitem__(self, i):\n        import aside\n        return aside.WORD * i\n",
        encoding="utf-8",
    )
    Path("aside.py").write_text("WORD = 3\n", encoding="utf-8")
    serve(str(folder), ["own"])
    rows: Dataset[int] = Holder(importlib.import_module("own").Rows())
    context = multiprocessing.get_context(method)
    assert [int(one) for one in DataLoader(rows, num_workers=1, multiprocessing_context=context)] == [0, 3]


class Holder(Dataset[int]):
    """As in a run, an object of this package stands around one of the user's."""

    def __init__(self, rows: Dataset[int]) -> None:
        import robustlm

        self.package = robustlm.RBE  # a class of the package, by which a new process imports it first
        self.rows = rows

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return self.rows[index]


def test_a_run_imports_no_file_that_a_library_asks_for(tmp_path: Path, llama: str) -> None:
    """In a process of its own, as libraries are imported in this one already: it takes as long as the program takes."""
    script = Path(sys.executable).with_name("robustlm")
    if not script.is_file():
        pytest.skip("the package is not installed as a program here")
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(PLANTED, encoding="utf-8")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "aside.py").write_text("WORD = 'w'\n", encoding="utf-8")
    shutil.copytree(llama, tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Say one.", "target": "one"}\n' * 2, encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        "trainer: {max_steps: 1, accelerator: cpu, logger: false, enable_progress_bar: false}\n"
        "model: {class_path: ANIT, init_args: {backbone: model, adversary: own.Mine}}\n"
        "data: {class_path: NoisyInstructionDataModule, init_args: {train: rows.jsonl, batch_size: 2}}\n",
        encoding="utf-8",
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(script), "fit", "-c", "run.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "used").read_text() == "w"
    assert not (tmp_path / "marker").exists(), (tmp_path / "marker").read_text()


@pytest.mark.parametrize("installed", [True, False])
def test_python_m_does_not_put_the_working_folder_first(installed: bool, tmp_path: Path) -> None:
    package = Path(__file__).parents[2] / "robustlm"
    place = tmp_path / "site" if installed else tmp_path  # where it is not installed, it is found in this folder alone
    (place / "robustlm/cli").mkdir(parents=True)
    shutil.copy(package / "__main__.py", place / "robustlm")
    (place / "robustlm/__init__.py").touch()
    (place / "robustlm/cli/__init__.py").write_text(
        "def main():\n    import sys\n    print(sys.path)\n", encoding="utf-8"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-S", "-m", "robustlm"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found = ast.literal_eval(done.stdout)
    assert (str(tmp_path) in found) is not installed
    assert installed or found[-1] == str(tmp_path)
