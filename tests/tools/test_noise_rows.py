"""Noise on files: what is kept, what is added, what is refused."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustlm.instructions.banks import InstructionBank
from robustlm.noise.base import MIXED_KINDS, Noise
from robustlm.noise.distortion import LME, RBE, Floats
from robustlm.noise.edits import replay
from robustlm.noise.embedders import TokenEmbedder
from robustlm.noise.pools import build_pools, padding_text
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.rows.readers import iter_rows
from robustlm.sources.samples import load_samples
from robustlm.tools import noise_rows as module
from robustlm.tools.noise_rows import noise_rows


def alpaca(n: int) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"Tell in one word what the text number {i} below is about",
            "input": f"t{i} u{i} v{i}",
        }
        | {"output": "news", "extra": {"kept": [i]}}
        for i in range(n)
    ]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [row.data for row in iter_rows(str(path))]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)


def test_rows_keep_their_fields_and_gain_three(tmp_path: Path) -> None:
    rows = alpaca(50)
    output = tmp_path / "out.jsonl"
    summary = noise_rows(
        write(tmp_path / "in.jsonl", rows),
        str(output),
        noise=Noise(phi=0.5, weights=dict.fromkeys(MIXED_KINDS, 1.0)),
        distortion=RBE("minmax"),
        seed=1,
        epoch=2,
    )
    written = read(output)
    assert [{key: row[key] for key in rows[0]} for row in written] == rows
    noisy = [row for row in written if row["noise_kind"] != "clean"]
    assert 10 < len(noisy) < 40
    for row in written:
        changed = row["variant"] != row["instruction"]
        assert changed == (row in noisy)
        assert 0 <= row["distortion"] <= 1
        assert changed or row["distortion"] == 0
    assert {row["distortion"] for row in noisy} >= {0.0, 1.0}, "normalised over the whole file"
    assert summary.rows == 50
    assert summary.noisy == len(noisy)
    assert summary.mean == pytest.approx(np.mean([row["distortion"] for row in noisy]))
    assert str(summary).startswith(f"{output}: 50 rows, {len(noisy)} of them noisy (")
    assert "mean (β) 0." in str(summary)


def test_the_noise_is_the_one_of_training(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", alpaca(30))
    noise_rows(path, str(tmp_path / "out.jsonl"), noise=Noise(), distortion=RBE(), seed=5, epoch=3)
    samples = load_samples(path)
    pools = build_pools(samples)
    batch = Noise().apply(
        [sample.instruction for sample in samples],
        [sample.id for sample in samples],
        seed=5,
        epoch=3,
        vocabulary=pools.vocabulary,
        contexts=pools.contexts,
        own=[padding_text(sample) for sample in samples],
        requests=[True] * 30,
    )
    assert [row["variant"] for row in read(tmp_path / "out.jsonl")] == batch.texts


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (
            {"instruction": "Say it all again", "adv_instruction": "old", "output": "x", "input": "y"},
            "adv_instruction",
        ),
        ({"instruction": "Say it all again", "target": "x"}, "variant"),
        ({"prompt": "Say it all again", "completion": "x"}, "variant"),
        ({"instruction": "Say it all again"}, "variant"),
        ({"instruction": "Say it all again", "tokens": ["a", "b"], "ner_tags": ["O", "O"]}, "variant"),
    ],
)
def test_every_shape_with_an_instruction(tmp_path: Path, row: dict[str, Any], field: str) -> None:
    output = tmp_path / "out.jsonl"
    noise_rows(write(tmp_path / "in.jsonl", [row]), str(output), noise=Noise("random_typos"), distortion=RBE())
    [written] = read(output)
    assert set(written) == set(row) | {field, "noise_kind", "distortion"}
    assert written[field] not in ("old", "Say it all again")
    assert written["noise_kind"] == "random_typos"
    assert written["distortion"] == 0.25


def test_messages(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Say it all again"}, {"role": "assistant", "content": "x"}]
    output = tmp_path / "out.jsonl"
    path = write(tmp_path / "in.jsonl", [{"messages": turns}])
    noise_rows(path, str(output), noise=Noise("random_truncation"), distortion=RBE())
    [written] = read(output)
    assert written["messages"] == turns
    assert len(written["variant"].split()) == 3


@pytest.mark.parametrize("ending", ["csv", "json", "parquet", "jsonl.gz"])
def test_every_kind_of_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["instruction", "output"], ["Say it all again", "x"], ["And now once more", "y"]])
    output = tmp_path / f"out.{ending}"
    assert noise_rows(str(path), str(output), noise=Noise(), distortion=RBE()).rows == 2
    assert [list(row) for row in read(output)] == [["instruction", "output", "variant", "noise_kind", "distortion"]] * 2


def test_output_may_be_the_input(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", alpaca(20))
    for _ in range(2):
        noise_rows(path, path, noise=Noise(), distortion=RBE())
    assert len(read(tmp_path / "in.jsonl")) == 20


def test_embedding_distortion(tmp_path: Path) -> None:
    embedder = TokenEmbedder()
    embedder.bind(lambda texts: [[len(text), 10.0] for text in texts])
    path = write(tmp_path / "in.jsonl", alpaca(20))
    noise = Noise("random_truncation", omega=0.9)
    summary = noise_rows(path, str(tmp_path / "out.jsonl"), noise=noise, distortion=LME(embedder))
    assert 0 < summary.low <= summary.mean <= summary.high < 1


def test_nothing_noisy(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", alpaca(3))
    summary = noise_rows(path, str(tmp_path / "out.jsonl"), noise=Noise(phi=0), distortion=RBE())
    assert (summary.rows, summary.noisy, summary.mean) == (3, 0, 0)
    assert "kinds: none" in str(summary)


def test_rows_without_instruction_are_refused_with_advice(tmp_path: Path) -> None:
    rows = [*alpaca(1), {"tokens": ["a"], "ner_tags": ["O"]}, {"instruction": " ", "output": "x"}]
    path = write(tmp_path / "in.jsonl", rows)
    with pytest.raises(BadRowsError) as caught:
        noise_rows(path, str(tmp_path / "out.jsonl"), noise=Noise(), distortion=RBE())
    message = str(caught.value)
    assert "2 of 3 rows cannot be used" in message
    assert f"{path}:2: no instruction: found keys tokens, ner_tags" in message
    assert f"{path}:3: empty instruction" in message
    assert "InstructionBank.load('ner')" in message
    assert [item.name for item in tmp_path.iterdir()] == ["in.jsonl"], "nothing is written"


def test_many_bad_rows_end_the_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", [{"text": "x"}] * 1500)
    with pytest.raises(BadRowsError, match="1000 of 1000 rows"):
        noise_rows(path, str(tmp_path / "out.jsonl"), noise=Noise(), distortion=RBE())


def test_unknown_ending_is_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="unknown kind of file"):
        noise_rows(str(tmp_path / "missing.jsonl"), str(tmp_path / "out.txt"), noise=Noise(), distortion=RBE())


@pytest.mark.parametrize("rows_after", [5, 9])
def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path, rows_after: int) -> None:
    path = tmp_path / "in.jsonl"

    class Meddling(RBE):
        def normalise(self, pairs: Floats) -> Floats:
            write(path, alpaca(rows_after))
            return super().normalise(pairs)

    write(path, alpaca(7))
    with pytest.raises(SourceError, match="found other rows than at the first reading"):
        noise_rows(str(path), str(tmp_path / "out.jsonl"), noise=Noise(), distortion=Meddling())


def test_slots_are_kept(tmp_path: Path) -> None:
    row = {"instruction": "{a}\nDoes it follow that {b} ?", "fields": {"a": "x", "b": "y"}, "target": "z"}
    output = tmp_path / "out.jsonl"
    noise_rows(write(tmp_path / "in.jsonl", [row] * 20), str(output), noise=Noise(omega=0.9), distortion=RBE())
    for written in read(output):
        assert written["variant"].startswith("{a}\n")
        assert written["variant"].count("{b}") == 1
        assert written["variant"] != row["instruction"]


def test_a_manifest_says_what_was_done(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "instruction": "{a}\nDoes it follow that {b} ?",
            "fields": {"a": "x", "b": "y"},
            "target": "z",
            "id": "s",
        },
        {"instruction": "Classify the text as good or bad .", "target": "good", "choices": ["good", "bad"]},
        *alpaca(20),
    ]
    path = write(tmp_path / "in.jsonl", rows)
    outputs = [tmp_path / "out.jsonl", tmp_path / "again.jsonl"]
    manifest = tmp_path / "manifest.jsonl.gz"
    noise = Noise(omega=0.4, phi=0.8, protect=True)
    noise_rows(path, str(outputs[0]), noise=noise, distortion=RBE(), manifest=str(manifest))
    noise_rows(path, str(outputs[1]), noise=noise, distortion=RBE())
    assert outputs[0].read_bytes() == outputs[1].read_bytes(), "writing it down changes nothing"
    notes = read(manifest)
    assert len(notes) == len(rows)
    for row, note in zip(read(outputs[0]), notes, strict=True):
        assert note["instruction"] == row["instruction"]
        assert note["kind"] == row["noise_kind"]
        assert replay(note["instruction"], note["edits"], note.get("slots", ())) == row["variant"]
    assert notes[0]["id"] == "s"
    assert notes[0]["slots"] == ["a", "b"]
    assert [word for word in read(outputs[0])[1]["variant"].split() if word in ("good", "bad")] == ["good", "bad"]


@pytest.mark.parametrize(("name", "message"), [("m.csv", "ends in .jsonl"), ("in.jsonl", "found the file of the rows")])
def test_a_manifest_has_a_file_of_its_own(tmp_path: Path, name: str, message: str) -> None:
    path = write(tmp_path / "in.jsonl", alpaca(2))
    with pytest.raises(SourceError, match=message):
        noise_rows(path, str(tmp_path / "o.csv"), noise=Noise(), distortion=RBE(), manifest=str(tmp_path / name))


def test_rows_take_their_instructions_from_a_bank(tmp_path: Path) -> None:
    rows = [{"id": str(i), "tokens": ["Ada", "ran"], "ner_tags": ["B-PER", "O"]} for i in range(20)]
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    noise_rows(str(file), str(out), noise=Noise("random_typos"), distortion=RBE(), seed=3, bank="ner")
    written = [json.loads(line) for line in out.read_text().splitlines()]
    seen = {phrasing.text for phrasing in InstructionBank.load("ner").phrasings(split="seen")}
    assert len({row["instruction"] for row in written} & seen) > 5
    assert {row["instruction"] for row in written} <= seen
    assert all(row["variant"] != row["instruction"] and row["tokens"] == ["Ada", "ran"] for row in written)
    again = tmp_path / "again.jsonl"
    noise_rows(str(out), str(again), noise=Noise("random_typos"), distortion=RBE(), seed=3, bank="ner")
    assert again.read_text() == out.read_text(), "in place of the rows' own, the same for the same seed"


def test_a_bank_that_rows_cannot_take_is_refused(tmp_path: Path) -> None:
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    messages = [{"role": "user", "content": "Name it."}, {"role": "assistant", "content": "x"}]
    file.write_text(json.dumps({"messages": messages}) + "\n")
    (tmp_path / "many.json").write_text('{"nli": ["Does {premise} hold?"], "qa": ["Answer it."]}')
    fixed = {"noise": Noise(), "distortion": RBE()}
    for bank, message in (
        ("nothing", "instruction bank: found 'nothing'"),
        (f"{tmp_path / 'many.json'}#nli", r"--bank: .*#nli has placeholders \(premise\)"),
        (f"{tmp_path / 'many.json'}#qa", "found the instruction 'Name it.' outside of the field"),
    ):
        with pytest.raises(ValueError, match=message):
            noise_rows(str(file), str(out), bank=bank, **fixed)  # type: ignore[arg-type]
        assert not out.exists()
