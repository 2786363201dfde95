"""Conditions under which a low score is not a worse one: instructions that mislead."""

from __future__ import annotations

INCORRECT, NEGATED, NONSENSICAL = MISLEADING = ("incorrect", "negated", "nonsensical")
"""Ways to make misleading instructions from phrasings, which show whether a model follows its instruction."""
LOW_MEANS = {
    INCORRECT: "a low score means that the model follows the instruction, which is that of another task; "
    "a high one, that it answers from the input and the options alone",
    NEGATED: "a low score means that the model follows the instruction, which asks not to do the task; "
    "a high one, that it does not read the negation",
    NONSENSICAL: "a low score means that the model needs an instruction; "
    "a high one, that it answers from the input and the options alone",
}
"""What a low score says under the conditions in which a high score is not wanted."""


def low_means(name: str) -> str | None:
    """What a low score under the condition of this name says about a model; null: a high score is wanted.

    It is known by the name alone, so that a report needs no more than the prediction table.

    Example:
        >>> low_means("unseen+nonsensical").partition(";")[0]
        'a low score means that the model needs an instruction'
        >>> low_means("unseen") is low_means("list:incorrect") is None
        True
    """
    return next((LOW_MEANS[part] for part in name.split("+") if part in LOW_MEANS), None)
