"""Checks of the voxels of one case's images, apart and side by side."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medtune.media.headers import Array
from medtune.media.volume import is_enclosed, nan_as_background
from medtune.sources.check_headers import Fault

# Grey levels that a picture has; float32, in which images are shown, must tell as many apart.
LEVELS = 256
# Share of the brain that lies in planes where one image alone is empty.
EMPTY = 0.25
# A plane is empty if it has less than this share of what the others have in it.
TRACE = 0.02
AXES = ("left-right", "front-back", "top-bottom")
STEP = 3  # Planes are counted on every third row and column, which is exact enough and fast.


@dataclass
class Voxels:
    """What is remembered of the images of one case.

    Attributes:
        brain: Where any image is neither zero nor NaN, boolean (x, y, z); None without an image.
        nan: Where an image is NaN, of those that have any.
        planes: Of each image and axis, the voxels that are not zero in every plane.
    """

    brain: Array | None = None
    nan: dict[str, Array] = field(default_factory=dict)
    planes: dict[str, list[Array]] = field(default_factory=dict)

    def add(self, name: str, values: Array) -> tuple[Array, list[Fault]]:
        """Take in an image (lps); return its values without NaN, and what is wrong about them."""
        cleaned = nan_as_background(values)
        if cleaned is not values:
            self.nan[name] = np.isnan(values)
        if cleaned.dtype.kind == "f" and np.isinf(cleaned).any():
            infinite: Fault = (
                *("error", "image-not-finite", f"infinity in {name}", "numbers", "replace it"),
            )
            return cleaned, [infinite]
        shown = np.asarray(cleaned != 0)
        if self.brain is None:
            self.brain = shown
        elif self.brain.shape == shown.shape:
            self.brain |= shown
        if self.brain.shape == shown.shape:
            self.planes[name] = _planes(shown)
        return cleaned, list(_range_faults(name, cleaned, int(np.count_nonzero(shown))))

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong about the images side by side."""
        if self.brain is None:
            return
        for name, where in self.nan.items():
            if where.shape == self.brain.shape:
                yield _nan_fault(name, where, self.brain)
        if len(self.planes) > 1:
            brain = _planes(self.brain)
            for name, counts in self.planes.items():
                yield from _empty_faults(name, counts, brain)


def _range_faults(name: str, values: Array, count: int) -> Iterator[Fault]:
    """Yield an error if an image has one grey value, or more than float32 can tell apart.

    Args:
        name: Of the image.
        values: Its voxels, all finite.
        count: How many of them are not zero.
    """
    low, high = values.min(), values.max()
    farthest = high if abs(float(high)) >= abs(float(low)) else low
    step = float(np.spacing(np.float32(abs(float(farthest)))))
    if _is_within(values, farthest, 0, count):
        found = f"{name} is {farthest} wherever it is not zero"
        yield "error", "image-constant", found, "an image", "replace it"
    elif _is_within(values, farthest, LEVELS * step, count):
        found = f"{name} is about {farthest}, where float32 has steps of {step:g}"
        expected = f"a range of more than {LEVELS} steps"
        yield "error", "image-imprecise", found, expected, "subtract what all voxels have in common"


def _is_within(values: Array, farthest: Any, width: float, count: int) -> bool:
    """Return whether all `count` voxels that are not zero lie near the one farthest from zero."""
    near = values >= farthest - width if farthest > 0 else values <= farthest + width
    return count == 0 or np.count_nonzero(near) == count


def _nan_fault(name: str, where: Array, brain: Array) -> Fault:
    """Return an error for NaN inside the brain, and a warning for NaN around it."""
    count = int(np.count_nonzero(where))
    if is_enclosed(where, brain):
        found = f"NaN in {name}, inside the brain"
        return "error", "image-not-finite", found, "numbers there", "replace it"
    return (
        *("warning", "nan-background", f"{count} voxels of {name} are NaN, none inside the brain"),
        *("0 outside the brain", "nothing: they are read as 0"),
    )


def _planes(shown: Array) -> list[Array]:
    """Return how many voxels are true in every plane, for each axis; of a part of them."""
    return [
        shown[:, ::STEP, ::STEP].sum(axis=(1, 2)),
        shown[::STEP, :, ::STEP].sum(axis=(0, 2)),
        shown[::STEP, ::STEP].sum(axis=(0, 1)),
    ]


def _empty_faults(name: str, counts: list[Array], brain: list[Array]) -> Iterator[Fault]:
    """Yield a warning if much of the brain lies in planes where an image is empty."""
    for axis, own, union in zip(AXES, counts, brain, strict=True):
        empty = (own <= TRACE * union) & (union > 0)
        share = union[empty].sum() / max(union.sum(), 1)
        if own.any() and share > EMPTY:
            planes = f"{int(empty.sum())} of {int((union > 0).sum())} planes"
            yield (
                *("warning", "modality-partly-empty"),
                f"{name} is empty in {planes} ({axis}), where the other images show something",
                "the same part of the brain in every image",
                "look at its pictures: is a part of it missing?",
            )
            return
