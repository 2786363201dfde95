"""Distortion against a naive computation, and β."""

import logging
import math
from typing import get_args

import jsonargparse
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robustlm.noise.base import KINDS, Noise
from robustlm.noise.distortion import LME, RBE, Distortion, Normalisation, beta
from robustlm.noise.embedders import Embedder, EmbeddingError, OpenAIEmbedder, StateEmbedder

texts = st.lists(st.sampled_from(["a", "b", "c", "d é"]), max_size=7).map(" ".join)
rows = st.lists(st.tuples(texts, texts, st.booleans()), max_size=8)


def edit_distance(a: list[str], b: list[str]) -> int:
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(change, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[len(a), len(b)]


@pytest.mark.parametrize("normalisation", get_args(Normalisation))
@given(rows=rows)
@example(rows=[("a b", "a c", True), ("a", "b", True), ("", "", True)])
@example(rows=[("", "", True)])
def test_rbe_is_the_naive_distance_normalised(normalisation: Normalisation, rows: list[tuple[str, str, bool]]) -> None:
    raw, noisy, flags = ([row[i] for row in rows] for i in range(3))
    measured = RBE(normalisation).measure(raw, noisy, flags)
    naive = [edit_distance(a.split(), b.split()) for a, b in zip(raw, noisy, strict=True)]
    counted = [d for d, flag in zip(naive, flags, strict=True) if flag]
    for row, flag in enumerate(flags):
        if not flag:
            expected = 0.0
        elif normalisation == "minmax" and max(counted) > min(counted):
            expected = (naive[row] - min(counted)) / (max(counted) - min(counted))
        else:
            expected = naive[row] / max(len(raw[row].split()), len(noisy[row].split()), 1)
        assert math.isclose(measured[row], expected)


@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=8), other=st.tuples(texts, texts), data=st.data())
def test_one_row_of_n_moves_beta_by_at_most_one_nth(
    rows: list[tuple[str, str]], other: tuple[str, str], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    changed = [*rows[:place], other, *rows[place + 1 :]]

    def beta_of(pairs: list[tuple[str, str]]) -> float:
        flags = [True] * len(pairs)
        return float(beta(RBE().measure([a for a, _ in pairs], [b for _, b in pairs], flags), flags)[0])

    assert abs(beta_of(changed) - beta_of(rows)) <= 1 / len(rows) + 1e-12


def test_one_row_of_other_distance_does_not_rescale_beta() -> None:
    words = [f"w{i}" for i in range(10)]
    raw = " ".join(words)
    two, one = " ".join(["x", "y", *words[2:]]), " ".join(["x", *words[1:]])
    flags = [True] * 1000

    def beta_of(normalisation: Normalisation, noisy: list[str]) -> float:
        return float(beta(RBE(normalisation).measure([raw] * 1000, noisy, flags), flags)[0])

    equal, differing = [two] * 1000, [two] * 999 + [one]
    assert beta_of("words", equal) == pytest.approx(0.2)
    assert beta_of("words", differing) == pytest.approx(0.1999)
    assert beta_of("minmax", equal) == pytest.approx(0.2)
    assert beta_of("minmax", differing) == pytest.approx(0.999), "[ANIT] eq. 1 as published"


def test_beta_is_stable_over_epochs() -> None:
    # nearly every row is two edits away; eq. 1 gave 0.998, 0.996, 0.994 and, in an epoch of equal distances, 0.127
    raw = ["Read the text and decide whether the answer to the question is yes or no."] * 500
    ids = [str(i) for i in range(len(raw))]
    found = []
    for epoch in range(4):
        batch = Noise("mixed", 0.1).apply(raw, ids, epoch=epoch)
        found.append(beta(RBE().measure(raw, batch.texts, batch.noisy), batch.noisy).max())
    assert max(found) - min(found) <= 0.02, found


def test_the_distortion_of_a_row_does_not_follow_its_length() -> None:
    short, long = [f"w{i}" for i in range(5)], [f"w{i}" for i in range(50)]
    raw = [" ".join(short), " ".join(long)]
    noisy = [" ".join(["x", *short[1:]]), " ".join([*["x"] * 10, *long[10:]])]  # a fifth of either
    assert RBE().measure(raw, noisy, [True, True]).tolist() == [0.2, 0.2]
    assert RBE("minmax").measure(raw, noisy, [True, True]).tolist() == [0.0, 1.0]


def test_minmax_says_once_that_it_cannot_normalise(caplog: pytest.LogCaptureFixture) -> None:
    rbe = RBE("minmax")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert rbe.measure(["a b c d"], ["a x c y"], [True]).tolist() == [0.5]
        assert RBE().measure(["a b c d"], ["a x c y"], [True]).tolist() == [0.5]
    assert [record.getMessage() for record in caplog.records] == [
        "RBE: all 1 noisy instructions are 2 word edits from the raw ones, so min-max normalisation is undefined; "
        "dividing by the number of words instead. This is another scale than in epochs whose distances differ; "
        "normalisation: words keeps one scale"
    ]


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match="normalisation is 'max'; expected one of words, minmax"):
        RBE("max")  # type: ignore[arg-type]


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
    monkeypatch.setattr("robustlm.noise.distortion._CHUNK", 2)
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
    prefix = "--distortion=robustlm.noise.distortion"
    assert isinstance(parser.instantiate(parser.parse_args([f"{prefix}.RBE"])).distortion, RBE)
    lme = parser.instantiate(parser.parse_args([f"{prefix}.LME"])).distortion
    assert lme.embedder == StateEmbedder()
    arguments = [
        f"{prefix}.LME",
        "--distortion.embedder=robustlm.noise.embedders.OpenAIEmbedder",
        "--distortion.embedder.model=small",
        "--distortion.embedder.cache_dir=",
    ]
    parsed = parser.parse_args(arguments)
    assert "api_key_env: OPENAI_API_KEY" in parser.dump(parsed)
    lme = parser.instantiate(parsed).distortion
    assert lme.embedder == OpenAIEmbedder(model="small", cache_dir="")
