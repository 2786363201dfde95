"""Read candidates from a model's answer, and check by rules whether each of them is a paraphrase.

If in doubt, the rules reject: another candidate is cheap, but a paraphrase that asks for something else teaches a model
that instructions do not matter. Rules about words cover English only; in other languages they reject nothing.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import Levenshtein

from robustlm.noise.opposites import ANTONYMS, VERBS, WORDS
from robustlm.rows.fields import squeezed
from robustlm.tools.exchanges import PLACEHOLDER, QUOTED, exchanged_answers, exchanged_fields, exchanged_sides
from robustlm.utils.words import split_words

# ------------------------------------------------------------------------------------------- reading answers

_THOUGHT = re.compile(r"<think(ing)?>.*?</think(ing)?>", re.DOTALL)
_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_JSON_START = re.compile(r"^[ \t]*(?=[\[{])", re.MULTILINE)
_HEADING = r"(?:paraphrase|version|variant|variation|alternative|option|rewrite|rephrasing)\s*#?\d*\s*[:.)-]"
_MARKER = re.compile(
    rf"(?:\*\*)?(?:[-*•–—+]\s|\(?\d{{1,3}}[.):\]](?!\d)|#\d+\b[.):]?|\(?[a-z][.)]\s|{_HEADING})(?:\*\*)?\s*",
    re.IGNORECASE,
)
_STARTS = 50  # at most so many places are tried as the start of JSON
_QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’", "«": "»", "„": "“"}


def parse_answer(text: str) -> list[str]:
    """Find the candidates in an answer.

    If there is a JSON list (bare, in a code fence, in an object, or below other text), its strings are the candidates.
    Otherwise each line is a candidate, without its number, bullet, quotes and emphasis; an indented line continues the
    item above. Other text between the items is returned as candidates too; `Rules` rejects it, so that it is counted.
    """
    text = _FENCE.sub("", _THOUGHT.sub("", text) if "</think" in text else text).strip()
    for start in islice(_JSON_START.finditer(text), _STARTS):
        candidates = _json_candidates(text, start.end())
        if candidates:
            return candidates
    items: list[str] = []
    numbered = False
    for line in filter(str.strip, text.splitlines()):
        marked = _MARKER.match(line.strip())
        if numbered and not marked and line[:2].isspace():
            items[-1] += "\n" + line.strip()
        else:
            items.append(line.strip()[marked.end() :] if marked else line.strip())
            numbered = bool(marked)
    return [item for item in map(_bare, items) if item]


def _json_candidates(text: str, at: int) -> list[str]:
    """Strings of a JSON value that starts at `at` and ends its line; one object per line counts as a list."""
    found: list[str] = []
    decoder = json.JSONDecoder()
    while at < len(text) and text[at] in "[{":
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        rest = re.compile(r"[ \t]*,?[ \t]*(\n\s*|$)").match(text, end)
        if rest is None:
            break
        found += _strings(value)
        at = rest.end()
    return [stripped for item in found if (stripped := item.strip())]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        # {"original": …, "paraphrases": […]}: take only the list; {"id": 1, "paraphrase": …}: take the string
        lists = [item for item in value.values() if isinstance(item, list)]
        strings = [item for item in value.values() if isinstance(item, str)]
        if lists:
            yield from _strings(lists)
        elif len(strings) == 1 or all(re.search(r"\d$", key) for key in value):
            yield from strings


def _bare(item: str) -> str:
    """Remove quotes, a comma and emphasis around an item: `"List all names.",` and `**List all names.**`."""
    item = item.strip().removesuffix(",").strip() if item.strip().endswith(('",', "',", "”,")) else item.strip()
    if len(item) > 4 and item.startswith("**") and item.endswith("**") and "**" not in item[2:-2]:
        item = item[2:-2].strip()
    closing = _QUOTES.get(item[:1])
    inner = item[1:-1]
    if closing and len(item) > 1 and item.endswith(closing) and closing not in inner and item[0] not in inner:
        return inner.strip()
    if not re.search(r"\w", item):
        return ""  # the rest of broken JSON, or a horizontal line
    return item


# --------------------------------------------------------------------------------------------------- nearness


def normalised(text: str) -> str:
    """A text without case, punctuation and spacing; wordings with the same result count as one."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(words) or squeezed(text)


def nearness(left: str, right: str) -> float:
    """Distance of two texts in [0, 1]: the mean of word-level and character-level Levenshtein distance.

    Both are computed on `normalised` texts and divided by the length of the longer one.
    """
    a, b = normalised(left), normalised(right)
    words, others = split_words(a), split_words(b)
    by_word = Levenshtein.distance(words, others) / max(len(words), len(others), 1)
    by_character = Levenshtein.distance(a, b) / max(len(a), len(b), 1)
    return float(by_word + by_character) / 2


