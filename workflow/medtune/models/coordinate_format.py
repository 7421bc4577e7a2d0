"""How a model family writes coordinates; the only place that knows.

Qwen2.5-VL writes absolute pixels of the frame it sees (Bai et al., arXiv:2502.13923), Qwen3-VL
0..1000 relative to it; LLaVA's fractions with two decimals are written for other trainers. The
third axis is always the frame index. Boxes on images are in
`medtune.models.box_format`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medtune.geometry.volume import Box, Geometry
from medtune.models.box_format import BOX_FORMATS, PIXEL_BOXES, BoxFormat, round_span


@dataclass(frozen=True)
class CoordinateFormat:
    """A coordinate convention.

    Attributes:
        relative: The number that a whole frame of a video spans, or None: pixels.
        picture: How a box on an image is written.
    """

    relative: int | None
    picture: BoxFormat = PIXEL_BOXES

    def _scale(self, geometry: Geometry) -> tuple[float, float, float]:
        """Answer units per media pixel, per axis."""
        if self.relative is None:
            return 1.0, 1.0, 1.0
        width, height = geometry.frame_size
        return self.relative / width, self.relative / height, 1.0

    def _limits(self, geometry: Geometry) -> tuple[int, int, int]:
        """Largest x, y and z in answer units."""
        x, y, z = self._scale(geometry)
        width, height = geometry.size
        return round(width * x), round(height * y), round(geometry.frames * z)

    def limits(self, geometry: Geometry) -> tuple[float, float, float]:
        """Return the largest x, y and z an answer may hold: the first tile and the last frame."""
        x, y, z = self._limits(geometry)
        return self._written(x, 0), self._written(y, 1), z

    def encode(self, box: Box, geometry: Geometry) -> list[float]:
        """Return a media box as six numbers: integers, or x and y as fractions with two decimals.

        Rounding never empties it. Each edge moves by at most half a unit, or by less than one
        where a box is thinner.
        """
        spans = []
        for axis, limit in enumerate(self._limits(geometry)):
            scale = self._scale(geometry)[axis]
            span = round_span(box[axis] * scale, box[axis + 3] * scale, limit)
            spans.append([self._written(units, axis) for units in span])
        return [span[0] for span in spans] + [span[1] for span in spans]

    def decode(self, values: Sequence[float], geometry: Geometry) -> Box:
        """Return the media box of six numbers of an answer."""
        x, y, z = self._scale(geometry)
        x1, y1, z1, x2, y2, z2 = values
        if (divisor := self.picture.divisor) > 1:
            # 0.14 * 100 is a hair more than 14, which may be the edge of the picture.
            x1, y1, x2, y2 = (round(v * divisor, 7) for v in (x1, y1, x2, y2))
        return (x1 / x, y1 / y, z1 / z, x2 / x, y2 / y, z2 / z)

    def _written(self, units: int, axis: int) -> float:
        """Return a number of units as it stands in an answer; frames are never divided."""
        divisor = self.picture.divisor
        return round(units / divisor, 2) if axis < 2 and divisor > 1 else units

    def convention(self, geometry: Geometry) -> str:
        """Return the sentence that tells the model which numbers to write."""
        x, y, z = self.limits(geometry)
        return f"x goes up to {x} and y to {y} in {self.unit}, z to {z} in frames."

    @property
    def unit(self) -> str:
        """What x and y count in."""
        if self.relative is None:
            return "pixels"
        if self.picture.divisor == self.relative:
            return "fractions of the frame"
        return f"units of 1/{self.relative} of the frame"


PIXELS = CoordinateFormat(relative=None)
# Families that are trained, and all whose answers about images are evaluated.
COORDINATE_FORMATS = {
    "qwen2_5_vl": PIXELS,
    "qwen3_vl": CoordinateFormat(1000, BOX_FORMATS["qwen3_vl"]),
}
IMAGE_COORDINATE_FORMATS = {
    name: CoordinateFormat(form.steps, form) for name, form in BOX_FORMATS.items()
}
