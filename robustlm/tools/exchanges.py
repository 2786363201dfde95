"""Detect what a paraphrase of an instruction has exchanged: fields, answers, or the sides of a relation.

A wording often tells the role of a field: a question, its answer, or what follows from what. Patterns of English find
these roles. Two fields are exchanged if the two wordings give the same role to different fields. If no role is found,
fields have to keep their order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

from robustlm.instructions.slots import OPTIONS

PLACEHOLDER = re.compile(r"\{[^{}\s]*\}")
"""A field of the sample, as a template shows it."""
QUOTED = re.compile(
    r"```(?P<a>.+?)```|`(?P<b>[^`\n]+)`|\"(?P<c>[^\"\n]+)\"|“(?P<d>[^”\n]+)”|«(?P<e>[^»\n]+)»"
    r"|(?<!\w)['‘](?P<f>[^'’\n]+(?:['’]\w[^'’\n]*)*)['’](?!\w)",
    re.DOTALL,
)
"""A string in quotes of any kind."""

# ------------------------------------------------------------------------------------------------------ fields


def exchanged_fields(instruction: str, candidate: str, names: Sequence[str]) -> str:
    """Find fields that have exchanged their roles.

    Args:
        instruction: The instruction.
        candidate: A wording with the same placeholders.
        names: These placeholders, each once, with their braces.

    Returns:
        A message that says what was found; empty if the fields keep their roles.
    """
    if len(names) < 2:
        return ""
    texts = _unquoted(instruction), _unquoted(candidate)
    if (wrong := _mislabelled(texts[1], names)) and not _mislabelled(texts[0], names):
        return f"placeholders: found {wrong}; expected each after its own name"
    same_words = _placed(instruction) == _placed(candidate)
    alone = sum(map(_is_content, names)) == 2
    roles = [_roles(text, names) for text in texts]
    for pair in combinations(names, 2):
        old, new = ({} if not all(map(_is_content, pair)) else _of_pair(each, pair, alone) for each in roles)
        expected = _of_pair(_named(pair), pair, alone) | old
        for role, name in new.items():
            if name != expected.get(role, name):
                return f"placeholders: found {name} as {role}; expected {expected[role]}"
        if same_words or new.keys() & expected.keys() or all(_symmetric(text, pair) for text in texts):
            continue
        if min(pair, key=instruction.index) != min(pair, key=candidate.index):
            return f"placeholders: found {pair[0]} and {pair[1]} exchanged, or in another order"
        if _FROM in old and _bare(texts[1], pair):
            return f"placeholders: found nothing that tells {pair[0]} from {pair[1]}; expected {old[_FROM]} as {_FROM}"
    return ""


def _is_content(name: str) -> bool:
    """Whether a field is not the list of answer options, which has no role."""
    return not name.startswith("{options")


_ASKED, _QUESTION, _ANSWER = "what is asked about", "the question", "the answer"
_FROM, _TO = "what the other follows from", "what follows"
_REFERS, _REFERENT = "what refers", "what the other refers to"
_NOUN = "a noun"
_PAIRS = ((_QUESTION, _ANSWER), (_FROM, _TO), (_REFERS, _REFERENT))
_OPPOSITES = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}

_POINTER = (
    r"(?: (?:that|it|is|it's|true|the|this|these|following|above|next|text|sentence|statement|passage|paragraph|context"
    r"|in|fact|below))*:?"
)
_SOURCE = r"(?:passage|paragraph|text|article|context|sentence|statement|document)"
_HOLDS = (
    r"(?:true|correct(?! (?:answer|response|option))|accurate|valid(?! answer)|holds?|follows?|implied|entailed"
    r"|inferred|supported|concluded)"
)
_AUXILIARY = r"(?:is|are|does|do|can|could|whether|be|must)"
_CONCLUDE = r"(?:conclude[sd]?|conclusion|infer(?:red|s)?|deduced?|follows?|means?|impl(?:y|ies)|entails?|now say)"
# no other field may follow directly, because the pattern could mean either of the two
_ALONE = rf"(?!\s*\n\s*\{{(?!{OPTIONS}\}}))"
_TOLD = {  # @ stands for the field
    _QUESTION: (
        r"\b(?:question|q)(?: of| is| was)?:? @",
        r"\banswers? (?:to|for)(?: the question)?:? @",
        r"\banswer(?:s|ing)? (?:this|the following)[,:]? @",
        r"\bhow (?:would|do|can|should|could) \w+ answer(?: this)?:? @",
        r"(?:^|[\n,.;:]) ?@ ?\?",
    ),
    _ANSWER: (
        r"\banswer(?: is| was)?: @",
        r"\b(?:this|the|my|an) answer @",
        rf"\b{_AUXILIARY}(?: the \w+)? @ (?:\w+ ){{0,4}}?answers?\b",
        r"\bsay (?:that )?@(?=[.,\n])",
        r"\b(?:think|believe|guess|find) (?:that )?@ (?:is|to be|as) (?:\w+ ){0,3}answer\b",
    ),
    _FROM: (
        rf"\b(?:if|given|assuming|suppos(?:e|ing)|because|since|let's say|knowing|from){_POINTER} @",
        rf"(?<!\bwe )(?<!\byou )(?<!\bi )\b(?:assume|take){_POINTER}(?: as (?:true|truth|given):?)? @",
        rf"\b(?:based(?: only| solely)? on|according to|rely(?:ing)? on){_POINTER} @{_ALONE}",
        r"\bfact(?: that)?:? @",
        r"(?:^|[\n.?!]) ?@ is (?:a )?(?:true|correct)(?: sentence| statement)?[.,]",
        rf"\A\W*@\s*\n[^{{}}]*\b(?:(?:previous|preceding|above|that) {_SOURCE}|{_SOURCE} above)\b",
        r"@,? (?:necessarily |logically )?(?:imply|implies|entails?|means? that|supports?|proves?|guarantees?)\b",
    ),
    _TO: (
        rf"\b(?:therefore|then|thus),?{_POINTER} @",
        rf"\b{_CONCLUDE}{_POINTER} @",
        r"\b(?:can|should|are|may|is it)\b[^.?!\n{}]{0,80} (?:say|saying|assume|true|correct|believe) that @",
        rf"\b{_AUXILIARY}{_POINTER} @ (?:[\w-]+ ){{0,4}}?{_HOLDS}\b",
        r"\b(?:draw|infer|derive)(?: the)?(?: following)? @",
        rf"\b(?:draw|infer|conclude|deduce) (?:this|the (?:next|following))(?: \w+)?[?:]\s*@{_ALONE}",
        r"\b(?:this|the)(?: next| following)? (?:sentence|statement|conclusion|claim)\b"
        rf"[^.?!:\n{{}}]{{0,80}}\b(?:true|correct|follows?)\b[^.?!:\n{{}}]{{0,80}}[?:]\s*@{_ALONE}",
    ),
    _REFERS: (r"\b(?:pronoun|abbreviation|acronym) @", r"@ (?:\w+ )?(?:refers?|referring|stands?)\b"),
    _REFERENT: (r"\b(?:refers?|referring|stands?|short) (?:to|for) @",),
    _NOUN: (r"\b(?:the|an?|its|their|which)(?: (?:most|likely|possible|plausible|probable))* @",),
}
_PATTERNS = [
    (role, re.compile(text.replace("@", r"(?P<field>\{[^{}\s]*\})"), re.IGNORECASE))
    for role, texts in _TOLD.items()
    for text in texts
]
_NAMES = {
    _QUESTION: {"question", "query"},
    _ANSWER: {"answer", "response"},
    _FROM: {"premise", "evidence", "context", "passage", "paragraph", "article", "document", "text", "fact"},
    _TO: {"hypothesis", "claim", "conclusion"},
}
_WHETHER = re.compile(
    r"\b(determine|decide|tell( me| us)?|say|see|check|verify|judge|assess|evaluate|identify|know|ask|wonder) if\b",
    re.IGNORECASE,
)


def _roles(text: str, names: Sequence[str]) -> dict[str, set[str]]:
    """For each role, the fields that have it in a text."""
    plain = _WHETHER.sub("whether", _unlabelled(text))
    found = {_ASKED: {name for name in names if _asked(text, name)}}
    for role, pattern in _PATTERNS:
        found.setdefault(role, set()).update(match["field"] for match in pattern.finditer(plain))
    return found


def _named(pair: tuple[str, str]) -> dict[str, set[str]]:
    """For each role, the fields of a pair whose names indicate it."""
    return {role: {name for name in pair if name.strip("{}").casefold() in words} for role, words in _NAMES.items()}


def _of_pair(roles: dict[str, set[str]], pair: tuple[str, str], alone: bool) -> dict[str, str]:
    """The roles that exactly one field of a pair has.

    If there are no other fields (`alone`), the other field gets the opposite role.
    """
    members = {role: fields & set(pair) for role, fields in roles.items()}
    found = {role: next(iter(fields)) for role, fields in members.items() if len(fields) == 1}
    for role, name in list(found.items()):
        if alone and role in _OPPOSITES and not members.get(_OPPOSITES[role]):
            found[_OPPOSITES[role]] = pair[pair[0] == name]
    return found


_INDIRECT = re.compile(
    r"\b(?:tell( me| us)?|say|determine|decide|identify) (?:who|whom|what|which|where|when)\b[^.?!\n]{0,80}$",
    re.IGNORECASE,
)


def _asked(text: str, name: str) -> bool:
    """Whether a field is part of a question: before a question mark on its line, or in "tell me who … is"."""
    for found in re.finditer(re.escape(name), text):
        before = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
        if re.match(r"[^.?!\n]*\?", text[found.end() :]) or _INDIRECT.search(before[-120:]):
            return True
    return False


# in "answer this question based on the passage: …", the question follows the colon, and not the passage
_OBJECT = re.compile(
    r"\b(answer\w* (?:this|the)(?: following)? question)\b(?! about)[^.?!:\n{}]{0,80}(?=: \{)", re.IGNORECASE
)


def _unquoted(text: str) -> str:
    """Remove quotes around fields, and move what follows a colon to the colon's line."""
    text = re.sub(r"[\"'“”‘’«»`]*(\{[^{}\s]*\})[\"'“”‘’«»`]*", r"\1", text)
    return _OBJECT.sub(r"\1", re.sub(r"[ \t]+", " ", re.sub(r":\s+", ": ", text)))


