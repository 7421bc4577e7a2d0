"""The head as a part of its own: frozen, at its own rate, and whole beside adapters."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import one_family
from test_added_tokens import (
    LORA,
    TABLES,
    copy_of,
    named,
    prepared,
    state,
    train_both,
)
from training_stages import SFT, model_config, sft_stage

from medtune.config.training import LearningRates, LoraConfig
from medtune.models.base_reference import base_path
from medtune.training.optimizer import parameter_groups
from medtune.training.run import trainable_model
from medtune.training.sft import train_sft
from medtune.training.trainable import part_of

HEAD = LORA | {"lora": LoraConfig(rank=4, alpha=8, dropout=0, train_head=True)}
QUIET = {"eval_generation_samples": 0, "weight_decay": 0}


@pytest.fixture(scope="session")
def tied_base(family, base, dataset, tmp_path_factory) -> Path:
    """A bfloat16 model whose output layer is its input embeddings."""
    root = tmp_path_factory.mktemp(f"tied-base-{family}")
    path = copy_of(base, root / "plain", family, tied=True)
    return prepared(named(family, path, added_tokens=[]), dataset, root / "base")


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parts in which something differs."""
    assert set(before) == set(after)
    return {part_of(name) for name in before if not before[name].equal(after[name])}


@one_family
@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ([], {"vision", "projector", "head", "language"}),
        (["head"], {"vision", "projector", "language"}),
        (["vision", "projector", "language"], {"head"}),
    ],
)
def test_what_is_not_frozen_is_trained(base, family, dataset, tmp_path, freeze, expected):
    stage = sft_stage(family, epochs=0.3, freeze=freeze, **QUIET)
    train_sft(stage, base, dataset, tmp_path / "sft")
    assert changed(state(base, family), state(tmp_path / "sft", family)) == expected


def rates(model, **given) -> dict[str, set[float]]:
    """The learning rates of every part."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    section = SFT.model_copy(update={"learning_rates": LearningRates(**given)})
    found: dict[str, set[float]] = {}
    for group in parameter_groups(model, section):
        for parameter in group["params"]:
            found.setdefault(part_of(names[parameter]), set()).add(group["lr"])
    return found


def test_the_head_has_its_rate_or_that_of_the_language(base, family):
    model = trainable_model(base, model_config(family), SFT)
    others = {part: {SFT.learning_rate} for part in ("vision", "projector", "language")}
    assert rates(model) == others | {"head": {SFT.learning_rate}}
    assert rates(model, head=1e-6) == others | {"head": {1e-6}}
    slow = others | {"language": {1e-5}}
    assert rates(model, language=1e-5) == slow | {"head": {1e-5}}
    assert rates(model, language=1e-5, head=1e-4) == slow | {"head": {1e-4}}


def test_the_head_learns_at_its_rate(base, family, dataset, tmp_path):
    """AdamW's first steps move a weight by about its learning rate."""
    stage = sft_stage(family, epochs=0.3, learning_rates=LearningRates(head=1e-5), **QUIET)
    train_sft(stage, base, dataset, tmp_path / "sft")
    before, after = state(base, family), state(tmp_path / "sft", family)
    moved = {"head": 0.0, "language": 0.0}
    for name, value in before.items():
        if part_of(name) in moved:
            change = float((after[name] - value).abs().max())
            moved[part_of(name)] = max(moved[part_of(name)], change)
    assert 0 < moved["head"] < 3e-5
    assert moved["language"] > 50 * moved["head"]


@one_family
@pytest.mark.parametrize("start", ["base", "tied_base"])
def test_a_head_beside_adapters_is_trained_and_merged(
    start, family, dataset, samples, tmp_path, monkeypatch, request
):
    """In SFT and in GRPO with a KL, for which TRL copies the adapters."""
    folder, tied = request.getfixturevalue(start), start == "tied_base"
    # In bfloat16 the trained copy of the head is float32 over a base that is not.
    model = model_config(family).model_copy(update={"dtype": "bfloat16"} if tied else {})
    changes = HEAD | {"learning_rate": 1e-3}
    train_both(folder, dataset, tmp_path, samples[0], model, changes, monkeypatch)
    states = [state(p, family) for p in (base_path(folder), tmp_path / "sft", tmp_path / "grpo")]
    for before, after in pairwise(states):
        moved = [(after[name] != before[name]).any(dim=1).float().mean() for name in TABLES]
        assert moved[0] > 0  # what was read
        assert moved[1] > 0.5
        assert after[TABLES[0]].equal(after[TABLES[1]]) == tied
        assert changed(before, after) >= {"head", "language", "projector"}
        assert all(
            before[name].equal(after[name].to(before[name].dtype))
            for name in before
            if part_of(name) == "vision"
        )
