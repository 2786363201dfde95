"""Commands that hold the numbers of runs against what is wanted: `power` before an evaluation, `gate` after it."""

from __future__ import annotations

import sys
from typing import Literal

from robustlm.checks.numbers import check_number, check_seed
from robustlm.checks.places import check_output


def power(
    pilot: str,
    width: float | None = None,
    difference: float | None = None,
    against: str | None = None,
    condition: str = "clean",
    other: str | None = None,
    instructions: list[int] = [],  # noqa: B006 - read only
    power: float = 0.8,
    level: float = 0.95,
    simulations: int = 200,
    seed: int = 0,
    output: str | None = None,
    tasks: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Print how many samples and instructions an evaluation needs.

    The answers of a small evaluation, the pilot, say how much scores vary. Needs `--width`, or `--difference` with
    `--against` or `--other`.

    Args:
        pilot: Folder of a run that `robustlm test` wrote, or its prediction table.
        width: Widest interval, in points, of the mean score, of the worst instruction and of the spread.
        difference: Difference of two mean scores, in points, that the evaluation should see.
        against: Another run over the same samples; the difference is that of the two runs.
        condition: The condition of the planned evaluation.
        other: Another condition of the pilot; the difference is that of the two conditions.
        instructions: Numbers of instructions to plan for, such as `[1,3,10]`; by default that of the pilot.
        power: Probability of seeing the difference.
        level: Level of the intervals.
        simulations: Number of simulated evaluations that check each line; 0 makes none.
        seed: Seed of the simulations.
        output: JSON file for the result. By default, no file is written.
        tasks: Import paths of tasks of your own among the answers.
    """
    from pathlib import Path

    from robustlm.report.comparison import load_tables
    from robustlm.report.number_tables import write_whole
    from robustlm.report.power import Aim, needs_of, to_json, to_markdown
    from robustlm.tasks import resolve_task

    if (width is None) == (difference is None):
        raise ValueError(
            f"width, difference: found {'neither' if width is None else 'both'}; expected one: --width 5 for intervals "
            "of 5 points, or --difference 3 to see a difference of 3 points"
        )
    if (difference is not None) != ((against is None) != (other is None)):
        raise ValueError(
            "against, other: expected exactly one with --difference, and none with --width: --against RUN, or --other "
            "CONDITION"
        )
    for name, value in (("width", width), ("difference", difference)):
        check_number(name, value, above=0, below=100, or_null="not asked")
    check_number("power", power, above=0, below=1)
    check_number("level", level, above=0, below=1)
    check_number("simulations", simulations, least=0, most=100_000, whole=True)
    check_seed("seed", seed)
    for ways in instructions:
        check_number("instructions", ways, least=1, most=10_000, whole=True)
    if output is not None:
        check_output("output", output)
    for task in tasks:
        resolve_task(task)
    tables = load_tables([f"pilot={pilot}", *([f"against={against}"] if against else [])])
    runs = f"{pilot} and {against}, condition {condition}" if against else f"{pilot}, condition {condition}"
    points = {name: None if value is None else value / 100 for name, value in (("w", width), ("d", difference))}
    aim = Aim(f"{runs} and {other}" if other else runs, level, points["w"], points["d"], power if difference else None)
    needs = needs_of(aim, tables, condition, other, instructions, simulations, seed)
    print(to_markdown(aim, needs), end="")
    if output is not None:
        print(f"\njson: {write_whole(Path(output), to_json(aim, needs))}")


def gate(
    run: str,
    rules: list[str],
    by: Literal["bound", "value"] = "bound",
    junit: str | None = None,
    summary: str | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    clean: str = "clean",
    reading: Literal["strict", "lenient"] = "strict",
    failed: float = 0.0,
    anyway: bool = False,
    tasks: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Check the numbers of a run against rules; fails if one is not met.

    A rule is `NUMBER[CONDITION]@DATASET >= LIMIT`, with `>=`, `<=`, `>` or `<`: 'worst_instruction >= 80',
    'pdr[deepwordbug@0.2] <= 10', 'mean[unseen]@sst2 >= 70'. Without a condition it is about `clean`, without a dataset
    about the mean over datasets; `*` stands for each of them. 'mean[unseen] >= OTHER_RUN - 2' compares with another run
    over the same samples. The exit status is 0 if all rules pass, 1 if one fails, 2 for an error.

    Requests without an answer fail the gate as well, unless `--failed` allows some.

    Args:
        run: Folder of a run that `robustlm test` wrote, or its prediction table.
        rules: The rules; limits are in per cent.
        by: What is compared with the limit: `bound`, the end of the interval that is nearer to failing, or `value`.
        junit: File for the verdicts as JUnit XML.
        summary: File for the verdicts as Markdown. By default they are appended to the file that the environment
            variable GITHUB_STEP_SUMMARY names, if it is set.
        draws: Bootstrap draws of the intervals.
        seed: Seed of the draws.
        level: Share of draws within an interval.
        clean: The condition of rules that name none, and the reference for drops in performance.
        reading: How answers are read: `strict`, in the format that the prompt asks for, or `lenient`, the final answer
            in any usual form.
        failed: Highest share of requests without an answer, in per cent of those of any condition; such requests count
            as wrong answers.
        anyway: Also compare with a run that was not asked the same.
        tasks: Import paths of tasks of your own among the answers.
    """
    import os
    from pathlib import Path

    from robustlm.evaluation.outcomes import outcomes
    from robustlm.evaluation.readings import as_read, readings
    from robustlm.evaluation.readings import warning as readings_warning
    from robustlm.evaluation.robustness import Settings
    from robustlm.evaluation.unreadable import unreadable, warning
    from robustlm.report.comparison import find_table, load_tables
    from robustlm.report.gate import baselines, each_line, judge, judge_failures, parse_rule
    from robustlm.report.gate_files import to_junit, to_summary
    from robustlm.report.number_tables import write_whole
    from robustlm.report.run import run_name
    from robustlm.tasks import resolve_task

    for name, wanted in (("junit", junit), ("summary", summary)):
        if wanted is not None:
            check_output(name, wanted)
    for task in tasks:
        resolve_task(task)
    check_number("failed", failed, least=0, most=100)
    parsed = [parse_rule(rule) for rule in rules]
    file = find_table(run)
    (rows,) = load_tables([f"run={file}"]).values()
    others = baselines(parsed)
    came = {}
    for name, table in {run: rows, **others}.items():
        came[name] = outcomes(table)
        notes = [
            *came[name].warnings,
            warning(unreadable(as_read(table, reading))),
            readings_warning(readings(table, reading).large),
        ]
        for note in filter(None, notes):
            print(f"{name}: {note}", file=sys.stderr)
    judged = judge(rows, parsed, Settings(draws, seed, level), clean, by, anyway, run, reading, others)
    judged += judge_failures(came, failed)
    passed = each_line(judged)
    if junit is not None:
        write_whole(Path(junit), to_junit(run_name(file), judged))
    text = to_summary(run_name(file), judged)
    if summary is not None:
        write_whole(Path(summary), text)
    elif shared := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(shared).open("a", encoding="utf-8") as whole:
            whole.write(text)
    if not passed:
        raise SystemExit(1)
