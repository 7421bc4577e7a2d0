"""Boxes drawn on decoded video frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medtune.geometry import Box

TRUTH_COLOUR = "#37c871"
TARGET_WIDTH = 320
LINE = 4


def draw_boxes(
    frame: NDArray[np.uint8], index: int, boxes: Sequence[tuple[str, Box | None]]
) -> Image.Image:
    """Return an enlarged frame with the outlines of the boxes that reach into it.

    Args:
        frame: (rows, columns, 3) frame as decoded.
        index: Its number in the video.
        boxes: (colour, media box or None), drawn in order.
    """
    zoom = max(1, round(TARGET_WIDTH / frame.shape[1]))
    image = Image.fromarray(frame)
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    for colour, box in boxes:
        if box is not None and box[2] < index + 1 and box[5] > index:
            corners = [round(box[i] * zoom) for i in (0, 1, 3, 4)]
            edges = (*corners[:2], corners[2] - 1, corners[3] - 1)
            pen.rectangle(edges, outline=colour, width=LINE)
    return image


def filmstrip(
    frames: NDArray[np.uint8], boxes: Sequence[tuple[str, Box | None]], shown: Sequence[int]
) -> Any:
    """Return the chosen frames side by side, with their boxes."""
    tiles = [draw_boxes(frames[index], index, boxes) for index in shown]
    strip = Image.new("RGB", (sum(t.width for t in tiles) + 4 * (len(tiles) - 1), tiles[0].height))
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + 4
    return strip
