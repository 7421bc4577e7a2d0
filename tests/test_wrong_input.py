"""What a user sees who gives something wrong, and what is lost: nothing."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import long
from small_experiment import planned, small_config, snakemake

from medtune.runtime.tables import read_rows


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
    source = {"name": "mine", "kind": "brats2023_gli", "root": str(root), "allow_empty_masks": True}
    changes = {"sources": [source], "verification": {"on_error": "exclude"}}
    config = small_config(tmp_path, phantom=None, media={"shard_size": 2}, **changes)
    assert snakemake(tmp_path, "prepare", config=config).returncode == 0
    media = tmp_path / "results/demo/media"
    before = {path: path.stat().st_mtime_ns for path in media.rglob("*.mp4")}
    assert len(before) == 6
    damage_file(sorted(root.iterdir())[-1])
    run = snakemake(tmp_path, "prepare", config=config)
    assert run.returncode == 0, run.stderr
    assert {path: path.stat().st_mtime_ns for path in media.rglob("*.mp4")} == before
    assert sum(len(read_rows(path)) for path in media.glob("*.parquet")) == 5


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
    source = {"name": "mine", "kind": "brats2023_gli", "root": str(root), "allow_empty_masks": True}
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
    assert "`sft.learning_rat`: unknown key" in text
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
        pytest.param(damage_nothing, "mask-missing: no segmentation", marks=long),
        pytest.param(damage_file, "cannot be read to the end", marks=long),
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
