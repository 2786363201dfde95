"""Commands that read predictions: `report`, `compare`, `power`, `states` and the harness."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal

from robustlm.checks.numbers import check_number, check_seed
from robustlm.checks.places import check_folder, check_name, check_output

Projection = Literal["pca", "tsne", "umap"]
"""Same as in `robustlm.evaluation.hidden_states`, which is not imported here: `--help` would then load numpy."""


def compare(
    runs: list[str],
    output: str | None = None,
    title: str = "mean score over tasks, %",
    tasks: list[str] = [],  # noqa: B006 - read only
    paired: bool = False,
    flips: str | None = None,
    draws: int = 1000,
    seed: int = 0,
    reading: Literal["strict", "lenient"] = "strict",
    anyway: bool = False,
) -> None:
    """Print the scores of several runs side by side, and draw them.

    With `paired`, each run is also tested against the first, with a verdict for each condition. Runs that were asked
    about other inputs, under other instructions or with other true answers are refused.

    Args:
        runs: Folders of runs that `robustlm test` wrote, or their prediction tables; `name=path` names one.
        output: Folder for `comparison.md`, `comparison.png` and, for several runs, a page for browsers with ranks and
            tests, `comparison.html`; with `paired`, also for `paired.md`. By default, no files are written.
        title: Heading of the table.
        tasks: Import paths of tasks of your own among the answers.
        paired: Also test every other run against the first, sample by sample.
        flips: JSONL file for the answers that are right in the first run and wrong in another, or vice versa.
        draws: Number of bootstrap draws for the tests' intervals.
        seed: Seed of the draws and permutations.
        reading: How answers are read: `strict`, in the format that the prompt asks for, or `lenient`, the final answer
            in any usual form.
        anyway: Also compare runs that were not asked the same, with a warning.
    """
    from pathlib import Path

    from robustlm.evaluation.pairing import paired_tests
    from robustlm.evaluation.robustness import Settings
    from robustlm.report.comparison import draw, load_tables, same_cells
    from robustlm.report.comparison_page import comparison_html
    from robustlm.report.comparison_text import compared
    from robustlm.report.number_tables import flip_lines, write_all, write_whole
    from robustlm.tasks import resolve_task

    if flips is not None:
        check_output("flips", flips)
    if output is not None:
        check_folder("output", output)
    for task in tasks:
        resolve_task(task)
    if (paired or flips) and len(runs) < 2:
        raise ValueError(f"runs: found {len(runs)}; expected two or more to test against the first, or to find flips")
    settings = Settings(draws=draws, seed=seed)
    tables, strict = load_tables(runs), paired or flips is not None
    found = compared(tables, settings, reading, title, paired=paired, anyway=anyway, same_names=strict)
    for note in found.notes:
        print(f"{note}\n")
    if found.unlike and not paired:
        print("\n".join(found.unlike), file=sys.stderr)
    print(found.table)
    if paired:
        print("\n" + found.paired)
    if flips is not None:
        write_whole(Path(flips), flip_lines(found.tables))
        print(f"\nflips: {flips}")
    if output is not None:
        texts = {"comparison.md": found.table + "\n"}
        if paired:
            texts["paired.md"] = found.paired + "\n"
        page = paired or (len(found.tables) > 1 and same_cells(found.tables))
        if page:
            tests = found.tests if paired else paired_tests(found.tables, settings)
            texts["comparison.html"] = comparison_html(
                found.tables, found.scores, tests, settings, title, flips, found.agreements
            )
        elif len(found.tables) > 1:
            print("no page: the runs were not asked under the same instructions", file=sys.stderr)
        folder = Path(output)
        write_all(folder, texts)
        draw(found.scores, folder / "comparison.png")
        print(f"\ntable: {folder / 'comparison.md'}\npicture: {folder / 'comparison.png'}")
        if page:
            print(f"page: {folder / 'comparison.html'}")


def report(
    run: str,
    output: str | None = None,
    format: Literal["all", "md", "csv", "json", "html"] = "all",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    resample: Literal["samples", "both"] = "samples",
    clean: str = "clean",
    reading: Literal["strict", "lenient"] = "strict",
    tasks: list[str] = [],  # noqa: B006 - read only
    sections: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Print how a run does on every phrasing and kind of noise.

    The report has means, worst cases, agreement between phrasings and measures of variation, with intervals. Of a study
    it has scores over seeds, paired differences between arms, and costs; `clean`, `resample` and `sections` are for
    single runs.

    Args:
        run: Folder of a run that `robustlm test` wrote, or its prediction table; or the folder of a study.
        output: Folder for `robustness.md`, `.csv`, `.json` and `.html`. By default, no files are written.
        format: Which of these files to write; `html` is one page with figures that loads no other files.
        draws: Bootstrap draws of the intervals; 0 makes none. A study takes ten times as many.
        seed: Seed of the draws.
        level: Share of draws within an interval.
        resample: What the bootstrap draws: `samples`, or `both` samples and instructions; then the instructions, too,
            count as a random selection.
        clean: The reference condition for drops in performance.
        reading: How answers are read: `strict`, in the format that the prompt asks for, or `lenient`, the final answer
            in any usual form.
        tasks: Import paths of tasks of your own among the answers.
        sections: Import paths of functions of your own, each of which adds a section to the HTML page.
    """
    from pathlib import Path

    from robustlm.evaluation.free_text import free_text
    from robustlm.evaluation.outcomes import outcomes
    from robustlm.evaluation.readings import as_read, readings
    from robustlm.evaluation.robustness import Settings, robustness
    from robustlm.evaluation.unreadable import unreadable
    from robustlm.report.attacks import attack_file, attack_outcomes
    from robustlm.report.comparison import find_table, load_tables
    from robustlm.report.factors import factor_outcomes
    from robustlm.report.number_tables import FORMATS, to_csv, to_json, to_markdown, write_all
    from robustlm.report.page import About, own_section, to_html
    from robustlm.report.run import run_name, run_settings
    from robustlm.report.study import is_study
    from robustlm.tasks import resolve_task

    if output is not None:
        check_folder("output", output)
    for task in tasks:
        resolve_task(task)
    if is_study(run):
        for name, given, usual in (
            ("clean", clean, "clean"),
            ("resample", resample, "samples"),
            ("sections", sections, []),
        ):
            if given != usual:
                raise ValueError(f"{name}: found {given!r} for the study {run}; only reports of single runs have it")
        _report_study(run, output, format, draws, seed, level, reading)
        return
    if sections and (output is None or format not in ("all", "html")):
        raise ValueError(
            "sections: found some, and no HTML page is written; expected --output FOLDER, format all or html"
        )
    more = [own_section(path) for path in sections]
    settings = Settings(draws, seed, level, resample)
    file = find_table(run)
    (rows,) = load_tables([f"run={file}"]).values()
    conditions = list(dict.fromkeys(row.condition for row in rows))
    if clean not in ("clean", *conditions):
        raise ValueError(f"clean: found {clean!r}; expected a condition of the table: {', '.join(conditions)}")
    read = readings(rows, reading)
    rows = as_read(rows, reading)
    results = robustness(rows, settings, clean)
    free = free_text(rows, settings)
    attacks = attack_outcomes(rows, attack_file(file), level if draws else None)
    came, unread = outcomes(rows), unreadable(rows)
    factors = factor_outcomes(rows)
    text = to_markdown(
        results, settings, unread=unread, came=came, free=free, read=read, attacks=attacks, factors=factors
    )
    print(text, end="")
    if output is not None:
        about = About(run_name(file), run_settings(file))
        make: dict[str, Callable[[], str]] = {
            "md": lambda: text,
            "csv": lambda: to_csv(results, free, attacks),
            "json": lambda: to_json(results, settings, free, read, attacks, factors),
            "html": lambda: to_html(rows, results, settings, about, clean, more, read, attacks),
        }
        wanted = FORMATS if format == "all" else (format,)
        for path in write_all(Path(output), {f"robustness.{ending}": make[ending]() for ending in wanted}):
            print(f"report: {path}")


