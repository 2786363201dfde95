"""Protect words of an instruction from noise: those that the answer is written with.

If noise misspells or swaps the labels that an instruction names, the task changes, and a model that then answers
otherwise is not wrong. Protected are the allowed answers, the keys and names of the answer's format, quoted text in the
instruction, and its slots. A match protects the whole word with its punctuation. Case is ignored, except for labels of
one letter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import lru_cache

# unlike the standard library's `re`, it knows named scripts in character classes
import regex as re  # type: ignore[import-untyped]

from robustlm.instructions.slots import Skeleton, defused, is_slotted
from robustlm.noise.edits import Edit, Edits, edited, word_edits
from robustlm.sample import Sample
from robustlm.tasks.labels import unquoted
from robustlm.utils.words import UNSPACED, is_unspaced, rejoin, split_words

_ATTEMPTS = 4
_LETTER = rf"[^\W{UNSPACED}]"  # a letter of a script with blanks between words
_QUOTED = (
    r'"[^"\n]+"|“[^”\n]+”|«[^»\n]+»|`[^`\n]+`|「[^」\n]+」|『[^』\n]+』'
    rf"|(?<!{_LETTER})'[^'\n]+'(?!{_LETTER})|‘[^’\n]+’(?!{_LETTER})"
)
_LISTED = re.compile(r"[,;|\n，；、]|(?:^|(?<=\s))(?:\([A-Za-z0-9]\)|-)\s")
_WITH_COMMA = re.compile(r'(?<![^\s,])"(?:[^",]|"")*,(?:[^"]|"")*"(?![^\s,])')
"""An option in quotes, as `robustlm.tasks.labels.quoted` writes options with a comma."""
_KEY = re.compile(r"([^\s:;,()：；，、（）]+)\s*[:：]")
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z]\w*")
_WORD = re.compile(r"[^\W_]+")


def protected_phrases(sample: Sample) -> tuple[str, ...]:
    """Phrases that an instruction of this sample must keep; keys of the format include their colon.

    These are the choices (with and without a key before them, as in `label: sports`), the options of the context, and
    these parts of its format: keys (`label:`), quoted text, and names and literals that start with a capital (`None`).
    """
    context = sample.context
    keys = [f"{key}:" for key in _KEY.findall(context.format)]
    named = [unquoted(found[0]) for found in _WITH_COMMA.finditer(context.option)]
    listed = _LISTED.split(_WITH_COMMA.sub(",", context.option).removeprefix("OPTIONS:"))
    options = [*sample.choices, *named, *listed]
    bare = [option.strip().removeprefix(key).strip() for option in options for key in ("", *keys)]
    quoted = [found[1:-1] for found in re.findall(_QUOTED, context.format)]
    return tuple(dict.fromkeys(filter(None, [*bare, *keys, *quoted, *_NAME.findall(context.format)])))


@lru_cache(maxsize=4096)
def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Pattern for quotes and phrases, the longest phrases first."""
    longest = sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))
    return re.compile("|".join([_QUOTED, *filter(None, map(_expression, longest))]))


def _expression(phrase: str) -> str:
    words = _WORD.findall(phrase)
    if not words:
        return rf"(?<!\S){re.escape(phrase.strip())}(?!\S)" if phrase.strip() else ""
    text = r"[\W_]+".join(words)
    before, after = ("" if is_unspaced(char) else rf"[^\W_{UNSPACED}]" for char in (words[0][0], words[-1][-1]))
    if len(text) > 1:
        text = f"(?i:{text})"
    ends = r"\s*[:：]" if phrase.rstrip().endswith((":", "：")) else after and f"(?!{after})"
    return (before and f"(?<!{before})") + text + ends


class Guard:
    """Splits a text for noise: words that may change, and protected words, which stay exactly once and in order.

    Args:
        text: The instruction.
        phrases: Phrases to protect besides quotes, from `protected_phrases`.
        slots: Names of the sample's fields.
    """

    __slots__ = ("_all", "_end", "_kept", "_pattern", "_places", "_skeleton", "_slots", "_text", "words")

    def __init__(self, text: str, phrases: Collection[str], slots: Collection[str] = ()) -> None:
        self._pattern = _pattern(tuple(phrases))
        self._slots = slots
        self._skeleton = Skeleton(text, slots)
        self._text = text
        self._all = split_words(text)
        held = set(self._touched())
        slotted = {place for place, word in enumerate(self._all) if "{" in word and is_slotted(word, slots)}
        self._places = [place for place in range(len(self._all)) if place not in held | slotted]
        # appended words go after protected words, but before slots such as options
        self._end = max((place + 1 for place in range(len(self._all)) if place not in slotted), default=0)
        self._kept = self._kept_of(self._all)
        self.words = [self._all[place] for place in self._places]
        """The words that may change."""

    @property
    def places(self) -> list[int]:
        """Positions of `words` among all words of the text."""
        return list(self._places)

    def keeps(self, words: list[str]) -> bool:
        """Whether words, in place of all words of the text, hold the protected phrases exactly once and in order."""
        return self._kept_of(words) == self._kept

    def joined(self, words: list[str]) -> str:
        """The text with all its words replaced; its slots stay as they were."""
        return self._skeleton.joined(words)

    def edits(self, draw: Callable[[], list[str]], in_place: bool = False) -> Edits:
        """Draw edits of the text that do not change protected words.

        Noise that would add protected phrases or split them is drawn again. If that does not help, the edits that do so
        are left out, so fewer words may change than the budget allows.

        Args:
            draw: Returns a noisy version of `words`.
            in_place: As in `word_edits`.
        """
        found: Edits = ()
        for _ in range(_ATTEMPTS):
            noisy = [defused(word, self._slots) for word in draw()]
            found = self._placed(word_edits(self.words, noisy, in_place))
            if self._admits(found):
                return found
        good: Edits = ()
        for edit in found:
            if self._admits((*good, edit)):
                good = (*good, edit)
        return good

    def text(self, edits: Edits) -> str:
        """The text after edits."""
        return self.joined(edited(self._all, edits))

    def _placed(self, edits: Edits) -> Edits:
        """Convert edits of `words` to edits of all words."""
        places = [*self._places, self._end]
        return tuple(Edit(places[edit.place], edit.before, edit.after) for edit in edits)

    def _admits(self, edits: Edits) -> bool:
        return self.keeps(edited(self._all, edits))

    def _kept_of(self, words: list[str]) -> list[str]:
        """The protected phrases found in words, in order."""
        return [match[0] for match in self._pattern.finditer(self._line(words))]

    def _line(self, words: list[str]) -> str:
        """Words in one line, with single spaces where there is white space."""
        return " ".join(rejoin(self._text, words).split())

    def _touched(self) -> Iterator[int]:
        """Positions of the words that a match overlaps."""
        line = self._line(self._all)
        matches = [match.span() for match in self._pattern.finditer(line)]
        end = 0
        for number, word in enumerate(self._all if matches else ()):
            start = line.index(word, end)
            end = start + len(word)
            if any(start < stop and first < end for first, stop in matches):
                yield number
