"""Instruction conditions of an evaluation: the same rows, asked in another way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from robustlm.conditions.factors import FACTORS, LAYOUT, check_level
from robustlm.conditions.recipes import Attack
from robustlm.evaluation.directions import INCORRECT, MISLEADING, NEGATED, low_means
from robustlm.noise.base import Noise

CLEAN = "clean"
UNSEEN = "unseen"
PROTECTED = "protected"
CORRECT = "correct"
"""Another name for `clean`."""
LISTED = "list:"
ATTACK = "attack:"
PARAPHRASED = "paraphrased"


@dataclass(frozen=True, slots=True)
class Condition:
    """How the instructions of the test rows are chosen and changed in one pass over the rows."""

    name: str
    """Name as written in the config; prefix of its scores."""
    split: Literal["seen", "unseen"] = "seen"
    """Which phrasings of an instruction bank are used."""
    noise: Noise | None = None
    """Noise on every instruction."""
    attack: Attack | None = None
    """Attack on every instruction, searched on the model under test."""
    listed: str | None = None
    """Name of a list of the bank, whose phrasings are used instead of a split."""
    made: str | None = None
    """One of `MISLEADING`, made from the phrasings."""
    paraphrased: bool = False
    """Whether paraphrases from a file replace the phrasings."""
    surface: tuple[tuple[str, str], ...] = ()
    """Changes that should not matter, in the order in which they are made: factor and level (`options`, `reversed`)."""

    @property
    def low_means(self) -> str | None:
        """What a low score under this condition says about a model; null: a high score is wanted."""
        return low_means(self.name)

    @property
    def needs_bank(self) -> bool:
        """Whether the condition needs a bank; then rows with their own instruction cannot be asked under it."""
        return self.split == "unseen" or self.listed is not None or self.made == INCORRECT


def parse_condition(text: str) -> Condition:
    """Parse a condition: `clean`, `unseen`, `<kind>@<ω>` (`random_truncation@0.3`), or `unseen+<kind>@<ω>`.

    `list:<name>` asks with a list of the bank; `incorrect`, `negated` and `nonsensical` mislead. Each of these may be
    combined with noise; the misleading ones also with `unseen`. `paraphrased` asks with paraphrases, from a file, of
    the clean phrasings or of those named beside it.

    `+protected` after noise leaves the words that answers need unchanged (`Noise.protect`). `attack:<recipe>@<ω>`, also
    with `unseen` or a list, searches for the edits that hurt most, and always leaves those words unchanged.

    `<factor>:<level>` changes what should not matter (`options:reversed`, `position:last`; see
    `robustlm.conditions.factors`), each factor once, with any of the others.

    Raises:
        ValueError: The text is no condition; the message says what is expected.
    """
    split: Literal["seen", "unseen"] = "seen"
    noise = attack = listed = made = None
    parts = text.split("+")
    surface: dict[str, str] = {}
    for part in parts:
        if part.partition(":")[0] in FACTORS and ":" in part:
            _add_level(surface, part, text)
        elif part == UNSEEN:
            split = "unseen"
        elif part in (PROTECTED, PARAPHRASED):
            continue
        elif part.startswith(ATTACK):
            attack = _attack(part, text)
        elif part.startswith(LISTED):
            listed = _only(listed, part.removeprefix(LISTED), text)
        elif part in MISLEADING:
            made = _only(made, part, text)
        elif part not in (CLEAN, CORRECT):
            if noise is not None:
                raise ValueError(f"data.conditions: {text!r} names two kinds of noise; expected at most one")
            noise = _noise(part, text)
    if attack is not None and (noise is not None or made is not None or PROTECTED in parts or _attacks(parts) > 1):
        raise ValueError(
            f"data.conditions: {text!r} combines an attack with another part; expected attack:<recipe>@<omega>, alone "
            f"or after unseen+, {LISTED}<name>+ or {PARAPHRASED}+ (attacks always protect words)"
        )
    if PROTECTED in parts:
        if noise is None:
            raise ValueError(f"data.conditions: {text!r} protects words without noise; expected <noise kind>+protected")
        noise = replace(noise, protect=True)
    if listed is not None and split == UNSEEN:
        raise ValueError(f"data.conditions: {text!r} names unseen phrasings and a list; expected one of them")
    if made is not None and PARAPHRASED in parts:
        raise ValueError(f"data.conditions: {text!r} combines {PARAPHRASED} and {made}; expected one of them")
    if attack is not None and (laid := next((factor for factor in LAYOUT if factor in surface), None)):
        raise ValueError(
            f"data.conditions: {text!r} combines an attack with another {laid}; expected an attack alone, or with "
            "options, enumerator or shots"
        )
    changes = tuple((factor, surface[factor]) for factor in FACTORS if factor in surface)
    return Condition(text, split, noise, attack, listed, made, PARAPHRASED in parts, surface=changes)


def parse_conditions(texts: Sequence[str]) -> list[Condition]:
    """Parse the conditions of a test; see `parse_condition`.

    Raises:
        ValueError: There is none, one of them is no condition, or two of them ask the same.
    """
    if not texts:
        raise ValueError("data.conditions: found none; expected at least one, such as clean")
    found = [parse_condition(text) for text in texts]
    if len(set(texts)) < len(texts):
        raise ValueError(f"data.conditions: {texts} contains a condition twice")
    alike = [replace(condition, name="") for condition in found]
    for at, condition in enumerate(found):
        if (first := alike.index(alike[at])) < at:
            raise ValueError(
                f"data.conditions: {condition.name!r} asks the same as {found[first].name!r}; expected one of them"
            )
    return found


def _add_level(surface: dict[str, str], part: str, text: str) -> None:
    factor, _, level = part.partition(":")
    try:
        check_level(factor, level)
    except ValueError as error:
        raise ValueError(f"data.conditions: {text!r}: {error}") from None
    if factor in surface:
        raise ValueError(f"data.conditions: {text!r} names two levels of {factor}; expected one")
    surface[factor] = level


def attack_recipe(text: str) -> str | None:
    """Name of the recipe of a condition's attack; null if it has none. Neither is looked up."""
    own = [part.removeprefix(ATTACK).partition("@")[0] for part in text.split("+") if part.startswith(ATTACK)]
    return own[0] if own else None


def _attacks(parts: list[str]) -> int:
    return sum(part.startswith(ATTACK) for part in parts)


def _only(known: str | None, name: str, text: str) -> str:
    if known is not None or not name:
        raise ValueError(f"data.conditions: {text!r} names {'two' if name else 'no'} lists or ways to mislead; "
                         f"expected one, such as {LISTED}designer or {NEGATED}")  # fmt: skip
    return name


def _attack(part: str, text: str) -> Attack:
    recipe, at, share = part.removeprefix(ATTACK).partition("@")
    try:
        return Attack(recipe, float(share) if at else 0.2)
    except ValueError as error:
        raise ValueError(
            f"data.conditions: {text!r} is no condition; expected attack:<recipe>@<omega>, such as "
            f"attack:deepwordbug@0.2 ({error})"
        ) from error


def _noise(part: str, text: str) -> Noise:
    kind, at, share = part.partition("@")
    try:
        return Noise(kind=kind, omega=float(share) if at else 0.2)
    except ValueError as error:
        raise ValueError(
            f"data.conditions: {text!r} is no condition; expected clean, unseen, {LISTED}<name>, "
            f"{', '.join(MISLEADING)}, {PARAPHRASED}, <noise kind>@<omega>, <factor>:<level>, or these with noise "
            f"as in unseen+<noise kind>@<omega>, also with +protected ({error})"
        ) from error
