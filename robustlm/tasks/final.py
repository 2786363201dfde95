"""The final answer in what a model wrote: the part after its reasoning, and the places where answers are stated.

All rules are patterns on the text alone. None of them sees the true answer. `docs/evaluation.md` lists them.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

_REASONED = re.compile(
    r"</(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think)>|\[/THINK\]|◁/think▷"
    r"|<\|end_of_thought\|>|<\|END_THINKING\|>|<\|channel\|>final<\|message\|>|\[BEGIN FINAL RESPONSE\]",
    re.IGNORECASE,
)
"""Ends of reasoning: Qwen, DeepSeek, Seed, Magistral, Kimi, OpenThoughts, Command, gpt-oss, Apriel."""

_REASONING = re.compile(
    r"<(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|seed:think)>|\[THINK\]|◁think▷"
    r"|<\|begin_of_thought\|>|<\|START_THINKING\|>|<\|channel\|>(?:analysis|commentary)",
    re.IGNORECASE,
)
"""Beginnings of reasoning, of the same models."""

_BARE_CHANNELS = re.compile(r"analysis(?=[A-Z\W]).*?assistant(?:commentary.*?assistant)?final(.*)", re.DOTALL)
"""Channels of gpt-oss, if the special tokens between them are not part of the text."""

_SPECIAL = re.compile(
    r"<\|?(?:im_end|eot_id|end_of_text|endoftext|return|end|START_RESPONSE|END_RESPONSE|begin_of_solution"
    r"|end_of_solution)\|?>|<(?:end_of_turn|eos)>|</s>|\[END FINAL RESPONSE\]"
)
"""Special tokens that a server may leave in an answer."""

_TAGGED = re.compile(r"<(answer|final_answer|final|response|label)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}")
_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_HASHES = re.compile(r"^####[ \t]*(.+)$", re.MULTILINE)

_NOUNS = (
    "answer|label|class|category|classification|sentiment|polarity|rating|score|topic|verdict|prediction|conclusion"
    "|relationship|relation|judgment|judgement|option|choice|result|output|response|type"
)
_STATED = re.compile(
    rf"\b(?:{_NOUNS})\b[^.\n:=?]{{0,60}}?(?:\s(?:is|would be|should be|must be)\b\s*:?|\s*[:=])\s*(?P<said>[^\n]*)",
    re.IGNORECASE,
)
_FOREIGN = re.compile(
    r"(?:答案|分类|标签|类别|选择|回答|答え)\s*(?:应该|应当)?\s*(?:是|为|は)?\s*[:：]?\s*(?P<said>[^\n]+)"
    r"|\b(?:respuesta|resposta|risposta|réponse|antwort|ответ)\b[^.\n:=]{0,30}?"
    r"(?:\s(?:es|é|è|est|ist|lautet)\b\s*:?|\s*[:=—])\s*(?P<other>[^\n]*)",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"\banswer\b[^.\n:=?]{0,40}?(?:\s(?:is|would be)\b\s*:?|\s*:)\s*(?P<said>[^\n]*)", re.IGNORECASE)
_CONCLUDED = re.compile(r"\b(?:final|finally|therefore|thus|hence|so|correct|in conclusion|overall)\b", re.IGNORECASE)

_KEYS = (
    "final_answer", "answer", "label", "class", "category", "classification", "sentiment", "polarity", "prediction",
    "rating", "score", "topic", "relationship", "relation", "result", "output", "choice", "option", "response",
    "verdict",
)  # fmt: skip

_MOST_BOXES = 4
"""Boxes that are looked at, from the end."""
_LONGEST_LITERAL = 2_000
"""Characters of a text that is tried as a Python literal; its parser is slow."""
_LONGEST_LINE, _MOST_STATED = 1_000, 8
"""Characters at the end of a line in which answers are stated, and how many statements of a line are read."""
_LONGEST = 20_000
"""Characters at the end of an answer that are read; the rest would only cost time."""


def answered_part(text: str) -> str:
    r"""The text after the model's reasoning, without special tokens; empty if the reasoning did not end.

    Example:
        >>> answered_part("<think>Is it good? Yes.</think>\n\npositive<|im_end|>"), answered_part("<think>Well, the")
        ('positive', '')
    """
    if bare := _BARE_CHANNELS.match(text):
        text = bare[1]
    ends = [match.end() for match in _REASONED.finditer(text)]
    text = text[ends[-1] :] if ends else text
    if opened := _REASONING.search(text):
        text = text[: opened.start()]
    return _SPECIAL.sub("", text).strip()[-_LONGEST:]


def marked(text: str) -> str | None:
    r"""The last answer that is marked as such: in tags (`<answer>`), in a box, or after `####`; null: none is.

    Example:
        >>> marked(r"So we get $\boxed{\text{positive}}$."), marked("3 + 4 = 7\n#### 7"), marked("positive")
        ('positive', '7', None)
    """
    if tagged := _TAGGED.findall(text):
        return str(tagged[-1][1]).strip()
    for start in reversed([match.end() for match in _BOXED.finditer(text)][-_MOST_BOXES:]):
        if (inside := _closed(text, start)) is not None:
            return _TEX.sub(r"\1", inside).strip()
    hashes: list[str] = _HASHES.findall(text)
    return hashes[-1].strip() if len(hashes) == 1 else None


def _closed(text: str, start: int) -> str | None:
    """The text up to the brace that closes the one before `start`."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start:at]
    return None


