"""Whether a model follows its instructions, after Sun et al. 2023: `python benchmarks/alignment.py FOLDER`.

MMLU and five tasks of BIG-bench are asked with correct, incorrect, negated and nonsensical instructions, with those of
the task's designers, with those collected from instruction-tuning sets (`collected`: all sets; `observed`: those that
the model was tuned on) and with unobserved ones. Rows and instructions are read from `$ROBUSTLM_DATA`; the folder gets
the instruction banks, the rows with the fields that templates show, and the runs. Arguments that are not listed here go
to `robustlm test`.

Correct are the study's instructions without placeholders, so that clean, incorrect, negated and nonsensical ones show
the input in the same way; unobserved are these and the study's templates. MMLU's incorrect ones are of all other tasks,
as it may be asked alone. Options are scored by their texts, also where a template asks for a letter. Of logical
deduction, only the five objects that the templates speak of are asked.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import string
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from robustlm.cli import main as robustlm
from robustlm.data.slots import slots

MMLU = "mmlu"
TASKS = (
    MMLU, "bbl_code_line_description", "bbl_hindu_knowledge", "bbl_known_unknowns", "bbl_logical_deduction",
    "bbl_strategyqa",
)  # fmt: skip
BINARY = ("bbl_known_unknowns", "bbl_strategyqa")
"""Tasks of two options, which fit instructions for a yes or no too."""
CONDITIONS = (
    "clean", "incorrect", "negated", "nonsensical", "list:designer", "list:collected", "list:observed",
    "list:unobserved",
)  # fmt: skip
COLLECTIONS = ("FLAN", "T0", "NIV2", "Alpaca")
OF_MMLU = "Multiple choice questions about {domain} follow, each with its answer."
"""In the sense of the line that MMLU's designers write above its questions, which the data lacks."""
_SHOWN = {"question", "options_"}
_ANOTHER_TASK = ("t0_dbpedia", "t0_trec", "trec", "sentiment", "alpaca_dialog", "niv2_1286")
"""Categories, sentiments and speakers; and the definition that asks for the wrong option."""


def observed(collection: str, given: Any, binary: bool) -> list[str]:
    """The instructions of one collection that ask what the tasks ask: to choose an option, or for yes or no."""
    if collection == "NIV2":
        return _definitions(given["templates"].values(), given["task_definitions"])
    found = []
    for name, text in given.items():
        if name.startswith(_ANOTHER_TASK):
            continue
        shown = set(slots(text))
        choosing = name.startswith("alpaca_multiple_choice") if collection == "Alpaca" else shown == _SHOWN
        deciding = name.startswith("alpaca_binary") if collection == "Alpaca" else shown == {"question"}
        if choosing or (binary and deciding):
            found.append(text)
    return found


def _definitions(templates: Iterable[str], definitions: dict[str, Any]) -> list[str]:
    """Each definition that fits, in one of the collection's templates, which take turns."""
    fitting = [
        (definition["definition"].strip(), definition["input"])
        for name, definition in definitions.items()
        if not name.startswith(_ANOTHER_TASK)
        and not slots(definition["definition"])
        and set(slots(definition["input"] or "")) == _SHOWN
    ]
    around = list(templates)
    return [
        around[i % len(around)].replace("{definition}", text).replace("{inputs}", shown)
        for i, (text, shown) in enumerate(fitting)
    ]


def banks(folder: Path, collections: Sequence[str]) -> dict[str, Any]:
    """A bank for each task, with a list for each condition that has one."""
    collected = _json(folder / "instructioneval_observed.json")
    written = _json(folder / "instructioneval_unobserved.json")
    designed = _json(folder / "bbl_task_descriptions.json")
    correct: dict[str, list[str]] = {}
    lists: dict[str, dict[str, list[str]]] = {}
    for task in TASKS:
        own = [written[name] for name in (("mmlu_general", "mmlu_specific") if task == MMLU else (task,))]
        alone = list(chain.from_iterable(one["alpaca_instructions"] for one in own))
        templates = list(chain.from_iterable(one["templates"] for one in own))
        sets = {name: observed(name, collected[name], task in BINARY) for name in COLLECTIONS}
        described = designed.get(task, {})
        described = described.get("subtasks", {}).get("five_objects", described)
        correct[task] = alone
        lists[task] = {
            "designer": list(described.values()) or [OF_MMLU],
            # in turn, so that the first few are of every kind
            "collected": _in_turn(*sets.values()),
            "observed": _in_turn(*(sets[name] for name in collections)),
            "unobserved": _in_turn(templates, alone),
        }
    lists[MMLU]["incorrect"] = _in_turn(*(correct[task] for task in TASKS if task != MMLU))
    return {task: {"seen": correct[task], "lists": lists[task]} for task in TASKS}


