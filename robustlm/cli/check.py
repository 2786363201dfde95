"""Preflight: show the data, model and memory of a run before it trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

import numpy as np

from robustlm.adapters.card import TunedModule, trained_line
from robustlm.batch import IGNORE, InstructionBatch, View
from robustlm.checks.numbers import check_number
from robustlm.checks.texts import shortened
from robustlm.conditions.condition import ATTACK
from robustlm.datamodules import InstructionDataModule
from robustlm.datamodules.batches import EncodedSamples
from robustlm.datamodules.sampling import BatchKey
from robustlm.models.backbone import Backbone
from robustlm.modules import InstructionTuning
from robustlm.noise.base import CHANGES_MEANING, Noise
from robustlm.noise.pools import noise_pools
from robustlm.prompts.encoding import Encoder

OPEN, CLOSE = "«", "»"
"""Marks around the tokens that are trained."""
_LOOKED = 10_000
"""Rows that words for the shown noise are taken from, as in training."""


def check(model: InstructionTuning, datamodule: InstructionDataModule, rows: int = 2, whole: bool = False) -> None:
    """Print tokenizer, rows of every view, length statistics, trained parameters and a memory estimate.

    Raises:
        ValueError: An error that would stop a run at its start: an unknown model, bad rows, rows that do not fit,
            conditions that these rows do not support.
    """
    check_number("rows", rows, least=1, whole=True)
    datamodule.samples_rows = not whole
    roles = [role for role, sources in datamodule.sources.items() if sources]
    if not roles:
        raise ValueError("data: no source is named; expected at least one of data.train, data.validation, data.test")
    hosted = not model.backbone.gives_likelihoods
    if hosted and "train" in roles:
        raise ValueError(
            f"data.train: {model.backbone.name} {model.backbone.closed} and cannot be tuned; expected data.test alone"
        )
    if "train" in roles:
        model.check_data(datamodule)
    datamodule.connect(model.backbone)
    if "test" in roles:
        datamodule.check_draws()
    _show_tokenizer(model)
    longest = 0
    problems: list[str] = []
    for role in roles:
        found = datamodule.read(role)
        problems += _show_lengths(role, found, datamodule)
        longest = max(longest, *found.lengths)
        if role == "train":
            datamodule.rows[role] = found
        elif role == "test" or model.generate_in_validation:
            problems += _too_long(role, found, model, scored=datamodule.scoring == "options")
        problems += datamodule.notes
        datamodule.notes.clear()
        if role == "test":
            _show_asked(datamodule.under_all(found), datamodule.encoder, datamodule.draws)
    if hosted:
        print(f"\nparameters  not known, and no memory is counted: the model {model.backbone.closed}")
        _show_problems(problems)
        return
    model.configure_model()
    if "train" in datamodule.rows:
        model.check_trained()
        _show_views(model, datamodule, rows)
        _show_noise(datamodule)
    print(f"\n{trained_line(cast(TunedModule, model))}")
    _show_memory(model, datamodule.batch_size if "train" in roles else datamodule.eval_batch_size, longest)
    _show_problems(problems)


def _show_tokenizer(model: InstructionTuning) -> None:
    tokenizer = model.backbone.tokenizer
    print(f"model       {model.backbone.name} ({model.backbone.config.model_type}), {type(model).__name__}")
    if not model.backbone.gives_likelihoods:
        print(f"tokenizer   not known: the model {model.backbone.closed}, so lengths are those in characters")
        return
    print(f"tokenizer   {type(tokenizer).__name__}, {len(tokenizer)} tokens, ends with {tokenizer.eos_token!r}")


def _show_lengths(role: str, rows: EncodedSamples, datamodule: InstructionDataModule) -> list[str]:
    """Print the lengths of one role's rows. Returns warnings, one line each."""
    encoder = datamodule.encoder
    prompts = np.asarray(rows.prompt_lengths)
    answers = np.asarray([len(row.answer_ids) for row in rows.encoded])
    both = np.maximum(prompts, answers) if encoder.encoder_decoder else prompts + answers
    cut = int((both > encoder.max_length).sum())
    unit = "characters" if getattr(datamodule.backbone, "characters_per_token", 1) > 1 else "tokens"
    tasks = sorted({sample.dataset or sample.task for sample in rows.samples})
    print(f"\n{role:<12}{len(rows)} rows of {', '.join(tasks)}")
    for name, lengths in (
        ("prompt", prompts),
        ("answer", answers),
        ("row", prompts + answers),
    ):
        least, median, high, most = np.percentile(lengths, [0, 50, 95, 100]).astype(int)
        print(f"  {name:<10}min {least:>5}  median {median:>5}  95 % {high:>5}  max {most:>5}  {unit}")
    for text, count in encoder.special_texts(rows.samples).items():
        print(f"  special   {count} rows hold the text {text!r}, which is written as plain pieces, not as that token")
    said = f"{cut} rows ({cut / len(rows):.1%}) at max_length {encoder.max_length}"
    print(f"  cut       {said}")
    return [f"data.{role}: the context of {said} is cut; a larger data.max_length keeps more of it"] if cut else []


