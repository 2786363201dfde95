"""Commands that bring predictions to other programs and from them: `export`, `import` and the harness."""

from __future__ import annotations

from typing import Literal

from robustlm.checks.numbers import check_number
from robustlm.checks.places import check_folder, check_name, check_output


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
