from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from robustlm.instructions.banks import InstructionBank, known_banks, load_bank
from robustlm.sample import Sample
from robustlm.tasks import TASKS

BANK: dict[str, Any] = {
    "task": "mine",
    "concise": {"seen": ["Do.", "Do it."], "unseen": ["Get it done."]},
    "detailed": {"seen": ["Do it, and do it well."]},
}


def put(tmp_path: Path, data: Any) -> str:
    path = tmp_path / "bank.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


@pytest.mark.parametrize("name", [name for name in known_banks() if "/" not in name])
def test_packaged_banks_are_rich_enough(name: str) -> None:
    bank = InstructionBank.load(name)
    assert bank.name == name
    for version, seen, unseen in (("concise", 6, 4), ("detailed", 5, 3)):
        assert len(bank.phrasings(version, "seen")) >= seen  # type: ignore[arg-type]
        assert len(bank.phrasings(version, "unseen")) >= unseen  # type: ignore[arg-type]
    everything = bank.phrasings()
    assert len({instruction.id for instruction in everything}) == len(everything)
    assert all(len(instruction.text.split()) >= 3 for instruction in everything)


@pytest.mark.parametrize("name", [name for name in known_banks() if "/" not in name])
def test_unseen_phrasings_are_told_apart_from_seen_ones(name: str) -> None:
    bank = InstructionBank.load(name)

    def words(text: str) -> set[str]:
        return set(text.lower().replace(".", " ").replace(",", " ").replace("?", " ").split())

    seen = [words(instruction.text) for instruction in bank.phrasings("both", "seen")]
    for instruction in bank.phrasings("both", "unseen"):
        own = words(instruction.text)
        assert max(len(own & other) / len(own | other) for other in seen) < 0.5, instruction


def test_every_task_with_rows_of_its_own_has_a_bank() -> None:
    assert {task.name for task in TASKS.values() if task.keys} <= set(known_banks())


def test_phrasings_by_version_and_split(tmp_path: Path) -> None:
    bank = InstructionBank.load(put(tmp_path, BANK))
    assert [(i.id, i.text) for i in bank.phrasings()] == [
        ("mine/concise/seen/0", "Do."),
        ("mine/concise/seen/1", "Do it."),
        ("mine/concise/unseen/0", "Get it done."),
        ("mine/detailed/seen/0", "Do it, and do it well."),
    ]
    assert [i.text for i in bank.phrasings("concise", "unseen")] == ["Get it done."]
    assert [i.text for i in bank.phrasings("both", "seen")] == ["Do.", "Do it.", "Do it, and do it well."]
    with pytest.raises(ValueError, match="'mine': no unseen phrasings of version detailed"):
        bank.phrasings("detailed", "unseen")
    with pytest.raises(ValueError, match="version: found 'long'; expected one of concise"):
        bank.phrasings("long")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split: found 'train'; expected one of seen"):
        bank.phrasings("both", "train")  # type: ignore[arg-type]


def test_assign_is_a_fixed_function_of_seed_and_id() -> None:
    bank = InstructionBank.load("ner")
    samples = [Sample(f"set/train:{i}", "", "None", bank="ner") for i in range(3000)]
    chosen = [bank.assign(sample, "concise", "seen", seed=1) for sample in samples]
    assert chosen == [bank.assign(sample, "concise", "seen", seed=1) for sample in reversed(samples)][::-1]
    assert chosen != [bank.assign(sample, "concise", "seen", seed=2) for sample in samples]
    assert {sample.id for sample in chosen} == {sample.id for sample in samples}
    texts = {instruction.id: instruction.text for instruction in bank.phrasings("concise", "seen")}
    assert all(texts[sample.instruction_id] == sample.instruction for sample in chosen)
    counts = Counter(sample.instruction_id for sample in chosen)
    expected = len(samples) / len(texts)
    # chi squared with 6 degrees of freedom: 22.5 is passed once in a thousand draws
    assert sum((counts[id] - expected) ** 2 / expected for id in texts) < 22.5


