"""Draws of rollouts: from the right distribution, and by (seed, step, prompt, which answer)."""

import pytest
import torch

import medtune.training  # noqa: F401  (declares operators before transformers is imported)
from medtune.training.sampling import SeededSampling, answer_seeds


def drawn(seeds: list[int], scores: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    left = SeededSampling(seeds, temperature)(None, scores.expand(len(seeds), -1))
    assert (left.isfinite().sum(dim=1) == 1).all()
    return left.argmax(dim=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax(temperature):
    scores = torch.tensor([2.0, 0.0, -torch.inf, 1.0, -3.0])
    seeds = answer_seeds(1, 0, ["a"] * 4000)
    shares = drawn(seeds, scores, temperature).bincount(minlength=5) / len(seeds)
    expected = (scores / temperature).softmax(dim=0)
    assert shares[2] == 0
    error = (expected * (1 - expected) / len(seeds)).sqrt()
    assert ((shares - expected).abs() <= 4 * error).all()


def test_draws_depend_on_their_own_key_alone():
    scores = torch.zeros(1000)
    keys = ["a", "a", "b", "a"]
    first = drawn(answer_seeds(1, 5, keys), scores)
    assert len(set(first.tolist())) == 4
    torch.manual_seed(7)  # the global generator has no part in it
    assert drawn(answer_seeds(1, 5, keys)[1:], scores).equal(first[1:])
    assert drawn(answer_seeds(1, 5, ["b", "a"]), scores).equal(first[[2, 0]])
    for seed, step in ((1, 6), (2, 5)):
        assert not (drawn(answer_seeds(seed, step, keys), scores) == first).any()


def test_every_position_draws_anew():
    draw, scores = SeededSampling(answer_seeds(1, 0, ["a"]), 1.0), torch.zeros(1, 1000)
    assert len({int(draw(None, scores).argmax()) for _ in range(10)}) == 10
