"""Boxes of a film: from pixels of the original image to those of the stored one, and back.

The original is the image whose pixels a source's boxes count; the file at hand may be a resized
copy of it. A stored image holds the whole original, resized with its aspect ratio kept, in its
upper left corner; what is added to reach multiples of the model's patch x merge is black. Boxes are
`[x1, y1, x2, y2]`, half-open, in continuous edge coordinates: pixel `i` covers `[i, i + 1)`.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

PixelBox = tuple[float, float, float, float]
Size = tuple[int, int]  # width, height


def is_copy(size: Size, original: Size) -> bool:
    """Return whether an image can be the whole of an original, resized evenly.

    It can where one scale gives both sides, each within a pixel of rounding. Boxes then scale with
    each side; else it was cropped, padded or squeezed, and where they lie is not known.
    """
    low = max((side - 1) / full for side, full in zip(size, original, strict=True))
    high = min((side + 1) / full for side, full in zip(size, original, strict=True))
    return low <= high


def copy_fault(size: Size, original: Size) -> str:
    """Return what an image must be that is no even copy of an original, in words."""
    if is_copy(size[::-1], original):
        reason = "turned by a quarter"
    elif size[0] == size[1]:
        reason = "padded or squeezed to a square, or cropped"
    else:
        reason = "padded, squeezed or cropped, or another image"
    return f"{size[0]}x{size[1]} is no even copy of {original[0]}x{original[1]}: {reason}"


class ImageGeometry(BaseModel):
    """The transform between an original image and the stored one.

    Attributes:
        kind: Tells it from the geometry of a volume.
        source_size: (width, height) of the original image in pixels.
        size: (width, height) of the picture inside the stored image.
        frame_size: (width, height) of the stored image.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["image"] = "image"
    source_size: tuple[int, int]
    size: tuple[int, int]
    frame_size: tuple[int, int]

    @property
    def _scale(self) -> tuple[float, float]:
        return self.size[0] / self.source_size[0], self.size[1] / self.source_size[1]

    def to_frame(self, box: PixelBox) -> PixelBox:
        """Return a box of the original image in pixels of the stored one."""
        x, y = self._scale
        return box[0] * x, box[1] * y, box[2] * x, box[3] * y

    def to_source(self, box: PixelBox) -> PixelBox:
        """Return a box of the stored image in pixels of the original one."""
        x, y = self._scale
        return box[0] / x, box[1] / y, box[2] / x, box[3] / y