def structured(text: str) -> list[object]:
    """JSON values (or Python literals) that make up an answer: the whole of it, its code block, or its lines.

    Example:
        >>> structured('{"label": "good"}'), structured("['a', 'b']"), structured("good")
        ([{'label': 'good'}], [['a', 'b']], [])
    """
    blocks = [block.strip() for block in _FENCED.findall(text)]
    for whole in (text.strip(), *blocks):
        if (value := _value(whole)) is not None:
            return [value]
        lines = [_value(line.strip().rstrip(",")) for line in whole.splitlines() if line.strip()]
        if len(lines) > 1 and all(value is not None for value in lines):
            return lines
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    end = max(text.rfind("}"), text.rfind("]"))
    value = _value(text[start : end + 1]) if 0 <= start < end else None
    return [] if value is None else [value]


def _value(text: str) -> object | None:
    """A list or an object in JSON or as a Python literal; null for anything else."""
    if not (text.startswith(("{", "[")) and text.endswith(("}", "]"))):
        return None
    for read in (json.loads, ast.literal_eval)[: 1 if len(text) > _LONGEST_LITERAL else 2]:
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return value if isinstance(value, list | dict) else None
    return None


def keyed(text: str) -> str | None:
    """The answer in a JSON value: under one of the usual keys, or the only text in it; null: there is none."""
    values = structured(text)
    value = values[0] if len(values) == 1 else None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        known = {str(key).casefold().replace(" ", "_").replace("-", "_"): one for key, one in value.items()}
        value = next((known[key] for key in _KEYS if key in known), None)
        if value is None and len(known) == 1:
            value = next(iter(known.values()))
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def stated(text: str) -> Iterator[tuple[str, bool]]:
    """What follows `the answer is`, `Label:` and the like, and whether it is said to conclude (`Therefore, …`)."""
    for line in text.splitlines():
        rest = line[-_LONGEST_LINE:]
        for _ in range(_MOST_STATED):
            if (found := _STATED.search(rest) or _FOREIGN.search(rest)) is None:
                break
            said = found["said"] or found.groupdict().get("other") or ""
            before = rest[: found.start()].rpartition(". ")[2]
            yield said.strip(), bool(_CONCLUDED.search(before))
            rest = said


def stated_answer(text: str) -> str | None:
    """What follows the last `the answer is` or `Answer:` in free text, to the end of its line; null: nothing does."""
    found = [match["said"].strip() for match in _ANSWER.finditer(text)]
    return re.sub(r"\*\*|`", "", found[-1]).strip() or None if found else None


_WRAPPED = (("**", "**"), ("__", "__"), ("*", "*"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"),
            ("«", "»"), ("„", "“"), ("$", "$"), ("[", "]"), ("(", ")"))  # fmt: skip
_BEFORE = re.compile(r"\A(?:[#>\s]+|[-*•–]\s+)+")
_AFTER = re.compile(r"[\s.!,;:。！，；：\U0001F000-\U0001FAFF\u2600-\u27bf\ufe0f]+\Z")


def bare(text: str) -> str:
    """A text without quotes, Markdown and brackets around it, and without punctuation after it.

    Example:
        >>> bare("**Positive**."), bare("- `not_entailment`"), bare('## "Oslo"')
        ('Positive', 'not_entailment', 'Oslo')
    """
    while True:
        inner = _AFTER.sub("", _BEFORE.sub("", text.strip()))
        for left, right in _WRAPPED:
            if inner.startswith(left) and inner.endswith(right) and len(inner) > len(left) + len(right):
                middle = inner[len(left) : -len(right)]
                if left not in middle and right not in middle:
                    inner = middle
                    break
        if inner == text:
            return inner
        text = inner
