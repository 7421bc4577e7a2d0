"""NIfTI-1 and NIfTI-2, single files and pairs of .hdr and .img, and plain ANALYZE pairs.

Fields are those of nifti.nimh.nih.gov/nifti-1. nibabel decodes the voxels; what it would mend in
silence (pixdim, qfac) or choose in silence (sform before qform) is read here from the raw header.
"""

import io
import logging
from typing import Any

import nibabel as nib
import numpy as np

from medtune.config.data import NiftiForm
from medtune.media.grid import Grid
from medtune.media.headers import Array, Header, Statement, resized, scale_to_mm
from medtune.runtime.errors import DataError

EPS = float(np.finfo(np.float32).eps)
SIZES = (348, 540)  # bytes of a header: NIfTI-1 and ANALYZE, NIfTI-2
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # findings tell what it mends
UNIT_CODES = {0: "", 1: "m", 2: "mm", 3: "micron"}  # NIFTI_UNITS_*


def header_size(data: bytes) -> int | None:
    """Return the size that the data give for their header, if it is one of NIfTI or ANALYZE."""
    sizes = [int.from_bytes(data[:4], order) for order in ("little", "big")]
    return next((size for size in sizes if size in SIZES and len(data) >= size), None)


def is_nifti(data: bytes) -> bool:
    """Return whether the data begin with a header of NIfTI; ANALYZE has no magic."""
    size = header_size(data)
    magic = data[344:347] if size == 348 else data[4:7] if size else b""
    return magic[:1] == b"n" and magic[1:2] in b"+i"


def parse_nifti(data: bytes, voxels: bytes | None, path: str, nifti_form: NiftiForm | None) -> Grid:
    """Parse a NIfTI file.

    Args:
        data: The file, or the .hdr of a pair.
        voxels: The .img of a pair.
        path: For messages.
        nifti_form: Which form places the voxels where both are set; None: the sform.

    Raises:
        DataError: Its statements cannot be used.
        HeaderError: Its unit does not fit its numbers.
    """
    size = header_size(data)
    raw = (nib.Nifti2Header if size == 540 else nib.Nifti1Header)(data[:size], check=False)
    remarks = _check_place(raw, path) if voxels is None else []
    remarks += _check_length(raw, len(data if voxels is None else voxels))
    if voxels is None:
        image = (nib.Nifti2Image if size == 540 else nib.Nifti1Image).from_bytes(data)
    else:
        image = _pair(nib.Nifti2Pair if size == 540 else nib.Nifti1Pair, data, voxels)
    values = np.asanyarray(image.dataobj)
    statements = _statements(raw, nifti_form)
    scaling, more = _scaling(raw)
    oriented = bool(statements)
    affine = statements[0].affine if oriented else np.asarray(image.affine, dtype=float)
    factor = scale_to_mm(affine, _unit(raw, path), path)
    if factor != 1:
        to_mm = np.diag([factor, factor, factor, 1])
        affine = to_mm @ affine
        statements = [Statement(s.name, to_mm @ s.affine, s.fault, s.slack) for s in statements]
    remarks += more + _qfac(raw, statements)
    return Grid(values, affine, oriented, Header(tuple(statements), tuple(remarks), scaling))


def parse_analyze(data: bytes, voxels: bytes) -> Grid:
    """Parse an ANALYZE 7.5 pair; it does not say how its grid lies in the patient."""
    image = _pair(nib.Spm2AnalyzeImage, data, voxels)
    return Grid(np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=float), oriented=False)


def _pair(kind: Any, data: bytes, voxels: bytes) -> Any:
    parts = {"header": data, "image": voxels, "mat": b""}
    names = [name for name, _ in kind.files_types]
    return kind.from_file_map(
        {name: nib.FileHolder(fileobj=io.BytesIO(parts[name])) for name in names}
    )


def _check_place(raw: Any, path: str) -> list[str]:
    """Check where a single file says that its voxels begin, and return what is odd about it."""
    first, least = int(raw["vox_offset"]), raw.sizeof_hdr + 4
    if first < least:
        raise DataError(
            path,
            f"its vox_offset is {first}: voxels would begin in the header, which ends at {least}",
            "fetch it again, or write the right vox_offset",
        )
    if b"+" in bytes(raw["magic"]):
        return []
    return ["its magic says that the voxels lie in an .img file; they lie in this one"]


