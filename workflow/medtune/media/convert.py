"""One case: from volumes to a verified video, its truth in the media frame and its geometry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from pydantic import BaseModel

from medtune.config.data import MediaConfig, TargetConfig
from medtune.geometry.volume import Geometry
from medtune.media.grid import Grid
from medtune.media.read import VolumeReader, label_codes
from medtune.media.truth import Truth, figures, find_truth, remove_small_components
from medtune.media.video import encode_verified
from medtune.media.volume import (
    brain_mask,
    foreground,
    nan_as_background,
    plan_geometry,
    region_mask,
    tile_frames,
    window,
)
from medtune.records.case import Case
from medtune.records.sample import Media
from medtune.runtime.errors import DataError
from medtune.runtime.files import sha256

Array = NDArray[Any]


class Converted(BaseModel):
    """A converted case: its media, truth, geometry and figures; no truth without a mask.

    In a shard's table the case is one without files: raw files that only moved change nothing.
    """

    case: Case
    media: Media
    truth: Truth | None
    geometry: Geometry
    meta: dict[str, Any]


def read_target(case: Case, target: TargetConfig, reader: VolumeReader) -> tuple[Array, Grid]:
    """Return the boolean lps mask (x, y, z) of a case's target, specks included, and its grid.

    Raises:
        DataError: The case has no mask, or one with unknown labels.
    """
    if case.mask_volume is None:
        raise DataError(case.id, "has no segmentation", "only its images can be used")
    grid = reader.read(case.mask_volume)
    codes = label_codes(grid.lps, case.labels, case.mask_volume.path)
    return region_mask(codes, case.labels, target.region), grid


def _read_images(case: Case, reader: VolumeReader) -> tuple[dict[str, Array], Grid]:
    """Return the lps voxels of every modality, and the grid of the first."""
    volumes: dict[str, Array] = {}
    reference: Grid | None = None
    for name, volume in case.images.items():
        grid = reader.read(volume)
        reference = reference or grid
        volumes[name] = grid.lps
        if volumes[name].shape != reference.lps.shape:
            raise DataError(case.id, f"{name} differs in shape", "run `medtune verify`")
    if reference is None:
        raise DataError(case.id, "has no images", "run `medtune verify`")
    return volumes, reference


def _read_brain(case: Case, volumes: Mapping[str, Array], reader: VolumeReader) -> Array:
    """Return where the brain is (boolean, lps): its mask, or what no image has as background."""
    if case.brain_volume is None:
        return brain_mask(volumes, case.background)
    brain = foreground(reader.read(case.brain_volume).lps)
    if brain.shape != next(iter(volumes.values())).shape:
        raise DataError(case.id, "brain mask and images differ in shape", "run `medtune verify`")
    return brain


def convert_case(
    case: Case,
    target: TargetConfig,
    config: MediaConfig,
    folder: Path,
    hashes: Mapping[str, str] | None = None,
) -> Converted:
    """Write `folder/<case id>.mp4` and return what belongs to it. Each file is read once.

    Args:
        case: A verified case.
        target: What is looked for.
        config: The media section.
        folder: Where the video goes.
        hashes: SHA-256 of the files when they were verified, by path.

    Raises:
        DataError: The files do not fit together or were changed since they were verified, or the
            video does not decode to its frames.
    """
    reader = VolumeReader()
    volumes, grid = _read_images(case, reader)
    lacking = [name for name in config.modalities if name not in volumes]
    if lacking:
        raise DataError(case.id, f"has no {', '.join(lacking)}", "run `medtune verify`")
    brain = _read_brain(case, volumes, reader)
    mask = read_target(case, target, reader)[0] if case.mask else None
    _check_unchanged(reader, hashes or {})
    if mask is not None and mask.shape != brain.shape:
        raise DataError(case.id, "mask and images differ in shape", "run `medtune verify`")
    geometry = plan_geometry(grid, brain, config)
    images = [nan_as_background(volumes[name]) for name in config.modalities]
    frames = tile_frames(
        [window(image, brain, config.window, geometry.crop) for image in images], geometry
    )
    path = folder / f"{case.case_id}.mp4"
    encode_verified(path, frames, config.fps, config.codec)
    media = Media(
        kind="video",
        path=path.name,
        width=frames.shape[2],
        height=frames.shape[1],
        frames=frames.shape[0],
        fps=config.fps,
        sha256=sha256(path),
    )
    meta: dict[str, Any] = {
        "modalities": list(config.modalities),
        "window": list(config.window),
        "region": target.region,
        "spacing_mm": [float(v) for v in voxel_sizes(grid.lps_affine)],
    }
    if case.groups:
        meta["groups"] = case.groups
    truth = None
    if mask is not None:
        truth, known = _describe(mask, brain, geometry, target)
        meta |= known
    return Converted(case=case, media=media, truth=truth, geometry=geometry, meta=meta)


def _check_unchanged(reader: VolumeReader, verified: Mapping[str, str]) -> None:
    for path, digest in reader.hashes.items():
        if verified.get(path, digest) != digest:
            raise DataError(path, "was changed since it was verified", "run `snakemake -R verify`")


def _describe(
    mask: Array, brain: Array, geometry: Geometry, target: TargetConfig
) -> tuple[Truth, dict[str, Any]]:
    """Return truth and figures of a target mask (lps), after its specks are taken away."""
    voxel_mm3 = abs(float(np.linalg.det(np.array(geometry.affine)[:3, :3])))
    cleaned, before, after = remove_small_components(mask, target.min_component_mm3, voxel_mm3)
    truth, boxes = find_truth(cleaned, brain, geometry)
    known = {"components": before, "components_kept": after, "frame_boxes": boxes}
    return truth, known | figures(cleaned, geometry)
