"""What tests do with tiny models: load them, make views and rows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from robustlm.adversaries import FGM, NRM, Adversary, FreeLB
from robustlm.batch import View, collate
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.tuning import Tuning
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.sample import Context, Sample

SAMPLES = [
    Sample("a", "find the words", "yes no", Context(text="hello world é")),
    Sample("b", "find", "no", Context(text="hello")),
    Sample("c", "Name the sentiment of the text.", "good", Context(question="which one?", option="good, bad")),
]


def load(folder: str, tuning: Tuning | None, shake: float = 0.1, **loading: Any) -> Backbone:
    """A loaded model in eval mode; trained weights are moved, so that a fresh adapter is not the identity."""
    torch.manual_seed(1)
    backbone = Backbone(folder, Loading(**loading), tuning)
    backbone.load()
    for p in backbone.trained:
        p.data.add_(torch.randn(p.shape).to(p.dtype) * shake)
    backbone.eval()
    return backbone


def view_of(backbone: Backbone, samples: Sequence[Sample], *, with_answer: bool = True) -> View:
    template = make_template("plain", backbone.tokenizer)
    encoder = Encoder(backbone.tokenizer, template, 128, encoder_decoder=backbone.is_encoder_decoder)
    return collate(
        encoder.encode(samples),
        pad_id=encoder.pad_id,
        encoder_decoder=backbone.is_encoder_decoder,
        with_answer=with_answer,
    )


ADVERSARIES: dict[str, Adversary | None] = {
    "noisy": None,
    "nrm": NRM(),
    "fgm": FGM(),
    "freelb": FreeLB(steps=2),
}

WORDS = ("find", "name", "list", "all", "every", "words", "text", "people", "places", "good", "bad", "in", "and")


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of uneven prompts and answers."""
    random = torch.Generator().manual_seed(seed)

    def words(least: int, most: int) -> str:
        n = int(torch.randint(least, most + 1, (1,), generator=random))
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=random).tolist())

    return [
        {"instruction": words(3, 7), "target": words(1, 4), "text": words(1, 9), "id": f"row-{i}"} for i in range(count)
    ]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def trainer(folder: Path, **settings: Any) -> Trainer:
    """A trainer that is quick and quiet; `seed` is what everything random comes from."""
    seed_everything(settings.pop("seed", 7), verbose=False)
    wanted: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return Trainer(**(wanted | settings))


def weights_of(module: Any) -> dict[str, Tensor]:
    """Trained weights."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


class Record(Callback):
    """Keeps what every training step logged."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append({name: float(value) for name, value in trainer.logged_metrics.items()})


class Slow(Callback):
    """Takes its time at every batch.

    Args:
        seconds: How much.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(self.seconds)

    def on_test_batch_start(self, *_: Any) -> None:
        time.sleep(self.seconds)
