"""Models by shape alone: a preset, sizes by name, or a config; with a tokenizer that only fills a place."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import LlamaConfig

from robustlm.checks.numbers import check_number
from robustlm.tools.tokenizer import train_tokenizer

PRESETS: dict[str, dict[str, int]] = {
    "1b": {"hidden": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "mlp": 8192, "vocab": 128_256, "tied": 1},
    "3b": {"hidden": 3072, "layers": 28, "heads": 24, "kv_heads": 8, "mlp": 8192, "vocab": 128_256, "tied": 1},
    "8b": {"hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "mlp": 14_336, "vocab": 128_256, "tied": 0},
    "70b": {"hidden": 8192, "layers": 80, "heads": 64, "kv_heads": 8, "mlp": 28_672, "vocab": 128_256, "tied": 0},
}
"""Sizes of Llama 3.1 and 3.2 (Llama team, 2024, table 3, and the configs that come with the weights)."""
_LARGEST = 10**7


def write_shape(shape: str, folder: Path) -> Path:
    """Write a config and a tokenizer for a shape; weights are not needed, and not written.

    The tokenizer knows 300 tokens. It only lets the model be constructed; it cannot count the tokens of texts.

    Args:
        shape: A key of `PRESETS`; sizes such as `hidden=1024,layers=12,heads=16,kv_heads=8,mlp=4096,vocab=32000,tied=0`
            (each may follow a preset: `8b,vocab=32000`); or a file `config.json`, or the folder that holds one.
        folder: Where to write.

    Returns:
        The folder.

    Raises:
        ValueError: The shape is none of these, or a size is missing, unknown or no positive integer.
    """
    given = Path(shape).expanduser()
    file = given / "config.json" if given.is_dir() else given
    train_tokenizer(["Instruction: say it again. Answer: it"], 300).save_pretrained(folder)
    if file.is_file():
        shutil.copyfile(file, folder / "config.json")
        return folder
    _config(_sizes(shape)).save_pretrained(folder)
    return folder


def _sizes(shape: str) -> dict[str, int]:
    known = PRESETS["8b"]
    found: dict[str, int] = {}
    for part in shape.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals and name.lower() in PRESETS and not found:
            found = dict(PRESETS[name.lower()])
        elif equals and name in known and value.strip().isdigit():
            found[name] = int(value)
        else:
            raise ValueError(
                f"shape: found {part.strip()!r} in {shape!r}; expected one of {', '.join(PRESETS)}, sizes such as "
                f"layers=12 ({', '.join(known)}), or a folder or file with a model's config"
            )
    found.setdefault("tied", 0)
    found.setdefault("kv_heads", found.get("heads", 0))
    if missing := [name for name in known if name not in found]:
        raise ValueError(
            f"shape: {shape!r} lacks {', '.join(missing)}; expected all of {', '.join(known)}, or a preset"
        )
    for name, size in found.items():
        check_number(f"shape: {name}", size, least=0 if name == "tied" else 1, most=_LARGEST, whole=True)
    for many, few in (("hidden", "heads"), ("heads", "kv_heads")):
        if found[many] % found[few]:
            raise ValueError(f"shape: {many}={found[many]} is not a multiple of {few}={found[few]}; expected one")
    return found


def _config(sizes: dict[str, int]) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["mlp"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        max_position_embeddings=131_072,
        tie_word_embeddings=bool(sizes["tied"]),
    )
