"""How a model family writes a box on an image; the only place that knows.

Inside samples a box is written `<box>x1, y1, x2, y2</box>`, in whole pixels of the stored image
("frame"). Families write fractions of the frame that they see, or its pixels. Fractions stay the
same when a processor resizes the frame, whatever becomes of its proportions; so only pixels need
that it does not. Where the frame is said to be squared, it is padded at right and bottom first:

qwen2_5_vl       `[x1, y1, x2, y2]`, pixels of the frame it sees (Bai et al., arXiv:2502.13923)
qwen3_vl         `[x1, y1, x2, y2]`, thousandths of the frame (Bai et al., arXiv:2511.21631)
llava_onevision  `[x1, y1, x2, y2]`, fractions with two decimals, 0.5 and not 0.50: what RadVLM, a
                 LLaVA-OneVision, is trained on (Deperrois et al., arXiv:2502.03333)
gemma3           `[y1, x1, y2, x2]`, thousandths of the frame: MedGemma 1.5, by the notebook on
                 anatomy localisation of github.com/Google-Health/medgemma, where it stands under
                 "box_2d" in JSON, squared. Google documents no boxes for Gemma 3 itself; the
                 `<loc0000>` tokens of 0..1023 are PaliGemma's
llava_med        as llava_onevision, squared: LLaVA-1.5's form (Liu et al., arXiv:2310.03744), from
                 whose kind it is made; it was shown no boxes itself
chexagent        `<|box|>(x1,y1),(x2,y2)<|/box|>`, hundredths (github.com/Stanford-AIMI/CheXagent)
maira2           `<box><x1><y1><x2><y2></box>`, numbers of 100 bins a side, each read as its
                 middle, of the square that its processor cuts out of the middle of an image
                 (`processing_maira2.py` of huggingface.co/microsoft/maira-2): squared, that is all
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from medtune.geometry.image import ImageGeometry, PixelBox

NUMBER = re.compile(r"[+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?")
WRITTEN = re.compile(r"<box>([0-9]+), ([0-9]+), ([0-9]+), ([0-9]+)</box>")
Spans = tuple[tuple[float, float], tuple[float, float]]


class BoxError(ValueError):
    """A text holds something like a box that is none; the message says why."""


@dataclass(frozen=True)
class BoxFormat:
    """The form of a box in an answer.

    Attributes:
        form: The text, with `{}` for each number.
        steps: How many units the whole frame spans; None: units are its pixels.
        divisor: What a number of units is divided by before it is written.
        rows_first: y stands before x.
        bins: Units are numbers of bins, read as their middle.
        square: The family is shown the frame padded at right and bottom to a square.
    """

    form: str = "[{}, {}, {}, {}]"
    steps: int | None = None
    divisor: int = 1
    rows_first: bool = False
    bins: bool = False
    square: bool = False

    @property
    def unit(self) -> str:
        """What x and y count in."""
        if self.steps is None:
            return "pixels"
        if self.divisor == self.steps:
            return "fractions of the image"
        return f"units of 1/{self.steps} of the image"

    def convention(self, geometry: ImageGeometry) -> str:
        """Return the sentence that tells a model which numbers to write."""
        x, y = (self._shown(limit) for limit in self._limits(geometry))
        names = ("y1", "x1", "y2", "x2") if self.rows_first else ("x1", "y1", "x2", "y2")
        form = self.form.format(*names)
        return f"Write a box as {form}; x goes up to {x} and y to {y} in {self.unit}."

    def write(self, box: Sequence[float], geometry: ImageGeometry) -> str:
        """Return a box of the frame as text; rounding never empties it.

        Each edge moves by at most half a unit, or by less than one (bins: 1.5) where a box is
        thinner than a unit.
        """
        shift = 0.5 if self.bins else 0.0
        spans = [
            round_span(box[axis] * scale - shift, box[axis + 2] * scale - shift, limit)
            for axis, (scale, limit) in enumerate(self._axes(geometry))
        ]
        (x1, x2), (y1, y2) = spans
        return self.form.format(*(self._shown(v) for v in self._ordered((x1, y1, x2, y2))))

    def render(self, text: str, geometry: ImageGeometry) -> str:
        """Return a text in which the boxes of a sample are written in this form."""
        return WRITTEN.sub(
            lambda found: self.write([int(v) for v in found.groups()], geometry), text
        )

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Return start, end and content of everything in a text that is meant as a box."""
        pattern = BRACKETS if self.form.startswith("[") else self._enclosed
        return [(one.start(), one.end(), one[1]) for one in pattern.finditer(text)]

    def read(self, content: str, geometry: ImageGeometry) -> PixelBox:
        """Return the box, in pixels of the frame, that a content of `find` stands for.

        Raises:
            BoxError: It is not four plain numbers (no NaN, infinity, exponent or word), reversed,
                empty or outside the picture; the padding is outside.
        """
        match = self._inner.fullmatch(content.strip())
        if match is None:
            raise BoxError(f"{content.strip()[:60]!r} is not a box of four plain numbers")
        # 0.14 * 100 is a hair more than 14, which may be the edge of the picture.
        values = self._ordered([round(float(v) * self.divisor, 7) for v in match.groups()])
        axes = self._axes(geometry)
        for axis, (_, limit) in enumerate(axes):
            if not 0 <= values[axis] < values[axis + 2] <= limit:
                raise BoxError(f"box {content.strip()!r} is reversed, empty or outside the image")
        shift = 0.5 if self.bins else 0.0
        edges = [(v + shift) / axes[index % 2][0] for index, v in enumerate(values)]
        x1, y1, x2, y2 = (min(v, geometry.size[index % 2]) for index, v in enumerate(edges))
        return x1, y1, x2, y2

    def _axes(self, geometry: ImageGeometry) -> list[tuple[float, int]]:
        """Return units per pixel, and the largest number of the picture, of x and y."""
        limits = self._limits(geometry)
        if self.steps is None:
            return [(1.0, limit) for limit in limits]
        sides = self._sides(geometry)
        return [(self.steps / side, limit) for side, limit in zip(sides, limits, strict=True)]

    def _sides(self, geometry: ImageGeometry) -> tuple[int, int]:
        """Return width and height in pixels of what the family is shown."""
        longest = max(geometry.frame_size)
        return (longest, longest) if self.square else geometry.frame_size

    def _limits(self, geometry: ImageGeometry) -> tuple[int, int]:
        if self.steps is None:
            return geometry.size
        width, height = (
            math.ceil(self.steps * n / of) - self.bins
            for n, of in zip(geometry.size, self._sides(geometry), strict=True)
        )
        return width, height

    def _ordered(self, values: Sequence[float]) -> list[float]:
        """Return four numbers in the written order, or such back in order x, y, x, y."""
        return [values[index] for index in ((1, 0, 3, 2) if self.rows_first else (0, 1, 2, 3))]

    def _shown(self, units: float) -> str:
        return str(round(units / self.divisor, 2)) if self.divisor > 1 else str(round(units))

    @property
    def _inner(self) -> re.Pattern[str]:
        """Pattern of the content of a box, with any white space between its parts."""
        start, end = self._ends
        parts = [part.strip() for part in self.form[len(start) : -len(end)].split("{}")]
        gap = r"\s*"
        number = f"({NUMBER.pattern})"
        return re.compile(gap + (gap + number + gap).join(map(re.escape, parts)) + gap)

    @property
    def _ends(self) -> tuple[str, str]:
        return next(pair for pair in ENDS if self.form.startswith(pair[0]))

    @property
    def _enclosed(self) -> re.Pattern[str]:
        start, end = map(re.escape, self._ends)
        return re.compile(f"{start}((?:(?!{start}|{end}).)*){end}", re.DOTALL)


