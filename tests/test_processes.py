"""Training in two processes: the trajectory of one, to rounding."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import long
from test_resume import same
from training_stages import (
    assert_weights_close,
    grpo_stage,
    history,
    mixed_dataset,
    sft_stage,
)

import medtune
from medtune.config.stages import GrpoStage
from medtune.config.training import LoraConfig, RewardConfig
from medtune.runtime.files import read_json
from medtune.runtime.tables import read_rows
from medtune.training.grpo import train_grpo
from medtune.training.sft import train_sft

# Float32 sums in another order, grown over 30 steps of AdamW; see the figures in each test.
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="needs DeepSpeed: make deepspeed"
)
LARGEST, MEAN = 5e-5, 1e-5
MEDTUNE = str(Path(medtune.__file__).with_name("__main__.py"))
PLANTED = str(Path(__file__).with_name("planted.py"))
qwen3 = pytest.mark.parametrize("family", ["qwen3_vl"], indirect=True)


def deepspeed(strategy: str) -> Any:
    return pytest.param(strategy, marks=needs_deepspeed)


def launch(program: list[str], stage, start: Path, dataset: Path, output: Path) -> Any:
    """Run a stage in two processes; the program ends in the verb."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("--", *program, "--config", stage.model_dump_json()),
        *("--base" if program[-1] == "sft" else "--start", str(start)),
        *("--dataset", str(dataset), "--output", str(output)),
    ]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def run(verb: str, stage, start: Path, dataset: Path, output: Path, *planted: str) -> str:
    """Run a stage in two processes, with something planted in it; return what it said."""
    if (stage.sft if verb == "sft" else stage.grpo).strategy == "fsdp2":
        planted += ("fsdp2",)
    program = [PLANTED, ",".join(planted)] if planted else [MEDTUNE]
    done = launch([*program, verb], stage, start, dataset, output)
    assert done.returncode == 0, done.stderr
    return done.stderr


def column(folder: Path, name: str) -> list[float]:
    return [entry[name] for entry in history(folder) if name in entry]


def assert_same_trajectory(folder: Path, names: tuple[str, ...], steps: int) -> None:
    """Compare the figures and weights of the runs `one` and `two` of a folder."""
    one, two = folder / "one", folder / "two"
    for name in names:
        first, second = column(one, name), column(two, name)
        assert len(first) == len(second)
        gaps = [abs(a - b) for a, b in zip(first, second, strict=True)]
        print(f"{name}: largest {max(gaps):.2g}, mean {sum(gaps) / len(gaps):.2g}")
        assert max(gaps) < LARGEST, name
        assert sum(gaps) / len(gaps) < MEAN, name
    assert len(column(one, names[0])) == steps
    assert_weights_close(one, two, LARGEST)


@qwen3
def test_sft_in_two_processes_is_that_of_one(family, base, dataset, tmp_path):
    """30 steps of 8 samples: nine epochs of 17, whose last batch holds a single one."""
    changes = {"epochs": 14, "eval_steps": 10, "learning_rate": 1e-3, "keep_best": False}
    train_sft(sft_stage(family, **changes, batch_size=8), base, dataset, tmp_path / "one")
    said = run("sft", sft_stage(family, **changes), base, dataset, tmp_path / "two")
    assert_same_trajectory(tmp_path, ("loss", "grad_norm", "eval_loss"), 30)
    assert said.count("model: ") == 1


@long
@qwen3
def test_sft_by_budget_in_two_processes_is_that_of_one(family, base, dataset, tmp_path):
    """30 steps of two batches; an epoch has an odd number, so that its last step holds one."""
    changes = {"epochs": 7.5, "eval_steps": 15, "learning_rate": 1e-3, "keep_best": False}
    changes |= {"max_tokens_per_batch": 450, "eval_generation_samples": 0}
    train_sft(
        sft_stage(family, **changes, gradient_accumulation=2), base, dataset, tmp_path / "one"
    )
    said = run("sft", sft_stage(family, **changes), base, dataset, tmp_path / "two")
    assert int(re.search(r"(\d+) batches per epoch", said)[1]) % 2 == 1
    assert_same_trajectory(tmp_path, ("loss", "grad_norm", "eval_loss"), 30)


