"""Prompts read with what they share run once, and greedy answers, against a plain transformers model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustlm.models.caches import Reader, RoomyLayer, new_cache, plain_caches
from robustlm.models.decoding import Prefilled, _groups, decode, left_padded, prefill, shared_prefixes
from robustlm.models.masks import known_padding
from robustlm.models.sampling import Generation, Sampler, likeliest
from tests.tiny import load
from tests.waits import waits

tokens = st.lists(st.integers(1, 3), min_size=1, max_size=6)
prompts = st.lists(tokens, min_size=1, max_size=7)

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt_neox": {},
    "gpt2": {"n_positions": 64},
}


def cost(groups: tuple[list[int], list[int]] | None, rows: Sequence[Sequence[int]]) -> int:
    if groups is None:
        return sum(map(len, rows))
    owner, lengths = groups
    return sum(lengths) + sum(len(row) - lengths[k] for row, k in zip(rows, owner, strict=True))


def cheapest(rows: Sequence[Sequence[int]]) -> int:
    """Over all ways to cut the sorted rows into groups."""
    ordered = sorted(rows)
    best = [0]
    for end in range(1, len(ordered) + 1):
        found = []
        for begin in range(end):
            group = ordered[begin:end]
            shared = 0
            while all(len(row) > shared + 1 and row[: shared + 1] == group[0][: shared + 1] for row in group):
                shared += 1
            found.append(best[begin] + sum(map(len, group)) - (len(group) - 1) * shared)
        best.append(min(found))
    return best[-1]


@settings(max_examples=300, deadline=None)
@given(prompts)
def test_groups_share_what_they_say_and_no_other_cut_runs_fewer_tokens(rows: list[list[int]]) -> None:
    groups = shared_prefixes(rows)
    if min(map(len, rows)) > 1:
        assert cost(groups, rows) == cheapest(rows)
    if groups is None:
        return
    owner, lengths = groups
    for k, length in enumerate(lengths):
        members = [row for row, own in zip(rows, owner, strict=True) if own == k]
        assert all(row[:length] == members[0][:length] and len(row) > length > 0 for row in members)


def test_a_hand_made_case() -> None:
    rows = [[1, 2, 3, 9], [5, 5], [1, 2, 3, 8, 8], [1, 2, 3]]
    assert shared_prefixes(rows) == ([1, 0, 1, 1], [1, 2])  # the third of [1, 2, 3] is that row's own
    assert shared_prefixes([[1, 2], [2, 1]]) is None
    assert shared_prefixes([[1], [1, 2]]) is None
    assert shared_prefixes([[1, 2]]) is None


class Model:
    """A tiny transformers model as a callable, and how many positions it was run on.

    Args:
        kind: Of model.
    """

    def __init__(self, kind: str) -> None:
        torch.manual_seed(3)
        self.config = transformers.AutoConfig.for_model(
            kind, vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None, **CONFIGS[kind],
        )  # fmt: skip
        self.model: Any = transformers.AutoModelForCausalLM.from_config(self.config).double().eval()
        for p in self.model.parameters():
            p.data.mul_(4)  # so that answers differ
        self.positions = 0

    @torch.no_grad()
    def __call__(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        self.positions += ids.numel()
        out = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return out.logits[:, -1], out.past_key_values

    def cache(self) -> Any:
        return transformers.DynamicCache(config=self.config)

    def alone(self, prompt: list[int], ends: Sequence[int], count: int) -> list[int]:
        """Without cache, padding and batch."""
        found: list[int] = []
        while len(found) < count:
            with torch.no_grad():
                new = int(self.model(torch.tensor([prompt + found]), use_cache=False).logits[0, -1].argmax())
            if new in ends:
                break
            found.append(new)
        return found


def rows_of(seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    heads = [[draw.randrange(1, 20) for _ in range(draw.randrange(4, 9))] for _ in range(3)]
    return [draw.choice(heads) + [draw.randrange(1, 20) for _ in range(draw.randrange(1, 7))] for _ in range(9)]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("share", [True, False])
def test_answers_are_those_of_each_prompt_alone(kind: str, share: bool) -> None:
    model, lengths = Model(kind), set()
    for seed in range(3):
        rows = rows_of(seed)
        ids, mask = left_padded(rows, torch.zeros(1, dtype=torch.long))
        ends = [seed + 1, 11, 13]
        read = prefill(model, ids, mask, model.cache(), share=share)
        found = decode(model, read, likeliest, ends=ends, max_new_tokens=8)
        assert found == [model.alone(row, ends, 8) for row in rows]
        lengths |= set(map(len, found))
    assert len(lengths) > 2, "answers of different lengths, so that rows were dropped"


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_after_prompts_are_those_of_each_alone(kind: str) -> None:
    model = Model(kind)
    rows = rows_of(7)
    ids, mask = left_padded(rows, torch.zeros(1, dtype=torch.long))
    read = prefill(model, ids, mask, model.cache())
    shared, model.positions = model.positions, 0
    plain = prefill(model, ids, mask, model.cache(), share=False)
    assert shared < 0.9 * model.positions == 0.9 * ids.numel()
    torch.testing.assert_close(read.logits, plain.logits)
    for row, own in zip(rows, read.logits, strict=True):
        torch.testing.assert_close(own, model.model(torch.tensor([row])).logits[0, -1])


def test_sharing_that_saves_little_is_left() -> None:
    model = Model("llama")
    rows = [[1, *range(2, 18)], [1, *range(18, 2, -1)]]
    ids, mask = left_padded(rows, torch.zeros(1, dtype=torch.long))
    prefill(model, ids, mask, model.cache())
    assert model.positions == ids.numel()


class Countdown:
    """A cache that knows how many tokens each row still has to say.

    Args:
        left: Int64 `[R]`.
    """

    def __init__(self, left: Tensor) -> None:
        self.left = left

    def batch_select_indices(self, rows: Tensor) -> None:
        self.left = self.left[rows]


def test_ended_answers_run_no_further() -> None:
    """Row k says k tokens; rows that have ended are dropped before they are many."""
    runs: list[int] = []

    def run(ids: Tensor, mask: Tensor, positions: Tensor, cache: Countdown) -> tuple[Tensor, Countdown]:
        runs.append(len(ids))
        assert len(mask) == len(positions) == len(cache.left)
        cache.left = cache.left - 1
        return torch.nn.functional.one_hot((cache.left > 0).long(), 2).float(), cache

    count = torch.tensor([3, 1, 8, 2, 6, 4, 7, 5])
    start = Prefilled(Countdown(count), torch.ones(8, 1, dtype=torch.long), torch.tensor([[0.0, 1.0]] * 8))
    assert decode(run, start, likeliest, ends=[0], max_new_tokens=20) == [[1] * k for k in count.tolist()]
    assert runs == [8, 8, 6, 6, 4, 3, 2, 1]  # a copy of the cache is made when at least a quarter has ended


def test_the_longest_answer_is_as_long_as_allowed() -> None:
    model = Model("llama")
    ids, mask = left_padded([[1, 2], [3, 4, 5]], torch.zeros(1, dtype=torch.long))
    found = decode(model, prefill(model, ids, mask, model.cache()), likeliest, ends=[], max_new_tokens=5)
    assert [len(answer) for answer in found] == [5, 5]
    assert model.positions == ids.numel() + 4 * 2


@pytest.mark.parametrize("every", [1, 2, 3, 5, 50])
def test_answers_do_not_depend_on_how_often_the_host_waits(every: int) -> None:
    """Ended rows may run some tokens further; nothing of these shows."""
    model, how = Model("llama"), Generation(temperature=1.5, seed=3)
    rows = rows_of(1)
    ids, mask = left_padded(rows, torch.zeros(1, dtype=torch.long))
    for choose in (likeliest, Sampler(how, range(len(rows)))):
        for count in (1, 4, 9):
            once = decode(model, prefill(model, ids, mask, model.cache()), choose, ends=[2, 11], max_new_tokens=count)
            read = prefill(model, ids, mask, model.cache())
            found = decode(model, read, choose, ends=[2, 11], max_new_tokens=count, wait_every=every)
            assert found == once
    stopped = decode(
        model, prefill(model, ids, mask, model.cache()), likeliest, ends=[2], max_new_tokens=9,
        stopped=lambda answer: answer[-1] in (11, 13), wait_every=every,
    )  # fmt: skip
    for answer, row in zip(stopped, rows, strict=True):
        whole = model.alone(row, [2], 9)
        first = next((at + 1 for at, token in enumerate(whole) if token in (11, 13)), len(whole))
        assert answer == whole[:first]


def test_the_host_waits_once_in_several_tokens(llama: str) -> None:
    backbone = load(llama, None)
    ids, mask = left_padded([[5, 6, 7], [8, 9]], torch.zeros(1, dtype=torch.long))
    run = Reader(backbone.parts)
    with torch.no_grad(), known_padding(True):
        for choose in (likeliest, Sampler(Generation(temperature=1.0), range(2))):
            read = prefill(run, ids, mask, new_cache(backbone.parts, 12))
            with waits() as found:
                answers = decode(run, read, choose, ends=[], max_new_tokens=12, wait_every=4)
            assert [len(answer) for answer in answers] == [12, 12]
            assert sum(found.values()) == 3, found


def test_groups_hold_prompts_of_similar_length() -> None:
    assert _groups([10] * 40) == [list(range(40))]
    lengths = [100 if row % 2 else 10 for row in range(64)]
    assert _groups(lengths) == [list(range(1, 64, 2)), list(range(0, 64, 2))]
    assert _groups([5, 100, 7]) == [[1, 2, 0]], "a few prompts are read together, whatever their lengths"


def test_prompts_of_unlike_lengths_are_read_in_groups(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They give the logits and answers of one pass over all, and of each prompt alone, at fewer positions."""
    monkeypatch.setattr("robustlm.models.decoding._LEAST", 2)
    backbone = load(llama, None, dtype="float64")
    parts, draw = backbone.parts, random.Random(5)
    rows = [[draw.randrange(5, 250) for _ in range(draw.choice((2, 9, 25)))] for _ in range(12)]
    ids, mask = left_padded(rows, torch.zeros(1, dtype=torch.long))
    run = Reader(parts)
    seen: list[int] = []
    handle = backbone.base.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: seen.append(args[0].numel())
    )
    with torch.no_grad():
        whole = prefill(run, ids, mask, new_cache(parts))
        assert seen == [ids.numel()]
        for room in (2, 30):  # with less room than tokens, the cache grows on the way
            seen.clear()
            read = prefill(run, ids, mask, new_cache(parts, room), caches=plain_caches(parts, room))
            assert len(seen) == 3
            assert sum(seen) < 0.8 * ids.numel()
            torch.testing.assert_close(read.logits, whole.logits)
            assert torch.equal(read.mask, mask)
            found = decode(run, read, likeliest, ends=[2, 7], max_new_tokens=10)
            for row, answer in zip(rows, found, strict=True):
                one, own = left_padded([row], ids)
                alone = prefill(run, one, own, new_cache(parts), share=False)
                assert decode(run, alone, likeliest, ends=[2, 7], max_new_tokens=10) == [answer]
    handle.remove()


