"""One case: from volumes to a verified video, its truth in the media frame and its geometry."""

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from pydantic import BaseModel

from medtune.config import MediaConfig
from medtune.errors import DataError
from medtune.files import sha256
from medtune.geometry import Box, Geometry, mask_box, to_lps
from medtune.media.video import encode_verified
from medtune.media.volume import (
    VolumeReader,
    brain_mask,
    plan_geometry,
    read_labels,
    region_mask,
    tile_frames,
    window,
)
from medtune.schema import Media
from medtune.sources.base import Case

Array = NDArray[Any]


class Truth(BaseModel):
    """What is true of a target region, in the media frame; null where there is none.

    Attributes:
        bbox_3d: Tight half-open box, exact (fractional where pixels do not divide voxels).
        peak_slice: Shown frame with the largest target area, the lowest index on a tie.
        tumor_ratio: Target voxels over brain voxels of the whole volume, 0..1.
    """

    bbox_3d: Box | None
    peak_slice: int | None
    tumor_ratio: float


class Converted(BaseModel):
    """A converted case: its media, truth, geometry and a few figures worth keeping."""

    case: Case
    media: Media
    truth: Truth
    geometry: Geometry
    meta: dict[str, Any]


def find_truth(target: Array, brain: Array, geometry: Geometry) -> Truth:
    """Return the truth of an lps target mask (x, y, z); see `Truth`.

    Args:
        target: Boolean mask of the target region.
        brain: Boolean mask of the brain.
        geometry: The case's geometry.
    """
    box = mask_box(target)
    if box is None:
        return Truth(bbox_3d=None, peak_slice=None, tumor_ratio=0.0)
    shown = geometry.crop[2] + geometry.stride * np.arange(geometry.frames)
    areas = target.sum(axis=(0, 1))
    peak = int(np.argmax(areas[shown]))
    if areas[shown].max() == 0:  # the target lies between two shown slices
        peak = geometry.slice_to_frame(int(np.argmax(areas)))
    return Truth(
        bbox_3d=geometry.lps_to_media(box),
        peak_slice=peak,
        tumor_ratio=float(target.sum() / brain.sum()),
    )


def _figures(
    target: Array, source_target: Array, affine: Array, geometry: Geometry
) -> dict[str, Any]:
    """Return volume (mL), lps slice range and peak, and centroid (RAS mm) of the target."""
    spacing = voxel_sizes(affine)
    figures: dict[str, Any] = {
        "spacing_mm": [float(v) for v in spacing],
        "volume_ml": float(target.sum() * np.prod(spacing) / 1000),
    }
    box = mask_box(target)
    if box is not None:
        areas = target.sum(axis=(0, 1))
        centroid = apply_affine(affine, np.argwhere(source_target).mean(axis=0))
        figures |= {
            "lps_slices": [int(box[2]), int(box[5]) - 1],
            "lps_peak_slice": int(np.argmax(areas)),
            "lps_peak_voxels": int(areas.max()),
            "centroid_mm": [float(v) for v in centroid],
            "side": geometry.side(geometry.lps_to_media(box)),
        }
    return figures


def convert_case(
    case: Case, labels: dict[int, str], region: str, config: MediaConfig, folder: Path
) -> Converted:
    """Write `folder/<case id>.mp4` and return what belongs to it. Each volume is read once.

    Args:
        case: A verified case with a mask.
        labels: The source's label map.
        region: Target region (see `REGIONS`).
        config: The media section.
        folder: Where the video goes.

    Raises:
        DataError: The files do not fit together, or the video does not decode to its frames.
    """
    if case.mask is None:
        raise DataError(case.id, "has no segmentation", "only cases with a mask are converted")
    codes, affine = read_labels(case.mask, labels)
    reader, volumes = VolumeReader(), {}
    for name, volume in case.images.items():
        values, _ = reader.read(volume)
        if values.shape != codes.shape:
            raise DataError(case.id, f"{name} and mask differ in shape", "run `medtune verify`")
        volumes[name] = to_lps(values, affine)
    brain = brain_mask(list(volumes.values()))
    geometry = plan_geometry(codes.shape, affine, brain, config)
    source_target = region_mask(codes, labels, region)
    target = to_lps(source_target, affine)
    frames = tile_frames(
        [window(volumes[name], brain, config.window) for name in config.modalities], geometry
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
    meta = {"modalities": list(config.modalities), "region": region}
    return Converted(
        case=case,
        media=media,
        truth=find_truth(target, brain, geometry),
        geometry=geometry,
        meta=meta | _figures(target, source_target, affine, geometry),
    )
