"""Ids of rows; random draws for a row depend on its id."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from robustlm.rows.base import READABLE, Row
from robustlm.rows.fields import shown


def row_id(row: Row) -> str:
    """A row's own `id`, or `folder/stem:line`. All random draws for a row depend on it.

    `line` is the item's number in a JSON list, and the row's number where a source has no lines (Parquet, hub).

    Raises:
        ValueError: The row's `id` is blank, or is neither a string nor an integer.
    """
    own = row.data.get("id")
    if own is None:
        return f"{_stem(row.file)}:{row.line}"
    if isinstance(own, bool) or not isinstance(own, str | int) or not str(own).strip():
        raise ValueError(f"unusable id: found {shown(own)}; expected a non-empty string or a number")
    return str(own)


def _stem(file: str) -> str:
    return _stem_in(file, "" if os.path.isabs(file) else os.getcwd())


@lru_cache(maxsize=256)
def _stem_in(file: str, folder: str) -> str:
    """Folder and file name without ending; does not depend on the working folder, unless the path is relative to it."""
    ending = next((suffix for suffix in READABLE if file.lower().endswith(suffix)), "")
    if ending:
        file = os.path.abspath(os.path.join(folder, file))[: -len(ending)]
    return "/".join(Path(file).parts[-2:])