# ------------------------------------------------------------------------------------------------------ rules


@dataclass(frozen=True)
class Rules:
    """Rules that a candidate has to satisfy."""

    min_distance: float = 0.15
    """Smallest allowed distance to the instruction and to every other paraphrase of it, in [0, 1]: the mean of word and
    character edits, each divided by the longer length."""
    shortest: float = 0.4
    """Smallest allowed length, divided by the instruction's, with 20 characters added to both."""
    longest: float = 2.5
    """Largest allowed length, divided by the instruction's, with 20 characters added to both."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_distance < 1:
            raise ValueError(f"rules.min_distance: expected a number in [0, 1), found {self.min_distance}")
        if not 0 <= self.shortest <= 1 <= self.longest < math.inf:
            found = f"shortest {self.shortest} and longest {self.longest}"
            raise ValueError(f"rules: expected 0 ≤ shortest ≤ 1 ≤ longest, found {found}")

    def problem(self, instruction: str, candidate: str, kept: Sequence[str] = ()) -> str:
        """Say why a candidate is not a paraphrase.

        Args:
            instruction: The instruction.
            candidate: The candidate.
            kept: Paraphrases that it must differ from.

        Returns:
            The reason, followed by a colon and what was found; empty for a good candidate.
        """
        for check in _CHECKS:
            if found := check(instruction, candidate):
                return found
        return self._length(instruction, candidate) or self._nearness(instruction, candidate, kept)

    def _length(self, instruction: str, candidate: str) -> str:
        ratio = (len(candidate) + 20) / (len(instruction) + 20)
        if self.shortest <= ratio <= self.longest:
            return ""
        return f"length: {len(candidate)} characters for {len(instruction)}"

    def _nearness(self, instruction: str, candidate: str, kept: Sequence[str]) -> str:
        for other in (instruction, *kept):
            if normalised(other) == normalised(candidate):
                return "duplicate: of the instruction" if other is instruction else f"duplicate: of {other!r}"
        for other in (instruction, *kept):
            distance = nearness(other, candidate)
            if distance < self.min_distance:
                return f"near copy: {distance:.2f} from {'the instruction' if other is instruction else repr(other)}"
        return ""


_PARAPHRASED = r"(paraphras|rephras|reword|rewrit|rewrote|version|variation|alternative|variant)\w*"
_TALK = (
    re.compile(
        rf"^(here|below|these|the following)\b.{{0,40}}\b({_PARAPHRASED}|ways|options)\b", re.IGNORECASE | re.DOTALL
    ),
    re.compile(r"^here (are|is|you go)\b[^.:!?]*[.:!]?$", re.IGNORECASE),
    re.compile(
        r"^(sure|certainly|of course|absolutely|okay|ok|great|got it|understood|no problem)\s*[,.!:–-]", re.IGNORECASE
    ),
    re.compile(
        r"\b(let me know|hope (this|these|that) helps?|feel free to (ask|adapt)|would you like)\b", re.IGNORECASE
    ),
    re.compile(r"^(note|explanation|original)( instruction)?\s*:", re.IGNORECASE),
    re.compile(r"\b(paraphras|rephras|reword)\w*(\s*\d|\s*:|.{0,30}\b(instruction|prompt|original)\b)", re.IGNORECASE),
    re.compile(r"\d (paraphras|rephras|reword)\w*", re.IGNORECASE),
    re.compile(r"\bi('ve| have)? (kept|preserved|rewritten|rewrote|tried|made sure|changed)\b", re.IGNORECASE),
)
_ADJECTIVES = (
    r"((original|actual|full|complete|exact|specific|necessary|relevant|following|input|source|given|whole) )*"
)
_THIS = rf"(the|your) {_ADJECTIVES}"
_ANY = rf"(an?|some|any) {_ADJECTIVES}"
_MORE = r"((some|any|a (bit|little)) )?(more|additional|further) (specific )?"
_INPUT = (
    r"(instructions?|prompts?|texts?|sentences?|passages?|paragraphs?|documents?|articles?|questions?|inputs?|contents?"
    r"|contexts?|details?|informations?|clarifications?|examples?|data|request|task)\b(?!['’])"
)
_WANTED = (
    r"[^.?!]*\b(you(['’]d| would)? (like|want|need|wish|mean|have in mind|refer)|(so|and)( that)? (i|we)\b"
    r"|for (me|us) to\b"
    r"|(to be|for) (re)?(paraphras|phras|word|analy[sz]|process|translat|classif|label|summari[sz])\w*)"
)
_ENDS = rf"( first| here| below| again)?([.?!:;,]|$|{_WANTED})"
_REFUSAL = (
    re.compile(r"\b(i['’]?m|i am|we['’]?re|we are) (very |so |truly )?sorry\b|^sorry\b", re.IGNORECASE),
    re.compile(r"\b(my apologies|i apologi[sz]e|i regret)\b", re.IGNORECASE),
    re.compile(r"\bas an? (ai|artificial intelligence|(large )?language model|assistant)\b", re.IGNORECASE),
    re.compile(
        r"\bi(['’]m| am)? (can['’]?t|cannot|can not|could not|couldn['’]t|won['’]t|will not|not able|unable)\b", re.I
    ),
    re.compile(r"^(could you (please )?clarify|i need more)\b", re.IGNORECASE),
    # requests for the input, not for an answer: "Please provide the text.", not "Please provide the text's topic."
    re.compile(
        r"^(please|could you( please)?|can you( please)?|kindly) provide (me with |us with )?"
        rf"({_THIS}{_INPUT}{_ENDS}|{_ANY}{_INPUT}{_WANTED}|{_MORE}{_INPUT}({_ENDS}|{_WANTED}))",
        re.IGNORECASE,
    ),
)


def _said(patterns: Sequence[re.Pattern[str]], instruction: str, candidate: str) -> str:
    """What the first pattern matches in the candidate; patterns that match the instruction too do not count."""
    for pattern in patterns:
        if (match := pattern.search(candidate)) and not pattern.search(instruction):
            return match[0]
    return ""


def _refusal(instruction: str, candidate: str) -> str:
    said = _said(_REFUSAL, instruction, candidate)
    return f"refusal: {said!r}" if said else ""


def _commands(text: str) -> bool:
    return not VERBS.isdisjoint(re.findall(r"[a-z]+", text.casefold()))


def _talk(instruction: str, candidate: str) -> str:
    said = _said(_TALK, instruction, candidate)
    colon = candidate.rstrip("* ").endswith(":") and not instruction.endswith(":")
    # a prompt may end in a colon, as in "Answer:"; talk has no command and no field
    if not said and colon and not (PLACEHOLDER.search(candidate) or _commands(candidate)):
        said = candidate[-20:]
    return f"talk: {said!r}" if said else ""


# ------------------------------------------------------------------------- what must be there word for word


def _placeholders(instruction: str, candidate: str) -> str:
    wanted, found = PLACEHOLDER.findall(instruction), PLACEHOLDER.findall(candidate)
    if problem := _difference("placeholders", Counter(wanted), Counter(found)):
        return problem
    return exchanged_fields(instruction, candidate, list(dict.fromkeys(wanted)))


def _difference(reason: str, wanted: Counter[str], found: Counter[str]) -> str:
    if wanted == found:
        return ""
    return f"{reason}: found {_listed(found)}; expected {_listed(wanted)}"


def _listed(items: Counter[str]) -> str:
    return ", ".join(sorted(items.elements())) or "none"


def _quotations(text: str) -> set[str]:
    found = {next(filter(None, match.groups())).strip().rstrip(".,;:") for match in QUOTED.finditer(text)}
    return {quoted for quoted in found if not PLACEHOLDER.fullmatch(quoted)}  # quotes around a field are optional


def _quoted(instruction: str, candidate: str) -> str:
    """Check that quoted strings stay, in any kind of quotes; new ones must occur in the instruction."""
    wanted, found = _quotations(instruction), _quotations(candidate)
    new = {text for text in found - wanted if text.casefold() not in instruction.casefold()}
    return _difference("quoted", Counter(wanted), Counter(wanted & found | new))


_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_UNITS.split())}
_NUMBER_WORDS |= {"twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100", "thousand": "1000"}
_NUMBER_WORDS |= {"twice": "2", "third": "3", "fourth": "4", "fifth": "5", "tenth": "10"}
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")


_DEFINITE = re.compile(r"\b(the|these|those|its|their|following|given|provided) (two|three|four)\b", re.IGNORECASE)
# numbers of items, and how many options are given
_NUMBERED = re.compile(
    r"^\s*\(?\d+[.)]\s|\b(sentence|text|question|passage|statement|paragraph) ?\d\b"
    r"|\b(two|three|four|five|[2-5]) (\w+ )?(options|choices|alternatives)\b",
    re.IGNORECASE | re.MULTILINE,
)
_PAIR = re.compile(r"\b(pair|pairs|couple|both|either|double)\b", re.IGNORECASE)


def _numbers(text: str) -> set[str]:
    digits = {re.sub(r",(?=\d{3}\b)", "", number) for number in _NUMBER.findall(text)}
    return digits | {_NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", text.casefold()) if word in _NUMBER_WORDS}


def _stated(text: str) -> set[str]:
    """Numbers that must stay: not "one", which is often a pronoun, and not "the two", which adds no information."""
    return _numbers(re.sub(r"\bone\b", " ", _DEFINITE.sub(" ", _NUMBERED.sub(" ", text)), flags=re.IGNORECASE))


def _implied(text: str) -> set[str]:
    return _numbers(text) | ({"2"} if _PAIR.search(text) else set())


def _number(instruction: str, candidate: str) -> str:
    """Check that both texts have the same numbers, in digits or words."""
    lost = _stated(instruction) - _implied(candidate)
    new = _stated(candidate) - _implied(instruction)
    parts = [f"lost {', '.join(sorted(lost))}"] * bool(lost) + [f"new {', '.join(sorted(new))}"] * bool(new)
    return f"numbers: {'; '.join(parts)}" if parts else ""


_KEY_VALUE = r"(?<![\w-])[\w-]+\s?:\s?[\w-]+"  # starts at a word, else the search is quadratic
_FORMAT = re.compile(
    rf"\b(?:as|form|format|like|pattern|style|schema|template|shape|exactly|with|in)\s(?P<a>{_KEY_VALUE})"
    rf"|(?P<b>{_KEY_VALUE})(?=[^.;\n]*;)|(?<=;)\s*(?P<c>{_KEY_VALUE})|(?P<d>(?<![\w-])[A-Za-z_-]+:[A-Za-z_-]+)\b",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\w+(?:[-/]\w+)*")
_LABEL = re.compile(r"[A-Z][A-Z\d]+(?:[-/][A-Z\d]+)*|[A-Z](?:-[A-Z\d]+)+|\w*[a-z\d]_\w+|[A-Z]+[a-z]*\d\w*")
_NAME = re.compile(r"(?<![.!?:;\"“'‘(\[\n*-]) (?P<name>[A-Z][a-z]+)\b")


def _formats(text: str) -> set[str]:
    """Patterns such as `label: class` outside of quotes, with uniform spacing."""
    found = (next(filter(None, match.groups())) for match in _FORMAT.finditer(QUOTED.sub(" ", text)))
    return {re.sub(r"\s*:\s*", ": ", pair.strip()) for pair in found}


def _format(instruction: str, candidate: str) -> str:
    """Check that patterns, labels in capitals and names stay; labels exactly, names in any case."""
    spelled = re.sub(r"\s*:\s*", ": ", squeezed(candidate))
    lost = {pair for pair in _formats(instruction) if pair not in spelled}
    plain = PLACEHOLDER.sub(".", QUOTED.sub(" ", instruction))  # text after a field begins a sentence
    words = re.findall(r"[^\W\d_]+", plain)
    if sum(word[0].isupper() for word in words) * 2 <= len(words):  # if most words have capitals, they mark no labels
        labels = {token for token in _TOKEN.findall(plain) if _LABEL.fullmatch(token)}
        lost |= {label for label in labels if label not in WORDS and label not in candidate}
        lost |= {name for name in _names(plain) if not _names_again(name, candidate)}
    return f"format: lost {', '.join(sorted(lost))}" if lost else ""


def _names(text: str) -> set[str]:
    return {match["name"] for match in _NAME.finditer(re.sub(r"[ \t]+", " ", text))} - {"I", "Please"}


def _names_again(name: str, candidate: str) -> bool:
    # "None" and "Yes" are labels in the middle of a sentence
    return name in candidate if name.lower() in WORDS else name.casefold() in candidate.casefold()


# -------------------------------------------------------------------------------------------------- negation

_ADDED = r"(comments?|explanations?|text|words?|more|additions?|remarks?)"
_IDIOMS = re.compile(
    r"\b((cannot|can['’]t|can not) be answered|always, sometimes,? or never|yes\b[^.?!\n]{0,12}\bno|no or yes"
    r"|whether or not|or not|no matter|nothing (else|but|more)|no one else|not only|if not|not necessarily"
    r"|no (more|fewer|less|later) than"
    # these restrict an answer like "only", which is not a negation
    rf"|(with no|without( any)?|and no|add no|(do not|don['’]t) add( any)?) ((further|other|additional) )?{_ADDED})\b"
)
_NEGATION = re.compile(
    r"\b(not|cannot|no|none|never|nothing|nobody|nowhere|neither|nor|without|avoid|refrain|omit|omitting|exclude"
    r"|excluding|ignore|ignoring|disregard|skip|leave out|leaving out|leave \w+ out|fail|lack|lacks|lacking|instead of"
    r"|rather than|stop|forbidden|prohibited|unless|except)\b|n['’]t\b"
)
# "with" is often added or dropped without a change of meaning, and "without" counts as a negation
_OPPOSITES = {word: other for pair in ANTONYMS if "with" not in pair for word, other in (pair, pair[::-1])}


_LAYOUT = {pair for one in (("above", "below"), ("following", "preceding")) for pair in (one, one[::-1])}


def _plain(text: str) -> str:
    """A text without fields, quoted labels, and idioms that look like a negation but are not."""
    text = PLACEHOLDER.sub(" ", QUOTED.sub(" ", text)).casefold()
    return re.sub(r"\bneither\b(.{0,200}?)\bnor\b", r"neither\1", _IDIOMS.sub(" ", text), flags=re.DOTALL)


def _negation(instruction: str, candidate: str) -> str:
    """Check that the number of reversals is even: negations in both texts, plus words replaced by opposites.

    "Do not include dates" and "Exclude dates" differ by two reversals (the *not*, and *exclude* for *include*),
    "Include dates" and "Exclude dates" by one.
    """
    texts = _plain(instruction), _plain(candidate)
    old, new = (set(re.findall(r"[^\W\d_]+", text)) for text in texts)
    swapped = {(word, other) for word, other in _OPPOSITES.items() if word in old - new and other in new - old}
    if PLACEHOLDER.search(instruction):  # fields show the layout, so these words may change
        swapped -= _LAYOUT
    gone = {word for pair in swapped for word in pair}
    turns = [[turn for turn in (match[0] for match in _NEGATION.finditer(text)) if turn not in gone] for text in texts]
    if (len(turns[0]) + len(turns[1]) + len(swapped)) % 2 == 0:
        return ""
    if swapped:
        return "negation: found " + ", ".join(f"{other!r} for {word!r}" for word, other in sorted(swapped))
    return f"negation: found {', '.join(turns[1]) or 'none'}; expected {', '.join(turns[0]) or 'none'}"


# --------------------------------------------------------------------------------------------------- answers

_ASKING = """
    add ask bring build calculate change collect compose compute correct count create describe discover
    discern do draw edit enumerate establish evaluate explore figure fix get go help highlight indicate insert keep
    let mention need offer outline pinpoint point produce propose recall replace report reorder request required
    scan share single sketch specify spot submit suggest supply take try turn underline uncover want work
    assess avoid consider ensure exclude hold ignore inspect leave omit put refrain study sum write
    reply resolve perform continue execute carry translate transform clarify apply employ utilize utilise recommend rate
    please task goal job aim objective your you me us must should
