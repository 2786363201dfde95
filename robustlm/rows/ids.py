"""Ids of rows: what random draws for a row depend on."""

from __future__ import annotations

import os
from pathlib import Path

from robustlm.rows.base import READABLE, Row
from robustlm.rows.fields import shown


def row_id(row: Row) -> str:
    """A row's own `id`, or `folder/stem:line`: what draws for a row depend on, wherever they are made.

    The number is that of the item in a JSON list, and of the row where a source has no lines (Parquet, hub).

    Raises:
        ValueError: The row has an `id` that cannot serve as one.
    """
    own = row.data.get("id")
    if own is None:
        return f"{_stem(row.file)}:{row.line}"
    if isinstance(own, bool) or not isinstance(own, str | int) or not str(own).strip():
        raise ValueError(f"unusable id: found {shown(own)}; expected a non-empty string or a number")
    return str(own)


def _stem(file: str) -> str:
    """Folder and name without ending: telling, and the same wherever the program is started from."""
    ending = next((suffix for suffix in READABLE if file.lower().endswith(suffix)), "")
    if ending:
        file = os.path.abspath(file)[: -len(ending)]
    return "/".join(Path(file).parts[-2:])
