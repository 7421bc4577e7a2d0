"""A run that was interrupted goes on exactly: the same history and the same weights, to the bit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import one_family
from training_stages import TASK, grpo_stage, history, sft_stage

from medtune.config.training import LearningRates, LoraConfig
from medtune.models.loading import load_model
from medtune.rewards.base import Term
from medtune.runtime import stopping
from medtune.runtime.files import read_json, sha256
from medtune.runtime.fingerprint import code_sha256
from medtune.training.checkpoints import Checkpoints, about, resume_point, save_steps
from medtune.training.grpo import train_grpo
from medtune.training.grpo_trainer import VideoGRPOTrainer
from medtune.training.sft import train_sft
from medtune.training.validation import ValidationGenerations, best_evaluation


class Crash(BaseException):
    """Stands for a power cut: nothing below may catch it."""


@pytest.fixture
def start(family: str, base: Path) -> tuple[str, Path]:
    return family, base


@pytest.fixture(autouse=True)
def varied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward that differs between the answers of an untrained model: GRPO has a gradient."""
    variety = Term("variety", 1.0, lambda judged: min(1.0, len(set(judged.text)) / 100))
    monkeypatch.setattr(type(TASK), "terms", lambda *_: [variety])


RATES = LearningRates(projector=5e-3)
ADAPTERS = {"lora": LoraConfig(rank=4, alpha=8), "freeze": ["vision"], "learning_rates": RATES}
SFT = {"epochs": 1.8, "save_steps": 1, "eval_steps": 1}
BUDGET = SFT | {"max_tokens_per_batch": 400, "gradient_accumulation": 2, "epochs": 2.3}
GRPO = {"steps": 8, "save_steps": 1, "learning_rate": 1e-4, "max_completion_length": 12}
GRPO |= {"num_generations": 2, "log_completions_steps": 3, "eval_steps": 1}
GRPO |= {"eval_generation_samples": 2}
TWICE = GRPO | {"steps": 11, "num_iterations": 2}
# A run and the steps at which it is cut off: in an epoch, at its end, and in the next. An epoch
# has 17 samples: 5 steps of 4, 4 steps of 4 prompts, or 8 where rollouts are used twice. By budget
# it has 3 (Qwen2.5-VL) or 4 steps.
RUNS = {
    "sft": (train_sft, lambda family: sft_stage(family, **SFT), (2, 5, 7)),
    "sft, adapters": (train_sft, lambda family: sft_stage(family, **SFT, **ADAPTERS), (2, 5, 7)),
    "sft, budget": (train_sft, lambda family: sft_stage(family, **BUDGET), (3, 4, 6)),
    "grpo": (train_grpo, lambda family: grpo_stage(family, **GRPO), (2, 4, 7)),
    "grpo, used twice": (train_grpo, lambda family: grpo_stage(family, **TWICE), (2, 8, 10)),
}


def changed(stage, **changes):
    """A stage of SFT or GRPO with some keys of its section changed."""
    name = "sft" if hasattr(stage, "sft") else "grpo"
    return stage.model_copy(update={name: getattr(stage, name).model_copy(update=changes)})


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


def figure(_, model) -> dict[str, float]:
    """An arbitrary reward that follows from the weights to the last bit."""
    trained = next(p for p in model.parameters() if p.requires_grad and p.any())
    return {"eval_reward": float(trained.detach().double().abs().sum() * 1e6 % 1)}


def arbitrary_rewards(patch: pytest.MonkeyPatch) -> None:
    """Let evaluations of SFT and GRPO be worth an arbitrary figure; GRPO's still answer."""
    answered = VideoGRPOTrainer.held_out_figures
    patch.setattr(ValidationGenerations, "figures", figure)
    patch.setattr(
        VideoGRPOTrainer,
        "held_out_figures",
        lambda trainer: answered(trainer) | figure(None, trainer.model),
    )


def evaluations(folder: Path) -> dict[int, float]:
    history = read_json(folder / "history.json")
    return {e["step"]: e["eval_reward"] for e in history if "eval_reward" in e}


@one_family
@pytest.mark.parametrize("run", RUNS)
def test_a_run_goes_on_exactly(start, dataset: Path, tmp_path: Path, run, capsys, monkeypatch):
    family, base = start
    arbitrary_rewards(monkeypatch)
    train, make_stage, steps = RUNS[run]
    stage, cycle = make_stage(family), 2 if "twice" in run else 1
    train(stage, base, dataset, tmp_path / "whole")
    assert all(e["grad_norm"] > 0 for e in history(tmp_path / "whole") if "grad_norm" in e)
    found = evaluations(tmp_path / "whole")
    assert list(found) == list(range(1, len(found) + 1))
    assert len(found) >= steps[-1]
    best = read_json(tmp_path / "whole/manifest.json")["step"]
    assert best == max(found, key=found.get) < len(found)
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


