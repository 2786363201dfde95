"""Misleading instructions: those of another task, negated ones, and nonsense.

A model that follows them should not give the right answer. They show whether a model that answers well uses its
instruction, or only the input and the options.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from robustlm.conditions.condition import Condition
from robustlm.evaluation.directions import INCORRECT, NEGATED, NONSENSICAL
from robustlm.instructions.banks import Instruction, InstructionBank, LackingError, Version
from robustlm.instructions.slots import Skeleton, literal, slots
from robustlm.noise.opposites import PUNCTUATION, edits, replace_core
from robustlm.utils.random import drawn
from robustlm.utils.words import split_words

_SPACE = re.compile(r"(\s+)")
_LABEL = re.compile(r"^[^\S\n]*(?:\S+[^\S\n]+){0,2}\S*:[^\S\n]*$", re.MULTILINE)
"""A line of up to three words that ends with a colon, such as `Answer:`; it holds no command."""
_BEFORE = "Do not do what is asked here. "
"""Negates an instruction in which no rule finds a command, such as a question."""
_MODALS = frozenset({"must", "should"})
_LEAST = 4

_WORDS = """
    apple autumn bakery balcony barrel basket beach bicycle blanket bottle branch breeze bridge bronze bucket
    butter button candle canyon carpet castle cedar cellar chimney cinnamon cloud clover cobbler copper coral cottage
    cotton cousin cradle crimson curtain daisy dolphin donkey dusty eagle early elbow evening feather fennel ferry
    fiddle flannel forest fountain fragile garden garlic gently ginger glacier gloomy golden gravel green hammer harbour
    hazel hedge heron hollow honey icicle island ivory jacket jungle kettle kitchen ladder lantern lavender lazily lemon
    linen lobster lonely magnet maple marble meadow melon midnight mirror mitten morning mossy mountain narrow nettle
    northward oatmeal ocean olive orchard oyster paddle pebble pepper pigeon pillow plum pocket pottery prairie puddle
    purple quarry quietly rabbit rainy raven ribbon river rooster rusty saddle sandy seldom shallow shepherd silver
    slowly snowy softly sparrow spoon spring squirrel stony summer sunny swallow sweater teapot thistle thunder timber
    tomorrow tulip tunnel turnip twilight upward valley velvet village violet waffle walnut warmly weather willow window
    winter wooden woollen yellow yesterday
