"""Instructions with slots: `{name}` is replaced by a field of the sample, so the instruction contains the context.

`{identifier}` is a slot only if the sample has a field of that name; all other braces are literal text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence

from robustlm.utils.words import is_unspaced, rejoin, with_gaps

OPTIONS = "options_"
"""The slot for the answer options, as [FLAN] templates name it."""

CONTENT = "content"
"""The slot for the whole input, as PromptBench's templates name it."""
CASED = "__"
"""`{word__lower}` is the slot for the field `word` in lower case."""
CASES: dict[str, Callable[[str], str]] = {
    "lower": str.lower, "upper": str.upper, "capitalize": str.capitalize, "title": str.title,
}  # fmt: skip
"""What may follow `CASED`."""

_SPACE = re.compile(r"(\s+)")
_SLOT = re.compile(r"\{([^\W\d]\w*)\}")


def slots(text: str) -> list[str]:
    """Every name in braces, in order of first appearance."""
    return list(dict.fromkeys(_SLOT.findall(text)))


def is_slotted(text: str, names: Collection[str]) -> bool:
    """Whether a text holds a slot of one of these names."""
    return bool(names) and any(name in names for name in _SLOT.findall(text))


def pieces(text: str, names: Collection[str]) -> list[tuple[str, str | None]]:
    """Cut a text at its slots.

    Returns:
        Literal text and the name of the slot after it (None after the last), in order.
    """
    found: list[tuple[str, str | None]] = []
    at = 0
    for match in _SLOT.finditer(text):
        if match[1] in names:
            found.append((text[at : match.start()], match[1]))
            at = match.end()
    return [*found, (text[at:], None)]


def literal(text: str, names: Collection[str]) -> str:
    """A text with each slot replaced by a space."""
    return " ".join(piece for piece, _ in pieces(text, names)) if names else text


def defused(word: str, names: Collection[str]) -> str:
    """Remove the braces of slots from a word, so that it contains no slot."""
    if "{" not in word:
        return word  # most words
    while (bare := _SLOT.sub(lambda match: match[1] if match[1] in names else match[0], word)) != word:
        word = bare  # `{{name}}` has become `{name}`, another slot
    return word


def option_lines(choices: Iterable[str]) -> str:
    """Answer options as [FLAN] writes them: `OPTIONS:`, then one line for each."""
    return "\n".join(["OPTIONS:", *(f"- {choice}" for choice in choices)])


class Skeleton:
    """An instruction with slots, split for noise into its words and the slots that noise must not move.

    A word that contains a slot (`"{hypothesis}"?`) stays whole, with the white space around it.

    Args:
        text: The instruction.
        names: Names of the sample's fields.
    """

    __slots__ = ("_held", "_text", "words")

    def __init__(self, text: str, names: Collection[str]) -> None:
        self._text = text
        self.words: list[str] = []
        """The words without slots."""
        self._held: list[tuple[int, str, str, str]] = []
        chunks = _chunks(text)
        for i in range(0, len(chunks), 2):
            if "{" in chunks[i] and is_slotted(chunks[i], names):
                before, after = chunks[i - 1] if i else " ", chunks[i + 1] if i + 1 < len(chunks) else " "
                self._held.append((len(self.words), before, chunks[i], after))
            elif chunks[i]:
                self.words.append(chunks[i])

    def filled(self, words: Sequence[str], in_place: bool = False) -> str:
        """The text with other words; `interleaved` places the slots among them."""
        return self.joined(self.interleaved(words, in_place))

    def interleaved(self, words: Sequence[str], in_place: bool = False) -> list[str]:
        """Insert the slots among other words, each once and in order, at the same relative position as before.

        Args:
            words: The other words.
            in_place: Whether the i-th new word replaces word i, and further words are appended. Each slot then stays
                before the same word, and slots at the end stay there.
        """
        out: list[str] = []
        at = 0
        for place, _, held, _ in self._held:
            # halves are rounded up, so that the places keep their order
            here = (2 * place * len(words) + len(self.words)) // (2 * len(self.words)) if self.words else 0
            if in_place and place < len(self.words):
                here = place
            out += [*words[at:here], held]
            at = max(at, here)
        return [*out, *words[at:]]

    def joined(self, words: Sequence[str]) -> str:
        """Join all words of a text, slots included; slots keep the white space that was around them."""
        if is_unspaced(self._text) or is_unspaced(" ".join(words)):
            return rejoin(self._text, words)
        out: list[str] = []
        glue, number = "", 0
        for word in words:
            held = number < len(self._held) and word == self._held[number][2]
            if out:
                out.append(glue or (self._held[number][1] if held else " "))
            out.append(word)
            glue = self._held[number][3] if held else ""
            number += held
        return "".join(out)


def _chunks(text: str) -> list[str]:
    """Words and the white space between them, alternating; an empty string where there is none."""
    if not is_unspaced(text):
        return _SPACE.split(text.strip())
    words, gaps = with_gaps(text)
    return [part for pair in zip(gaps, words, strict=True) for part in pair][1:]