def test_a_layer_with_room_is_the_librarys_own() -> None:
    """Keys and values after tokens one by one, dropped rows, and more tokens than there was room for."""
    roomy, plain = RoomyLayer(3), transformers.cache_utils.DynamicLayer()
    torch.manual_seed(0)
    rows = 4
    for step, count in enumerate((5, 1, 1, 1, 1, 1, 2, 1)):
        if step in (3, 5):
            at = torch.tensor([2, 0, 1][: 3 if step == 3 else 2])
            roomy.batch_select_indices(at)
            plain.batch_select_indices(at)
            rows = len(at)
        new = torch.randn(2, rows, 2, count, 4)
        for ours, wanted in zip(roomy.update(*new), plain.update(*new), strict=True):
            assert torch.equal(ours, wanted)
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert roomy.get_mask_sizes(1) == plain.get_mask_sizes(1)


def test_tokens_are_written_where_there_is_room() -> None:
    layer = RoomyLayer(8)
    layer.update(torch.zeros(2, 1, 4, 3), torch.zeros(2, 1, 4, 3))
    place = layer.keys.data_ptr()
    for _ in range(8):
        layer.update(torch.ones(2, 1, 1, 3), torch.ones(2, 1, 1, 3))
    assert layer.keys.data_ptr() == place
    layer.update(torch.ones(2, 1, 1, 3), torch.ones(2, 1, 1, 3))
    assert layer.keys.data_ptr() != place
