"""Shortening of long messages."""

from __future__ import annotations

MOST_CHARACTERS = 2_400
"""Longest message, in characters: two screens of a terminal."""
MOST_LINES = 24
_LINE_LIMITS = (1_000, 400, 200, 100)


def beginning(text: str, most: int) -> str:
    r"""A text in one line, cut after `most` characters; `…` stands for the rest.

    Example:
        >>> beginning("a long\\n  answer", 8)
        'a long a…'
    """
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}…"


def shortened(text: str, most: int) -> str:
    """Replace the middle of a text by a note of its length if the text has more than `most` characters.

    Args:
        text: One line.
        most: How many characters to show, approximately.

    Example:
        >>> shortened("k" * 1000, 40)
        'kkkkkkkkkkk … (1,000 characters) … kkkkk'
    """
    if len(text) <= most:
        return text
    note = f" … ({len(text):,} characters) … "
    shown = max(most - len(note), 12)
    end = shown // 3
    return text[: shown - end] + note + text[len(text) - end :]


def brief(message: str) -> str:
    """Shorten a message to at most `MOST_LINES` lines and about `MOST_CHARACTERS` characters.

    Long lines lose their middle, because they begin with what was found and end with what was expected. Lines are left
    out before the last two, which say what to do. Control characters are escaped, because they change what a terminal
    shows.
    """
    lines = ["".join(_visible(character) for character in line) for line in message.split("\n")]
    if len(lines) > MOST_LINES:
        kept = MOST_LINES - 3
        lines = [*lines[:kept], f"  … ({len(lines) - kept - 2:,} more lines)", *lines[-2:]]
    for most in _LINE_LIMITS:
        shown = [shortened(line, most) for line in lines]
        if sum(map(len, shown)) <= MOST_CHARACTERS:
            break
    return "\n".join(shown)


def _visible(character: str) -> str:
    return character if character == "\t" or character.isprintable() else repr(character)[1:-1]
