"""Changes of a prompt that should not matter: order and marks of options, layout, order of examples.

After FormatSpread (Sclar et al. 2024, arXiv 2310.11324), which changes separators, casing and enumerators, and studies
of the order of options and examples (Zheng et al. 2024, arXiv 2309.03882; Lu et al. 2022, arXiv 2104.08786). A change
is a factor with a level, written `factor:level` in a condition.
"""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from robustlm.conditions import factors
from robustlm.conditions.condition import Condition
from robustlm.conditions.factors import BULLETS, CASINGS, COLONS, LAYOUT, MARK, SEPARATORS, SHOTS
from robustlm.instructions.banks import LackingError
from robustlm.instructions.slots import OPTIONS, is_slotted, option_lines
from robustlm.prompts.base import HEADS, PARTS
from robustlm.sample import Sample
from robustlm.tasks import TASKS
from robustlm.tasks.labels import quoted, unquoted
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)

_LETTERED = re.compile(r"\(([A-Z])\) ")
_PLACES = re.compile(
    r"\b(?:(?:all|none|both|neither|either|any|two|one) of (?:these|those|the (?:other|option|choice|answer|follow)\w*)"
    r"|above|(?-i:[Oo](?:nly|ptions?) \(?[A-D]\)?)|(?-i:[A-D]\)? only))\b|\b[A-D]\)? (?:and|or|nor) \(?[A-D]\b",
    re.IGNORECASE,
)
"""Options that name other options, such as "all of the above": in another order they mean something else."""
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x")
_INPUT = "input__"
"""Prefix of the placeholders that this module adds for parts of the input."""


def resurfaced(samples: Sequence[Sample], condition: Condition, seed: int) -> list[Sample]:
    """Change samples as a condition says. They must already have their instructions.

    Samples that a factor does not fit stay as they are, and a warning counts them.

    Args:
        samples: The samples as they are asked.
        condition: The condition.
        seed: Seed of random orders, which also depend on the sample's id, and of nothing else.

    Raises:
        LackingError: A factor fits no sample.
    """
    found = list(samples)
    layout = {factor: level for factor, level in condition.surface if factor in LAYOUT}
    changes = [((factor, level),) for factor, level in condition.surface if factor not in LAYOUT]
    for change in [*changes, *([tuple(layout.items())] if layout else [])]:
        reasons: dict[str, int] = {}
        for at, sample in enumerate(found):
            try:
                found[at] = _changed(sample, dict(change), seed)
            except _UnfitError as error:
                reasons[str(error)] = reasons.get(str(error), 0) + 1
        if not reasons:
            continue
        said = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
        name = "+".join(f"{factor}:{level}" for factor, level in change)
        if sum(reasons.values()) == len(found):
            reason = f"{name} applies to no row ({said})"
            raise LackingError(f"data.conditions: {condition.name!r}: {reason}; leave the condition out", reason)
        log.warning(
            "data.conditions: %s: %s does not change %d of %d prompts (%s)",
            condition.name, name, sum(reasons.values()), len(found), said,
        )  # fmt: skip
    return found


class _UnfitError(ValueError):
    """A factor does not fit a sample; the message is the reason."""


def _changed(sample: Sample, change: Mapping[str, str], seed: int) -> Sample:
    (factor, level), *_ = change.items()
    if factor in LAYOUT:
        return _laid_out(sample, change)
    if factor == SHOTS:
        if len(sample.examples) < 2:
            raise _UnfitError("fewer than two examples")
        # one order for all rows that show the same examples
        order = sorted(sample.examples, key=lambda one: drawn(seed, "order of examples", level, one.id))
        return replace(sample, examples=tuple(order))
    changed = _with_options(sample, factor, level, seed)
    return replace(changed, examples=tuple(_with_options(one, factor, level, seed) for one in sample.examples))


# ------------------------------------------------------------------------------------------ options


@dataclass(frozen=True, slots=True)
class _Shown:
    """The options that a prompt shows."""

    texts: tuple[str, ...]
    """Their texts, in order."""
    lettered: bool
    """Whether the context shows them after letters."""
    answers: bool
    """Whether the answer is the mark of an option (`B`), and not its text."""


