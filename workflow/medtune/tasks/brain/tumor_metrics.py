"""Metrics of `tumor_detection_3d`, and what is told of its cases and its answers."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medtune.geometry.volume import (
    Box,
    Geometry,
    box_center,
    box_giou,
    box_iou,
    center_distance_mm,
    step_mm,
)
from medtune.records.sample import Sample
from medtune.rewards.base import Judged
from medtune.rewards.terms import relative_error
from medtune.tasks.base import Center, Rendered

IOU_BOUNDS = (0.3, 0.5, 0.7)
PEAK_BOUNDS = (3, 5, 10)
WITH_TUMOR = (
    *("iou", *(f"iou_{round(100 * bound)}" for bound in IOU_BOUNDS), "giou", "center_mm"),
    *("extent_x_mm", "extent_y_mm", "extent_z_mm", "peak_error"),
    *(f"peak_within_{bound}" for bound in PEAK_BOUNDS),
    *("ratio_error", "ratio_relative", "missed"),
)
WITHOUT_TUMOR = ("no_tumor_correct", "false_positive")


def measure(judged: Judged) -> dict[str, float | None]:
    """Return the metrics of one answer; None where a metric does not apply.

    An invalid answer is a failure under every metric; its value is given below, after "else",
    together with that of a valid answer that finds no tumor where there is one.

    Always:
        valid: 1 if the text parses; else 0.
        decision_error: 1 if it is wrong whether there is a tumor; an invalid answer is wrong.

    With a tumor, boxes in the media frame:
        iou: 3-D intersection over union (Jaccard index), 0..1; else 0.
        iou_30, iou_50, iou_70: 1 if the IoU is at least 0.3, 0.5, 0.7; else 0.
        giou: generalized IoU, -1..1 (Rezatofighi et al., CVPR 2019, algorithm 1); else -1.
        center_mm: distance between the centers in mm of the source; else that to the farthest
            corner of the shown volume.
        extent_x_mm, extent_y_mm, extent_z_mm: absolute error of the box's side along the patient's
            left-right, front-back and foot-head axis in mm; else the largest that is possible.
        peak_error: frames between the peak slices; else the largest that is possible.
        peak_within_3, peak_within_5, peak_within_10: 1 if that is at most so many frames; else 0.
        ratio_error: absolute error of the ratio; if invalid 1.
        ratio_relative: that error as a share of the true ratio, at most 1; else 1.
        missed: 1 if no tumor is found; also if invalid.

    Without a tumor:
        no_tumor_correct: 1 if none is found; if invalid 0.
        false_positive: 1 - no_tumor_correct.
    """
    truth, answer = judged.sample.truth, judged.answer
    metrics: dict[str, float | None] = dict.fromkeys((*WITH_TUMOR, *WITHOUT_TUMOR))
    found = answer is not None and answer.box is not None
    metrics["valid"] = float(answer is not None)
    if truth["bbox_3d"] is None:
        wrong = float(answer is None or found)
        return metrics | {
            "no_tumor_correct": 1 - wrong,
            "false_positive": wrong,
            "decision_error": wrong,
        }
    geometry = Geometry.model_validate(judged.sample.geometry)
    box = tuple(truth["bbox_3d"])
    metrics |= _box_metrics(answer.box, box, geometry) if found else _no_box(box, geometry)
    peak, last = truth["peak_slice"], geometry.frames - 1
    error = abs(answer.peak - peak) if found else max(peak, last - peak)
    ratio = truth["tumor_ratio"]
    relative = relative_error(answer.ratio, ratio) if answer else 1.0
    return metrics | {
        "peak_error": float(error),
        **{f"peak_within_{bound}": float(found and error <= bound) for bound in PEAK_BOUNDS},
        "ratio_error": abs(answer.ratio - ratio) if answer else 1.0,
        "ratio_relative": min(1.0, relative),
        "missed": float(not found),
        "decision_error": float(not found),
    }


def _box_metrics(box: Box, truth: Box, geometry: Geometry) -> dict[str, float | None]:
    """Return the metrics of an answered box."""
    iou, pixel_mm = box_iou(box, truth), np.linalg.norm(step_mm(geometry), axis=0)
    return {
        "iou": iou,
        **{f"iou_{round(100 * bound)}": float(iou >= bound) for bound in IOU_BOUNDS},
        "giou": box_giou(box, truth),
        "center_mm": center_distance_mm(box, truth, geometry),
        **_extents(np.abs(_sides(box) - _sides(truth)) * pixel_mm),
    }


def _no_box(truth: Box, geometry: Geometry) -> dict[str, float | None]:
    """Return the metrics where a box is missing: the worst that are possible."""
    step, center = step_mm(geometry), box_center(truth)
    whole = np.array([*geometry.size, geometry.frames], dtype=float)
    corners = np.array(list(itertools.product(*((0.0, end) for end in whole))))
    worst = np.maximum(_sides(truth), whole - _sides(truth))
    return {
        **dict.fromkeys(("iou", *(f"iou_{round(100 * bound)}" for bound in IOU_BOUNDS)), 0.0),
        "giou": -1.0,
        "center_mm": float(np.linalg.norm((corners - center) @ step.T, axis=1).max()),
        **_extents(worst * np.linalg.norm(step, axis=0)),
    }


def _sides(box: Box) -> Any:
    return np.subtract(box[3:], box[:3])


def _extents(errors: Any) -> dict[str, float]:
    return {f"extent_{axis}_mm": float(e) for axis, e in zip("xyz", errors, strict=True)}


def centers(judged: Judged) -> tuple[Center, Center] | None:
    """Return the centers of answered and true box as fractions of tile and frames.

    None without a box in truth or answer.
    """
    box = judged.sample.truth["bbox_3d"]
    if box is None or judged.answer is None or judged.answer.box is None:
        return None
    geometry = Geometry.model_validate(judged.sample.geometry)
    extent = (*geometry.size, geometry.frames)
    answered, true = (
        tuple((one[axis] + one[axis + 3]) / 2 / extent[axis] for axis in range(3))
        for one in (judged.answer.box, box)
    )
    return answered, true


def shown(box: Box | None, peak: int | None, ratio: float) -> Rendered:
    """Return truth or answer as text, in pixels and frames of the video, and its boxes."""
    if box is None:
        return "no tumor", []
    edges = ", ".join(f"{edge:.4g}" for edge in box)
    return f"box [{edges}], peak slice {peak}, ratio {ratio:.2g}", [box]


def strata(sample: Sample) -> dict[str, Any]:
    """Return by what cases are told apart: `size` (ml, or None) and `side` (or "no tumor")."""
    box = sample.truth["bbox_3d"]
    if box is None:
        return {"size": None, "side": "no tumor"}
    side = Geometry.model_validate(sample.geometry).side(tuple(box))
    return {"size": sample.meta["volume_ml"], "side": side}


def majority_vote(answers: Sequence[Any]) -> int:
    """Return which of several answers to one question stands for all.

    Invalid answers, "no tumor" and boxes vote (self-consistency, Wang et al., ICLR 2023; the
    first answer decides a tie). Of boxes it is the one with the largest mean IoU with the others.
    """
    kinds = ["invalid" if a is None else "none" if a.box is None else "box" for a in answers]
    kind = max(kinds, key=kinds.count)
    alike = [index for index, one in enumerate(kinds) if one == kind]
    if kind != "box":
        return alike[0]
    boxes = {index: answers[index].box for index in alike}
    return max(alike, key=lambda i: sum(box_iou(boxes[i], other) for other in boxes.values()))


def _reordered(*order: int) -> Callable[[Box, Any], Box]:
    return lambda box, _: tuple(box[index] for index in order)  # type: ignore[return-value]


def _mirrored(axis: int) -> Callable[[Box, Geometry], Box]:
    def mirror(box: Box, geometry: Geometry) -> Box:
        end, turned = (*geometry.size, geometry.frames)[axis], list(box)
        turned[axis], turned[axis + 3] = end - box[axis + 3], end - box[axis]
        return tuple(turned)  # type: ignore[return-value]

    return mirror


def _enlarged(box: Box, geometry: Geometry) -> Box:
    """Return a box whose pixels were read as thousandths of the frame."""
    across, down = (1000 / side for side in geometry.frame_size)
    x1, y1, z1, x2, y2, z2 = box
    return (x1 * across, y1 * down, z1, x2 * across, y2 * down, z2)


# What a model or a converter may do wrong in every case alike, by how it is undone.
ERROR_HYPOTHESES: Mapping[str, Callable[[Box, Geometry], Box]] = {
    "x and y are exchanged": _reordered(1, 0, 2, 4, 3, 5),
    "x and z are exchanged": _reordered(2, 1, 0, 5, 4, 3),
    "y and z are exchanged": _reordered(0, 2, 1, 3, 5, 4),
    "left and right are exchanged": _mirrored(0),
    "front and back are exchanged": _mirrored(1),
    "the first frame is taken for the last": _mirrored(2),
    "pixels are written for thousandths of the frame": _enlarged,
}


def error_hypotheses(judged: Judged) -> dict[str, tuple[float, float]] | None:
    """Return the IoU of a box before and after a mistake is undone, by the mistake's name.

    None without a box in truth or answer: there is nothing to compare.
    """
    truth = judged.sample.truth["bbox_3d"]
    if truth is None or judged.answer is None or judged.answer.box is None:
        return None
    box, truth = judged.answer.box, tuple(truth)
    geometry, iou = Geometry.model_validate(judged.sample.geometry), box_iou(box, truth)
    return {
        name: (iou, box_iou(undo(box, geometry), truth)) for name, undo in ERROR_HYPOTHESES.items()
    }
