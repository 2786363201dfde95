"""The walls of `docs/architecture.md`, checked on the import graph; imports inside functions count."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "robustlm"

FLOORS = (
    ("assets", "checks", "utils"),
    ("adversaries", "batch", "endpoint", "losses", "optim", "rows", "runs", "sample"),
    ("instructions", "models", "tasks"),
    ("evaluation", "noise", "prompts", "sources"),
    ("adapters", "checkpoints", "conditions", "studies", "tools"),
    ("datamodules", "modules", "report"),
    ("callbacks", "planning"),
    ("cli", "tuned"),
    ("__main__",),
)
"""From the ground up: a room knows rooms of lower floors, and none on its own. Folders and files of the package."""

FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

FOREIGN = {
    "robustlm.losses": ("lightning", "transformers", "peft"),
    "robustlm.batch": ("lightning", "transformers", "peft"),
    "robustlm.instructions": ("lightning", "transformers", "peft", "torch"),
    "robustlm.prompts": ("lightning", "peft"),
    "robustlm.sources": ("lightning", "peft"),
    "robustlm.tasks": ("lightning", "transformers", "peft", "torch"),
    "robustlm.noise.base": ("lightning", "transformers", "peft", "torch"),
    "robustlm.conditions": ("lightning", "transformers", "peft"),
    "robustlm.evaluation.metrics": ("lightning", "transformers", "peft"),
    "robustlm.models": ("lightning",),
    "robustlm.models.decoding": ("lightning", "transformers", "peft"),
    "robustlm.models.tuning": ("lightning",),
}
"""What a module, or any module under it, may not reach, directly or through modules of the package."""

ONLY = {"robustlm.adversaries": ("torch", "robustlm.adversaries")}
"""All that a module may import besides the standard library."""

FILELESS = ("robustlm.modules", "robustlm.losses", "robustlm.batch", "robustlm.adversaries")
"""Modules that never open a file."""

OPENERS = ("pathlib", "io", "shutil", "tempfile", "glob", "pickle", "pyarrow", "pandas", "sqlite3")
READERS = ("open", "read_text", "read_bytes", "write_text", "write_bytes", "torch.load", "torch.save")


@cache
def parsed(text: str) -> list[ast.AST]:
    """The nodes that matter: imports and calls."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)]


class Walls:
    """Every module's imports, and what is wrong with them.

    Args:
        sources: Source texts by module name.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.trees = {name: parsed(text) for name, text in sources.items()}
        self.imports = {name: set(self._imports(tree)) for name, tree in self.trees.items()}

    def _imports(self, tree: list[ast.AST]) -> Iterator[str]:
        for node in tree:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"line {node.lineno}: a relative import; the package uses absolute ones"
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield full if full in self.trees else str(node.module)

    def reached(self, name: str) -> set[str]:
        """What importing a module brings in: its imports, theirs, and the packages around them all.

        The package's own `__init__` is left out: it hands out public names, and its rules are those of the rooms.
        """
        found: set[str] = set()
        left = [name]
        while left:
            module = left.pop()
            if module in found or module == PACKAGE:
                continue
            found.add(module)
            parents = [module.rsplit(".", i)[0] for i in range(1, module.count(".") + 1)]
            left += [parent for parent in parents if parent in self.trees]
            left += self.imports.get(module, ())
        return found

    def problems(self) -> list[str]:
        """One line for each broken wall."""
        return [*self._rooms(), *self._circles(), *self._foreign(), *self._strangers(), *self._files()]

    def _rooms(self) -> Iterator[str]:
        for name, imported in self.imports.items():
            own = _room(name)
            if own is None:
                continue
            if own not in FLOOR:
                yield f"{name}: in no room; put {own!r} into FLOORS and into docs/architecture.md"
                continue
            for other in sorted(imported):
                room = _room(other) if _is_under(other, PACKAGE) else None
                if room in FLOOR and room != own and FLOOR[room] >= FLOOR[own]:
                    where = "on its own floor" if FLOOR[room] == FLOOR[own] else "on a higher floor"
                    yield f"{name}: knows {other}, a room {where}"
            if PACKAGE in imported and FLOOR[own] < FLOOR["callbacks"]:
                yield f"{name}: imports {PACKAGE} itself, whose names come from every floor"
        for other in self.imports.get(PACKAGE, ()):
            if FLOOR.get(_room(other) or "", 0) >= FLOOR["cli"] and other != f"{PACKAGE}.tuned":
                yield f"{PACKAGE}: knows {other}, which stands on it"

    def _circles(self) -> Iterator[str]:
        """Files that import each other, directly or through others; `robustlm` itself only hands out names."""
        for circle in _circles(self.imports):
            yield f"{' → '.join(circle)}: a circle of imports"

    def _foreign(self) -> Iterator[str]:
        for wall, unwanted in FOREIGN.items():
            for name in self._under(wall):
                for other in sorted(self.reached(name)):
                    if any(_is_under(other, package) for package in unwanted):
                        yield f"{name}: reaches {other}, which {wall} must not"

    def _strangers(self) -> Iterator[str]:
        for wall, wanted in ONLY.items():
            for name in self._under(wall):
                for other in sorted(self.imports[name]):
                    standard = other.partition(".")[0] in sys.stdlib_module_names
                    if not standard and not any(_is_under(other, package) for package in wanted):
                        yield f"{name}: imports {other}; {wall} knows only {', '.join(wanted)}"

    def _files(self) -> Iterator[str]:
        for name in (name for wall in FILELESS for name in self._under(wall)):
            for other in sorted(self.imports[name]):
                if any(_is_under(other, package) for package in OPENERS):
                    yield f"{name}: imports {other}, but opens no files"
            for node in self.trees[name]:
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    if called in READERS or called.rpartition(".")[2] in READERS:
                        yield f"{name}: line {node.lineno} calls {called}, but opens no files"

    def _under(self, wall: str) -> list[str]:
        return [name for name in self.trees if _is_under(name, wall)]


def _is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _room(name: str) -> str | None:
    """`robustlm.noise.base` → `data`; the package itself is no room."""
    return name.split(".")[1] if "." in name else None


def _circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of two modules or more that reach each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        path.append(name)
        for other in sorted(imports[name] & imports.keys() - {PACKAGE}):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in path:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            group = path[path.index(name) :]
            del path[path.index(name) :]
            if len(group) > 1:
                found.append(group)

    for name in imports:
        if name not in order:
            visit(name)
    return found


def project_sources() -> dict[str, str]:
    found = {}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = file.read_text(encoding="utf-8")
    return found


def tracked_files() -> list[Path]:
    """Files under version control; in a source archive, all files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not set(path.parts) & {".git", "build", ".venv"}]


