"""Rows and instructions of Sun et al. 2023, for the studies `align_…`: `python -m benchmarks.alignment FOLDER`.

MMLU and the 14 tasks of BIG-bench lite that the paper asks. For each collection that a model may have been tuned on
(FLAN, T0, Alpaca), the folder gets a file of instruction banks. In a bank, `seen` are all observed instructions, and
the lists are the paper's types: `closest`, those of the observed task nearest to the asked one; `incorrect`, those of
a completely different task whose answers are options too; `negated`, the closest, negated; `designer`, those of the
task's author; and `collected`, newly written ones. `nonsensical` ones are made when they are asked.

Rows and instructions are read from `$ROBUSTLM_DATA`: `bbl_<task>/test.jsonl.gz` of the tasks (those that are missing
are named and left out) and `instructions/`. `FOLDER/rows` gets the rows, with the fields that templates show.

Which tasks, which instructions of which group: Sun et al., sec. 4.1 to 4.3, tables 1 and 2, and the code they released
(github.com/jiudingsun01/InstructionEval). The paper chose the closest task by hand, for seven tasks of its own; here
it is the one whose words are nearest to the collected instructions (TF-IDF, cosine). Negation is by rule. Options are
scored by their texts, also where a template asks for a letter. Of logical deduction, only the five objects that its
templates speak of are asked. Tasks without a dev split keep the rows of their first five questions as examples.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import string
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from robustlm.conditions.misleading import negated
from robustlm.instructions.slots import literal, slots

MMLU = "mmlu"
GROUPS: dict[str, tuple[str, ...]] = {
    "MMLU": (MMLU,),
    "BBL-QA": (
        "bbl_bbq_lite_json", "bbl_code_line_description", "bbl_conceptual_combinations", "bbl_hindu_knowledge",
        "bbl_known_unknowns", "bbl_logic_grid_puzzle", "bbl_logical_deduction", "bbl_novel_concepts",
    ),
    "BBL-MC": ("bbl_language_identification", "bbl_vitaminc_fact_verification"),
    "BBL-BC": (
        "bbl_play_dialog_same_or_different", "bbl_strange_stories", "bbl_strategyqa", "bbl_winowhy",
    ),
}  # fmt: skip
"""The study's tasks by kind: questions with options, classes, and two classes."""
COLLECTIONS = ("FLAN", "T0", "Alpaca")
DEFINITIONS: dict[str, tuple[str, ...]] = {
    "QA": ("73_commonsense_qa", "1420_mathqa_other", "1286_openbook_qa", "1565_trivia_qa_classification",
           "229_arc_qa_hard"),
    "MC": ("1135_xcsr_classification", "900_freebase_category_classification"),
    "BC": ("56_multirc_classification",),
}  # fmt: skip
"""Tasks of Super-NaturalInstructions, a part of FLAN's collection, whose definitions the study takes for each kind.
Each stands in ten templates, so that FLAN has 50 for questions."""
TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "FLAN": {"QA": (), "MC": (), "BC": ("multirc_",)},
    "T0": {"QA": ("t0_arc_challenge_", "t0_cos_e_", "t0_openbookqa_"), "MC": ("t0_dbpedia_",),
           "BC": ("t0_super_glue_multirc_",)},
    "Alpaca": {"QA": ("alpaca_multiple_choice_",), "MC": ("alpaca_multiple_choice_",), "BC": ("alpaca_binary_",)},
}  # fmt: skip
INCORRECT: dict[str, tuple[str, ...]] = {
    "FLAN": ("sentiment140_", "trec_"),
    "T0": ("t0_dbpedia_1", "t0_dbpedia_2"),
    "Alpaca": ("alpaca_dialog_",),
}
"""Observed instructions for the sentiment of a tweet, the type of a question, a topic, the speaker of a line: another
task than any that is asked, whose answers are options too."""
OF_MMLU = "Multiple choice questions about {domain} follow, each with its answer."
"""In the sense of the line that MMLU's designers write above its questions, which the data lacks."""
_SLOTS = {
    "text": "question", "context": "question", "answer": "response", "correct_answer": "response",
    "option_space_in_instruction1": "option_space_in_instruction",
    "option_space_in_instruction2": "option_space_in_instruction",
}  # fmt: skip
"""What collections call the parts of their own rows, by the names that these parts have here."""
_FIELDS = {"question", "options_", "response", "option_space_in_instruction", "num"}
_HELD = 5
"""Questions of a task without a dev split that are kept apart as examples."""


