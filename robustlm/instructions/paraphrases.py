"""Paraphrase files: other wordings of instructions, looked up by the instruction's text.

A file is JSONL, one instruction per line: `{"instruction": "Find all names.", "paraphrases": ["List every name.", …]}`.
Files are written by hand, or by `robustlm.tools.paraphrasing`.
"""

from __future__ import annotations

from pathlib import Path

from robustlm.rows.base import BadRowsError, Row, RowError, SourceError
from robustlm.rows.fields import elements, required, shown
from robustlm.rows.readers import iter_rows

SUFFIXES = (".jsonl", ".jsonl.gz")
"""Endings of paraphrase files."""
_HINT = 'A line is an object such as {"instruction": "Find all names.", "paraphrases": ["List every name."]}.'


def load_paraphrases(path: str) -> dict[str, tuple[str, ...]]:
    """Read a paraphrase file.

    Args:
        path: A file ending in `.jsonl` or `.jsonl.gz`. Other keys of a line are ignored.

    Returns:
        The distinct paraphrases of each instruction, in the file's order; an empty tuple if its list is empty. If
        several lines have the same instruction, their paraphrases are joined. White space around texts is removed.

    Raises:
        SourceError: There is no such file, it has another ending, or it is empty.
        BadRowsError: Some lines cannot be used; each is listed with its number, what was found and what was expected.
    """
    check_suffix(path)
    if not Path(path).is_file():
        raise SourceError(f"{path}: no such file; expected a paraphrase file")
    found: dict[str, dict[str, None]] = {}
    errors: list[RowError] = []
    good = 0
    for row in iter_rows(path, on_bad=errors.append):
        try:
            instruction, paraphrases = _read(row)
        except ValueError as error:
            errors.append(row.error(str(error)))
        else:
            good += 1
            found.setdefault(instruction, {}).update(dict.fromkeys(paraphrases))
    if errors:
        raise BadRowsError(path, errors, good + len(errors), hint=_HINT)
    return {instruction: tuple(paraphrases) for instruction, paraphrases in found.items()}


def check_suffix(path: str) -> None:
    """Raise `SourceError` for a path without the ending of a paraphrase file."""
    if not path.lower().endswith(SUFFIXES):
        raise SourceError(f"{path}: found another ending; expected a paraphrase file, {' or '.join(SUFFIXES)}")


def _read(row: Row) -> tuple[str, list[str]]:
    instruction = required(row.data, "instruction").strip()
    paraphrases = elements(row.data, "paraphrases", str, "a list of strings")
    for number, paraphrase in enumerate(paraphrases, start=1):
        if not paraphrase.strip():
            raise ValueError(f"blank paraphrase: element {number} is {shown(paraphrase)}; expected some text")
    return instruction, [paraphrase.strip() for paraphrase in paraphrases]