def _in_turn(*lists: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(text for texts in zip_longest(*lists) for text in texts if text))


def rows(file: Path, task: str) -> Iterator[dict[str, Any]]:
    """A split's rows, with every field that a template may show."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            row = json.loads(line)
            if row.get("subtask", "five_objects") != "five_objects":
                continue
            lettered = dict(zip(string.ascii_uppercase, row["choices"], strict=False))
            yield {
                "id": f"{task}/{file.name.partition('.')[0]}:{number}",
                "question": row["question"],
                "choices": row["choices"],
                "answer": row["answer"],
                "options_": "\n".join(f"({letter}) {choice}" for letter, choice in lettered.items()),
                "domain": row.get("subject", task.removeprefix("bbl_")).replace("_", " "),
                **{f"choice{letter}": choice for letter, choice in lettered.items()},
            }


def prepare(data: Path, folder: Path, collections: Sequence[str]) -> Path:
    """Write banks and rows; the file of the banks."""
    file = folder / "banks.json"
    _write(file, json.dumps(banks(data / "instructions", collections), indent=1, ensure_ascii=False))
    for task in TASKS:
        for split in ("test", "dev"):
            source = data / task / f"{split}.jsonl.gz"
            if source.is_file():
                lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(source, task))
                _write(folder / "rows" / task / f"{split}.jsonl", "".join(lines))
    return file


def _json(file: Path) -> Any:
    return json.loads(file.read_bytes())


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, file)


def main() -> None:
    """Make the banks, ask the model, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default=os.environ.get("ROBUSTLM_DATA"), help="instead of $ROBUSTLM_DATA")
    parser.add_argument("--backbone", default="builtin:tiny")
    parser.add_argument("--observed", nargs="+", default=["FLAN"], choices=COLLECTIONS, help="what it was tuned on")
    parser.add_argument("--samples", type=int, default=20, help="of each task")
    parser.add_argument("--prompts", type=int, default=4, help="instructions of each task and condition")
    parser.add_argument("--shots", type=int, default=0, help="examples of MMLU's dev split; MMLU alone is asked then")
    parser.add_argument("--scoring", default="options", choices=("options", "generation"))
    args, more = parser.parse_known_args()  # the rest goes to `robustlm test`
    if not args.data:
        parser.error("found no $ROBUSTLM_DATA; expected the folder of the data sets, or --data")
    file = prepare(Path(args.data), args.folder, args.observed)
    tasks = (MMLU,) if args.shots else TASKS
    sources = [
        {"path": str(args.folder / "rows" / task), "bank": f"{file}#{task}"}
        | ({"topic": "domain"} if task == MMLU else {})
        for task in tasks
    ]
    shown = json.dumps([{"path": sources[0]["path"], "split": "dev"}])
    robustlm(
        [
            "test", "-c", "robustness", f"--model.backbone={args.backbone}", f"--data.test={json.dumps(sources)}",
            f"--data.conditions=[{','.join(CONDITIONS)}]", f"--data.samples={args.samples}",
            f"--data.prompts={args.prompts}", f"--data.scoring={args.scoring}",
            *([f"--data.shots={args.shots}", f"--data.examples={shown}"] if args.shots else []),
            f"--trainer.default_root_dir={args.folder / 'runs'}", *more,
        ]
    )  # fmt: skip
    newest = max((args.folder / "runs").glob("version_*"), key=lambda run: int(run.name.rpartition("_")[2]))
    robustlm(["report", str(newest), "--output", str(newest / "report")])


if __name__ == "__main__":
    main()
