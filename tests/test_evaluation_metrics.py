"""Metrics against independent implementations, and what invalid answers are worth."""

import itertools
import json

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medtune.config.data import TaskConfig
from medtune.geometry.volume import Geometry, box_giou, box_iou
from medtune.models.coordinate_format import COORDINATE_FORMATS, PIXELS
from medtune.records.sample import Sample
from medtune.tasks import get_task
from medtune.tasks.brain.tumor_metrics import ERROR_HYPOTHESES, majority_vote, measure

TASK = get_task(TaskConfig())
# Oblique axes of 0.9, 1.1 and 3 mm, stored as right-front-top; cropped, strided and enlarged.
TURN = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.1, 1, 0.3], [0.05, -0.2, 1]]))[0]
TURN *= np.sign(np.diag(TURN))
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([0.9, 1.1, 3.0])
AFFINE[:3, 3] = [-40, 12, 7]
GEOMETRY = Geometry(
    source_shape=(40, 44, 20),
    affine=AFFINE.tolist(),
    crop=(4, 8, 2, 36, 40, 20),
    stride=2,
    size=(64, 48),
    layout="single",
)
BETTER = {  # 1: larger is better
    **dict.fromkeys(("valid", "iou", "iou_30", "iou_50", "iou_70", "giou", "no_tumor_correct"), 1),
    **dict.fromkeys(("peak_within_3", "peak_within_5", "peak_within_10"), 1),
    **dict.fromkeys(("center_mm", "extent_x_mm", "extent_y_mm", "extent_z_mm"), -1),
    **dict.fromkeys(("peak_error", "ratio_error", "ratio_relative"), -1),
    **dict.fromkeys(("missed", "false_positive", "decision_error"), -1),
}
SPANS = [
    st.lists(st.integers(0, end), min_size=2, max_size=2, unique=True).map(sorted)
    for end in (64, 48, GEOMETRY.frames)
]
BOXES = st.tuples(*SPANS).map(lambda s: tuple(v for pair in zip(*s, strict=True) for v in pair))


def sample(box, peak=3, ratio=0.04) -> Sample:
    truth = {"bbox_3d": box, "peak_slice": peak, "tumor_ratio": ratio}
    return Sample(
        id="a/b/c",
        source="a",
        case_id="b",
        patient_id="b",
        split="test",
        task=TASK.name,
        media=[],
        prompt="",
        target=None,
        truth=truth,
        geometry=GEOMETRY.model_dump(mode="json"),
        meta={"volume_ml": 1.0},
    )


def measured(one: Sample, box, peak=3, ratio=0.04) -> dict:
    text = json.dumps({"bbox_3d": box, "peak_slice": peak, "tumor_ratio": ratio})
    return TASK.measure(TASK.judge(text, one, PIXELS))


def image() -> SimpleITK.Image:
    """The source grid as SimpleITK knows it, in LPS millimeters."""
    to_lps = np.diag([-1.0, -1.0, 1.0])
    spacing = np.linalg.norm(AFFINE[:3, :3], axis=0)
    grid = SimpleITK.Image(*GEOMETRY.source_shape, SimpleITK.sitkUInt8)
    grid.SetSpacing(spacing.tolist())
    grid.SetOrigin((to_lps @ AFFINE[:3, 3]).tolist())
    grid.SetDirection((to_lps @ AFFINE[:3, :3] / spacing).ravel().tolist())
    return grid


def corners_mm(box) -> np.ndarray:
    """Return the corners (2, 2, 2, 3) of a media box in mm, by SimpleITK."""
    x1, y1, z1, x2, y2, z2 = GEOMETRY.media_to_source(tuple(box))
    ends = itertools.product((x1, x2), (y1, y2), (z1, z2))
    points = [
        image().TransformContinuousIndexToPhysicalPoint([v - 0.5 for v in end]) for end in ends
    ]
    return np.array(points).reshape(2, 2, 2, 3)


