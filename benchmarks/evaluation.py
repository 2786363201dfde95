"""How fast answers are found: `python benchmarks/evaluation.py`.

Compares batched generation with a loop that calls `generate` of the same transformers model for one prompt at a time,
and checks that both give the same answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from robustlm.backbone import Backbone
from robustlm.data.sources import Source
from robustlm.datamodules import InstructionDataModule


def timed(what: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds it took."""
    began = time.perf_counter()
    found = what()
    return found, time.perf_counter() - began


def one_by_one(backbone: Backbone, batches: list[Any], tokens: int) -> list[str]:
    """Greedy answers, a prompt at a time, as one writes it down first."""
    found = []
    for batch in batches:
        for ids, mask in zip(batch.prompt.input_ids, batch.prompt.attention_mask, strict=True):
            prompt = ids[mask.bool()][None]
            out = backbone.base.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=backbone.tokenizer.pad_token_id,
                eos_token_id=backbone.tokenizer.eos_token_id,
            )
            found.append(backbone.tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True).strip())
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backbone", default="builtin:tiny")
    parser.add_argument("--rows", default="builtin:quickstart", help="rows to answer (their test split)")
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    backbone = Backbone(options.backbone)
    backbone.load()
    backbone.eval()
    data = InstructionDataModule(test=[Source(options.rows, limit=options.limit)], eval_batch_size=options.batch)
    data.attach(backbone)
    data.setup("test")
    batches = list(data.test_dataloader()[0])
    with torch.inference_mode():
        backbone.generate(batches[0].prompt, 2)
        together, fast = timed(lambda: [t for b in batches for t in backbone.generate(b.prompt, options.tokens)])
        alone, slow = timed(lambda: one_by_one(backbone, batches, options.tokens))
    same = sum(a == b for a, b in zip(together, alone, strict=True))
    count = len(together)
    print(f"{count} prompts, {options.threads} threads: batches of {options.batch} {count / fast:.1f} a second,")
    print(f"one by one {count / slow:.1f} a second: {slow / fast:.1f} times as fast; {same} answers are the same")


if __name__ == "__main__":
    main()
