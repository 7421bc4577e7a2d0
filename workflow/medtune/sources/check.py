"""Checks of one case's raw files; every file is read to its last byte."""

import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

from medtune.config.data import SourceConfig, VerificationConfig
from medtune.media.grid import Grid
from medtune.media.volume import foreground
from medtune.records.case import Case, Volume
from medtune.records.issue import CheckedCase, Issue
from medtune.sources.check_mask import check_mask
from medtune.sources.checker import Checker
from medtune.sources.nearby import is_missing

Array = NDArray[Any]
# What a file name says it holds, at its end.
NAMED = re.compile(r"(?:^|[-_.])(t1ce|t1gd|t1c|t1n|t1w|t1|t2w|t2|t2f|flair)(?:\.[a-z.]+)?$")
MEANING = {
    **{"t1c": "t1c", "t1ce": "t1c", "t1gd": "t1c", "t1n": "t1n", "t1w": "t1n", "t1": "t1n"},
    **{"t2w": "t2w", "t2": "t2w", "t2f": "t2f", "flair": "t2f"},
}
FULL = 0.95


def check_case(
    case: Case, source: SourceConfig, config: VerificationConfig, shown: Collection[str] = ()
) -> CheckedCase:
    """Return all findings of one case.

    Errors: modality-missing, modality-swapped, modality-duplicate, image-unreadable,
    affine-invalid, orientation-unknown, image-not-finite, image-constant, spacing-odd,
    shape-mismatch, affine-mismatch, background-unknown, brain-missing, brain-mask-missing,
    brain-mask-unreadable, mask-missing, mask-unreadable, mask-labels, mask-empty,
    mask-outside-brain, header-contradiction, image-imprecise. Warnings: background-not-zero,
    oblique, pixels-not-square, header-odd, nan-background, modality-partly-empty,
    modality-missing of what is not shown, and mask-missing, mask-empty and header-contradiction
    where the source's configuration allows them.

    Args:
        case: The case.
        source: Its source.
        config: What is accepted.
        shown: The modalities that are shown; a case may lack others.
    """
    check = Checker(case, config)
    _check_images(check, shown)
    check_mask(check, source)
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
        allow_empty_masks=source.allow_empty_masks,
    )


def check_images(case: Case, shown: Collection[str], config: VerificationConfig) -> list[Issue]:
    """Return what `check_case` finds in the images of a case alone, without a mask."""
    check = Checker(case, config)
    _check_images(check, shown)
    return check.findings


def _check_images(check: Checker, shown: Collection[str]) -> None:
    """Check every image that there is or should be, and the brain that they make up."""
    brain_mask = _read_brain_mask(check)
    absent = (name for name in check.case.absent if name != "mask")
    names = list(dict.fromkeys([*shown, *check.case.images, *absent]))
    for name in names:
        _check_image(check, name, shown)
    if not names:
        check.report("modality-missing", "no image at all", "one or more", "restore them")
    if brain_mask and check.reference:
        check.check_grid("brain mask", brain_mask)
    check.add(check.voxels.faults())
    _check_brain(check)


def _check_present(check: Checker, name: str, shown: Collection[str]) -> bool:
    """Return whether there is a file of a modality; else report it, or warn if nobody needs it.

    A file that is named in vain, a dangling link or a folder in its place is an error in any case.
    """
    volume, absent = check.case.images.get(name), check.case.absent.get(name, "")
    if volume is not None and not is_missing(volume.path):
        return True
    path = volume.path if volume else absent
    found = f"{name}: {check.lacks(path) if path else 'no file is named'}"
    if name in shown or volume or os.path.lexists(absent) or not check.case.images:
        remedy = "restore it, or correct its name or path"
        check.report("modality-missing", found, "a file of each modality", remedy)
    else:
        rest = ", ".join(check.case.images)
        remedy = f"nothing: it is not shown, and the brain is taken from {rest}; or restore it"
        check.warn("modality-missing", found, "a file of each modality", remedy)
    return False


def _check_image(check: Checker, name: str, shown: Collection[str]) -> None:
    if not _check_present(check, name, shown):
        return
    volume = check.case.images[name]
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
    check.check_grid(name, grid)
    check.reference = check.reference or grid


def _check_name(check: Checker, name: str, volume: Volume) -> None:
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


def _read_brain_mask(check: Checker) -> Grid | None:
    """Read the mask of the brain, if the case has one, which holds for all its images."""
    volume = check.case.brain_volume
    if volume is None:
        return None
    if is_missing(volume.path):
        found = check.lacks(volume.path)
        check.report("brain-mask-missing", found, "its file", "correct the path or empty the cell")
        return None
    grid = check.open("brain-mask-unreadable", "brain mask", volume)
    if grid is not None:
        check.voxels.given = foreground(grid.lps)
    return grid


def _check_brain(check: Checker) -> None:
    if check.reference is None or check.brain is None:
        return
    volume = float(check.brain.sum() * np.prod(voxel_sizes(check.reference.affine)) / 1000)
    if volume < check.config.min_brain_ml:
        check.report(
            "brain-missing",
            f"{volume:.1f} mL are not background",
            f"at least {check.config.min_brain_ml} mL",
            "replace the images, or lower `verification.min_brain_ml`",
        )
    if check.case.brain_mask:
        return
    for name, (low, high) in check.voxels.unknown.items():
        check.report(
            "background-unknown",
            f"the corners of {name} hold {low} to {high}",
            "the background, one value",
            "name it as `sources[].background`, or give the table a column brain_mask",
        )
    share = check.brain.mean()
    if share > FULL and not check.voxels.unknown:
        _warn_of_background(check, share)


def _warn_of_background(check: Checker, share: float) -> None:
    """Warn that the whole grid counts as brain, and say what its background seems to be."""
    background = check.case.background
    zero = "the value of the corners" if background is None else f"{background:g}"
    found = f"{share:.0%} of the grid are not {zero}"
    remedy = "know that crop, window and tumor_ratio are those of the whole grid"
    corners = {name: str(value).removesuffix(".0") for name, value in check.voxels.corners.items()}
    values = sorted(set(corners.values()))
    if values:
        named = ", ".join(f"{value} in {name}" for name, value in corners.items())
        found += f"; all corners of the grid hold one value: {named}"
        key = f"background: {values[0] if len(values) == 1 else 'corners'}"
        remedy = f"is that the background? Set `{key}` in this source; else {remedy}"
    expected = f"{zero} outside the brain (skull-stripped)"
    check.warn("background-not-zero", found, expected, remedy)
