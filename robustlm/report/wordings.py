"""Shows the words of an instruction instead of its id, with the edits of noise or of an attack marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from robustlm.evaluation.wording import Wording
from robustlm.report.markup import Html, join, named, tag, word
from robustlm.report.tables import Escaped, cell
from robustlm.utils.words import is_unspaced, with_gaps

LONGEST = 70
"""Longest text of an instruction in a cell of a table, in characters, before its middle is left out."""

_FULL = 2000
"""Longest text of an instruction in a fold, in characters."""


class Piece(NamedTuple):
    """A part of an instruction before and after an edit."""

    kind: Literal["kept", "removed", "added"]
    text: str


def pieces(wording: Wording) -> list[Piece]:
    """Cut an instruction into the words that noise kept, removed and added, in order.

    The kept and removed pieces are the raw instruction; the kept and added ones are the instruction as it was asked,
    but for the amount of white space between words.
    """
    if wording.asked is None or not wording.changed:
        return [Piece("kept", wording.raw)]
    before, after = _words(wording.raw), _words(wording.asked)
    found: list[Piece] = []
    plain = [text.strip() for text in before], [text.strip() for text in after]
    for _, start, end, at, until in SequenceMatcher(None, *plain, autojunk=False).get_opcodes():
        same = plain[0][start:end] == plain[1][at:until]
        if same:
            found.append(Piece("kept", "".join(after[at:until])))
            continue
        found += [Piece("removed", "".join(before[start:end]))] if start < end else []
        found += [Piece("added", "".join(after[at:until]))] if at < until else []
    return [piece if i == 0 else _apart(found[i - 1], piece) for i, piece in enumerate(found)]


def _apart(before: Piece, piece: Piece) -> Piece:
    """Put a space before the first word of a text if an edit has put another word before it."""
    joined = piece.text[:1].isspace() or is_unspaced(piece.text) or is_unspaced(before.text)
    return piece if joined else piece._replace(text=f" {piece.text}")


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text in one line; if it is longer than `longest` characters, `…` stands for its middle."""
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    end = (longest - 3) // 2
    return f"{line[: longest - 3 - end].rstrip()} … {line[len(line) - end :].lstrip()}"


def name_text(instruction: str, wording: Wording | None, longest: int = LONGEST) -> str:
    """Name an instruction in a cell of Markdown: its words, or its id if the table does not hold them.

    Edits are marked: `~~removed~~`, `**added**`. Such marks in the words themselves are escaped.
    """
    if wording is None:
        return instruction
    found = _brief(pieces(wording), longest)
    return Escaped(" ".join("".join(_marked_text(piece) for piece in found).split()))


def name_html(instruction: str, wording: Wording | None, longest: int = LONGEST) -> Html:
    """Name an instruction on a page: its words, with edits as `<del>` and `<ins>`, or its id if they are not known.

    If words are left out, the title holds all of them.
    """
    if wording is None:
        return named(instruction)
    found = pieces(wording)
    shown = _brief(found, longest)
    full = wording.raw if wording.asked is None else wording.asked
    return tag("span", *map(_marked_html, shown), class_="said", title=None if shown == found else full)


def full_html(wording: Wording) -> Html:
    """All words of an instruction, with edits as `<del>` and `<ins>`."""
    found = pieces(wording)
    if len(found) == 1:
        return word(wording.raw, longest=_FULL)
    return tag("span", *map(_marked_html, found), class_="said")


def folded_html(instruction: str, wordings: Sequence[tuple[str, Wording]]) -> Html:
    """The words of an instruction, which unfold to its id and to what each condition made of it.

    Args:
        instruction: The id.
        wordings: The words under each condition, by name; the ID is shown if there are none.
    """
    if not wordings:
        return named(instruction)
    raws = {wording.raw for _, wording in wordings}
    _, first = wordings[0]
    edited = [(name, own) for name, own in wordings if own.changed or len(raws) > 1]
    lines = [tag("p", named(instruction), class_="quiet")]
    lines += [tag("p", word(first.raw, longest=_FULL))] if len(raws) == 1 else []
    lines += [tag("p", named(name), ": ", full_html(own)) for name, own in edited]
    lines += [
        tag("p", named(name), ": other words in each row", class_="quiet")
        for name, own in wordings
        if own.asked is None
    ]
    return tag("details", tag("summary", word(shortened(first.raw))), *lines)


def _words(text: str) -> list[str]:
    """Words, each with the white space before it."""
    words, gaps = with_gaps(text)
    return [gap + one for gap, one in zip(gaps, words, strict=True)]


def _brief(found: Sequence[Piece], longest: int) -> list[Piece]:
    """Leave out the middle of long pieces, so that edits stay readable; and the last pieces if that is not enough."""
    if sum(len(piece.text) for piece in found) <= longest:
        return list(found)
    share = max(longest // len(found), 16)
    short = [piece._replace(text=_cut(piece.text, share)) for piece in found]
    kept: list[Piece] = []
    room = max(2 * longest, share)
    for piece in short:
        room -= len(piece.text)
        if room < 0 and kept:
            return [*kept, Piece("kept", " …")]
        kept.append(piece)
    return kept


def _cut(text: str, longest: int) -> str:
    """`shortened`, with white space at both ends as it was."""
    inner = text.strip()
    start = len(text) - len(text.lstrip())
    return text if len(text) <= longest else text[:start] + shortened(inner, longest) + text[start + len(inner) :]


def _marked_text(piece: Piece) -> str:
    inner = re.sub(r"[*~`_]", r"\\\g<0>", cell(" ".join(piece.text.split())))
    start, end = (" " if part[:1].isspace() else "" for part in (piece.text, piece.text[::-1]))
    mark = {"kept": "", "removed": "~~", "added": "**"}[piece.kind]
    return f"{start}{mark}{inner}{mark}{end}" if inner else " "


def _marked_html(piece: Piece) -> Html:
    text = piece.text
    start = text[: len(text) - len(text.lstrip())]
    if piece.kind == "kept":
        return join(text)
    return join(start, tag("del" if piece.kind == "removed" else "ins", text[len(start) :]))