_LABEL = re.compile(
    r"(?:^|[\n.?!(]) ?(?:(?:the|and the) )?(?P<label>[A-Za-z]+(?: ?\d| [A-Z])?): ?(?P<field>\{[^{}\s]*\})"
)


def _unlabelled(text: str) -> str:
    """Replace labels by their fields: "Sentence 1: {a} … is sentence 1 true?" asks whether {a} is true."""
    labels = {match["label"]: match["field"] for match in _LABEL.finditer(text)}
    for label, field in labels.items():
        the = "(?:the |this |that )?" if re.search(r"\d| ", label) else "(?:the|this|that) "
        pieces = re.split(rf"\b{the}{re.escape(label)}\b(?! ?:)", text, flags=re.IGNORECASE)
        text = field.join(pieces)
    return text


def _bare(text: str, pair: tuple[str, str]) -> bool:
    """Whether two fields are on consecutive lines without a word between them."""
    one, other = map(re.escape, pair)
    return bool(re.search(rf"(?:^|:) ?(?:{one}\s*\n\s*{other}|{other}\s*\n\s*{one}) ?$", text, re.MULTILINE))


_SAME = r"(?:the same|similar|alike|equivalent|identical)\b"


def _symmetric(text: str, pair: tuple[str, str]) -> bool:
    """Whether a text asks if two fields are the same; exchanging them does not change this question."""
    one, other = map(re.escape, pair)
    field = rf"(?:{one}|{other})"
    both = rf"{field} and {field}[^.?!\n{{}}]*\b{_SAME}|{field} {_SAME} (?:as|to|with) {field}"
    return re.search(rf"{both}|\b{_SAME}[^.?!\n{{}}]{{0,80}} in {field} and {field}", text) is not None


