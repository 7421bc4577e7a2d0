"""Batches by a budget of tokens: within it, every sample once, and the same after a restart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtune.runtime.errors import DataError
from medtune.training.token_budget import BudgetBatches, check_lengths, round_up


@st.composite
def cases(draw) -> tuple[list[int], int]:
    lengths = draw(st.lists(st.integers(1, 5000), min_size=1, max_size=120))
    return lengths, max(lengths) + draw(st.integers(0, 20_000))


@given(cases(), st.integers(0, 5), st.integers(0, 3))
def test_every_sample_is_in_one_batch_within_the_budget(case, seed, epoch):
    lengths, budget = case
    batches = BudgetBatches(lengths, budget, seed)
    batches.set_epoch(epoch)
    found = list(batches)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= budget for batch in found)
    assert len(found) == len(batches)
    again = BudgetBatches(lengths, budget, seed)
    list(again)  # an epoch before does not matter
    again.set_epoch(epoch)
    assert list(again) == found


@given(cases(), st.integers(0, 3), st.integers(1, 5))
def test_processes_take_the_batches_of_one_in_turn(case, epoch, processes):
    lengths, budget = case
    found = []
    for rank in range(processes):
        batches = BudgetBatches(lengths, budget, 1, rank, processes)
        batches.set_epoch(epoch)
        found.append(list(batches))
        assert len(found[-1]) == len(batches)
    assert len({len(share) for share in found}) == 1  # all take the same number of steps
    alone = BudgetBatches(lengths, budget, 1, 0, 1)
    alone.set_epoch(epoch)
    dealt = [batch for step in zip(*found, strict=True) for batch in step]
    blank = [[len(lengths)]] * (len(dealt) - len(alone))
    assert dealt == [*alone, *blank]
    assert len(blank) < processes


@given(st.integers(1, 10**6))
def test_lengths_are_rounded_up_by_less_than_a_sixteenth(length):
    assert length <= round_up(length) <= length * 17 / 16


def test_epochs_mix_samples_of_about_one_length_and_use_the_budget():
    lengths = [1000 + n for n in range(60)] + [200 + n for n in range(60)]
    batches = BudgetBatches(lengths, 8192, seed=1)
    first = {frozenset(batch) for batch in batches}
    batches.set_epoch(1)
    second = {frozenset(batch) for batch in batches}
    assert first != second
    assert len(first) == len(second) == len(batches)
    used = sum(lengths) / (8192 * len(batches))
    assert used > 0.8
    padded = sum(len(b) * max(lengths[i] for i in b) for b in first)
    assert sum(lengths) / padded > 0.85


def test_a_sample_above_the_budget_is_named():
    check_lengths(["a", "b"], [3, 4], 4)
    with pytest.raises(
        DataError, match=r"b: takes 5 tokens, more than sft.max_tokens_per_batch \(4\)"
    ):
        check_lengths(["a", "b", "c"], [3, 5, 1], 4)
