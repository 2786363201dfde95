"""Relations: `relation: head, tail; relation: head, tail`."""

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
class Relations(SpanTask):
    """Find the relations between spans of a text. Spans do not have to occur literally in the text."""

    name = "re"
    keys = "text, relations (a list of {head, type, tail})"
    spans = 2
    roles = Roles(
        (
            ("relation", "type", "label", "predicate", "relation type", "relationship"),
            ("head", "subject", "source", "entity1", "entity 1", "e1", "from", "arg1", "head entity"),
            ("tail", "object", "target", "entity2", "entity 2", "e2", "to", "arg2", "tail entity"),
        )
    )

    def recognises(self, row: RowData) -> bool:
        """Rows with `text` and `relations`."""
        return "text" in row and "relations" in row

    def filled(self, row: RowData) -> RowData | None:
        """Rows with `text` and no `relations`."""
        return {**row, "relations": []} if "text" in row and row.get("relations") is None else None

    def read(self, row: RowData) -> tuple[Context, tuple[Item, ...], tuple[str, ...]]:
        """Read a text and its relations."""
        context = Context(
            format="relation: head, tail; relation: head, tail (None if there is nothing)",
            text=required(row, "text"),
        )
        relations = elements(row, "relations", dict, "a list of objects {head, type, tail}")
        return context, tuple(read_item(relation, "type", "head", "tail") for relation in relations), ()

    def named(self, row: RowData, labels: Labels) -> RowData:
        """The row with its relations replaced by their names."""
        return {**row, "relations": named_items(row, "relations", "type", labels)}