def observed(given: Mapping[str, Any], collection: str, kind: str) -> dict[str, list[str]]:
    """The instructions of a collection for a kind of task, by the task that they are observed with."""
    found: dict[str, list[str]] = defaultdict(list)
    if collection == "FLAN":
        around = list(given["NIV2"]["templates"].values())
        for name in DEFINITIONS[kind]:
            task = given["NIV2"]["task_definitions"].get(f"niv2_{name}")
            if task is not None:
                inputs = task["input"] or "{question}"
                found[name] = [
                    shown(one.replace("{definition}", task["definition"].strip()).replace("{inputs}", inputs))
                    for one in around
                ]
    for name, text in given[collection].items():
        if name.startswith(TEMPLATES[collection][kind]) and set(slots(shown(text))) <= _FIELDS:
            found[name.rpartition("_")[0]].append(shown(text))
    return {name: list(dict.fromkeys(texts)) for name, texts in found.items()}


def shown(template: str) -> str:
    """A template under the names of our rows' fields, without the passage that no task here has beside its question."""
    for theirs, ours in _SLOTS.items():
        template = template.replace(f"{{{theirs}}}", f"{{{ours}}}")
    return template.replace("{paragraph}", "").strip()


def nearest(collected: Sequence[str], tasks: Mapping[str, Sequence[str]]) -> str:
    """The observed task whose instructions have most in common with the collected ones of a task."""
    words = {name: Counter(_words(texts)) for name, texts in tasks.items()}
    own = Counter(_words(collected))
    spread = Counter(word for count in (own, *words.values()) for word in count)
    weight = {word: math.log((2 + len(words)) / (1 + number)) + 1 for word, number in spread.items()}

    def cosine(other: Counter[str]) -> float:
        sizes = [math.hypot(*(weight[word] * count for word, count in one.items())) for one in (own, other)]
        return sum(weight[word] ** 2 * own[word] * other[word] for word in own) / (math.prod(sizes) or 1.0)

    return max(sorted(words), key=lambda name: cosine(words[name]))


def _words(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for one in literal(text, slots(text)).lower().split() if (word := one.strip(_MARKS))]


_MARKS = string.punctuation


def banks(folder: Path, collection: str, tasks: Mapping[str, str]) -> dict[str, Any]:
    """A bank for each task, with a list for each type of instructions; `tasks` gives the kind of each."""
    given = _json(folder / "instructioneval_observed.json")
    written = _json(folder / "instructioneval_unobserved.json")
    designed = _json(folder / "bbl_task_descriptions.json")
    form = "alpaca_instructions" if collection == "Alpaca" else "templates"
    incorrect = [shown(text) for name, text in given[collection].items() if name.startswith(INCORRECT[collection])]
    found = {}
    for task, kind in tasks.items():
        own = observed(given, collection, kind)
        texts = _in_turn(*own.values())
        collected = list(chain.from_iterable(written[name][form] for name in _written(task, written)))
        closest = own[nearest(collected, own)]
        described = designed.get(task, {})
        described = described.get("subtasks", {}).get("five_objects", described)
        lists = {
            "closest": closest,
            "incorrect": incorrect,
            "negated": [negated(text) for text in closest],
            "designer": list(described.values()) or [OF_MMLU],
            "collected": collected,
        }
        found[task] = {"seen": texts, "lists": lists}
    return found


def _written(task: str, written: Mapping[str, Any]) -> list[str]:
    names = ("mmlu_general", "mmlu_specific") if task == MMLU else (task,)
    return [name for name in names if name in written]


def _in_turn(*lists: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(text for texts in zip_longest(*lists) for text in texts if text))


