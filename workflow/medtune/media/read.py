"""Reading volumes: each file once, to its last byte, re-oriented to LPS."""

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from medtune.errors import DataError
from medtune.geometry import lps_affine, to_lps
from medtune.sources.base import Volume

Array = NDArray[Any]
# Largest cosine between two axes of a grid: beyond half a degree it is sheared.
SHEAR = 0.01
# Signs that turn a NRRD space into RAS.
NRRD_SPACES = {
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}
BROKEN = (
    *(ImageFileError, HeaderDataError, WrapStructError, nrrd.NRRDError),
    *(EOFError, OSError, OverflowError, ValueError, zlib.error),
    *(KeyError, StopIteration),  # of the NRRD reader, where a header lacks or misnames a field
)


@dataclass(frozen=True)
class Grid:
    """A stored image.

    Attributes:
        values: Voxels in source orientation (float32, or integers as stored without scaling).
        affine: 4x4 matrix from voxel centres to RAS mm.
        oriented: Whether the header says how the grid lies in the patient.
    """

    values: Array
    affine: Array
    oriented: bool

    @property
    def lps(self) -> Array:
        """The voxels as (x, y, z) = (Left, Posterior, Superior); a view."""
        return to_lps(self.values, self.affine)

    @property
    def lps_affine(self) -> Array:
        """4x4 matrix from the centres of lps voxels to RAS mm."""
        return lps_affine(self.values.shape, self.affine)


class VolumeReader:
    """Reads the volumes of one case; a 4-D file that holds several of them is read once.

    Attributes:
        hashes: SHA-256 of every file read so far, by path.
    """

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}
        self._last: tuple[str, Grid] | None = None

    def read(self, volume: Volume) -> Grid:
        """Return a 3-D volume.

        Raises:
            DataError: The file is missing, damaged, or holds no 3-D image of numbers.
        """
        if self._last is None or self._last[0] != volume.path:
            self._last = None  # frees the file before the next is read
            self._last = (volume.path, self._load(volume.path))
        grid = self._last[1]
        values = grid.values
        if volume.channel is not None:
            if values.ndim != 4 or volume.channel >= values.shape[3]:
                raise DataError(
                    volume.path,
                    f"has shape {values.shape}, expected a 4-D image with channel {volume.channel}",
                    "check dataset.json",
                )
            values = values[..., volume.channel]
        elif values.ndim == 4 and values.shape[3] == 1:
            values = values[..., 0]
        if values.ndim != 3 or 0 in values.shape:
            raise DataError(volume.path, f"has shape {values.shape}, expected 3 axes", "replace it")
        return Grid(values, grid.affine, grid.oriented)

    def _load(self, path: str) -> Grid:
        try:
            raw = Path(path).read_bytes()
        except FileNotFoundError:
            raise DataError(
                path, "the file does not exist", "restore it or remove the case"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: a path that cannot be one
            raise DataError(path, f"cannot be opened ({error})", "correct it") from None
        self.hashes[path] = hashlib.sha256(raw).hexdigest()
        try:
            grid = _parse_nrrd(raw) if path.endswith(".nrrd") else _parse_nifti(raw)
        except BROKEN as error:
            raise DataError(
                path,
                f"cannot be read to the end ({error or type(error).__name__})",
                "fetch it again",
            ) from None
        if grid.values.dtype.kind not in "biuf":
            raise DataError(path, f"holds {grid.values.dtype}, expected numbers", "replace it")
        if grid.values.dtype.kind == "f":
            return Grid(grid.values.astype(np.float32, copy=False), grid.affine, grid.oriented)
        return grid


def _parse_nifti(raw: bytes) -> Grid:
    data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    is_second = 540 in (int.from_bytes(data[:4], order) for order in ("little", "big"))
    kind = nib.Nifti2Image if is_second else nib.Nifti1Image
    image = kind.from_bytes(data)
    oriented = bool(image.header["qform_code"] > 0 or image.header["sform_code"] > 0)
    values = np.asanyarray(image.dataobj)
    return Grid(values, np.asarray(image.affine, dtype=float), oriented)


def _parse_nrrd(raw: bytes) -> Grid:
    """Parse a NRRD file (teem.sourceforge.net/nrrd/format.html) with its data attached."""
    file = io.BytesIO(raw)
    header = nrrd.read_header(file)
    if "data file" in header or "datafile" in header:
        raise ValueError("its data lie in another file; only attached NRRD is read")
    values = nrrd.read_data(header, file)
    affine = np.eye(4)
    directions, space = header.get("space directions"), header.get("space", "").lower()
    if directions is None or not space:
        affine[:3, :3] = np.diag(np.nan_to_num(header.get("spacings", np.ones(3)), nan=1.0)[:3])
        return Grid(values, affine, oriented=False)
    if space not in NRRD_SPACES:
        raise ValueError(f"its space is {space!r}, expected one of {sorted(NRRD_SPACES)}")
    signs = np.diag(NRRD_SPACES[space])
    affine[:3, :3] = signs @ np.asarray(directions, dtype=float)[:3].T
    affine[:3, 3] = signs @ np.asarray(header.get("space origin", np.zeros(3)), dtype=float)
    return Grid(values, affine, oriented=True)


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
