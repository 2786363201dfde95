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

    Each row also says the kind of noise, and how much it distorts the instruction.

    Args:
        input: Rows with instructions, in any file format.
        output: File for the rows, with `variant`, `noise_kind` and `distortion` added. Its ending sets the format.
        kind: Kind of noise, or `mixed`.
        omega: Share of an instruction's words that noise touches, in [0, 1].
        phi: Share of rows that get noise, in [0, 1].
        distortion: `RBE` (word edits) or `LME` (embeddings).
        seed: Seed of the noise.
        epoch: Epoch to draw noise for; noise differs between epochs.
        protect: Do not change answers, words of the answer's format or quoted words in instructions.
        manifest: JSONL file that lists the changes to each instruction, word by word.
        bank: Instruction bank without placeholders. Its seen phrasings replace the rows' own instructions, or serve
            rows that have none. A packaged name, a JSON file, or `file.json#name`.
        backbone: The model whose states or token embeddings `LME` compares: a hub name, a folder, an adapter or
            `builtin:tiny`. The default embedder of `LME` needs one.
        weights: For `mixed`: the relative frequency of each kind; null: six kinds equally often.
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
    """Give a model to a distortion that needs one. Raises `ValueError` if it is missing or not needed."""
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
        output: File for the rows. Its ending sets the format.
        more: More sources like `input`, each with its own settings, such as `[{path: rte, bank: templates.json#rte}]`.
        split: Which split of folders and of the built-in corpus.
        negatives: Rows in a group that have the same instruction, another input and another target.
        bank: Bank of phrasings that replaces the rows' own banks (name, JSON file, or `file.json#name`).
        fields: Maps placeholders of the bank to the rows' keys where the names differ: `{premise: sentence1}`.
        version: Which phrasings of banks to use.
        paraphrases: File of rows `{"instruction": …, "paraphrases": […]}`, for instructions without variants in a bank.
        form: `robustlm`: rows of this package; `coin`: whole prompts in three columns, as in the CoIN release.
        limit: Use only this many rows of each source, from its start.
        seed: Seed of phrasings, groups and their order.
        unseen_share: Share of a plain list of templates that training does not use (the last ones); null: a quarter.
    """
    from robustlm.instructions.paraphrases import load_paraphrases
    from robustlm.tools.pairs import pair_rows

    check_seed("seed", seed)
    check_output("output", output)
    sources = [Source(input, bank=bank, fields=fields), *(Source(one) if isinstance(one, str) else one for one in more)]
    others = load_paraphrases(paraphrases) if paraphrases else None
    print(
        pair_rows(
            [_narrowed(source, split, limit) for source in sources],
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
    """Add the split to a source unless it is a single file or has one, and the limit unless it has one."""
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

    The model runs behind an OpenAI-compatible endpoint. Wordings that pass the rules are written to a file.

    Args:
        input: Rows with instructions, in any file format. Or an instruction bank: a packaged name, or a file
            (`file.json#name` for one of several banks).
        output: Paraphrase file to write, `.jsonl` or `.jsonl.gz`.
        model: The model's name at the endpoint.
        base_url: The endpoint, up to `/v1`; by default `$OPENAI_BASE_URL`, or OpenAI's. The key is in
            `$OPENAI_API_KEY`.
        count: Number of paraphrases wanted for each instruction.
        temperature: Sampling temperature; null: the endpoint's default.
        seed: Seed sent with a request; it increases by one with each further request. Null sends none.
        prompt: The request text, which contains `{instruction}` and `{count}`; by default robustlm's own.
        rounds: Most requests for an instruction that does not have enough good paraphrases yet.
        rules: What a paraphrase has to keep.
        concurrency: Number of simultaneous requests.
        max_retries: How often to repeat a failed request.
        timeout: Time limit of a request, in seconds.
        cache_dir: Folder that stores answers, so that no answer is paid for twice; null stores none.
        rejected: File for the rejected paraphrases, with reasons.
        overwrite: Replace existing files.
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
