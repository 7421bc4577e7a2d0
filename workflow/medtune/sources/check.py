"""Checks of one case's raw files; every file is read to its last byte."""

import hashlib
import os
import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from pydantic import BaseModel

from medtune.errors import DataError
from medtune.geometry import affine_gap_mm
from medtune.media.read import Grid, VolumeReader, check_affine, label_codes
from medtune.media.volume import foreground
from medtune.sections.data import SourceConfig, VerificationConfig
from medtune.sources.base import Case, Volume
from medtune.sources.nearby import is_missing, whats_there

Array = NDArray[Any]
# What a file name says it holds, at its end.
NAMED = re.compile(r"(?:^|[-_.])(t1ce|t1gd|t1c|t1n|t1w|t1|t2w|t2|t2f|flair)(?:\.[a-z.]+)?$")
MEANING = {
    **{"t1c": "t1c", "t1ce": "t1c", "t1gd": "t1c", "t1n": "t1n", "t1w": "t1n", "t1": "t1n"},
    **{"t2w": "t2w", "t2": "t2w", "t2f": "t2f", "flair": "t2f"},
}
SPACING_MM = (0.05, 20.0)
# The cosine of 20 degrees: a grid turned further has no clear axial plane.
STRAIGHT = 0.94
FULL = 0.95


class Finding(BaseModel):
    """One fault (error), or oddity (warning), of one case."""

    code: str
    severity: Literal["error", "warning"]
    case: str
    found: str
    expected: str
    remedy: str


class CheckedCase(BaseModel):
    """What verification learned about a case.

    Attributes:
        case: The case.
        findings: What is wrong or odd.
        files: SHA-256 of every file that was read, by path.
        image_hashes: SHA-256 of each image's voxels in lps, whatever dtype and storage order.
        orientation: Axis codes of the stored grid, such as LPS; empty if it has no sound image.
        spacing: Voxel spacing in mm of the stored grid; empty if it has no sound image.
    """

    case: Case
    findings: list[Finding]
    files: dict[str, str]
    image_hashes: dict[str, str]
    orientation: str
    spacing: list[float]

    @property
    def has_errors(self) -> bool:
        """Whether something in its own files is wrong."""
        return any(finding.severity == "error" for finding in self.findings)


class _Checker:
    """Collects the findings of one case."""

    def __init__(self, case: Case, config: VerificationConfig) -> None:
        self.case, self.config = case, config
        self.reader = VolumeReader()
        self.findings: list[Finding] = []
        self.hashes: dict[str, str] = {}
        self.reference: Grid | None = None
        self.brain: Array | None = None
        # Of images whose corners share a value that is no background: the value.
        self.corners: dict[str, float] = {}

    def report(self, code: str, found: str, expected: str, remedy: str) -> None:
        """Add an error."""
        self._add("error", code, found, expected, remedy)

    def warn(self, code: str, found: str, expected: str, remedy: str) -> None:
        """Add a warning."""
        self._add("warning", code, found, expected, remedy)

    def _add(self, severity: Any, code: str, found: str, expected: str, remedy: str) -> None:
        self.findings.append(
            Finding(
                code=code,
                severity=severity,
                case=self.case.id,
                found=found,
                expected=expected,
                remedy=remedy,
            )
        )

    def attempt(self, code: str, read: Callable[[], Any]) -> Any:
        """Run a reader; its `DataError` becomes a finding and None is returned."""
        try:
            return read()
        except DataError as error:
            self.report(code, f"{error.where}: {error.found}", "a sound file", error.remedy)
            return None

    def open(self, code: str, volume: Volume) -> Grid | None:
        """Read a volume and check that its header places it in the patient."""
        grid: Grid | None = self.attempt(code, partial(self.reader.read, volume))
        if grid is None:
            return None
        before = len(self.findings)
        self.attempt("affine-invalid", partial(check_affine, grid.affine, volume.path))
        return grid if len(self.findings) == before else None


def check_case(
    case: Case, source: SourceConfig, config: VerificationConfig, shown: Collection[str] = ()
) -> CheckedCase:
    """Return all findings of one case.

    Errors: modality-missing, modality-swapped, modality-duplicate, image-unreadable,
    affine-invalid, orientation-unknown, image-not-finite, image-constant, spacing-odd,
    shape-mismatch, affine-mismatch, background-unknown, brain-missing, brain-mask-missing,
    brain-mask-unreadable, mask-missing, mask-unreadable, mask-labels, mask-empty,
    mask-outside-brain. Warnings: background-not-zero, oblique, modality-missing of what is not
    shown, and mask-missing and mask-empty where the source's configuration allows them.

    Args:
        case: The case.
        source: Its source.
        config: What is accepted.
        shown: The modalities that are shown; a case may lack others.
    """
    check = _Checker(case, config)
    _check_images(check, shown)
    _check_mask(check, source)
    reference = check.reference
    return CheckedCase(
        case=case,
        findings=check.findings,
        files=check.reader.hashes,
        image_hashes=check.hashes,
        orientation="".join(aff2axcodes(reference.affine)) if reference else "",
        spacing=[round(float(v), 4) for v in voxel_sizes(reference.affine)] if reference else [],
    )


