"""Answers of a model in evaluation, generated or chosen among a row's choices, as records of the table."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustlm.batch import InstructionBatch
from robustlm.conditions.search import Objective
from robustlm.evaluation.metrics import overlap
from robustlm.evaluation.record import Record
from robustlm.evaluation.scores import FREE_TEXT, text_of
from robustlm.models.base import LanguageModel
from robustlm.tasks import TASKS


@dataclass(frozen=True)
class Reply:
    """The answer to one row."""

    text: str
    choices: list[str] | None = None
    """The choices that were given; `None`: the text is generated."""
    option_scores: list[float] | None = None
    """Log-likelihood of each choice, summed over its tokens."""
    option_tokens: list[int] | None = None
    """Number of tokens of each choice, including end of sequence."""


def replies(backbone: LanguageModel, batch: InstructionBatch, max_new_tokens: int) -> list[Reply]:
    """Answer the rows of an evaluation batch: the likeliest choice of rows with choices, else generated text.

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


def records(backbone: LanguageModel, batch: InstructionBatch, max_new_tokens: int) -> list[Record]:
    """Answer the rows of an evaluation batch, and return a record of the prediction table for each.

    Args:
        backbone: A loaded model.
        batch: B rows.
        max_new_tokens: Longest generated answer.

    Raises:
        ValueError: The batch is one to train on.
    """
    found = replies(backbone, batch, max_new_tokens)
    assert batch.prompt is not None
    prompts = batch.prompt.texts
    return [_record(batch, at, reply, prompts[at]) for at, reply in enumerate(found)]


def _record(batch: InstructionBatch, at: int, reply: Reply, prompt: str) -> Record:
    task, target = TASKS[batch.tasks[at]], batch.targets[at] or None
    answer = task.parse(reply.text)
    gold = None if target is None else task.parse(target)
    token_f1 = rouge_l = None
    if gold is not None and batch.tasks[at] == FREE_TEXT:
        token_f1, rouge_l = overlap(text_of(answer), text_of(gold))
    return Record(
        sample_id=batch.ids[at],
        dataset=batch.groups[at],
        task=batch.tasks[at],
        condition=batch.condition,
        instruction_id=batch.instruction_ids[at],
        prediction=reply.text,
        parsed=[list(item) for item in answer.items] if answer.parsed else None,
        target=target,
        correct=None if gold is None else task.correct(answer, gold),
        choices=reply.choices,
        option_scores=reply.option_scores,
        option_tokens=reply.option_tokens,
        prompt=prompt,
        token_f1=token_f1,
        rouge_l=rouge_l,
        wording=batch.wordings[at] if batch.wordings else None,
        instruction=batch.instructions[at] if batch.instructions else None,
        answer_words=[list(pair) for pair in batch.answer_words[at]] or None if batch.answer_words else None,
    )


def judged(backbone: LanguageModel, batch: InstructionBatch, objective: Objective, max_new_tokens: int) -> list[float]:
    """Score a model on each row of an evaluation batch, in [0, 1].

    Args:
        backbone: A loaded model.
        batch: B rows.
        objective: `accuracy`: 1 if the answer has exactly the true items, else 0. `likelihood`: the probability of the
            true answer, from its log-likelihood per token. With choices, this is their softmax; otherwise it is the
            probability of a token (geometric mean over the answer). Both objectives are bounded, so that no row
            dominates.
        max_new_tokens: Longest generated answer.
    """
    if objective == "accuracy":
        answers = zip(batch.tasks, replies(backbone, batch, max_new_tokens), batch.targets, strict=True)
        return [float(TASKS[t].correct(TASKS[t].parse(a.text), TASKS[t].parse(target))) for t, a, target in answers]
    found = {row: _share(reply, batch.targets[row]) for row, reply in _chosen(backbone, batch).items()}
    free = [row for row in range(len(batch)) if row not in found]
    if free:
        at = torch.tensor(free, device=batch.raw.input_ids.device)
        view = batch.raw.select(at, encoder_decoder=backbone.is_encoder_decoder)
        scores = backbone.option_scores(view, torch.arange(len(free), device=at.device), len(free))
        found |= dict(zip(free, (scores.log_likelihood / scores.tokens).exp().tolist(), strict=True))
    return [found[row] for row in range(len(batch))]


def _share(reply: Reply, target: str) -> float:
    """The target's share of the probability of all choices; 0 if it is not among them."""
    assert reply.choices is not None
    assert reply.option_scores is not None
    assert reply.option_tokens is not None
    if target not in reply.choices:
        return 0.0
    sums = torch.tensor(reply.option_scores, dtype=torch.float64)
    shares = (sums / torch.tensor(reply.option_tokens)).softmax(0)
    return float(shares[reply.choices.index(target)])


def _chosen(backbone: LanguageModel, batch: InstructionBatch) -> dict[int, Reply]:
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
