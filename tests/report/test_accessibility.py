"""What can be checked of the pages' accessibility without a browser; CONTRIBUTING.md has the check with one."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import pairwise

import pytest

from robustlm.evaluation.pairing import paired_tests
from robustlm.evaluation.robustness import Settings
from robustlm.report.comparison import scores_of
from robustlm.report.comparison_page import comparison_html
from tests.report.test_page import EDGES, Page, made, table

SETTINGS = Settings(20)


@cache
def pages() -> dict[str, str]:
    found = {
        case: made(rows, SETTINGS)[0] for case, rows in EDGES.items() if case in ("several", "f1", "one of everything")
    }
    runs = {"a": table(), "b": [replace(row, correct=True) for row in table()], "c": table()}
    found["comparison"] = comparison_html(runs, scores_of(runs), paired_tests(runs, SETTINGS), SETTINGS, "title")
    return found


@pytest.mark.parametrize("case", ["several", "f1", "one of everything", "comparison"])
def test_pages_have_what_screen_readers_need(case: str) -> None:
    text = pages()[case]
    page = Page(text)
    elements = page.elements
    assert dict(elements)["html"]["lang"] == "en"
    assert re.search(r"<title>[^<]+</title>", text)
    assert [name for name, _ in elements].count("main") == 1
    assert [name for name, _ in elements].count("h1") == 1

    levels = [int(name[1]) for name, _ in elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels

    for name, own in elements:
        if name == "th":
            assert own.get("scope") in ("col", "row", "rowgroup"), own
        if name in ("input", "select"):
            assert re.search(rf'<label>[^<]*\S[^<]*<{name} id="{own["id"]}"', text), own
        if name == "svg":
            assert own.get("aria-hidden") == "true" or (own.get("role") == "img" and own.get("aria-label")), own
        if own.get("role") == "region":
            assert own.get("aria-label")
            assert own.get("tabindex") == "0"
        assert name != "img" or own.get("alt") is not None
    regions = [own["aria-label"] for _, own in elements if own.get("role") == "region"]
    assert len(set(regions)) == len(regions), "two landmarks of one name"
    assert not re.search(r"<th[^>]*></th>", text), "a heading of a table without text"


Colours = dict[str, tuple[float, float, float]]


@cache
def themes() -> dict[str, Colours]:
    """The colours of the style sheet, by theme."""
    css = resources.files("robustlm").joinpath("assets", "report.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    found = []
    for block in (light, dark):
        named = re.findall(r"--([\w-]+): #([0-9a-f]{6})", block)
        found.append({name: tuple(int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)) for name, code in named})
    assert set(found[0]) == set(found[1])
    return dict(zip(("light", "dark"), found, strict=True))  # type: ignore[arg-type]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Contrast ratio of WCAG 2.2."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
        return sum(share * v for share, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_read(theme: str) -> None:
    colour = themes()[theme]
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    for text, below in [("text", "page"), ("text", "head"), ("quiet", "page"), ("quiet", "head"), ("link", "page"),
                        ("right", "page"), ("wrong", "page")]:  # fmt: skip
        assert contrast(colour[text], colour[below]) >= 4.5, (text, below)
    for step in range(11):  # cells of heat maps mix the two ends
        mixed = tuple(a + (b - a) * step / 10 for a, b in zip(colour["pale"], colour["full"], strict=True))
        assert contrast(colour["text"], mixed) >= 4.5, step
    for mark in ("s0", "s1", "s2", "s3", "s4", "s5", "p0", "p1", "quiet"):
        assert contrast(colour[mark], colour["page"]) >= 3, mark