def check_images(case: Case, shown: Collection[str], config: VerificationConfig) -> list[Finding]:
    """Return what `check_case` finds in the images of a case alone, without a mask."""
    check = _Checker(case, config)
    _check_images(check, shown)
    return check.findings


def _check_images(check: _Checker, shown: Collection[str]) -> None:
    """Check every image that there is or should be, and the brain that they make up."""
    absent = (name for name in check.case.absent if name != "mask")
    for name in dict.fromkeys([*shown, *check.case.images, *absent]):
        _check_image(check, name, shown)
    if not check.case.images:
        check.report("modality-missing", "no image at all", "one or more", "restore them")
    _check_brain_mask(check)
    _check_brain(check)


def _lacks(check: _Checker, path: str) -> str:
    """Say that a file is missing, and what is there instead."""
    taken = {image.path for image in check.case.images.values()} | {check.case.mask or ""}
    return whats_there(Path(path), taken)


def _check_present(check: _Checker, name: str, shown: Collection[str]) -> bool:
    """Return whether there is a file of a modality; else report it, or warn if nobody needs it.

    A file that is named in vain, a dangling link or a folder in its place is an error in any case.
    """
    volume, absent = check.case.images.get(name), check.case.absent.get(name, "")
    if volume is not None and not is_missing(volume.path):
        return True
    path = volume.path if volume else absent
    found = f"{name}: {_lacks(check, path) if path else 'no file is named'}"
    if name in shown or volume or os.path.lexists(absent) or not check.case.images:
        remedy = "restore it, or correct its name or path"
        check.report("modality-missing", found, "a file of each modality", remedy)
    else:
        rest = ", ".join(check.case.images)
        remedy = f"nothing: it is not shown, and the brain is taken from {rest}; or restore it"
        check.warn("modality-missing", found, "a file of each modality", remedy)
    return False


def _check_image(check: _Checker, name: str, shown: Collection[str]) -> None:
    if not _check_present(check, name, shown):
        return
    volume = check.case.images[name]
    _check_name(check, name, volume)
    grid = check.open("image-unreadable", volume)
    if grid is None:
        return
    values = grid.lps
    digest = _content_hash(values)
    twin = next((other for other, known in check.hashes.items() if known == digest), None)
    if twin:
        check.report(
            "modality-duplicate", f"{name} is {twin}", "different images", "restore the right file"
        )
    check.hashes[name] = digest
    inside = _foreground(check, name, values)
    _check_values(check, name, values, inside)
    _check_grid(check, name, grid)
    if check.reference is None:
        check.reference, check.brain = grid, inside
    elif check.brain is not None and values.shape == check.brain.shape:
        check.brain |= inside


def _foreground(check: _Checker, name: str, values: Array) -> Array:
    """Return where an image is not background; everywhere, if that is not known."""
    corners = np.unique(values[np.ix_(*[(0, -1)] * 3)])
    background = check.case.background
    if background is None and len(corners) > 1 and check.case.brain_mask is None:
        check.report(
            "background-unknown",
            f"the corners of {name} hold {corners[0]} to {corners[-1]}",
            "the background, one value",
            "name it as `sources[].background`, or give the table a column brain_mask",
        )
    if len(corners) > 1 and background is None:
        return np.ones(values.shape, dtype=bool)
    known = background is None or not np.isfinite(corners[0])
    if len(corners) == 1 and not known and foreground(corners, background)[0]:
        check.corners[name] = corners[0]
    return foreground(values, background)


def _check_name(check: _Checker, name: str, volume: Volume) -> None:
    """Compare what a file is taken for with what its name says."""
    said = NAMED.search(Path(volume.path).name.lower())
    if said and volume.channel is None and name in MEANING and MEANING[said[1]] != MEANING[name]:
        check.report(
            "modality-swapped",
            f"{name} is read from {Path(volume.path).name}",
            f"a file of {name}",
            "correct the table or the file name",
        )


def _content_hash(values: Array) -> str:
    """Hash the voxels alone: neither compression, header, axis order nor stored dtype matter."""
    return hashlib.sha256(np.ascontiguousarray(values.T, dtype=np.float32).data).hexdigest()


def _check_values(check: _Checker, name: str, values: Array, is_inside: Array) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        check.report("image-not-finite", f"NaN or infinity in {name}", "numbers", "replace it")
        return
    inside = values[is_inside]
    if inside.size == 0 or inside.min() == inside.max():
        shown = inside[0] if inside.size else values.flat[0]
        check.report(
            "image-constant",
            f"{name} is {shown} wherever it is not background",
            "an image",
            "replace it",
        )