"""
_QUESTION = "is are does do did can could would will shall what which who whom whose where when why how"
_DIRECTING = VERBS | frozenset(_ASKING.split())
_OPENING = _DIRECTING | frozenset(_QUESTION.split())
_ANSWERED = re.compile(
    r"^(answer|output|result|response|solution)\s*:|^the (answer|result|output) (is|would)\b", re.IGNORECASE
)


def _directs(text: str) -> bool:
    """Whether a text asks for something: a question, a form to fill in, or a text with a verb of command."""
    words = re.findall(r"[a-z]+", text.casefold())
    if not words or "?" in text:
        return bool(words)
    if text.rstrip().endswith("}") or (PLACEHOLDER.search(text) and text.rstrip()[-1] not in ".!"):
        return True  # a form to fill in
    return words[0] in _OPENING or not _DIRECTING.isdisjoint(words)


def _answer(instruction: str, candidate: str) -> str:
    """Check that the candidate still asks for something; "Paris is the capital." is an answer instead."""
    if _ANSWERED.search(candidate) and not _ANSWERED.search(instruction):
        return f"answer: {candidate[:40]!r}"
    if _directs(instruction) and not _directs(candidate):
        return f"answer: {candidate[:40]!r} asks for nothing"
    return ""


_CHECKS: tuple[Callable[[str, str], str], ...] = (
    _refusal,
    _talk,
    _placeholders,
    _quoted,
    _number,
    _format,
    _negation,
    _answer,
    exchanged_answers,
    exchanged_sides,
)
