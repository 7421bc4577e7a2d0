"""Checks of one case's raw files; every file is read to its last byte."""

import hashlib
import re
from collections.abc import Callable, Iterable
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
from medtune.media.grid import Grid
from medtune.media.headers import SPACING_MM, HeaderError
from medtune.media.read import VolumeReader, check_affine, label_codes
from medtune.sections.data import SourceConfig, VerificationConfig
from medtune.sources import get_source
from medtune.sources.base import Case, Volume
from medtune.sources.brats import RELEASES, named_alike
from medtune.sources.check_headers import Fault, header_faults, pixel_faults
from medtune.sources.check_voxels import Voxels

Array = NDArray[Any]
# What a file name says it holds, at its end.
NAMED = re.compile(r"(?:^|[-_.])(t1ce|t1gd|t1c|t1n|t1w|t1|t2w|t2|t2f|flair)(?:\.[a-z.]+)?$")
MEANING = {
    **{"t1c": "t1c", "t1ce": "t1c", "t1gd": "t1c", "t1n": "t1n", "t1w": "t1n", "t1": "t1n"},
    **{"t2w": "t2w", "t2": "t2w", "t2f": "t2f", "flair": "t2f"},
}
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
        labels_ml: Volume of every label in mL; empty without a sound mask.
        kind: Kind of its source.
        tumor_free: Whether its source may hold cases without a tumor.
    """

    case: Case
    findings: list[Finding]
    files: dict[str, str]
    image_hashes: dict[str, str]
    orientation: str
    spacing: list[float]
    labels_ml: dict[str, float] = {}
    kind: str = ""
    tumor_free: bool = False

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
        self.voxels = Voxels()
        self.labels_ml: dict[str, float] = {}

    @property
    def brain(self) -> Array | None:
        """Where any image is not zero."""
        return self.voxels.brain

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

    def add(self, faults: Iterable[Fault]) -> bool:
        """Add faults; return whether one is an error."""
        added = list(faults)
        for fault in added:
            self._add(*fault)
        return any(severity == "error" for severity, *_ in added)

    def attempt(self, code: str, read: Callable[[], Any]) -> Any:
        """Run a reader; its `DataError` becomes a finding and None is returned."""
        try:
            return read()
        except DataError as error:
            code = "header-contradiction" if isinstance(error, HeaderError) else code
            self.report(code, f"{error.where}: {error.found}", "a sound file", error.remedy)
            return None

    def open(self, code: str, name: str, volume: Volume) -> Grid | None:
        """Read a volume and check that its header places it in the patient, once."""
        grid: Grid | None = self.attempt(code, partial(self.reader.read, volume))
        tolerance = self.config.affine_tolerance_mm
        if grid is None or self.add(header_faults(name, volume, grid, tolerance)):
            return None
        before = len(self.findings)
        self.attempt("affine-invalid", partial(check_affine, grid.affine, volume.path))
        return grid if len(self.findings) == before else None


def check_case(case: Case, source: SourceConfig, config: VerificationConfig) -> CheckedCase:
    """Return all findings of one case.

    Errors: modality-missing, modality-swapped, modality-duplicate, image-unreadable,
    affine-invalid, orientation-unknown, image-not-finite, image-constant, spacing-odd,
    shape-mismatch, affine-mismatch, brain-missing, mask-missing, mask-unreadable, mask-labels,
    mask-empty, mask-outside-brain, header-contradiction, image-imprecise. Warnings:
    background-not-zero, oblique, pixels-not-square, header-odd, nan-background,
    modality-partly-empty, and mask-missing, mask-empty and header-contradiction where the
    source's configuration allows them.
    """
    check = _Checker(case, config)
    for name in get_source(source).modalities:
        _check_image(check, name)
    check.add(check.voxels.faults())
    _check_brain(check)
    _check_mask(check, source)
    reference = check.reference
    return CheckedCase(
        case=case,
        findings=check.findings,
        files=check.reader.hashes,
        image_hashes=check.hashes,
        orientation="".join(aff2axcodes(reference.affine)) if reference else "",
        spacing=[round(float(v), 4) for v in voxel_sizes(reference.affine)] if reference else [],
        labels_ml=check.labels_ml,
        kind=source.kind,
        tumor_free=source.tumor_free,
    )


def check_images(
    case: Case, modalities: Iterable[str], config: VerificationConfig
) -> list[Finding]:
    """Return what `check_case` finds in some images of a case alone, without a mask."""
    check = _Checker(case, config)
    for name in modalities:
        _check_image(check, name)
    check.add(check.voxels.faults())
    _check_brain(check)
    return check.findings


def _check_image(check: _Checker, name: str) -> None:
    volume = check.case.images.get(name)
    if volume is None:
        check.report("modality-missing", f"no {name} file", "every modality", "restore it")
        return
    _check_name(check, name, volume)
    grid = check.open("image-unreadable", name, volume)
    if grid is None:
        return
    values, faults = check.voxels.add(name, grid.lps)
    check.add(faults)
    digest = _content_hash(values)
    twin = next((other for other, known in check.hashes.items() if known == digest), None)
    if twin:
        check.report(
            "modality-duplicate", f"{name} is {twin}", "different images", "restore the right file"
        )
    check.hashes[name] = digest
    _check_grid(check, name, grid)
    check.reference = check.reference or grid


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
            "a qform or sform code above 0, a NRRD space or a TransformMatrix",
            "convert it to NIfTI with its orientation, from the scanner's data",
        )
    if check.reference is None:
        _check_oblique(check, grid)
        check.add(pixel_faults(grid))
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


def _check_brain(check: _Checker) -> None:
    if check.reference is None or check.brain is None:
        return
    volume = float(check.brain.sum() * np.prod(voxel_sizes(check.reference.affine)) / 1000)
    if volume < check.config.smallest_brain_ml:
        check.report(
            "brain-missing",
            f"{volume:.1f} mL are not zero",
            f"at least {check.config.smallest_brain_ml} mL",
            "replace the images, or lower `verification.smallest_brain_ml`",
        )
    share = check.brain.mean()
    if share > FULL:
        check.warn(
            "background-not-zero",
            f"{share:.0%} of the grid are not zero",
            "zero outside the brain (skull-stripped)",
            "know that crop, window and tumor_ratio are those of the whole grid",
        )


def _check_mask(check: _Checker, source: SourceConfig) -> None:
    volume = check.case.mask_volume
    if volume is None:
        tell = check.warn if source.masks == "optional" else check.report
        tell(
            "mask-missing",
            "no segmentation",
            "one mask",
            "restore it, or set `sources[].masks: optional` to use the case for inference only",
        )
        return
    grid = check.open("mask-unreadable", "mask", volume)
    if grid is None:
        return
    _check_grid(check, "mask", grid)
    codes = check.attempt("mask-labels", partial(_label_codes, grid, check.case.labels, volume))
    if codes is None:
        _name_other_releases(check, source)
        return
    check.labels_ml = _volumes(codes, check.case.labels, grid)
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
                f"{outside:.1%} of the mask lie where every image is zero",
                f"at most {check.config.outside_brain:.1%}",
                "is it this case's mask, and not mirrored?",
            )


def _label_codes(grid: Grid, labels: dict[int, str], volume: Volume) -> Array:
    """Return a mask's codes; an error names what its header multiplies and adds."""
    try:
        return label_codes(grid.lps, labels, volume.path)
    except DataError as error:
        if grid.header.scaling is None:
            raise
        slope, intercept = grid.header.scaling
        raise DataError(
            error.where,
            f"{error.found}; its header turns stored codes v into {slope:g} v + {intercept:g}",
            "set scl_slope to 1 and scl_inter to 0, if the stored codes are the labels",
        ) from None


