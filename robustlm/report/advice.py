"""What to do after an evaluation: each piece of advice follows from one rule, which docs/evaluation.md lists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from robustlm.conditions.condition import low_means
from robustlm.evaluation.robustness import Estimate, Result
from robustlm.evaluation.unreadable import LIMIT
from robustlm.report.levels import level_of
from robustlm.report.markup import Html, join, named, tag
from robustlm.report.verdict import (
    against_guessing,
    not_above_guessing,
    reference,
    wanted,
    worst_condition,
    worst_instructions,
)
from robustlm.report.wordings import name_html

LARGE_DROP = 0.05
"""Smallest drop from clean, as a share of the clean score, for which there is advice."""
LARGE_SPREAD = 0.05
"""Smallest distance of the worst instruction from the mean, in [0, 1], for which there is advice."""
WIDE = 0.10
"""Widest interval of the clean score, in [0, 1], that needs no more samples."""

Rule = Literal["unreadable", "guessing", "noise", "phrasing", "attack", "surface", "other", "instruction", "follows",
               "samples", "nothing"]  # fmt: skip

_RULE_OF_LEVEL: dict[str, Rule] = {
    "character": "noise",
    "word": "noise",
    "sentence": "noise",
    "anit": "noise",
    "combined": "noise",
    "semantic": "phrasing",
    "list": "phrasing",
    "attack": "attack",
    "surface": "surface",
}
_DO: dict[Rule, Html] = {
    "noise": join("Tune with noise on instructions: ", tag("code", "robustlm fit -c anit"), ", with ",
                  tag("code", "data.noise.kind"), " and ", tag("code", "omega"), " as in this condition."),
    "phrasing": join("Tune on more phrasings: ", tag("code", "robustlm paraphrase"), " writes them, ",
                     tag("code", "robustlm fit -c paft"), " asks another one in every epoch."),
    "attack": join("Tune with an adversary (", tag("code", "robustlm fit -c robust"),
                   "), then search the attacks again: attacks of the old model say little on the new one."),
    "surface": join("Keep to the layout of ", tag("code", "clean"),
                    " when you use the model, or tune on rows in several layouts."),
    "other": join("Read the worst prompts below: the name of this condition does not say what it changes."),
}  # fmt: skip


class Advice(NamedTuple):
    """What to do, and the rule that says so."""

    rule: Rule
    said: Html


def advice(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]], clean: str) -> list[Advice]:
    """All advice for a table, the most urgent first; one piece that says so if no rule applies.

    Args:
        pooled: Numbers over all datasets by condition.
        single: Numbers by dataset.
        clean: The condition from which drops are measured.
    """
    first = reference(pooled, clean)
    own = [one for results in single.values() for one in results if one.condition == first.condition]
    found = [
        *_unreadable(first),
        *_guessing(first, own),
        *_drops(pooled, clean),
        *_instruction(own),
        *_follows(pooled),
        *_samples(first, pooled, clean),
    ]
    if found:
        return found
    return [
        Advice("nothing", join(f"No rule asks for anything: no drop of {_share(LARGE_DROP)} or more is clear of "
                               "chance, and the interval of the score is narrow."))
    ]  # fmt: skip


def _unreadable(first: Result) -> list[Advice]:
    share = first.numbers.get("unparseable")
    if share is None or not share.value > LIMIT:
        return []
    said = join(
        f"Check the template first: {_share(share.value)} of the answers under ",
        _code(first.condition), " cannot be read and count as wrong. Set ", tag("code", "data.template"),
        " (", tag("code", "chat"), " for a chat model) and ", tag("code", "model.max_new_tokens"), ", or try ",
        tag("code", "--data.scoring options"), " or ", tag("code", "--reading lenient"), ".",
    )  # fmt: skip
    return [Advice("unreadable", said)]


def _guessing(first: Result, own: Sequence[Result]) -> list[Advice]:
    weak, judged = not_above_guessing(own)
    if len(own) > 1 and weak and len(weak) * 2 >= judged:
        names = join(*(part for i, name in enumerate(weak[:5]) for part in (", " * (i > 0), named(name))))
        what = join(f"{len(weak)} of {judged} datasets (", names, ", …" if len(weak) > 5 else "", ")")
    elif against_guessing(first.numbers["mean"], first.baseline) in ("below", "unclear"):
        what = join("this data")
    else:
        return []
    return [Advice("guessing", join("Mend the model before you read drops: under ", _code(first.condition),
                                    " it is not clearly better than guessing on ", what,
                                    ", and a model that guesses has nothing to lose."))]  # fmt: skip


def _drops(pooled: Mapping[str, Result], clean: str) -> list[Advice]:
    """One piece of advice for each rule: on the condition with the largest drop whose interval is above 0."""
    worst: dict[Rule, Result] = {}
    for one in wanted(pooled, clean):
        drop = one.numbers.get("pdr")
        if drop is None or math.isnan(drop.low) or drop.low <= 0 or drop.value < LARGE_DROP:
            continue
        rule = _RULE_OF_LEVEL.get(level_of(one.condition), "other")
        if rule not in worst or drop.value > worst[rule].numbers["pdr"].value:
            worst[rule] = one
    ordered = sorted(worst.items(), key=lambda item: -item[1].numbers["pdr"].value)
    return [
        Advice(rule, join(_code(one.condition), f" costs {_share(one.numbers['pdr'].value)} of the score. ", _DO[rule]))
        for rule, one in ordered
    ]


def _instruction(own: Sequence[Result]) -> list[Advice]:
    bad = [one for one in worst_instructions(own) if one.differs and one.gap >= LARGE_SPREAD]
    if not bad:
        return []
    one = bad[0]
    scores = {name: guess.value for name, guess in one.result.estimated.items()} or one.result.by_instruction
    best = max(scores, key=scores.__getitem__)
    said = join(
        "The wording matters for ", named(str(one.result.name)), ": ask with “",
        name_html(best, one.result.wordings.get(best)), f"” ({_share(scores[best])}) and not with “",
        name_html(one.instruction, one.wording), f"” ({_share(one.score.value)}), or tune on paraphrases (",
        tag("code", "robustlm paraphrase"), ").",
    )  # fmt: skip
    return [Advice("instruction", said)]


def _follows(pooled: Mapping[str, Result]) -> list[Advice]:
    ignored = []
    for one in pooled.values():
        drop = one.numbers.get("pdr")
        if low_means(one.condition) and drop is not None and drop.low <= 0:
            ignored.append(one.condition)
    if not ignored:
        return []
    names = join(*(part for i, name in enumerate(ignored) for part in (", " * (i > 0), _code(name))))
    said = join("The score under ", names, " is not clearly lower than the clean one: the model may answer from the "
                "input alone. Tune on several tasks that share inputs or labels, so that only the instruction tells "
                "them apart.")  # fmt: skip
    return [Advice("follows", said)]


def _samples(first: Result, pooled: Mapping[str, Result], clean: str) -> list[Advice]:
    score, worst = first.numbers["mean"], worst_condition(pooled, clean)
    drop = None if worst is None else worst.numbers.get("pdr")
    wide, open_ = _width(score) > WIDE, drop is not None and drop.low <= 0 < LARGE_DROP <= drop.value
    if not wide and not open_:
        return []
    why = [
        *([f"the interval of the clean score is {100 * _width(score):.0f} points wide"] if wide else []),
        *([f"the interval of the largest drop ({_share(drop.value)}) holds 0"] if open_ and drop is not None else []),
    ]
    # the width falls with the square root of the number of samples
    needed = math.ceil(round(first.samples * (_width(score) / WIDE) ** 2, 6)) if wide else None
    about = f" About {needed:,} samples make it {100 * WIDE:.0f} points." if needed else ""
    said = join(f"Ask more samples: {' and '.join(why)}.{about} ", tag("code", "robustlm power"),
                " says how many you need.")  # fmt: skip
    return [Advice("samples", said)]


def _width(found: Estimate) -> float:
    return 0.0 if math.isnan(found.low) else found.high - found.low


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _code(name: str) -> Html:
    return tag("code", named(name))
