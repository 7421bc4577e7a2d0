"""Section about the stored images of chest films."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from medtune.config.base import Count, Fault, Fraction, Section


class FilmImagesConfig(Section):
    """How a film becomes a stored image: gray, 8-bit, its aspect ratio kept, never enlarged."""

    max_pixels: Count = Field(
        262_144,
        description="Largest area of a stored image, padding included; the same for training, "
        "rollouts and evaluation.",
    )
    multiple_of: Count = Field(
        32,
        description="Sides of a stored image are multiples of this, the model's patch x merge, so "
        "that its processor need not resize again: 28 for Qwen2.5-VL, 32 for Qwen3-VL.",
    )
    format: Literal["png", "jpeg"] = Field(
        "png",
        description="Exact, or half the size with a mean error of about 0.6 of 255 gray levels.",
    )
    jpeg_quality: Annotated[int, Field(ge=75, le=100)] = Field(
        95, description="Format `jpeg`: quality as libjpeg counts it."
    )
    on_error: Literal["stop", "exclude"] = Field(
        "stop",
        description="Stop at films whose files cannot be used, before the first is converted where "
        "the header tells, or leave them out and go on.",
    )
    max_excluded_fraction: Fraction = Field(
        0.1,
        description="`exclude` stops all the same where more than this share of the films of a "
        "source or shard cannot be used, and more than ten or all of them.",
    )

    def faults(self) -> Iterator[Fault]:
        """Yield what cannot work together."""
        if self.max_pixels < self.multiple_of**2:
            found = f"{self.max_pixels} is less than one patch, {self.multiple_of} squared"
            yield Fault(("max_pixels", "multiple_of"), found, f"set {self.multiple_of**2} or more")
