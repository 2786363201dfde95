"""What is built from the repository: the archive of sources, and the wheel that is built from that archive."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import robustlm

ROOT = Path(__file__).parents[1]
META = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def sources() -> set[str]:
    """Files that programs find in the installed package: those of `robustlm/`, and `configs/` inside it."""
    files = {file for file in (ROOT / "robustlm").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    names = {file.relative_to(ROOT).as_posix() for file in files}
    return names | {f"robustlm/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "configs").rglob("*.yaml")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], zipfile.ZipFile]:
    """The names in the archive of sources, and the wheel; two processes of about a second each."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("out")
    for name in META:
        shutil.copy(ROOT / name, tree)
    for name in ("robustlm", "configs"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, "build_sdist", str(out)], cwd=tree, check=True, capture_output=True)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(out, filter="data")
    unpacked = out / archive.name.removesuffix(".tar.gz")
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    subprocess.run(
        [sys.executable, "-c", BUILD, "build_wheel", str(out)], cwd=unpacked, check=True, capture_output=True
    )
    (wheel,) = out.glob("*.whl")
    return names, zipfile.ZipFile(wheel)


def test_the_archive_of_sources_is_whole(built: tuple[set[str], zipfile.ZipFile]) -> None:
    names, _ = built
    assert sources() | set(META) <= names


def test_the_wheel_is_whole(built: tuple[set[str], zipfile.ZipFile]) -> None:
    _, wheel = built
    installed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert installed == sources()
    assert {"robustlm/py.typed", "robustlm/assets/report.css", "robustlm/configs/presets/levels.yaml"} <= installed


def test_the_version_is_that_of_the_package(built: tuple[set[str], zipfile.ZipFile]) -> None:
    _, wheel = built
    (metadata,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    assert email.message_from_bytes(wheel.read(metadata))["Version"] == robustlm.__version__


def test_the_version_is_written_once() -> None:
    files = [*META, "CITATION.cff", *(f"robustlm/{file.name}" for file in ROOT.glob("robustlm/*.py"))]
    holders = [name for name in files if robustlm.__version__ in (ROOT / name).read_text(encoding="utf-8")]
    assert holders == []
    assert robustlm.__version__ in (ROOT / "robustlm/utils/version.py").read_text(encoding="utf-8")


def test_packages_are_found() -> None:
    """No list of packages can be forgotten, and no folder of modules is outside of a package."""
    assert "\npackages = find:\n" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    folders = {file.parent for file in (ROOT / "robustlm").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_hooks_run_what_is_there() -> None:
    """Each hook starts a tool of `.venv`, and the files that it names exist."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "mypy", "walls"]
    for hook in hooks:
        program, *arguments = hook["entry"].split()
        assert program in {".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/python"}
        assert all((ROOT / argument).is_file() for argument in arguments if argument.endswith(".py"))


@pytest.mark.parametrize("form", ["bug", "proposal"])
def test_issue_forms_are_readable(form: str) -> None:
    fields = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{form}.yml").read_text(encoding="utf-8"))
    assert fields["name"]
    assert fields["description"]
    ids = [field["id"] for field in fields["body"]]
    assert len(ids) == len(set(ids)) > 0