def _mislabelled(text: str, names: Sequence[str]) -> str:
    """Find a field that directly follows the name of another field; empty if there is none."""
    words = {name: _words(name) for name in names}
    for name, before in _labelled(text):
        owners = [other for other in names if before in words[other]]
        if len(owners) == 1 and owners != [name]:
            return f"{before} {name}"
    return ""


def _words(name: str) -> set[str]:
    """Words that can name a field: {document_title} is a title, {sentence1} is sentence 1."""
    bare = name.strip("{}").casefold()
    return {bare, *(part for part in re.split(r"[_\d]+", bare) if len(part) > 1)}


_BEFORE = re.compile(r"([^\W_]+)(?:[^\w{}\n,:]*|[^\w{}\n]*:[^\w{}]*)\Z")


def _labelled(text: str) -> list[tuple[str, str]]:
    """Each placeholder that follows a word on its line, or a word and a colon, with that word."""
    found = []
    for match in PLACEHOLDER.finditer(text):
        if before := _BEFORE.search(text, max(0, match.start() - 40), match.start()):
            found.append((match[0], before[1].casefold()))
    return found


def _placed(text: str) -> dict[str, str] | str:
    """The word before each placeholder; the text itself if a placeholder has none or two have the same."""
    found = dict(_labelled(text))
    names = PLACEHOLDER.findall(text)
    complete = len(found) == len(names) == len(set(found.values()))
    return found if complete else text


