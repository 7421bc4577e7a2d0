"""Checks of a case's segmentation."""

import os
import re
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtune.config.data import SourceConfig
from medtune.media.grid import Grid
from medtune.media.read import label_codes
from medtune.records.case import Volume
from medtune.records.issue import Issue
from medtune.runtime.errors import DataError
from medtune.sources.brain.brats import RELEASES, named_alike
from medtune.sources.checker import Checker
from medtune.sources.nearby import is_missing

Array = NDArray[Any]


def check_mask(check: Checker, source: SourceConfig) -> None:
    """Check the segmentation of a case whose images have been checked."""
    volume, absent = check.case.mask_volume, check.case.absent.get("mask", "")
    if volume and is_missing(volume.path):
        remedy = "restore it, correct its path, or empty the cell"
        check.report("mask-missing", check.lacks(volume.path), "the mask's file", remedy)
        return
    if volume is None:
        is_wrong = source.masks == "required" or os.path.lexists(absent)
        tell = check.report if is_wrong else check.warn
        tell(
            "mask-missing",
            f"no segmentation{': ' + check.lacks(absent) if absent else ''}",
            "one mask",
            "restore or rename it, or set `sources[].masks: optional` for cases of inference only",
        )
        return
    grid = check.open("mask-unreadable", "mask", volume)
    if grid is None:
        return
    check.check_grid("mask", grid)
    codes = check.attempt("mask-labels", partial(_label_codes, grid, check.case.labels, volume))
    if codes is None:
        _name_other_releases(check, source)
        return
    check.labels_ml = _volumes(codes, check.case.labels, grid)
    if not codes.any():
        tell = check.warn if source.allow_empty_masks else check.report
        tell(
            "mask-empty",
            "only background",
            "a tumor",
            "restore it, or set `sources[].allow_empty_masks: true` if there are such cases",
        )
    elif check.brain is not None and codes.shape == check.brain.shape:
        outside = float((codes.astype(bool) & ~check.brain).sum() / codes.astype(bool).sum())
        if outside > check.config.max_mask_outside_brain:
            check.report(
                "mask-outside-brain",
                f"{outside:.1%} of the mask lie where every image is background",
                f"at most {check.config.max_mask_outside_brain:.1%}",
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


def unknown_codes(finding: Issue) -> list[int]:
    """Return the codes of a mask, as a finding names them, that its source does not know."""
    listed = re.search(r"unknown labels \[([-\d, ]+)\]", finding.found)
    return [int(code) for code in listed[1].split(",")] if listed else []


def _name_other_releases(check: Checker, source: SourceConfig) -> None:
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
