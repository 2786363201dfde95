"""The turns of chats: which replies are trained, and the user turns that get noise and paraphrases too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from robustlm.checks.choices import check_choice
from robustlm.noise.base import Noise
from robustlm.noise.pools import build_pools, noise_pools
from robustlm.sample import Sample, Turn, each_reply

AssistantTurns = Literal["last", "all", "each"]
"""Which replies of a chat are trained."""
NoisyTurns = Literal["last", "all"]
"""Which user turns of a chat get noise and paraphrases."""
Turns = tuple[Turn, ...]


def check_turns(system: str | None, assistant_turns: AssistantTurns, noisy_turns: NoisyTurns, bank: str | None) -> None:
    """Raise `ValueError` if the settings of chats are unknown or exclude each other."""
    if system is not None and not (isinstance(system, str) and system.strip()):
        raise ValueError(f"data.system: found {system!r}; expected the text of a system message, or null")
    check_choice("data.assistant_turns", assistant_turns, get_args(AssistantTurns))
    check_choice("data.noisy_turns", noisy_turns, get_args(NoisyTurns))
    if noisy_turns == "all" and bank:
        raise ValueError(
            f"data.noisy_turns: found all with data.bank {bank!r}, whose phrasings replace the last user turn "
            "alone; expected last, or no data.bank"
        )


def with_system(samples: Sequence[Sample], system: str | None) -> list[Sample]:
    """The samples, with a system message for those that bring none; null: none is added."""
    if system is None:
        return list(samples)
    opening = (("system", system.strip()),)
    return [one if one.system else replace(one, turns=(*opening, *one.turns)) for one in samples]


def with_trained_replies(samples: Sequence[Sample], trained: AssistantTurns) -> list[Sample]:
    """The samples, with marks for the replies that are trained; a sample a reply for `each`."""
    if trained == "all":
        return [replace(sample, trains_replies=bool(sample.history or sample.since)) for sample in samples]
    if trained == "each":
        return [one for sample in samples for one in each_reply(sample)]
    return list(samples)


class UserTurns:
    """The earlier user turns of samples, each as a sample of its own, whose instruction is the turn.

    Args:
        samples: The samples, with chats or without.
        protect: Whether noise leaves protected words alone.
    """

    def __init__(self, samples: Sequence[Sample], *, protect: bool = False) -> None:
        self._chats = [sample.turns for sample in samples]
        self._places = [
            (row, at) for row, turns in enumerate(self._chats) for at, turn in enumerate(turns) if turn[0] == "user"
        ]
        self.samples = [
            Sample(
                f"{samples[row].id} turn {at}",
                instruction=self._chats[row][at][1],
                target=samples[row].target,
                dataset=samples[row].dataset,
            )
            for row, at in self._places
        ]
        """One for each turn; its id names the row and the turn, so that noise is the same in every batch."""
        pools = build_pools(samples)
        self._pools = noise_pools(self.samples, protect=protect) | {
            "vocabulary": pools.vocabulary,
            "contexts": pools.contexts,
        }

    @property
    def texts(self) -> list[str]:
        """The texts of the turns."""
        return [sample.instruction for sample in self.samples]

    def noisy(self, texts: Sequence[str], noise: Noise, *, seed: int, epoch: int = 0, variant: int = 0) -> list[str]:
        """Texts of the turns with noise; each turn draws for itself whether it gets some."""
        if not texts:
            return []
        ids = [sample.id for sample in self.samples]
        return list(noise.apply(texts, ids, seed=seed, epoch=epoch, variant=variant, **self._pools).texts)

    def put(self, texts: Sequence[str]) -> list[Turns]:
        """The turns of every sample, with these texts in place of its user turns."""
        found = [list(turns) for turns in self._chats]
        for (row, at), text in zip(self._places, texts, strict=True):
            found[row][at] = "user", text
        return [tuple(turns) for turns in found]


def with_noisy_turns(samples: Sequence[Sample], noise: Noise, seed: int) -> list[Sample]:
    """Samples whose earlier user turns have noise too, as a condition of a test asks them."""
    turns = UserTurns(samples, protect=noise.protect)
    varied = turns.put(turns.noisy(turns.texts, noise, seed=seed))
    return [replace(sample, turns=own) for sample, own in zip(samples, varied, strict=True)]


def whole(instructions: Sequence[str], chats: Sequence[Turns]) -> list[str]:
    """All that the user says in each chat, as one text: what distortion is measured on."""
    said = [[turn[1] for turn in turns if turn[0] == "user"] for turns in chats]
    return ["\n\n".join([*texts, asked]) for texts, asked in zip(said, instructions, strict=True)]
