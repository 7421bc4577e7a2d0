"""Boxes of the chest tasks: read from answers, placed in words, guessed without looking."""

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from medtune.geometry.image import ImageGeometry, PixelBox
from medtune.metrics.boxes import iou_matrix, matched
from medtune.models.box_format import BoxError, BoxFormat
from medtune.records.sample import Sample
from medtune.rewards.base import Judged
from medtune.runtime.files import sha256_text
from medtune.tasks.base import InvalidAnswerError

MOST = 50  # boxes in an answer
MIDLINE = 0.02  # of the picture's width beside its middle
# What remains of an answer whose boxes are cut out must not look like one.
LEFTOVER = re.compile(r"\d\s*,\s*[+-]?\d|\b(nan|inf|infinity)\b", re.IGNORECASE)
Placed = list[tuple[int, int, PixelBox]]


def geometry_of(sample: Sample) -> ImageGeometry:
    """Return the geometry of a sample's film."""
    return ImageGeometry.model_validate(sample.geometry)


def read_boxes(text: str, geometry: ImageGeometry, form: BoxFormat) -> Placed:
    """Return every box of a text, with start and end of what states it.

    Raises:
        InvalidAnswerError: Something meant as a box is none (see `BoxText.read`), or there are
            more than `MOST`.
    """
    try:
        found = [(a, b, form.read(content, geometry)) for a, b, content in form.find(text)]
    except BoxError as error:
        raise InvalidAnswerError(str(error)) from None
    if len(found) > MOST:
        raise InvalidAnswerError(f"{len(found)} boxes, more than {MOST}")
    return found


def check_once(said: Sequence[object]) -> None:
    """Check that nothing is said twice: boxes, or names with their boxes.

    Raises:
        InvalidAnswerError: Something is.
    """
    if len(set(said)) < len(said):
        raise InvalidAnswerError("a box is given twice")


def strip_boxes(text: str, found: Placed) -> str:
    """Return a text without the boxes that were found in it.

    Raises:
        InvalidAnswerError: What is left still holds numbers as of a box.
    """
    left, end = "", 0
    for start, stop, _ in found:
        left, end = f"{left}{text[end:start]} ", stop
    left += text[end:]
    if LEFTOVER.search(left):
        raise InvalidAnswerError("numbers stand outside a box, or a box is not complete")
    return left


def side(boxes: Sequence[PixelBox], geometry: ImageGeometry) -> str:
    """Return `left`, `right`, `midline` or `both`: where the centers of boxes lie.

    Sides are the patient's, who faces the reader: the image's left is the patient's right.
    """
    width, sides = geometry.size[0], set()
    for box in boxes:
        offset = (box[0] + box[2]) / 2 - width / 2
        near = abs(offset) < MIDLINE * width
        sides.add("midline" if near else "left" if offset > 0 else "right")
    return sides.pop() if len(sides) == 1 else "both" if sides else "no box"


def height(box: PixelBox, geometry: ImageGeometry) -> str:
    """Return in which third of the picture a box has its center."""
    share = (box[1] + box[3]) / 2 / geometry.size[1]
    return ("upper", "middle", "lower")[min(int(share * 3), 2)]


def place(box: PixelBox, geometry: ImageGeometry) -> str:
    """Return where a box lies, in words."""
    where = side([box], geometry)
    across = "in the midline" if where == "midline" else f"on the patient's {where}"
    return f"{across}, in the {height(box, geometry)} third of the picture"


def area(boxes: Sequence[PixelBox], geometry: ImageGeometry) -> float | None:
    """Return the area of boxes, overlaps counted twice, as a share of the picture; None: no box."""
    whole = geometry.size[0] * geometry.size[1]
    return sum((b[2] - b[0]) * (b[3] - b[1]) for b in boxes) / whole if boxes else None


def shares(box: Sequence[float], geometry: ImageGeometry) -> list[float]:
    """Return a box in fractions of the picture."""
    return [value / geometry.size[index % 2] for index, value in enumerate(box)]


def scaled(share: Sequence[float], geometry: ImageGeometry) -> list[float]:
    """Return the box of the frame that stands for fractions of the picture."""
    return [value * geometry.size[index % 2] for index, value in enumerate(share)]


def median_box(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the median of each edge of boxes given as fractions; half the picture without any."""
    return [median(column) for column in zip(*rows, strict=True)] or CENTER


CENTER = [0.25, 0.25, 0.75, 0.75]
WHOLE = [0.0, 0.0, 1.0, 1.0]


def pixel(geometry: ImageGeometry) -> list[float]:
    """Return the box of the picture's middle pixel."""
    x, y = (side // 2 for side in geometry.size)
    return [float(x), float(y), float(x + 1), float(y + 1)]


def random_box(key: str) -> list[float]:
    """Return a box between two points, uniform and derived from a key, as fractions."""
    rng = np.random.default_rng(int(sha256_text(key), 16))
    (x1, y1), (x2, y2) = np.sort(rng.uniform(size=(2, 2)), axis=0).tolist()
    return [x1, y1, x2, y2]


def overlap(answered: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> float:
    """Return the sum of matched IoU by the larger number of boxes, 0..1; 1 if both have none."""
    if not answered or not truth:
        return float(not answered and not truth)
    return float(matched(iou_matrix(answered, truth)).sum()) / max(len(answered), len(truth))


def _swapped(box: PixelBox, _: ImageGeometry) -> list[float]:
    return [box[1], box[0], box[3], box[2]]


def _mirrored(box: PixelBox, geometry: ImageGeometry) -> list[float]:
    width = geometry.size[0]
    return [width - box[2], box[1], width - box[0], box[3]]


def _zoomed(factor: Callable[[ImageGeometry], tuple[float, float]]) -> Callable[..., list[float]]:
    def zoom(box: PixelBox, geometry: ImageGeometry) -> list[float]:
        by = factor(geometry)
        return [value * by[index % 2] for index, value in enumerate(box)]

    return zoom


# What a model or a converter may do wrong in every film alike, by how it is undone.
ERROR_HYPOTHESES: Mapping[str, Callable[[PixelBox, ImageGeometry], list[float]]] = {
    "x and y are exchanged": _swapped,
    "left and right are exchanged": _mirrored,
    "pixels are written for thousandths of the image": _zoomed(
        lambda g: (1000 / g.frame_size[0], 1000 / g.frame_size[1])
    ),
    "thousandths of the image are written for pixels": _zoomed(
        lambda g: (g.frame_size[0] / 1000, g.frame_size[1] / 1000)
    ),
    "boxes are relative to the picture without its padding": _zoomed(
        lambda g: (g.size[0] / g.frame_size[0], g.size[1] / g.frame_size[1])
    ),
    "boxes are pixels of the original image": _zoomed(
        lambda g: (g.size[0] / g.source_size[0], g.size[1] / g.source_size[1])
    ),
}


def error_hypotheses(
    judged: Judged, truth: Sequence[PixelBox]
) -> dict[str, tuple[float, float]] | None:
    """Return the overlap of boxes before and after a mistake is undone, by the mistake's name.

    None without a box in truth or answer: there is nothing to compare.
    """
    if judged.answer is None or not judged.answer.boxes or not truth:
        return None
    boxes, geometry = judged.answer.boxes, geometry_of(judged.sample)
    before = overlap(boxes, truth)
    return {
        name: (before, overlap([undo(box, geometry) for box in boxes], truth))
        for name, undo in ERROR_HYPOTHESES.items()
    }
