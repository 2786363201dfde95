"""Files that come with the package, found by name wherever it is installed."""

from __future__ import annotations

from pathlib import Path

import robustlm

TINY = "builtin:tiny"
"""Name of the model that the project trained and ships."""


def tiny_model() -> Path:
    """Folder of the shipped model."""
    return Path(__file__).parent / "tiny"


def known_configs() -> list[str]:
    """Names of the packaged configs, as `config_file` takes them."""
    package = Path(robustlm.__file__).parent
    folder = next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))


def is_packaged_config(file: str) -> bool:
    """Whether a path leads to one of the packaged configs."""
    found, package = Path(file).resolve(), Path(robustlm.__file__).resolve().parent
    return any(folder in found.parents for folder in (package / "configs", package.parent / "configs"))


def config_file(name: str) -> Path | None:
    """The packaged config called `name` (`anit`, `configs/anit.yaml`, `presets/anit_released`), or `None`."""
    stem = name.removeprefix("configs/").removesuffix(".yaml")
    package = Path(robustlm.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        file = folder / f"{stem}.yaml"
        if stem and file.is_file():
            return file
    return None
