"""A run goes on though keys have changed, if the result is the same; every changed key is named."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import one_family
from test_processes import (
    LARGEST,
    PLANTED,
    assert_same_trajectory,
    column,
    launch,
    qwen3,
    run,
    varied,
)
from test_resume import SFT, Crash, crash_at, same
from training_stages import assert_weights_close, grpo_stage, sft_stage, weights

from medtune.config.base import Section
from medtune.config.stages import GrpoStage
from medtune.config.training import GrpoConfig, LoraConfig, ModelConfig, RolloutConfig, SftConfig
from medtune.training.checkpoints import Checkpoints, about
from medtune.training.grpo import train_grpo
from medtune.training.resume import HARMLESS, MEASURED, ORIGIN, SPLIT, choose_run
from medtune.training.sft import train_sft

FAMILY = "qwen3_vl"
INPUTS = {"processes": 1, "dataset": "a", "start": "b"}
ANOTHER = "this is another run; the checkpoint of the old run stays in "


def as_record(stage, **inputs) -> dict:
    return stage.model_dump(mode="json") | INPUTS | inputs


def losses(*values: float) -> list[dict]:
    return [{"step": n, "eval_loss": value} for n, value in enumerate(values, start=1)]


def write_checkpoint(output: Path, stage, step: int = 4, log=(), **inputs) -> Checkpoints:
    """Write what a run has left behind."""
    record = as_record(stage, **inputs)
    kept = Checkpoints(choose_run(type(stage), output, record)[0])
    kept.about = about(None, record, "code", [])
    written = kept.folder / f".partial/checkpoint-{step}"
    written.mkdir(parents=True)
    (written / "trainer_state.json").write_text(json.dumps({"log_history": list(log)}))
    kept.keep(written)
    return kept


def leaves(value, key: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}".lstrip("."))
    else:
        yield key


def with_leaf(record: dict, key: str) -> dict:
    """A record whose value of one key is another."""
    changed = json.loads(json.dumps(record))
    *outer, last = key.split(".")
    section = changed
    for name in outer:
        section = section[name]
    value = section[last]
    section[last] = value + 1 if isinstance(value, int | float) else "other"
    return changed


@pytest.mark.parametrize("stage", [sft_stage(FAMILY), grpo_stage(FAMILY)], ids=["sft", "grpo"])
def test_each_changed_key_names_itself(tmp_path, stage, capsys):
    write_checkpoint(tmp_path / "model", stage)
    record, lines = as_record(stage), {}
    for key in leaves(record):
        changed = with_leaf(record, key)
        folder, trail = choose_run(type(stage), tmp_path / "model", changed)
        line = capsys.readouterr().err
        assert line.startswith(f"`{key}` "), key
        assert line.count("\n") == 1, line
        goes_on = "going on from step 4" in line
        assert goes_on != (ANOTHER in line)
        assert trail == ([f"step 4: {line.split(': ')[0]}"] if goes_on else [])
        assert folder.is_dir() == goes_on
        lines[key] = goes_on
    assert sum(lines.values()) > 5
    for key in ("seed", "dataset", "start", "processes", "task.name", "model.dtype"):
        assert not lines.get(key, False)


def test_the_lists_name_keys_that_there_are():
    def keys(section: type[Section]) -> set[str]:
        return {*section.model_fields}

    nested = {f"rollouts.{key}" for key in keys(RolloutConfig)}
    assert {*HARMLESS, *MEASURED, *SPLIT} <= keys(SftConfig) | keys(GrpoConfig) | nested | {*INPUTS}
    assert {*ORIGIN} <= {f"model.{key}" for key in keys(ModelConfig)}


def verdict(capsys, folder: Path, stage, **inputs) -> str:
    choose_run(type(stage), folder, as_record(stage, **inputs))
    return capsys.readouterr().err


def test_it_says_what_follows(tmp_path, capsys):
    write_checkpoint(tmp_path / "sft", sft_stage(FAMILY, save_steps=2))
    said = verdict(capsys, tmp_path / "sft", sft_stage(FAMILY, save_steps=3))
    assert said == ("`sft.save_steps` 2 -> 3: not used for the result, going on from step 4\n")
    changes = {"save_steps": 3, "batch_size": 2}
    said = verdict(capsys, tmp_path / "sft", sft_stage(FAMILY, **changes)).splitlines()
    assert f"`sft.batch_size` 4 -> 2: {ANOTHER}" in said[0]
    assert said[0].endswith(" (the global batch of 4 becomes 2)")
    assert said[1] == "`sft.save_steps` 2 -> 3: not used for the result"


@pytest.mark.parametrize(
    ("before", "after", "goes_on"),
    [
        ({}, {"batch_size": 2, "gradient_accumulation": 2}, True),
        ({"max_tokens_per_batch": 400}, {"max_tokens_per_batch": 400, "batch_size": 1}, True),
        ({"strategy": "zero2"}, {"strategy": "zero2", "batch_size": 2, "processes": 2}, False),
        ({}, {"batch_size": 2, "processes": 2}, True),
        ({}, {"batch_size": 2, "processes": 2, "strategy": "zero2"}, False),
        ({}, {"processes": 2}, False),
    ],
)
def test_a_global_batch_may_be_divided_otherwise(tmp_path, capsys, before, after, goes_on):
    write_checkpoint(tmp_path / "sft", sft_stage(FAMILY, **before))
    processes = after.pop("processes", 1)
    said = verdict(capsys, tmp_path / "sft", sft_stage(FAMILY, **after), processes=processes)
    assert ("going on" in said) == goes_on
    assert (ANOTHER in said) != goes_on


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"loss_type": "bnpo"}, "bnpo"),
        ({"dynamic_sampling_rounds": 2}, "dynamic_sampling_rounds"),
        ({"rollouts": RolloutConfig(engine="vllm")}, "but for vLLM"),
        ({}, "equal to rounding, going on"),
    ],
)
def test_what_depends_on_the_division_of_a_batch_is_said(tmp_path, capsys, changes, word):
    write_checkpoint(tmp_path / "grpo", grpo_stage(FAMILY, **changes))
    changes = changes | {"batch_size": 4, "gradient_accumulation": 2}
    assert word in verdict(capsys, tmp_path / "grpo", grpo_stage(FAMILY, **changes))


def test_dropout_draws_anew_where_a_batch_is_divided_otherwise(tmp_path, capsys):
    changes = {"lora": LoraConfig(), "freeze": ["vision"]}
    write_checkpoint(tmp_path / "sft", sft_stage(FAMILY, **changes))
    changes |= {"batch_size": 2, "gradient_accumulation": 2}
    assert "but for dropout" in verdict(capsys, tmp_path / "sft", sft_stage(FAMILY, **changes))


@pytest.mark.parametrize(
    ("patience", "goes_on"), [(4, True), (3, True), (2, True), (1, False), (None, True)]
)
def test_patience_matters_where_it_was_reached(tmp_path, capsys, patience, goes_on):
    """Two evaluations in a row were not better, the last of them at the checkpoint's step."""
    log = losses(3.0, 1.0, 2.0, 2.0)
    write_checkpoint(tmp_path / "sft", sft_stage(FAMILY, patience=5), log=log)
    said = verdict(capsys, tmp_path / "sft", sft_stage(FAMILY, patience=patience))
    assert ("not reached, going on from step 4" in said) == goes_on
    assert (ANOTHER in said) != goes_on