def _volumes(codes: Array, labels: dict[int, str], grid: Grid) -> dict[str, float]:
    """Return the volume of every label in mL, those that are not there included."""
    flat = codes.ravel(order="K")  # as it lies in memory: no copy
    counts = np.bincount(flat[flat != 0], minlength=max(labels) + 1)
    voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
    volumes = {name: 0.0 for code, name in labels.items() if code}
    for code, name in labels.items():
        if code:
            volumes[name] += round(float(counts[code]) * voxel_ml, 6)
    return volumes


def unknown_codes(finding: Finding) -> list[int]:
    """Return the codes of a mask, as a finding names them, that its source does not know."""
    listed = re.search(r"unknown labels \[([-\d, ]+)\]", finding.found)
    return [int(code) for code in listed[1].split(",")] if listed else []


def _name_other_releases(check: _Checker, source: SourceConfig) -> None:
    """Say which releases with the same names know the codes of a mask that are unknown."""
    last = check.findings[-1]
    unknown = set(unknown_codes(last))
    known = [
        f"`{kind}`, which names its cases alike, has "
        + ", ".join(f"{code} {name}" for code, name in RELEASES[kind].labels.items() if code)
        for kind in named_alike(source.kind)
        if unknown and unknown <= RELEASES[kind].labels.keys()
    ]
    if known:
        hint = f"{last.remedy}: {'; '.join(known)}" + "; until 2021 code 4 was ET" * (4 in unknown)
        check.findings[-1] = last.model_copy(update={"remedy": hint})
