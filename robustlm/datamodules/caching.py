"""The cache of large sets of rows: samples and tokens in Arrow files, found by everything that decides them.

A key is the SHA-256 of: the bytes of all files that are read (rows, banks; not their times, which copies and version
control change or keep at will), the sources' settings, all arguments of the datamodule but those in `_OTHER`, the
tokenizer with its chat template, the template, the length limit, this package's code, and the versions of the libraries
that tokenise. Where code of the user takes part, whose effect no key can describe, the cache serves one run alone.
"""

from __future__ import annotations

import inspect
import json
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from robustlm.datamodules.connection import FastTokenizer
from robustlm.datamodules.preparation import Preparation, Tokenised
from robustlm.datamodules.stored import StoredRows, stored_batch, stored_schema
from robustlm.instructions.published import divided
from robustlm.prompts.encoding import Encoder
from robustlm.rows.arrow import ArrowRows, ArrowWriter, RecordBatch
from robustlm.rows.base import SourceError
from robustlm.sample import Sample
from robustlm.sources.large import LargeSources
from robustlm.sources.loading import occurs_twice, place_of
from robustlm.sources.shapes import known_shapes
from robustlm.sources.source import BUILTIN, Role, Source
from robustlm.sources.spilled import SeenIds
from robustlm.tasks import TASKS
from robustlm.utils.files import whole_file
from robustlm.utils.kept import KeptFolder, digest_of, key_for
from robustlm.utils.parallel import in_order, sensible_processes
from robustlm.utils.serialization import to_plain

log = logging.getLogger(__name__)

DEFAULT_CACHE = "~/.cache/robustlm/rows"
_OTHER = frozenset(
    (
        *("self", "args", "kwargs", "train", "validation", "test", "examples", "conditions", "phrasing", "paraphrases"),
        *("batch_size", "eval_batch_size", "group_by_length", "replays", "num_workers", "scoring", "draws"),
        *("noisy_turns", "noise", "distortion", "beta", "variants", "group_size", "negatives", "shuffle"),
        *("cache_dir", "cache_above", "samples", "shots", "attack", "paraphrase", "budget", "batch_tokens", "packing"),
        *("replay", "stream", "unlabelled"),
    )
)
"""Arguments of datamodules that change neither the cached samples nor their tokens; an argument that is missing
here makes another key, which is slow, but never wrong."""
_ROWS, _SAID = "rows.arrow", "said.json"
_LIBRARIES = ("tokenizers", "transformers", "pyarrow")


class RowCache:
    """Makes the rows of a datamodule once, and finds them again.

    Args:
        role: The role of the rows.
        folder: Folder of the cache.
        settings: What decides the rows besides files, as plain data.
        why_own: Which code of the user takes part; empty: none.
    """

    def __init__(self, role: Role, folder: Path, settings: Mapping[str, object], why_own: str) -> None:
        self._role = role
        self._folder = folder
        self._settings = settings
        self._why_own = why_own
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def rows(
        self, files: Callable[[], dict[str, str]], make: Callable[[Path], dict[str, object]], copies: Sequence[Path]
    ) -> tuple[StoredRows, dict[str, Any]]:
        """The rows, and what was said when they were made.

        Args:
            files: Returns the digest of each file that is read.
            make: Writes the rows into a folder, and returns what to say about them.
            copies: Files outside of the cache that `make` may write, and that are to be there after each call.

        Raises:
            SourceError: A file changed while it was read.
            OSError: The folder cannot be written.
        """
        before = files()

        def made(folder: Path) -> None:
            said = make(folder)
            if files() != before:
                found = "a file changed while it was read; expected files that nothing changes"
                raise SourceError(f"data.{self._role}: {found}")
            there = [at for at, path in enumerate(copies) if path.is_file()]
            for at in there:
                (folder / f"rejected-{at}").write_bytes(copies[at].read_bytes())
            (folder / _SAID).write_text(json.dumps({**said, "copies": there}), encoding="utf-8")

        parent = self._folder
        if self._why_own:
            parent.mkdir(parents=True, exist_ok=True)
            self._temporary = tempfile.TemporaryDirectory(prefix="own-", dir=parent)
            parent = Path(self._temporary.name)
            log.info("data.cache_dir: rows are made for this run alone, as %s may change them", self._why_own)
        key = key_for({"files": before, "settings": self._settings})
        folder = KeptFolder(parent, key, f"{self._role} rows").made(made)
        said = json.loads((folder / _SAID).read_text(encoding="utf-8"))
        for at in said["copies"]:
            with whole_file(copies[at]) as unfinished:
                unfinished.write_bytes((folder / f"rejected-{at}").read_bytes())
        log.info("data.%s: rows and tokens are in %s", self._role, folder)
        return StoredRows(ArrowRows(folder / _ROWS)), said


def arguments_of(module: object) -> dict[str, object]:
    """The arguments of a datamodule that may change its cached rows, as plain data."""
    names = {
        name
        for owner in type(module).__mro__
        if "__init__" in vars(owner) and owner.__module__.startswith("robustlm.")
        for name in inspect.signature(vars(owner)["__init__"]).parameters
    }
    return {name: to_plain(getattr(module, name)) for name in sorted(names - _OTHER)}


