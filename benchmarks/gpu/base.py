"""Train a language model of 50 to 150 million parameters on text: `python -m benchmarks.gpu.base --text FOLDER`.

Reads every `.txt` and `.gz` file of a folder (blank lines separate documents), trains a tokenizer on a part of them,
and trains a Llama model for a given time. Writes the model to `OUTPUT/model`, for `--model.backbone OUTPUT/model`, and
`OUTPUT/training.jsonl` (loss, tokens a second, share of the GPU's peak). The learning rate rises in the first 2 % of
the run, stays, and falls to 0 in the last 20 %. Muon trains the matrices of layers, AdamW everything else. Every 50th
document is held out, and its loss is measured along the way. Rows are windows of the text at random places; documents
in a row see each other, with an end of sequence between them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from benchmarks.gpu.machine import peak_of
from robustlm.optim.config import Muon, parameter_groups
from robustlm.tools.tokenizer import train_tokenizer

HELD_OUT = 50
"""Every so many documents, one is held out."""
LONGEST = 200_000
"""Characters of a document; a longer one is read as several."""
READ_AT_ONCE = 2_000
"""Documents that are tokenised together."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the model is, and how it is trained."""

    vocab: int = 16_384
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    context: int = 1024
    rows: int = 64
    """Rows of a step."""
    muon_lr: float = 0.01
    adamw_lr: float = 3e-3
    minutes: float = 20.0
    """Length of training, without reading the text."""
    steps: int = 0
    """Length of training in steps; 0: `minutes` decides."""
    sample: int = 50_000
    """Documents that the tokenizer is trained on."""
    look: int = 50
    """Steps between two lines of `training.jsonl`."""
    save: float = 5.0
    """Minutes between two saved models."""
    seed: int = 0


TINY = Plan(vocab=300, hidden=32, layers=2, heads=2, context=32, rows=4, steps=6, sample=50, look=3)


def documents(folder: Path) -> Iterator[str]:
    """The documents of a folder's `.txt` and `.gz` files, files in the order of their names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is not UTF-8 text; the message names it.
    """
    files = sorted(one for pattern in ("*.txt", "*.gz") for one in folder.rglob(pattern))
    if not files:
        raise FileNotFoundError(f"--text: {folder} holds no .txt and no .gz file")
    for file in files:
        try:
            with (
                gzip.open(file, "rt", encoding="utf-8")
                if file.suffix == ".gz"
                else open(file, encoding="utf-8") as lines
            ):
                yield from _split(lines)
        except (UnicodeDecodeError, OSError, EOFError) as error:
            raise ValueError(f"--text: {file}: {error}; expected text in UTF-8, compressed with gzip if .gz") from error


def _split(lines: Iterator[str]) -> Iterator[str]:
    kept: list[str] = []
    size = 0
    for line in lines:
        if line.strip() in ("", "<|endoftext|>") or size + len(line) > LONGEST:
            if kept:
                yield "".join(kept).strip()
            kept, size = [], 0
        if line.strip() not in ("", "<|endoftext|>"):
            kept.append(line)
            size += len(line)
    if kept:
        yield "".join(kept).strip()


def write_tokens(folder: Path, tokenizer: Any, output: Path) -> tuple[Path, Path]:
    """Tokenise all documents into two files of uint16 or uint32 numbers: those to train on, and those held out."""
    kind = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    paths = output / "train.tokens", output / "held-out.tokens"
    source = documents(folder)
    number = 0
    with open(paths[0], "wb") as train, open(paths[1], "wb") as held:
        while batch := list(islice(source, READ_AT_ONCE)):
            for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
                into = held if number % HELD_OUT == HELD_OUT - 1 else train
                np.asarray([*ids, tokenizer.eos_token_id], dtype=kind).tofile(into)
                number += 1
    return paths


def windows(tokens: Any, rows: int, context: int, seed: Sequence[int], device: str) -> Tensor:
    """Rows of the text at random places, int64 `[rows, context + 1]`; they depend on the seed alone."""
    places = np.random.default_rng(seed).integers(len(tokens) - context, size=rows)
    picked = np.stack([tokens[at : at + context + 1] for at in places]).astype(np.int64)
    found = torch.from_numpy(picked)
    return found.pin_memory().to(device, non_blocking=True) if device == "cuda" else found


def rate(share: float) -> float:
    """The learning rate at a share of the run, as a share of its peak."""
    return min(1.0, (share + 1e-3) / 0.02, max(0.0, (1 - share) / 0.2))


def operations(plan: Plan, weights: int) -> float:
    """Floating-point operations for each token of a step: 6 for each weight it meets, and causal attention."""
    return 6.0 * weights + 6.0 * plan.layers * plan.hidden * plan.context


