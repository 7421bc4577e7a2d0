"""Average precision of boxes over a data set, as COCO defines it.

Lin et al., "Microsoft COCO", ECCV 2014, and its evaluation code: boxes of one class are taken in
order of confidence, each is matched to the free true box of its image that it overlaps most, if by
enough; precision, made non-increasing, is averaged over 101 recalls. At most 100 boxes of an image
and class count. The mean over classes that are in the truth, and over ten IoU from 0.5 to 0.95.

**Confidence.** A language model writes boxes without one. Boxes of equal confidence stand at one
point of the curve, all or none: the result does not depend on the order of images. Without any
confidence the curve is one point, and AP = precision x (share of the 101 recalls reached). Within
an image, boxes of equal confidence are matched in the order in which they are written. COCO's own
code instead lets the order of the images decide: both agree where all confidences differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medtune.metrics.boxes import Box, iou_matrix

Array = NDArray[np.float64]
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # boxes of an image and class


@dataclass(frozen=True)
class Detections:
    """What was answered for one image, and what is true of it.

    Attributes:
        boxes: Answered boxes.
        names: Their classes.
        truth: True boxes.
        true_names: Their classes.
        confidence: One number per answered box; empty: all are equal.
    """

    boxes: Sequence[Box]
    names: Sequence[str]
    truth: Sequence[Box]
    true_names: Sequence[str]
    confidence: Sequence[float] = field(default=())


def average_precision(
    images: Sequence[Detections], thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, float] | None:
    """Return the AP, 0..1, by IoU threshold; its mean over `THRESHOLDS` is COCO's AP.

    Args:
        images: All images of the data set, those without any box too: what is answered there is
            false.
        thresholds: Smallest IoU of a match.

    Returns:
        None if no image has a true box.

    Raises:
        ValueError: Boxes and names or confidences differ in number; see also `iou_matrix`.
    """
    classes = sorted({name.casefold() for image in images for name in image.true_names})
    if not classes:
        return None
    chosen = [[_of_class(image, name) for image in images] for name in classes]
    return {
        one: float(np.mean([_one_class(overlaps, one) for overlaps in chosen]))
        for one in thresholds
    }


def _of_class(image: Detections, name: str) -> tuple[Array, Array]:
    """Return the IoU of the boxes of a class in descending confidence, and the confidences."""
    confidence = list(image.confidence) or [1.0] * len(image.boxes)
    own = [
        (box, score)
        for box, one, score in zip(image.boxes, image.names, confidence, strict=True)
        if one.casefold() == name
    ]
    own = sorted(own, key=lambda pair: -pair[1])[:MOST]
    pairs = zip(image.truth, image.true_names, strict=True)
    truth = [box for box, one in pairs if one.casefold() == name]
    return iou_matrix([box for box, _ in own], truth), np.array([score for _, score in own])


def _one_class(images: Sequence[tuple[Array, Array]], least: float) -> float:
    """Return the AP of one class at one threshold."""
    truth = sum(overlap.shape[1] for overlap, _ in images)
    hits = np.concatenate([hits_of(overlap, least) for overlap, _ in images])
    scores = np.concatenate([score for _, score in images])
    if not hits.size:
        return 0.0
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(hits[order])
    # The last box of every run of equal confidences is a point of the curve.
    points = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    recall, precision = found[points] / truth, found[points] / (points + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[reached].mean())


def hits_of(overlap: Array, least: float) -> Array:
    """Return 1 for every box, in the given order, that takes a free true box, else 0.

    Args:
        overlap: IoU (answered, truth) of one class.
        least: Smallest IoU of a match.
    """
    free, hits = overlap.copy(), np.zeros(len(overlap))
    for row in range(len(overlap) if overlap.shape[1] else 0):
        best = int(free[row].argmax())
        if free[row, best] >= least:
            hits[row], free[:, best] = 1, -1
    return hits
