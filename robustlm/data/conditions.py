"""Instruction conditions of an evaluation: the same rows, asked in another way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from robustlm.data.noise import Noise
from robustlm.data.recipes import Attack

CLEAN = "clean"
UNSEEN = "unseen"
PROTECTED = "protected"
ATTACK = "attack:"


@dataclass(frozen=True, slots=True)
class Condition:
    """How instructions are put in one pass over the test rows."""

    name: str
    """As written in the config; prefix of its scores."""
    split: Literal["seen", "unseen"] = "seen"
    """Which phrasings of an instruction bank are asked with."""
    noise: Noise | None = None
    """Noise on every instruction."""
    attack: Attack | None = None
    """What is done to every instruction so that this model fails."""


def parse_condition(text: str) -> Condition:
    """Read `clean`, `unseen`, `<kind>@<ω>` (`random_truncation@0.3`), or `unseen+<kind>@<ω>`.

    `+protected` after noise keeps it from the words that answers need (`Noise.protect`). `attack:<recipe>@<ω>` and
    `unseen+attack:<recipe>@<ω>` search for the worst edits instead, and always protect those words.

    Raises:
        ValueError: The text is none of these; says what is expected.
    """
    split: Literal["seen", "unseen"] = "seen"
    noise = attack = None
    parts = text.split("+")
    for part in parts:
        if part == UNSEEN:
            split = "unseen"
        elif part == PROTECTED:
            continue
        elif part.startswith(ATTACK):
            attack = _attack(part, text)
        elif part != CLEAN:
            if noise is not None:
                raise ValueError(f"data.conditions: {text!r} names two kinds of noise; expected at most one")
            noise = _noise(part, text)
    if attack is not None and sum(part not in (UNSEEN, CLEAN) for part in parts) > 1:
        raise ValueError(
            f"data.conditions: {text!r} is an attack and more; expected attack:<recipe>@<omega>, alone or after "
            "unseen+ (attacks always protect words, and know no other noise)"
        )
    if PROTECTED in parts:
        if noise is None:
            raise ValueError(f"data.conditions: {text!r} protects words from no noise; expected <noise kind>+protected")
        noise = replace(noise, protect=True)
    return Condition(text, split, noise, attack)


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
            f"data.conditions: {text!r} is no condition; expected clean, unseen, <noise kind>@<omega>, or "
            f"unseen+<noise kind>@<omega>, these also with +protected ({error})"
        ) from error