def _too_long(role: str, rows: EncodedSamples, model: InstructionTuning, *, scored: bool) -> list[str]:
    """A warning if true answers are longer than an answer may become, so that no model can give them; else nothing.

    The end of sequence does not count: an answer that is cut there is whole. If options are scored, rows with choices
    do not count.
    """
    width = getattr(model.backbone, "characters_per_token", 1)
    end = 0 if width > 1 else 1
    lengths = {
        at: math.ceil((len(row.answer_ids) - end) / width)
        for at, (sample, row) in enumerate(zip(rows.samples, rows.encoded, strict=True))
        if sample.target and not (scored and sample.choices)
    }
    long = [at for at, length in lengths.items() if length > model.max_new_tokens]
    if not long:
        return []
    most = max(long, key=lengths.__getitem__)
    sample, about = rows.samples[most], "about " if width > 1 else ""
    return [
        f"data.{role}: the true answers of {len(long)} of {len(lengths)} rows ({len(long) / len(lengths):.0%}) are "
        f"longer than model.max_new_tokens {model.max_new_tokens}, so no answer to them can be right; the longest has "
        f"{about}{lengths[most]} tokens: {sample.id}, {shortened(repr(sample.target), 100)}"
    ]


def _show_problems(problems: Sequence[str]) -> None:
    """Print the problems that a user should look at before the run. They come last, where users notice them."""
    if not problems:
        print("\nno problem was found")
        return
    print(f"\nto check ({len(problems)})")
    for problem in problems:
        print(f"  {problem}")


def _show_noise(datamodule: InstructionDataModule) -> None:
    """Print the first training row's instruction, and its variant under each kind of noise."""
    noise = getattr(datamodule, "noise", None)
    if not isinstance(noise, Noise):
        return
    samples = datamodule.rows["train"].samples[:_LOOKED]
    pools = noise_pools(samples, protect=noise.protect)
    at = next((i for i, sample in enumerate(samples) if len(sample.instruction.split()) > 1), 0)
    own = {name: pools[name] and pools[name][at : at + 1] for name in ("own", "slots", "requests", "protected")}
    is_spared = noise.spares_requests and pools["requests"][at]
    print(f"\nnoise       at ω = {noise.omega:g}, on {noise.phi:.0%} of the rows; of {samples[at].id}:")
    print(f"  {'-':<20}{samples[at].instruction}")
    for kind in noise.kinds:
        if is_spared and kind in CHANGES_MEANING:
            print(f"  {kind:<20}(off for this row, whose instruction is the request itself)")
            continue
        one = Noise(kind, noise.omega, 1.0, protect=noise.protect)
        made = one.apply([samples[at].instruction], [samples[at].id], seed=datamodule.seed, **{**pools, **own})
        print(f"  {kind:<20}{made.texts[0]}")


