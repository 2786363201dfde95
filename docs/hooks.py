"""Hooks of MkDocs: what the site shows besides the pages of `docs/`.

Pages that stand elsewhere in the repository become pages of the site, the examples too; the API reference is made from
the table of public names. Links are written for the repository, so that they work on GitHub; here they are turned into
links of the site.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from robustlm.utils.public import HOMES

if TYPE_CHECKING:  # tests read this file where MkDocs is not installed
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples/index.md",
    **{f"examples/{file.name}": f"examples/{file.stem}.md" for file in sorted((ROOT / "examples").glob("*.py"))},
}
"""Pages from outside `docs/`: place in the repository, and place in the site."""
FENCE = re.compile(r"^```(\w+)[ \t]+(?:file=(\S+)|\S.*)$", re.MULTILINE)
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?\)")


def reference() -> dict[str, str]:
    """Pages of the API reference: one for each module that public names live in, and a list of them all."""
    pages = {}
    lines = ["# Public names", "", "`from robustlm import NAME` imports each of them on its first use.", ""]
    for home, names in HOMES.items():
        uri = f"reference/{home.removeprefix('robustlm.')}.md"
        blocks = "\n\n".join(f"::: robustlm.{name}" for name in names)
        pages[uri] = f"# `{home}`\n\n{_first_line(home)}\n\n{blocks}\n"
        lines.append(f"- [`{home}`]({posixpath.basename(uri)}): ")
        lines[-1] += ", ".join(f"[`{name}`][robustlm.{name}]" for name in names)
    return {"reference/index.md": "\n".join(lines) + "\n", **pages}


def _first_line(module: str) -> str:
    """What the docstring of a module begins with; the module is read, not imported."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def example(source: str) -> str:
    """The page of an example: its docstring as text, its code below."""
    tree = ast.parse(source)
    title, _, text = (ast.get_docstring(tree) or "").partition("\n")
    code = "".join(source.splitlines(keepends=True)[tree.body[0].end_lineno :]).strip()
    return f"# {title.rstrip('.')}\n{text}\n\n```python\n{code}\n```\n"


def relinked(text: str, place: str) -> str:
    """A page of the repository with the links of the site.

    Args:
        text: Markdown.
        place: Path of the page in the repository, which relative links start from.
    """
    here = posixpath.dirname(_in_site(place))

    def link(found: re.Match[str]) -> str:
        start, target, anchor = found.groups(default="")
        there = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        return f"{start}{posixpath.relpath(_in_site(there), here or '.')}{anchor})"

    return LINK.sub(link, text)


def _in_site(place: str) -> str:
    return ELSEWHERE.get(place, place.removeprefix("docs/"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Anchors as GitHub makes them, and the reference in the nav."""
    from pymdownx.slugs import slugify

    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    for section in config.nav or ():
        if "Reference" in section:
            section["Reference"] = [*reference()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of `docs/` holds."""
    from mkdocs.structure.files import File

    for place, uri in ELSEWHERE.items():
        text = (ROOT / place).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=example(text) if place.endswith(".py") else text))
    for uri, text in reference().items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links into those of the site, and the names of files after a fence into titles."""
    uri = page.file.src_uri
    if not uri.startswith("reference/"):
        places = {there: place for place, there in ELSEWHERE.items()}
        markdown = relinked(markdown, places.get(uri, f"docs/{uri}"))
    return FENCE.sub(lambda found: f"```{found[1]}" + (f' title="{found[2]}"' if found[2] else ""), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings announce code by two colons; Markdown would show both."""
    return html.replace("::</p>", ":</p>")