def varied(family: str, folder: Path, **changes) -> GrpoStage:
    """A stage whose reward differs between sampled answers, so that there is a gradient."""
    file = folder / "terms.py"
    file.write_text("def variety(judged):\n    return min(1.0, len(set(judged.text)) / 50)\n")
    reward = RewardConfig(file=str(file), weights={"variety": 100.0})
    return grpo_stage(family, **changes).model_copy(update={"reward": reward})


@qwen3
def test_grpo_in_two_processes_is_that_of_one(family, trained, dataset, tmp_path):
    """30 steps of two prompts with four answers each, which are drawn alike."""
    changes = {"steps": 30, "learning_rate": 1e-3, "max_completion_length": 16, "beta": 0.04}
    changes |= {"eval_steps": 10, "keep_best": False}
    train_grpo(varied(family, tmp_path, **changes), trained, dataset, tmp_path / "one")
    run(
        "grpo",
        varied(family, tmp_path, **changes, batch_size=4),
        trained,
        dataset,
        tmp_path / "two",
    )
    names = ("loss", "grad_norm", "reward", "entropy", "kl", "completions/mean_length")
    names += ("eval_reward", "eval_sampled_reward")
    rewards = column(tmp_path / "one", "reward")
    assert max(rewards) - min(rewards) > 0.01
    for table in sorted((tmp_path / "one/completions").glob("*")):
        first, second = (
            read_rows(tmp_path / n / "completions" / table.name) for n in ("one", "two")
        )
        assert [(r["id"], r["text"]) for r in first] == [(r["id"], r["text"]) for r in second]
    assert table.stem == "step-00030"
    assert_same_trajectory(tmp_path, names, 30)


ZERO = ("zero2", "zero3", "zero3_offload", "zero3, adapters")


@pytest.mark.parametrize("strategy", [*(deepspeed(name) for name in ZERO), "fsdp2"])
@qwen3
def test_sharded_sft_is_that_of_one_process(family, base, dataset, tmp_path, strategy):
    strategy, _, adapters = strategy.partition(", ")
    lora = LoraConfig(rank=4, alpha=8, dropout=0)
    changes = {"lora": lora, "freeze": ["vision"]} if adapters else {}
    changes |= {"epochs": 3, "eval_steps": 3, "learning_rate": 1e-3, "keep_best": False}
    changes["gradient_checkpointing"] = True
    train_sft(sft_stage(family, **changes, batch_size=8), base, dataset, tmp_path / "one")
    run("sft", sft_stage(family, **changes, strategy=strategy), base, dataset, tmp_path / "two")
    assert_same_trajectory(tmp_path, ("loss", "grad_norm", "eval_loss"), 7)


@long
@pytest.mark.parametrize("strategy", [deepspeed("zero3"), "fsdp2"])
@qwen3
def test_sharded_grpo_is_that_of_one_process(family, trained, dataset, tmp_path, strategy):
    changes = {"steps": 6, "learning_rate": 1e-3, "max_completion_length": 16, "beta": 0.04}
    train_grpo(varied(family, tmp_path, **changes), trained, dataset, tmp_path / "one")
    stage = varied(family, tmp_path, **changes, batch_size=4, strategy=strategy)
    run("grpo", stage, trained, dataset, tmp_path / "two")
    assert_same_trajectory(tmp_path, ("loss", "grad_norm", "reward", "kl"), 6)


def kill_and_go_on(verb: str, stage, start: Path, dataset: Path, folder: Path) -> None:
    """Compare a run with one that was killed right after the checkpoint of step 4."""
    strategy = (stage.sft if verb == "sft" else stage.grpo).strategy
    run(verb, stage, start, dataset, folder / "whole")
    planted, output = "fsdp2,kill" if strategy == "fsdp2" else "kill", folder / "cut/whole"
    cut = launch([PLANTED, planted, verb], stage, start, dataset, output)
    assert "Signal 9 (SIGKILL)" in cut.stderr, cut.stderr
    assert not output.exists()
    assert "going on after step 4," in run(verb, stage, start, dataset, output)
    same(folder / "whole", output)


