"""Attacks on one instruction: what is protected stays, budgets hold, scores do not depend on batches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, cast, get_args
from zlib import crc32

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlm.conditions.recipes import Attack
from robustlm.conditions.search import Edit, Objective, Search
from robustlm.datamodules.attacking import Asked, Attacks, search
from robustlm.datamodules.preparation import Scoring
from robustlm.instructions.slots import pieces
from robustlm.losses import answer_cross_entropy
from robustlm.modules import InstructionTuning
from robustlm.noise.base import word_budget
from robustlm.noise.protection import Guard, protected_phrases
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.sample import Context, Sample
from tests.tiny import SAMPLES, view_of

SLOTS = ("premise", "options_")
PHRASES = ("positive", "not entailment", "entailment", "label:", "PER", "a", "+")
HELD = ["positive", "(Positive),", "positive/neutral", "not entailment.", "label: x", "PER", "a", "+", '"so be it"']
HELD += ["{premise}", '"{options_}"?', "\n{premise}\n"]
FREE = ["Classify", "the", "sentence", "as", "or", "not", "label", "A", "Answer", "per-", "an", "positivo", "{other}"]
texts = st.lists(st.sampled_from([*HELD, *FREE]), min_size=1, max_size=14).map(" ".join)
KEPT = re.compile(
    r'"[^"\n]+"|(?<!\w)(?:(?i:not[\W_]+entailment|entailment|positive|per)|a)(?!\w)|(?i:label)\s*:|(?<!\S)\+(?!\S)'
)
RECIPES = ("deepwordbug", "textbugger", "textfooler", f"{__name__}.greedy_for_what_is_protected")


def greedy_for_what_is_protected(words: Sequence[str], place: int, rng: Any) -> list[list[str]]:
    return [["positive", "not", "{premise}", "label:", '"', "x entailment", words[place] + "x"]]


class Toy:
    """Scores by a hash of the text, so that any edit may look good; counts what it is asked."""

    def __init__(self, sample: Sample, right: float = 1.0) -> None:
        self.samples = [sample]
        self.asked: list[str] = []
        self.right = right
        self.rows = 0

    def each(self, texts: Sequence[str], objective: Objective) -> list[list[float]]:
        if objective == "accuracy":
            return [[self.right]] * len(texts)
        self.asked += texts
        return [[crc32(text.encode()) / 2**32] for text in texts]


def ran(text: str, recipe: str, omega: float, phrases: Sequence[str] = (), **settings: Any) -> tuple[Any, Toy]:
    toy = Toy(Sample("s", text, "yes", fields=tuple((name, "x") for name in SLOTS)))
    how = Attacks(**settings)
    found = search(text, Attack(recipe, omega), phrases, cast(Any, toy), how, objective="likelihood", seed=0)
    return found.attacked, toy


@settings(deadline=None, max_examples=40)  # the surrogate takes time, and more on a busy processor
@given(
    text=texts,
    recipe=st.sampled_from(RECIPES),
    omega=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    how=st.sampled_from(get_args(Search)),
)
def test_protected_words_stay_and_budgets_hold(text: str, recipe: str, omega: float, how: Search) -> None:
    found, toy = ran(text, recipe, omega, PHRASES, candidates=5, budget=30, search=how)
    guard = Guard(text, PHRASES, SLOTS)
    assert len(found.edits) <= word_budget(len(guard.words), omega)
    assert len(toy.asked) == len(set(toy.asked)) == found.queries <= 30
    assert found.score == toy.each([found.text], "likelihood")[0][0] <= found.clean
    assert all(edit.before in guard.words and edit.before == text.split()[edit.position] for edit in found.edits)
    assert KEPT.findall(" ".join(found.text.split())) == KEPT.findall(" ".join(text.split()))
    assert [name for _, name in pieces(found.text, SLOTS)] == [name for _, name in pieces(text, SLOTS)]
    kept = iter(found.text.split())
    assert all(word in kept for word in text.split() if KEPT.search(word)), "with their punctuation, in order"
    assert (found.text == text) is (not found.edits)


def test_line_breaks_around_slots_and_of_untouched_instructions_stay() -> None:
    text = "Read  this:\n\n{premise}\n\nIs it good?"
    assert ran(text, "deepwordbug", 0)[0].text == text
    found, _ = ran(text, "deepwordbug", 1.0)
    assert "\n\n{premise}\n\n" in found.text
    assert found.edits


def test_an_instruction_of_words_without_candidates_stays() -> None:
    found, toy = ran("12 34 ??", "deepwordbug", 1.0)
    assert (found.text, found.edits) == ("12 34 ??", ())
    assert len(toy.asked) <= 4


def test_what_is_all_wrong_is_left_alone() -> None:
    toy = Toy(Sample("s", "Say it well.", "yes"), right=0.0)
    how = Attack("deepwordbug", 1.0)
    found = search("Say it well.", how, (), cast(Any, toy), Attacks(), objective="likelihood", seed=0)
    assert (found.attacked.text, found.attacked.queries, found.right) == ("Say it well.", 1, (0, 0))


def test_the_worst_of_all_edits_is_found_where_words_add_up() -> None:
    text, harm = "say whether this is good", {"whether": 0.3, "good": 0.4, "this": 0.1}

    class Sum(Toy):
        """Of ten rows, as many are right as the words that were not changed are worth."""

        def each(self, texts: Sequence[str], objective: Objective) -> list[list[float]]:
            lost = [sum(weight for word, weight in harm.items() if word not in text.split()) for text in texts]
            return [[float(row >= round(10 * one)) for row in range(10)] for one in lost]

    toy = cast(Any, Sum(Sample("s", text, "yes")))
    for objective, how in product(get_args(Objective), get_args(Search)):
        found = search(
            text,
            Attack("deepwordbug", 0.4),
            (),
            toy,
            Attacks(budget=200, candidates=3, search=how),
            objective=objective,
            seed=0,
        )
        assert {edit.before for edit in found.attacked.edits} == {"good", "whether"}
        assert found.attacked.score == pytest.approx(0.3)
        assert (found.right, found.succeeded) == ((10, 3), 7)


def test_rows_that_become_right_are_no_success() -> None:
    text = "say whether this is good"

    class Swaps(Toy):
        def each(self, texts: Sequence[str], objective: Objective) -> list[list[float]]:
            first = [one == text for one in texts]
            if objective == "accuracy":
                return [[float(same), float(not same), 1.0] for same in first]
            return [[0.9 if same else 0.1] for same in first]

    toy = cast(Any, Swaps(Sample("s", text, "yes")))
    found = search(text, Attack("deepwordbug", 0.2), (), toy, Attacks(), objective="likelihood", seed=0)
    assert (found.right, found.succeeded) == ((2, 2), 1)


def test_edits_from_elsewhere_are_tried_in_their_order() -> None:
    text = "say whether this is good"
    toy = Toy(Sample("s", text, "yes"))
    starts = [(Edit(4, "good", "elsewhere"),), (Edit(1, "when", "x"),), (Edit(0, "say", "positive"),)]
    how = Attack("deepwordbug", 0.4)
    found = search(text, how, PHRASES, cast(Any, toy), Attacks(budget=9), objective="likelihood", seed=0, starts=starts)
    assert toy.asked[:2] == [text, "say whether this is elsewhere"]
    assert not any("positive" in one for one in toy.asked), "a protected phrase would be added"
    assert found.attacked.queries == 9


@pytest.mark.parametrize("name", ["samples", "budget", "candidates"])
def test_settings_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.attack\.{name}: found 0; expected ≥ 1"):
        Attacks(**{name: 0})
    with pytest.raises(ValueError, match=r"data\.attack\.objective: found 'loss'; expected likelihood or accuracy"):
        Attacks(objective=cast(Any, "loss"))
    with pytest.raises(ValueError, match=r"data\.attack\.search: found 'beam'; expected bayesian or greedy or random"):
        Attacks(search=cast(Any, "beam"))
    with pytest.raises(ValueError, match=r"data\.attack\.transfer: found no file none\.jsonl"):
        Attacks(transfer="none.jsonl")
    with pytest.raises(ValueError, match=r"data\.attack\.transfer: found a file beside data\.attack\.reuse"):
        Attacks(transfer=__file__, reuse=__file__)


# --- a model's scores ----------------------------------------------------------------------------------------------

TEXTS = ["find the words", "find words", "Name all the words that are in this text", "fnd teh words"]
OPTIONS = [replace(SAMPLES[i], id=str(i), target=t, choices=("good", "bad", "no words")) for i, t in ((0, "bad"), (2, "good"))]  # fmt: skip  # noqa: E501


@pytest.fixture(params=["llama", "t5"])
def module(request: pytest.FixtureRequest, models: dict[str, str]) -> InstructionTuning:
    module = InstructionTuning(models[request.param], tuning=None, max_new_tokens=6)
    module.configure_model()
    torch.manual_seed(0)
    for p in module.parameters() if request.param == "t5" else ():
        p.data.add_(0.5 * torch.randn(p.shape))  # so that it writes words
    return module  # in train mode, as loading leaves it


def asked(module: InstructionTuning, samples: Sequence[Sample], size: int, length: int = 128, **more: Any) -> Asked:
    tokenizer, wide = module.backbone.tokenizer, module.backbone.is_encoder_decoder
    encoder = Encoder(tokenizer, make_template("plain", tokenizer), length, encoder_decoder=wide)
    return Asked(samples, encoder, module.judge, batch_size=size, **more)


def answered(module: InstructionTuning, samples: Sequence[Sample], text: str) -> list[Sample]:
    """Samples whose targets are what the model answers to them."""
    prompts = view_of(module.backbone, [replace(sample, instruction=text) for sample in samples], with_answer=False)
    said = module.backbone.generate(prompts, 6)
    assert all(said)
    return [replace(sample, target=text) for sample, text in zip(samples, said, strict=True)]


@pytest.mark.parametrize("objective", ["likelihood", "accuracy"])
@pytest.mark.parametrize("scoring", ["generation", "options", "acc_norm"])
def test_batches_change_nothing(module: InstructionTuning, objective: Objective, scoring: Scoring) -> None:
    samples = [*OPTIONS, *SAMPLES] if scoring != "generation" else SAMPLES  # rows without choices among the others
    wanted = [asked(module, samples, 1, scoring=scoring).scores([text], objective)[0] for text in TEXTS]
    whole = asked(module, samples, 7, scoring=scoring)
    found = whole.scores(TEXTS, objective)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert whole.rows == len(TEXTS) * len(samples)
    assert len(set(found)) > 1 or objective == "accuracy"
    assert module.backbone.model.training, "as it was"


def test_processes_that_search_for_different_texts_stop(
    module: InstructionTuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a processor rounds the surrogate's sums in another way: scores of other texts must not be mixed in."""

    def gathered(shares: list[Any], own: Any) -> None:
        shares[:] = [own, (["Find other words."], own[1])]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    with pytest.raises(RuntimeError, match="processes search for different texts"):
        asked(module, SAMPLES, 1, rank=0, world=2).scores(["find it"], "likelihood")


