"""Reading volumes, and turning them into 8-bit frames in the media frame."""

import zlib
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from PIL import Image

from medtune.config import MediaConfig
from medtune.errors import DataError
from medtune.geometry import TILE_OFFSETS, Geometry, mask_box
from medtune.sources.base import REGIONS, Volume

Array = NDArray[Any]


def read_nifti(path: str) -> tuple[Array, Array]:
    """Read a NIfTI file to its last byte.

    Returns:
        The scaled values in source orientation (float32, or integers as stored when the file
        has no scaling), and the 4x4 affine to RAS mm.

    Raises:
        DataError: The file is missing, truncated or no NIfTI.
    """
    try:
        image = nib.load(path)
        values = np.asanyarray(image.dataobj)
        affine = image.affine
    except FileNotFoundError:
        raise DataError(path, "the file does not exist", "restore it or remove the case") from None
    except (ImageFileError, EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(path, f"cannot be read to the end ({error})", "fetch it again") from None
    if np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float32, copy=False)
    return values, np.asarray(affine, dtype=float)


class VolumeReader:
    """Reads the volumes of one case; a 4-D file that holds several of them is read once."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[Array, Array]] = {}

    def read(self, volume: Volume) -> tuple[Array, Array]:
        """Return a 3-D volume in source orientation and its affine; see `read_nifti`."""
        if volume.path not in self._files:
            self._files = {volume.path: read_nifti(volume.path)}
        values, affine = self._files[volume.path]
        if volume.channel is not None:
            if values.ndim != 4 or volume.channel >= values.shape[3]:
                raise DataError(
                    volume.path,
                    f"has shape {values.shape}, expected a 4-D image with channel {volume.channel}",
                    "check dataset.json",
                )
            values = values[..., volume.channel]
        if values.ndim != 3:
            raise DataError(volume.path, f"has shape {values.shape}, expected 3 axes", "replace it")
        return values, affine


def label_codes(values: Array, labels: dict[int, str], path: str) -> Array:
    """Return a segmentation's values as label codes (int16).

    Masks come as any dtype; values within 0.001 of an integer are that integer.

    Raises:
        DataError: A value is no integer, or a code is not in the source's label map.
    """
    codes = np.rint(values)
    if not np.allclose(values, codes, rtol=0, atol=1e-3):  # also false for NaN
        raise DataError(path, "holds values that are no integers", "a mask holds label codes")
    unknown = sorted({int(code) for code in np.unique(codes)} - set(labels))
    if unknown:
        raise DataError(
            path, f"holds unknown labels {unknown}, expected {labels}", "check `sources[].kind`"
        )
    return codes.astype(np.int16)


def read_labels(path: str, labels: dict[int, str]) -> tuple[Array, Array]:
    """Read a segmentation as label codes and its affine; see `label_codes`."""
    values, affine = VolumeReader().read(Volume(path=path))
    return label_codes(values, labels, path), affine


def region_mask(codes: Array, labels: dict[int, str], region: str) -> Array:
    """Return the boolean mask of a named region (see `REGIONS`) from label codes."""
    wanted = [code for code, name in labels.items() if name in REGIONS[region]]
    return np.isin(codes, wanted)


def plan_geometry(
    shape: tuple[int, ...], affine: Array, brain: Array, config: MediaConfig
) -> Geometry:
    """Decide crop and size of the media frame.

    Args:
        shape: Source shape (i, j, k).
        affine: Source voxel to RAS mm.
        brain: Boolean (x, y, z) mask of the brain in lps.
        config: The media section.
    """
    box = mask_box(brain) if config.crop_to_brain else None
    crop = tuple(int(v) for v in box) if box else (0, 0, 0, *brain.shape)
    step = config.multiple_of
    fitted = [-(-(crop[axis + 3] - crop[axis]) // step) * step for axis in (0, 1)]
    return Geometry(
        source_shape=shape,
        affine=tuple(tuple(row) for row in affine.tolist()),
        crop=crop,
        stride=config.stride,
        size=config.tile_size or tuple(fitted),
        layout=config.layout,
    )


def window(volume: Array, brain: Array, percentiles: tuple[float, float]) -> Array:
    """Map a volume to 0..255 between two percentiles of its values inside the brain.

    Background stays 0; the same rule holds for every modality, since MRI has no fixed unit.
    """
    low, high = np.percentile(volume[brain], percentiles)
    scaled = (volume.astype(np.float32) - low) / max(float(high - low), 1e-6)
    return np.where(brain, np.rint(np.clip(scaled, 0, 1) * 255), 0).astype(np.uint8)


def _resize(plane: Array, size: tuple[int, int]) -> Array:
    """Resize a (rows, columns) 8-bit plane to (width, height); identity when it fits."""
    if plane.shape == size[::-1]:
        return plane
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))


def tile_frames(volumes: list[Array], geometry: Geometry) -> Array:
    """Return frames (t, rows, columns, 3) of 8-bit lps volumes (x, y, z), in tile order."""
    x1, y1, z1, x2, y2, z2 = geometry.crop
    width, height = geometry.size
    tiles = [
        np.stack(
            [
                _resize(np.ascontiguousarray(volume[x1:x2, y1:y2, z].T), geometry.size)
                for z in range(z1, z2, geometry.stride)
            ]
        )
        for volume in volumes
    ]
    if geometry.layout == "rgb":
        return np.stack(tiles, axis=-1)
    frame_width, frame_height = geometry.frame_size
    grey = np.zeros((geometry.frames, frame_height, frame_width), dtype=np.uint8)
    for tile, (column, row) in zip(tiles, TILE_OFFSETS[geometry.layout], strict=True):
        top, left = row * height, column * width
        grey[:, top : top + height, left : left + width] = tile
    return np.repeat(grey[..., None], 3, axis=-1)


def brain_mask(volumes: list[Array]) -> Array:
    """Return where any modality is non-zero: the brain of skull-stripped images."""
    return np.asarray(np.any([volume != 0 for volume in volumes], axis=0))