# ----------------------------------------------------------------------------------- answers and sides

_ANSWER_WORD = re.compile(
    r"\b(yes|no(?! \w+ (is|are|was))|true|false|positive|negative|entailment|not_entailment|contradiction|neutral)\b",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"\b(if|when|whenever|where|otherwise|else|unless|in case|means?|stands for)\b|[=→]", re.IGNORECASE
)


def exchanged_answers(instruction: str, candidate: str) -> str:
    """Check that answers with conditions keep their order: "yes if so, no otherwise", not "no if so, yes otherwise"."""
    if not (_CONDITION.search(instruction) or _CONDITION.search(candidate)):
        return ""  # "yes or no" and "no or yes" ask for the same
    orders = [_answer_order(instruction), _answer_order(candidate)]
    common = set(orders[0]) & set(orders[1])
    old, new = ([one for one in order if one in common] for order in orders)
    return "" if old == new else f"exchanged: found the answers {', '.join(new)}; expected {', '.join(old)}"


def _answer_order(text: str) -> list[str]:
    """Distinct quoted strings and answer words, in order of first occurrence."""
    found = [(match.start(), next(filter(None, match.groups()))) for match in QUOTED.finditer(text)]
    found += [(match.start(), match[0]) for match in _ANSWER_WORD.finditer(text)]
    return list(dict.fromkeys(word.strip(" .,;:").casefold() for _, word in sorted(found) if "{" not in word))


_RELATION = re.compile(
    r"\b(entail|impl(y|ie)|infer|deduc|conclu|follows?\b|support|contradict|deriv|justif|prove|guarante|refut|caus|true|correct)"
    r"",
    re.IGNORECASE,
)
_INVERSE = re.compile(
    r"\b(entailed|implied|inferred|deduced|concluded|supported|derived|drawn|justified|proven|proved|guaranteed|refuted|caused"
    r"|contradicted|follows?|following|true|correct|evident|valid|hold|holds)\b[^.?!{]{0,40}?\b(by|from|given|based|according|in)\b",
    re.IGNORECASE,
)
_FIELD_LABEL = re.compile(r"\b\w+ ?\d?:")
_IF = re.compile(r"\b(if|because|since|assuming|given)\b", re.IGNORECASE)
_SIDES = (
    ("premise", "hypothesis"),
    ("first", "second"),
    ("sentence1", "sentence2"),
    ("sentence 1", "sentence 2"),
    ("question", "answer"),
    ("paragraph", "hypothesis"),
    ("text", "hypothesis"),
    ("premise", "statement"),
    ("premise", "conclusion"),
    ("context", "claim"),
    ("evidence", "claim"),
    ("passage", "claim"),
    ("cause", "effect"),
)


def exchanged_sides(instruction: str, candidate: str) -> str:
    """Check that a relation keeps its direction: "A entails B" may become "B follows from A", not "B entails A"."""
    if not (_RELATION.search(instruction) and _RELATION.search(candidate)):
        return ""
    for pair in _SIDES:
        old, new = _source(instruction, pair), _source(candidate, pair)
        if old and new and old != new:
            return f"exchanged: found {new!r} as what the other follows from; expected {old!r}"
    return ""


def _source(text: str, pair: tuple[str, str]) -> str:
    """The side that the other follows from; empty if the text lacks one of the two."""
    words = _FIELD_LABEL.sub(" ", PLACEHOLDER.sub(" ", text)).casefold()  # `exchanged_fields` checks fields
    sides = [re.escape(side.casefold()) for side in pair]
    places = [match.start() if (match := re.search(rf"(?<![^\W_]){side}(?![^\W_])", words)) else -1 for side in sides]
    if min(places) < 0:
        return ""
    first = places[1] < places[0]
    between = words[min(places) : max(places)]
    return pair[first ^ bool(_INVERSE.search(between + " ") or _IF.search(between))]