def _check_length(raw: Any, count: int) -> list[str]:
    """Check that a file of `count` bytes holds all voxels, before memory is asked for them."""
    size = np.prod([int(n) for n in raw.get_data_shape()], dtype=float) * int(raw["bitpix"]) / 8
    last = int(raw["vox_offset"]) + int(size)
    if count < last:
        raise ValueError(f"its voxels would end at byte {last}, the file ends at {count}")
    return [f"{count - last} bytes follow its last voxel"] if count > last else []


def _unit(raw: Any, path: str) -> str:
    code = int(raw["xyzt_units"]) & 7  # the other bits are the unit of time
    if code not in UNIT_CODES:
        raise DataError(path, f"its xyzt_units has the unknown length code {code}", "write 2 (mm)")
    return UNIT_CODES[code]


def _scaling(raw: Any) -> tuple[tuple[float, float] | None, list[str]]:
    """Return slope and intercept, None where values are as stored, and what is odd about them."""
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if np.isinf(slope):
        return None, [f"its scl_slope is {slope}; values are read as stored"]
    if np.isnan(slope) or slope == 0 or (slope, intercept) == (1, 0):
        return None, []
    return (slope, intercept), []


def _statements(raw: Any, nifti_form: NiftiForm | None) -> list[Statement]:
    """Return the forms that are set, the one that is used first; of one form, pixdim as well."""
    forms = []
    if raw["sform_code"] > 0:
        forms.append(_sform(raw))
    if raw["qform_code"] > 0:
        forms.append(_qform(raw))
    elif forms and forms[0].is_sound:
        # pixdim is a part of the qform, and without one a statement of its own.
        sizes, fault = _sizes(raw)
        forms.append(Statement("pixdim", resized(forms[0].affine, sizes), fault))
    return sorted(forms, key=lambda form: form.name != nifti_form)


def _sform(raw: Any) -> Statement:
    affine = np.asarray(raw.get_sform(), dtype=float)
    turn = affine[:3, :3]
    sound = np.isfinite(affine).all() and np.abs(turn).max(axis=0).min() > 0
    return Statement("sform", affine, "" if sound else f"its rows are {affine[:3].tolist()}")


def _sizes(raw: Any) -> tuple[Array, str]:
    """Return the voxels' sizes in pixdim, and why they cannot be, or an empty text."""
    sizes = np.asarray(raw["pixdim"][1:4], dtype=float)
    sound = np.isfinite(sizes).all() and (sizes > 0).all()
    return sizes, "" if sound else f"pixdim has the voxel sizes {sizes.tolist()}"


def _qform(raw: Any) -> Statement:
    """Return the qform; its rotation is a unit quaternion of which float32 b, c, d are stored.

    The first element is the root of what b, c and d leave over. Where that is near 0 (turns of
    about 180 degrees, as LPS grids have) their rounding moves it by up to 6e-4 and the grid's
    corners by tenths of a mm, which is no contradiction.
    """
    _, fault = _sizes(raw)
    bcd = np.array([raw[f"quatern_{name}"] for name in "bcd"], dtype=float)
    rest = 1 - float(bcd @ bcd)
    if not rest > -3 * EPS:
        fault = f"its quaternion is {bcd.tolist()}"
    offset = [float(raw[f"qoffset_{axis}"]) for axis in "xyz"]
    if not np.isfinite(offset).all():
        fault = f"its offset is {offset}"
    if fault:
        return Statement("qform", np.full((4, 4), np.nan), fault)
    known = raw.copy()
    known["pixdim"][0] = -1 if raw["pixdim"][0] < 0 else 1  # 0 means 1, by the standard
    slack = 2 * (np.sqrt(max(rest, 0) + 3 * EPS) - np.sqrt(max(rest - 3 * EPS, 0)))
    return Statement("qform", np.asarray(known.get_qform(), dtype=float), "", float(slack))


def _qfac(raw: Any, statements: list[Statement]) -> list[str]:
    """Return what is odd about the sign of the third axis, where the qform alone places voxels."""
    names, qfac = [one.name for one in statements], float(raw["pixdim"][0])
    if names == ["qform"] and qfac not in (-1, 1):
        return [f"its qfac (pixdim[0]) is {qfac:g}, which is read as {-1 if qfac < 0 else 1}"]
    return []
