"""Noise on instructions: kinds of noise, the distortion that they cause, and the words that they must not change.

Each family of kinds has its own module, which registers its kinds: `anit` (those of [ANIT]), `character`, `word`,
`sentence`. The last three change texts as published attacks on models do, but choose words at random and not by a
model's answers. So an instruction gets the same noise for every model.
"""

from __future__ import annotations

from robustlm.noise import anit, character, sentence, word

__all__ = ["anit", "character", "sentence", "word"]
"""The families of kinds, which register their kinds when they are imported."""
