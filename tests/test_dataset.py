"""From raw files to the data set: splits without leaks, cases for inference, what reruns."""

import shutil
from pathlib import Path

import nibabel as nib
import pytest
from conftest import prepare

from medtune.config.data import SplitsConfig, TaskConfig
from medtune.config.stages import AnnotateStage, ViewsStage
from medtune.config.training import FamilyConfig
from medtune.config.views import ViewsConfig
from medtune.dataset.annotate import annotate
from medtune.dataset.views import write_views
from medtune.records.sample import INFER, SPLITS, Sample, iterate, load_split
from medtune.runtime.errors import DataError
from medtune.runtime.files import read_json, write_json


def samples_of(dataset: Path, split: str) -> list[Sample]:
    return list(iterate(load_split(dataset, split, allow_empty=True)))


@pytest.fixture
def few(phantom_root: Path, tmp_path: Path) -> Path:
    """A source of the phantom's first ten cases."""
    root = tmp_path / "raw"
    for folder in sorted(path for path in phantom_root.iterdir() if path.is_dir())[:10]:
        shutil.copytree(folder, root / folder.name)
    return root


def test_a_patient_under_another_name_stays_in_one_split(few: Path, tmp_path: Path):
    originals = sorted(few.iterdir())
    for number, folder in enumerate(originals):
        twin = few / f"BraTS-GLI-{90000 + number}-000"
        twin.mkdir()
        for path in folder.iterdir():
            nib.save(nib.load(path), twin / path.name.replace(folder.name, twin.name))
    dataset = prepare(few, tmp_path, SplitsConfig(val=0.3, test=0.3))
    split = {s.case_id: name for name in SPLITS for s in samples_of(dataset, name)}
    assert len(split) == 20
    assert set(split.values()) == set(SPLITS)
    for number, folder in enumerate(originals):
        assert split[folder.name] == split[f"BraTS-GLI-{90000 + number}-000"]


def test_cases_without_a_mask_are_for_inference_only(few: Path, tmp_path: Path):
    first = sorted(few.iterdir())[0]
    (first / f"{first.name}-seg.nii.gz").unlink()
    dataset = prepare(few, tmp_path, SplitsConfig(val=0.2, test=0.3), masks="optional")
    (sample,) = samples_of(dataset, INFER)
    assert (sample.case_id, sample.target, sample.truth) == (first.name, None, {})
    assert sample.prompt
    assert (dataset / sample.media[0].path).is_file()
    views = tmp_path / "views"
    family = FamilyConfig(family="qwen3_vl")
    write_views(ViewsStage(task=TaskConfig(), model=family, views=ViewsConfig()), dataset, views)
    [record] = read_json(views / "llava_infer.json")
    [turn] = record["conversations"]
    assert turn["value"].startswith("<video>\n")
    assert "units of 1/1000 of the frame" in turn["value"]
    assert (views / record["video"]).is_file()
    others = {path.name for path in views.iterdir() if not path.name.startswith("llava")}
    assert others == {"views.manifest.json", "segzero_video"} | {
        f"easyr1_video_{split}.parquet" for split in SPLITS
    }
    assert len([s for split in SPLITS for s in samples_of(dataset, split)]) == 9


def test_media_paths_lead_from_the_data_set_wherever_it_is(few: Path, tmp_path: Path):
    beside = prepare(few, tmp_path, SplitsConfig())
    dataset = tmp_path / "deep/er"
    shard, summary = tmp_path / "media/0000.parquet", tmp_path / "index/verification.json"
    annotate(AnnotateStage(splits=SplitsConfig(), task=TaskConfig()), [shard], summary, dataset)
    assert samples_of(beside, "train")[0].media[0].path.startswith("../media/phantom/")
    for sample in samples_of(dataset, "train"):
        assert (dataset / sample.media[0].path).is_file()


def test_a_leak_stops_the_run(few: Path, tmp_path: Path, monkeypatch):
    import medtune.dataset.annotate

    dataset = prepare(few, tmp_path, SplitsConfig(val=0.2, test=0.3))
    train, test = (samples_of(dataset, split)[0] for split in ("train", "test"))
    summary = tmp_path / "index/verification.json"
    linked = [f"{sample.source}/{sample.case_id}" for sample in (train, test)]
    write_json(summary, read_json(summary) | {"same_images": [linked]})
    unlinked = medtune.dataset.annotate.assign_splits
    monkeypatch.setattr(
        medtune.dataset.annotate,
        "assign_splits",
        lambda cases, config, seed, same, volumes: unlinked(cases, config, seed, [], volumes),
    )
    stage = AnnotateStage(splits=SplitsConfig(val=0.2, test=0.3), task=TaskConfig())
    with pytest.raises(DataError, match="shares an image"):
        annotate(stage, [tmp_path / "media/0000.parquet"], summary, dataset)


def test_the_samples_say_what_is_known_of_the_target(dataset: Path):
    for sample in samples_of(dataset, "train"):
        meta, truth = sample.meta, sample.truth
        if truth["bbox_3d"] is None:
            assert (meta["components"], meta["frame_boxes"], meta["volume_ml"]) == (0, [], 0)
            continue
        assert meta["components_kept"] == meta["components"] >= 1
        assert meta["volume_ml"] > 0
        frames, *edges = zip(*meta["frame_boxes"], strict=True)
        low = (min(edges[0]), min(edges[1]), min(frames))
        high = (max(edges[2]), max(edges[3]), max(frames) + 1)
        assert truth["bbox_3d"] == [*low, *high]
        assert truth["peak_slice"] in frames


def test_a_data_set_of_another_version_is_refused(dataset: Path, tmp_path: Path):
    load_split(dataset, "train").remove_columns("turns").save_to_disk(str(tmp_path / "train"))
    with pytest.raises(DataError, match=r"no columns \['turns'\].*\n.*-R annotate"):
        load_split(tmp_path, "train")
