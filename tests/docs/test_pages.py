"""What pages point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FOLDERS = ("adversaries", "data", "modules", "datamodules", "evaluation", "report")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = [target for target in linked if not (page.parent / target).exists()]
    named = re.findall(r"`((?:tests|robustlm|benchmarks|configs)/[\w/]+\.\w+)`", text)
    missing += [file for file in named if not (ROOT / file).is_file()]
    inside = re.findall(rf"`((?:{'|'.join(FOLDERS)})/\w+\.py|(?:batch|losses)\.py)`", text)
    missing += [file for file in inside if not (ROOT / "robustlm" / file).is_file()]
    assert missing == []
