"""Checks of what one header says: whether it contradicts itself, and what is odd about it."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from nibabel.affines import voxel_sizes

from medtune.geometry.volume import affine_gap_mm
from medtune.media.grid import Grid
from medtune.media.headers import SPACING_MM, SQUARE, Contradiction, contradictions
from medtune.records.case import Volume

# Severity, code, what was found, what was expected, what to do.
Fault = tuple[Literal["error", "warning"], str, str, str, str]
NIFTI_FORMS = ("sform", "qform")
# The cosine of 20 degrees: a grid turned further has no clear axial plane.
STRAIGHT = 0.94


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


def grid_faults(
    name: str, grid: Grid, reference: Grid | None, tolerance_mm: float
) -> Iterator[Fault]:
    """Yield what is wrong or odd about a grid, apart and compared with that of the first image.

    Grids are compared in lps by value, never by qform/sform codes, which differ in sound cases.

    Args:
        name: What the volume is, for messages.
        grid: What was read.
        reference: Grid of the first image; None: this is the first.
        tolerance_mm: Largest distance between the corners of both.
    """
    spacing = voxel_sizes(grid.affine)
    low, high = SPACING_MM
    if spacing.min() < low or spacing.max() > high:
        limits = f"{low} to {high} mm"
        yield "error", "spacing-odd", f"{name}: {spacing} mm", limits, "correct it"
    if not grid.oriented:
        yield (
            *("error", "orientation-unknown"),
            f"the header of {name} does not say how the grid lies in the patient",
            "a qform or sform code above 0, a NRRD space or a TransformMatrix",
            "convert it to NIfTI with its orientation, from the scanner's data",
        )
    if reference is None:
        yield from _oblique_faults(grid)
        yield from _pixel_faults(grid)
        return
    shape, expected = grid.lps.shape, reference.lps.shape
    if shape != expected:
        found = f"{name} has lps shape {shape}"
        yield "error", "shape-mismatch", found, f"{expected}", "resample or replace"
        return
    gap = affine_gap_mm(grid.lps_affine, reference.lps_affine, shape)
    if not gap <= tolerance_mm:
        yield (
            *("error", "affine-mismatch"),
            f"{name} lies up to {gap:.2f} mm away from the first image",
            f"at most {tolerance_mm} mm",
            "replace the file; do not copy headers unless you know the voxels agree",
        )


def _oblique_faults(grid: Grid) -> Iterator[Fault]:
    turn = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    straight = np.abs(turn).max(axis=0).min()
    if straight < STRAIGHT:
        yield (
            *("warning", "oblique"),
            f"the grid is turned by {np.degrees(np.arccos(straight)):.0f} degrees",
            "at most 20 degrees from the patient's axes",
            "resample it to axial slices, or accept slanted frames",
        )


def _pixel_faults(grid: Grid) -> Iterator[Fault]:
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