ENDS = (("[", "]"), ("<|box|>", "<|/box|>"), ("<box>", "</box>"))
# Brackets without a comma are prose.
BRACKETS = re.compile(r"\[([^\[\],]*,[^\[\]]*)\]")


def round_span(low: float, high: float, limit: int) -> tuple[int, int]:
    """Return the ends of a span as whole numbers in 0..limit; rounding never empties it."""
    first, last = round(low), round(high)
    if first == last:
        first = min(max(math.floor(low), 0), limit - 1)
        last = first + 1
    return max(first, 0), min(last, limit)


STORED = BoxFormat("<box>{}, {}, {}, {}</box>")  # in samples: see the docstring
PIXEL_BOXES = BoxFormat()
THOUSANDTHS = BoxFormat(steps=1000)
BOX_FORMATS = {
    "qwen2_5_vl": PIXEL_BOXES,
    "qwen3_vl": THOUSANDTHS,
    "llava_onevision": BoxFormat(steps=100, divisor=100),
    "gemma3": BoxFormat(steps=1000, rows_first=True, square=True),
    "llava_med": BoxFormat(steps=100, divisor=100, square=True),
    "chexagent": BoxFormat("<|box|>({},{}),({},{})<|/box|>", steps=100),
    "maira2": BoxFormat("<box><x{}><y{}><x{}><y{}></box>", steps=100, bins=True, square=True),
}
