"""Figures and rollouts go to a tracker only if it is asked for, and stay here unless it says so."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from training_stages import grpo_stage

from medtune.config.stages import STAGES, TrackingStage
from medtune.config.tracking import TrackingConfig
from medtune.orchestration import preflight
from medtune.orchestration.preflight import check_tracking
from medtune.runtime.errors import ConfigError
from medtune.runtime.files import read_json
from medtune.training import tracking
from medtune.training.grpo import train_grpo
from medtune.training.tracking import Tracker, make_tracker

FAMILY = pytest.mark.parametrize("family", ["qwen3_vl"], indirect=True)
WANDB = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
TENSORBOARD = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="tensorboard is not installed"
)


def stage(to: str) -> TrackingStage:
    return TrackingStage(experiment="demo", tracking=TrackingConfig(report_to=to))


@pytest.fixture
def begun(monkeypatch):
    """What every run of W&B is begun with."""
    import wandb

    for name in ("MODE", "API_KEY", "DATA_DIR", "CACHE_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", "")  # put back afterwards
        monkeypatch.delenv(f"WANDB_{name}")
    calls, init = [], wandb.init

    def noted(**arguments):
        calls.append(arguments)
        return init(**arguments)

    monkeypatch.setattr(wandb, "init", noted)
    yield calls
    wandb.finish()


def test_nothing_is_tracked_unless_asked_for(tmp_path: Path):
    for asked in (None, stage("none")):
        assert type(make_tracker(asked, tmp_path / "grpo", "key")) is Tracker
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_reruns_nothing():
    readers = {name for name, stage in STAGES.items() if "tracking" in stage.model_fields}
    assert readers == {"tracking"}


@WANDB
@FAMILY
def test_rollouts_are_tracked_offline(trained, family, dataset, tmp_path: Path, begun):
    arguments = (grpo_stage(family, log_completions_steps=1), trained, dataset, tmp_path / "grpo")
    train_grpo(*arguments, tracking=stage("wandb_offline"))
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    table = read_json(sorted(run.rglob("completions*.json"))[0])
    assert {"advantage", "text", "reward", "frames"} <= set(table["columns"])
    waiting = [path.read_bytes() for path in (tmp_path / "wandb/artifacts/staging").iterdir()]
    assert any(content.startswith(b"\x89PNG") for content in waiting)
    assert begun[0]["group"] == "demo"
    assert begun[0]["job_type"] == "grpo"
    assert begun[0]["resume"] == "allow"
    again = tmp_path / "again/grpo"
    train_grpo(*arguments[:3], again, tracking=stage("wandb_offline"))
    assert begun[1]["id"] == begun[0]["id"]  # another attempt at the same training
    other = grpo_stage(family, log_completions_steps=1, learning_rate=2e-3)
    train_grpo(other, *arguments[1:3], tmp_path / "other/grpo", tracking=stage("wandb_offline"))
    assert begun[2]["id"] != begun[0]["id"]


@WANDB
def test_a_server_that_does_not_answer_stops_nothing(tmp_path: Path, monkeypatch, begun, capsys):
    monkeypatch.setattr(tracking, "SECONDS", 2)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    tracker = make_tracker(stage("wandb_online"), tmp_path / "sft", "key")
    assert [call["mode"] for call in begun] == ["online", "offline"]
    assert "tracking: offline, since" in capsys.readouterr().err
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*"))


@WANDB
def test_the_environment_can_keep_it_offline(tmp_path: Path, monkeypatch, begun):
    monkeypatch.setenv("WANDB_MODE", "offline")
    make_tracker(stage("wandb_online"), tmp_path / "sft", "key").close()
    assert [call["mode"] for call in begun] == ["offline"]


def test_what_a_tracker_needs_is_asked_for_before_anything_runs(monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(preflight, "find_spec", lambda _: True)
    with pytest.raises(ConfigError, match="export WANDB_API_KEY"):
        check_tracking(TrackingConfig(report_to="wandb_online"))
    check_tracking(TrackingConfig(report_to="wandb_offline"))
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    for to, package in (("wandb_offline", "wandb"), ("tensorboard", "tensorboard")):
        with pytest.raises(ConfigError, match=rf"medtune\[{package}\]"):
            check_tracking(TrackingConfig(report_to=to))


@TENSORBOARD
@FAMILY
def test_tensorboard_shows_rewards_and_frames(trained, family, dataset, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_grpo(
        grpo_stage(family, log_completions_steps=1, logging_steps=1),
        *(trained, dataset, tmp_path / "grpo"),
        tracking=stage("tensorboard"),
    )
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    history = read_json(tmp_path / "grpo/history.json")
    seen = {event.step: event.value for event in events.Scalars("train/reward")}
    logged = {entry["step"]: entry["reward"] for entry in history if "reward" in entry}
    assert seen == pytest.approx(logged)
    assert "completions/text_summary" in events.Tags()["tensors"]
    assert any(tag.startswith("frames/") for tag in events.Tags()["images"])
