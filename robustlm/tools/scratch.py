"""Create the configuration and tokenizer of a small model to train from scratch, without weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast, get_args

from transformers import LlamaConfig, T5Config

from robustlm.checks.numbers import check_number
from robustlm.tools.tokenizer import train_tokenizer

Architecture = Literal["llama", "t5"]
"""`llama` is a decoder alone; `t5` is an encoder and a decoder."""


_LARGEST = 10**7
"""Largest allowed size of a model or vocabulary, so that a typing error does not fill the memory."""


def build(
    folder: str | Path,
    texts: Iterable[str],
    *,
    vocab_size: int = 1400,
    hidden_size: int = 128,
    layers: int = 3,
    heads: int = 4,
    intermediate_size: int = 352,
    initializer_range: float | None = None,
    architecture: Architecture = "llama",
) -> Path:
    """Write a model configuration and a tokenizer that `AutoConfig` and `AutoTokenizer` load from `folder`.

    Args:
        folder: Where to write; made if missing.
        texts: What the tokenizer is trained on: prompts and answers as the model will see them.
        vocab_size: Number of tokens, at least 260.
        hidden_size: Width of the model, a multiple of `heads` with an even quotient.
        layers: Number of transformer blocks (T5: in the encoder, and the same number in the decoder).
        heads: Number of attention heads.
        intermediate_size: Width of the MLPs.
        initializer_range: Standard deviation of the initial weights; 0.08 by default, because a model this narrow needs
            larger weights than the usual 0.02 gives. Not for T5, which has a rule for each kind of weight.
        architecture: `llama` (decoder only) or `t5` (encoder–decoder).

    Returns:
        The folder.

    Raises:
        ValueError: If a size is less than 1, the heads do not divide the width into even parts, or the architecture is
            unknown or does not have a given setting.
        FileExistsError: If the folder is not empty or is a file.
    """
    folder = Path(folder)
    sizes = {"hidden_size": hidden_size, "layers": layers, "heads": heads, "intermediate_size": intermediate_size}
    for name, size in sizes.items():
        check_number(name, size, least=1, most=_LARGEST, whole=True)
    check_number("vocab_size", vocab_size, least=1, most=_LARGEST, whole=True)
    if hidden_size % (2 * heads):
        raise ValueError(f"hidden_size: {hidden_size} is not a multiple of 2 × heads = {2 * heads}")
    if architecture not in get_args(Architecture):
        raise ValueError(f"architecture: found {architecture!r}; expected one of {', '.join(get_args(Architecture))}")
    if architecture == "t5" and initializer_range is not None:
        raise ValueError("initializer_range: T5 draws each kind of weight by its own rule; expected no value")
    if initializer_range is not None and initializer_range < 0:
        raise ValueError(f"initializer_range: {initializer_range} is negative; expected a standard deviation")
    check_number("initializer_range", initializer_range, least=0, most=100, or_null="for 0.08")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; expected a new or empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        what = "a model (config.json)" if (folder / "config.json").exists() else "other files"
        raise FileExistsError(f"{folder} already holds {what}; choose a new or empty folder")
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.save_pretrained(folder)
    config = _llama(tokenizer, initializer_range, **sizes) if architecture == "llama" else _t5(tokenizer, **sizes)
    config.save_pretrained(folder)
    return folder


def _llama(
    tokenizer: Any,
    initializer_range: float | None,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    intermediate_size: int,
) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=1024,
        initializer_range=0.08 if initializer_range is None else initializer_range,
        **_common(tokenizer),
    )


def _t5(tokenizer: Any, *, hidden_size: int, layers: int, heads: int, intermediate_size: int) -> T5Config:
    # every config takes these keywords, but the signature of T5Config does not show all of them
    config: T5Config = cast(Any, T5Config)(
        architectures=["T5ForConditionalGeneration"],
        d_model=hidden_size,
        d_kv=hidden_size // heads,
        d_ff=intermediate_size,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=tokenizer.pad_token_id,
        **_common(tokenizer),
    )
    return config


def _common(tokenizer: Any) -> dict[str, Any]:
    return {
        # A small corpus may hold fewer merges than asked for.
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "dtype": "float32",
    }
