"""Aspect sentiment triplets: `polarity: aspect, opinion; polarity: aspect, opinion`."""

from __future__ import annotations

from robustlm.rows.base import RowData
from robustlm.rows.fields import elements, required
from robustlm.sample import Context
from robustlm.tasks.base import register
from robustlm.tasks.items import Item
from robustlm.tasks.labels import Labels
from robustlm.tasks.listed import Roles
from robustlm.tasks.spans import SpanTask, named_items, read_item


@register
class AspectSentiment(SpanTask):
    """Find the aspects that a text judges, the opinion words, and their polarity."""

    name = "absa"
    keys = "text, triplets (a list of {aspect, opinion, sentiment})"
    spans = 2
    roles = Roles(
        (
            ("sentiment", "polarity", "label", "sentiment polarity"),
            ("aspect", "aspect term", "target", "aspect words", "term"),
            ("opinion", "opinion term", "opinion words", "expression", "opinion expression", "opinion word"),
        )
    )

    def recognises(self, row: RowData) -> bool:
        """Rows with `text` and `triplets`."""
        return "text" in row and "triplets" in row

    def filled(self, row: RowData) -> RowData | None:
        """Rows with `text` and no `triplets`."""
        return {**row, "triplets": []} if "text" in row and row.get("triplets") is None else None

    def read(self, row: RowData) -> tuple[Context, tuple[Item, ...], tuple[str, ...]]:
        """Read a text and its triplets."""
        context = Context(
            format="polarity: aspect, opinion; polarity: aspect, opinion (None if there is nothing)",
            text=required(row, "text"),
        )
        triplets = elements(row, "triplets", dict, "a list of objects {aspect, opinion, sentiment}")
        return (
            context,
            tuple(read_item(triplet, "sentiment", "aspect", "opinion") for triplet in triplets),
            (),
        )

    def named(self, row: RowData, labels: Labels) -> RowData:
        """The row with its polarities replaced by their names."""
        return {**row, "triplets": named_items(row, "triplets", "sentiment", labels)}
