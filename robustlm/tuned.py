"""A tuned model in Python: load a run, then generate and test with the prompts of its training."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from robustlm.adapters.settings import checked_prompt, read_prompt
from robustlm.callbacks.predictions import PredictionWriter
from robustlm.checkpoints.trust import allow_prompt
from robustlm.checkpoints.words import Words
from robustlm.checks.numbers import check_number
from robustlm.datamodules import InstructionDataModule
from robustlm.modules import InstructionTuning
from robustlm.runs import adapter_in, checkpoint_in, is_run
from robustlm.sample import Context, Sample
from robustlm.sources.source import Source

log = logging.getLogger(__name__)

_PARTS = ("question", "format", "option", "text")


class TunedModel:
    """A model with the settings of its prompts. `robustlm.load` makes it.

    Args:
        module: A module with loaded weights.
        prompt: Settings of `InstructionDataModule` that decide how prompts are written.
    """

    def __init__(self, module: InstructionTuning, prompt: Mapping[str, Any]) -> None:
        self.module = module
        self.prompt = dict(prompt)

    def generate(
        self, rows: Sequence[str | Mapping[str, str]], max_new_tokens: int | None = None, batch_size: int = 32
    ) -> list[str]:
        """Generate greedy answers.

        Args:
            rows: Each row is an instruction, or a mapping of `instruction` and any of `question`, `format`, `option`
                and `text`.
            max_new_tokens: Longest answer, in tokens. Default: the `max_new_tokens` of the module.
            batch_size: Rows in a batch.

        Returns:
            One answer for each row, in order.

        Raises:
            ValueError: A row has another form, or is too long for `max_length`.

        Example:
            >>> model = robustlm.load("runs/anit")  # doctest: +SKIP
            >>> model.generate(["Name a colour.", {"instruction": "Sentiment?", "text": "Fine."}])  # doctest: +SKIP
        """
        longest = self.module.max_new_tokens if max_new_tokens is None else max_new_tokens
        check_number("max_new_tokens", longest, least=1, whole=True)
        check_number("batch_size", batch_size, least=1, whole=True)
        if isinstance(rows, str):
            raise ValueError(f"rows: found the text {rows!r}; expected a list of rows, as in [{rows!r}]")
        samples = [_sample(row, number) for number, row in enumerate(rows, start=1)]
        data = InstructionDataModule(**self.prompt)
        data.connect(self.module.backbone)
        encoded = data.encoder.encode(samples)
        found = []
        for start in range(0, len(encoded), batch_size):
            view = data.encoder.view(encoded[start : start + batch_size], with_answer=False)
            found += self.module.backbone.generate(view.to(self.module.device), longest)
        return found

    def test(
        self,
        rows: str | list[str | Source] | Sequence[Mapping[str, object]],
        conditions: Sequence[str] = ("clean",),
        output: str | None = None,
        **settings: Any,
    ) -> dict[str, float]:
        """Score answers under instruction conditions, as `robustlm test` does.

        Args:
            rows: A path, a list of paths and sources, or rows in memory in any form that files may have.
            conditions: Conditions, as in `data.conditions`.
            output: Folder for the prediction table, which `robustlm report` reads. Default: the table is not saved.
            settings: Further arguments of `InstructionDataModule`; they replace the settings of training.

        Returns:
            Scores by name (`test/clean/<dataset>/<score>`).

        Raises:
            ValueError: A row or a setting is invalid.
        """
        trainer = Trainer(
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=output,
            callbacks=[] if output is None else [PredictionWriter()],
        )
        with tempfile.TemporaryDirectory() as folder:
            source: object = rows
            if not isinstance(rows, str) and all(isinstance(row, Mapping) for row in rows):
                file = Path(folder) / "rows.jsonl"
                file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                source = str(file)
            data = InstructionDataModule(**{**self.prompt, **settings, "test": source, "conditions": list(conditions)})
            found = trainer.test(self.module, datamodule=data, verbose=False)
        return {name: float(value) for scores in found for name, value in scores.items()}


def load(run: str | Path, **settings: Any) -> TunedModel:
    """Load a tuned model with the prompt settings of its training.

    Args:
        run: Folder of a run (`runs/NAME`), an adapter's folder, a checkpoint, or the name of a model.
        settings: Prompt settings (`template`, `bank`, …) that replace those of training. A bank in a file is used only
            if you name it here.

    Raises:
        ValueError: There is nothing to load, or you must name a value that the run chooses (`docs/safety.md`).

    Example:
        >>> robustlm.load("runs/anit").test("test.jsonl", ["clean", "unseen"])  # doctest: +SKIP
    """
    place = Path(run).expanduser()
    checkpoint = place if place.is_file() else checkpoint_in("run", place) if is_run(place) else None
    if checkpoint is not None:
        module = InstructionTuning.load_from_checkpoint(checkpoint, map_location="cpu")
        own = torch.load(checkpoint, weights_only=True, map_location="meta").get("robustlm") or {}
        prompt = checked_prompt(str(checkpoint), own.get("prompt"))
    else:
        folder = adapter_in(place) if place.is_dir() and not (place / "config.json").is_file() else place
        module = InstructionTuning(str(folder) if place.is_dir() else str(run), tuning=None)
        module.configure_model()
        prompt = read_prompt(folder) if folder.is_dir() else None
    known = InstructionDataModule.prompt_settings
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"load: found the setting {unknown[0]!r}; expected some of {', '.join(known)}")
    kept = {name: value for name, value in (prompt or {}).items() if name in known and name not in settings}
    if prompt is None:
        log.warning(
            "%s does not say how prompts were written in training; the settings given to robustlm.load are used", run
        )
    if unused := sorted(set(prompt or {}) - set(known)):
        log.warning("%s: data.%s belongs to another datamodule and is not used", run, ", data.".join(unused))
    allow_prompt(str(run), kept, InstructionDataModule, Words(frozenset()))
    module.eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TunedModel(module.to(device), {**kept, **settings})


def _sample(row: object, number: int) -> Sample:
    """Make a sample from a row of `generate`."""
    given = {"instruction": row} if isinstance(row, str) else row
    if not isinstance(given, Mapping) or not all(isinstance(text, str) for text in given.values()):
        raise ValueError(f"row {number}: found {row!r}; expected an instruction, or a mapping of texts")
    if unknown := sorted(set(given) - {"instruction", *_PARTS}):
        raise ValueError(f"row {number}: found the key {unknown[0]!r}; expected instruction, {', '.join(_PARTS)}")
    if not given.get("instruction", "").strip():
        raise ValueError(f"row {number}: found no instruction; expected a text")
    context = Context(**{part: given.get(part, "") for part in _PARTS})
    return Sample(f"row {number}", given["instruction"], "", context)