def test_likelihood_is_that_of_a_token_of_the_answer(module: InstructionTuning) -> None:
    sample = SAMPLES[1]
    (found,) = asked(module, [sample], 1).scores(["find it"], "likelihood")
    module.backbone.eval()
    view = view_of(module.backbone, [replace(sample, instruction="find it")])
    with torch.no_grad():
        said = module.backbone(view)
    loss = answer_cross_entropy(said.logits, said.targets, said.rows, 1)
    assert found == pytest.approx(float((-loss / len(said.targets)).exp()[0]), rel=1e-4)


def test_likelihood_among_options_is_the_true_ones_share(module: InstructionTuning) -> None:
    shares = [
        asked(module, [replace(OPTIONS[0], target=target)], 1, scoring="options").scores(["find it"], "likelihood")[0]
        for target in (*OPTIONS[0].choices, "none of these")
    ]
    assert sum(shares[:3]) == pytest.approx(1)
    assert shares[3] == 0
    right = [
        asked(module, [replace(OPTIONS[0], target=target)], 1, scoring="options").scores(["find it"], "accuracy")[0]
        for target in OPTIONS[0].choices
    ]
    assert right.index(1.0) == shares.index(max(shares))
    assert sum(right) == 1


def test_accuracy_is_that_of_generated_answers(module: InstructionTuning) -> None:
    samples = answered(module, SAMPLES, "find it")
    assert asked(module, samples, 2).scores(["find it"], "accuracy") == [1.0]
    samples[1] = replace(samples[1], target=samples[1].target + " not")
    assert asked(module, samples, 2).scores(["find it"], "accuracy") == [pytest.approx(2 / 3)]