def _report_study(
    folder: str,
    output: str | None,
    format: Literal["all", "md", "csv", "json", "html"],
    draws: int,
    seed: int,
    level: float,
    reading: Literal["strict", "lenient"],
) -> None:
    """Print the tables of a study, and write them, its figures and its page."""
    from pathlib import Path

    from robustlm.report.number_tables import FORMATS, write_all
    from robustlm.report.study import study_results
    from robustlm.report.study_page import study_html
    from robustlm.report.study_pictures import draw_study
    from robustlm.report.study_text import to_csv, to_json, to_markdown

    check_number("draws", draws, least=10, most=100_000, whole=True)
    check_number("level", level, above=0, below=1)
    check_seed("seed", seed)
    found = study_results(Path(folder), draws=10 * draws, seed=seed, level=level, reading=reading)
    text = to_markdown(found)
    print(text, end="")
    if output is None:
        return
    pictures = draw_study(found, Path(output)) if format in ("all", "html") else []
    make: dict[str, Callable[[], str]] = {
        "md": lambda: text,
        "csv": lambda: to_csv(found),
        "json": lambda: to_json(found),
        "html": lambda: study_html(found, pictures),
    }
    wanted = FORMATS if format == "all" else (format,)
    for path in write_all(Path(output), {f"study.{ending}": make[ending]() for ending in wanted}):
        print(f"report: {path}")
    for picture in pictures:
        print(f"picture: {picture.file}")


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


