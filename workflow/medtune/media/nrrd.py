"""NRRD (teem.sourceforge.net/nrrd/format.html), with its data attached or in one other file."""

import bz2
import gzip
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nrrd
import numpy as np

from medtune.media.grid import Grid
from medtune.media.headers import Array, Header, Statement, resized, scale_to_mm
from medtune.records.volume_files import volume_suffix
from medtune.runtime.errors import DataError

# Signs that turn a space into RAS.
SPACES = {
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}
ENCODINGS = {"gzip": gzip.decompress, "gz": gzip.decompress}
ENCODINGS |= {"bzip2": bz2.decompress, "bz2": bz2.decompress}
Fetch = Callable[[Path], bytes]


def parse_nrrd(raw: bytes, path: str, fetch: Fetch) -> Grid:
    """Parse a NRRD file.

    Args:
        raw: The file, or the header (.nhdr) whose data lie in another file.
        path: Where it lies; the data file is named relative to it.
        fetch: Reads the data file.

    Raises:
        DataError: It holds no 3-D image of one number a voxel, or its space is unknown.
        HeaderError: Its unit does not fit its numbers.
    """
    file = io.BytesIO(raw)
    header = nrrd.read_header(file)
    values = _values(header, _data(header, file, path, fetch))
    spatial = _spatial_axes(header, values.ndim)
    values = _spatial_values(values, spatial, header, path)
    space, directions = header.get("space", "").lower(), header.get("space directions")
    spacings = np.asarray(header.get("spacings", np.full(len(values.shape), np.nan)), dtype=float)
    spacings = spacings[spatial] if len(spacings) > max(spatial) else spacings[:3]
    if directions is None or not space:
        sizes = np.nan_to_num(spacings, nan=1.0)
        return Grid(values, np.diag([*sizes, 1.0]), oriented=False)
    if space not in SPACES:
        raise DataError(
            path, f"its space is {space!r}, expected one of {sorted(SPACES)}", "write it anew"
        )
    signs, affine = np.diag(SPACES[space]), np.eye(4)
    affine[:3, :3] = signs @ np.asarray(directions, dtype=float)[spatial].T
    affine[:3, 3] = signs @ np.asarray(header.get("space origin", np.zeros(3)), dtype=float)
    factor = scale_to_mm(affine, _unit(header, path), path)
    affine[:3] *= factor
    statements = [Statement("space directions", affine)]
    if np.isfinite(spacings).all():
        statements.append(Statement("spacings", resized(affine, spacings * factor)))
    return Grid(values, affine, oriented=True, header=Header(tuple(statements)))


def _data(header: Mapping[str, Any], file: io.BytesIO, path: str, fetch: Fetch) -> bytes:
    """Return the encoded data, and forget in the header that they lay elsewhere."""
    name = header.get("data file", header.get("datafile"))
    if name is None:
        return file.read()
    if volume_suffix(path) != ".nhdr":
        raise DataError(path, "its voxels lie in another file", "name the header .nhdr")
    if isinstance(name, list) or name.startswith("LIST") or "%" in name:
        raise DataError(
            path, "its voxels lie in several files", "save it as one file, with its data attached"
        )
    return fetch(Path(path).parent / name)


def _values(header: Any, data: bytes) -> Array:
    """Return the voxels; compressed data are unpacked as a whole, so that their sums are checked.

    pynrrd takes a stream that ends early for whole, if only its check sum is missing.
    """
    header = {key: value for key, value in header.items() if key not in ("data file", "datafile")}
    unpack = ENCODINGS.get(header["encoding"].lower())
    if unpack:
        if header.get("line skip", header.get("lineskip", 0)):
            raise ValueError("lines are skipped in compressed data")
        data, header["encoding"] = unpack(data), "raw"
    values: Array = nrrd.read_data(header, io.BytesIO(data))
    return values


def _spatial_axes(header: Mapping[str, Any], count: int) -> list[int]:
    """Return the axes that lie in space: with a direction, or else of a kind that does."""
    directions, kinds = header.get("space directions"), header.get("kinds")
    if directions is not None:
        steps = np.asarray(directions, dtype=float)
        return [axis for axis in range(count) if np.isfinite(steps[axis]).any()]
    if kinds and len(kinds) == count:
        return [axis for axis in range(count) if kinds[axis] in ("domain", "space", "???", "none")]
    return list(range(count))


def _spatial_values(
    values: Array, spatial: list[int], header: Mapping[str, Any], path: str
) -> Array:
    """Return the voxels without axes of length 1 that lie not in space, as of a single layer.

    Raises:
        DataError: Another axis holds more, or there are not three in space.
    """
    others = [axis for axis in range(values.ndim) if axis not in spatial]
    for axis in others:
        length, kinds = values.shape[axis], header.get("kinds") or []
        kind = kinds[axis] if axis < len(kinds) else "list"
        if length > 1:
            raise DataError(path, *_several(length, kind, header, path))
    if len(spatial) != 3:
        raise DataError(path, f"has shape {values.shape}, expected 3 axes", "replace it")
    return values.squeeze(axis=tuple(others))


def _several(length: int, kind: str, header: Mapping[str, Any], path: str) -> tuple[str, str]:
    """Return what a voxel with several numbers is, and what to do about it."""
    if path.endswith(".seg.nrrd") or any(key.startswith("Segment") for key in header):
        return (
            f"is a 3D Slicer segmentation of {length} layers, whose segments may overlap",
            "export it from Slicer as one label map (Export to files, NRRD or NIfTI)",
        )
    if kind in ("list", "time"):
        return f"holds {length} volumes (axis of kind {kind})", "give one file per volume"
    return f"holds {length} numbers a voxel (axis of kind {kind})", "give one gray volume"


def _unit(header: Mapping[str, Any], path: str) -> str:
    """Return the unit of space; none means mm."""
    units = header.get("space units", header.get("units", []))
    named = {unit.strip('" ') for unit in units} - {"", "???"}
    if len(named) > 1:
        raise DataError(path, f"its space units are {units}", "write it anew, all in mm")
    return named.pop() if named else ""
