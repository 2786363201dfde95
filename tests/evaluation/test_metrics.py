from __future__ import annotations

import doctest
import math
import os
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlm.evaluation import metrics
from robustlm.evaluation.metrics import ExactMatch, MultisetF1, UnparseableRate
from robustlm.tasks import Answer

ANSWER = st.builds(
    Answer,
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), max_size=5).map(tuple),
    st.integers(0, 2),
)
PAIRS = st.lists(st.tuples(ANSWER, ANSWER), max_size=6)


def f1_of(*batches: list[tuple[Answer, Answer]]) -> dict[str, float]:
    metric = MultisetF1()
    for batch in batches:
        metric.update([pred for pred, _ in batch], [gold for _, gold in batch])
    return {name: value.item() for name, value in metric.compute().items()}


def naive(pairs: list[tuple[Answer, Answer]]) -> dict[str, float]:
    """Give each predicted piece a partner that no other piece has taken."""
    tp = predicted = expected = 0
    for pred, gold in pairs:
        free = list(gold.items)
        predicted += len(pred.items) + pred.malformed
        expected += len(gold.items) + gold.malformed
        for item in pred.items:
            if item in free:
                free.remove(item)
                tp += 1
    if not predicted and not expected:
        return dict.fromkeys(("f1", "precision", "recall"), 1.0)
    precision = tp / predicted if predicted else 0.0
    recall = tp / expected if expected else 0.0
    f1 = 2 * precision * recall / (precision + recall) if tp else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}


@settings(deadline=None)
@given(pairs=PAIRS.filter(bool), cut=st.integers(0, 6))
def test_f1_equals_naive_matching_however_batched(pairs: list[tuple[Answer, Answer]], cut: int) -> None:
    assert f1_of(pairs) == pytest.approx(naive(pairs), abs=1e-6)
    assert f1_of(pairs[:cut], pairs[cut:]) == f1_of(pairs)


@settings(deadline=None)
@given(pairs=PAIRS.filter(bool))
def test_exact_match_and_unparseable_rate_equal_naive_counts(pairs: list[tuple[Answer, Answer]]) -> None:
    preds, golds = [pred for pred, _ in pairs], [gold for _, gold in pairs]
    exact, unparseable = ExactMatch(), UnparseableRate()
    exact.update(preds, golds)
    unparseable.update(preds)
    right = [Counter(p.items) == Counter(g.items) and p.malformed == 0 and g.malformed == 0 for p, g in pairs]
    assert exact.compute().item() == pytest.approx(sum(right) / len(right))
    assert unparseable.compute().item() == pytest.approx(sum(p.malformed > 0 for p in preds) / len(preds))


A, B = ("t", "a"), ("t", "b")


def test_nothing_divided_by_nothing() -> None:
    nothing, one, junk = Answer(()), Answer((A,)), Answer((), malformed=1)
    assert f1_of([(nothing, nothing)]) == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    assert f1_of([(nothing, one)]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert f1_of([(one, nothing)]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert f1_of([(junk, nothing)])["f1"] == 0.0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_answers_give_no_number() -> None:
    assert all(math.isnan(value) for value in f1_of().values())
    assert all(math.isnan(value) for value in f1_of([]).values())
    assert math.isnan(ExactMatch().compute().item())
    assert math.isnan(UnparseableRate().compute().item())


def test_examples() -> None:
    failed, attempted = doctest.testmod(metrics)
    assert attempted
    assert not failed


def test_every_repeat_needs_a_partner() -> None:
    pairs = [(Answer((A, A, B)), Answer((A, B, B)))]
    assert f1_of(pairs) == pytest.approx({"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3})
    assert f1_of([(Answer((B, A)), Answer((A, B)))])["f1"] == 1.0


def test_reset_and_lengths() -> None:
    metric = MultisetF1()
    metric.update([Answer(())], [Answer((A,))])
    metric.reset()
    metric.update([Answer((A,))], [Answer((A,))])
    assert metric.compute()["f1"] == 1
    for other in (MultisetF1(), ExactMatch()):
        with pytest.raises(ValueError, match="found 2 predictions for 1 gold answers"):
            other.update([Answer(())] * 2, [Answer(())])


SHARDED = [(Answer((A, A)), Answer((A, B))), (Answer((B,), 1), Answer((B,))), (Answer((A,)), Answer((A,)))]


MINUTE = timedelta(minutes=1)


def run_rank(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=MINUTE)
    for cut in (3, 2, 0):  # the other rank has no answers, one, or all
        mine = SHARDED[:cut] if rank == 0 else SHARDED[cut:]
        results = []
        for metric in (MultisetF1(), ExactMatch()):
            if mine:
                metric.update([pred for pred, _ in mine], [gold for _, gold in mine])
            results.append(metric.compute())
        unparseable = UnparseableRate()
        unparseable.update([pred for pred, _ in mine])
        torch.save([*results, unparseable.compute()], f"{folder}/{cut}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    preds, golds = [pred for pred, _ in SHARDED], [gold for _, gold in SHARDED]
    exact, unparseable = ExactMatch(), UnparseableRate()
    exact.update(preds, golds)
    unparseable.update(preds)
    # forked, as importing torch twice more takes longer than all else here
    mp.start_processes(run_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
    for name in ("3-0", "3-1", "2-0", "2-1", "0-0", "0-1"):
        scores, matches, unread = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert {key: value.item() for key, value in scores.items()} == f1_of(SHARDED)
        assert (matches, unread) == (exact.compute(), unparseable.compute())
