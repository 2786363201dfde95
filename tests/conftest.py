"""Tiny models and rows that tests share. Nothing here needs a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from robustlm.tools.tokenizer import train_tokenizer
from tests import quick_parsing
from tests.tiny import make_rows, write_rows

torch.set_num_threads(1)
quick_parsing.install()
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

TEXTS = [
    "Instruction: find the words Text: hello world Answer: yes no",
    "Instruction: Name the sentiment of the text. Question: which one? Option: good, bad Answer: good",
]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS * 3, 300)


def ids_of(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def save_llama(folder: Path, tokenizer: Any, layers: int) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.3,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        attention_dropout=0.2,
        **ids_of(tokenizer),
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    return save_llama(tmp_path_factory.mktemp("llama"), tokenizer, 2)


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    """One layer, in half the time: for tests of loops, processes and files, to which a model is a model."""
    return save_llama(tmp_path_factory.mktemp("shallow"), tokenizer, 1)


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    """Scaled embeddings, tied head, and capped logits."""
    folder = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(0)
    config = Gemma2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        initializer_range=0.3,
        max_position_embeddings=512,
        sliding_window=64,
        final_logit_softcapping=2.0,
        bos_token_id=tokenizer.bos_token_id,
        **ids_of(tokenizer),
    )
    Gemma2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, **ids_of(tokenizer)
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def models(llama: str, t5: str, gemma: str) -> dict[str, str]:
    return {"llama": llama, "t5": t5, "gemma": gemma}


@pytest.fixture(scope="session")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", make_rows(26))


@pytest.fixture(scope="session")
def test_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("rows") / "test.jsonl", make_rows(7, seed=1))
