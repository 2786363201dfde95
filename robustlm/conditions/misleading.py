"""Instructions that a model should not follow to the right answer: another task's, negated ones, and nonsense.

They tell whether a model that answers well has read its instruction at all, or goes by the input and the options.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from robustlm.conditions.condition import INCORRECT, NEGATED, NONSENSICAL, Condition
from robustlm.instructions.banks import Instruction, InstructionBank, LackingError, Version
from robustlm.instructions.slots import Skeleton, literal, slots
from robustlm.noise.opposites import PUNCTUATION, edits, replace_core
from robustlm.utils.random import drawn
from robustlm.utils.words import split_words

_SPACE = re.compile(r"(\s+)")
_LABEL = re.compile(r"^[^\S\n]*(?:\S+[^\S\n]+){0,2}\S*:[^\S\n]*$", re.MULTILINE)
"""A line of up to three words that ends with a colon: `Answer:` commands nothing."""
_BEFORE = "Do not do what is asked here. "
"""Negates an instruction in which no rule finds a command: a question, say."""
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
"""What nonsense is made of: words that name no task, label or answer that instructions speak of."""


def phrasings_under(
    condition: Condition, own: str, banks: Mapping[str, InstructionBank], version: Version, seed: int
) -> list[Instruction]:
    """The phrasings of a bank that a condition asks with, before noise.

    A misleading condition asks with the bank's own list of that name, if it has one and the condition says of no other
    phrasings that they be changed; else it changes the phrasings that it would have asked with.

    Args:
        condition: How is asked.
        own: Name of the bank.
        banks: All banks of the evaluation by name: whose phrasings are incorrect for each other.
        version: Length of phrasings.
        seed: Of the other bank, and of nonsense.

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
    """An instruction as a condition changes it: negated, nonsense (drawn by seed and `name`), or as it is."""
    if condition.made == NEGATED:
        return negated(text)
    return nonsensical(text, f"{seed} {name}") if condition.made == NONSENSICAL else text


def negated(text: str) -> str:
    """An instruction that asks not to do what it asked for, by rule.

    Every command gets a `do not`; without commands, the first `must` or `should` a `not`. What has none of these comes
    after a sentence that says so. White space and slots stay as they are.
    """
    chunks = _SPACE.split(text)
    labels = [match.span() for match in _LABEL.finditer(text)]
    starts = [sum(map(len, chunks[:i])) for i in range(0, len(chunks), 2)]
    # a slot ends what was before it
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
    """As many random words as an instruction has, four at least, in its place; slots stay.

    Args:
        text: The instruction.
        key: What the words are drawn by.
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
    """The phrasings of another bank: each bank's are given to one other, none to itself."""
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
    """What an instruction says, without slots and apart from case."""
    words = split_words(literal(instruction.text, slots(instruction.text)))
    return tuple(word.casefold() for word in words) if any(map(str.isalpha, "".join(words))) else ()


def _incorrect(own: Sequence[Instruction], others: Sequence[Instruction], name: str) -> list[Instruction]:
    """Others' words; where one's own instruction has slots, around these, and never another task's slots.

    So the input is shown as it is in the correct instruction.
    """
    found = []
    for mine, theirs in zip(own, others, strict=False):
        names, foreign = slots(mine.text), slots(theirs.text)
        text = theirs.text
        if names or foreign:
            text = Skeleton(mine.text if names else "", names).filled(split_words(literal(theirs.text, foreign)))
        found.append(Instruction(f"{name}/{INCORRECT}/{theirs.id}", text))
    return found