def test_evaluations_matter_where_they_choose_the_result(tmp_path, capsys):
    for keep, goes_on in ((True, False), (False, True)):
        folder = tmp_path / str(keep)
        write_checkpoint(folder, sft_stage(FAMILY, keep_best=keep, eval_steps=2))
        said = verdict(capsys, folder, sft_stage(FAMILY, keep_best=keep, eval_steps=3))
        assert ("going on" in said) == goes_on


def test_a_moved_model_is_the_same_if_its_content_is(tmp_path, capsys):
    def stage(path: str) -> GrpoStage:
        model = ModelConfig(family=FAMILY, path=path)
        return grpo_stage(FAMILY).model_copy(update={"model": model})

    write_checkpoint(tmp_path / "grpo", stage("/a"))
    assert "going on" in verdict(capsys, tmp_path / "grpo", stage("/b"))
    assert "going on" not in verdict(capsys, tmp_path / "grpo", stage("/b"), start="other")


def test_a_checkpoint_of_another_version_stays_and_is_not_used(tmp_path, capsys):
    kept = write_checkpoint(tmp_path / "sft", sft_stage(FAMILY))
    marker = kept.newest() / "complete.json"
    marker.write_text(json.dumps({"sizes": json.loads(marker.read_text())["sizes"]}))
    assert "another version" in verdict(capsys, tmp_path / "sft", sft_stage(FAMILY))