def test_walls_stand() -> None:
    assert Walls(project_sources()).problems() == []


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("robustlm.losses", "import lightning", "robustlm.losses: reaches lightning"),
        ("robustlm.batch", "def f():\n    from transformers import AutoModel", "robustlm.batch: reaches transformers"),
        ("robustlm.noise.base", "from robustlm.utils import finite", "robustlm.noise.base: reaches torch"),
        ("robustlm.noise.base", "from robustlm.models.tuning import LoRA", "noise.base: reaches peft"),
        ("robustlm.rows.base", "def f():\n    import robustlm.modules.anit", "rows.base: knows robustlm.modules.anit"),
        ("robustlm.sources.samples", "import lightning.pytorch", "robustlm.sources.samples: reaches lightning.pytorch"),
        ("robustlm.adversaries.nrm", "from robustlm.models.backbone import Backbone", "imports robustlm.models"),
        ("robustlm.adversaries.nrm", "import numpy", "robustlm.adversaries.nrm: imports numpy"),
        ("robustlm.modules.anit", "from pathlib import Path", "robustlm.modules.anit: imports pathlib"),
        ("robustlm.modules.anit", "x = open('y')", "robustlm.modules.anit: line"),
        ("robustlm.modules.anit", "import torch\ntorch.save(1, 'y')", "calls torch.save"),
        ("robustlm.modules.anit", "from robustlm.datamodules import base", "a room on its own floor"),
        ("robustlm.evaluation.metrics", "from robustlm.models.tuning import LoRA", "metrics: reaches peft"),
        ("robustlm.evaluation.metrics", "from robustlm.modules import ANIT", "metrics: knows robustlm.modules"),
        ("robustlm.evaluation.metrics", "from robustlm.noise import base", "a room on its own floor"),
        (
            "robustlm.callbacks.run",
            "from robustlm.cli import entry as main",
            "robustlm.callbacks.run: knows robustlm.cli",
        ),
        ("robustlm.modules.anit", "import robustlm", "imports robustlm itself"),
        ("robustlm", "from robustlm.cli import main", "robustlm: knows robustlm.cli"),
        ("robustlm.newroom", "import torch", "robustlm.newroom: in no room"),
        (
            "robustlm.noise.pools",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from robustlm.noise.base import Noise",
            "a circle of imports",
        ),
        ("robustlm.rows.base", "def f():\n    from robustlm.rows import readers", "a circle of imports"),
    ],
)
def test_a_broken_wall_is_found(name: str, line: str, expected: str) -> None:
    sources = project_sources()
    sources[name] = f"{sources.get(name, '')}\n{line}\n"
    problems = Walls(sources).problems()
    assert any(expected in problem for problem in problems), problems


