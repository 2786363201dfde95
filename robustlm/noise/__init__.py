"""Noise: what may happen to the words of an instruction, how far it moves the instruction, and which words are safe.

Each family of kinds has its file, and registers its kinds: `anit` (those of [ANIT]), `character`, `word`, `sentence`.
The last three do what published attacks on models do to a text, but blindly: words are chosen at random and not by what
a model answers, so the same instruction is perturbed in the same way for every model.
"""

from __future__ import annotations

from robustlm.noise import anit, character, sentence, word

__all__ = ["anit", "character", "sentence", "word"]
"""The families of kinds, which register their kinds when they are imported."""
