"""Agreement of boxes on an image: `[x1, y1, x2, y2]`, half-open, in pixels of one frame.

Boxes of the truth must have an area. An answered box without one, or a reversed one, overlaps
nothing and counts as one box too many. Where names are given, only boxes of the same name match;
names are compared without regard to case.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Box = Sequence[float]
Boxes = Sequence[Box]
Names = Sequence[str]
Array = NDArray[np.float64]


def iou_matrix(
    answered: Boxes, truth: Boxes, names: Names | None = None, true_names: Names | None = None
) -> Array:
    """Return the intersection over union (Jaccard index) of every pair of boxes, 0..1.

    Args:
        answered: The answer's boxes.
        truth: The true boxes.
        names: What the answer calls each of its boxes; None: names do not matter.
        true_names: What they are.

    Returns:
        Array (answered, truth); 0 where names differ.

    Raises:
        ValueError: A box is not four finite numbers, a true box has no area, or only one side has
            names, or not one per box.
    """
    a, b = _array(answered), _array(truth)
    if (b[:, 2:] <= b[:, :2]).any():
        raise ValueError(f"a true box has no area: {b.tolist()}")
    low, high = (
        np.maximum(a[:, None, :2], b[None, :, :2]),
        np.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    whole = np.prod(np.clip(a[:, 2:] - a[:, :2], 0, None), axis=1)
    found: Array = shared / (whole[:, None] + np.prod(b[:, 2:] - b[:, :2], axis=1) - shared)
    if names is None and true_names is None:
        return found
    if names is None or true_names is None or (len(names), len(true_names)) != found.shape:
        raise ValueError("names are needed for every answered and every true box, or for none")
    alike = [[one.casefold() == other.casefold() for other in true_names] for one in names]
    return np.where(np.array(alike, dtype=bool).reshape(found.shape), found, 0.0)


def _array(boxes: Boxes) -> Array:
    found = np.array(boxes, dtype=float).reshape(-1, 4) if len(boxes) else np.zeros((0, 4))
    if len(found) != len(boxes) or not np.isfinite(found).all():
        raise ValueError(f"{boxes} are not boxes of four finite numbers")
    return found


def matched(overlap: Array) -> Array:
    """Return the IoU of every true box with the answered box that is matched to it, 0 for none.

    The one-to-one matching has the largest sum of IoU (Kuhn, Naval Res. Logist. Q. 2, 1955).

    Args:
        overlap: IoU (answered, truth).
    """
    found = np.zeros(overlap.shape[1])
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    found[columns] = overlap[rows, columns]
    return found


def _f1(mass: float, answered: int, truth: int) -> float | None:
    """Return the harmonic mean of mass / answered and mass / truth; None without a true box."""
    return 2 * mass / (answered + truth) if truth else None


def soft_f1(overlap: Array) -> float | None:
    """Return the F1 in which a matched box counts as much as it overlaps; None without truth.

    Precision is the matched IoU by the number of answered boxes, recall the same by the number of
    true ones: loose boxes lower both, and a box too many lowers precision.

    Args:
        overlap: IoU (answered, truth).
    """
    return _f1(float(matched(overlap).sum()), *overlap.shape)


def f1_at(overlap: Array, least: float = 0.5) -> float | None:
    """Return the F1 of boxes, where as many as possible are matched with at least that IoU.

    Args:
        overlap: IoU (answered, truth).
        least: Smallest IoU of a match.
    """
    enough = (overlap >= least).astype(float)
    return _f1(float(matched(enough).sum()), *overlap.shape)


def mean_iou(overlap: Array) -> float | None:
    """Return the mean matched IoU over the true boxes, misses as 0; None without a true box.

    Boxes too many do not lower it: see `soft_f1`.

    Args:
        overlap: IoU (answered, truth).
    """
    return float(matched(overlap).mean()) if overlap.shape[1] else None


def measure_boxes(
    answered: Boxes | None,
    truth: Boxes,
    names: Names | None = None,
    true_names: Names | None = None,
) -> dict[str, float | None]:
    """Return the scores of one answer; None where one does not apply.

    An invalid answer, None, is wrong under every score.

    With true boxes: `soft_f1`, `f1_50` and `mean_iou`. Without: `normal_correct`, 1 if no box is
    answered, whose mean over normal films is the specificity.

    Args:
        answered: The answer's boxes, or None if it is invalid.
        truth: The true boxes.
        names: See `iou_matrix`.
        true_names: See `iou_matrix`.

    Raises:
        ValueError: See `iou_matrix`.
    """
    found: dict[str, float | None] = dict.fromkeys(
        ("soft_f1", "f1_50", "mean_iou", "normal_correct")
    )
    if not truth:
        return found | {"normal_correct": float(answered is not None and not answered)}
    if answered is None:
        return found | dict.fromkeys(("soft_f1", "f1_50", "mean_iou"), 0.0)
    overlap = iou_matrix(answered, truth, names, true_names)
    return found | {
        "soft_f1": soft_f1(overlap),
        "f1_50": f1_at(overlap),
        "mean_iou": mean_iou(overlap),
    }
