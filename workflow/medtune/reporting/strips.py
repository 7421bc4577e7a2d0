"""All slices of a video in one small picture, from which the page draws them one by one."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

SIDE = 160  # the longest side of a slice in the strip, in pixels
LARGEST = 400_000  # bytes of a strip, if a lower quality reaches it


class Strip(BaseModel):
    """Slices in rows, from the top left on.

    Attributes:
        uri: The picture (WebP).
        columns: Slices in a row.
        width: Of a slice, in pixels of the picture.
        height: Of a slice, in pixels of the picture.
        scale: Pixels of the picture per pixel of the video.
        frames: Number of slices.
    """

    uri: str
    columns: int
    width: int
    height: int
    scale: float
    frames: int


def make_strip(frames: NDArray[np.uint8], size: tuple[int, int]) -> Strip:
    """Return the strip of the first tile of every frame, in which the boxes are.

    Args:
        frames: (frames, rows, columns, 3) as decoded.
        size: (width, height) of a tile in pixels.
    """
    width, height = size
    scale = min(1.0, SIDE / max(size))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = max(1, round((len(frames) * small[1] / small[0]) ** 0.5))
    rows = -(-len(frames) // columns)
    picture = Image.new("RGB", (columns * small[0], rows * small[1]))
    for index, frame in enumerate(frames):
        tile = Image.fromarray(np.ascontiguousarray(frame[:height, :width]))
        row, column = divmod(index, columns)
        shrunk = tile if small == size else tile.resize(small, Image.Resampling.BOX)
        picture.paste(shrunk, (column * small[0], row * small[1]))
    return Strip(
        uri="data:image/webp;base64," + base64.b64encode(_encoded(picture)).decode(),
        columns=columns,
        width=small[0],
        height=small[1],
        scale=small[0] / width,
        frames=len(frames),
    )


def _encoded(picture: Image.Image) -> bytes:
    """Return the picture without loss if that is small enough, else with some."""
    choices: list[dict[str, Any]] = [{"lossless": True}, {"quality": 85}, {"quality": 50}]
    for options in choices:
        buffer = io.BytesIO()
        picture.save(buffer, format="WEBP", **options)
        if buffer.tell() <= LARGEST:
            break
    return buffer.getvalue()
