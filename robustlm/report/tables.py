"""Scores as Markdown tables, aligned so that a terminal shows them well too."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from robustlm.rows.cells import neutral

MAIN_SCORES = ("f1", "accuracy")
NEAR_SCORES = {"token_f1": "token F1", "rouge_l": "ROUGE-L"}
"""Scores of free-text answers other than exact match, and their displayed names."""


class Escaped(str):
    """Text that is Markdown, so it is not escaped again."""


def cell(text: str) -> str:
    """Escape text for a cell of a Markdown table: one line, without HTML, links, pictures or new cells."""
    if isinstance(text, Escaped):
        return text
    found = re.sub(r"[\\|<]", r"\\\g<0>", " ".join(text.splitlines()) if len(text.splitlines()) > 1 else text)
    return found.replace("](", "]\\(")


def markdown(corner: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Make a Markdown table of percentages: a line for each row, a column for each key, `-` for missing values.

    Args:
        corner: Heading of the first column.
        rows: Scores in per cent by row and column.
    """
    rows = {cell(name): {cell(column): value for column, value in scores.items()} for name, scores in rows.items()}
    columns = list(dict.fromkeys(column for scores in rows.values() for column in scores))
    width = max(len(corner), *(len(name) for name in rows))
    widths = [max(len(column), 5) for column in columns]
    lines = [
        f"| {corner:<{width}} | " + " | ".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True)) + " |",
        f"|{'-' * (width + 2)}|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|",
    ]
    for name, scores in rows.items():
        shown = (f"{scores[c]:>{w}.1f}" if c in scores else f"{'-':>{w}}" for c, w in zip(columns, widths, strict=True))
        lines.append(f"| {name:<{width}} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def by_condition(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Main scores in per cent by condition and dataset, from logged metrics `test/<condition>/<dataset>/<score>`."""
    found: dict[str, dict[str, float]] = {}
    for condition, dataset, score, value in _tested(metrics):
        if score in MAIN_SCORES or (not dataset and score == "mean"):
            found.setdefault(condition, {})[dataset or "mean"] = 100 * value
    return {
        c: {**{k: v for k, v in s.items() if k != "mean"}, "mean": s["mean"]} for c, s in found.items() if "mean" in s
    }


def near_by_condition(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Token F1 and ROUGE-L of free-text answers in per cent, by condition, in the same form as `by_condition`."""
    found: dict[str, dict[str, float]] = {}
    for condition, dataset, score, value in _tested(metrics):
        if score in NEAR_SCORES:
            found.setdefault(condition, {})[f"{dataset} {NEAR_SCORES[score]}"] = 100 * value
    return found


def _tested(metrics: Mapping[str, float]) -> Iterator[tuple[str, str, str, float]]:
    """Yield condition, dataset (empty for a mean over datasets), score and value of each metric of a test."""
    for name, value in metrics.items():
        stage, _, rest = name.partition("/")
        condition, _, scored = rest.partition("/")
        dataset, _, score = scored.rpartition("/")
        if stage == "test":
            yield condition, dataset, score, float(value)


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table of texts, with aligned columns."""
    cells = [[cell(text) for text in row] for row in (heads, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header line; only the header line if there are no rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: neutral(value) for name, value in row.items()} for row in rows)
    return text.getvalue()