"""
WORDS = tuple(_WORDS.split())
"""Words for nonsense; none of them names a task, label or answer that occurs in instructions."""


def phrasings_under(
    condition: Condition, own: str, banks: Mapping[str, InstructionBank], version: Version, seed: int
) -> list[Instruction]:
    """The phrasings of a bank that a condition asks with, before noise.

    A misleading condition uses the bank's list of the same name, if there is one and the condition does not name
    `unseen` or a list. Otherwise it changes the phrasings that the condition would use without it.

    Args:
        condition: The condition.
        own: Name of the bank.
        banks: All banks of the evaluation by name. For `incorrect`, the phrasings come from another one of them.
        version: Which phrasings are used by length: `concise`, `detailed` or `both`.
        seed: Seed of the choice of the other bank, and of nonsense.

    Raises:
        ValueError: The bank has no such phrasings, or there is no other bank.
    """
    bank, made = banks[own], condition.made
    if made is not None and condition.split == "seen" and condition.listed is None and made in bank.lists:
        return bank.listed(made)
    found = _named(bank, condition, version)
    if made == INCORRECT:
        return _incorrect(found, _others(own, banks, condition, version, seed), bank.name)
    return [replace(one, text=misled(one.text, condition, one.id, seed)) for one in found]


def misled(text: str, condition: Condition, name: str, seed: int) -> str:
    """Change an instruction as a condition says: negated, nonsense (drawn from `seed` and `name`), or unchanged."""
    if condition.made == NEGATED:
        return negated(text)
    return nonsensical(text, f"{seed} {name}") if condition.made == NONSENSICAL else text


def negated(text: str) -> str:
    """Negate an instruction by rules.

    Every command gets a `do not`. Without commands, the first `must` or `should` gets a `not`. Without any of these,
    the sentence `Do not do what is asked here.` is put before the instruction. White space and slots do not change.
    """
    chunks = _SPACE.split(text)
    labels = [match.span() for match in _LABEL.finditer(text)]
    starts = [sum(map(len, chunks[:i])) for i in range(0, len(chunks), 2)]
    # a slot ends the sentence before it
    plain = ["." if "{" in word or not word else word for word in chunks[::2]]
    rules = [
        (at, [phrase.text for phrase in phrases])
        for at, phrases in edits(plain)
        if not any(start <= starts[at] < end for start, end in labels)
    ]
    commands = {at: texts[0] for at, texts in rules if texts[0].lower().startswith("do not ")}
    modals = {
        at: denied
        for at, texts in rules
        if plain[at].strip(PUNCTUATION).lower() in _MODALS
        and (denied := next((one for one in texts if one.lower().endswith("not")), ""))
    }
    changed = commands or dict(list(modals.items())[:1])
    if not changed:
        return _BEFORE + text
    for at, replacement in changed.items():
        chunks[2 * at] = replace_core(chunks[2 * at], replacement)
    return "".join(chunks)


def nonsensical(text: str, key: str) -> str:
    """Replace the words of an instruction by as many random words, at least four; slots stay.

    Args:
        text: The instruction.
        key: Seed of the random words.
    """
    skeleton = Skeleton(text, slots(text))
    draw = random.Random(drawn(key))
    words = [draw.choice(WORDS) for _ in range(max(_LEAST, len(skeleton.words)))]
    return skeleton.filled([words[0].capitalize(), *words[1:-1], f"{words[-1]}."])


def _named(bank: InstructionBank, condition: Condition, version: Version) -> list[Instruction]:
    return bank.phrasings(version, condition.split) if condition.listed is None else bank.listed(condition.listed)


def _others(
    own: str, banks: Mapping[str, InstructionBank], condition: Condition, version: Version, seed: int
) -> list[Instruction]:
    """The phrasings of another bank. Each bank's phrasings are used by exactly one other bank."""
    if len(banks) < 2:
        raise LackingError(
            f"data.conditions: {condition.name!r} asks with the phrasings of another bank, but the bank {own} is the "
            f"only one here; expected rows of two banks or more, or a list {INCORRECT!r} in the bank",
            f"the bank {own} is the only one here, and another bank is needed",
        )
    order = sorted(banks, key=lambda name: drawn(seed, name))
    other = order[(order.index(own) + 1) % len(order)]
    mine = {_words(one) for one in _named(banks[own], condition, version)}
    found = [one for one in _named(banks[other], condition, version) if _words(one) and _words(one) not in mine]
    if not found:
        raise ValueError(
            f"data.conditions: {condition.name!r}: found no phrasing in the bank {other} that the bank {own} does not "
            f"have; expected one, or a list {INCORRECT!r} in the bank"
        )
    return found


def _words(instruction: Instruction) -> tuple[str, ...]:
    """The words of an instruction without slots, in lower case; empty if they hold no letter."""
    words = split_words(literal(instruction.text, slots(instruction.text)))
    return tuple(word.casefold() for word in words) if any(map(str.isalpha, "".join(words))) else ()


def _incorrect(own: Sequence[Instruction], others: Sequence[Instruction], name: str) -> list[Instruction]:
    """Instructions with the words of the other bank and the slots of the own bank, never with another task's slots.

    So the input is shown as it is in the correct instruction.
    """
    found = []
    for mine, theirs in zip(own, others, strict=False):
        names, foreign = slots(mine.text), slots(theirs.text)
        text = theirs.text
        if names or foreign:
            text = Skeleton(mine.text if names else "", names).filled(split_words(literal(theirs.text, foreign)))
        found.append(Instruction(f"{name}/{INCORRECT}/{theirs.id}", text, mine.answers))
    return found
