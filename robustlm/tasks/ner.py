"""Named entities: `type: words; type: words`."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.rows.base import RowData
from robustlm.rows.fields import elements, required, shown, squeezed
from robustlm.sample import Context
from robustlm.tasks.base import register
from robustlm.tasks.items import Item
from robustlm.tasks.labels import Labels
from robustlm.tasks.listed import Roles
from robustlm.tasks.spans import SpanTask, named_items, read_item


@register
class NamedEntities(SpanTask):
    """Find the named entities of a tokenised text.

    Tags are BIO. An `I-` tag that does not continue an entity of its type begins one. So IOB1 files, such as the
    original CoNLL-2003, are read correctly too, and BIO files are read as usual.
    """

    name = "ner"
    keys = "tokens, ner_tags; or text, entities (a list of {text, type})"
    spans = 1
    roles = Roles(
        (
            ("type", "label", "category", "tag", "class", "kind", "entity type", "ner", "ner tag"),
            ("text", "entity", "word", "words", "span", "name", "value", "mention", "entity text", "entity name"),
        )
    )

    def recognises(self, row: RowData) -> bool:
        """Rows with `tokens` and `ner_tags`, or with a text and its entities but no relations."""
        named = "text" in row and "entities" in row and not {"relations", "triplets", "label"} & set(row)
        return ("tokens" in row and "ner_tags" in row) or named

    def filled(self, row: RowData) -> RowData | None:
        """Rows with `tokens` and no `ner_tags`, or with `text` and no `entities`."""
        tokens = row.get("tokens")
        if isinstance(tokens, list | tuple):
            return {**row, "ner_tags": ["O"] * len(tokens)} if row.get("ner_tags") is None else None
        return {**row, "entities": []} if "text" in row and row.get("entities") is None else None

    def read(self, row: RowData) -> tuple[Context, tuple[Item, ...], tuple[str, ...]]:
        """Read tokens and tags (the text is the tokens, joined by single spaces), or a text and its entities."""
        form = "type: words; type: words (None if there is nothing)"
        if "ner_tags" not in row:
            entities = elements(row, "entities", dict, "a list of objects {text, type}")
            items = tuple(read_item(entity, "type", "text") for entity in entities)
            return Context(format=form, text=required(row, "text")), items, ()
        tokens = elements(row, "tokens", str, "a list of strings")
        expected = "a list of tag names such as 'B-PER' and 'O' (`labels` of the source gives numbers theirs)"
        tags = elements(row, "ner_tags", str, expected)
        text = squeezed(" ".join(tokens))
        if not text:
            raise ValueError(f"empty tokens: found {tokens!r}; expected words")
        if len(tokens) != len(tags):
            raise ValueError(f"tags do not fit tokens: found {len(tags)} tags; expected {len(tokens)}, one a token")
        return Context(format=form, text=text), _entities(tokens, tags), ()

    def named(self, row: RowData, labels: Labels) -> RowData:
        """The row with its tags replaced by their names; `labels` may name tags (O, B-PER, …) or types (PER, …)."""
        if "ner_tags" not in row:
            return {**row, "entities": named_items(row, "entities", "type", labels)}
        tags = elements(row, "ner_tags", object, "a list")
        name = labels.name if _are_tags(labels.names) else lambda tag: _named_type(tag, labels)
        return {**row, "ner_tags": [name(tag) for tag in tags]}

    def options(self, names: Sequence[str]) -> tuple[str, ...]:
        """The entity types, also if `names` are tags."""
        if not _are_tags(names):
            return tuple(names)
        for name in names:
            prefix, _, kind = name.partition("-")
            if name != "O" and (prefix not in ("B", "I") or not kind.strip()):
                raise ValueError(f"labels: found {name!r} among names of tags; expected O, B-<type> or I-<type>")
        return tuple(dict.fromkeys(squeezed(name.partition("-")[2]) for name in names if name != "O"))


def _are_tags(names: Sequence[str]) -> bool:
    return any(name == "O" or name.startswith(("B-", "I-")) for name in names)


def _named_type(tag: object, labels: Labels) -> str:
    prefix, dash, kind = tag.partition("-") if isinstance(tag, str) else ("", "", "")
    if tag == "O":
        return "O"
    if not dash:
        expected = "B-<type> or I-<type> with a type that `labels` has, or `labels` that name tags (O, B-PER, …)"
        raise ValueError(f"unknown tag: found {shown(tag)}; expected O, {expected}")
    return f"{prefix}-{labels.name(kind)}"


def _entities(tokens: Sequence[str], tags: Sequence[str]) -> tuple[Item, ...]:
    entities: list[tuple[str, list[str]]] = []
    previous = ""
    for number, (token, tag) in enumerate(zip(tokens, tags, strict=True), start=1):
        prefix, _, kind = tag.partition("-")
        if tag != "O" and (prefix not in ("B", "I") or not kind.strip()):
            raise ValueError(f"unknown tag: tag {number} is {tag!r}; expected O, B-<type> or I-<type>")
        if prefix == "I" and kind == previous:
            entities[-1][1].append(token)
        elif tag != "O":
            entities.append((kind, [token]))
        previous = kind
    items = tuple((squeezed(kind), squeezed(" ".join(words))) for kind, words in entities)
    if any(not words for _, words in items):
        raise ValueError("empty entity: found tags on blank tokens; expected words under them")
    return items
