"""The workflow as users run it: dry runs, one small run, every rule alone, and mistakes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY

from medtune.config import load
from medtune.files import check_manifest, read_json, sha256
from medtune.stages import STAGES, stage_json
from medtune.tables import read_rows

CONFIGS = sorted((REPOSITORY / "config").glob("*.yaml"))
SMALL = {
    "phantom": {"patients": 16, "shape": [20, 24, 10]},
    "splits": {"val": 0.2, "test": 0.3},
    "media": {"tile_size": [32, 32], "shard_size": 10},
    "sft": {"epochs": 2, "log_every": 1, "evaluate_every": 4, "batch_size": 4},
    "grpo": {
        "steps": 2,
        "log_every": 1,
        "batch_size": 8,
        "num_generations": 4,
        "completions_every": 1,
    },
    "reward": {"file": "terms.py", "weights": {"brevity": 0.1}},
    "evaluation": {"samples": 2, "resamples": 200, "batch_size": 8},
    "report": {"cases": 3},
}
TERMS = """
def brevity(judged):
    return 0.9 ** len(judged.text) if judged.answer else 0.0
"""
TINY = {"hidden_size": 64, "layers": 2, "heads": 2, "mlp_size": 96, "vision_size": 48}


def small_config(folder: Path, **changes) -> Path:
    values = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    for section, update in SMALL.items():
        values[section] |= update
    values["model"]["tiny"] |= TINY
    for section, update in changes.items():
        values[section] = values[section] | update if isinstance(update, dict) else update
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    (folder / "terms.py").write_text(TERMS)
    return path


def snakemake(folder: Path, *arguments: str, config: Path | None = None, over: Path | None = None):
    """Run snakemake in a folder of its own, with the repository's workflow.

    `over` is a second configuration file, whose keys win.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    chosen = ["--configfile", str(config or folder / "config.yaml"), *([str(over)] if over else [])]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*command, "--directory", str(folder), *arguments, *chosen],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        check=False,
    )


def planned(run) -> set[str]:
    """Return the rules a dry run wants to run, without the targets."""
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", run.stdout + run.stderr, re.M | re.S)
    if table is None:
        return set()
    return {line.split()[0] for line in table[1].splitlines()} - {"all", "prepare", "evaluate"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder in which the small experiment has run from nothing to the report."""
    folder = tmp_path_factory.mktemp("workflow")
    small_config(folder)
    run = snakemake(folder)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("target", ["all", "prepare", "sft", "grpo", "evaluate", "report"])
def test_dry_run_of_every_config_and_target(tmp_path: Path, config, target):
    run = snakemake(tmp_path, target, "--dry-run", config=config)
    assert run.returncode == 0, run.stderr
    expected = {
        "prepare": {"index", "findings", "annotate", "qc_page"},
        "sft": {"model", "sft"},
        "grpo": {"sft", "grpo"},
        "evaluate": {"predict", "score"},
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
        "vegaEmbed(",
    ):
        assert words in page
    assert not re.search(r"""(src|href)=["']https?:""", page), "the page must open offline"
    assert len(page) < 5_000_000


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
    "grpo": "results/demo/grpo/manifest.json",
    "predict": "results/demo/eval/predictions/grpo.parquet",
    "score": "results/demo/eval/metrics.json",
    "report": "results/demo/report/report.html",
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_runs_alone_and_gives_the_same_bytes(finished: Path, rule):
    output = finished / RULES[rule]
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


def failing(folder: Path, config: Path | None = None, *arguments: str) -> str:
    run = snakemake(folder, *arguments, config=config)
    assert run.returncode != 0
    assert "Traceback" not in run.stdout + run.stderr
    return run.stdout + run.stderr


def test_a_fault_in_one_shard_converts_no_other(finished: Path, tmp_path: Path):
    root = tmp_path / "brats"
    for folder in sorted(path for path in (finished / "data/phantom").iterdir() if path.is_dir())[
        :6
    ]:
        shutil.copytree(folder, root / folder.name)
    source = {"name": "mine", "kind": "brats2023_gli", "root": str(root), "tumor_free": True}
    changes = {"sources": [source], "verification": {"on_error": "exclude"}}
    config = small_config(tmp_path, phantom=None, media={"shard_size": 2}, **changes)
    assert snakemake(tmp_path, "prepare", config=config).returncode == 0
    tables = sorted((tmp_path / "results/demo/media").glob("*.parquet"))
    before = [path.stat().st_mtime_ns for path in tables]
    damage_file(sorted(root.iterdir())[-1])
    run = snakemake(tmp_path, "prepare", config=config)
    assert run.returncode == 0, run.stderr
    after = [path.stat().st_mtime_ns for path in tables]
    assert after[:2] == before[:2]
    assert after[2] != before[2]


def test_the_seed_changes_nothing_of_the_media():
    changed = load(CONFIGS[1]).model_copy(update={"seed": 5})
    for stage in STAGES:
        same = stage_json(load(CONFIGS[1]), stage) == stage_json(changed, stage)
        assert same == (stage in ("index", "verify", "findings", "convert", "qc", "report")), stage


def test_a_section_given_twice_stops(tmp_path: Path):
    config = small_config(tmp_path)
    config.write_text(config.read_text() + "splits: {val: 0.5}\n")
    assert "key `splits` is given twice" in failing(tmp_path, config)


def test_changed_raw_files_are_read_again(finished: Path, tmp_path: Path):
    """Raw files are no inputs of rules; what is known of them is compared all the same."""
    root = tmp_path / "brats"
    for folder in sorted((finished / "data/phantom").iterdir())[:4]:
        if folder.is_dir():
            shutil.copytree(folder, root / folder.name)
    source = {"name": "mine", "kind": "brats2023_gli", "root": str(root), "tumor_free": True}
    config = small_config(tmp_path, phantom=None, sources=[source])
    assert snakemake(tmp_path, "prepare", config=config).returncode == 0
    assert planned(snakemake(tmp_path, "prepare", "--dry-run", config=config)) == set()
    victim = sorted(root.iterdir())[1]
    lost = victim / f"{victim.name}-seg.nii.gz"
    lost.rename(tmp_path / "kept")
    text = failing(tmp_path, config, "prepare")
    assert "mask-missing" in text
    (tmp_path / "kept").rename(lost)
    run = snakemake(tmp_path, "prepare", config=config)
    assert run.returncode == 0, run.stderr
    assert len(list((tmp_path / "results/demo/media").rglob("*.mp4"))) == 4


def test_an_unknown_key_stops_before_anything(tmp_path: Path):
    config = small_config(tmp_path, sft={"learning_rat": 1})
    text = failing(tmp_path, config)
    assert "unknown key `sft.learning_rat`" in text
    assert "did you mean `learning_rate`" in text
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {
                "phantom": None,
                "sources": [{"name": "a", "kind": "brats2023_gli", "root": "data/none"}],
            },
            "the folder of source `a` does not exist",
        ),
        ({"model": {"builder": None, "path": "./weightless"}}, "no safetensors weights"),
        (
            {"model": {"builder": None, "path": "Qwen/Any"}},
            "fetching it from the hub is switched off",
        ),
        ({"reward": {"weights": {"iuo": 1}}}, "unknown term ['iuo']"),
        ({"reward": {"file": "typo.py"}}, "cannot be loaded: NameError"),
    ],
)
def test_what_is_missing_is_named_before_anything_runs(tmp_path: Path, changes, words):
    (tmp_path / "weightless").mkdir()
    (tmp_path / "typo.py").write_text("brevity = len(judgd)")
    (tmp_path / "weightless/config.json").write_text('{"model_type": "qwen2_5_vl"}')
    config = small_config(tmp_path, media={"multiple_of": 112, "tile_size": None}, **changes)
    text = failing(tmp_path, config)
    assert words in text
    assert "  -> " in text
    assert not (tmp_path / "results").exists()


