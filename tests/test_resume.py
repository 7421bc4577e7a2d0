"""A run that was interrupted goes on exactly: the same history and the same weights, to the bit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY
from test_training import grpo_stage, sft_stage

from medtune import stopping
from medtune.files import read_json, sha256
from medtune.models.base import prepare_base
from medtune.sections import LoraConfig, ModelConfig, TaskConfig
from medtune.stages import ModelStage
from medtune.training.checkpoints import Checkpoints, resume_point, save_steps
from medtune.training.grpo import train_grpo
from medtune.training.sft import train_sft


class Crash(BaseException):
    """Stands for a power cut: nothing below may catch it."""


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen3_vl"])
def start(request, dataset: Path, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(f"resume-{request.param}") / "base"
    model = ModelConfig(family=request.param, builder="tiny", tiny=TINY)
    prepare_base(ModelStage(task=TaskConfig(), model=model), dataset, folder)
    return request.param, folder


ADAPTERS = {"lora": LoraConfig(rank=4, alpha=8), "freeze": ["vision"]}
SFT = {"epochs": 1.8, "checkpoint_every": 1, "evaluate_every": 3}
GRPO = {"steps": 8, "checkpoint_every": 1, "learning_rate": 1e-4, "max_completion_length": 12}
GRPO |= {"num_generations": 2, "completions_every": 3}
TWICE = GRPO | {"steps": 11, "num_iterations": 2}
# A run and the steps at which it is cut off: in an epoch, at its end, and in the next. An epoch
# has 17 samples: 5 steps of 4, 4 steps of 4 prompts, or 8 where rollouts are used twice.
RUNS = {
    "sft": (train_sft, lambda family: sft_stage(family, **SFT), (2, 5, 7)),
    "sft, adapters": (train_sft, lambda family: sft_stage(family, **SFT, **ADAPTERS), (2, 5, 7)),
    "grpo": (train_grpo, lambda family: grpo_stage(family, **GRPO), (2, 4, 7)),
    "grpo, used twice": (train_grpo, lambda family: grpo_stage(family, **TWICE), (2, 8, 10)),
}


def crash_at(monkeypatch, step: int, half_written: bool) -> None:
    """Crash after a step's checkpoint, or with it half written."""
    keep = Checkpoints.keep

    def crashing(self, written: Path) -> None:
        if int(written.name.split("-")[1]) == step:
            if half_written:
                next(written.glob("*.safetensors")).write_bytes(b"half")
            else:
                keep(self, written)
            raise Crash
        keep(self, written)

    monkeypatch.setattr(Checkpoints, "keep", crashing)


def same(first: Path, second: Path) -> None:
    assert read_json(first / "history.json") == read_json(second / "history.json")
    for file in ("model.safetensors", "history.json", "manifest.json"):
        assert sha256(first / file) == sha256(second / file), file
    tables = {folder: [*folder.glob("completions/*.parquet")] for folder in (first, second)}
    names = [sorted(path.name for path in found) for found in tables.values()]
    assert names[0] == names[1]
    for path in tables[first]:
        assert sha256(path) == sha256(second / "completions" / path.name), path.name


@pytest.mark.parametrize("run", RUNS)
def test_a_run_goes_on_exactly(start, dataset: Path, tmp_path: Path, run, capsys):
    family, base = start
    train, make_stage, steps = RUNS[run]
    stage, cycle = make_stage(family), 2 if "twice" in run else 1
    train(stage, base, dataset, tmp_path / "whole")
    written = sorted(path.stem for path in (tmp_path / "whole/completions").glob("*"))
    steps_written = [3, 6, 9][: 3 if cycle == 2 else 2] if "grpo" in run else []
    assert written == [f"step-{number:05d}" for number in steps_written]
    for step in steps:
        half_written, folder = step == steps[-1], tmp_path / str(step) / "whole"
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step, half_written)
            with pytest.raises(Crash):
                train(stage, base, dataset, folder)
        assert not folder.exists()
        capsys.readouterr()
        train(stage, base, dataset, folder)
        reached = step - cycle if half_written else step
        assert f"going on after step {reached}," in capsys.readouterr().err
        same(tmp_path / "whole", folder)
        assert not (folder.parent / "checkpoints").exists()


@pytest.mark.parametrize("run", ["sft", "grpo"])
def test_a_run_that_could_not_write_its_model_takes_no_further_step(
    start, dataset: Path, tmp_path: Path, run, monkeypatch
):
    from medtune.training import common

    family, base = start
    train, make_stage, _ = RUNS[run]
    train(make_stage(family), base, dataset, tmp_path / "whole")
    folder = tmp_path / "again/whole"
    with monkeypatch.context() as patch:
        patch.setattr(common, "save_result", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            train(make_stage(family), base, dataset, folder)
    train(make_stage(family), base, dataset, folder)
    same(tmp_path / "whole", folder)


def test_a_checkpoint_of_another_configuration_is_not_used(start, dataset, tmp_path, capsys):
    family, base = start
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, 2, half_written=False)
        with pytest.raises(Crash):
            train_sft(sft_stage(family, **SFT), base, dataset, tmp_path / "sft")
    train_sft(sft_stage(family, **SFT | {"epochs": 0.6}), base, dataset, tmp_path / "sft")
    assert "going on" not in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


