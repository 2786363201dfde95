"""What contrast and alignment should be, from the library's own full outputs, one row and one number at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustlm.batch import IGNORE, View


def whole(backbone: Any, view: View, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """A row alone, without padding: final states `[T, H]`, logits `[T, V]`, and where its answer's logits are."""
    kept = view.attention_mask[row] == 1
    ids, labels = view.input_ids[row][kept][None], view.labels[row]
    extra: dict[str, Any] = {"output_hidden_states": True}
    if backbone.is_encoder_decoder:
        answer = labels[labels != IGNORE]
        out = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=answer[None], **extra)
        return out.decoder_hidden_states[-1][0], out.logits[0], torch.arange(len(answer))
    out = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra)
    places = (labels[kept] != IGNORE).nonzero()[:, 0] - 1
    return out.hidden_states[-1][0], out.logits[0], places


def pooled(backbone: Any, view: View, row: int, pooling: str) -> list[float]:
    states, _, places = whole(backbone, view, row)
    columns = states.double().T.tolist()
    if pooling == "mean":
        return [math.fsum(column) / len(column) for column in columns]
    if pooling == "max":
        return [max(column) for column in columns]
    return [column[-1 if pooling == "last" else int(places[0])] for column in columns]


def answer_logits(backbone: Any, view: View) -> list[list[list[float]]]:
    """For each row, the logits of each of its answer tokens."""
    found = []
    for row in range(len(view)):
        _, logits, places = whole(backbone, view, row)
        found.append(logits[places].double().tolist())
    return found


def cosine(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def contrast(
    raw: list[list[float]],
    variant: list[list[float]],
    negative: list[list[float]],
    temperature: float,
    *,
    symmetric: bool = False,
    keys: list[int] | None = None,
    negative_keys: list[int] | None = None,
) -> tuple[float, float]:
    """L_ctr and the mean number of candidates: [CoIN] § 3.3, for every pair of a raw row and a variant of its own.

    Samples of equal keys are no negatives of each other.
    """
    many = len(variant) // len(raw)
    keys = list(range(len(raw))) if keys is None else keys
    negative_keys = [-1] * len(negative) if negative_keys is None else negative_keys
    losses, counts = [], []
    for i, anchor in enumerate(raw):
        for k in range(many):
            partner = variant[i * many + k]
            others = [variant[j * many + m] for j in range(len(raw)) if keys[j] != keys[i] for m in range(many)]
            losses.append(_one(anchor, partner, others, negative, keys[i], negative_keys, temperature, counts))
    forward = math.fsum(losses) / len(losses)
    if not symmetric:
        return forward, sum(counts) / len(counts)
    losses = []
    for i in range(len(raw)):
        for k in range(many):
            others = [raw[j] for j in range(len(raw)) if keys[j] != keys[i]]
            anchor = variant[i * many + k]
            losses.append(_one(anchor, raw[i], others, negative, keys[i], negative_keys, temperature, counts))
    return (forward + math.fsum(losses) / len(losses)) / 2, sum(counts) / len(counts)


def _one(
    anchor: list[float],
    partner: list[float],
    others: list[list[float]],
    negative: list[list[float]],
    key: int,
    negative_keys: list[int],
    temperature: float,
    counts: list[int],
) -> float:
    strangers = others + [state for state, other in zip(negative, negative_keys, strict=True) if other != key]
    counts.append(1 + len(strangers))
    own = cosine(anchor, partner) / temperature
    return math.log1p(math.fsum(math.exp(cosine(anchor, other) / temperature - own) for other in strangers))