def test_a_text_that_does_not_fit_is_never_the_worst(module: InstructionTuning) -> None:
    short = asked(module, SAMPLES, 2, length=40)
    found = short.scores(["find", "find " * 60], "likelihood")
    assert found[1] == float("inf") > found[0]
    assert short.rows == 3


def test_attacking_a_model_lowers_what_it_is_meant_to(module: InstructionTuning) -> None:
    """On samples whose targets are the model's own answers, of which it has all right."""
    text = "find all the good words in this text and name them"
    samples = [replace(sample, context=Context(text=f"hello {i}")) for i, sample in enumerate(SAMPLES)]
    samples = answered(module, samples, text)
    for objective in ("likelihood", "accuracy"):
        own = asked(module, samples, 8)
        found = search(text, Attack("deepwordbug", 0.3), (), own, Attacks(budget=40), objective=objective, seed=0)
        assert found.right[0] == len(samples)
        assert found.attacked.score < found.attacked.clean
        assert found.attacked.edits
        assert own.scores([found.attacked.text], objective) == [pytest.approx(found.attacked.score, abs=1e-5)]


def test_labels_are_protected() -> None:
    sample = Sample("s", "Is it good or bad?", "bad", choices=("good", "bad"))
    found, _ = ran(sample.instruction, "deepwordbug", 1.0, protected_phrases(sample))
    assert {"good", "bad?"} <= set(found.text.split())
    assert found.edits