def scripted(monkeypatch, seen: list, rewards: list[float]) -> None:
    """Give evaluations these rewards in turn, and note the weights they were of."""

    def measure(_, model) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"eval_reward": rewards[len(seen) - 1]}

    monkeypatch.setattr(ValidationGenerations, "figures", measure)
    monkeypatch.setattr(
        VideoGRPOTrainer, "held_out_figures", lambda trainer: measure(None, trainer.model)
    )


@pytest.mark.parametrize("run", ["sft", "grpo"])
def test_the_best_evaluated_weights_are_the_result(start, dataset, tmp_path, monkeypatch, run):
    family, base = start
    train, make_stage, _ = RUNS[run]
    rewards = [0.1, 0.4, 0.2, 0.3, 0.3, 0.2, 0.1, 0.0]
    for name, keep, expected in (("best", True, 2), ("last", False, 8)):
        seen: list[dict] = []
        scripted(monkeypatch, seen, rewards)
        stage = changed(make_stage(family), keep_best=keep)
        train(stage, base, dataset, tmp_path / name)
        manifest = read_json(tmp_path / name / "manifest.json")
        assert manifest["step"] == expected
        entry = read_json(tmp_path / name / "history.json")[-1]
        assert entry == {"step": expected, "result": True}
        result = load_model(tmp_path / name, stage.model).state_dict()
        assert all(result[key].equal(value) for key, value in seen[expected - 1].items())
        assert not all(result[key].equal(value) for key, value in seen[4].items())


@one_family
@pytest.mark.parametrize("run", ["sft", "grpo"])
@pytest.mark.parametrize(("patience", "last"), [(2, 4), (None, 8)])
def test_a_run_that_has_ended_is_not_trained_on(start, dataset, tmp_path, patience, last, run):
    """A crash between the last checkpoint and the result: at the early stop, or the last step."""
    family, base = start
    train, make_stage, _ = RUNS[run]
    stage = changed(make_stage(family), patience=patience)
    rewards = [0.1, 0.4, 0.2, 0.3, 0.3, 0.2, 0.1, 0.0]
    for name in ("whole", "cut/whole"):
        with pytest.MonkeyPatch.context() as patch:
            scripted(patch, [], rewards)
            if "cut" in name:
                crash_at(patch, last, half_written=False)
                with pytest.raises(Crash):
                    train(stage, base, dataset, tmp_path / name)
            else:
                train(stage, base, dataset, tmp_path / name)
    train(stage, base, dataset, tmp_path / "cut/whole")
    same(tmp_path / "whole", tmp_path / "cut/whole")
    assert list(evaluations(tmp_path / "whole")) == list(range(1, last + 1))
    manifest = read_json(tmp_path / "whole/manifest.json")
    assert manifest["step"] == 2
    ended = f"step {last} of 8, stopping early: no evaluation was better than that of step 2"
    assert manifest["ended"] == (ended if patience else "all 8 steps")


@pytest.mark.parametrize("run", ["sft", "grpo"])
@one_family
def test_what_was_best_before_a_crash_counts_after_it(start, dataset, tmp_path, run):
    """The best step lies before the crash, and the patience is used up after it."""
    family, base = start
    train, make_stage, _ = RUNS[run]
    stage = changed(make_stage(family), patience=3)
    rewards, folder = [0.1, 0.4, 0.2, 0.3, 0.1, 0.9, 0.9, 0.9], tmp_path / "whole"
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, [], rewards)
        crash_at(patch, 3, half_written=False)
        with pytest.raises(Crash):
            train(stage, base, dataset, folder)
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, [], rewards[3:])
        train(stage, base, dataset, folder)
    assert list(evaluations(folder).values()) == rewards[:5]
    manifest = read_json(folder / "manifest.json")
    assert (manifest["step"], manifest["ended"].split(",")[0]) == (2, "step 5 of 8")


@pytest.mark.parametrize(
    ("losses", "rewards", "expected"),
    [
        ([3.0, 2.0, 1.0, 1.5], [0.1, 0.3, 0.2, 0.2], (20, 2)),
        ([3.0, 2.0, 1.0, 1.5], [0.0, 0.0, 0.0, 0.0], (30, 1)),  # no answer is valid yet
        ([3.0, 2.0, 1.0, 1.0], None, (30, 1)),
        ([1.0], None, (10, 0)),
        ([], None, None),
    ],
)
def test_the_best_evaluation_has_the_highest_reward_then_the_lowest_loss(losses, rewards, expected):
    log = [{"step": 10 * i, "eval_loss": loss} for i, loss in enumerate(losses, start=1)]
    if rewards:
        log = [e | {"eval_reward": r} for e, r in zip(log, rewards, strict=True)]
    assert best_evaluation([{"step": 5, "loss": 1.0}, *log]) == expected


