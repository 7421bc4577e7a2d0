"""Checks of the voxels of one case's images, apart and side by side."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medtune.media.headers import Array
from medtune.media.volume import corner_values, foreground, is_enclosed, nan_as_background
from medtune.sources.check_headers import Fault

# Gray levels that a picture has; float32, in which images are shown, must tell as many apart.
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
        background: Value outside the brain; None: what the corners of each image share.
        given: Mask of the brain, boolean (x, y, z), which goes before `background`; None: none.
        shown: Where any image is in the `foreground`, within the mask if there is one.
        nan: Where an image is NaN, of those that have any.
        planes: Of each image and axis, the voxels in every plane that are foreground.
        unknown: Of images whose corners differ, though they should tell the background: the least
            and the greatest value there. Their foreground is everywhere.
        corners: Of images whose corners share a value that is no background: the value.
    """

    background: float | None = 0.0
    given: Array | None = None
    shown: Array | None = None
    nan: dict[str, Array] = field(default_factory=dict)
    planes: dict[str, list[Array]] = field(default_factory=dict)
    unknown: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    corners: dict[str, Any] = field(default_factory=dict)

    @property
    def brain(self) -> Array | None:
        """Where the brain is, just as it is converted; None without an image."""
        return self.shown if self.given is None else self.given

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
        self._look_at_corners(name, values)
        if name in self.unknown:
            shown = np.ones(values.shape, dtype=bool)
        else:
            shown = foreground(values, self.background)
        if self.given is not None and self.given.shape == shown.shape:
            shown &= self.given
        self._remember(name, shown)
        return cleaned, list(_range_faults(name, cleaned[shown], values.flat[0]))

    def _remember(self, name: str, shown: Array) -> None:
        if self.shown is None:
            self.shown = shown
        elif self.shown.shape == shown.shape:
            self.shown |= shown
        if self.shown.shape == shown.shape:
            self.planes[name] = _planes(shown)

    def _look_at_corners(self, name: str, values: Array) -> None:
        """Remember corners that differ where they should tell, or tell something else."""
        corners = corner_values(values)
        if self.background is None:
            if len(corners) > 1:
                self.unknown[name] = (corners[0], corners[-1])
        elif len(corners) == 1 and foreground(corners, self.background)[0]:
            self.corners[name] = corners[0]

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong about the images side by side."""
        if self.brain is None or self.shown is None:
            return
        for name, where in self.nan.items():
            if where.shape == self.brain.shape:
                yield _nan_fault(name, where, self.brain)
        if len(self.planes) > 1:
            planes = _planes(self.shown)
            for name, counts in self.planes.items():
                yield from _empty_faults(name, counts, planes)


def _range_faults(name: str, inside: Array, first: Any) -> Iterator[Fault]:
    """Yield an error if an image has one gray value, or more than float32 can tell apart.

    Args:
        name: Of the image.
        inside: Its voxels that are not background, all finite.
        first: Any voxel, to be named where there are none.
    """
    low, high = (inside.min(), inside.max()) if inside.size else (first, first)
    step = float(np.spacing(np.float32(max(abs(float(low)), abs(float(high))))))
    if inside.size == 0 or low == high:
        where = "wherever it is not background" if inside.size else "in the whole brain"
        found = f"{name} is {low} {where}"
        yield "error", "image-constant", found, "an image", "replace it"
    elif float(high) - float(low) <= LEVELS * step:
        found = f"{name} is about {high}, where float32 has steps of {step:g}"
        expected = f"a range of more than {LEVELS} steps"
        yield "error", "image-imprecise", found, expected, "subtract what all voxels have in common"


def _nan_fault(name: str, where: Array, brain: Array) -> Fault:
    """Return an error for NaN inside the brain, and a warning for NaN around it."""
    count = int(np.count_nonzero(where))
    if is_enclosed(where, brain):
        found = f"NaN in {name}, inside the brain"
        return "error", "image-not-finite", found, "numbers there", "replace it"
    return (
        *("warning", "nan-background", f"{count} voxels of {name} are NaN, none inside the brain"),
        *("numbers outside the brain", "nothing: they are read as background"),
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