def _shown(sample: Sample) -> _Shown:
    """The options of a sample, if it is certain what they are.

    Raises:
        _UnfitError: They are not.
    """
    option, choices = sample.context.option, sample.choices
    pieces = _LETTERED.split(option)
    letters, texts = pieces[1::2], tuple(piece.strip() for piece in pieces[2::2])
    lettered = len(letters) > 1 and not pieces[0].strip() and "".join(letters) == string.ascii_uppercase[: len(letters)]
    if lettered and choices == texts:
        return _Shown(texts, lettered=True, answers=False)
    if lettered and tuple(letters) == choices:
        return _Shown(texts, lettered=True, answers=True)
    names = tuple(_bare(choice, sample.task) for choice in choices) or _listed(option, sample.task)
    if names and option == ", ".join(map(quoted, names)):
        return _Shown(names, lettered=False, answers=False)
    if (
        choices
        and is_slotted(sample.instruction, {OPTIONS})
        and dict(sample.fields).get(OPTIONS) == option_lines(choices)
    ):
        return _Shown(choices, lettered=False, answers=False)
    raise _UnfitError("no options that are shown apart from the text" if not option else "options of another form")


def _listed(option: str, task: str) -> tuple[str, ...]:
    """The labels in the option of a task whose answers are several items."""
    if task not in TASKS or not TASKS[task].labelled or "," not in option:
        return ()
    return tuple(unquoted(text) for text in re.findall(r'"(?:[^"]|"")*"|[^\s,"][^,"]*', option))


def _bare(choice: str, task: str) -> str:
    """The label in an admissible answer (`label: good`)."""
    items = TASKS[task].parse(choice).items if task in TASKS and TASKS[task].labelled else ()
    return unquoted(items[0][0]) if len(items) == 1 and len(items[0]) == 1 else choice


def _with_options(sample: Sample, factor: str, level: str, seed: int) -> Sample:
    shown = _shown(sample)
    if sample.instruction and is_slotted(sample.instruction, dict(sample.fields)) and not _has_option_slot(sample):
        raise _UnfitError("the instruction shows no list of options")
    return _reordered(sample, shown, level, seed) if factor == factors.OPTIONS[0] else _marked(sample, shown, level)


def _has_option_slot(sample: Sample) -> bool:
    names = [name for name, _ in sample.fields if name == OPTIONS or re.fullmatch(r"choice[A-Z]", name)]
    return is_slotted(sample.instruction, names)


def _reordered(sample: Sample, shown: _Shown, level: str, seed: int) -> Sample:
    if any(_PLACES.search(text) for text in shown.texts):
        raise _UnfitError("an option that names other options")
    count = len(shown.texts)
    order = list(range(count))[::-1]
    if level != "reversed":
        number = level.partition("@")[2] or "0"
        order = sorted(range(count), key=lambda at: drawn(seed, "options", number, sample.id, str(at)))
    texts = tuple(shown.texts[at] for at in order)
    fields = dict(sample.fields)
    for place, at in enumerate(order):
        if (name := f"choice{string.ascii_uppercase[place]}") in fields:
            fields[name] = shown.texts[at]
    changed = replace(sample, context=replace(sample.context, option=_option(texts, shown)))
    if shown.answers:
        # marks stay in their order, and the answer follows its text
        places = {sample.choices[at]: sample.choices[place] for place, at in enumerate(order)}
        target = places[sample.target] if sample.target else ""
        # what a letter means has moved: answers are compared by the letter that the text had at first
        words = tuple((places[mark], label) for mark, label in _words(sample))
        words = tuple(sorted(words, key=lambda pair: sample.choices.index(pair[0])))
        changed = replace(changed, target=target, answer_words=words)
    else:
        words = sample.answer_words and tuple(sample.answer_words[at] for at in order)
        choices = tuple(sample.choices[at] for at in order) if sample.choices else ()
        changed = replace(changed, choices=choices, answer_words=words)
    if OPTIONS in fields and not shown.answers:
        fields[OPTIONS] = option_lines(changed.choices)
    return replace(changed, fields=tuple(fields.items()))


def _words(sample: Sample) -> tuple[tuple[str, str], ...]:
    """Each admissible answer and what it stands for."""
    return sample.answer_words or tuple((choice, choice) for choice in sample.choices)


