"""Commands that turn rows into rows: `noise`, `pairs`, `paraphrase`."""

from __future__ import annotations

from typing import Literal

from robustlm.checks.numbers import check_number, check_seed
from robustlm.checks.places import check_output
from robustlm.endpoint import is_hosted
from robustlm.instructions.banks import Version
from robustlm.noise.base import Noise
from robustlm.noise.distortion import LME, RBE, Distortion
from robustlm.noise.embedders import StateEmbedder, TokenEmbedder
from robustlm.sources.source import Source
from robustlm.tools.paraphrase_rules import Rules


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
    """Write rows with noisy variants of their instructions.

    Each row also gets the kind of noise, and how far it distorts the instruction.

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
    from robustlm.tools.noise_rows import noise_rows

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
    from robustlm.datamodules.connection import Measuring
    from robustlm.models.backbone import Backbone

    model = Backbone(backbone)
    model.load()
    model.eval()
    Measuring(model).bind(embedder)


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
    """Write rows with two phrasings each, grouped with hard negatives.

    Contrastive tuning trains on such rows.

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
    from robustlm.instructions.paraphrases import load_paraphrases
    from robustlm.sources.loading import load_all
    from robustlm.tools.pairs import write_pairs

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
    """Ask a chat model for other wordings of instructions.

    The model answers at an OpenAI-compatible endpoint. Wordings that pass the rules go to a file.

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
    from robustlm.endpoint import Endpoint
    from robustlm.tools import paraphrasing

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
