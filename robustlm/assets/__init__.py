"""Files that come with the package, found by name wherever it is installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""Folder of the installed package."""
TINY = "builtin:tiny"
"""Name of the model that the project trained and ships."""


def tiny_model() -> Path:
    """Folder of the shipped model."""
    return Path(__file__).parent / "tiny"


def known_configs() -> list[str]:
    """Names of the packaged configs, in the form that `config_file` takes."""
    folder = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())
    found = sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
    return [name for name in found if not name.startswith("studies/")]  # plans of many runs, with keys of their own


def known_studies() -> list[str]:
    """Names of the packaged studies."""
    folder = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())
    return sorted(file.stem for file in (folder / "studies").glob("*.yaml"))


def is_packaged_config(file: str) -> bool:
    """Whether a path is that of a packaged config."""
    found = Path(file).resolve()
    return any(folder in found.parents for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"))


def config_file(name: str) -> Path | None:
    """The packaged config called `name` (`anit`, `configs/anit.yaml`, `presets/anit_released`), or `None`."""
    stem = name.removeprefix("configs/").removesuffix(".yaml")
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        file = folder / f"{stem}.yaml"
        if stem and file.is_file():
            return file
    return None
