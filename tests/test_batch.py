"""Views."""

from __future__ import annotations

import pytest
import torch

from robustlm.batch import Encoded, View, collate

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
