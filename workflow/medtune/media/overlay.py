"""Boxes drawn on decoded video frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medtune.geometry.volume import Box

TRUTH_COLOR = "#37c871"
TARGET_WIDTH = 320
LINE = 4
# Inside every line lies a dark one: one of the two is seen on bright and on dark tissue.
DARK, DARK_LINE = "#000000", 2


def draw_boxes(
    frame: NDArray[np.uint8], index: int, boxes: Sequence[tuple[str, Box | None]]
) -> Image.Image:
    """Return an enlarged frame with the outlines of the boxes that reach into it.

    An outline is a line of its color with a dark one inside, where the box has room for it.

    Args:
        frame: (rows, columns, 3) frame as decoded.
        index: Its number in the video.
        boxes: (color, media box or None), drawn in order.
    """
    zoom = max(1, round(TARGET_WIDTH / frame.shape[1]))
    image = Image.fromarray(frame)
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    for color, box in boxes:
        if box is not None and box[2] < index + 1 and box[5] > index:
            x1, y1, x2, y2 = (round(box[i] * zoom) for i in (0, 1, 3, 4))
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=color, width=LINE)
            if min(x2 - x1, y2 - y1) > 2 * (LINE + DARK_LINE):
                inner = (x1 + LINE, y1 + LINE, x2 - 1 - LINE, y2 - 1 - LINE)
                pen.rectangle(inner, outline=DARK, width=DARK_LINE)
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
