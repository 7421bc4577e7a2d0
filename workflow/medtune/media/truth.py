"""What is true of a target region, in the frame that a model sees and in millimeters."""

from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy import ndimage

from medtune.geometry.volume import Box, Geometry, mask_box
from medtune.runtime.errors import DataError

Array = NDArray[Any]
TOUCHING = ndimage.generate_binary_structure(3, 1)  # voxels that share a face are connected


class Truth(BaseModel):
    """What is true of a target region, in the media frame; null where there is none.

    Attributes:
        bbox_3d: Tight half-open box around what the shown frames hold of the target (x and y
            fractional where pixels do not divide voxels). A target between two shown slices has
            the box of the frame whose slab holds it.
        peak_slice: Shown frame with the largest target area, the lowest index on a tie.
        tumor_ratio: Target voxels over brain voxels of the whole volume, 0..1.
    """

    bbox_3d: Box | None
    peak_slice: int | None
    tumor_ratio: float


def remove_small_components(
    target: Array, smallest_mm3: float, voxel_mm3: float
) -> tuple[Array, int, int]:
    """Return a mask without its small connected parts, and the number of parts before and after.

    Args:
        target: Boolean mask (x, y, z).
        smallest_mm3: Parts of less volume are taken away; 0 keeps all.
        voxel_mm3: Volume of a voxel.
    """
    box = mask_box(target)
    if box is None:
        return target, 0, 0
    x1, y1, z1, x2, y2, z2 = (int(v) for v in box)
    parts, count = ndimage.label(target[x1:x2, y1:y2, z1:z2], TOUCHING)
    kept = np.bincount(parts.ravel()) * voxel_mm3 >= smallest_mm3
    kept[0] = False
    if kept[1:].all():
        return target, count, count
    cleaned = np.zeros_like(target)
    cleaned[x1:x2, y1:y2, z1:z2] = kept[parts]
    return cleaned, count, int(kept.sum())


def _shown_frames(target: Array, geometry: Geometry) -> dict[int, Array]:
    """Return frame -> lps plane (x, y) of the target, of the frames that hold some of it."""
    planes = {
        frame: target[:, :, z]
        for frame, z in enumerate(geometry.shown_slices)
        if target[:, :, z].any()
    }
    if planes:
        return planes
    for z in np.flatnonzero(target.any(axis=(0, 1))):  # the target lies between two shown slices
        frame = geometry.slice_to_frame(int(z))
        planes[frame] = planes.get(frame, False) | target[:, :, z]
    return planes


def _plane_box(plane: Array, geometry: Geometry) -> tuple[float, float, float, float]:
    """Return the half-open box [x1, y1, x2, y2] in media pixels of an lps plane (x, y)."""
    box = mask_box(plane[:, :, None])
    assert box is not None
    x1, y1, _, x2, y2, _ = geometry.lps_to_media(box)
    return x1, y1, x2, y2


def _inside_crop(target: Array, geometry: Geometry) -> Array:
    """Return the target without what lies outside the shown part of the grid."""
    x1, y1, z1, x2, y2, z2 = geometry.crop
    inside = np.zeros_like(target)
    inside[x1:x2, y1:y2, z1:z2] = target[x1:x2, y1:y2, z1:z2]
    return inside


def find_truth(target: Array, brain: Array, geometry: Geometry) -> tuple[Truth, list[list[float]]]:
    """Return the truth of an lps target mask, and its box in every frame.

    Args:
        target: Boolean (x, y, z) mask of the target region.
        brain: Boolean mask of the brain.
        geometry: The case's geometry.

    Returns:
        The truth, and `[frame, x1, y1, x2, y2]` in media pixels of each frame that shows some of
        the target.

    Raises:
        DataError: The target lies outside the shown part, or is larger than the brain.
    """
    if not target.any():
        return Truth(bbox_3d=None, peak_slice=None, tumor_ratio=0.0), []
    ratio = float(target.sum() / brain.sum())
    planes = _shown_frames(_inside_crop(target, geometry), geometry)
    if not planes or ratio > 1:
        raise DataError(
            "segmentation", f"lies outside the brain (ratio {ratio:.3f})", "run `medtune verify`"
        )
    boxes = [[float(frame), *_plane_box(plane, geometry)] for frame, plane in planes.items()]
    corners = np.array(boxes)
    x1, y1 = corners[:, 1:3].min(axis=0).tolist()
    x2, y2 = corners[:, 3:5].max(axis=0).tolist()
    frames = sorted(planes)
    peak = max(frames, key=lambda frame: (planes[frame].sum(), -frame))
    box = (x1, y1, float(frames[0]), x2, y2, float(frames[-1] + 1))
    return Truth(bbox_3d=box, peak_slice=peak, tumor_ratio=ratio), boxes


def figures(target: Array, geometry: Geometry) -> dict[str, Any]:
    """Return what is worth knowing of an lps target mask, at the resolution of the source.

    volume_ml; and where there is a target: lps_box, lps_slices (first and last), lps_peak_slice
    and its voxels, centroid_mm (RAS) and the patient's side.
    """
    affine = np.array(geometry.affine)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    found: dict[str, Any] = {"volume_ml": float(target.sum() * voxel_ml)}
    box = mask_box(target)
    if box is not None:
        areas = target.sum(axis=(0, 1))
        centroid = apply_affine(geometry.lps_affine, np.argwhere(target).mean(axis=0))
        found |= {
            "lps_box": [int(v) for v in box],
            "lps_slices": [int(box[2]), int(box[5]) - 1],
            "lps_peak_slice": int(np.argmax(areas)),
            "lps_peak_voxels": int(areas.max()),
            "centroid_mm": [float(v) for v in centroid],
            "side": geometry.side(geometry.lps_to_media(box)),
        }
    return found
