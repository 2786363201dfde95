"""What a model answers in evaluation: generated, or the likeliest of a row's choices."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustlm.backbone import Backbone
from robustlm.batch import InstructionBatch


@dataclass(frozen=True)
class Reply:
    """The answer to one row."""

    text: str
    choices: list[str] | None = None
    """What there was to choose from; `None`: the text is generated."""
    option_scores: list[float] | None = None
    """Log-likelihood of each choice, summed over its tokens."""
    option_tokens: list[int] | None = None
    """Tokens of each choice, with end of sequence."""


def replies(backbone: Backbone, batch: InstructionBatch, max_new_tokens: int) -> list[Reply]:
    """Answers to the rows of an evaluation batch: of the choices where the batch brings them, else generated.

    Args:
        backbone: A loaded model.
        batch: B rows.
        max_new_tokens: Longest generated answer.

    Raises:
        ValueError: The batch is one to train on.
    """
    if batch.prompt is None:
        raise ValueError("evaluation needs batches with a `prompt` view; use an evaluation loader of the datamodule")
    found = _chosen(backbone, batch)
    free = [row for row in range(len(batch)) if row not in found]
    if free:
        prompt = batch.prompt
        if found:
            rows = torch.tensor(free, device=prompt.input_ids.device)
            prompt = prompt.select(rows, encoder_decoder=backbone.is_encoder_decoder)
        texts = backbone.generate(prompt, max_new_tokens)
        found |= {row: Reply(text) for row, text in zip(free, texts, strict=True)}
    return [found[row] for row in range(len(batch))]


def _chosen(backbone: Backbone, batch: InstructionBatch) -> dict[int, Reply]:
    if batch.options is None or batch.option_rows is None:
        return {}
    scores = backbone.option_scores(batch.options, batch.option_rows, batch.pass_rows or len(batch))
    found = {}
    for row, choices in enumerate(batch.choices):
        if choices:
            own = scores.rows == row
            found[row] = Reply(
                choices[scores.best(row)],
                list(choices),
                scores.log_likelihood[own].tolist(),
                scores.tokens[own].tolist(),
            )
    return found
