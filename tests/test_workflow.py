"""The workflow as users run it: dry runs, one small run, every rule alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from small_experiment import CONFIGS, TERMS, planned, small_config, snakemake

from medtune.config import load
from medtune.files import check_manifest, read_json, sha256
from medtune.stages import STAGES, stage_json
from medtune.tables import read_rows


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "target", ["all", "prepare", "sft", "grpo", "evaluate", "report", "export"]
)
def test_dry_run_of_every_config_and_target(tmp_path: Path, config, target):
    run = snakemake(tmp_path, target, "--dry-run", config=config)
    assert run.returncode == 0, run.stderr
    expected = {
        "prepare": {"index", "findings", "annotate", "qc_page"},
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
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
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


def test_the_run_leaves_what_it_promises(finished: Path):
    results = finished / "results/demo"
    for folder in ("datasets", "base", "sft", "grpo"):
        manifest = check_manifest(results / folder / "manifest.json")
        assert manifest["config"]["seed"] == 1
        assert len(manifest["commit"].rstrip("+")) in (40, 7)
    metrics = read_json(results / "eval/metrics.json")
    assert set(metrics["models"]) == {"constant", "base", "sft", "grpo"}
    assert set(metrics["models"]["grpo"]) == {"greedy", "sampled", "shuffled"}
    assert metrics["comparisons"]["grpo - sft, sampled"]["reward"]["n"] > 0
    tables = sorted((results / "grpo/completions").iterdir())
    assert [path.name for path in tables] == ["step-00001.parquet", "step-00002.parquet"]
    assert "term_brevity" in read_rows(tables[0])[0]
    config = read_json(results / "grpo/manifest.json")["config"]
    assert config["reward_sha256"] == sha256(finished / "terms.py")
    page = (results / "report/report.html").read_text()
    for words in (
        "in step 2 of GRPO, for 2 prompts",
        "medtune demo",
        "mean 3-D IoU",
        "GRPO over SFT",
        "other video",
        "Can the reward be gamed?",
        "constant, after long reasoning",
        "No sign of collapse",
        "vegaEmbed(",
    ):
        assert words in page
    assert not re.search(r"""(src|href)=["']https?:""", page), "the page must open offline"
    assert len(page) < 5_000_000


def test_the_export_tells_of_both_stages_and_their_evaluation(finished: Path):
    folder = finished / "results/demo/export/grpo"
    manifest = check_manifest(folder / "manifest.json")
    assert any(name.endswith("metrics.json") for name in manifest["parents"])
    card = (folder / "README.md").read_text()
    for words in ("sft, the weights of step", "grpo, the weights of step 2", "file: terms.py"):
        assert words in card
    metrics = read_json(finished / "results/demo/eval/metrics.json")
    iou = metrics["models"]["grpo"]["greedy"]["iou"]
    assert f"{iou['mean']:.3f} [{iou['low']:.3f}, {iou['high']:.3f}]" in card
    assert "term_brevity" in card


