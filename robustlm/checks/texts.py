"""How much of what was found a message repeats."""

from __future__ import annotations

MOST_CHARACTERS = 2_400
"""Of a message: two screens of a terminal."""
MOST_LINES = 24
_LINE_LIMITS = (1_000, 400, 200, 100)


def shortened(text: str, most: int) -> str:
    """The text, with its middle left out where it is longer than `most` characters; says how long it is.

    Args:
        text: One line.
        most: Characters that are shown, about.

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
    """A message in at most `MOST_LINES` lines and about `MOST_CHARACTERS` characters.

    Long lines lose their middle, since what was found stands before what was expected; lines are left out before the
    last ones, which say what to do. Control characters, which change what a terminal shows, are written out.
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
