"""The site of `docs/`: every page is in its nav, every public name in its reference, and links lead to its pages.

These tests need no MkDocs. `make docs` builds the site, and ends with an error at the first warning.
"""

from __future__ import annotations

import importlib.util
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import robustlm

ROOT = Path(__file__).parents[2]


def load_hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = load_hooks()
INSIDE = [file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")]
PAGES = {f"docs/{file}": file for file in INSIDE} | HOOKS.ELSEWHERE
"""Every page by its place in the repository, and its place in the site."""


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(item)


def test_nav_names_every_page_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(leaves(nav)) == sorted(PAGES.values())
    assert {"Reference": []} in nav, "docs/hooks.py fills this entry"


def test_reference_shows_every_public_name_once() -> None:
    pages = HOOKS.reference()
    shown = [name for page in pages.values() for name in re.findall(r"^::: robustlm\.(\w+)$", page, re.MULTILINE)]
    assert sorted(shown) == sorted(set(robustlm.__all__) - {"__version__"})
    listed = re.findall(r"\[robustlm\.(\w+)\]", pages["reference/index.md"])
    assert sorted(listed) == sorted(shown)


def test_reference_says_what_each_module_is() -> None:
    pages = HOOKS.reference()
    bare = [
        uri for uri, page in pages.items() if uri != "reference/index.md" and page.split("\n\n")[1].startswith(":::")
    ]
    assert bare == []


@pytest.mark.parametrize("place", sorted(place for place in PAGES if place.endswith(".md")))
def test_links_lead_to_pages_of_the_site(place: str) -> None:
    """A link is written for the repository; the same link of the site leads to a page or picture of the site."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / place).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    known = {*PAGES.values(), *(file.name for file in (ROOT / "docs").glob("*.png"))}
    folder = posixpath.dirname(PAGES[place])
    targets = [target for _, target, _ in HOOKS.LINK.findall(HOOKS.relinked(text, place))]
    assert [target for target in targets if posixpath.normpath(posixpath.join(folder, target)) not in known] == []


def test_an_example_becomes_a_page() -> None:
    page = HOOKS.example('"""Do it.\n\nIn one go.\n"""\n\nimport this\n')
    assert page == "# Do it\n\nIn one go.\n\n```python\nimport this\n```\n"


def test_links_and_fences_of_the_repository_become_those_of_the_site() -> None:
    assert HOOKS.relinked("[d](docs/data.md#a-b)", "README.md") == "[d](data.md#a-b)"
    assert HOOKS.relinked("[e](../examples/own_rows.py)", "docs/data.md") == "[e](examples/own_rows.md)"
    assert HOOKS.relinked("[e](own_rows.py)", "examples/README.md") == "[e](own_rows.md)"
    assert HOOKS.relinked("[x](https://a.org/b) [y](#z)", "README.md") == "[x](https://a.org/b) [y](#z)"


def test_warnings_of_the_build_are_errors() -> None:
    """`--quiet` would hide warnings from `--strict`, and the build would pass."""
    (line,) = (line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "mkdocs build" in line)
    assert "--strict" in line
    assert not {"--quiet", "-q"} & set(line.split())