def test_of_several_runs_the_one_that_goes_on_furthest_is_chosen(tmp_path, capsys):
    stages = [sft_stage(FAMILY, learning_rate=rate) for rate in (1e-3, 2e-3)]
    old, other = (write_checkpoint(tmp_path / "sft", stage) for stage in stages)
    assert old.folder != other.folder
    for stage, kept in zip(stages, (old, other), strict=True):
        changed = stage.model_copy(
            update={"sft": stage.sft.model_copy(update={"logging_steps": 7})}
        )
        assert choose_run(type(stage), tmp_path / "sft", as_record(changed))[0] == kept.folder
    other.clear()
    assert old.newest()
    assert "`sft.learning_rate` 0.001 -> 0.003: this is another run" in verdict(
        capsys, tmp_path / "sft", sft_stage(FAMILY, learning_rate=3e-3)
    )
    old.clear()
    assert not (tmp_path / "checkpoints").exists()


def crash(train, stage, start: Path, dataset: Path, output: Path, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, step, half_written=False)
        with pytest.raises(Crash):
            train(stage, start, dataset, output)


@one_family
def test_another_interval_of_checkpoints_goes_on_exactly(
    family, base, dataset, tmp_path, monkeypatch, capsys
):
    """With the old run stopped, and the new one saving, logging and waiting otherwise."""
    later = sft_stage(family, **SFT | {"save_steps": 2}, logging_steps=3, patience=100)
    train_sft(later, base, dataset, tmp_path / "whole")
    crash(train_sft, sft_stage(family, **SFT, patience=99), base, dataset, tmp_path / "cut/sft", 4)
    written, keep = [], Checkpoints.keep
    monkeypatch.setattr(
        Checkpoints, "keep", lambda self, path: (written.append(path.name), keep(self, path))
    )
    capsys.readouterr()
    train_sft(later, base, dataset, tmp_path / "cut/sft")
    said = capsys.readouterr().err
    for change in ("save_steps` 1 -> 2", "logging_steps` 1 -> 3"):
        assert f"`sft.{change}: not used for the result, going on from step 4\n" in said
    assert "`sft.patience` 99 -> 100: not reached, going on from step 4\n" in said
    assert written == ["checkpoint-6", "checkpoint-8"]
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "cut/sft")
    assert all(value.equal(second[name]) for name, value in first.items())
    manifest = json.loads((tmp_path / "cut/sft/manifest.json").read_text())
    assert "step 4: `sft.logging_steps` 1 -> 3" in manifest["changes"]
    assert not (tmp_path / "cut/checkpoints").exists()
    train_sft(sft_stage(family, **SFT, patience=100), base, dataset, tmp_path / "whole")
    assert "whole is there, of this code, configuration" in capsys.readouterr().err


@one_family
def test_another_run_leaves_the_checkpoint_and_the_old_one_goes_on(
    family, base, dataset, tmp_path, capsys
):
    stage, other = (sft_stage(family, **SFT | {"epochs": epochs}) for epochs in (1.8, 0.6))
    train_sft(stage, base, dataset, tmp_path / "whole/sft")
    crash(train_sft, stage, base, dataset, tmp_path / "sft", 2)
    train_sft(other, base, dataset, tmp_path / "sft")
    said = capsys.readouterr().err
    assert f"`sft.epochs` 1.8 -> 0.6: {ANOTHER}" in said
    assert "going on" not in said
    assert [path.name for path in tmp_path.glob("checkpoints/sft/*/checkpoint-*")] == [
        "checkpoint-2"
    ]
    train_sft(stage, base, dataset, tmp_path / "sft")
    assert "going on after step 2," in capsys.readouterr().err
    same(tmp_path / "whole/sft", tmp_path / "sft")
    assert not (tmp_path / "checkpoints").exists()


