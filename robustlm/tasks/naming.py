"""Which of the allowed labels or options an answer names. The rules see the labels, and never the true one."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import lru_cache

from robustlm.tasks.final import answered_part, bare, keyed, marked, stated

AMBIGUOUS = ""
"""The text marks its answer, but names no label there, or several: later rules are not tried."""

_JOINT = r"[\s_\-‐‑‒–/]*"
_SPLIT = re.compile(r"[\s_\-‐‑‒–/]+")
_LETTER = r"[^\W_\u3040-\u30ff\u3400-\u9fff]"
"""A letter or digit of a script that separates words."""

_LISTED = re.compile(r"\A\W*\(?A[).:][^\n]*\n+\W*\(?B[).:]")
"""The options one after the other, as the prompt lists them: the first letter is no answer."""

_WEAK = frozenset({"yes", "no", "a", "an", "i", "it", "he", "she", "they", "in", "on", "at", "or", "and", "not", "none",
                   "other", "what", "who", "where", "when", "how", "is"})  # fmt: skip
"""Labels that occur in any sentence. They count only as an answer of their own, not as a word of a sentence."""

_DELIMITED = r"(?=\s*(?:[.,:;!)\]\n—–。，：；）]|\s-\s|\(|$))"
_SENTENCE = re.compile(r"(?<=[.!?\n])")
_MARKUP = re.compile(r"\*+|`+|(?<!\w)_+|_+(?!\w)")
_BOLD = re.compile(r"\*\*(.+?)\*\*|`([^`\n]+)`|[\"“]([^\"“”\n]+)[\"”]")
_IDLE = re.compile(r"\b(?:no|without(?: a)?|beyond) (?:doubt|question)\b|\bnot only\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|without|cannot|unlike|non|un|lacks?|unable"
    r"|rather than|instead of|opposed to|far from)\b"
    r"|n['’]t\b",
    re.IGNORECASE,
)
_ADJACENT = re.compile(
    r"(?:\b(?:not|non|no)|n['’]t)[\s-]+(?:(?:(?!necessarily)\w+ly|quite|an?|the)\s+)*\Z", re.IGNORECASE
)
_CLAUSE = re.compile(r"[.,;:!\n()]|\b(?:but|so|yet)\b", re.IGNORECASE)
_BACK = 200
"""Characters around a label that are looked at."""
_NEAR = 6
"""A negation counts for a label if it is among this many words before it, in the same clause."""
_SCALE = re.compile(r"\bscale\s+(?:of|from)\s+\d+\s*(?:to|-|–|through)\s*\d+", re.IGNORECASE)
_SCALED = re.compile(r"(\d)([*_`]*)\s*(?:(?:/\s*|out of\s+)\d+(?:\s*(?:stars?|points?))?|stars?\b)", re.IGNORECASE)
"""`4/5`, `4 out of 5 stars` and `4 stars` for labels that are numbers."""


def named_label(text: str, labels: Sequence[str], *, lettered: bool = False) -> str | None:
    """The label that an answer gives; null if it gives none, or several.

    Args:
        text: What the model wrote.
        labels: All labels, or the options in the order of the prompt.
        lettered: Whether the prompt puts letters before the options.

    Example:
        >>> labels = ["entailment", "not_entailment"]
        >>> named_label("**Not entailment**.", labels), named_label("It may be entailment or not_entailment.", labels)
        ('not_entailment', None)
        >>> named_label("The answer is (B).", ["Mars", "Venus"], lettered=True)
        'Venus'
    """
    return _known(tuple(labels), lettered).read(answered_part(text)) or None


@lru_cache(maxsize=1024)
def _known(labels: tuple[str, ...], lettered: bool) -> _Labels:
    return _Labels(labels, lettered)


def label_key(text: str) -> str:
    """The same text for `not_entailment`, `Not Entailment` and `not-entailment`."""
    return " ".join(part for part in _SPLIT.split(text.casefold()) if part)


class _Labels:
    """The labels of a row, and the rules that find one of them in a text.

    Every rule returns a label, `AMBIGUOUS`, or null if it does not apply.
    """

    def __init__(self, labels: tuple[str, ...], lettered: bool) -> None:
        self._exact = set(labels)
        self._by_key: dict[str, str] = {}
        for label in labels:
            self._by_key.setdefault(label_key(bare(label) or label), label)
        self._letters = dict(zip(string.ascii_uppercase, labels, strict=False)) if lettered else {}
        parts = {key: self._pattern(key) for key in sorted(self._by_key, key=lambda key: -len(key))}
        self._any = "|".join(f"(?P<l{i}>{pattern})" for i, pattern in enumerate(parts.values()))
        self._order = list(parts)
        self._named = re.compile(self._any, re.IGNORECASE) if parts else None
        self._first = re.compile(rf"(?:{self._any}){_DELIMITED}", re.IGNORECASE) if parts else None

    @staticmethod
    def _pattern(key: str) -> str:
        words = _JOINT.join(re.escape(part) for part in key.split(" "))
        before = rf"(?<!{_LETTER})" if re.match(_LETTER, key[:1]) else ""
        after = rf"(?!{_LETTER})" if re.match(_LETTER, key[-1:]) else ""
        if key[-1:].isdigit():
            before, after = rf"{before}(?<!\d[.,/–-])", rf"{after}(?![.,]\d|[–-]\d)"
        return f"{before}{words}{after}"

    def read(self, text: str) -> str | None:
        """The label that a text gives, by the rules in their order."""
        if not text or not self._by_key:
            return None
        if any(key.isdigit() for key in self._by_key):
            text = _SCALED.sub(r"\1", _SCALE.sub("", text))
        for rule in (self._whole, self._marked, self._stated, self._begun, self._ended, self._bold, self._mentioned):
            if (found := rule(text)) is not None:
                return found
        return None

    def _label(self, text: str) -> str | None:
        """The label that a text is, apart from quotes, Markdown, case and separators."""
        if text in self._exact:
            return text
        return self._by_key.get(label_key(bare(text)))

    def _whole(self, text: str) -> str | None:
        label = self._label(text)
        return self._letter(bare(text)) if label is None and "\n" not in text.strip() else label

    def _letter(self, text: str) -> str | None:
        """The option of a letter that stands alone or before the option's text."""
        if not self._letters:
            return None
        found = re.match(
            r"(?:(?:option|choice|answer)\s+)?(?:\(([A-Za-z])\)|([A-Za-z])(?=[).:,。]|\s+[-–—]\s|\s*\Z))[).:,。\s–—-]*",
            text,
            re.IGNORECASE,
        )
        if found is None:
            return None
        option = self._letters.get((found[1] or found[2]).upper(), AMBIGUOUS)
        rest = text[found.end() :].split("\n")[0]
        if re.match(r"\(?[A-Za-z]\)?\s*(?:[,;/&.]|\b(?:and|or)\b|\Z)", rest):
            return AMBIGUOUS
        other = self._label(rest) or self._start(rest)
        return AMBIGUOUS if other and other != option else option

    def _start(self, text: str) -> str | None:
        """The label at the start of a text, if punctuation follows, and not another label."""
        assert self._first is not None
        text = _MARKUP.sub("", text).lstrip(" \t\n>#-•\"'“‘([")
        found = self._first.match(text)
        if found is None:
            return None
        rest = re.sub(r"\A[\s,/\"'”’)\]-]*(?:(?:and|or)\b\s*)?", "", text[found.end() :])
        again = self._first.match(rest)
        if again is not None and text[found.end() : found.end() + 1] not in (".", "\n", ":"):
            return AMBIGUOUS
        return self._by_key[self._order[self._at(found)]]

    def _at(self, found: re.Match[str]) -> int:
        return int(str(found.lastgroup)[1:])

    def _marked(self, text: str) -> str | None:
        """An answer in tags, in a box or in JSON."""
        found = marked(text)
        if found is None:
            found = keyed(text)
        if found is None:
            return None
        return self._whole(found) or self._start(found) or self._mentioned(found) or AMBIGUOUS

    def _stated(self, text: str) -> str | None:
        """What follows `the answer is`; if this is said several times, what is said to conclude."""
        found: list[tuple[str, bool]] = []
        for said, concluded in stated(_MARKUP.sub("", text)):
            first = re.split(r"(?<=[\w)\"'])[.!](?:\s|$)", said, maxsplit=1)[0]
            tried = (rule(part) for rule, part in ((self._whole, said), (self._whole, first), (self._start, said),
                                                   (self._letter, said), (self._mentioned, first)))  # fmt: skip
            if (label := next((one for one in tried if one is not None), None)) is not None:
                found.append((label, concluded))
        if not found:
            return None
        label, concluded = found[-1]
        return label if concluded or all(one == label for one, _ in found) else AMBIGUOUS

    def _begun(self, text: str) -> str | None:
        """A label or letter at the start: a first line of its own, or before punctuation."""
        line = text.split("\n")[0]
        label = self._label(line)
        if label is None and not _LISTED.search(text):
            label = self._letter(_MARKUP.sub("", line).lstrip(" #>-•"))
        return self._start(text) if label is None else label

    def _ended(self, text: str) -> str | None:
        """A label or letter that is the last line."""
        return self._whole(text.rstrip().rpartition("\n")[2])

    def _bold(self, text: str) -> str | None:
        """The only label in bold, in code or in double quotes, unless it is negated there."""
        found = set()
        for match in _BOLD.finditer(text):
            if label := self._whole(match[1] or match[2] or match[3]):
                found.add(AMBIGUOUS if _ADJACENT.search(text[max(0, match.start() - _BACK) : match.start()]) else label)
        return found.pop() or None if len(found) == 1 else None

    def _mentioned(self, text: str) -> str | None:
        """The only label that a text names without negating it."""
        assert self._named is not None
        sentences = _SENTENCE.split(_IDLE.sub("", _MARKUP.sub("", text)))
        text = "".join(sentence for sentence in sentences if not sentence.endswith("?"))
        found: set[str] = set()
        for match in self._named.finditer(text):
            key = self._order[self._at(match)]
            if not self._counts(key, text, match):
                continue
            before = text[max(0, match.start() - _BACK) : match.start()]
            if _ADJACENT.search(before):
                if opposite := self._by_key.get(f"not {key}"):
                    found.add(opposite)
            elif not _is_negated(before):
                found.add(self._by_key[key])
        for one, other in re.findall(r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice) ([A-Z])\b", text) if self._letters else ():
            found.add(self._letters.get(one or other, AMBIGUOUS))
        if len(found) == 1:
            return found.pop()
        return AMBIGUOUS if found else None

    @staticmethod
    def _counts(key: str, text: str, match: re.Match[str]) -> bool:
        """Whether a label in a sentence is an answer, and not just a word, letter or number of the sentence."""
        before, after = text[max(0, match.start() - _BACK) : match.start()], text[match.end() : match.end() + _BACK]
        if key.isdigit():
            last = re.match(r"[.!\"')]*\s*(?:\n|\Z)", after) is not None
            return last and len(re.findall(r"\d+", text)) == 1
        if len(key) == 1:
            return False
        if key in _WEAK:
            apart = re.search(r"(?:^|[,:;\"'(\n]|\b(?:is|be|say))\s*\Z", before) is not None
            return apart and re.match(r"[\"')]*\s*(?:[.,;!\n]|\Z)", after) is not None
        return True


def _is_negated(before: str) -> bool:
    """Whether the clause that ends here negates what follows."""
    clause = _CLAUSE.split(before)[-1]
    return _NEGATION.search(" ".join(clause.split()[-_NEAR:])) is not None