class Training:
    """Trains a model on the tokens of two files.

    Args:
        plan: Sizes and lengths.
        model: In float32, on its device.
        files: Tokens to train on, and held-out tokens.
        device: `cpu` or `cuda`.
        compiled: Whether the model is compiled.
    """

    def __init__(self, plan: Plan, model: Any, files: tuple[Path, Path], device: str, *, compiled: bool) -> None:
        kind = np.uint16 if model.config.vocab_size <= 2**16 else np.uint32
        self.plan, self.model, self.device = plan, model, device
        self.train: Any
        self.held: Any
        self.train, self.held = (np.memmap(file, dtype=kind, mode="r") if file.stat().st_size else [] for file in files)
        for name, tokens in (("trained", self.train), ("held-out", self.held)):
            if len(tokens) <= plan.context:
                raise ValueError(
                    f"--text: {len(tokens)} {name} tokens; expected more than --context {plan.context} (one document "
                    f"in {HELD_OUT} is held out)"
                )
        self.run = torch.compile(model) if compiled else model
        self.optimizer = Muon(muon_lr=plan.muon_lr, adamw_lr=plan.adamw_lr).build(parameter_groups(model))
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        met = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
        head = 0 if not model.config.tie_word_embeddings else model.get_output_embeddings().weight.numel()
        self.operations = operations(plan, met + head)

    def loss(self, rows: Tensor) -> Tensor:
        """Mean cross-entropy of the next token."""
        with torch.autocast(self.device, torch.bfloat16) if self.device == "cuda" else nullcontext():
            logits = self.run(input_ids=rows[:, :-1], use_cache=False).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())

    @torch.no_grad()
    def held_out(self) -> float:
        """The loss on held-out text, always on the same windows."""
        self.model.eval()
        found = [
            float(
                self.loss(windows(self.held, self.plan.rows, self.plan.context, (self.plan.seed, 1, at), self.device))
            )
            for at in range(4)
        ]
        self.model.train()
        return statistics.mean(found)

    def step(self, number: int, share: float) -> Tensor:
        """One optimiser step; its loss."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate(share)
        loss = self.loss(
            windows(self.train, self.plan.rows, self.plan.context, (self.plan.seed, 0, number), self.device)
        )
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def all(self, output: Path, tokenizer: Any) -> dict[str, Any]:
        """Train until the end, write lines and models on the way, and return the last line.

        Raises:
            ValueError: The loss is not finite; the model that was saved last stays.
        """
        plan, peak = self.plan, peak_of(self.device)
        began = since = saved = time.monotonic()
        number, loss = 0, torch.tensor(math.nan)
        line: dict[str, Any] = {}
        while True:
            share = number / plan.steps if plan.steps else (time.monotonic() - began) / (60 * plan.minutes)
            over = share >= 1
            if over or (number and number % plan.look == 0):
                value, now = float(loss), time.monotonic()
                if not math.isfinite(value):
                    raise ValueError(f"step {number}: the loss is {value}; try lower --muon-lr and --adamw-lr")
                done = number - int(line.get("step", 0))
                tokens = done * plan.rows * plan.context / max(now - since, 1e-9)
                line = {"step": number, "minutes": (now - began) / 60, "loss": value, "tokens/s": tokens}
                if done:
                    line["TFLOP/s"] = tokens * self.operations / 1e12
                    line["MFU, %"] = 100 * line["TFLOP/s"] / peak if peak else None
                line["held-out loss"] = self.held_out()
                with open(output / "training.jsonl", "a", encoding="utf-8") as log:
                    log.write(json.dumps(line) + "\n")
                print("  ".join(f"{k} {v:.4g}" for k, v in line.items() if v is not None), flush=True)
                if over or now - saved > 60 * plan.save:
                    save(self.model, tokenizer, output)
                    saved = time.monotonic()
                since = time.monotonic()
            if over:
                return line
            loss = self.step(number, share)
            number += 1


def save(model: Any, tokenizer: Any, output: Path) -> None:
    """Write the model to `output/model`; the one before stays until the new one is complete."""
    part, whole, old = (output / name for name in ("model.part", "model", "model.old"))
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    if whole.exists():
        whole.rename(old)
    part.rename(whole)
    shutil.rmtree(old, ignore_errors=True)


def new_model(plan: Plan, tokenizer: Any, device: str) -> Any:
    """A Llama model of random float32 weights."""
    torch.manual_seed(plan.seed)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden,
        intermediate_size=-(-8 * plan.hidden // 3 // 32) * 32,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=plan.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.device(device):
        return transformers.LlamaForCausalLM(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, train, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.base", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="folder of .txt and .gz files")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--tiny", action="store_true", help="a very small model, few steps: a rehearsal for a CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="where to run (cuda; cpu with --tiny)")
    parser.add_argument("--compile", action="store_true", help="compile the model")
    texts = {"vocab": "tokens of the vocabulary", "hidden": "width of the model", "layers": "its layers"}
    for name in Plan.__slots__:
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(getattr(Plan(), name)),
            help=f"{texts.get(name, name.replace('_', ' '))} ({getattr(Plan(), name)})",
        )  # fmt: skip
    args = parser.parse_args(argv)
    base = TINY if args.tiny else Plan()
    given = {name: getattr(args, name) for name in Plan.__slots__}
    plan = Plan(**{name: getattr(base, name) if value is None else value for name, value in given.items()})
    device = args.device or ("cpu" if args.tiny else "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA GPU; --device cpu trains on the CPU, --tiny is a rehearsal")
    for name in Plan.__slots__:
        if name not in ("steps", "seed") and getattr(plan, name) <= 0:
            parser.error(f"--{name.replace('_', '-')}: found {getattr(plan, name)}; expected a number above 0")
    if plan.hidden % (2 * plan.heads):
        parser.error(f"--hidden: {plan.hidden} is not a multiple of 2 × --heads = {2 * plan.heads}")
    if args.output.exists() and any(args.output.iterdir()):
        parser.error(f"--output: {args.output} holds files; expected a new folder")
    try:
        tokenizer = train_tokenizer(islice(documents(args.text), plan.sample), plan.vocab)
        args.output.mkdir(parents=True, exist_ok=True)
        files = write_tokens(args.text, tokenizer, args.output)
        training = Training(plan, new_model(plan, tokenizer, device), files, device, compiled=args.compile)
        count = sum(p.numel() for p in training.model.parameters())
        print(
            f"{count / 1e6:.1f} M parameters, {len(training.train) / 1e6:.2f} M tokens, {len(training.held)} held out"
        )
        training.all(args.output, tokenizer)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
