"""Baselines: valid answers of both families, from the training split or the video alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MEDIA
from evaluated import STAGE, TASK, evaluate, exact, rows_of

from medtune.config.data import TaskConfig
from medtune.config.evaluation import BASELINES
from medtune.config.stages import BaselinesStage
from medtune.config.training import FamilyConfig
from medtune.evaluation.baselines import write_baselines
from medtune.evaluation.score import Scorer
from medtune.geometry.volume import Geometry, box_iou
from medtune.media.video import encode
from medtune.models.coordinate_format import COORDINATE_FORMATS
from medtune.records.sample import iterate, load_split
from medtune.runtime.tables import read_rows
from medtune.tasks.base import with_truth
from medtune.tasks.brain.tumor_baselines import bright, shown


@pytest.fixture(scope="module")
def held_out(dataset: Path):
    return list(iterate(load_split(dataset, "test")))


def answers(dataset: Path, folder: Path, family: str, seed: int = 1) -> dict:
    stage = BaselinesStage(task=TaskConfig(), model=FamilyConfig(family=family), seed=seed)
    tables = {name: folder / name / "0000.parquet" for name in BASELINES}
    write_baselines(stage, dataset, tables)
    return {name: read_rows(path) for name, path in tables.items()}


@pytest.mark.parametrize("family", COORDINATE_FORMATS)
def test_baselines_answer_validly_in_both_dialects(dataset, held_out, tmp_path, family):
    rows = answers(dataset, tmp_path, family)
    found = evaluate(dataset, tmp_path, rows | {"sft": rows_of(held_out, exact, family)})
    greedy = {name: modes["greedy"] for name, modes in found["models"].items()}
    assert set(greedy) == {"constant", "sft", *BASELINES}
    assert all(metrics["valid"]["mean"] == 1 for metrics in greedy.values())
    iou = {name: metrics["iou"]["mean"] for name, metrics in greedy.items()}
    assert iou["random"] < iou["bright"] < iou["oracle"] < 1
    assert iou["oracle"] > 0.85  # rounding to pixels of a 32 x 32 frame
    assert greedy["oracle"]["no_tumor_correct"]["mean"] == 1
    assert greedy["center"]["missed"]["mean"] == 0
    assert set(found["degenerate_answer_rates"]) == {"sft"}  # a baseline has none


def test_the_mean_and_the_center_by_hand(dataset, held_out, tmp_path):
    rows = answers(dataset, tmp_path, "qwen2_5_vl")
    train = [s for s in iterate(load_split(dataset, "train")) if s.truth["bbox_3d"]]
    one = held_out[0]
    geometry = Geometry.model_validate(one.geometry)
    mean = np.mean([s.truth["bbox_3d"][0] / s.geometry["size"][0] for s in train])
    said = json.loads(rows["mean_box"][0]["text"])
    assert said["bbox_3d"][0] == round(mean * geometry.size[0])
    said = json.loads(rows["center"][0]["text"])["bbox_3d"]
    assert said[:2] == [8, 8]
    assert said[3:5] == [24, 24]
    assert said[2] + said[5] == pytest.approx(geometry.frames, abs=1)


def test_chance_depends_on_seed_and_case_alone(dataset, tmp_path):
    first, again, other = (
        [row["text"] for row in answers(dataset, tmp_path / str(n), "qwen2_5_vl", seed)["random"]]
        for n, seed in enumerate((1, 1, 2))
    )
    assert first == again
    assert len({*first, *other}) == 2 * len(first)


def test_the_largest_bright_part_is_found():
    volume = np.zeros((6, 20, 30), np.uint8)
    volume[1:5, 2:18, 2:28] = 90  # brain
    volume[2:4, 4:8, 5:9] = 240
    volume[3, 4:8, 5:12] = 240  # the largest area
    volume[1, 12, 20:24] = 250  # smaller
    found = bright(volume)
    assert found["bbox_3d"] == [5, 4, 2, 12, 8, 4]
    assert found["peak_slice"] == 3
    assert found["tumor_ratio"] == pytest.approx((16 + 28) / (4 * 16 * 26))
    nothing = {"bbox_3d": None, "peak_slice": None, "tumor_ratio": 0.0}
    assert bright(np.zeros_like(volume)) == nothing
    assert bright(np.full_like(volume, 90)) == nothing


@pytest.mark.parametrize(
    ("layout", "count"),
    [("single", 1), ("row", 4), ("row", 2), ("grid", 4), ("grid", 3), ("rgb", 3)],
)
def test_one_modality_is_read_from_every_layout(held_out, tmp_path, layout, count):
    sample = held_out[0]
    geometry = Geometry.model_validate(sample.geometry | {"layout": layout, "tiles": count})
    width, height = geometry.frame_size
    names, levels = ["t1n", "t1c", "t2f", "t2w"][-count:], [40, 80, 120, 160]
    frames = np.zeros((geometry.frames, height, width, 3), np.uint8)
    for index, (across, down) in enumerate(geometry.tile_offsets):
        tile = np.s_[down * 32 : (down + 1) * 32, across * 32 : (across + 1) * 32]
        frames[:, *tile] = levels[index]
    if layout == "rgb":
        frames[:] = levels[:3]
    encode(tmp_path / "v.mp4", frames, 2.0, "lossless")
    media = [sample.media[0].model_copy(update={"path": "v.mp4"})]
    meta = sample.meta | {"modalities": names}
    geometry_json = geometry.model_dump(mode="json")
    one = sample.model_copy(update={"media": media, "meta": meta, "geometry": geometry_json})
    for name in (*names, "pd"):
        expected = levels[names.index(name) if name in names else 0]
        part = shown(one, tmp_path, name)
        assert part.shape == (geometry.frames, 32, 32)
        assert (part == expected).all()


def test_the_bright_part_of_a_video_lies_where_the_tumor_is(dataset, held_out):
    tumor = next(s for s in held_out if s.truth["bbox_3d"])
    assert MEDIA.modalities[0] == "t2f"
    box = bright(shown(tumor, dataset, "t2f"))["bbox_3d"]
    assert box_iou(tuple(box), tuple(tumor.truth["bbox_3d"])) > 0.5


def test_a_training_split_without_tumors_has_no_mean(held_out):
    healthy = [with_truth(s, s.truth | {"bbox_3d": None}) for s in held_out]
    claim = TASK.baselines(healthy, 1)["mean_box"](held_out[0], Path())
    assert claim["bbox_3d"] is None
    assert Scorer(STAGE, held_out).task.constant_baseline(healthy)(held_out[0])["bbox_3d"] is None
