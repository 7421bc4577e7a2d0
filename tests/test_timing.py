"""Where the time goes: every second in one phase, in a file beside the model."""

import json
import time
from pathlib import Path

from training_stages import grpo_stage, sft_stage

from medtune.training import timing
from medtune.training.grpo import train_grpo
from medtune.training.sft import train_sft


def lines(model: Path) -> list[dict]:
    file = model.with_name(f"{model.name}.timing.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_time_inside_another_phase_counts_for_the_inner_one_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    phases = timing.Phases()

    def spend(seconds: float) -> None:
        now[0] += seconds

    inner = phases.timed(lambda: spend(3), "rollout")

    def step() -> None:
        spend(1)
        inner()
        spend(2)

    spend(5)
    phases.timed(step, "update")()
    phases.book()
    assert phases.seconds == {"other": 5, "update": 3, "rollout": 3}


def test_sft_leaves_its_times(base, family, dataset, tmp_path):
    start = time.monotonic()
    stage = sft_stage(family, epochs=1, evaluate_every=3, log_every=2, checkpoint_every=2)
    train_sft(stage, base, dataset, tmp_path / "sft")
    took = time.monotonic() - start
    found = lines(tmp_path / "sft")
    assert [line["step"] for line in found] == [2, 4, 5]
    assert 0 < sum(sum(line["seconds"].values()) for line in found) < took
    named = {name for line in found for name in line["seconds"]}
    assert named == {"data", "update", "evaluation", "saving", "other"}
    assert all(100 < line["host_mb"] < 100_000 for line in found)
    train_sft(stage, base, dataset, tmp_path / "sft")
    assert len(lines(tmp_path / "sft")) == 3  # of this run alone


def test_grpo_tells_its_phases_apart(trained, family, dataset, tmp_path):
    stage = grpo_stage(family, beta=0.1, num_iterations=2)
    train_grpo(stage, trained, dataset, tmp_path / "grpo")
    first, second = lines(tmp_path / "grpo")[:2]
    assert {"data", "rollout", "reward", "logps", "update"} <= set(first["seconds"])
    assert not {"rollout", "reward", "logps"} & set(second["seconds"])  # it uses the same rollout
    assert first["seconds"]["rollout"] > first["seconds"]["reward"]
