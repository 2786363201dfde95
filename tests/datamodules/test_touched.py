"""The tokens of an instruction that a variant changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from robustlm.batch import View
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.datamodules.sampling import BatchKey
from robustlm.datamodules.touched import touched_tokens
from robustlm.noise.base import Noise
from tests.tiny import SAMPLES, load, view_of


def words_of(backbone: Any, view: View, row: int, mask: torch.Tensor) -> str:
    found: str = backbone.tokenizer.decode(view.input_ids[row][mask])
    return found.strip()


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_what_is_replaced_removed_and_inserted(kind: str, models: dict[str, str]) -> None:
    backbone = load(models[kind], None)
    one = replace(SAMPLES[0], instruction="find the words")
    changes = {
        "find the words": "",
        "find all words": "the",
        "the words": "find",
        "find the words now": "words",  # what is appended counts for the last word
    }
    raw = view_of(backbone, [one, SAMPLES[1]])  # another length, so one of them is padded
    rows = [replace(one, instruction=text) for text in changes]
    variant = view_of(backbone, rows + [SAMPLES[1]] * len(rows))
    found = touched_tokens(raw, variant)
    assert found.shape == (8, raw.input_ids.shape[1])
    assert not (found & ~raw.instruction_mask.repeat_interleave(4, 0)).any()
    for at, wanted in enumerate(changes.values()):
        said = words_of(backbone, raw, 0, found[at])
        assert said in wanted if wanted else not said, (at, said)
        assert bool(said) is bool(wanted)
    assert not found[4:].any()


def test_batches_have_them_where_there_is_a_choice(llama: str, train_file: str) -> None:
    for variants in (1, 3):
        data = NoisyInstructionDataModule(
            train=train_file, noise=Noise("deepwordbug", omega=0.4, phi=0.5), variants=variants
        )
        data.connect(load(llama, None))
        data.setup("fit")
        rows = data.rows["train"]
        batch = data.train_dataset(rows)[BatchKey(0, tuple(range(len(rows))))]
        if variants == 1:
            assert batch.touched is None
            continue
        assert batch.touched is not None
        assert batch.variant is not None
        for at in range(len(batch.variant)):
            own, other = batch.raw, batch.variant
            row = at // variants
            same = torch.equal(
                own.input_ids[row, own.instruction_mask[row]], other.input_ids[at, other.instruction_mask[at]]
            )
            assert bool(batch.touched[at].any()) is not same
        assert batch.touched.any()