def test_of_equal_greedy_rewards_the_highest_sampled_one_is_best():
    figures = [(0.2, 0.9), (0.5, 0.3), (0.5, 0.4), (0.5, 0.4), (0.5, 0.1)]
    log = [
        {"step": step, "eval_reward": greedy, "eval_sampled_reward": sampled}
        for step, (greedy, sampled) in enumerate(figures)
    ]
    assert best_evaluation(log) == (2, 2)


@one_family
@pytest.mark.parametrize("run", ["sft", "grpo"])
def test_a_run_that_could_not_write_its_model_takes_no_further_step(
    start, dataset: Path, tmp_path: Path, run, monkeypatch
):
    from medtune.training import run as common

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


def test_best_weights_stay_until_no_run_can_need_them(tmp_path: Path):
    own = Checkpoints(tmp_path / "checkpoints/sft/run")

    def write(name: str) -> Path:
        written = own.folder / ".partial" / name
        written.mkdir(parents=True)
        (written / "model.safetensors").write_text(name)
        return written

    def bests() -> set[str]:
        return {path.name for path in own.folder.glob("best-*")}

    own.keep_best(write("best"), 4)
    own.keep(write("checkpoint-5"))
    own.keep_best(write("best"), 8)
    assert bests() == {"best-4", "best-8"}  # a crash here goes on after step 5
    assert resume_point(own).name == "checkpoint-5"
    assert bests() == {"best-4"}
    own.keep_best(write("best"), 8)
    own.keep(write("checkpoint-10"))
    assert bests() == {"best-8"}
    assert own.best().name == "best-8"


def test_only_complete_checkpoints_are_chosen(tmp_path: Path):
    own = Checkpoints(tmp_path / "checkpoints/sft/run")
    assert own.newest() is None
    for step in (9, 10):
        (own.folder / f"best-{step}").mkdir(parents=True)
        written = own.folder / ".partial" / f"checkpoint-{step}"
        written.mkdir(parents=True)
        (written / "model.safetensors").write_text("weights")
        own.keep(written)
    assert own.newest().name == "checkpoint-10"
    assert len(list(own.folder.glob("checkpoint-*"))) == 1
    (own.newest() / "model.safetensors").write_text("weig")
    assert resume_point(own) is None
    assert not list(own.folder.glob("best-*"))


def test_tables_of_steps_that_are_done_again_are_forgotten(tmp_path: Path):
    own = Checkpoints(tmp_path / "checkpoints/grpo/run")
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
    config = sft_stage("qwen2_5_vl", save_steps=every, logging_steps=log).sft
    assert save_steps(config, cycle) == expected


@one_family
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_a_stopped_process_goes_on_exactly(start, dataset: Path, tmp_path: Path, number):
    """SIGTERM saves the step it is in; after SIGKILL the last checkpoint is taken."""
    family, base = start
    stage = sft_stage(family, **SFT | {"epochs": 4, "logging_steps": 3})
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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored, it stays so
    stopping.install_signal_handlers()

    def ask_twice() -> None:
        with stopping.delayed():
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):  # as Slurm may
                os.kill(os.getpid(), number)
                assert stopping.requested() == number
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on after the second request")

    try:
        with pytest.raises(stopping.Stopped):
            ask_twice()
        monkeypatch.setattr(stopping, "_requested", None)
        with pytest.raises(stopping.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)  # Slurm's own, while the process ends already
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_half_written_checkpoints_are_taken_away(tmp_path: Path):
    own = Checkpoints(tmp_path / "checkpoints/sft/run")
    (own.folder / ".partial/checkpoint-3").mkdir(parents=True)
    assert resume_point(own) is None
    assert not (own.folder / ".partial").exists()


def test_code_that_changes_while_it_trains_is_said_and_recorded(
    family, base, dataset, tmp_path: Path, monkeypatch, capsys
):
    if family == "qwen3_vl":
        pytest.skip("one family tells")
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, 2, half_written=False)
        with pytest.raises(Crash):
            train_sft(sft_stage(family, **SFT), base, dataset, tmp_path / "sft")
    assert "code has changed" not in capsys.readouterr().err
    monkeypatch.setattr("medtune.training.run.code_sha256", lambda _: "other")
    train_sft(sft_stage(family, **SFT), base, dataset, tmp_path / "sft")
    assert "code has changed" in capsys.readouterr().err
    assert read_json(tmp_path / "sft/manifest.json")["codes"] == [code_sha256("sft"), "other"]
    assert about(None, {}, "first", [])["codes"] == ["first"]
