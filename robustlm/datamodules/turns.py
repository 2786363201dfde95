"""The earlier user turns of chats, in the form in which instructions get noise and paraphrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from robustlm.noise.base import Noise
from robustlm.noise.pools import build_pools, noise_pools
from robustlm.sample import Sample, Turn

Turns = tuple[Turn, ...]


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
