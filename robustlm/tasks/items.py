"""The part of an answer."""

from __future__ import annotations

Item = tuple[str, ...]
"""Part of an answer: `(type, words)`, `(relation, head, tail)`, `(polarity, aspect, opinion)`, `(label,)`."""
