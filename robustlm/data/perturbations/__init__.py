"""Perturbations that robustness is measured with, as kinds of noise: one level a file.

They do what published attacks on models do to a text, but blindly: words are chosen at random and not by what a model
answers, so the same instruction is perturbed in the same way for every model.
"""

from __future__ import annotations

from robustlm.data.perturbations import character, sentence, word

__all__ = ["character", "sentence", "word"]
