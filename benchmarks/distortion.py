"""What LME finds of each kind of noise, by layer of a model: `python benchmarks/distortion.py`.

Prints 1 − cos between packaged instructions and what became of them: noise at ω = 0.2, another phrasing of the same
task (a paraphrase), and an instruction of another task; as means over all pairs, and by word edits (RBE) beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from robustlm.assets import TINY
from robustlm.instructions.banks import InstructionBank
from robustlm.models.backbone import Backbone
from robustlm.noise.base import Noise
from robustlm.noise.distortion import LME, RBE, Distortion
from robustlm.noise.embedders import StateEmbedder, TokenEmbedder, Vectors
from robustlm.noise.pools import build_vocabulary

BANKS = ("ner", "re", "absa", "tc", "nli")
KINDS = ("random_typos", "synonyms", "random_shuffling", "random_truncation", "random_replacement", "opposite")
OMEGA = 0.2


def pairs() -> dict[str, tuple[list[str], list[str]]]:
    """Raw texts and what became of them, by name."""
    banks = [[text.text for text in InstructionBank.load(name).instructions] for name in BANKS]
    texts = [text for bank in banks for text in bank]
    ids = [str(row) for row in range(len(texts))]
    found = {}
    for kind in KINDS:
        batch = Noise(kind, OMEGA).apply(texts, ids, vocabulary=build_vocabulary(texts))
        found[kind] = ([text for text, noisy in zip(texts, batch.noisy, strict=True) if noisy],
                       [text for text, noisy in zip(batch.texts, batch.noisy, strict=True) if noisy])  # fmt: skip
    found["all words shuffled"] = (texts, Noise("random_shuffling", 1.0).apply(texts, ids).texts)
    found["paraphrase"] = (texts, [text for bank in banks for text in [*bank[1:], bank[0]]])
    other = [text for bank in [*banks[1:], banks[0]] for text in bank]
    found["another task"] = (texts, (other * 2)[: len(texts)])
    return found


def measures(backbone: Backbone) -> dict[str, Distortion]:
    """The bag of embeddings, each layer's states, and word edits."""
    bag = TokenEmbedder()
    bag.bind(lambda texts: _bag(backbone, texts))
    found: dict[str, Distortion] = {"RBE": RBE(), "bag": LME(bag)}
    layers: tuple[Literal["middle", "last"], ...] = ("middle", "last")
    for layer in layers:
        states = StateEmbedder(cache_dir=None, layer=layer)
        states.bind(_states(backbone, layer), lambda: None)
        found[str(layer)] = LME(states)
    return found


def _states(backbone: Backbone, layer: Literal["middle", "last"]) -> Callable[[list[str]], Vectors]:
    return lambda texts: backbone.text_states(texts, layer).cpu().numpy()


@torch.no_grad()
def _bag(backbone: Backbone, texts: Sequence[str]) -> list[list[float]]:
    ids = backbone.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [backbone.embed(torch.tensor(row)).float().mean(0).tolist() for row in ids]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backbone", default=TINY)
    backbone = Backbone(parser.parse_args().backbone)
    backbone.load()
    by_name = measures(backbone)
    print(f"{'':<22}{'pairs':>6}" + "".join(f"{name:>9}" for name in by_name))
    for name, (raw, other) in pairs().items():
        found = [float(one.measure(raw, other, [True] * len(raw)).mean()) for one in by_name.values()]
        print(f"{name:<22}{len(raw):>6}" + "".join(f"{value:>9.4f}" for value in found))


if __name__ == "__main__":
    main()
