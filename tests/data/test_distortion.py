"""Distortion against a naive computation, and β."""

import logging
import math

import jsonargparse
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robustlm.data.distortion import LME, RBE, Distortion, beta
from robustlm.data.embedders import Embedder, EmbeddingError, OpenAIEmbedder, TokenEmbedder
from robustlm.data.noise import KINDS, Noise

texts = st.lists(st.sampled_from(["a", "b", "c", "d é"]), max_size=7).map(" ".join)
rows = st.lists(st.tuples(texts, texts, st.booleans()), max_size=8)


def edit_distance(a: list[str], b: list[str]) -> int:
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(change, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[len(a), len(b)]


@given(rows=rows)
@example(rows=[("a b", "a c", True), ("a", "b", True), ("", "", True)])
@example(rows=[("", "", True)])
def test_rbe_is_the_naive_distance_normalised_over_noisy_rows(rows: list[tuple[str, str, bool]]) -> None:
    raw, noisy, flags = ([row[i] for row in rows] for i in range(3))
    measured = RBE().measure(raw, noisy, flags)
    naive = [edit_distance(a.split(), b.split()) for a, b in zip(raw, noisy, strict=True)]
    counted = [d for d, flag in zip(naive, flags, strict=True) if flag]
    for row, flag in enumerate(flags):
        if not flag:
            expected = 0.0
        elif max(counted) > min(counted):
            expected = (naive[row] - min(counted)) / (max(counted) - min(counted))
        else:
            expected = naive[row] / max(len(raw[row].split()), len(noisy[row].split()), 1)
        assert math.isclose(measured[row], expected)


def test_rbe_says_once_that_it_cannot_normalise(caplog: pytest.LogCaptureFixture) -> None:
    rbe = RBE()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert rbe.measure(["a b c d"], ["a x c y"], [True]).tolist() == [0.5]
    assert [record.getMessage() for record in caplog.records] == [
        "RBE: all 1 noisy instructions are 2 word edits from the raw ones, so min-max normalisation is "
        "undefined; dividing by the number of words instead"
    ]


def test_rbe_of_noise_grows_with_omega() -> None:
    raw = ["Tell whether the text below is about sport , politics , science or something else ."]
    means = []
    for omega in (0.1, 0.3, 0.6, 1.0):
        noise = Noise("random_replacement", omega)
        batches = [noise.apply(raw, ["x"], epoch=epoch) for epoch in range(5)]
        means.append(np.mean([RBE().measure(raw, batch.texts, batch.noisy)[0] for batch in batches]))
    assert means == sorted(means)
    assert means[-1] == 1


def test_every_kind_of_noise_is_measured() -> None:
    for kind in KINDS:
        batch = Noise(kind).apply(["Tell what the given text is about in one word", "Name all of them"], ["x", "y"])
        assert RBE().measure(["a b c d e f", "g h i"], batch.texts, batch.noisy).max() > 0


VECTORS = {"x": [1, 0], "y": [0, 2], "xy": [3, 3], "-x": [-1, 0], "0": [0, 0]}


class Table(Embedder):
    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    @property
    def key(self) -> str:
        return "table"

    def compute(self, texts: list[str]) -> list[list[int]]:
        self.calls.append(texts)
        return [VECTORS[text] for text in texts]


@pytest.fixture
def table() -> Table:
    return Table()


def test_lme_is_clamped_cosine_distance_of_noisy_rows(table: Table) -> None:
    measured = LME(table).measure(["x"] * 6, ["x", "y", "xy", "-x", "0", "y"], [True] * 5 + [False])
    assert np.allclose(measured, [0, 1, 1 - math.sqrt(0.5), 1, 1, 0])
    assert table.calls == [["x", "y", "xy", "-x", "0"]], "each distinct text is embedded once"


def test_lme_works_in_chunks(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustlm.data.distortion._CHUNK", 2)
    assert np.allclose(LME(table).measure(["x", "y", "x"], ["y", "y", "xy"], [True] * 3), [1, 0, 1 - 0.5**0.5])
    assert len(table.calls) == 2


@pytest.mark.parametrize("distortion", [RBE(), LME()])
def test_nothing_noisy_is_no_distortion(distortion: Distortion) -> None:
    assert distortion.measure(["a", "b"], ["a", "b"], [False, False]).tolist() == [0, 0]
    assert distortion.measure([], [], []).tolist() == []
    assert distortion.normalise(distortion.compare([], [])).shape == (0,)


def test_lme_is_unbound_by_default() -> None:
    with pytest.raises(EmbeddingError, match="not bound"):
        LME().measure(["a"], ["b"], [True])


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 raw, 1 noisy and 1 flags"):
        RBE().measure(["a", "b"], ["a"], [True])
    with pytest.raises(ValueError, match="a flag for each of 2 distances, found 1"):
        beta(np.zeros(2), [True])


def test_beta_of_the_dataset_is_the_mean_over_noisy_rows() -> None:
    distances = np.array([0.2, 0.0, 0.6])
    assert np.allclose(beta(distances, [True, False, True]), [0.4, 0, 0.4])
    assert np.allclose(beta(distances, [True, False, True], scope="sample"), [0.2, 0, 0.6])
    assert beta(distances, [False] * 3).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="expected scope dataset or sample, found 'row'"):
        beta(distances, [True] * 3, scope="row")  # type: ignore[arg-type]


def test_configured_by_class_path() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--distortion", type=Distortion)
    prefix = "--distortion=robustlm.data.distortion"
    assert isinstance(parser.instantiate(parser.parse_args([f"{prefix}.RBE"])).distortion, RBE)
    lme = parser.instantiate(parser.parse_args([f"{prefix}.LME"])).distortion
    assert lme.embedder == TokenEmbedder()
    arguments = [
        f"{prefix}.LME",
        "--distortion.embedder=robustlm.data.embedders.OpenAIEmbedder",
        "--distortion.embedder.model=small",
        "--distortion.embedder.cache_dir=",
    ]
    parsed = parser.parse_args(arguments)
    assert "api_key_env: OPENAI_API_KEY" in parser.dump(parsed)
    lme = parser.instantiate(parsed).distortion
    assert lme.embedder == OpenAIEmbedder(model="small", cache_dir="")
