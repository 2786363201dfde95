"""Named entities: `type: words; type: words`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustlm.data.fields import elements, squeezed
from robustlm.data.samples import Context
from robustlm.data.tasks.base import Item, register
from robustlm.data.tasks.spans import SpanTask


@register
class NamedEntities(SpanTask):
    """Find the named entities of a tokenised text.

    Tags are BIO. An `I-` that does not continue an entity of its type begins one: that is how IOB1 files,
    such as the original CoNLL-2003, write entities, and it reads BIO files the same.
    """

    name = "ner"
    keys = "tokens, ner_tags"
    spans = 1

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """Rows with `tokens` and `ner_tags`."""
        return "tokens" in row and "ner_tags" in row

    def read(self, row: Mapping[str, Any]) -> tuple[Context, tuple[Item, ...], tuple[str, ...]]:
        """Read tokens and tags; the text is the tokens with single spaces between them."""
        tokens = elements(row, "tokens", str, "a list of strings")
        tags = elements(row, "ner_tags", str, "a list of tag names such as 'B-PER' and 'O'")
        text = squeezed(" ".join(tokens))
        if not text:
            raise ValueError(f"empty tokens: found {tokens!r}; expected words")
        if len(tokens) != len(tags):
            raise ValueError(f"tags do not fit tokens: found {len(tags)} tags; expected {len(tokens)}, one a token")
        context = Context(format="type: words; type: words (None if there is nothing)", text=text)
        return context, _entities(tokens, tags), ()


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