def test_rooms_are_in_the_picture() -> None:
    picture = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert [room for room in FLOOR if f"`{room}`" not in picture] == []


STOP = re.compile(r"^\d+\. `(?P<file>[\w/]+\.py)`: `(?P<name>[\w.]+)`\.", re.MULTILINE)


def test_walks_lead_through_what_is_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    walks = text.partition("## Walks")[2].partition("\n## ")[0]
    stops = STOP.findall(walks)
    assert len(stops) == len(re.findall(r"^\d+\. ", walks, re.MULTILINE)) == 8 + 5 + 6
    for file, name in stops:
        tree: ast.AST = ast.parse((ROOT / PACKAGE / file).read_text(encoding="utf-8"))
        for part in name.split("."):
            found = [one for one in ast.iter_child_nodes(tree) if getattr(one, "name", None) == part]
            assert found, f"{file} has no {name}"
            tree = found[0]


ALLOWED_ANY = {
    "adapters": 2,
    "callbacks": 2,
    "checkpoints": 3,
    "checks": 5,
    "cli": 26,
    "conditions": 4,
    "datamodules": 25,
    "endpoint": 12,
    "evaluation": 25,
    "instructions": 28,
    "models": 37,
    "modules": 32,
    "noise": 7,
    "optim": 1,
    "planning": 12,
    "prompts": 4,
    "report": 31,
    "rows": 22,
    "sources": 18,
    "tasks": 1,
    "tools": 6,
    "tuned": 3,
    "utils": 2,
}
"""How often `Any` may stand in the annotations of a room. CONTRIBUTING.md says why these remain."""


def anys(text: str) -> int:
    """How often `Any` stands in the annotations of a source text."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
    inner = (one for annotation in found if annotation is not None for one in ast.walk(annotation))
    return sum(isinstance(one, ast.Name) and one.id == "Any" for one in inner)


def test_any_does_not_spread() -> None:
    counts: dict[str, int] = {}
    for name, text in project_sources().items():
        room = _room(name) or name
        counts[room] = counts.get(room, 0) + anys(text)
    more = {room: count for room, count in counts.items() if count > ALLOWED_ANY.get(room, 0)}
    assert not more, (
        f"more `Any` in annotations than ALLOWED_ANY has: {more}. Write the type, a protocol, a TypedDict, or `object` "
        "for a value that the code tests before it uses it. Only where a library has no types, raise the number here "
        "and give the reason in CONTRIBUTING.md, *Types*"
    )


def test_anys_are_counted_in_annotations_alone() -> None:
    text = "from typing import Any, cast\nx: Any = cast(Any, 1)\ndef f(a: Any, *b: list[Any], c: int) -> Any: ..."
    assert anys(text) == 4


def bounds_without_reason(text: str) -> list[str]:
    """Requirement lines with a version bound and no comment line right above."""
    lines = text.splitlines()
    bound = re.compile(r"^\s+[A-Za-z][\w.\-]*(\[[\w,\-]+\])?\s*(>=|<=|==|~=|!=|<|>)")
    return [
        line.strip()
        for above, line in zip(["", *lines], lines, strict=False)
        if bound.match(line) and not above.lstrip().startswith("#")
    ]


def test_every_bound_says_why() -> None:
    assert bounds_without_reason((ROOT / "setup.cfg").read_text(encoding="utf-8")) == []


def test_a_bound_without_a_reason_is_found() -> None:
    assert bounds_without_reason("install_requires =\n    # why\n    a>=1\n    b[c]>=2\n") == ["b[c]>=2"]


ABSOLUTE = re.compile(r"(?<![\w.:/)}\]~*!-])/(?!dev/[nf]ull|proc/|no/|v\d/)[A-Za-z][\w.-]*/[\w.-]|\b[A-Z]:\\+Users")
"""Paths that exist on one machine only; a system's own, and those that tests take for missing, are none."""


def test_no_file_names_a_place_on_one_machine() -> None:
    found = []
    for file in tracked_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if file != Path(__file__) and (match := ABSOLUTE.search(line)):
                found.append(f"{file.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


@pytest.mark.parametrize("line", ["see /home/ada/x", "cd /mnt/disk", 'Path("/tmp/y")', "C:\\Users\\ada"])
def test_a_machine_path_is_recognised(line: str) -> None:
    assert ABSOLUTE.search(line)


@pytest.mark.parametrize("line", ["https://a.org/b/c", "#!/usr/bin/env bash", "sci/tech", "ner/data/x", "../tmp/x"])
def test_other_text_is_left_alone(line: str) -> None:
    assert not ABSOLUTE.search(line)
