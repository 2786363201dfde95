"""Options are chosen as lm-evaluation-harness chooses them, against a naive computation by its rules."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from robustlm.batch import Measure
from robustlm.datamodules.batches import EncodedSamples, EvaluationDataset
from robustlm.datamodules.sampling import BatchKey
from robustlm.models.backbone import Backbone
from robustlm.modules.replies import records
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.sample import Context, Sample

CHOICES = ("Rom", "die Stadt Zürich über dem großen Zürichsee", "Ænø", "a town on a hill")
SAMPLES = [
    Sample(f"q{i}", text, CHOICES[0], Context(question=text), choices=CHOICES[: 2 + i % 3])
    for i, text in enumerate(["Which town is it?", "Name the largest.", "Where do they live?", "Which one?"])
]


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    found = Backbone("builtin:tiny")
    found.load()
    found.eval()
    return found


def likelihood(model: Backbone, context: str, choice: str) -> float:
    """The log-likelihood of a choice after a blank, as the harness computes it for a decoder-only model."""
    blanks = len(context) - len(context.rstrip())
    continuation = context[len(context) - blanks :] + " " + choice
    context = context[: len(context) - blanks]
    end = model.tokenizer.eos_token_id
    whole, before = (
        [one for one in model.tokenizer.encode(text) if one != end] for text in (context + continuation, context)
    )
    with torch.no_grad():
        said = model.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(said[at - 1, whole[at]]) for at in range(len(before), len(whole)))


def test_choices_and_scores_are_those_of_the_harness(tiny: Backbone) -> None:
    encoder = Encoder(tiny.tokenizer, make_template("plain", tiny.tokenizer), 256)
    encoded = encoder.encode(SAMPLES)
    options = [
        encoder.options(row, ids, sample.id)
        for sample, row, ids in zip(SAMPLES, encoded, encoder.choice_ids(SAMPLES), strict=True)
    ]
    chosen: dict[Measure, list[str]] = {}
    for measure in get_args(Measure):
        rows = EncodedSamples(SAMPLES, encoded, options, measure)
        found = records(tiny, EvaluationDataset(rows, encoder, "clean")[BatchKey(0, tuple(range(len(SAMPLES))))], 4)
        chosen[measure] = [row.prediction for row in found]
        if measure == "options":
            continue
        for row in found:
            assert row.prompt is not None
            assert row.choices is not None
            wanted = [likelihood(tiny, row.prompt, choice) for choice in row.choices]
            assert row.option_scores == pytest.approx(wanted, abs=1e-3)
            lengths = {
                "acc": [1.0] * len(row.choices),
                "acc_norm": [float(len(choice)) for choice in row.choices],
                "acc_bytes": [float(len(choice.encode("utf-8"))) for choice in row.choices],
            }
            per = [a / b for a, b in zip(wanted, lengths[measure], strict=True)]
            assert row.prediction == row.choices[per.index(max(per))]
    assert chosen["acc"] != chosen["acc_norm"], "the samples tell the measures apart"
