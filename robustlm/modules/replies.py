"""Answers of a model in evaluation, generated or chosen among a row's choices, as records of the table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from robustlm.batch import InstructionBatch, Measure
from robustlm.conditions.search import Objective
from robustlm.evaluation.metrics import overlap
from robustlm.evaluation.readings import read_leniently
from robustlm.evaluation.record import Record
from robustlm.evaluation.scores import FREE_TEXT, text_of
from robustlm.models.base import Answer, LanguageModel, OptionScores
from robustlm.tasks import TASKS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """The answer to one row."""

    answer: Answer
    choices: list[str] | None = None
    """The choices that were given; `None`: the text is generated."""
    option_scores: list[float] | None = None
    """Log-likelihood of each choice, summed over its tokens."""
    option_tokens: list[int] | None = None
    """Number of tokens of each choice, including end of sequence if it is scored."""


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
        answers = backbone.respond(prompt, max_new_tokens)
        found |= {row: Reply(answer) for row, answer in zip(free, answers, strict=True)}
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
    said = reply.answer
    answer = task.parse(said.text)
    gold = None if target is None else task.parse(target)
    token_f1 = rouge_l = None
    if gold is not None and batch.tasks[at] == FREE_TEXT:
        token_f1, rouge_l = overlap(text_of(answer), text_of(gold))
    labels = batch.labels[at] if batch.labels else ()
    lenient, lenient_correct = read_leniently(task, said.text, target, labels)
    return Record(
        sample_id=batch.ids[at],
        dataset=batch.groups[at],
        task=batch.tasks[at],
        condition=batch.condition,
        instruction_id=batch.instruction_ids[at],
        prediction=said.text,
        parsed=[list(item) for item in answer.items] if answer.parsed and said.error is None else None,
        target=target,
        correct=None if gold is None else said.error is None and task.correct(answer, gold),
        choices=reply.choices,
        option_scores=reply.option_scores,
        option_tokens=reply.option_tokens,
        prompt=prompt,
        token_f1=token_f1,
        rouge_l=rouge_l,
        lenient=lenient,
        lenient_correct=lenient_correct,
        labels=list(labels) or None,
        error=said.error,
        finish_reason=said.finish_reason,
        prompt_tokens=said.prompt_tokens,
        answer_tokens=said.answer_tokens,
        latency=said.latency,
        wording=batch.wordings[at] if batch.wordings else None,
        instruction=batch.instructions[at] if batch.instructions else None,
        draw=batch.draws[at] if batch.draws else None,
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
        answers = [reply.answer for reply in replies(backbone, batch, max_new_tokens)]
        if failed := [answer.error for answer in answers if answer.error is not None]:
            log.warning(
                "%d of %d answers failed, and count as right in this search, so that no attack wins by them: %s",
                len(failed), len(answers), failed[0],
            )  # fmt: skip
        told = zip(batch.tasks, answers, batch.targets, strict=True)
        return [
            float(answer.error is not None or TASKS[t].correct(TASKS[t].parse(answer.text), TASKS[t].parse(target)))
            for t, answer, target in told
        ]
    chosen = _chosen(backbone, batch)
    found = {row: _share(reply, batch.targets[row], batch.measure) for row, reply in chosen.items()}
    free = [row for row in range(len(batch)) if row not in found]
    if free:
        at = torch.tensor(free, device=batch.raw.input_ids.device)
        view = batch.raw.select(at, encoder_decoder=backbone.is_encoder_decoder)
        scores = backbone.option_scores(view, torch.arange(len(free), device=at.device), len(free))
        found |= dict(zip(free, (scores.log_likelihood / scores.tokens).exp().tolist(), strict=True))
    return [found[row] for row in range(len(batch))]


def _share(reply: Reply, target: str, measure: Measure) -> float:
    """The target's share of the probability of all choices; 0 if it is not among them."""
    assert reply.choices is not None
    assert reply.option_scores is not None
    assert reply.option_tokens is not None
    if target not in reply.choices:
        return 0.0
    sums = torch.tensor(reply.option_scores, dtype=torch.float64)
    shares = (sums / torch.tensor(_lengths(reply.choices, reply.option_tokens, measure))).softmax(0)
    return float(shares[reply.choices.index(target)])


def _best(scores: OptionScores, row: int, choices: Sequence[str], measure: Measure) -> int:
    if measure == "options":
        return scores.best(row)
    own = scores.rows == row
    sums, tokens = scores.log_likelihood[own].tolist(), scores.tokens[own].tolist()
    per = [one / length for one, length in zip(sums, _lengths(choices, tokens, measure), strict=True)]
    return max(range(len(per)), key=per.__getitem__)


def _lengths(choices: Sequence[str], tokens: Sequence[int], measure: Measure) -> list[int]:
    """What the log-likelihood of each choice is divided by."""
    if measure == "options":
        return list(tokens)
    if measure == "acc":
        return [1] * len(choices)
    return [max(1, len(choice if measure == "acc_norm" else choice.encode())) for choice in choices]


def _chosen(backbone: LanguageModel, batch: InstructionBatch) -> dict[int, Reply]:
    if batch.options is None or batch.option_rows is None:
        return {}
    measure = batch.measure
    if measure == "options" and not backbone.scores_ends:
        raise ValueError(
            f"data.scoring: 'options' counts end of sequence, and {backbone.name} {backbone.closed}, which tells no "
            "likelihood of it; expected acc, acc_norm or acc_bytes"
        )
    if not backbone.scores_ends and batch.prompt is not None and any(batch.prompt.messages):
        raise ValueError(
            f"data.template: found 'chat', but options of {backbone.name} are scored after prompts of one text, not "
            "after messages; expected 'plain', 'alpaca' or a template string, or data.scoring generation"
        )
    scores = backbone.option_scores(batch.options, batch.option_rows, batch.pass_rows or len(batch))
    if measure != "options":
        scores = scores.without_ends()
    found = {}
    for row, choices in enumerate(batch.choices):
        if row in scores.errors:
            found[row] = Reply(Answer("", error=scores.errors[row]), list(choices))
        elif choices:
            own = scores.rows == row
            sums, tokens = scores.log_likelihood[own].tolist(), scores.tokens[own].tolist()
            found[row] = Reply(Answer(choices[_best(scores, row, choices, measure)]), list(choices), sums, tokens)
    return found
