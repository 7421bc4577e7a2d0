"""The workflow before anything runs: dry runs of every configuration, and what rules look like."""

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY, long
from small_experiment import CONFIGS, planned, snakemake

from medtune.config.experiment import load
from medtune.config.stages import STAGES, stage_json

TARGETS = ["all", "prepare", "sft", "grpo", "evaluate", "report", "export"]


@pytest.mark.parametrize(
    ("config", "target"),
    [
        pytest.param(config, target, marks=() if target in ("all", "prepare", "export") else long)
        for config in CONFIGS
        for target in TARGETS
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_dry_run_of_every_config_and_target(tmp_path: Path, config, target):
    run = snakemake(tmp_path, target, "--dry-run", config=config)
    assert run.returncode == 0, run.stderr
    films = config.stem == "chest_xray"
    volumes = {"index", "findings", "annotate", "qc_page"}
    expected = {
        "prepare": {"film_index", "film_splits", "annotate"} if films else volumes,
        "sft": {"model", "sft"},
        "grpo": {"sft", "grpo"},
        "evaluate": {"predict", "score"},
        "export": {"grpo", "export_model"},
    }
    assert expected.get(target, {"report", "score", "predict", "grpo", "sft"}) <= planned(run)
    assert ("phantom" in planned(run)) == (config.stem == "config")


@pytest.mark.parametrize(
    "recipe", sorted((REPOSITORY / "config/recipes").glob("*.yaml")), ids=lambda path: path.stem
)
@pytest.mark.parametrize(
    "config",
    [CONFIGS[0], *(pytest.param(config, marks=long) for config in CONFIGS[1:])],
    ids=lambda path: path.stem,
)
def test_recipes_can_be_laid_over_every_config(tmp_path: Path, config, recipe):
    run = snakemake(tmp_path, "grpo", "--dry-run", config=config, over=recipe)
    assert run.returncode == 0, run.stderr
    assert "grpo" in planned(run)
    assert f"`{recipe.name}`" in (recipe.parent / "README.md").read_text()


def test_the_slurm_profile_plans_the_same_jobs(tmp_path: Path):
    profile = str(REPOSITORY / "slurm")
    run = snakemake(tmp_path, "--dry-run", "--profile", profile, config=CONFIGS[-1])
    assert run.returncode == 0, run.stderr
    assert {"sft", "grpo"} <= planned(run)


def test_without_a_cluster_a_job_for_the_gpu_runs_alone(tmp_path: Path):
    arguments = ("sft", "--dry-run", "--printshellcmds", "--cores", "64")
    run = snakemake(tmp_path, *arguments, config=CONFIGS[-1])
    assert "--cpus 64 -- sft" in run.stdout + run.stderr


def test_snakemake_lint_has_nothing_but_the_missing_conda(tmp_path: Path):
    """All stages run in one environment, made by `make`; rules name no conda environment."""
    run = snakemake(tmp_path, "--lint", config=CONFIGS[0])
    titles = re.findall(r"^ {4}\* (.*?):?$", run.stdout + run.stderr, re.M)
    assert set(titles) <= {"Specify a conda environment or container for each rule."}, run.stderr


def test_rule_files_are_short_logged_and_documented():
    for path in (REPOSITORY / "rules").glob("*.smk"):
        text = path.read_text()
        assert text.startswith('"""')
        assert text.count("\n") <= 200
        assert not re.search(r"^\s+run:", text, re.M)
        shells, logs = (len(re.findall(rf"^ +{word}:$", text, re.M)) for word in ("shell", "log"))
        assert shells == logs


def test_the_seed_changes_nothing_of_the_media():
    changed = load(CONFIGS[-1]).model_copy(update={"seed": 5})
    films = {f"film{part}" for part in ("index", "verify", "findings", "images", "texts")}
    volumes = {"index", "verify", "findings", "convert", "qc"}
    others = {"views", "report", "export", "push", "tracking", "rewardservice"}
    for stage in STAGES:
        same = stage_json(load(CONFIGS[-1]), stage) == stage_json(changed, stage)
        assert same == (stage in films | volumes | others), stage
