"""The small commands beside training and testing; each is a typed function, whose arguments become options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from robustlm.chains import Chain
from robustlm.checks.numbers import check_number, check_seed
from robustlm.checks.places import check_folder, check_name, check_output
from robustlm.data.distortion import LME, RBE, Distortion
from robustlm.data.embedders import StateEmbedder, TokenEmbedder
from robustlm.data.instructions import Version
from robustlm.data.noise import Noise
from robustlm.data.paraphrase_rules import Rules
from robustlm.data.sources import Source
from robustlm.hosted import is_hosted
from robustlm.quickstart import quickstart

Projection = Literal["pca", "tsne", "umap"]
"""As in `robustlm.evaluation.states`, which would bring numpy along for `--help`."""
Architecture = Literal["llama", "t5"]
"""As in `robustlm.data.scratch`, which would bring transformers along for `--help`."""


def noise(
    input: str,
    output: str,
    kind: str = "mixed",
    omega: float = 0.2,
    phi: float = 1.0,
    distortion: Distortion = RBE(),  # noqa: B008 - read only
    seed: int = 0,
    epoch: int = 0,
    protect: bool = False,
    manifest: str | None = None,
    bank: str | None = None,
    backbone: str | None = None,
    weights: dict[str, float] | None = None,
) -> None:
    """Write rows with noisy variants of their instructions, and how distorted those are.

    Args:
        input: Rows with instructions, in any file format.
        output: Where they go, with `variant`, `noise_kind` and `distortion` added; the ending says the format.
        kind: Kind of noise, or `mixed`.
        omega: Share of an instruction's words that noise touches, in [0, 1].
        phi: Share of rows that get noise, in [0, 1].
        distortion: `RBE` (word edits) or `LME` (embeddings).
        seed: Seed of the noise.
        epoch: Noise differs from epoch to epoch.
        protect: Leave answers, words of the answer's format and quoted words of instructions alone.
        manifest: JSONL file for what was done to each instruction, word by word.
        bank: Instruction bank without placeholders whose seen phrasings rows are asked with, in place of their own
            instruction or where they have none: a packaged name, a JSON file, or `file.json#name`.
        backbone: The model whose states or token embeddings `LME` compares (a hub name, a folder, an adapter or
            `builtin:tiny`), which its default embedder needs.
        weights: For `mixed`: how often each kind is drawn, relative to the sum; null: six kinds equally.
    """
    from robustlm.data.noise_rows import noise_rows

    check_seed("seed", seed)
    check_number("epoch", epoch, least=0, whole=True)
    _bind(distortion, backbone)
    print(
        noise_rows(
            input,
            output,
            noise=Noise(kind, omega, phi, weights, protect),
            distortion=distortion,
            seed=seed,
            epoch=epoch,
            manifest=manifest,
            bank=bank,
        )
    )


def _bind(distortion: Distortion, backbone: str | None) -> None:
    """Give a model to a distortion that needs one. Raises `ValueError` where it is missing or not needed."""
    embedder = distortion.embedder if isinstance(distortion, LME) else None
    if not isinstance(embedder, StateEmbedder | TokenEmbedder):
        if backbone is not None:
            raise ValueError(f"backbone: found {backbone}, but the distortion asks no model; expected no backbone")
        return
    if backbone is None:
        raise ValueError(
            f"distortion: LME with {type(embedder).__name__} compares what a model makes of the texts; expected "
            "--backbone MODEL, such as builtin:tiny, or --distortion.embedder OpenAIEmbedder or "
            "SentenceTransformerEmbedder"
        )
    if is_hosted(backbone):
        raise ValueError(f"backbone: {backbone} is hosted and shows no hidden states; expected a local model")
    from robustlm.backbone import Backbone
    from robustlm.datamodules import NLUDataModule

    data = NLUDataModule(distortion=distortion)
    data.backbone = Backbone(backbone)
    data.backbone.load()
    data.backbone.eval()
    data.variation()


def pairs(
    input: str,
    output: str,
    more: list[str | Source] = [],  # noqa: B006 - read only
    split: str = "train",
    negatives: int = 1,
    bank: str | None = None,
    fields: dict[str, str] | None = None,
    version: Version = "both",
    paraphrases: str | None = None,
    form: Literal["robustlm", "coin"] = "robustlm",
    limit: int | None = None,
    seed: int = 0,
    unseen_share: float | None = None,
) -> None:
    """Write rows with two phrasings each, grouped with hard negatives, for contrastive tuning.

    Args:
        input: Rows: a file, a folder with splits, a hub name, or `builtin:quickstart`.
        output: Where they go; the ending says the format.
        more: More sources like `input`, with settings of their own, such as `[{path: rte, bank: templates.json#rte}]`.
        split: Which split of folders and of the built-in corpus.
        negatives: Rows in a group that have the same instruction, another input and another target.
        bank: Bank that phrasings are taken from, in place of the rows' own (name, JSON file, or `file.json#name`).
        fields: Keys of the rows for placeholders of the bank that have other names, `{premise: sentence1}`.
        version: Which phrasings of banks are used.
        paraphrases: Rows `{"instruction": …, "paraphrases": […]}`, for instructions that no bank has others for.
        form: `robustlm` rows, or `coin`: whole prompts in three columns, as released with CoIN.
        limit: Use the first rows of each source only.
        seed: Seed of phrasings, groups and their order.
        unseen_share: Share of a plain list of templates that is kept from training, the last ones; null: a quarter.
    """
    from robustlm.data.pairs import write_pairs
    from robustlm.data.paraphrases import load_paraphrases
    from robustlm.data.sources import load_all

    check_seed("seed", seed)
    check_output("output", output)
    sources = [Source(input, bank=bank, fields=fields), *(Source(one) if isinstance(one, str) else one for one in more)]
    samples = load_all([_narrowed(source, split, limit) for source in sources], "train")
    others = load_paraphrases(paraphrases) if paraphrases else None
    print(
        write_pairs(
            samples,
            output,
            negatives=negatives,
            version=version,
            paraphrases=others,
            form=form,
            seed=seed,
            unseen_share=unseen_share,
        )
    )


def _narrowed(source: Source, split: str, limit: int | None) -> Source:
    """A source with a split, unless it is a single file or names one, and a limit, unless it has its own."""
    from dataclasses import replace
    from pathlib import Path

    whole = Path(source.path).is_file()
    return replace(source, split=source.split or (None if whole else split), limit=source.limit or limit)


def paraphrase(
    input: str,
    output: str,
    model: str = "gpt-4o-mini",
    base_url: str | None = None,
    count: int = 8,
    temperature: float | None = 1.0,
    seed: int | None = 0,
    prompt: str | None = None,
    rounds: int = 3,
    rules: Rules = Rules(),  # noqa: B008 - read only
    concurrency: int = 4,
    max_retries: int = 5,
    timeout: float = 60.0,
    cache_dir: str | None = "~/.cache/robustlm/paraphrases",
    rejected: str | None = None,
    overwrite: bool = False,
    split: str | None = None,
) -> None:
    """Ask an OpenAI-compatible chat endpoint for other wordings of instructions, and keep the good ones in a file.

    Args:
        input: Rows with instructions, in any file format; or an instruction bank, by file (`file.json#name` for one
            of many) or packaged name.
        output: Paraphrase file to write, `.jsonl` or `.jsonl.gz`.
        model: The model's name at the endpoint.
        base_url: The endpoint, up to `/v1`; `$OPENAI_BASE_URL` or OpenAI's where not given. The key is in
            `$OPENAI_API_KEY`.
        count: Paraphrases wanted of each instruction.
        temperature: Sampling temperature; null leaves it to the endpoint.
        seed: Seed sent along, counted up when asking again; null sends none.
        prompt: What to ask, with `{instruction}` and `{count}` in it; a prompt of robustlm's where not given.
        rounds: How often to ask about an instruction until enough good paraphrases are there.
        rules: What a paraphrase has to keep.
        concurrency: Requests at once.
        max_retries: How often a failed request is tried again.
        timeout: Seconds that a request may take.
        cache_dir: Folder where answers are kept, so that nothing is paid for twice; null keeps none.
        rejected: File for what was rejected, with reasons.
        overwrite: Replace files that are there.
        split: Which split of a folder or hub dataset.
    """
    from robustlm.data import paraphrasing
    from robustlm.data.endpoint import Endpoint

    endpoint = Endpoint(model, base_url, max_retries, timeout)
    prompt = paraphrasing.PROMPT if prompt is None else prompt
    summary = paraphrasing.paraphrase(
        input,
        output,
        endpoint=endpoint,
        question=paraphrasing.Question(count, prompt, temperature, seed, rounds, rules),
        concurrency=concurrency,
        cache_dir=cache_dir,
        rejected=rejected,
        overwrite=overwrite,
        split=split,
    )
    print(summary)


def init(
    folder: str,
    rows: list[str],
    split: str = "train",
    vocab_size: int = 4096,
    hidden_size: int = 256,
    layers: int = 4,
    heads: int = 4,
    intermediate_size: int = 704,
    initializer_range: float | None = None,
    architecture: Architecture = "llama",
) -> None:
    """Make a tokenizer and a model config from rows, to be trained from scratch.

    Args:
        folder: Where they go; `robustlm fit --model.backbone FOLDER --model.loading.scratch true` trains it.
        rows: Files, folders with splits, or `builtin:quickstart`, whose texts and instructions the tokenizer learns.
        split: Which split of folders and of the built-in corpus (`pretrain` for a model that shall be tuned later).
        vocab_size: Tokens of the tokenizer.
        hidden_size: Width of the model.
        layers: Its layers; T5 has as many in the encoder as in the decoder.
        heads: Attention heads of a layer.
        intermediate_size: Width of the MLPs.
        initializer_range: Standard deviation of random weights, 0.08 where not given; T5 has rules of its own.
        architecture: `llama` (decoder only) or `t5` (encoder–decoder).
    """
    from pathlib import Path

    from robustlm.data.instructions import InstructionBank
    from robustlm.data.scratch import build
    from robustlm.data.sources import load_all
    from robustlm.data.templates import PlainTemplate

    if not Path(folder).exists():  # what lies in a folder that is there is looked at below
        check_folder("folder", folder)
    template = PlainTemplate()
    samples = load_all([Source(row, split=None if Path(row).is_file() else split) for row in rows], "train")
    banks = {name: InstructionBank.load(name) for name in {sample.bank for sample in samples} if name}
    samples = [
        sample if sample.instruction or not sample.bank else banks[sample.bank].assign(sample) for sample in samples
    ]
    texts = [template.render(sample, sample.instruction).text + " " + sample.target for sample in samples]
    build(
        folder,
        texts,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        intermediate_size=intermediate_size,
        initializer_range=initializer_range,
        architecture=architecture,
    )
    print(f"tokenizer and config: {folder}")


def compare(
    runs: list[str],
    output: str | None = None,
    title: str = "mean score over tasks, %",
    tasks: list[str] = [],  # noqa: B006 - read only
    paired: bool = False,
    flips: str | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> None:
    """Print the scores of several runs side by side, and draw them; on demand test each run against the first.

    Args:
        runs: Folders of runs that `robustlm test` wrote, or their prediction tables; `name=path` names one.
        output: Folder for `comparison.md` and `comparison.png`, with `paired` also for `paired.md` and a page to read
            in a browser, `comparison.html`; none is written where not given.
        title: Heading of the table.
        tasks: Import paths of tasks of your own among the answers.
        paired: Also test every other run against the first, sample by sample.
        flips: JSONL file for the answers that are right in the first run and wrong in another, or the other way round.
        draws: Bootstrap draws of the tests' intervals.
        seed: Seed of the draws and permutations.
    """
    from pathlib import Path

    from robustlm.data.tasks import resolve_task
    from robustlm.evaluation.pairing import paired_tests
    from robustlm.evaluation.robustness import Settings
    from robustlm.evaluation.unreadable import unreadable
    from robustlm.report.comparison import draw, load_tables, other_datasets, scores_of
    from robustlm.report.comparison_page import comparison_html
    from robustlm.report.robustness import flip_lines, pairing_markdown, write_all, write_whole
    from robustlm.report.tables import markdown
    from robustlm.report.unread import unread_markdown

    if flips is not None:
        check_output("flips", flips)
    if output is not None:
        check_folder("output", output)
    for task in tasks:
        resolve_task(task)
    if (paired or flips) and len(runs) < 2:
        raise ValueError(f"runs: found {len(runs)}; expected two or more to test against the first, or to find flips")
    tables = load_tables(runs)
    found = scores_of(tables)
    first = next(iter(tables))
    for name in tables:
        if differ := other_datasets(tables, first, name):
            text = f"{name} and {first} answered the same samples and conditions{differ}"
            if paired or flips:
                raise ValueError(text)
            print(f"{text}\n")
    unread = {name: own for name, rows in tables.items() if (own := unreadable(rows))}
    said = "".join("\n\n" + "\n".join(unread_markdown(own, name)).strip() for name, own in unread.items())
    table = markdown(title, found) + said
    print(table)
    settings = Settings(draws=draws, seed=seed)
    tests = paired_tests(tables, settings) if paired else {}
    text = "\n\n".join(pairing_markdown(next(iter(tables)), name, one) for name, one in tests.items())
    if paired:
        print("\n" + text)
    if flips is not None:
        write_whole(Path(flips), flip_lines(tables))
        print(f"\nflips: {flips}")
    if output is not None:
        texts = {"comparison.md": table + "\n"}
        if paired:
            texts["paired.md"] = text + "\n"
            texts["comparison.html"] = comparison_html(tables, found, tests, settings, title, flips)
        folder = Path(output)
        write_all(folder, texts)
        draw(found, folder / "comparison.png")
        print(f"\ntable: {folder / 'comparison.md'}\npicture: {folder / 'comparison.png'}")
        if paired:
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
    tasks: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Print how a run fares however it is asked: means, worst cases, agreement and what varies, with intervals.

    Args:
        run: Folder of a run that `robustlm test` wrote, or its prediction table.
        output: Folder for `robustness.md`, `.csv`, `.json` and `.html`; none is written where not given.
        format: Which of them; `html` is one page with figures, for any browser, that loads nothing else.
        draws: Bootstrap draws of the intervals; 0 makes none.
        seed: Seed of the draws.
        level: Share of draws within an interval.
        resample: What is drawn: `samples`, or `both` samples and instructions, as if others might have been asked.
        clean: The condition against which performance drops.
        tasks: Import paths of tasks of your own among the answers.
    """
    from pathlib import Path

    from robustlm.data.tasks import resolve_task
    from robustlm.evaluation.free_text import free_text
    from robustlm.evaluation.robustness import Settings, robustness
    from robustlm.evaluation.table import read_table
    from robustlm.evaluation.unreadable import unreadable
    from robustlm.report.comparison import find_table
    from robustlm.report.page import About, to_html
    from robustlm.report.robustness import FORMATS, to_csv, to_json, to_markdown, write_all
    from robustlm.report.run import run_name, run_settings

    if output is not None:
        check_folder("output", output)
    for task in tasks:
        resolve_task(task)
    settings = Settings(draws, seed, level, resample)
    file = find_table(run)
    rows = read_table(file)
    if not rows:
        raise ValueError(f"{file}: the table holds no answers; expected those of a `robustlm test` that ended")
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    if clean not in ("clean", *conditions):
        raise ValueError(f"clean: found {clean!r}; expected a condition of the table: {', '.join(conditions)}")
    results = robustness(rows, settings, clean)
    free = free_text(rows, settings)
    text = to_markdown(results, settings, unread=unreadable(rows), free=free)
    print(text, end="")
    if output is not None:
        make: dict[str, Callable[[], str]] = {
            "md": lambda: text,
            "csv": lambda: to_csv(results, free),
            "json": lambda: to_json(results, settings, free),
            "html": lambda: to_html(rows, results, settings, About(run_name(file), run_settings(file)), clean),
        }
        wanted = FORMATS if format == "all" else (format,)
        for path in write_all(Path(output), {f"robustness.{ending}": make[ending]() for ending in wanted}):
            print(f"report: {path}")