def damage_nothing(folder: Path) -> None:
    (folder / f"{folder.name}-seg.nii.gz").unlink()


def damage_file(folder: Path) -> None:
    path = folder / f"{folder.name}-t1c.nii.gz"
    path.write_bytes(path.read_bytes()[:-500])


def damage_labels(folder: Path) -> None:
    path = folder / f"{folder.name}-seg.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, 7, np.int16), image.affine), path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_nothing, "mask-missing: no segmentation"),
        (damage_file, "cannot be read to the end"),
        (damage_labels, "holds unknown labels [7]"),
    ],
)
def test_bad_cases_stop_before_conversion_or_are_left_out(finished, tmp_path, damage, words):
    root = tmp_path / "brats"
    for folder in sorted((finished / "data/phantom").iterdir())[:6]:
        if folder.is_dir():
            shutil.copytree(folder, root / folder.name)
    victim = sorted(root.iterdir())[2]
    damage(victim)
    source = {"name": "mine", "kind": "brats2023_gli", "root": str(root)}
    config = small_config(tmp_path, phantom=None, sources=[source])
    text = failing(tmp_path, config, "prepare")
    assert words in text
    assert f"mine/{victim.name}" in text
    assert not (tmp_path / "results/demo/media").exists()
    table = read_rows(tmp_path / "results/demo/logs/findings.parquet")
    assert [row["case"] for row in table if row["severity"] == "error"] == [f"mine/{victim.name}"]
    config = small_config(
        tmp_path, phantom=None, sources=[source], verification={"on_error": "exclude"}
    )
    run = snakemake(tmp_path, "prepare", config=config)
    assert run.returncode == 0, run.stderr
    videos = {path.stem for path in (tmp_path / "results/demo/media").rglob("*.mp4")}
    assert videos == {folder.name for folder in root.iterdir()} - {victim.name}


def test_a_changed_model_folder_stops_the_stage_that_reads_it(finished: Path, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    weights = copy / "results/demo/sft/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    text = failing(copy, None, "grpo", "--forcerun", "grpo")
    assert "model.safetensors: changed since" in text
    assert (copy / "results/demo/eval/metrics.json").exists()