@one_family
def test_sft_goes_on_with_its_batch_divided_otherwise(family, base, dataset, tmp_path):
    changes = SFT | {"learning_rate": 1e-3, "keep_best": False, "eval_steps": 100, "epochs": 4}
    train_sft(sft_stage(family, **changes), base, dataset, tmp_path / "whole")
    crash(train_sft, sft_stage(family, **changes), base, dataset, tmp_path / "cut/sft", 4)
    changes |= {"batch_size": 1, "gradient_accumulation": 4, "gradient_checkpointing": True}
    train_sft(sft_stage(family, **changes), base, dataset, tmp_path / "cut/sft")
    assert_weights_close(tmp_path / "whole", tmp_path / "cut/sft", LARGEST)


@one_family
def test_grpo_goes_on_with_its_batch_divided_otherwise(family, trained, dataset, tmp_path):
    changes = {"steps": 8, "save_steps": 1, "max_completion_length": 12, "beta": 0.04}
    stage = varied(family, tmp_path, **changes)
    train_grpo(stage, trained, dataset, tmp_path / "whole")
    assert min(column(tmp_path / "whole", "grad_norm")) > 0
    crash(train_grpo, stage, trained, dataset, tmp_path / "cut/grpo", 4)
    changes |= {"batch_size": 4, "gradient_accumulation": 2, "gradient_checkpointing": True}
    changes |= {"rollout_batch": 4, "feature_cache_gb": 0.0}
    train_grpo(varied(family, tmp_path, **changes), trained, dataset, tmp_path / "cut/grpo")
    assert_weights_close(tmp_path / "whole", tmp_path / "cut/grpo", LARGEST)


@qwen3
def test_sft_goes_on_with_another_number_of_processes(family, base, dataset, tmp_path):
    """From two to one and from one to two at step 4 of 9, with the same global batch of 4."""
    changes = {"epochs": 1.8, "eval_steps": 2, "save_steps": 1, "learning_rate": 1e-3}
    changes |= {"eval_generation_samples": 2, "keep_best": False}
    one, two = (sft_stage(family, **changes, batch_size=size) for size in (4, 2))
    train_sft(one, base, dataset, tmp_path / "one")
    cut = launch([PLANTED, "kill", "sft"], two, base, dataset, tmp_path / "two")
    assert "Signal 9 (SIGKILL)" in cut.stderr, cut.stderr
    train_sft(one, base, dataset, tmp_path / "two")
    assert_same_trajectory(tmp_path, ("loss", "grad_norm", "eval_loss"), 8)
    shutil.rmtree(tmp_path / "two")
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, 4, half_written=False)
        with pytest.raises(Crash):
            train_sft(one, base, dataset, tmp_path / "two")
    said = run("sft", two, base, dataset, tmp_path / "two")
    assert "`processes` 1 -> 2: the same global batch of 4, equal to rounding, going on" in said
    assert_same_trajectory(tmp_path, ("loss", "grad_norm", "eval_loss"), 8)


@qwen3
def test_grpo_goes_on_in_one_process(family, trained, dataset, tmp_path):
    changes = {"steps": 8, "save_steps": 1, "max_completion_length": 12, "beta": 0.04}
    one, two = (varied(family, tmp_path, **changes, batch_size=size) for size in (8, 4))
    train_grpo(one, trained, dataset, tmp_path / "one")
    cut = launch([PLANTED, "kill", "grpo"], two, trained, dataset, tmp_path / "two")
    assert "Signal 9 (SIGKILL)" in cut.stderr, cut.stderr
    train_grpo(one, trained, dataset, tmp_path / "two")
    assert min(column(tmp_path / "one", "grad_norm")) > 0
    assert_same_trajectory(tmp_path, ("loss", "grad_norm", "reward", "kl"), 8)