def export_harness(
    run: str,
    output: str,
    name: str = "robustlm",
    max_new_tokens: int = 128,
    delimiter: str | None = None,
    conditions: list[str] = [],  # noqa: B006 - read only
) -> None:
    """Write a run's prompts as tasks of the lm-evaluation-harness, to be asked of any of its models.

    Args:
        run: Folder of a run that `robustlm test` wrote, or its prediction table.
        output: Folder for the tasks; a new or empty one.
        name: Tag to run them all by, and what their names begin with.
        max_new_tokens: Longest generated answer.
        delimiter: What stands between prompt and option; a space where not given, nothing where the prompt ends in
            white space or a special token.
        conditions: Those to write; all where not given.
    """
    from pathlib import Path

    from robustlm.evaluation.table import read_table
    from robustlm.report.comparison import find_table
    from robustlm.report.harness import task_files
    from robustlm.report.robustness import write_all

    check_name("name", name)
    check_number("max_new_tokens", max_new_tokens, least=1, whole=True)
    check_folder("output", output)
    folder = Path(output)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"output: {folder} holds files already; expected a new or an empty folder")
    file = find_table(run)
    rows = read_table(file)
    known = list(dict.fromkeys(row["condition"] for row in rows))
    if unknown := [one for one in conditions if one not in known]:
        raise ValueError(f"conditions: found {unknown[0]!r}; expected some of the table's: {', '.join(known)}")
    wanted = [row for row in rows if row["condition"] in (conditions or known)]
    if not wanted:
        raise ValueError(f"{file}: the table holds no answers; expected those of a `robustlm test` that ended")
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
    """Make a prediction table of what the lm-evaluation-harness has logged, for `report` and `compare`.

    Args:
        results: Folder, or `samples_*.jsonl` file, that the harness wrote with `--log_samples`.
        output: Folder for `predictions.parquet`, which must not be there yet.
        condition: Condition of samples of other tasks than `export-harness` writes.
        filter: Name of the harness's filter whose answers count; the first of each file where not given.
        tasks: Import paths of tasks of your own among the answers.
    """
    from pathlib import Path

    from robustlm.data.tasks import resolve_task
    from robustlm.evaluation.table import write_table
    from robustlm.report.harness import table_rows

    for task in tasks:
        resolve_task(task)
    check_folder("output", output)
    folder = Path(output)
    if not Path(results).exists():
        raise ValueError(f"results: {results} is not there; expected a folder or file that the harness wrote")
    table = folder / "predictions.parquet"
    if table.exists():
        raise ValueError(f"output: {table} is there already; expected a folder without a table")
    rows = table_rows(Path(results), condition, filter)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(table, rows)
    print(f"{len(rows)} answers: {table}")


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
    """Print how far other phrasings move a model's states, and what its answers lose by it; several runs side by side.

    Args:
        runs: Folders of runs that `robustlm test --states.layer -2` wrote; `name=path` names one.
        output: Folder for `states.md`, `states.csv`, `states.json` and pictures; none is written where not given.
        projection: How states are laid out in pictures: `pca`, `tsne` or `umap` (the extra `projection`).
        points: Most states in a projection; whole samples are drawn by the seed.
        clean: The condition whose instructions count as observed.
        draws: Bootstrap draws of the intervals; 0 makes none.
        seed: Seed of the draws, and of pictures.
        level: Share of draws within an interval.
        tasks: Import paths of tasks of your own among the answers.
    """
    from pathlib import Path

    from robustlm.data.tasks import resolve_task
    from robustlm.evaluation.robustness import Settings
    from robustlm.evaluation.states import check_projection
    from robustlm.report.robustness import write_all
    from robustlm.report.state_pictures import draw
    from robustlm.report.states import load_runs, measured, to_csv, to_json, to_markdown

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


def merge(run: str, output: str | None = None) -> None:
    """Merge a run's adapter into the weights of its base model, for programs that know no adapters.

    Args:
        run: Folder of a run that `robustlm fit` wrote, or of an adapter.
        output: Folder for the model (safetensors, tokenizer, card); `merged` beside the adapter where not given.
    """
    from robustlm.merging import merge

    if output is not None:
        check_folder("output", output)
    print(f"merged model: {merge(run, output)}")


COMMANDS: dict[str, Callable[..., Iterable[Sequence[Chain]] | None]] = {
    "noise": noise,
    "pairs": pairs,
    "paraphrase": paraphrase,
    "init": init,
    "compare": compare,
    "report": report,
    "states": states,
    "export-harness": export_harness,
    "import-harness": import_harness,
    "merge": merge,
    "quickstart": quickstart,
}
"""Commands by name; `robustlm NAME --help` shows the arguments. One made of other commands yields chains of them."""