def _option(texts: Sequence[str], shown: _Shown) -> str:
    if shown.lettered:
        return " ".join(f"({a}) {b}" for a, b in zip(string.ascii_uppercase, texts, strict=False))
    return ", ".join(map(quoted, texts))


def _marked(sample: Sample, shown: _Shown, level: str) -> Sample:
    marks = _marks(level, len(shown.texts))
    if sample.instruction and _has_option_slot(sample):
        if dict(sample.fields).get(OPTIONS) != option_lines(sample.choices) or not is_slotted(
            sample.instruction, {OPTIONS}
        ):
            raise _UnfitError("the instruction writes the marks of options itself")
        lines = "\n".join(["OPTIONS:", *(f"{a}{b}" for a, b in zip(marks, sample.choices, strict=True))])
        fields = tuple((name, lines if name == OPTIONS else text) for name, text in sample.fields)
        return replace(sample, fields=fields)
    glue = "\n" if level in ("-", "*", "•") else " " if level != "none" else ", "
    shown_texts = shown.texts if level != "none" else tuple(map(quoted, shown.texts))
    option = glue.join(f"{a}{b}" for a, b in zip(marks, shown_texts, strict=True))
    option = f"\n{option}" if glue == "\n" else option
    changed = replace(sample, context=replace(sample.context, option=option))
    if not shown.answers:
        return changed
    if level in BULLETS:
        raise _UnfitError("answers are the marks of options")
    names = tuple(mark.strip().strip("().:") for mark in marks)
    answers = dict(zip(sample.choices, names, strict=True))
    words = tuple((answers[mark], label) for mark, label in _words(sample))
    return replace(changed, target=answers.get(sample.target, ""), choices=names, answer_words=words)


def _marks(level: str, count: int) -> list[str]:
    """The marks of options, each with the space after it."""
    if level in BULLETS:
        return [BULLETS[level]] * count
    match = MARK.fullmatch(level)
    assert match is not None, "checked when the condition was parsed"
    kinds: dict[str, Sequence[str]] = {
        "A": string.ascii_uppercase, "a": string.ascii_lowercase, "1": [str(i) for i in range(1, 100)],
        "i": _ROMAN, "I": [one.upper() for one in _ROMAN],
    }  # fmt: skip
    names = kinds[match["kind"]]
    if count > len(names):
        raise _UnfitError(f"more than {len(names)} options")
    return [f"{match['before']}{name}{match['after']} " for name in names[:count]]


# ------------------------------------------------------------------------------------------ layout


def _laid_out(sample: Sample, layout: Mapping[str, str]) -> Sample:
    """The sample with its input as part of its instruction, in which placeholders show it in another layout."""
    if is_slotted(sample.instruction, dict(sample.fields)):
        raise _UnfitError("the instruction shows the input itself")
    if sample.turns or sample.since:
        raise _UnfitError("a chat of several turns")
    parts = _parts(sample)
    if not parts:
        raise _UnfitError("no input besides the instruction")
    if any(one.instruction for one in sample.examples):
        raise _UnfitError("examples with instructions of their own")
    if any(_parts(one) != parts for one in sample.examples):
        raise _UnfitError("examples with other parts than the row")
    colon, casing = COLONS[layout.get("colon", "colon")], CASINGS.get(layout.get("casing", ""), str)
    names = {part: casing(HEADS[part].removesuffix(": ")) for part in parts}
    pieces = [f"{name}{colon}{{{_INPUT}{part}}}" for part, name in names.items()]
    shown = SEPARATORS[layout.get("separator", "space")].join(pieces)
    first = layout.get("position", "first") == "first"
    text = f"{sample.instruction}\n\n{shown}" if first else f"{shown}\n\n{sample.instruction}"
    examples = tuple(replace(one, fields=_fields_of(one)) for one in sample.examples)
    return replace(sample, instruction=text, fields=_fields_of(sample), examples=examples)


def _parts(sample: Sample) -> list[str]:
    return [part for part in PARTS if getattr(sample.context, part)]


def _fields_of(sample: Sample) -> tuple[tuple[str, str], ...]:
    """The fields of a sample, and one for each part of its input."""
    return (*sample.fields, *((f"{_INPUT}{part}", getattr(sample.context, part)) for part in _parts(sample)))
