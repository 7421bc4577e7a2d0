"""Checks of what one header says: whether it contradicts itself, and what is odd about it."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from nibabel.affines import voxel_sizes

from medtune.media.grid import Grid
from medtune.media.headers import Contradiction, contradictions
from medtune.sources.base import Volume

# Severity, code, what was found, what was expected, what to do.
Fault = tuple[Literal["error", "warning"], str, str, str, str]
NIFTI_FORMS = ("sform", "qform")
# A pixel this many times as long as it is wide changes what a lesion looks like.
SQUARE = 1.5


def header_faults(name: str, volume: Volume, grid: Grid, tolerance_mm: float) -> Iterator[Fault]:
    """Yield what is wrong or odd about the header of a volume.

    A contradiction is an error, unless the source declares which form holds.

    Args:
        name: What the volume is, for messages.
        volume: Where it lies, and which form places it.
        grid: What was read.
        tolerance_mm: Largest distance at the corners of the grid that is no contradiction.
    """
    for one in contradictions(grid.header, grid.values.shape, tolerance_mm):
        declared = volume.nifti_form == one.used.name and one.used.is_sound
        remedy = "write one of them into the header, the right one by another viewer"
        if declared:
            remedy = f"nothing: `sources[].nifti_form: {volume.nifti_form}` says which one holds"
        elif one.used.name in NIFTI_FORMS:
            remedy = (
                "find out in another viewer which one is right, and set `sources[].nifti_form` "
                f"(predict-case: --nifti-form) to {_declarable(one)}, or correct the header"
            )
        severity: Literal["error", "warning"] = "warning" if declared else "error"
        expected = f"at most {tolerance_mm} mm between what one header says"
        yield severity, "header-contradiction", f"{name}: {one.found}", expected, remedy
    if len(grid.header.statements) == 1 and not grid.header.statements[0].is_sound:
        (only,) = grid.header.statements
        found = f"{name}: {only.reading}"
        yield "error", "affine-invalid", found, "a grid in the patient", "correct the header"
    for remark in grid.header.remarks:
        yield (
            *("warning", "header-odd", f"{name}: {remark}", "a header by the format's standard"),
            "look at its pictures, or write the file anew",
        )


def _declarable(one: Contradiction) -> str:
    """Return the values of `nifti_form` that may hold."""
    statements = [each for each in (one.used, one.other) if each.is_sound]
    return " or ".join(f"`{each.name}`" for each in statements if each.name in NIFTI_FORMS)


def pixel_faults(grid: Grid) -> Iterator[Fault]:
    """Yield a warning if the pixels of axial slices are far from square, as of sagittal scans."""
    width, height, _ = voxel_sizes(grid.lps_affine)
    ratio = max(width, height) / min(width, height)
    if ratio > SQUARE:
        x, y = np.array(grid.lps.shape[:2]) * (width, height)
        yield (
            *("warning", "pixels-not-square"),
            f"a pixel of an axial slice is {width:.3g} x {height:.3g} mm (a sagittal scan?)",
            f"sides that differ by at most {SQUARE} times",
            f"resample it, or choose a `media.tile_size` in the proportion {x:.0f} : {y:.0f}",
        )
