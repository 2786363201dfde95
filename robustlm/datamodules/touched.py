"""Which tokens of an instruction its variants change."""

from __future__ import annotations

import Levenshtein
import torch
from torch import Tensor

from robustlm.batch import View


def touched_tokens(raw: View, variant: View) -> Tensor:
    """Mark the tokens of raw instructions that each variant replaces, removes, or inserts something before.

    Tokens are compared by the fewest edits between both instructions. What is appended counts for the last token.

    Args:
        raw: B rows of T positions.
        variant: K rows for each raw row, B·K in all.

    Returns:
        Bool `[B·K, T]`: positions of the raw row that belongs to the variant. All false where nothing changed.
    """
    found = torch.zeros(len(variant), raw.input_ids.shape[1], dtype=torch.bool)
    many = len(variant) // len(raw)
    for row in range(len(raw)):
        places = raw.instruction_mask[row].nonzero()[:, 0].tolist()
        own = raw.input_ids[row, places].tolist()
        for at in range(row * many, (row + 1) * many):
            other = variant.input_ids[at, variant.instruction_mask[at]].tolist()
            changed = {min(place, len(places) - 1) for _, place, _ in Levenshtein.editops(own, other)}
            found[at, [places[one] for one in changed if places]] = True
    return found
