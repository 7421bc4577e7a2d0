"""Where the time goes: every second in one phase, in a file beside the model."""

import json
import os
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from training_stages import grpo_stage, sft_stage

from medtune.training import hardware as machine
from medtune.training import timing
from medtune.training.grpo import train_grpo
from medtune.training.sft import train_sft


def lines(model: Path) -> list[dict]:
    return [line for line in written(model) if "begin" not in line]


def written(model: Path) -> list[dict]:
    file = model.with_name(f"{model.name}.timing.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


class Fuel:
    """A meter that counts ten joules for every second that a test spends."""

    def __init__(self, now: list[float]) -> None:
        self.now, self.last = now, now[0]

    def joules(self) -> float:
        spent, self.last = self.now[0] - self.last, self.now[0]
        return 10 * spent


def counters(folder: Path, values: dict[str, int]) -> None:
    for name, value in values.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "energy_uj").write_text(f"{value}\n")
        (folder / name / "max_energy_range_uj").write_text("10000000\n")


def test_time_inside_another_phase_counts_for_the_inner_one_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    phases = timing.Phases({"gpu": Fuel(now)})

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
    assert phases.joules == {"gpu": {"other": 50, "update": 30, "rollout": 30}}
    spend(1)
    seconds, joules = phases.take()
    assert seconds["other"] == 6
    assert joules["gpu"]["other"] == 60
    assert phases.take() == ({"other": 0}, {"gpu": {"other": 0}})


def test_processors_count_once_and_may_begin_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "POWERCAP", tmp_path)
    with pytest.raises(OSError, match="no RAPL counter"):
        machine.CpuMeter()
    counters(tmp_path, {"intel-rapl:0": 1_000_000, "intel-rapl:1": 9_000_000})
    counters(tmp_path, {"intel-rapl:0:0": 0, "intel-rapl-mmio:0": 0})
    meter = machine.CpuMeter()
    counters(tmp_path, {"intel-rapl:0": 3_500_000, "intel-rapl:1": 1_000_000})  # the second wraps
    counters(tmp_path, {"intel-rapl:0:0": 7_000_000, "intel-rapl-mmio:0": 7_000_000})
    assert meter.joules() == pytest.approx(2.5 + 2)
    assert meter.joules() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")  # another process of this machine measures them
    assert machine.meters() == ({}, {"gpu": "there is no GPU"})


def test_the_energy_of_a_gpu_is_the_drivers(monkeypatch):
    counted = [1_000, 4_500, 4_500]
    driver = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: {"GPU-ab-1": "the second"}[name],
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: {"the second": counted.pop(0)}[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    own = [types.SimpleNamespace(uuid="cd-0"), types.SimpleNamespace(uuid="ab-1")]
    monkeypatch.setattr(torch.cuda, "get_device_properties", own.__getitem__)
    found, _ = machine.meters()
    assert found["gpu"].joules() == 3.5
    assert found["gpu"].joules() == 0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "ModuleNotFoundError" in machine.meters()[1]["gpu"]


def test_the_peaks_of_a_gpu_begin_anew_with_every_line(monkeypatch):
    peaks = {"allocated": 3 * 2**20, "reserved": 5 * 2**20}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in peaks:
        monkeypatch.setattr(torch.cuda, f"max_memory_{name}", lambda n=name: peaks[n])
    reset = lambda: peaks.update(allocated=2**20)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    found = timing.memory()
    assert (found["gpu_mb"], found["gpu_reserved_mb"]) == (3, 5)
    assert timing.memory()["gpu_mb"] == 1


def test_sft_leaves_its_times(base, family, dataset, tmp_path):
    start = time.monotonic()
    stage = sft_stage(family, epochs=1, eval_steps=3, logging_steps=2, save_steps=2)
    train_sft(stage, base, dataset, tmp_path / "sft")
    took = time.monotonic() - start
    found = lines(tmp_path / "sft")
    assert [line["step"] for line in found] == [2, 4, 5]
    assert 0 < sum(sum(line["seconds"].values()) for line in found) < took
    named = {name for line in found for name in line["seconds"]}
    assert named == {"data", "update", "evaluation", "saving", "other"}
    assert all(100 < line["host_mb"] < 100_000 for line in found)
    assert all("gpu_mb" not in line for line in found)
    begin = written(tmp_path / "sft")[0]
    (own,) = begin["machines"]
    assert own["cores"] == len(os.sched_getaffinity(0))
    assert own["gpus"] == []
    assert own["memory_gb"] > own["cores"] / 100
    assert begin["not_measured"]["gpu"] == "there is no GPU"
    assert ("cpu" in begin["not_measured"]) == ("cpu" not in found[0]["joules"])
    train_sft(stage, base, dataset, tmp_path / "sft")
    assert len(lines(tmp_path / "sft")) == 3  # of this run alone


def test_grpo_tells_its_phases_apart(trained, family, dataset, tmp_path):
    stage = grpo_stage(family, beta=0.1, num_iterations=2)
    train_grpo(stage, trained, dataset, tmp_path / "grpo")
    first, second = lines(tmp_path / "grpo")[:2]
    assert {"data", "rollout", "reward", "logps", "update"} <= set(first["seconds"])
    assert not {"rollout", "reward", "logps"} & set(second["seconds"])  # it uses the same rollout
    assert first["seconds"]["rollout"] > first["seconds"]["reward"]