def test_only_complete_checkpoints_are_chosen(tmp_path: Path):
    (tmp_path / "parent").write_text("x")
    own = Checkpoints(tmp_path / "sft", {"a": 1}, [tmp_path / "parent"])
    assert own.newest() is None
    for step in (9, 10):
        written = own.folder / ".partial" / f"checkpoint-{step}"
        written.mkdir(parents=True)
        (written / "model.safetensors").write_text("weights")
        own.keep(written)
    assert own.newest().name == "checkpoint-10"
    assert len(list(own.folder.glob("checkpoint-*"))) == 1
    (own.newest() / "model.safetensors").write_text("weig")
    assert own.newest() is None
    assert Checkpoints(tmp_path / "sft", {"a": 2}, [tmp_path / "parent"]).folder != own.folder
    (tmp_path / "parent").write_text("y")
    assert Checkpoints(tmp_path / "sft", {"a": 1}, [tmp_path / "parent"]).folder != own.folder


def test_tables_of_steps_that_are_done_again_are_forgotten(tmp_path: Path):
    (tmp_path / "parent").write_text("x")
    own = Checkpoints(tmp_path / "grpo", {}, [tmp_path / "parent"])
    for step in (3, 9, 12):
        own.table(step).parent.mkdir(parents=True, exist_ok=True)
        own.table(step).write_text("table")
    written = own.folder / ".partial" / "checkpoint-9"
    written.mkdir(parents=True)
    own.keep(written)
    resume_point(own)
    assert [path.name for path in sorted(own.tables.iterdir())] == [
        "step-00003.parquet",
        "step-00009.parquet",
    ]
    shutil.rmtree(own.folder / "checkpoint-9")
    resume_point(own)
    assert not list(own.tables.iterdir())


@pytest.mark.parametrize(
    ("every", "log", "cycle", "expected"), [(100, 10, 1, 100), (7, 5, 1, 10), (5, 4, 3, 12)]
)
def test_checkpoints_fall_where_nothing_is_half_done(every, log, cycle, expected):
    config = sft_stage("qwen2_5_vl", checkpoint_every=every, log_every=log).sft
    assert save_steps(config, cycle) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_process_goes_on_exactly(start, dataset: Path, tmp_path: Path, number):
    """SIGTERM saves the step it is in; after SIGKILL the last checkpoint is taken."""
    family, base = start
    stage = sft_stage(family, **SFT | {"epochs": 4, "log_every": 3})
    command = [
        *(sys.executable, "-m", "medtune", "sft", "--config", stage.model_dump_json()),
        *("--base", str(base), "--dataset", str(dataset), "--output"),
    ]
    subprocess.run([*command, str(tmp_path / "whole/sft")], check=True, capture_output=True)
    folder = tmp_path / "cut/sft"
    run = subprocess.Popen([*command, str(folder)], stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while not list(folder.parent.glob("checkpoints/sft/*/checkpoint-*")):
        assert time.monotonic() < limit
        time.sleep(0.01)
    run.send_signal(number)
    said = run.communicate(timeout=120)[1]
    assert run.returncode == (128 + number if number == signal.SIGTERM else -number), said
    if number == signal.SIGTERM:
        assert "asked to stop: saving step" in said
        assert "interrupted" in said
    assert not folder.exists()
    again = subprocess.run([*command, str(folder)], check=True, capture_output=True, text=True)
    assert "going on after step" in again.stderr
    same(tmp_path / "whole/sft", folder)


def test_a_second_request_stops_at_once(monkeypatch):
    monkeypatch.setattr(stopping, "_requested", None)
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    stopping.listen()

    def ask_twice() -> None:
        with stopping.delayed():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stopping.requested() == signal.SIGUSR1
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on after the second request")

    try:
        with pytest.raises(stopping.Stopped):
            ask_twice()
        monkeypatch.setattr(stopping, "_requested", None)
        with pytest.raises(stopping.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_half_written_checkpoints_are_taken_away(tmp_path: Path):
    (tmp_path / "parent").write_text("x")
    own = Checkpoints(tmp_path / "sft", {}, [tmp_path / "parent"])
    (own.folder / ".partial/checkpoint-3").mkdir(parents=True)
    assert resume_point(own) is None
    assert not (own.folder / ".partial").exists()
