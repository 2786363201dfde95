"""Functions that build HTML. Text that is not `Html` is escaped, so answers of a model never become markup."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from importlib import resources

LONGEST = 400
"""Longest shown part of a text from a table, in characters."""

_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_PLAIN = re.compile(r"[\w/+@|:.-]+")
_SIGNS = re.compile(r"(?<=\w)([/+|]+)(?=\w)")
_VOID = ("meta", "link", "col", "img")
_LEAVES = ("line", "rect", "circle")

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content security policy: the browser loads no other file and runs no script."""


class Html(str):
    """Text that is markup, so it is not escaped."""


def tag(name: str, /, *inside: str, **attributes: str | int | bool | None) -> Html:
    """Make an HTML element.

    In names of attributes, `class_` becomes `class` and `_` becomes `-`. The values `None` and `False` omit an
    attribute; `True` writes it without a value.
    """
    opened = "".join(
        f" {_attribute(key)}" + ("" if value is True else f'="{_escaped(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{opened}>")
    if name in _LEAVES and not inside:
        return Html(f"<{name}{opened}/>")
    return Html(f"<{name}{opened}>{join(*inside)}</{name}>")


def join(*parts: str) -> Html:
    """Concatenate parts; those that are not `Html` are escaped."""
    return Html("".join(part if isinstance(part, Html) else _escaped(part) for part in parts))


def word(text: str, kind: str | None = "said", longest: int = LONGEST) -> Html:
    """Mark up a text from a table as `<bdi>`, cut after `longest` characters; empty text and white space are named."""
    if not text.strip():
        return tag("i", "empty" if not text else f"white space, {len(text)} characters", class_="quiet")
    shown = tag("bdi", text[:longest], class_=kind)
    if len(text) <= longest:
        return shown
    return join(shown, "… ", tag("i", f"{len(text):,} characters", class_="quiet"))


def named(text: str) -> Html:
    """Mark up a name from a table as `word` does; lines may break after its `/`, `+` and `|`."""
    shown = word(text, None)
    return Html(_SIGNS.sub(r"\1<wbr>", shown)) if _PLAIN.fullmatch(text) else shown


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    label: str,
    texts: Collection[int] = (0,),
    marks: Sequence[Mapping[str, str]] = (),
    **attributes: str,
) -> Html:
    """A table that scrolls sideways if it is wider than the page.

    Args:
        heads: Headings of the columns.
        rows: Cells by row; the first cell of a row is its heading.
        label: What the table shows, for screen readers.
        texts: Indexes of columns that hold text; the other columns hold numbers.
        marks: HTML attributes of each row; none by default.
        attributes: HTML attributes of the table.
    """

    def kind(at: int) -> str | None:
        return None if at in texts else "number"

    head = tag("tr", *(tag("th", c, scope="col", class_=kind(i)) if c else tag("td") for i, c in enumerate(heads)))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row", class_=kind(0)),
            *(tag("td", cell, class_=kind(i)) for i, cell in enumerate(row[1:], start=1)),
            **own,
        )
        for row, own in zip(rows, marks or [{}] * len(rows), strict=True)
    ]
    return wide(tag("table", tag("thead", head), tag("tbody", *body), **attributes), label)


def counted(number: int, what: str) -> str:
    """A number of things, `1 answer` or `2 answers`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def wide(inside: Html, label: str) -> Html:
    """A frame that scrolls sideways, also by keyboard."""
    return tag("div", inside, class_="wide", role="region", tabindex=0, aria_label=label)


def section(name: str, title: str, *inside: str) -> Html:
    """A part of a page that the list of contents points to."""
    return tag("section", tag("h2", title), *inside, id=name)


def page(title: str, head: Html, parts: Sequence[tuple[str, str, Html]], rules: str = "") -> str:
    """A whole page that needs no other file.

    Args:
        title: Title of the browser window.
        head: Markup before the list of contents.
        parts: Name, heading and contents of each section.
        rules: Further style rules; they must hold no text from a table.
    """
    style = resources.files("robustlm").joinpath("assets", "report.css").read_text(encoding="utf-8")
    top = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(style + rules)),
    )
    contents = tag("nav", *(tag("a", heading, href=f"#{name}") for name, heading, _ in parts), aria_label="Contents")
    main = tag("main", *(section(name, heading, inside) for name, heading, inside in parts))
    return f"<!doctype html>\n{tag('html', top, tag('body', tag('header', head), contents, main), lang='en')}\n"


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _escaped(text: str) -> str:
    """Escape text; control characters and lone surrogates, which HTML does not allow, become U+FFFD."""
    return escape(_UNSHOWABLE.sub("\ufffd", text))
