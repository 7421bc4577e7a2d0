"""Volumes in LPS to 8-bit frames in the media frame."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medtune.config.data import MediaConfig
from medtune.geometry.volume import Geometry, mask_box
from medtune.media.grid import Grid
from medtune.records.case import REGIONS

Array = NDArray[Any]


def region_mask(codes: Array, labels: Mapping[int, str], region: str) -> Array:
    """Return the boolean mask of a named region (see `REGIONS`) from label codes."""
    wanted = [code for code, name in labels.items() if name in REGIONS[region]]
    return np.isin(codes, wanted)


def plan_geometry(grid: Grid, brain: Array, config: MediaConfig) -> Geometry:
    """Decide crop and size of the media frame.

    Args:
        grid: The image whose grid is the source frame.
        brain: Boolean (x, y, z) mask of the brain in lps.
        config: The media section.
    """
    box = mask_box(brain) if config.crop_to_brain else None
    crop = tuple(int(v) for v in box) if box else (0, 0, 0, *brain.shape)
    step = config.multiple_of
    fitted = [-(-(crop[axis + 3] - crop[axis]) // step) * step for axis in (0, 1)]
    return Geometry(
        source_shape=grid.values.shape,
        affine=tuple(tuple(row) for row in grid.affine.tolist()),
        crop=crop,
        stride=config.stride,
        size=config.tile_size or tuple(fitted),
        layout=config.layout,
        tiles=len(config.modalities),
    )


def window(
    volume: Array, brain: Array, percentiles: tuple[float, float], crop: Sequence[int]
) -> Array:
    """Map the cropped part of an lps volume to 0..255 between two percentiles inside the brain.

    Background is 0; the same rule holds for every modality, since MRI has no fixed unit.
    """
    low, high = np.percentile(volume[brain], percentiles)
    x1, y1, z1, x2, y2, z2 = crop
    part = (slice(x1, x2), slice(y1, y2), slice(z1, z2))
    scaled = volume[part].astype(np.float32)
    scaled -= np.float32(low)
    scaled *= np.float32(255 / max(float(high - low), 1e-6))
    shown = np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)
    shown[~brain[part]] = 0
    return shown


def _resize(plane: Array, size: tuple[int, int]) -> Array:
    """Resize a (rows, columns) 8-bit plane to (width, height); identity when it fits."""
    if plane.shape == size[::-1]:
        return plane
    plane = np.ascontiguousarray(plane)
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))


def tile_frames(volumes: Sequence[Array], geometry: Geometry) -> Array:
    """Return the frames of cropped 8-bit lps volumes (x, y, z), given in tile order.

    Gray layouts give (t, rows, columns), the color layout (t, rows, columns, 3).
    """
    width, height = geometry.size
    frame_width, frame_height = geometry.frame_size
    color = geometry.layout == "rgb"
    shape = (geometry.frames, frame_height, frame_width)
    frames = np.zeros((*shape, 3) if color else shape, dtype=np.uint8)
    for number, volume in enumerate(volumes):
        column, row = geometry.tile_offsets[0 if color else number]
        top, left = row * height, column * width
        tile = frames[..., number] if color else frames
        for frame, z in enumerate(range(0, volume.shape[2], geometry.stride)):
            plane = _resize(volume[..., z].T, geometry.size)
            tile[frame, top : top + height, left : left + width] = plane
    return frames


def corner_values(volume: Array) -> Array:
    """Return what the corners of the grid hold, NaN aside: each value once, in order."""
    values = np.unique(volume[np.ix_(*[(0, -1)] * 3)])
    return np.asarray(values[~np.isnan(values)])


def background_value(volume: Array, background: float | None) -> float:
    """Return the value outside the brain; None asks for what the corners of the grid share.

    Corners that are NaN hold no value; it is NaN where they all are.

    Raises:
        ValueError: They differ.
    """
    if background is not None:
        return background
    corners = corner_values(volume)
    if len(corners) > 1:
        raise ValueError(f"the corners of the grid hold {corners[0]} to {corners[-1]}")
    return float(corners[0]) if len(corners) else np.nan


def foreground(volume: Array, background: float | None = 0.0) -> Array:
    """Return where a volume is neither NaN nor background; see `background_value`.

    SPM writes NaN outside the field of view.
    """
    value = background_value(volume, background)
    if volume.dtype.kind == "f":  # as voxels are stored: -1.2 in float32 is not -1.2
        return np.asarray((volume != volume.dtype.type(value)) & ~np.isnan(volume))
    return np.asarray(volume != (int(value) if float(value).is_integer() else value))


def brain_mask(volumes: Mapping[str, Array], background: float | None = 0.0) -> Array:
    """Return where any modality is in the `foreground`: the brain of skull-stripped images."""
    first, *others = volumes.values()
    brain = foreground(first, background)
    for volume in others:
        brain |= foreground(volume, background)
    return brain


def nan_as_background(volume: Array) -> Array:
    """Return a volume with 0 in place of NaN, so that it can be windowed and compared."""
    if volume.dtype.kind != "f" or not np.isnan(volume).any():
        return volume
    return np.where(np.isnan(volume), volume.dtype.type(0), volume)


def is_enclosed(where: Array, brain: Array) -> bool:
    """Return whether a mask touches the brain or a hole in it, rather than what surrounds it.

    Args:
        where: Boolean (x, y, z) mask.
        brain: Boolean mask of the brain. What is no brain and is connected by faces to no border
            of the grid is a hole.
    """
    if (where & brain).any():
        return True
    parts, count = ndimage.label(~brain)
    faces = [np.take(parts, (0, -1), axis=axis) for axis in range(3)]
    outside = np.zeros(count + 1, dtype=bool)
    for face in faces:
        outside[face] = True
    return bool((where & ~outside[parts]).any())
