"""Commands that show what predictions say: `report`, `compare`, `states`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal

from robustlm.checks.numbers import check_number, check_seed
from robustlm.checks.places import check_folder, check_output

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