SHARED = [
    "ddp",
    deepspeed("zero2"),
    deepspeed("zero3"),
    *(pytest.param(name, marks=long) for name in ("ddp, budget", "fsdp2")),
]


@qwen3
@pytest.mark.parametrize("strategy", SHARED)
def test_sft_in_two_processes_goes_on_exactly(family, base, dataset, tmp_path, strategy):
    """Also with the best of earlier evaluations as the result."""
    strategy, _, budget = strategy.partition(", ")
    changes = {"epochs": 1, "eval_steps": 2, "save_steps": 1, "strategy": strategy}
    changes |= {"max_tokens_per_batch": 250} if budget else {}
    stage = sft_stage(family, **changes, batch_size=2, eval_generation_samples=2)
    kill_and_go_on("sft", stage, base, dataset, tmp_path)


@qwen3
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="once"),
        pytest.param({"num_iterations": 2}, id="used twice", marks=long),
    ],
)
def test_grpo_in_two_processes_goes_on_exactly(family, trained, dataset, tmp_path, changes):
    """At the end of an epoch of 17 prompts, of which a step takes four, or within one."""
    changes |= {"steps": 6, "num_generations": 2, "max_completion_length": 12, "beta": 0.04}
    changes |= {"save_steps": 1, "log_completions_steps": 2, "batch_size": 4}
    changes |= {"eval_steps": 2, "eval_generation_samples": 2}
    stage = varied(family, tmp_path, **changes)
    kill_and_go_on("grpo", stage, trained, dataset, tmp_path)
    assert column(tmp_path / "whole", "grad_norm")[-1] > 0


@pytest.mark.parametrize("verb", ["sft", "grpo"])
@qwen3
def test_processes_whose_evaluations_differ_stop_and_keep_alike(
    family, trained, dataset, tmp_path, verb
):
    """The last process alone sees the reward rise: by itself it would go on, and wait for ever."""
    changes = {"eval_steps": 1, "eval_generation_samples": 2, "patience": 2, "batch_size": 4}
    stage = sft_stage(family, **changes)
    if verb == "grpo":
        stage = grpo_stage(family, **changes, steps=5)
    done = launch([PLANTED, "disagree", verb], stage, trained, dataset, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    manifest = read_json(tmp_path / "model/manifest.json")
    assert manifest["step"] == 1
    assert manifest["ended"].startswith("step 3 of")


@pytest.mark.parametrize("strategy", [deepspeed("zero3"), "fsdp2"])
@qwen3
def test_sharded_processes_show_different_kinds_of_media(family, base, dataset, tmp_path, strategy):
    """One process has images and videos where the other has one kind: a pass more would hang."""
    data = mixed_dataset(dataset, tmp_path)
    changes = {"epochs": 1, "learning_rate": 1e-3, "keep_best": False, "eval_steps": 2}
    train_sft(sft_stage(family, **changes, batch_size=4), base, data, tmp_path / "one")
    stage = sft_stage(family, **changes, batch_size=2, strategy=strategy)
    run("sft", stage, base, data, tmp_path / "two")
    assert_same_trajectory(tmp_path, ("loss", "grad_norm", "eval_loss", "eval_reward"), 5)


@pytest.mark.parametrize("strategy", [deepspeed("zero3"), "fsdp2"])
@qwen3
def test_sharded_processes_keep_features_alike(family, trained, dataset, tmp_path, strategy):
    """The last process has no room for features of the frozen tower: it must not run it alone."""
    data = mixed_dataset(dataset, tmp_path)
    changes = {"steps": 4, "learning_rate": 1e-3, "max_completion_length": 12, "num_iterations": 2}
    changes |= {"freeze": ["vision", "projector"]}
    train_grpo(varied(family, tmp_path, **changes), trained, data, tmp_path / "one")
    stage = varied(family, tmp_path, **changes, batch_size=4, strategy=strategy)
    run("grpo", stage, trained, data, tmp_path / "two", "no_room")
    assert_same_trajectory(tmp_path, ("loss", "grad_norm", "reward", "eval_reward"), 4)