def _show_asked(conditions: dict[str, EncodedSamples], encoder: Encoder, draws: int) -> None:
    """Print the number of answers a test needs, and the first row of each condition; attacks are not searched."""
    each = f" ({draws} draws of each question)" if draws > 1 else ""
    print(
        f"\nasked       {draws * sum(map(len, conditions.values())):,} answers{each}; the first row of each condition"
    )
    for name, rows in conditions.items():
        view = encoder.view(rows.encoded[:1], with_answer=False)
        when = " (before its search)" if ATTACK in name else ""
        print(f"  {name}, {len(rows):,}{when}: {view.texts[0]}")


def _show_views(model: InstructionTuning, datamodule: InstructionDataModule, count: int) -> None:
    rows = datamodule.rows["train"]
    dataset = datamodule.replaying(datamodule.train_dataset(rows))
    for fact in dataset.facts(0):
        print(f"\n{fact}")
    batch = dataset[BatchKey(0, tuple(range(min(count, len(rows)))))]
    print(f"\nfirst rows, as trained on ({OPEN}…{CLOSE}: tokens that are trained)")
    for name in ("raw", "variant", "negative", "replay"):
        view = getattr(batch, name)
        if view is not None:
            separate = model.backbone.is_encoder_decoder
            for line, text in enumerate(rendered(view, model.backbone.tokenizer, encoder_decoder=separate)):
                print(f"  {name:<9}{text}{_beta(batch, name, line)}")


def _beta(batch: InstructionBatch, name: str, row: int) -> str:
    return f"  (β = {float(batch.beta[row]):.3f})" if name == "variant" and batch.beta is not None else ""


def rendered(view: View, tokenizer: Any, *, encoder_decoder: bool = False) -> list[str]:
    """Rows of a view as text: trained tokens in « », padding left out."""
    found = []
    for ids, attended, labels in zip(
        view.input_ids.tolist(), view.attention_mask.tolist(), view.labels.tolist(), strict=True
    ):
        trained = [False] * len(ids) if encoder_decoder else [label != IGNORE for label in labels]
        seen = [(token, own) for token, shown, own in zip(ids, attended, trained, strict=True) if shown]
        parts = [([token for token, _ in part], own) for own, part in groupby(seen, key=itemgetter(1))]
        if encoder_decoder or not any(trained):
            parts.append(([label for label in labels if label != IGNORE], True))
        texts = ((tokenizer.decode(part, skip_special_tokens=False), own) for part, own in parts)
        found.append("".join(f"{OPEN}{text}{CLOSE}" if own else text for text, own in texts))
    return found


def _show_memory(model: InstructionTuning, batch_size: int, longest: int) -> None:
    """Count weights, gradients and two moments, and estimate activations.

    Activations take about 34·T·H + 5·heads·T² bytes per layer and row at 16 bit (Korthikanti et al., 2022), and twice
    that at 32 bit. With checkpointing, memory holds the activations of one layer and the inputs of all layers.
    """
    backbone = model.backbone
    assert isinstance(backbone, Backbone)
    config = backbone.config.get_text_config()
    weights = sum(p.numel() * p.element_size() for p in backbone.parameters())
    state = sum(p.numel() * (p.element_size() + 8) for p in backbone.trained)
    layers, hidden, heads = (getattr(config, name, 0) or 0 for name in _SIZES)
    width = 2 if backbone.base.dtype.itemsize == 4 else 1
    layer = width * batch_size * (34 * longest * hidden + 5 * heads * longest**2)
    kept = 1 + layers / 34 if backbone.loading.gradient_checkpointing else layers
    activations = int(layer * kept)
    print(
        f"memory      about {_size(weights + state + activations)} on a device for batches of {batch_size}: "
        f"weights {_size(weights)}, gradients and optimiser {_size(state)}, activations {_size(activations)}"
    )


_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
