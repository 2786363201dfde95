"""Views."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from robustlm.batch import IGNORE, Encoded, Layout, View, collate

ROWS = [
    Encoded(
        [5] * length, [i == 0 for i in range(length)], [i == 1 for i in range(length)], [7] * answer, f"row {length}"
    )
    for length, answer in ((2, 3), (9, 1), (4, 2), (1, 6))
]


@pytest.mark.parametrize("encoder_decoder", [False, True])
@pytest.mark.parametrize("with_answer", [False, True])
@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [2, 0], [3], [0, 3, 0]])
def test_selected_rows_are_those_rows_collated(chosen: list[int], with_answer: bool, encoder_decoder: bool) -> None:
    settings = {"encoder_decoder": encoder_decoder, "with_answer": with_answer}
    found = collate(ROWS, pad_id=0, **settings).select(torch.tensor(chosen), encoder_decoder=encoder_decoder)
    wanted = collate([ROWS[i] for i in chosen], pad_id=0, **settings)
    for name in View.__dataclass_fields__:
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs, name


def test_a_layout_says_where_answers_stand_and_follows_changes() -> None:
    view = collate(ROWS, pad_id=0)
    places = (view.labels != IGNORE).nonzero()
    assert torch.equal(torch.stack([view.layout.rows, view.layout.columns], 1), places)
    assert torch.equal(view.layout.targets, view.labels[view.labels != IGNORE])
    assert view.layout.counts == tuple((view.labels != IGNORE).sum(1).tolist())
    assert view.layout is view.layout
    part = view.part(slice(1, 3))
    alone = Layout.of(view.labels[1:3], view.attention_mask[1:3])
    for name in ("targets", "rows", "columns"):
        assert torch.equal(getattr(part.layout, name), getattr(alone, name))
    assert part.layout.counts == alone.counts
    assert part.layout.tokens == alone.tokens
    for copied in (pickle.loads(pickle.dumps(view)), copy.deepcopy(view), view.to("cpu")):
        assert copied._kept is not None
        assert copied._kept[0].tokens == view.layout.tokens
        assert copied._kept[1] == copied._versions()
    row, column = places[0].tolist()
    view.labels[row, column] = 3  # in place
    assert view.layout.tokens[0] == 3
    view.labels = torch.full_like(view.labels, IGNORE)
    assert view.layout.tokens == ()
    assert replace(view, labels=view.input_ids).layout.counts == (view.labels.shape[1],) * len(view)
