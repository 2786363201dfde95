"""`torch.compile` for the layers of a model while it is trained."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain

import torch
from torch import nn

from robustlm.models.loaded import LoadedModel

BACKEND = "inductor"
"""The compiler of torch."""


def compile_layers(loaded: LoadedModel) -> None:
    """Compile the layers of a loaded model for rows of any length. Layers of one kind share the compiled code.

    Embeddings, attention masks and head stay as they are: the hooks on the head and the choice of answer positions are
    not compiled. Names of weights do not change.

    Raises:
        ValueError: Compiling does not work on this machine.
    """
    _check_compiler(loaded.device)
    # dropout draws the numbers that it draws without the compiler
    options = {"fallback_random": True} if BACKEND == "inductor" else None
    for layer in _layers(loaded):
        layer.compile(dynamic=True, backend=BACKEND, options=options)


def forget_compiled(loaded: LoadedModel) -> None:
    """Let the layers run without compiled code again."""
    for layer in _layers(loaded):
        layer._compiled_call_impl = None


def _layers(loaded: LoadedModel) -> Iterator[nn.Module]:
    """The layers of the decoder, and those of the encoder if there is one: the items of the outermost lists."""
    base = loaded.base
    stacks = [base.get_decoder(), base.get_encoder()] if loaded.is_encoder_decoder else [base.get_decoder()]
    lists = ((part for part in stack.children() if isinstance(part, nn.ModuleList)) for stack in stacks)
    for layers in chain.from_iterable(lists):
        yield from layers


def _check_compiler(device: torch.device) -> None:
    """Compile a small function, which finds a missing compiler before the first step."""
    number = random.SystemRandom().randrange(2**31)  # no earlier process has left compiled code for it

    def small(x: torch.Tensor) -> torch.Tensor:
        return x.sin() * number

    try:
        torch.compile(small, backend=BACKEND)(torch.ones(2, device=device))
    except Exception as error:  # the compilers of CPU and GPU raise many kinds of errors
        reason = next((line for line in str(error).strip().split("\n") if line), type(error).__name__)
        raise ValueError(
            f"loading.compile: torch cannot compile for {device.type} on this machine ({reason}); expected a C++ "
            "compiler (g++ or clang++, or the one that the environment variable CXX names), for a GPU also triton; or "
            "loading.compile: false"
        ) from error
