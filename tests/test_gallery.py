"""Which cases the report shows, and what it shows of each."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from evaluated import gold
from PIL import Image
from test_report import TASK, scored

from medtune.models.inputs import read_frames
from medtune.records.sample import Sample, iterate, load_split
from medtune.reporting.gallery import build_case, choose, choose_all, differing
from medtune.reporting.strips import LARGEST, SIDE, make_strip


@pytest.fixture(scope="module")
def held_out(dataset: Path) -> list[Sample]:
    return list(iterate(load_split(dataset, "test")))


def test_cases_are_ranked_and_missed_tumor_free_ones_named(held_out):
    tumors = [s for s in held_out if s.truth["bbox_3d"] is not None]
    healthy = next(s for s in held_out if s.truth["bbox_3d"] is None)
    sft = scored(tumors, "sft", gold("qwen2_5_vl"), lambda n: n / 10)
    ids = [sample.id for sample in tumors]
    middle = ids[::-1][len(ids) // 2]
    assert choose(sft, 3) == [("best", ids[-1]), ("median", middle), ("worst", ids[0])]
    for value, expected in ((0.0, [("tumor-free, missed", healthy.id)]), (1.0, [])):
        rows = sft + scored([healthy], "sft", gold("qwen2_5_vl"), value)
        assert choose(rows, 3)[3:] == expected
    grpo = [row | {"model": "grpo"} for row in sft]
    assert differing(sft, grpo, 3) == []
    grpo[1] |= {"iou": 0.9}
    assert differing(sft, grpo, 3) == [("sft and grpo differ most", ids[1])]
    base = scored(tumors, "base", lambda _: "", 0.0)
    chosen = choose_all({"base": base, "sft": sft, "grpo": grpo}, 3)
    assert chosen[ids[0]] == ["sft: worst", "grpo: worst"]
    assert "sft and grpo differ most" in chosen[ids[1]]
    assert not any("base" in label for labels in chosen.values() for label in labels)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_case_speaks_pixels_and_its_strip_holds_every_slice(dataset, held_out, family):
    sample = next(s for s in held_out if s.truth["bbox_3d"] is not None)
    row = scored([sample], "grpo", gold(family))[0] | {"family": family}
    case = build_case(["best"], sample, [row], TASK, dataset)
    truth, answer = (np.array(drawn.box) for drawn in case.boxes)
    assert (truth == sample.truth["bbox_3d"]).all()
    assert np.abs(truth - answer).max() <= 1  # up to rounding
    assert case.start == sample.truth["peak_slice"]
    assert case.answers[0].terms == "iou 0.50"
    assert case.answers[0].text == row["text"]
    frames = read_frames(sample.media[0], dataset)
    for index, frame in enumerate(frames):
        assert (tile(case.strip, index) == frame).all()  # small ones lose nothing


def tile(strip, index: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(base64.b64decode(strip.uri.partition(",")[2])))
    row, column = divmod(index, strip.columns)
    top, left = row * strip.height, column * strip.width
    return np.asarray(picture)[top : top + strip.height, left : left + strip.width]


def test_a_long_video_of_many_tiles_stays_small():
    noise = np.random.default_rng(1).integers(0, 255, (40, 12, 14, 3)).astype(np.uint8)
    frames = np.kron(noise, np.ones((1, 32, 28, 1), np.uint8))  # tiles of 192 x 196, twice
    frames = np.concatenate([frames[:, :, :196], frames[:, :, 196:]], axis=2)
    strip = make_strip(frames, (196, 192))
    assert (strip.width, strip.frames) == (SIDE, 40)
    assert strip.scale == pytest.approx(SIDE / 196)
    assert len(strip.uri) * 3 / 4 < LARGEST
    expected = frames[17, :192, :196].astype(float).mean(axis=(0, 1))
    assert np.abs(tile(strip, 17).mean(axis=(0, 1)) - expected).max() < 3
