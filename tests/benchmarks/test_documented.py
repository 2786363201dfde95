"""Commands that documents and docstrings name can be started as they are written."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = [*(ROOT / "benchmarks").rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_benchmarks_that_are_named_exist_and_start() -> None:
    """A file that is started by its path cannot import others of its folder as `benchmarks`."""
    found = 0
    for text in TEXTS:
        said = text.read_text(encoding="utf-8")
        for path in re.findall(r"python (benchmarks/[\w/]+\.py)", said):
            code = (ROOT / path).read_text(encoding="utf-8")
            assert not re.search(r"^(from|import) benchmarks", code, re.M), f"{text}: python {path}"
            found += 1
        for module in re.findall(r"python -m (benchmarks(?:\.\w+)+)", said):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{text}: python -m {module}"
            found += 1
    assert found > 40