def test_assign_does_not_change_from_one_release_to_the_next(tmp_path: Path) -> None:
    bank = InstructionBank.load(put(tmp_path, BANK))
    ids = [bank.assign(Sample(f"s:{i}", "", "y"), "concise", "seen").instruction_id[-1] for i in range(8)]
    assert "".join(ids) == "00000110"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{", "no UTF-8 JSON"),
        ([1], "found list; expected an object with keys task, concise, detailed"),
        ({"concise": {}}, "task: found None; expected a non-empty string"),
        (BANK | {"short": {}}, "found key 'short'; expected task, concise, detailed"),
        (BANK | {"concise": {"train": []}}, "concise: found key 'train'; expected seen, unseen"),
        (BANK | {"concise": ["Do."]}, "concise: found list; expected an object"),
        (BANK | {"concise": {"seen": "Do."}}, "concise.seen: found str; expected a list"),
        (BANK | {"concise": {"seen": ["Do.", " "]}}, r"concise.seen\[1\]: found ' '; expected a non-empty"),
        (
            BANK | {"concise": {"seen": ["Do."], "unseen": ["do. "]}},
            r"concise.unseen\[0\]: found the phrasing of concise.seen\[0\] again",
        ),
    ],
)
def test_malformed_banks_name_file_and_key(tmp_path: Path, data: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        InstructionBank.load(put(tmp_path, data))
    assert "bank.json" in str(caught.value)


MANY: dict[str, Any] = {
    "rte": [
        "{premise} So {hypothesis}?",
        {"input": "Does {premise} mean {hypothesis}?", "target": "{answer}"},
        {"input": "Make up a premise.", "target": "{premise}"},
        {"input": "does {premise} mean\n{hypothesis}?", "target": "{answer}"},
        "Third. {options_}",
        "Fourth.",
        "Fifth.",
    ],
    "few": ["One.", "Two.", "Three."],
    "split": {"seen": ["One.", {"input": "Two.", "target": "{answer}"}], "unseen": ["Three."]},
}


def test_a_file_of_many_banks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = put(tmp_path, MANY)
    for _ in range(2):
        bank = InstructionBank.load(f"{path}#rte")
    assert [(i.id, i.text) for i in bank.phrasings()] == [
        ("rte/concise/seen/0", "{premise} So {hypothesis}?"),
        ("rte/concise/seen/1", "Does {premise} mean {hypothesis}?"),
        ("rte/concise/seen/2", "Third. {options_}"),
        ("rte/concise/unseen/0", "Fourth."),
        ("rte/concise/unseen/1", "Fifth."),
    ]
    assert bank.slots == ["premise", "hypothesis", "options_"]
    assert bank.assign(Sample("a", "", "y"), "concise", "unseen").instruction in ("Fourth.", "Fifth.")
    with pytest.raises(ValueError, match="'rte': no all phrasings of version detailed"):
        bank.phrasings("detailed")
    messages = [record.message for record in caplog.records]
    assert messages == [
        f"{path}#rte: left out 1 of 7 templates, whose target is not {{answer}}",
        f"{path}#rte: left out 1 of 7 templates, which repeat another",
    ], "said once"
    few = InstructionBank.load(f"{path}#few")
    assert [i.id for i in few.phrasings()] == [f"few/concise/seen/{i}" for i in range(3)]
    with pytest.raises(ValueError, match="'few': no unseen phrasings"):
        few.phrasings("both", "unseen")
    ids = [i.id for i in InstructionBank.load(f"{path}#split").phrasings()]
    assert ids == ["split/concise/seen/0", "split/concise/seen/1", "split/concise/unseen/0"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{", "no UTF-8 JSON"),
        ([1], "found list; expected an object of instruction banks by name"),
        ({"a": [], "c": []}, "found no bank 'b'; expected one of a, c"),
        ({"b": 3}, "#b: found int; expected a list of templates, or an object with keys seen, unseen"),
        ({"b": {"train": []}}, "#b: found key 'train'; expected seen, unseen"),
        ({"b": {"seen": "x"}}, "#b: seen: found str; expected a list of templates"),
        ({"b": ["x", 3]}, r"#b\[1\]: found 3; expected a non-empty string"),
        ({"b": [{"input": "x"}]}, r"#b\[0\].target: found None; expected a non-empty string"),
        ({"b": [{"input": "x", "output": "y"}]}, r"#b\[0\]: found key 'output'; expected input, target"),
        ({"b": [{"input": "x", "target": "y"}]}, "#b: found no template for the target {answer}"),
        ({"b": {"seen": ["x"], "unseen": ["X "]}}, "#b: found 'X' among seen and unseen"),
    ],
)
def test_malformed_files_of_banks_name_file_and_key(tmp_path: Path, data: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        InstructionBank.load(put(tmp_path, data) + "#b")
    assert "bank.json" in str(caught.value)


def test_unknown_banks() -> None:
    with pytest.raises(ValueError, match=r"found 'poetry'; expected a JSON file or one of absa, .*yes_no"):
        InstructionBank.load("poetry")
    with pytest.raises(ValueError, match=r"poetry.json: no such file"):
        InstructionBank.load("poetry.json")
    with pytest.raises(ValueError, match=r"poetry.json: cannot be read \(No such file"):
        InstructionBank.load("poetry.json#haiku")


@pytest.mark.parametrize(("share", "seen"), [(None, 4), (0, 6), (1, 0), (0.5, 3), (0.25, 4), (0.01, 6), (0.99, 0)])
def test_a_list_is_divided_as_asked(share: float | None, seen: int, tmp_path: Path) -> None:
    file = tmp_path / "banks.json"
    file.write_text(json.dumps({"six": [f"Do {i}." for i in range(6)], "own": {"seen": ["Do."], "unseen": ["Go."]}}))
    bank = InstructionBank.load(f"{file}#six", share)
    ids = [one.id for one in bank.instructions]
    assert ids == [f"six/concise/{'seen' if i < seen else 'unseen'}/{i if i < seen else i - seen}" for i in range(6)]
    assert bank.division == f"{file}#six: of 6 templates the first {seen} are seen and the last {6 - seen} unseen"
    assert (bank.has("seen"), bank.has("unseen")) == (seen > 0, seen < 6)
    for split, lacking in (("seen", seen == 0), ("unseen", seen == 6)):
        if lacking:
            with pytest.raises(ValueError, match=rf"no {split} phrasings .*divide the list in another way"):
                bank.phrasings("both", split)  # type: ignore[arg-type]
    own = InstructionBank.load(f"{file}#own", share)
    assert (len(own.phrasings(split="seen")), len(own.phrasings(split="unseen")), own.division) == (1, 1, None)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_that_cannot_be(share: float) -> None:
    with pytest.raises(ValueError, match=r"unseen_share: found .*; expected a share"):
        InstructionBank.load("ner", share)


def test_a_bank_is_read_anew_when_its_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "banks.json"
    monkeypatch.chdir(tmp_path)
    for texts in (["Do it.", "Do that."], ["Do something else."]):
        file.write_text(json.dumps({"mine": texts}))
        first = load_bank("banks.json#mine")
        assert [one.text for one in first.instructions] == texts
        assert load_bank("banks.json#mine") is first
    assert load_bank("ner") is load_bank("ner")
    with pytest.raises(ValueError, match="cannot be read"):
        load_bank("others.json#mine")
