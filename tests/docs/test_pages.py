"""What pages point to is there: links, files, and names of the package."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
]
ROOMS = [path.name for path in (ROOT / "robustlm").iterdir() if path.is_dir()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = [target for target in linked if not (page.parent / target).exists()]
    named = re.findall(r"`((?:tests|robustlm|benchmarks|configs|examples|docs)/[\w/]+\.\w+)`", text)
    missing += [file for file in named if not (ROOT / file).is_file()]
    inside = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w/]+\.py|(?:batch|losses)\.py)`", text)
    missing += [file for file in inside if not (ROOT / "robustlm" / file).is_file()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_package_exist(page: Path) -> None:
    names = set(re.findall(r"\brobustlm(?:\.[A-Za-z_]\w*)+", page.read_text(encoding="utf-8")))
    files = {name for name in names if name.endswith(".json")}
    assert [name for name in sorted(names - files) if not exists(name)] == []


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        return not module or hasattr(importlib.import_module(module), attribute) or bool(importlib.import_module(name))
    except ImportError:
        return False
