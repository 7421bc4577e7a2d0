"""Figures and rollouts go to a tracker only if it is asked for, and stay on the machine."""

from importlib.util import find_spec

import pytest
from training_stages import grpo_stage

from medtune.errors import ConfigError
from medtune.training.grpo import train_grpo
from medtune.training.tracking import tracker


def test_nothing_is_tracked_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDTUNE_TRACKER", raising=False)
    assert tracker(tmp_path / "grpo") == "none"
    monkeypatch.setenv("MEDTUNE_TRACKER", "cloud")
    with pytest.raises(ConfigError, match="there is no tracker cloud"):
        tracker(tmp_path / "grpo")


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb: pip install medtune[wandb]")
@pytest.mark.parametrize("family", ["qwen3_vl"], indirect=True)
def test_rollouts_are_tracked_offline(trained, family, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTUNE_TRACKER", "wandb")
    for name in ("MODE", "DIR", "NAME", "PROJECT"):  # put back afterwards
        monkeypatch.setenv(f"WANDB_{name}", "online")
    monkeypatch.delenv("WANDB_PROJECT")
    train_grpo(grpo_stage(family, completions_every=1), trained, dataset, tmp_path / "grpo")
    run = next((tmp_path / "wandb").glob("offline-run-*"))
    tables = list(run.rglob("completions*.json"))
    assert len(tables) == 2
    assert '"advantage"' in tables[0].read_text()


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDTUNE_TRACKER", "wandb")
    with pytest.raises(ConfigError, match=r"medtune\[wandb\]"):
        tracker(tmp_path / "grpo")
