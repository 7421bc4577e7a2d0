"""What a volume's header says about where its voxels lie, and whether it says so once.

A header places its voxels several times over: a NIfTI by its sform, by its qform and by the sizes
in pixdim, a NRRD by `space directions` and `spacings`. Readers choose one of them in silence, and
not all the same one; here all are kept, and compared where they matter: at the corners of the
grid, in millimeters. Codes and letters are never compared, for they differ in sound files.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

from medtune.runtime.errors import DataError

Array = NDArray[Any]
SPACING_MM = (0.05, 20.0)
# A pixel this many times as long as it is wide changes what a lesion looks like.
SQUARE = 1.5
ROUNDING_MM = 0.001  # of float32 and of numbers in text, at the far end of a grid
UNITS_MM = {
    **{"m": 1000.0, "metre": 1000.0, "meter": 1000.0, "cm": 10.0, "mm": 1.0, "millimeter": 1.0},
    **{"millimetre": 1.0, "um": 0.001, "µm": 0.001, "μm": 0.001, "micron": 0.001},
    **{"micrometer": 0.001, "micrometre": 0.001, "": 1.0, "?": 1.0, "unknown": 1.0},
}


class HeaderError(DataError):
    """Two statements of one header cannot both be right."""


@dataclass(frozen=True)
class Statement:
    """One statement of a header about where voxels lie.

    Attributes:
        name: What the format calls it.
        affine: 4x4 matrix from voxel centers to RAS mm.
        fault: Why it cannot be, or empty.
        slack: Radians by which its stored numbers leave the grid's rotation open.
    """

    name: str
    affine: Array
    fault: str = ""
    slack: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether it can be."""
        finite = bool(np.isfinite(self.affine).all())
        return not self.fault and finite and bool((voxel_sizes(self.affine) > 0).all())

    @property
    def reading(self) -> str:
        """What it says, in words."""
        if not self.is_sound:
            return f"{self.name}: {self.fault or self.affine[:3].tolist()}"
        sizes = voxel_sizes(self.affine)
        axes = "".join(axis or "?" for axis in aff2axcodes(self.affine))
        first = ", ".join(f"{v:.5g}" for v in self.affine[:3, 3] + 0.0)
        size = f"{shown_mm(sizes)} ({np.prod(sizes):.4g} mm3 a voxel)"
        return f"{self.name}: {size}, stored as {axes}, first voxel at {first}"


@dataclass(frozen=True)
class Header:
    """What a header says besides shape and type.

    Attributes:
        statements: Where the voxels lie, again and again; the first is the one that is used.
        remarks: What is odd, but leaves no doubt about the voxels.
        scaling: Slope and intercept that stored values were scaled by, or None.
    """

    statements: tuple[Statement, ...] = ()
    remarks: tuple[str, ...] = ()
    scaling: tuple[float, float] | None = None


@dataclass(frozen=True)
class Contradiction:
    """Two statements of a header that differ.

    Attributes:
        used: The one that is used.
        other: The other.
        gap: Largest distance in mm between the corners of the grid; NaN if one cannot be.
    """

    used: Statement
    other: Statement
    gap: float

    @property
    def found(self) -> str:
        """Both readings and how far they are apart, in words."""
        by = f"; {self.gap:.2f} mm apart at the corners of the grid" if self.gap == self.gap else ""
        return f"{self.used.reading}; {self.other.reading}{by}"


def contradictions(
    header: Header, shape: Sequence[int], tolerance_mm: float
) -> Iterator[Contradiction]:
    """Yield every statement that differs from the first, or cannot be while another can.

    Args:
        header: The header.
        shape: Shape of the grid.
        tolerance_mm: Largest distance between the corners of the grid that is none, beyond what
            the stored numbers leave open.
    """
    used, *others = header.statements or (None,)
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in shape[:3]])))
    for other in others:
        assert used is not None
        if not (used.is_sound and other.is_sound):
            yield Contradiction(used, other, np.nan)
            continue
        here = apply_affine(used.affine, corners)
        gaps = np.linalg.norm(here - apply_affine(other.affine, corners), axis=1)
        reach = np.linalg.norm(here - here[0], axis=1)
        allowed = max(tolerance_mm, ROUNDING_MM) + max(used.slack, other.slack) * reach
        if not (gaps <= allowed).all():
            yield Contradiction(used, other, float(gaps.max()))


def shown_mm(sizes: Sequence[float] | Array) -> str:
    """Return sizes as text: 1 x 1 x 5.5 mm."""
    return " x ".join(f"{size:.5g}" for size in sizes) + " mm"


def resized(affine: Array, sizes: Sequence[float] | Array) -> Array:
    """Return an affine with voxels of other sizes in the same directions."""
    lengths = voxel_sizes(affine)
    scaled = affine.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled[:3, :3] *= np.asarray(sizes, dtype=float) / lengths
    return scaled


def scale_to_mm(affine: Array, unit: str, where: object) -> float:
    """Return the factor that turns a header's unit into mm.

    Args:
        affine: 4x4 matrix in that unit.
        unit: Its name; none means mm.
        where: The file, for messages.

    Raises:
        HeaderError: Voxels would have an odd size in this unit, and none in mm.
        DataError: The unit is unknown.
    """
    factor = UNITS_MM.get(unit.strip().lower())
    if factor is None:
        raise DataError(where, f"its unit of length is {unit!r}", "write it anew, in mm")
    sizes, (low, high) = voxel_sizes(affine), SPACING_MM
    if factor != 1 and not _within(sizes * factor, low, high) and _within(sizes, low, high):
        raise HeaderError(
            where,
            f"its unit code says {unit}: voxels of {shown_mm(sizes * factor)}; "
            f"its numbers look like mm: {shown_mm(sizes)}",
            "write the unit that holds into the header (NIfTI: xyzt_units 2 is mm)",
        )
    return factor


def _within(sizes: Array, low: float, high: float) -> bool:
    return bool((sizes >= low).all() and (sizes <= high).all())
