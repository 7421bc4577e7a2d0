"""Preparing data: it asks for no model, and what it finds is there for people after it stopped."""

import csv
from pathlib import Path

import pytest
import yaml
from small_experiment import small_config, snakemake
from test_missing_files import NAME, brats

from medtune.config.experiment import load
from medtune.orchestration import preflight
from medtune.runtime.errors import ModelError

MODEL = {"path": "/nowhere/model", "builder": None}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    source = {"name": "own", "kind": "brats2023_gli", "root": str(tmp_path / "data")}
    return small_config(
        tmp_path,
        phantom=None,
        sources=[source],
        model=MODEL,
        verification={"min_brain_ml": 0},
        media={"tile_size": [28, 28], "multiple_of": 28},
    )


def test_models_are_asked_for_by_what_needs_them(config: Path):
    values = yaml.safe_load(config.read_text())
    values["evaluation"]["models"] = [
        {"name": "other", "family": "qwen2_5_vl", "path": "/nowhere/other"}
    ]
    config.write_text(yaml.safe_dump(values))
    loaded = load(config)

    def needed(*rules: str) -> list[str]:
        return preflight.needed_models(loaded, rules)

    assert needed("index", "verify", "findings", "convert", "qc", "annotate") == []
    assert needed("annotate", "sft") == ["base"]
    assert needed("predict", "other_model") == ["base", "other"]
    brats(config.parent / "data")
    preflight.check_experiment(loaded, [])
    for names, path in ((None, "/nowhere/model"), (["other"], "/nowhere/other")):
        with pytest.raises(ModelError, match=path):
            preflight.check_experiment(loaded, names)


def test_findings_outlive_a_workflow_that_they_stop_and_no_model_is_asked_for(config: Path):
    work = config.parent
    folder = brats(work / "data")
    (folder / f"{NAME}-t2f.nii.gz").rename(folder / f"{NAME}_t2f.nii.gz")
    run = snakemake(work, "prepare", "--cores", "2")
    told = run.stdout + run.stderr
    assert run.returncode != 0
    assert "listed in results/demo/logs/findings.csv, results/demo/logs/qc/own.html" in told
    assert "/nowhere" not in told
    with (work / "results/demo/logs/findings.csv").open(newline="") as file:
        errors = [row["code"] for row in csv.DictReader(file) if row["severity"] == "error"]
        assert errors == ["modality-missing"]
    assert "did you mean" in (work / "results/demo/logs/qc/own.html").read_text()
    run = snakemake(work, "sft", "--cores", "2")
    assert "/nowhere/model: there is no such model folder" in run.stdout + run.stderr
