"""Words of texts in any script: Latin ones as they always were, and scripts without blanks character by character."""

from __future__ import annotations

import hashlib
import json

import pytest

from robustlm.data.distortion import RBE
from robustlm.data.edits import replay
from robustlm.data.noise import KINDS, Noise

ENGLISH = (
    "Please extract all named entities from the given text and classify each of them as one of the following types: "
    "person, organization, location or miscellaneous.",
    "Is the following review positive or negative?\n\n{text}\n\n{options_}",
    'Premise: "{premise}"\nHypothesis: "{hypothesis}"\nDoes the premise imply the hypothesis? Answer \'yes\' or "no".',
    "List  every relation ; write None if there is none .\tDo not explain.",
    "Résumé — naïve “quotes” … don’t: déjà vu? Ünïcode, Ελληνικά и кириллица 한국어 문장 tiếng Việt",
    "Label:",
    "the the the",
)
SLOTS = ("text", "premise", "hypothesis", "options_")
VOCABULARY = ["alpha", "beta", "gamma", "naïve", "positive"]
CONTEXTS = ["one two three four five six seven", "a {text} b", "short one"]

RECORDED = {
    "checklist": "5f69edc3ffa2c341",
    "deepwordbug": "7dd90e961e4c45af",
    "in_context_padding": "38fc5ba38a1f6aae",
    "opposite": "02339b493f40a44a",
    "random_insertion": "e2a8c786141c82c8",
    "random_replacement": "da6d8d7bcb2681c7",
    "random_shuffling": "caf298c894a43ff0",
    "random_truncation": "1e099388b73d5274",
    "random_typos": "127271fb0fe5b69e",
    "stresstest": "7516786d13d89717",
    "synonyms": "0ec89a5207197ed2",
    "textbugger": "5bd00147b219a5c4",
}


def english_noise(kind: str) -> str:
    """Everything that a kind of noise says about the English texts, as a digest."""
    said = []
    for omega, seed, protect, given in (
        (omega, seed, protect, given)
        for omega in (0.1, 0.4, 1.0)
        for seed in range(5)
        for protect in (False, True)
        for given in (None, [SLOTS] * len(ENGLISH))
    ):
        batch = Noise(kind, omega, protect=protect).apply(
            ENGLISH, [f"row:{row}" for row in range(len(ENGLISH))], seed=seed, vocabulary=VOCABULARY, contexts=CONTEXTS,
            slots=given, protected=[("positive", "negative", "yes")] * len(ENGLISH), report=True,
        )  # fmt: skip
        assert batch.edits is not None
        for text, noisy, edits in zip(ENGLISH, batch.texts, batch.edits, strict=True):
            assert replay(text, edits, SLOTS if given else ()) == noisy
        pairs = RBE().compare(ENGLISH, batch.texts)
        said.append([batch.texts, batch.noisy, batch.kinds, batch.edits, pairs.tolist()])
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_english_noise_is_what_it_was(kind: str) -> None:
    # recorded before words of scripts without blanks were told apart; changing these changes every run with a seed
    assert english_noise(kind) == RECORDED[kind]
