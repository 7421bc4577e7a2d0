"""Reading volumes: each file once, to its last byte, re-oriented to LPS."""

import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import nrrd
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medtune.media.grid import Grid
from medtune.media.headers import Array
from medtune.media.metaimage import is_metaimage, parse_metaimage
from medtune.media.nifti import header_size, is_nifti, parse_analyze, parse_nifti
from medtune.media.nrrd import parse_nrrd
from medtune.records.case import Volume
from medtune.records.volume_files import PAIR, partner, unpacked, volume_suffix, what_else
from medtune.runtime.errors import DataError

# Largest cosine between two axes of a grid: beyond half a degree it is sheared.
SHEAR = 0.01
ANALYZE = 348  # bytes of its header
BROKEN = (
    *(ImageFileError, HeaderDataError, WrapStructError, nrrd.NRRDError),
    *(EOFError, OSError, OverflowError, ValueError, zlib.error),
    # Of the NRRD reader, where a header lacks or misnames a field.
    *(LookupError, StopIteration, TypeError),
)


class VolumeReader:
    """Reads the volumes of one case; a 4-D file that holds several of them is read once.

    Attributes:
        hashes: SHA-256 of every file read so far, by path.
    """

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}
        self._last: tuple[Volume, Grid] | None = None

    def read(self, volume: Volume) -> Grid:
        """Return a 3-D volume.

        Raises:
            DataError: The file is missing, damaged, or holds no 3-D image of numbers.
        """
        whole = volume.model_copy(update={"channel": None})
        if self._last is None or self._last[0] != whole:
            self._last = None  # frees the file before the next is read
            self._last = (whole, self._load(whole))
        grid = self._last[1]
        return replace(grid, values=_three_axes(grid.values, volume))

    def _bytes(self, path: str | Path) -> bytes:
        try:
            raw = Path(path).read_bytes()
        except FileNotFoundError:
            raise DataError(
                path, "the file does not exist", "restore it or remove the case"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: a path that cannot be one
            raise DataError(path, f"cannot be opened ({error})", "correct it") from None
        self.hashes[str(path)] = hashlib.sha256(raw).hexdigest()
        return raw

    def _load(self, volume: Volume) -> Grid:
        try:
            grid = self._parse(volume)
        except BROKEN as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                volume.path, f"cannot be read to the end ({cause})", "fetch it again"
            ) from None
        kind = grid.values.dtype
        if kind.kind not in "biuf":
            held = f"colors {kind.names}" if kind.names else f"{kind}"
            raise DataError(
                volume.path, f"holds {held}, expected one real number a voxel", "give a gray image"
            )
        if kind.kind == "f":
            return replace(grid, values=grid.values.astype(np.float32, copy=False))
        return grid

    def _parse(self, volume: Volume) -> Grid:
        """Parse a file by what it holds; of its name only .hdr and .img count: a pair."""
        path = volume.path
        suffix = (volume_suffix(path) or "").removesuffix(".gz")
        data = unpacked(self._bytes(path), path)
        if suffix in PAIR:
            beside = str(partner(path, suffix))
            other = unpacked(self._bytes(beside), beside)
            header, voxels = (data, other) if suffix == ".hdr" else (other, data)
            if is_nifti(header):
                return parse_nifti(header, voxels, path, volume.nifti_form)
            if header_size(header) == ANALYZE:
                return parse_analyze(header, voxels)
            raise DataError(path if header is data else beside, *what_else(header))
        if is_nifti(data):
            return parse_nifti(data, None, path, volume.nifti_form)
        if data.startswith(b"NRRD0"):
            return parse_nrrd(data, path, self._bytes)
        if is_metaimage(data):
            return parse_metaimage(data, path, self._bytes)
        raise DataError(path, *what_else(data))


def _three_axes(values: Array, volume: Volume) -> Array:
    """Return the one volume that is meant; axes of length 1 beyond the third are none.

    Raises:
        DataError: There is more than one, or none.
    """
    while values.ndim > 3 and values.shape[-1] == 1 and (volume.channel is None or values.ndim > 4):
        values = values[..., 0]
    if volume.channel is not None:
        if values.ndim != 4 or volume.channel >= values.shape[3]:
            raise DataError(
                volume.path,
                f"has shape {values.shape}, expected a 4-D image with channel {volume.channel}",
                "check dataset.json",
            )
        values = values[..., volume.channel]
    if values.ndim == 4:
        raise DataError(
            volume.path,
            f"holds {values.shape[3]} volumes (shape {values.shape})",
            "give one file per volume; of a mask, one volume of label codes",
        )
    if values.ndim == 5:
        raise DataError(
            volume.path, f"holds {values.shape[4]} numbers a voxel", "give one gray volume"
        )
    if values.ndim != 3 or 0 in values.shape:
        raise DataError(volume.path, f"has shape {values.shape}, expected 3 axes", "replace it")
    return values


def check_affine(affine: Array, path: str) -> None:
    """Check that an affine places a grid in the patient.

    Raises:
        DataError: It is not finite, not invertible, or sheared.
    """
    turn = affine[:3, :3]
    lengths = np.linalg.norm(turn, axis=0)
    if not np.isfinite(affine).all() or not (lengths > 0).all():
        raise DataError(path, f"its affine is {affine.tolist()}", "correct the header")
    cosines = np.abs((turn / lengths).T @ (turn / lengths) - np.eye(3))
    if cosines.max() > SHEAR:
        raise DataError(
            path,
            f"its axes are not at right angles (cosine {cosines.max():.3f})",
            "resample it to a regular grid",
        )


def label_codes(values: Array, labels: dict[int, str], path: str) -> Array:
    """Return a segmentation's values as label codes (int16).

    Masks come as any dtype; values within 0.001 of an integer are that integer.

    Raises:
        DataError: A value is no integer, or a code is not in the source's label map.
    """
    codes = values
    if values.dtype.kind == "f":
        codes = np.rint(values)
        if not np.isfinite(values).all():
            raise DataError(path, "holds NaN or infinity", "a mask holds label codes")
        if np.abs(values - codes).max() > 1e-3:
            raise DataError(path, "holds values that are no integers", "a mask holds label codes")
    unknown = sorted({int(code) for code in np.unique(codes[codes != 0])} - set(labels))
    if unknown:
        raise DataError(
            path,
            f"holds unknown labels {unknown[:8]}, expected {labels}",
            "check `sources[].kind` or `sources[].labels`",
        )
    return codes.astype(np.int16)
