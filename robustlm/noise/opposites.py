"""Rules of the noise kind `opposite`: words of instructions, and phrases that reverse their meaning.

Each rule maps a word to phrases that negate it, contradict it or make it ambiguous. A phrase costs
the number of words it touches: replaced, inserted and removed words count one each, so the sum of all costs is an upper
bound of the word-level edit distance to the original.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import Levenshtein

PUNCTUATION = "\"'`.,;:!?()[]{}<>*_-"
"""Stripped from both ends of a word before it is looked up, and put back afterwards."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase that replaces a word or is appended."""

    text: str
    """One or more words."""
    cost: int
    """Words touched if the replaced word has no punctuation around it (see `cost`)."""


_Rules = dict[str, tuple[Phrase, ...]]


def _rules(word: str, *texts: str) -> _Rules:
    """Rules for a word in three spellings; a text that keeps the word costs one word less."""
    rules = {}
    for spell in (str, str.capitalize, str.upper):
        spelled = [spell(text) for text in texts]
        costs = [len(text.split()) - (spell(word) in text.split()) for text in spelled]
        rules[spell(word)] = tuple(map(Phrase, spelled, costs))
    return rules


_PAIRS = """
    absent:present after:before agree:disagree always:never best:worst both:neither brief:lengthy
    clear:unclear concise:verbose consider:ignore contain:lack containing:lacking contains:lacks
    correct:incorrect correctly:incorrectly detailed:vague exclude:include excluded:included
    excluding:including false:true first:last good:bad inside:outside invalid:valid irrelevant:relevant
    keep:omit known:unknown least:most less:more long:short explicit:implicit explicitly:implicitly
    following:preceding above:below mentioned:unmentioned negative:positive possible:impossible
    related:unrelated right:wrong same:different supports:contradicts together:apart with:without
    acceptable:unacceptable available:unavailable everything:nothing proper:improper
    accept:reject add:remove allowed:forbidden beginning:end full:partial increase:decrease
    necessary:unnecessary original:altered accurate:inaccurate accurately:inaccurately
"""

ANTONYMS = tuple((pair.partition(":")[0], pair.partition(":")[2]) for pair in _PAIRS.split())
"""Pairs of words in lower case, each the opposite of the other."""

_ONE_WAY: dict[str, tuple[str, ...]] = {
    # how many
    "all": ("no", "hardly any"),
    "each": ("no", "some other"),
    "every": ("no", "not every"),
    "any": ("no", "hardly any"),
    "no": ("some", "any"),
    "none": ("all", "some"),
    "one": ("none", "several"),
    "single": ("different",),
    "only": ("also", "not only"),
    "exactly": ("roughly", "not exactly"),
    "similar": ("different",),
    "yes": ("no", "maybe"),
    # what is given
    "given": ("missing", "not given"),
    "appropriate": ("inappropriate", "arbitrary"),
    "specific": ("vague", "arbitrary"),
    # modals and auxiliaries
    "must": ("must not", "need not", "might"),
    "should": ("should not", "might"),
    "can": ("cannot",),
    "cannot": ("can",),
    "may": ("may not",),
    "will": ("will not", "might"),
    "is": ("is not", "may be"),
    "are": ("are not", "may be"),
    "was": ("was not",),
    "were": ("were not",),
    "does": ("does not",),
    "did": ("did not",),
    "would": ("would not", "might"),
    "could": ("could not",),
    "which": ("whichever", "no matter which"),
    "whether": ("why", "as if"),
    "has": ("lacks",),
    "have": ("lack",),
    "not": ("indeed", "not always"),
    "don't": ("do", "maybe don't"),
    "and": ("or",),
    "or": ("and", "and not"),
}

_VERBS = """
    analyse analyze annotate answer assign categorise categorize check choose classify combine compare
    complete convert copy decide define describe detect determine divide examine explain express extract
    file fill find follow format generate give group identify infer judge label list locate look make mark
    match name note output pick predict print provide put rank rate read recognise recognize report respond
    return review rewrite say search select separate settle show solve sort spell state summarise summarize
    tag tell think translate treat use write
"""

VERBS = frozenset(_VERBS.split())
"""Verbs that instructions use as commands, in lower case."""


def _word_rules() -> _Rules:
    texts: dict[str, tuple[str, ...]] = dict(_ONE_WAY)
    for left, right in ANTONYMS:
        texts[left] = (*texts.get(left, ()), right)
        texts[right] = (*texts.get(right, ()), left)
    return _merged(_rules(word, *others) for word, others in texts.items())


def _verb_rules(*before: str) -> _Rules:
    return _merged(_rules(verb, *(f"{words} {verb}" for words in before)) for verb in _VERBS.split())


def _merged(rules: Iterable[_Rules]) -> _Rules:
    return {word: phrases for some in rules for word, phrases in some.items()}


WORDS = _word_rules()
"""Rules that apply to a word at any place."""
COMMANDS = _verb_rules("do not", "never", "perhaps")
"""Rules that apply to a verb at the start of a clause; elsewhere many of these verbs are nouns ("the label")."""
INFINITIVES = _verb_rules("not", "never", "perhaps")
"""Rules that apply to a verb after "to"."""
_KNOWN = frozenset(WORDS) | frozenset(COMMANDS)
CLAUSE_OPENERS = frozenset({"please", "and", "then", "now", "first,", "kindly", "you"})
"""Words that a command may follow, as it follows the end of a sentence."""
CONTRADICTIONS = tuple(
    Phrase(text, len(text.split()))
    for text in (
        "Conversely.",
        "Unless?",
        "Or not.",
        "Perhaps otherwise.",
        "Or rather don't.",
        "Ignore this sentence.",
        "Then do the opposite.",
        "Or leave it undone.",
        "On reflection, do not bother.",
        "Anything else would be better.",
        "Whatever was just said is mistaken.",
        "Answer only what was not asked.",
    )
)
"""Appended if no rule applies, or to use up the rest of the budget."""


def edits(words: list[str]) -> list[tuple[int, tuple[Phrase, ...]]]:
    """Find the words that a rule applies to.

    Args:
        words: Of the instruction, as `robustlm.utils.words.split_words` gives them.

    Returns:
        Position and admissible phrases of each, in order.
    """
    found = []
    for position in [place for place, word in enumerate(words) if word.strip(PUNCTUATION) in _KNOWN]:
        core = words[position].strip(PUNCTUATION)
        phrases = WORDS.get(core) or _command(core, words[position - 1] if position else ".")
        if phrases:
            found.append((position, phrases))
    return found


def _command(verb: str, before: str) -> tuple[Phrase, ...] | None:
    before = before.lower()
    if before == "to":
        return INFINITIVES[verb]
    if before[-1] in ".!?:;" or before in CLAUSE_OPENERS:
        return COMMANDS[verb]
    return None


def replace_core(word: str, text: str) -> str:
    """Put `text` in the place of `word`, keeping the punctuation around it."""
    prefix, _, suffix = word.partition(word.strip(PUNCTUATION))
    return prefix + text + suffix


def cost(word: str, phrase: Phrase) -> int:
    """How many words a phrase touches when it replaces a word with its punctuation.

    "is" → "is not" touches one word, "is." → "is not." two, because "is." loses its full stop.
    """
    if word == word.strip(PUNCTUATION):
        return phrase.cost
    return Levenshtein.distance([word], replace_core(word, phrase.text).split())
