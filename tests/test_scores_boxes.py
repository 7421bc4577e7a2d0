"""Scores of boxes by hand, by their properties, and against COCO's own code."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from medtune.metrics.average_precision import THRESHOLDS, Detections, average_precision
from medtune.metrics.boxes import (
    f1_at,
    iou_matrix,
    matched,
    mean_iou,
    measure_boxes,
    soft_f1,
)

A, B, FAR = (0, 0, 10, 10), (100, 100, 120, 110), (300, 300, 310, 310)
HALF = (0, 0, 10, 5)  # IoU 0.5 with A
edges = st.tuples(*[st.integers(0, 30)] * 4)
boxes = st.lists(
    edges.map(
        lambda e: (min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]) + 1, max(e[1], e[3]) + 1)
    ),
    max_size=5,
)


def test_iou_by_hand():
    found = iou_matrix([A, HALF, (5, 0, 15, 10), (10, 0, 20, 10), B], [A, B])
    assert found == pytest.approx(np.array([[1, 0], [0.5, 0], [1 / 3, 0], [0, 0], [0, 1]]))


@pytest.mark.parametrize("box", [(5, 5, 5, 5), (5, 5, 5, 9), (9, 9, 1, 1), (9, 1, 1, 9)])
def test_answered_boxes_without_area_overlap_nothing(box):
    with np.errstate(all="raise"):
        overlap = iou_matrix([box], [A])
    assert overlap == 0
    assert soft_f1(iou_matrix([A, box], [A])) == pytest.approx(2 / 3)  # one box too many


def test_what_is_no_box_raises():
    for answered, truth in (([A], [(5, 5, 5, 9)]), ([(0, 0, float("nan"), 1)], [A])):
        with pytest.raises(ValueError, match="box"):
            iou_matrix(answered, truth)
    with pytest.raises(ValueError, match="four"):
        iou_matrix([(0, 0, 1, 1, 2, 2, 3, 3)], [A])
    with pytest.raises(ValueError, match="names"):
        iou_matrix([A], [A], ["x"], None)


def test_scores_by_hand():
    loose = iou_matrix([HALF, FAR], [A, B])  # half of A, B missed, one box too many
    assert matched(loose).tolist() == [0.5, 0]
    assert soft_f1(loose) == pytest.approx(2 * 0.25 * 0.25 / 0.5)
    assert f1_at(loose) == pytest.approx(0.5)
    assert f1_at(loose, 0.51) == 0
    assert mean_iou(loose) == pytest.approx(0.25)


def test_the_best_matching_is_found_where_the_first_best_is_not():
    overlap = np.array([[0.9, 0.8], [0.8, 0.0]])  # greedy: 0.9 + 0.0
    assert matched(overlap).sum() == pytest.approx(1.6)
    # As many matches as possible at 0.5, where the largest sum takes one alone.
    assert f1_at(np.array([[1.0, 0.5], [0.5, 0.0]])) == 1


def test_names_must_agree():
    assert soft_f1(iou_matrix([A], [A], ["Nodule"], ["nodule"])) == 1
    assert soft_f1(iou_matrix([A], [A], ["Nodule"], ["Mass"])) == 0


def test_normal_films():
    assert measure_boxes([], [])["normal_correct"] == 1
    assert measure_boxes([A], [])["normal_correct"] == 0
    assert measure_boxes(None, [])["normal_correct"] == 0
    assert measure_boxes([], [])["soft_f1"] is None
    assert measure_boxes([], [A]) == {
        "soft_f1": 0,
        "f1_50": 0,
        "mean_iou": 0,
        "normal_correct": None,
    }
    assert measure_boxes(None, [A])["soft_f1"] == 0


@given(answered=boxes, truth=boxes.filter(len))
def test_soft_f1_properties(answered, truth):
    overlap = iou_matrix(answered, truth)
    value = soft_f1(overlap)
    assert 0 <= value <= 1
    assert value == pytest.approx(soft_f1(overlap[::-1, ::-1]))  # no order
    assert soft_f1(iou_matrix(truth, truth)) == pytest.approx(1)
    more = soft_f1(iou_matrix([*answered, (500, 500, 501, 501)], truth))
    assert more <= value
    assert (more < value) == (value > 0)
    if answered:
        assert value == pytest.approx(soft_f1(iou_matrix(truth, answered)))


def test_loose_boxes_are_punished():
    values = [soft_f1(iou_matrix([(-g, -g, 10 + g, 10 + g)], [A])) for g in range(6)]
    assert values == sorted(values, reverse=True)
    assert values[5] == pytest.approx(0.25)


def one(box, truth, confidence=(), name="x"):
    names = [name] * len(box)
    return Detections(box, names, truth, [name] * len(truth), confidence)


def test_average_precision_without_confidence_by_hand():
    images = [one([A], [A]), one([FAR], [B]), one([], [A])]  # precision 1/2, recall 1/3
    reached = sum(recall <= 1 / 3 for recall in np.linspace(0, 1, 101)) / 101
    for order in (images, images[::-1]):
        assert average_precision(order, [0.5])[0.5] == pytest.approx(0.5 * reached)
    assert average_precision([one([A, A], [A])], [0.5])[0.5] == pytest.approx(0.5)  # a double
    assert average_precision([one([A], [])], [0.5]) is None
    false = [one([A], [A]), one([A], [])]  # a box on a normal film
    assert average_precision(false, [0.5])[0.5] == pytest.approx(0.5)


def test_average_precision_with_confidence_by_hand():
    images = [one([A, FAR], [A, B], (0.9, 0.8)), one([B], [B], (0.1,))]
    # Recall 1/3 with precision 1, then 2/3 with precision 2/3.
    reached = np.linspace(0, 1, 101)
    expected = np.where(reached <= 1 / 3, 1, np.where(reached <= 2 / 3, 2 / 3, 0)).mean()
    assert average_precision(images, [0.5])[0.5] == pytest.approx(expected)
    perfect = [one([A, B], [A, B], (0.2, 0.3))]
    assert set(average_precision(perfect).values()) == {1.0}


def made(seed: int) -> list[Detections]:
    """Return 30 images with true boxes, and answers that are near, far, missing or too many."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(30):
        low = rng.uniform(0, 80, (rng.integers(0, 5), 2))
        truth = np.hstack([low, low + rng.uniform(5, 40, low.shape)])
        true_names, kept = rng.choice(["a", "b"], len(truth)), rng.random(len(truth)) < 0.8
        near = truth[kept]
        moved = near + rng.normal(0, 2.5, near.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        corner = rng.uniform(0, 80, (rng.integers(0, 3), 2))
        answered = np.vstack([moved, np.hstack([corner, corner + 15])])
        names = np.append(true_names[kept], rng.choice(["a", "b"], len(corner)))
        images.append(
            Detections(answered, list(names), truth, list(true_names), rng.random(len(answered)))
        )
    return images


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_against_pycocotools(seed):
    images = made(seed)

    def rows(of):
        return [
            {"id": 0, "image_id": number, "category_id": "ab".index(name) + 1, "iscrowd": 0}
            | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            | ({} if score is None else {"score": score})
            for number, image in enumerate(images)
            for (x1, y1, x2, y2), name, score in of(image)
        ]

    truth = rows(lambda i: zip(i.truth, i.true_names, [None] * len(i.truth), strict=True))
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {
            "images": [{"id": number} for number in range(len(images))],
            "categories": [{"id": 1}, {"id": 2}],
            "annotations": [row | {"id": number + 1} for number, row in enumerate(truth)],
        }
        gold.createIndex()
        found = gold.loadRes(rows(lambda i: zip(i.boxes, i.names, i.confidence, strict=True)))
        judged = COCOeval(gold, found, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    ours = average_precision(images)
    assert 0.2 < ours[0.5] < 1
    assert np.mean(list(ours.values())) == pytest.approx(judged.stats[0], abs=1e-9)
    assert ours[0.5] == pytest.approx(judged.stats[1], abs=1e-9)
    assert set(ours) == set(THRESHOLDS)