def test_summary_prints_three_figures_and_the_report(finished: Path):
    run = subprocess.run(
        [sys.executable, "-m", "medtune", "summary", "results/demo"],
        cwd=finished,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr.count("\n + ") + run.stderr.count("\n - ") == 3
    assert "report: results/demo/report/report.html" in run.stderr


def test_a_second_run_does_nothing(finished: Path):
    run = snakemake(finished)
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout + run.stderr


RULES = {
    "phantom": "data/phantom/manifest.json",
    "index": "results/demo/index/cases.parquet",
    "verify": "results/demo/index/verified/0000.parquet",
    "findings": "results/demo/index/verification.json",
    "convert": "results/demo/media/0001.parquet",
    "qc": "results/demo/qc/0001.parquet",
    "qc_page": "results/demo/qc/phantom.html",
    "annotate": "results/demo/datasets/manifest.json",
    "model": "results/demo/base/manifest.json",
    "sft": "results/demo/sft/manifest.json",
    "difficulty": "results/demo/difficulty.parquet",
    "grpo": "results/demo/grpo/manifest.json",
    "predict": "results/demo/eval/predictions/grpo.parquet",
    "score": "results/demo/eval/metrics.json",
    "report": "results/demo/report/report.html",
    "export_model": "results/demo/export/grpo/manifest.json",
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_runs_alone_and_gives_the_same_bytes(finished: Path, rule):
    output = finished / RULES[rule]
    if rule == "difficulty":  # the small experiment has no curriculum
        snakemake(finished, RULES[rule], "--allowed-rules", rule)
    before = sha256(output)
    output.unlink()
    run = snakemake(finished, RULES[rule], "--allowed-rules", rule)
    assert run.returncode == 0, run.stdout + run.stderr
    assert sha256(output) == before
    logs = finished / "results/demo/logs"
    assert list(logs.rglob(f"{rule}.log")) or list(logs.rglob(f"{rule}/*.log"))


def test_all_rules_are_tested_alone():
    text = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    assert set(re.findall(r"^ *(?:rule|checkpoint) (\w+):", text, re.M)) == set(RULES)


RELEASE = ("export", "push")
QC = {"qc", "qc_page"}


TRAINING = {"sft", "grpo", "predict", "score", "report"}


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("report", "title", "other", {"report"}),
        ("evaluation", "resamples", 300, {"predict", "score", "report"}),
        ("reward", "weights", {"brevity": 2.0}, {"grpo", "predict", "score", "report"}),
        ("grpo", "learning_rate", 0.5, {"grpo", "predict", "score", "report"}),
        ("sft", "learning_rate", 0.5, TRAINING),
        ("splits", "test", 0.2, {"annotate", "model"} | TRAINING),
        ("task", "reasoning", True, {"annotate", "model"} | TRAINING),
        ("media", "window", [1, 99], {"convert", "annotate", "model"} | QC | TRAINING),
        (
            "verification",
            "affine_tolerance_mm",
            0.2,
            {"verify", "findings", "convert", "annotate", "model"} | QC | TRAINING,
        ),
    ],
)
def test_a_changed_key_reruns_what_reads_it_and_no_more(
    finished: Path, tmp_path, section, key, value, expected
):
    changed = small_config(tmp_path, **{section: {key: value}})
    run = snakemake(finished, "--dry-run", config=changed)
    assert run.returncode == 0, run.stderr
    assert planned(run) == expected


def test_a_changed_file_of_reward_terms_reruns_what_calls_it(finished: Path):
    path = finished / "terms.py"
    path.write_text(TERMS.replace("0.9", "0.8"))
    run = snakemake(finished, "--dry-run")
    path.unlink()
    without = snakemake(finished, "--dry-run")
    path.write_text(TERMS)
    assert planned(run) == {"grpo", "predict", "score", "report"}
    assert without.returncode != 0
    assert "terms.py: cannot be read" in without.stdout + without.stderr
    assert "Traceback" not in without.stdout + without.stderr


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("sft/manifest.json", TRAINING),
        ("media/0000.parquet", {"convert", "annotate", "model"} | QC | TRAINING),
        ("qc/0000.parquet", QC),
        ("qc/phantom.html", {"qc_page"}),
        ("eval/predictions/base.parquet", {"predict", "score", "report"}),
    ],
)
def test_an_interrupted_stage_is_not_hidden_by_an_older_report(finished: Path, lost, expected):
    """Snakemake removes the output of an interrupted job; what depends on it is stale."""
    path = finished / "results/demo" / lost
    kept = path.rename(path.with_suffix(".kept"))
    run = snakemake(finished, "--dry-run")
    kept.rename(path)
    assert planned(run) == expected


def test_the_seed_changes_nothing_of_the_media():
    changed = load(CONFIGS[1]).model_copy(update={"seed": 5})
    for stage in STAGES:
        same = stage_json(load(CONFIGS[1]), stage) == stage_json(changed, stage)
        assert same == (
            stage in ("index", "verify", "findings", "convert", "qc", "report", *RELEASE)
        ), stage