def settings_of(module: object, sources: Sequence[Source], encoder: Encoder) -> dict[str, object]:
    """Everything but files and role that decides the cached rows of a datamodule."""
    return {
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "arguments": arguments_of(module),
        "sources": [asdict(source) for source in sources],
        "tokenizer": tokenizer_parts(encoder.tokenizer),
        "max_length": encoder.max_length,
        "encoder_decoder": encoder.encoder_decoder,
        "code": package_digest(),
        "libraries": library_versions(),
    }


def tokenizer_parts(tokenizer: FastTokenizer) -> list[object]:
    """What decides the tokens of a text and how a chat template writes a prompt, as plain data."""
    template = str(getattr(tokenizer, "chat_template", None))
    return [
        type(tokenizer).__name__,
        sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        template,
        # templates of some models write the day into each prompt
        date.today().isoformat() if "strftime_now" in template else "",
    ]


def library_versions() -> dict[str, str]:
    """The versions of the libraries that tokenise and store rows."""
    return {name: version(name) for name in _LIBRARIES}


@cache
def package_digest() -> str:
    """SHA-256 of the package's code and of its instruction banks."""
    root = Path(__file__).parents[1]
    found = sha256()
    for path in sorted([*root.rglob("*.py"), *(root / "assets").rglob("*.json")]):
        found.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def users_code(module: object, sources: Iterable[Source], encoder: Encoder) -> str:
    """Names code outside of this package that may change cached rows; empty if there is none."""
    tokenizer = type(encoder.tokenizer)
    things: dict[str, object] = {f"the class {type(module).__name__}": type(module)}
    things |= {f"the shape {name}": shape.read for name, shape in known_shapes().items()}
    things |= {f"the task {name}": type(task) for name, task in TASKS.items()}
    things["the template"] = type(encoder.template)
    own = [name for name, thing in things.items() if not _is_of(thing, "robustlm")]
    # import paths of shapes and tasks, which are imported only when rows are read
    own += [name for source in sources for name in (source.format, source.task) if name and "." in name]
    if not _is_of(tokenizer, "transformers") or "transformers_modules" in tokenizer.__module__:
        own.append(f"the tokenizer class {tokenizer.__name__}")
    return ", ".join(own)


def _is_of(thing: object, package: str) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == package


def digests(sources: Iterable[tuple[Role, Source]], bank: str | None) -> dict[str, str]:
    """The digest of each file that sources and banks are read from, by path.

    Raises:
        SourceError: A source has no file.
    """
    paths: list[Path] = []
    for role, source in sources:
        if source.path != BUILTIN:
            paths.append(Path(place_of(source, role)[0]))
        paths += [Path(place[0]) for name in (source.bank,) if name and (place := divided(name))]
    if bank and (place := divided(bank)):
        paths.append(Path(place[0]))
    return {str(path.absolute()): digest_of(path) if path.is_file() else "" for path in paths}


def write_large(
    folder: Path,
    large: Callable[[Path, int], LargeSources],
    asked: Callable[[list[Sample]], list[Sample]],
    preparation: Preparation,
    role: Role,
    several: bool,
) -> dict[str, object]:
    """Read sources, and write their samples and tokens to a folder, in several processes.

    Args:
        folder: Where to write.
        large: Reads the sources; its arguments are a folder for drafts and the number of processes.
        asked: Gives samples their instructions.
        preparation: Tokenises them.
        role: The role of the rows.
        several: Whether two sources could have the same ids.

    Returns:
        What was said, as `say_again` takes it.
    """
    processes = sensible_processes()
    drafts = folder / "drafts"
    drafts.mkdir()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        sources = large(drafts, processes)
    found = Tokenised()
    hidden: Counter[tuple[str, str]] = Counter()
    seen = SeenIds()
    shown = role != "train"
    work = partial(_tokenised, sources=sources, asked=asked, preparation=preparation, shown=shown)
    with (
        ArrowWriter(folder / _ROWS, stored_schema()) as writer,
        tqdm(total=len(sources), desc="tokenising", unit=" rows", disable=None) as bar,
    ):
        for ids, batch, part, parts_hidden in in_order(work, sources.chunks(), processes):
            for id in ids if several else ():
                if seen.add(id) is not None:
                    raise occurs_twice(role, id)
            writer.write(batch)
            found.add(part)
            hidden.update(parts_hidden)
            bar.update(part.count)
    preparation.check_too_long(found, role)
    for path in drafts.iterdir():
        path.unlink()
    drafts.rmdir()
    return {
        "warnings": [str(one.message) for one in warned if issubclass(one.category, UserWarning)],
        "hidden": preparation.say_hidden(hidden, role),
        "tokenised": asdict(found),
        "labels": {str(i): {task: sorted(own) for task, own in one.items()} for i, one in sources.labels.items()},
    }


def _tokenised(
    chunk: tuple[int, int],
    *,
    sources: LargeSources,
    asked: Callable[[list[Sample]], list[Sample]],
    preparation: Preparation,
    shown: bool,
) -> tuple[list[str], RecordBatch, Tokenised, Counter[tuple[str, str]]]:
    samples = asked(sources.samples(chunk))
    rows, found = preparation.fit_all(samples)
    ids = [sample.id for sample in samples]
    batch = stored_batch(rows.samples, rows.encoded, rows.prompt_lengths, shown=shown)
    return ids, batch, found, preparation.count_hidden(samples)