def present(data: Path) -> tuple[dict[str, str], list[str]]:
    """The kind of each task that can be asked, and a line for each that cannot."""
    written = _json(data / "instructions" / "instructioneval_unobserved.json")
    designed = _json(data / "instructions" / "bbl_task_descriptions.json")
    tasks, missing = {}, []
    for group, names in GROUPS.items():
        for task in names:
            file = data / task / "test.jsonl.gz"
            if not file.is_file():
                missing.append(f"{task} ({group}): no {file}")
            elif not _written(task, written):
                missing.append(f"{task} ({group}): no collected instructions in instructioneval_unobserved.json")
            elif task != MMLU and task not in designed:
                missing.append(f"{task} ({group}): no designer's instruction in bbl_task_descriptions.json")
            else:
                tasks[task] = "QA" if task == MMLU else group.removeprefix("BBL-")
    return tasks, missing


def undefined(data: Path, kinds: Collection[str]) -> list[str]:
    """Definitions of the study's that the file of observed instructions lacks, ten instructions each."""
    known = _json(data / "instructions" / "instructioneval_observed.json")["NIV2"]["task_definitions"]
    return [
        f"niv2_{name} ({kind})" for kind in sorted(kinds) for name in DEFINITIONS[kind] if f"niv2_{name}" not in known
    ]


def rows(file: Path, task: str) -> Iterator[dict[str, Any]]:
    """A split's rows, with every field that a template may show."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            row = json.loads(line)
            if row.get("subtask", "five_objects") != "five_objects":
                continue
            lettered = dict(zip(string.ascii_uppercase, row["choices"], strict=False))
            quoted = [f'"{letter}"' for letter in lettered]
            yield {
                "id": f"{task}/{file.name.partition('.')[0]}:{number}",
                "question": row["question"],
                "choices": row["choices"],
                "answer": row["answer"],
                "options_": "\n".join(f"({letter}) {choice}" for letter, choice in lettered.items()),
                "domain": row.get("subject", task.removeprefix("bbl_")).replace("_", " "),
                "response": row["choices"][0],
                "option_space_in_instruction": ", ".join(quoted[:-1]) + f" and {quoted[-1]}",
                "num": str(len(quoted)),
                **{f"choice{letter}": choice for letter, choice in lettered.items()},
            }


def prepare(data: Path, folder: Path, collection: str, tasks: Mapping[str, str]) -> Path:
    """Write banks and rows; the file of the banks. Tasks without a dev split keep some questions apart for one."""
    file = folder / collection / "banks.json"
    found = banks(data / "instructions", collection, tasks)
    _write(file, json.dumps(found, indent=1, ensure_ascii=False))
    for task in tasks:
        splits = {"test": list(rows(data / task / "test.jsonl.gz", task))}
        dev = data / task / "dev.jsonl.gz"
        if dev.is_file():
            splits["dev"] = list(rows(dev, task))
        else:
            held = list(dict.fromkeys(row["question"] for row in splits["test"]))[:_HELD]
            splits["dev"] = [row for row in splits["test"] if row["question"] in held]
            splits["test"] = [row for row in splits["test"] if row["question"] not in held]
        for split, of in splits.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in of)
            _write(folder / "rows" / task / f"{split}.jsonl", "".join(lines))
    return file


def _json(file: Path) -> Any:
    return json.loads(file.read_bytes())


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, file)


def write(data: Path, folder: Path) -> None:
    """Write rows and banks, and say which tasks and instructions are missing.

    Raises:
        ValueError: None of the tasks is there.
    """
    tasks, missing = present(data)
    count = sum(map(len, GROUPS.values()))
    missing += [f"observed definition {one}" for one in undefined(data, set(tasks.values()))]
    print(f"tasks: {len(tasks)} of {count} ({', '.join(tasks)})")
    print("\n".join(f"missing: {one}" for one in missing))
    if not tasks:
        raise ValueError(f"{data} holds none of the tasks; expected <task>/test.jsonl.gz of at least one")
    for collection in COLLECTIONS:
        print(f"banks: {prepare(data, folder, collection, tasks)}")


def main() -> None:
    """Write rows and banks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default=os.environ.get("ROBUSTLM_DATA"), help="instead of $ROBUSTLM_DATA")
    args = parser.parse_args()
    if not args.data:
        parser.error("found no $ROBUSTLM_DATA; expected the folder of the data sets, or --data")
    try:
        write(Path(args.data), args.folder)
    except ValueError as error:
        parser.error(f"--data: {error}")
    print(f"next: export ROBUSTLM_ALIGNMENT={args.folder}; robustlm study align_figure3 --scale mini")


if __name__ == "__main__":
    main()
