"""MetaImage: .mha, or .mhd with its voxels in another file (ITK's MetaIO documents the keys).

ITK's own reader is not used: version 5.4 gives other voxels for a compressed file with a flipped
bit, and ignores DistanceUnits. Tests compare this one with it.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from nibabel.orientations import aff2axcodes

from medtune.media.grid import Grid
from medtune.media.headers import Array, Header, Statement, resized, scale_to_mm
from medtune.media.nrrd import Fetch
from medtune.records.volume_files import volume_suffix
from medtune.runtime.errors import DataError

TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
# Letters name where an axis comes from; nibabel names where it goes to.
OPPOSITE = dict(zip("RLAPIS", "LRPASI", strict=True))
LONGEST = 1 << 16  # bytes of a header


def is_metaimage(raw: bytes) -> bool:
    """Return whether a file begins like a MetaImage."""
    return all(key in raw[:LONGEST] for key in (b"NDims", b"DimSize", b"ElementDataFile"))


def parse_metaimage(raw: bytes, path: str, fetch: Fetch) -> Grid:
    """Parse a MetaImage.

    Args:
        raw: The file, or the header (.mhd) whose voxels lie in another file.
        path: Where it lies; the voxels' file is named relative to it.
        fetch: Reads the voxels' file.

    Raises:
        DataError: It holds no 3-D image of one number a voxel, or not all of it.
        HeaderError: Its unit does not fit its numbers.
    """
    keys, data = _header(raw, path, fetch)
    values = _values(keys, data, path)
    axes = len(_numbers(keys, "DimSize"))
    spacing = _numbers(keys, "ElementSpacing", "ElementSize")
    if len(spacing) != axes:
        raise DataError(path, f"has no ElementSpacing for its {axes} axes", "write it anew")
    spacing = spacing[:3]
    turn = _numbers(keys, "TransformMatrix", "Orientation", "Rotation")
    if len(turn) != axes**2:
        return Grid(values, np.diag([*spacing, 1.0]), oriented=False)
    affine = np.eye(4)
    # A row of the file is the direction of an axis in LPS.
    affine[:3, :3] = turn.reshape(axes, axes)[:3, :3].T * spacing
    offset = _numbers(keys, "Offset", "Position", "Origin")
    affine[:3, 3] = offset[:3] if len(offset) == axes else 0
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    factor = scale_to_mm(affine, keys.get("DistanceUnits", ""), path)
    affine[:3] *= factor
    statements = (
        Statement("TransformMatrix x ElementSpacing", affine),
        Statement("ElementSpacing", resized(affine, np.abs(spacing) * factor)),
    )
    return Grid(values, affine, True, Header(statements, _letters(keys, affine)))


def _header(raw: bytes, path: str, fetch: Fetch) -> tuple[dict[str, str], bytes]:
    """Return the header's keys, and what comes after it or lies in the file that it names."""
    keys: dict[str, str] = {}
    rest = raw
    while "ElementDataFile" not in keys:
        line, _, rest = rest.partition(b"\n")
        name, equals, value = line.decode("latin-1").partition("=")
        if not equals and not rest:
            raise ValueError("its header has no ElementDataFile")
        keys[name.strip()] = value.strip()
    where = keys["ElementDataFile"]
    if where.upper() == "LOCAL":
        return keys, rest
    if volume_suffix(path) != ".mhd":
        raise DataError(path, "its voxels lie in another file", "name the header .mhd")
    if where.upper().startswith("LIST") or "%" in where:
        raise DataError(path, "its voxels lie in several files", "save it as one .mha")
    return keys, fetch(Path(path).parent / where)


def _values(keys: Mapping[str, str], data: bytes, path: str) -> Array:
    kind, channels = keys.get("ElementType", ""), keys.get("ElementNumberOfChannels", "1")
    if keys.get("BinaryData", "True").lower() != "true" or kind not in TYPES or channels != "1":
        what = "text" if kind in TYPES and channels == "1" else f"{channels} x {kind} a voxel"
        raise DataError(path, f"holds {what}, expected one number a voxel, binary", "write it anew")
    if keys.get("CompressedData", "False").lower() == "true":
        data = zlib.decompress(data)  # checks its sum
    shape = _numbers(keys, "DimSize").astype(int)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise DataError(path, f"has shape {tuple(shape.tolist())}, expected 3 axes", "replace it")
    big = keys.get("BinaryDataByteOrderMSB", keys.get("ElementByteOrderMSB", "False"))
    dtype = np.dtype(TYPES[kind]).newbyteorder(">" if big.lower() == "true" else "<")
    size, skip = int(np.prod(shape)) * dtype.itemsize, int(keys.get("HeaderSize", "0"))
    data = data[-size:] if skip == -1 else data[skip:]
    if len(data) < size:
        raise ValueError(f"expected {size} bytes of voxels, got {len(data)}")
    return np.frombuffer(data[:size], dtype).reshape(shape, order="F")


def _numbers(keys: Mapping[str, str], *names: str) -> Array:
    """Return the numbers of the first of several keys that is there."""
    text = next((keys[name] for name in names if name in keys), "")
    return np.array([float(part) for part in text.split()])


def _letters(keys: Mapping[str, str], affine: Array) -> tuple[str, ...]:
    """Return what is odd about AnatomicalOrientation, which the matrix says more exactly."""
    letters = keys.get("AnatomicalOrientation", "").upper()
    if len(letters) != 3 or not set(letters) <= set(OPPOSITE) or np.linalg.det(affine) == 0:
        return ()
    axes = "".join(OPPOSITE[str(axis)] for axis in aff2axcodes(affine))
    if axes == letters:
        return ()
    return (f"its AnatomicalOrientation is {letters}, its TransformMatrix means {axes}",)
