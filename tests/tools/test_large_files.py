"""Commands that turn rows into rows: memory does not grow with the rows, and the output is that of rows in memory."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.endpoint import Endpoint
from robustlm.instructions.paraphrases import load_paraphrases
from robustlm.noise import pools
from robustlm.noise.base import Noise
from robustlm.noise.distortion import RBE
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.rows.writers import write_rows
from robustlm.sources import large, spilled, stored
from robustlm.sources.loading import load_all
from robustlm.sources.source import Source
from robustlm.tools import noise_rows, paraphrasing
from robustlm.tools.pairs import pair_rows, write_pairs

FEW, MANY = 60, 360
PADDING = " and then some more words" * 30


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What memory holds of any file, made small, so that few rows show what grows."""
    for module in (spilled, large):
        monkeypatch.setattr(module, "CHUNK", 20)
    monkeypatch.setattr(stored, "_KEPT", 20)
    monkeypatch.setattr(noise_rows, "_CHUNK", 20)
    monkeypatch.setattr(pools, "_POOLED_SAMPLES", 20)
    monkeypatch.setattr(paraphrasing, "_AHEAD", 4)


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"Do {i}{PADDING}.",
            "variant": f"Please {i}{PADDING}.",
            "text": f"t{i}{PADDING}",
            "target": "x",
        }
        for i in range(count)
    ]


def growth(run: Callable[[str], object], folder: Path) -> float:
    """Bytes of memory at the peak that a row more costs."""
    peaks = []
    for count in (FEW, MANY):
        file = str(folder / f"rows-{count}.jsonl")
        write_rows(file, rows(count))
        if not peaks:
            run(file)  # pays for imports
        tracemalloc.start()
        run(file)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (MANY - FEW)


def test_pairs_keep_numbers_alone(tmp_path: Path) -> None:
    assert len(json.dumps(rows(1)[0])) > 2000
    found = growth(lambda file: pair_rows([Source(file)], str(tmp_path / "out.jsonl")), tmp_path)
    assert found < 600
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []


def test_noise_keeps_two_numbers_of_a_row(tmp_path: Path) -> None:
    def run(file: str) -> None:
        noise_rows.noise_rows(file, str(tmp_path / "out.jsonl"), noise=Noise("deepwordbug"), distortion=RBE())

    assert growth(run, tmp_path) < 300


class Answering(paraphrasing.Paraphraser):
    """Has two paraphrases of everything and rejects one more."""

    def paraphrase(self, instruction: str) -> paraphrasing.Outcome:
        kept = [f"Please {instruction}", f"Now {instruction}"]
        return paraphrasing.Outcome(
            instruction, kept, [paraphrasing.Rejected(instruction, "No." + PADDING, "answer: no")]
        )


def test_paraphrases_wait_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paraphrasing, "Paraphraser", Answering)

    def run(file: str) -> paraphrasing.ParaphraseSummary:
        return paraphrasing.paraphrase(
            file, str(tmp_path / "out.jsonl"), endpoint=Endpoint("m", "http://127.0.0.1:9/v1"), cache_dir=None,
            question=paraphrasing.Question(count=3), rejected=str(tmp_path / "no.jsonl"), overwrite=True,
        )  # fmt: skip

    assert growth(run, tmp_path) < 600
    found = run(str(tmp_path / f"rows-{FEW}.jsonl"))
    assert (found.instructions, found.kept, found.reasons, found.short) == (FEW, 2 * FEW, {"answer": FEW}, FEW)
    assert list(load_paraphrases(found.output)) == [row["instruction"] for row in rows(FEW)]
    assert len((tmp_path / "no.jsonl").read_text().splitlines()) == FEW
    assert str(found).endswith("  … and 40 more")


# ------------------------------------------------------------------------------------------ the same output


PAIRS = {
    "robustlm": (["--seed", "1"], "5d98f121e05002869d0bb3ffb964dd34ad65413dfcb149d5e15f5c58f12d3e4a"),
    "coin": (
        ["--form", "coin", "--negatives", "2"],
        "a8a9baf4adc85211b8a7e42cea28616908316a1884fa7f5c7e68415c3a9218f3",
    ),
    "limited": (
        ["--negatives", "5", "--limit", "150", "--seed", "3"],
        "0e639439fd127067f21df9f6116ce80a88351eb832101c23a4100ac11c87dd98",
    ),
}
"""Options of `pairs`, and the SHA-256 of what it wrote when it held all rows in memory."""


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    """Rows with a bank, with variants and groups, and chats; ids name the folder."""
    folder = tmp_path / "gold"
    folder.mkdir()
    draw = random.Random(4)
    labels = ("yes", "no", "no", "maybe")
    lines: dict[str, list[dict[str, Any]]] = {
        "rows": [
            {"a": f"x{draw.randrange(300)}", "text": f"t {i % 250}", "label": draw.choice(labels)} for i in range(400)
        ],
        "more": [
            {"instruction": f"Say {i % 7}.", "text": f"é {i % 60}", "target": str(i % 5), "variant": f"Tell {i % 7}."}
            | ({"group": "g"} if i % 9 == 0 else {})
            for i in range(200)
        ],
        "chat": [
            {
                "messages": [
                    {"role": role, "content": f"say {i % 11} {role}"}
                    for role in ("system", "user", "assistant", "user", "assistant")
                ]
            }
            for i in range(60)
        ],
        "others": [{"instruction": f"say {i} user", "paraphrases": [f"Tell {i}.", f"Utter {i}."]} for i in range(11)],
    }
    for name, given in lines.items():
        write_rows(folder / f"{name}.jsonl", given)
    templates = ["{it} good?", "Is {it} good?", "Good: {it}?", "Well, is {it} good?", "So?"]
    (folder / "banks.json").write_text(json.dumps({"mine": templates}))
    return folder


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_those_of_rows_in_memory(name: str, gold: Path) -> None:
    options, digest = PAIRS[name]
    output = gold / f"{name}.jsonl"
    more = json.dumps([str(gold / "more.jsonl"), str(gold / "chat.jsonl")])
    given = ["--bank", f"{gold}/banks.json#mine", "--fields", "{it: a}", "--more", more]
    main(["pairs", f"{gold}/rows.jsonl", str(output), *given, "--paraphrases", f"{gold}/others.jsonl", *options])
    assert sha256(output.read_bytes()).hexdigest() == digest


def test_several_processes_write_what_one_writes(gold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [Source(str(gold / "more.jsonl")), Source("builtin:quickstart", limit=30)]
    write_pairs(load_all(sources, "train"), str(gold / "memory.jsonl"))
    monkeypatch.setattr(large, "sensible_processes", lambda: 2)
    monkeypatch.setattr(large, "_SMALL", 0)
    pair_rows(sources, str(gold / "file.jsonl"))
    assert (gold / "file.jsonl").read_bytes() == (gold / "memory.jsonl").read_bytes()


def test_nothing_is_left_of_pairs_of_bad_rows(gold: Path) -> None:
    before = sorted(path.name for path in gold.iterdir())
    source = Source(str(gold / "more.jsonl"))
    with pytest.raises(SourceError, match=r"the sample id '.*' occurs in two sources; was one listed twice\?"):
        pair_rows([source, source], str(gold / "out.jsonl"))
    with open(gold / "more.jsonl", "a", encoding="utf-8") as file:
        file.write('{"instruction": "a"}\n')
    with pytest.raises(BadRowsError, match=r"more\.jsonl:201: no answer"):
        pair_rows([source], str(gold / "out.jsonl"))
    assert sorted(path.name for path in gold.iterdir()) == before