@settings(max_examples=40, deadline=None)
@given(truth=BOXES, answer=BOXES)
def test_millimeters_agree_with_simpleitk(truth, answer):
    found = measured(sample(truth), answer)
    ours, theirs = corners_mm(answer), corners_mm(truth)
    gap = np.linalg.norm(ours.mean(axis=(0, 1, 2)) - theirs.mean(axis=(0, 1, 2)))
    assert found["center_mm"] == pytest.approx(gap, abs=1e-6)
    for axis, name in enumerate("xyz"):  # the source's axes lie along the patient's, but turned
        sides = [
            np.linalg.norm(np.diff(corners.mean(axis=tuple({0, 1, 2} - {axis})), axis=0))
            for corners in (ours, theirs)
        ]
        assert found[f"extent_{name}_mm"] == pytest.approx(abs(sides[0] - sides[1]), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(a=BOXES, b=BOXES)
def test_overlaps_agree_with_counted_voxels(a, b):
    grids = np.zeros((2, 64, 48, GEOMETRY.frames), dtype=bool)
    for grid, (x1, y1, z1, x2, y2, z2) in zip(grids, (a, b), strict=True):
        grid[x1:x2, y1:y2, z1:z2] = True
    shared, union = (grids[0] & grids[1]).sum(), (grids[0] | grids[1]).sum()
    hull = ndimage.find_objects((grids[0] | grids[1]).astype(int))[0]
    around = grids[0][hull].size
    assert box_iou(a, b) == pytest.approx(shared / union)
    assert box_giou(a, b) == pytest.approx(shared / union - (around - union) / around)
    found = measured(sample(a), b)
    assert found["iou"] == pytest.approx(shared / union)
    assert found["giou"] == pytest.approx(box_giou(a, b))
    for bound in (30, 50, 70):
        assert found[f"iou_{bound}"] == (100 * shared >= bound * union)


def test_bounds_belong_to_what_they_bound():
    found = measured(sample((0, 0, 0, 10, 10, 4)), [0, 0, 0, 10, 10, 2], peak=8)
    assert (found["iou"], found["iou_30"], found["iou_50"], found["iou_70"]) == (0.5, 1, 1, 0)
    assert (found["peak_error"], found["peak_within_3"], found["peak_within_5"]) == (5, 0, 1)


def test_the_truth_is_perfect_under_every_metric():
    box = [10.5, 7.25, 2, 30.125, 21.5, 6]
    for name, value in measured(sample(box), box).items():
        best = {1: 1, -1: 0}[BETTER[name]]
        assert value is None if name in ("no_tumor_correct", "false_positive") else value == best
    healthy = sample(None, None, 0.0)
    found = measured(healthy, None, None, 0)
    assert (found["no_tumor_correct"], found["false_positive"], found["decision_error"]) == (
        1,
        0,
        0,
    )
    assert found["missed"] is None


@settings(max_examples=60, deadline=None)
@given(truth=BOXES, answer=BOXES, peak=st.integers(0, 8), ratio=st.floats(0.001, 1))
def test_no_valid_answer_is_worse_than_an_invalid_one(truth, answer, peak, ratio):
    one = sample(truth)
    junk = TASK.measure(TASK.judge("junk", one, PIXELS))
    for found in (measured(one, answer, peak, ratio), measured(one, None, None, 0)):
        assert found.keys() == BETTER.keys() == junk.keys()
        for name, sign in BETTER.items():
            if name not in ("no_tumor_correct", "false_positive"):
                assert sign * found[name] >= sign * junk[name] - 1e-9, name


def test_an_invalid_answer_is_a_failure_and_never_left_out():
    box = (10, 10, 2, 20, 20, 4)
    junk = TASK.measure(TASK.judge("junk", sample(box), PIXELS))
    corner = max(
        np.linalg.norm(
            corners_mm((*end, *end)).mean(axis=(0, 1, 2)) - corners_mm(box).mean((0, 1, 2))
        )
        for end in itertools.product((0, 64), (0, 48), (0, GEOMETRY.frames))
    )
    assert junk["center_mm"] == pytest.approx(corner)
    assert junk["extent_z_mm"] == pytest.approx((GEOMETRY.frames - 2) * 2 * 3.0)
    assert (junk["peak_error"], junk["peak_within_10"], junk["ratio_relative"]) == (5, 0, 1)
    assert (junk["missed"], junk["decision_error"], junk["valid"]) == (1, 1, 0)
    healthy = TASK.measure(TASK.judge("junk", sample(None, None, 0.0), PIXELS))
    assert (healthy["false_positive"], healthy["no_tumor_correct"]) == (1, 0)
    assert {name for name, value in healthy.items() if value is not None} == {
        *("valid", "decision_error", "false_positive", "no_tumor_correct")
    }


def test_every_metric_is_said_in_words():
    for name in BETTER:
        assert name in measure.__doc__


def answer(box):
    claim = {"bbox_3d": box, "peak_slice": box and 1, "tumor_ratio": 0.1 if box else 0}
    return TASK.parse(json.dumps(claim), GEOMETRY, PIXELS)


def test_the_consensus_is_voted_and_then_the_box_most_like_the_others():
    none, left, right = answer(None), answer([0, 0, 0, 10, 10, 4]), answer([40, 0, 0, 50, 10, 4])
    between = answer([2, 0, 0, 12, 10, 4])
    assert majority_vote([right, left, between, none, None]) in (1, 2)
    assert majority_vote([none, left, none, right, None]) == 0
    assert majority_vote([None, left, None]) == 0
    assert majority_vote([right, left, none, none]) == 0  # a tie: the first decides
    assert majority_vote([left, answer([6, 0, 0, 16, 10, 4]), between]) == 2


@pytest.mark.parametrize("name", ERROR_HYPOTHESES)
def test_a_repair_undoes_its_mistake(name):
    box = (5.0, 10.0, 1.0, 20.0, 40.0, 6.0)
    if name == "pixels are written for thousandths of the frame":
        wrong = COORDINATE_FORMATS["qwen3_vl"].decode(box, GEOMETRY)
        assert ERROR_HYPOTHESES[name](wrong, GEOMETRY) == pytest.approx(box)
    else:
        assert ERROR_HYPOTHESES[name](box, GEOMETRY) != box
        assert ERROR_HYPOTHESES[name](
            ERROR_HYPOTHESES[name](box, GEOMETRY), GEOMETRY
        ) == pytest.approx(box)