def _check_grid(check: _Checker, name: str, grid: Grid) -> None:
    """Compare lps grids by value, never by qform/sform codes, which differ in sound cases."""
    spacing = voxel_sizes(grid.affine)
    low, high = SPACING_MM
    if spacing.min() < low or spacing.max() > high:
        check.report("spacing-odd", f"{name}: {spacing} mm", f"{low} to {high} mm", "correct it")
    if not grid.oriented:
        check.report(
            "orientation-unknown",
            f"the header of {name} does not say how the grid lies in the patient",
            "a qform or sform code above 0, or a NRRD space",
            "write the orientation into the header, from the scanner's data",
        )
    if check.reference is None:
        _check_oblique(check, grid)
        return
    shape, expected = grid.lps.shape, check.reference.lps.shape
    if shape != expected:
        check.report(
            "shape-mismatch", f"{name} has lps shape {shape}", f"{expected}", "resample or replace"
        )
        return
    gap = affine_gap_mm(grid.lps_affine, check.reference.lps_affine, shape)
    if not gap <= check.config.affine_tolerance_mm:
        check.report(
            "affine-mismatch",
            f"{name} lies up to {gap:.2f} mm away from the first image",
            f"at most {check.config.affine_tolerance_mm} mm",
            "replace the file; do not copy headers unless you know the voxels agree",
        )


def _check_oblique(check: _Checker, grid: Grid) -> None:
    turn = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    straight = np.abs(turn).max(axis=0).min()
    if straight < STRAIGHT:
        check.warn(
            "oblique",
            f"the grid is turned by {np.degrees(np.arccos(straight)):.0f} degrees",
            "at most 20 degrees from the patient's axes",
            "resample it to axial slices, or accept slanted frames",
        )


def _check_brain_mask(check: _Checker) -> None:
    """Take the brain from its mask, if the case has one."""
    path = check.case.brain_mask
    if path is None or check.reference is None:
        return
    check.brain = None
    if is_missing(path):
        found = _lacks(check, path)
        check.report("brain-mask-missing", found, "its file", "correct the path or empty the cell")
        return
    grid = check.open("brain-mask-unreadable", Volume(path=path))
    if grid is None:
        return
    _check_grid(check, "brain mask", grid)
    if grid.lps.shape == check.reference.lps.shape:
        check.brain = foreground(grid.lps)


def _check_brain(check: _Checker) -> None:
    if check.reference is None or check.brain is None:
        return
    volume = float(check.brain.sum() * np.prod(voxel_sizes(check.reference.affine)) / 1000)
    if volume < check.config.smallest_brain_ml:
        check.report(
            "brain-missing",
            f"{volume:.1f} mL are not background",
            f"at least {check.config.smallest_brain_ml} mL",
            "replace the images, or lower `verification.smallest_brain_ml`",
        )
    share = check.brain.mean()
    unknown = any(finding.code == "background-unknown" for finding in check.findings)
    if share > FULL and not check.case.brain_mask and not unknown:
        _warn_of_background(check, share)


def _warn_of_background(check: _Checker, share: float) -> None:
    """Warn that the whole grid counts as brain, and say what its background seems to be."""
    background = check.case.background
    zero = "the value of the corners" if background is None else f"{background:g}"
    found = f"{share:.0%} of the grid are not {zero}"
    remedy = "know that crop, window and tumor_ratio are those of the whole grid"
    corners = {name: str(value).removesuffix(".0") for name, value in check.corners.items()}
    values = sorted(set(corners.values()))
    if values:
        named = ", ".join(f"{value} in {name}" for name, value in corners.items())
        found += f"; all corners of the grid hold one value: {named}"
        key = f"background: {values[0] if len(values) == 1 else 'corners'}"
        remedy = f"is that the background? Set `{key}` in this source; else {remedy}"
    expected = f"{zero} outside the brain (skull-stripped)"
    check.warn("background-not-zero", found, expected, remedy)


def _check_mask(check: _Checker, source: SourceConfig) -> None:
    path, absent = check.case.mask, check.case.absent.get("mask", "")
    if path and is_missing(path):
        remedy = "restore it, correct its path, or empty the cell"
        check.report("mask-missing", _lacks(check, path), "the mask's file", remedy)
        return
    if path is None:
        is_wrong = source.masks == "required" or os.path.lexists(absent)
        tell = check.report if is_wrong else check.warn
        tell(
            "mask-missing",
            f"no segmentation{': ' + _lacks(check, absent) if absent else ''}",
            "one mask",
            "restore or rename it, or set `sources[].masks: optional` for cases of inference only",
        )
        return
    grid = check.open("mask-unreadable", Volume(path=path))
    if grid is None:
        return
    _check_grid(check, "mask", grid)
    read = partial(label_codes, grid.lps, check.case.labels, path)
    codes = check.attempt("mask-labels", read)
    if codes is None:
        return
    if not codes.any():
        tell = check.warn if source.tumor_free else check.report
        tell(
            "mask-empty",
            "only background",
            "a tumour",
            "restore it, or set `sources[].tumor_free: true` if there are such cases",
        )
    elif check.brain is not None and codes.shape == check.brain.shape:
        outside = float((codes.astype(bool) & ~check.brain).sum() / codes.astype(bool).sum())
        if outside > check.config.outside_brain:
            check.report(
                "mask-outside-brain",
                f"{outside:.1%} of the mask lie where every image is background",
                f"at most {check.config.outside_brain:.1%}",
                "is it this case's mask, and not mirrored?",
            )
