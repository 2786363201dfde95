"""Running text as documents: files of text with a line between two documents, or rows with the key `text`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from robustlm.checks.places import what_is
from robustlm.rows.base import BadRowsError, RowError, SourceError, suffix_of
from robustlm.rows.readers import iter_rows, numbered_lines, problem_of

SEPARATOR = "<|endoftext|>"
"""A line of a text file that holds only this ends a document."""
ENDINGS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
"""The file kinds that hold running text."""

_NO_TEXT = ("instruction", "messages", "prompt", "target", "output", "completion")
"""Keys of rows to tune on. A row with one of them is no running text, even if it also has `text`."""


def text_files(paths: Sequence[str]) -> list[str]:
    """The files of running text at these paths; those of a folder in the order of their names.

    Args:
        paths: Files with one of `ENDINGS`, or folders, whose other files are left out.

    Raises:
        SourceError: A path does not exist, has another ending, or is a folder without such files.
    """
    kinds = ", ".join(ENDINGS)
    found: list[str] = []
    for path in paths:
        kind = what_is(path) if path else "an empty name"
        if kind == "a folder":
            own = sorted(str(file) for file in Path(path).iterdir() if str(file).endswith(ENDINGS) and file.is_file())
            if not own:
                raise SourceError(f"{path}: found a folder without text; expected files that end in {kinds}")
            found += own
        elif kind == "a file":
            suffix_of(path, ENDINGS)
            found.append(path)
        else:
            raise SourceError(f"{path}: found {kind}; expected a file ({kinds}) or a folder of such files")
    return found


def documents(files: Sequence[str]) -> Iterator[str]:
    """The documents of files, one after another, without white space at their ends.

    Text files: a line with `SEPARATOR` alone ends a document; without such a line, a file is one document. Rows: the
    value of the key `text`. Empty documents are left out.

    Args:
        files: Files with one of `ENDINGS`.

    Raises:
        SourceError: A file is no UTF-8 or a damaged gzip file; the message names file and line.
        BadRowsError: After the last row of a file, when some rows hold no text.
    """
    for file in files:
        rows = file.removesuffix(".gz").endswith(".jsonl")
        yield from _of_rows(file) if rows else _of_lines(file)


def _of_lines(file: str) -> Iterator[str]:
    kept: list[str] = []
    for number, line in numbered_lines(file):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{file}:{number}: {problem_of(error)}") from None
        if text.strip() != SEPARATOR:
            kept.append(text)
            continue
        if found := "".join(kept).strip():
            yield found
        kept.clear()
    if found := "".join(kept).strip():
        yield found


def _of_rows(file: str) -> Iterator[str]:
    errors: list[RowError] = []
    count = 0
    for row in iter_rows(file, on_bad=errors.append):
        count += 1
        text = row.data.get("text")
        other = [key for key in _NO_TEXT if row.data.get(key) is not None]
        if other:
            errors.append(row.error(f"no running text: found the key {other[0]}; expected a row with the key text"))
        elif not isinstance(text, str):
            errors.append(row.error("no running text: found no text; expected the key text with a string"))
        elif text.strip():
            yield text.strip()
    if errors:
        raise BadRowsError(file, errors, max(count, len(errors)))