def export_harness(
    run: str,
    output: str,
    name: str = "robustlm",
    max_new_tokens: int = 128,
    delimiter: str | None = None,
    conditions: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Write the prompts of a run as tasks of lm-evaluation-harness.

    The harness can then run them with any of its models.

    Args:
        run: Folder of a run that `robustlm test` wrote, or its prediction table.
        output: Folder for the tasks; it must be new or empty.
        name: Tag that selects all the tasks, and prefix of their names.
        max_new_tokens: Longest generated answer, in tokens.
        delimiter: Text between prompt and option. By default a space, or nothing if the prompt ends in white space or a
            special token.
        conditions: The conditions to write; by default all.
    """
    from pathlib import Path

    from robustlm.report.comparison import find_table, load_tables
    from robustlm.report.harness import task_files
    from robustlm.report.number_tables import write_all

    check_name("name", name)
    check_number("max_new_tokens", max_new_tokens, least=1, whole=True)
    check_folder("output", output)
    folder = Path(output)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"output: {folder} holds files already; expected a new or an empty folder")
    (rows,) = load_tables([f"run={find_table(run)}"]).values()
    known = list(dict.fromkeys(row.condition for row in rows))
    if unknown := [one for one in conditions if one not in known]:
        raise ValueError(f"conditions: found {unknown[0]!r}; expected some of the table's: {', '.join(known)}")
    wanted = [row for row in rows if row.condition in (conditions or known)]
    files = task_files(wanted, name, max_new_tokens, delimiter)
    write_all(folder, files)
    count = sum(path.endswith(".yaml") for path in files)
    print(
        f"{count} tasks with {len(wanted)} prompts: {folder}\n"
        f"lm-eval run --include_path {folder} --tasks {name} --log_samples --output_path RESULTS --model ..."
    )


def import_harness(
    results: str,
    output: str,
    condition: str = "clean",
    filter: str | None = None,
    tasks: list[str] = [],  # noqa: B006 - read only
) -> None:
    """The older name of `robustlm import harness`, for one log.

    It makes a prediction table of a log of lm-evaluation-harness; `report` and `compare` read the table.

    Args:
        results: Folder, or `samples_*.jsonl` file, that the harness wrote with `--log_samples`.
        output: Folder for `predictions.parquet`, which must not exist yet.
        condition: Condition for samples of tasks that `export-harness` did not write.
        filter: Name of the harness's filter whose answers count; by default the first of each file.
        tasks: Import paths of tasks of your own among the answers.
    """
    from pathlib import Path

    if not Path(results).exists():
        raise ValueError(f"results: {results} does not exist; expected a folder or file that the harness wrote")
    import_logs("harness", [results], output, condition, filter=filter, tasks=tasks)


def import_logs(
    format: str,
    paths: list[str],
    output: str = "imported",
    condition: str = "clean",
    instruction: str | None = None,
    metric: str | None = None,
    filter: str | None = None,
    columns: list[str] = [],  # noqa: B006 - read only
    tasks: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Make a prediction table from the logs of another program.

    `report`, `compare` and `gate` read the table.

    Args:
        format: `harness` (lm-evaluation-harness, with --log_samples), `inspect` (`.eval` or `.json`), `helm` (folders
            of runs), `every-eval-ever` (`_samples.jsonl`), or `csv`.
        paths: Files of the program, or folders that hold them. `unseen=PATH` gives answers the condition `unseen`.
        output: Folder for `predictions.parquet`, which must not exist yet.
        condition: Condition of answers whose log names none.
        instruction: Instruction id of all answers. By default it is made from the instruction in the log, or `own`.
        metric: Name of the metric, scorer or column that says right or wrong; by default the first that does.
        filter: For `harness`: name of the filter whose answers count; by default the first of each file.
        columns: For `csv`: names of the file's columns as COLUMN=NAME, such as `[target=gold,prediction=answer]`.
        tasks: Import paths of tasks of your own among the answers.
    """
    from pathlib import Path

    from robustlm.evaluation.table import write_table
    from robustlm.report.imports import read_logs
    from robustlm.tasks import resolve_task

    for task in tasks:
        resolve_task(task)
    check_folder("output", output)
    folder = Path(output)
    table = folder / "predictions.parquet"
    if table.exists():
        raise ValueError(f"output: {table} exists already; expected a folder without a table")
    read = read_logs(format, paths, condition, instruction, metric, filter, columns)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(table, read.rows)
    for note in read.notes:
        print(note)
    print(f"{len(read.rows)} answers: {table}")


def export(
    format: str,
    run: str,
    output: str,
    model: str | None = None,
    tasks: list[str] = [],  # noqa: B006 - read only
    organization: str = "unknown",
    relationship: Literal["first_party", "third_party", "collaborative", "other"] = "other",
) -> None:
    """Write a prediction table in a form that other programs read.

    Args:
        format: `every-eval-ever` (its two files: a line of JSON for each answer, and the results) or `csv`.
        run: Folder of a run that `robustlm test` wrote, or its prediction table.
        output: The file to write. With `every-eval-ever`, a folder, in which both files get the places of that
            collection; or a `.jsonl` file for the answers, with the results in a `.json` file beside it.
        model: For `every-eval-ever`: name of the model; by default that of the run's config, or else the run's name.
        tasks: Import paths of tasks of your own among the answers.
        organization: For `every-eval-ever`: who provides the results.
        relationship: For `every-eval-ever`: what the evaluator is to the developer of the model.
    """
    from pathlib import Path

    from robustlm.report.comparison import find_table, load_tables
    from robustlm.report.csv_tables import to_csv_table
    from robustlm.report.every_eval import every_eval_files
    from robustlm.report.every_eval_results import Evaluation
    from robustlm.report.number_tables import write_all, write_whole
    from robustlm.report.run import generation_settings, run_name, run_settings
    from robustlm.tasks import resolve_task

    if format not in ("every-eval-ever", "csv"):
        raise ValueError(f"format: found {format!r}; expected every-eval-ever or csv (`export-harness` writes tasks)")
    for task in tasks:
        resolve_task(task)
    place = Path(output)
    if format == "csv" or place.suffix == ".jsonl":
        check_output("output", output)
    else:
        check_folder("output", place)
    file = find_table(run)
    (rows,) = load_tables([f"run={file}"]).values()
    if format == "csv":
        print(f"{len(rows)} answers: {write_whole(place, to_csv_table(rows))}")
        return
    name, settings = run_name(file), run_settings(file)
    about = Evaluation(
        name,
        model if model is not None else settings.get("backbone", name),
        file.stat().st_mtime,
        organization,
        relationship,
        generation=generation_settings(file),
    )
    files = every_eval_files(rows, about, place)
    for written, what in zip(files, (f"{len(rows)} answers", "results"), strict=True):
        (found,) = write_all(written.parent, {written.name: files[written]})
        print(f"{what}: {found}")


def states(
    runs: list[str],
    output: str | None = None,
    projection: Projection = "pca",
    points: int = 600,
    clean: str = "clean",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    tasks: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Print how far other phrasings move the hidden states of a model.

    It also prints the loss of score that comes with that, for several runs side by side.

    Args:
        runs: Folders of runs that `robustlm test --states.layer -2` wrote; `name=path` names one. The folder of a study
            stands for its arms with their first seed.
        output: Folder for `states.md`, `states.csv`, `states.json` and pictures. By default, no files are written.
        projection: Projection of the states in pictures: `pca`, `tsne` or `umap` (the extra `projection`).
        points: Largest number of states in a projection; the seed draws whole samples.
        clean: The condition whose instructions count as observed.
        draws: Bootstrap draws of the intervals; 0 makes none.
        seed: Seed of the draws and of the pictures.
        level: Share of draws within an interval.
        tasks: Import paths of tasks of your own among the answers.
    """
    from pathlib import Path

    from robustlm.evaluation.hidden_states import check_projection
    from robustlm.evaluation.robustness import Settings
    from robustlm.report.hidden_state_pictures import draw
    from robustlm.report.hidden_states import load_runs, measured, to_csv, to_json, to_markdown
    from robustlm.report.number_tables import write_all
    from robustlm.tasks import resolve_task

    if output is not None:
        check_folder("output", output)
    for task in tasks:
        resolve_task(task)
    if points < 3:
        raise ValueError(f"points: found {points}; expected ≥ 3")
    check_projection(projection)
    settings = Settings(draws, seed, level)
    loaded = load_runs(runs)
    found = measured(loaded, settings, clean)
    table = next(iter(loaded.values()))[0]
    text = to_markdown(found, table, settings, clean)
    print(text, end="")
    if output is not None:
        texts = {"md": text, "csv": to_csv(found), "json": to_json(found, table, settings, clean)}
        for path in write_all(Path(output), {f"states.{ending}": made for ending, made in texts.items()}):
            print(f"states: {path}")
        tables = {name: states for name, (states, _) in loaded.items()}
        for path in draw(tables, found, Path(output), projection, points, seed):
            print(f"picture: {path}")
