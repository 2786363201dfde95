"""Training on rows without an answer: phrasings vote, and what they agree on is the answer. After F²C."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from robustlm.batch import InstructionBatch, Unanswered
from robustlm.checks.numbers import check_number
from robustlm.models.base import LanguageModel
from robustlm.modules.guard import Guard, Verdict

Target = Literal["mean", "majority", "random", "labels"]
"""What a row without an answer is trained to say."""

_MOST = 1e6
"""Upper limit of the weight; guards against a typing error."""


@dataclass
class Agreement:
    """Answers rows without an answer by a vote over their phrasings, after F²C (Hejabi et al., 2025, arXiv 2510.14242).

    A row has C options, and K + 1 phrasings: its own instruction and its K = `data.variants` variants. With s_k(c) the
    log-likelihood of option c per token under phrasing k, by a pass without gradient and without dropout::

        p_k = softmax_c(s_k),   p = mean_k p_k  (mean)   or   the shares of the votes argmax_c p_k(c)  (majority)
        c* = argmax_c p(c),     w = (C · p(c*) − 1) / (C − 1)

    The row is then trained as one whose answer is c*, and its answer losses count w · `weight` times: 0 if all options
    are equally likely, 1 if p is sure. `mean` is the default, since it also uses how sure each phrasing is, which votes
    of few phrasings do not show. Under `majority`, a row without a strict majority is left out (w = 0), as in F²C.
    `random` and `labels` are the controls: the same rows with the same weights, and another target.

    The target is the model's own answer, so it moves with the model; `guard` watches for a collapse. What differs from
    the code that was released with F²C: weights by confidence (there only rows without a strict majority are left out;
    `majority` with `weigh: false` is that loss), no second loss between phrasings (`model.alignment` compares answers
    of phrasings, without F²C's choice of teachers), and labelled rows may be among the others. We read that code
    (commit 061347c) and the abstract, not the equations of the paper.

    Cost with LoRA, plain tuning = 1, all rows without an answer: (K + 1)/2 for the votes and K for training on all
    variants; 1 for training with `model.selection: {choice: random}`. A prompt is read once for all of its options. The
    host waits for the votes once in a step, because answers of other lengths change the shapes of the views.
    """

    target: Target = "mean"
    """`mean`: the option with the highest mean probability over phrasings; `majority`: the one with most votes;
    `random`: an option drawn by seed, epoch and row (control); `labels`: the true option of rows whose answers
    `data.unlabelled.hide` hides (control)."""
    weight: float = 1.0
    """Factor on the weights of rows without an answer; rows with an answer weigh 1."""
    weigh: bool = True
    """Weigh each row by w; false: all rows weigh 1, except those without a strict majority under `majority`."""
    guard: Guard | None = field(default_factory=Guard)
    """When a collapse stops the run, judged on `data.unlabelled.held_out` rows; null: never."""

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            known = ", ".join(get_args(Target))
            raise ValueError(f"agreement.target: found {self.target!r}; expected one of {known}")
        check_number("agreement.weight", self.weight, least=0, most=_MOST)

    def apply(self, backbone: LanguageModel, batch: InstructionBatch) -> tuple[InstructionBatch, dict[str, Tensor]]:
        """The batch in which every row has an answer, and a weight for each row.

        Args:
            backbone: A loaded model.
            batch: With `unanswered` and variants.

        Returns:
            The batch; and values to log, means over its rows without an answer: `agreeing` (share of phrasings that
            answer c*), `confidence` (w), `trained` (share of rows that weigh more than 0) and, where truths are known,
            `correct` (share of these rows whose target is the true option).

        Raises:
            ValueError: `labels`, and a row's true option is not known.
        """
        rows = batch.unanswered
        assert rows is not None
        assert batch.variant is not None
        verdicts = self.verdicts(backbone, rows, len(batch.variant))
        chosen = [self._target(batch, rows, at, one) for at, one in enumerate(verdicts)]
        own = [self.weight * (one.confidence if self.weigh else float(one.decided)) for one in verdicts]
        device = batch.raw.input_ids.device
        weights = [1.0] * len(batch)
        for row, weight in zip(rows.rows, own, strict=True):
            weights[row] = weight
        raw, variant = batch.raw, batch.variant
        if chosen != rows.held:
            raw, variant = (view.to(device) for view in rows.answered(chosen))
        found = {
            "agreeing": [one.agreeing for one in verdicts],
            "confidence": [one.confidence for one in verdicts],
            "trained": [float(weight > 0) for weight in own],
            "correct": [float(at == true) for at, true in zip(chosen, rows.truths, strict=True) if true is not None],
        }
        curves = {name: torch.tensor(sum(each) / len(each)) for name, each in found.items() if each}
        completed = replace(
            batch,
            raw=raw,
            variant=variant,
            unanswered=None,
            touched=None,  # it marks places in the views before
            weights=torch.tensor(weights).to(device, non_blocking=True),
        )
        return completed, curves

    def verdicts(self, backbone: LanguageModel, rows: Unanswered, pass_rows: int) -> list[Verdict]:
        """What the phrasings of each row without an answer agree on.

        Args:
            backbone: A loaded model.
            rows: U rows.
            pass_rows: Most prompts in one pass.
        """
        scores = backbone.option_scores(rows.options, rows.asked, pass_rows)
        each = scores.log_likelihood.double() / scores.tokens
        found, start = [], 0
        phrasings = 1 + len(rows.variant) // len(rows.raw)
        for answers in rows.answers:
            stop = start + phrasings * len(answers)
            found.append(Verdict.of(each[start:stop].reshape(phrasings, -1), majority=self.target == "majority"))
            start = stop
        return found

    def _target(self, batch: InstructionBatch, rows: Unanswered, at: int, verdict: Verdict) -> int:
        if self.target == "random":
            many = len(rows.variant) // len(rows.raw)
            assert batch.seeds is not None
            return int(batch.seeds[rows.rows[at] * many]) % len(rows.answers[at])
        if self.target == "labels":
            truth = rows.truths[at]
            if truth is None:
                raise ValueError(
                    f"agreement.target: found labels, but the answer of {batch.ids[rows.rows[at]]} is not known; "
                    "expected rows with answers and data.unlabelled.hide, or another target"
                )
            return truth
        return verdict.chosen
